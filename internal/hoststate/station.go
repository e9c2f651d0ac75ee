package hoststate

import "fmt"

// Station is a port of a bridge being where a guest is, once and for all: the
// bridge need not learn it, and no other port can take it over.
type Station struct {
	Link   string
	Bridge string
	MAC    MAC // the guest's
}

// Key implements Object.
func (s Station) Key() Key { return Key{KindStation, s.Link + " " + s.Bridge + " " + s.MAC.String()} }

// Text implements Object.
func (s Station) Text() string {
	return fmt.Sprintf("station %s at port %s of bridge %s", s.MAC, s.Link, s.Bridge)
}

// Container implements Contained.
func (s Station) Container() Key { return BridgeKey(s.Bridge) }
