package hoststate

import "fmt"

// Tap is a tap device that Viaduct makes and owns: the host's end of a guest's
// cable, which stays while no guest is attached to it.
type Tap struct {
	Name string
	// Alias marks the link as ours (IFLA_IFALIAS); a tap with another is not this one.
	Alias string
	// Owner is the uid of the user who may attach a guest without privileges.
	Owner uint32
	// MTU in bytes.
	MTU int
}

// TapKey names the tap called name.
func TapKey(name string) Key { return Key{KindTap, name} }

// Key implements Object.
func (t Tap) Key() Key { return TapKey(t.Name) }

// Text implements Object.
func (t Tap) Text() string {
	return fmt.Sprintf("tap %s owner %d mtu %d", t.Name, t.Owner, t.MTU)
}
