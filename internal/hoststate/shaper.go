package hoststate

import (
	"fmt"
	"strings"
)

// Shaper limits what goes over a link in one direction. What does not fit
// waits, up to a bound, rather than being dropped.
type Shaper struct {
	Link string
	// Incoming says that it limits what comes to the host by the link. Else it
	// limits what the host sends by it.
	Incoming bool
	// Average is what may pass in the long run, and Peak, not below it, for the
	// length of a burst; in bytes a second, Ethernet headers included.
	Average, Peak uint64
	// Burst is how many bytes may pass at the peak after a pause.
	Burst uint64
	// Floors are sorted by class. Only a shaper of what the host sends has any.
	Floors []Floor
	// Fault says what of it is missing or damaged. It is observed only.
	Fault string
}

// Floor is a part of a shaper's average that is kept for one guest.
type Floor struct {
	Class uint16 // 3 or more; unique in the shaper
	MAC   MAC    // the guest's
	Rate  uint64 // bytes a second
}

// ShaperKey names the shaper of a link in one direction.
func ShaperKey(link string, incoming bool) Key {
	if incoming {
		return Key{KindShaper, link + " in"}
	}
	return Key{KindShaper, link + " out"}
}

// Key implements Object.
func (s Shaper) Key() Key { return ShaperKey(s.Link, s.Incoming) }

// Text implements Object.
func (s Shaper) Text() string {
	direction := "out of"
	if s.Incoming {
		direction = "in by"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "limit %s %s to %d B/s peak %d B/s burst %d B", direction, s.Link, s.Average, s.Peak, s.Burst)
	for _, f := range s.Floors {
		fmt.Fprintf(&b, " floor %s %d B/s class %d", f.MAC, f.Rate, f.Class)
	}
	if s.Fault != "" {
		b.WriteString(" (" + s.Fault + ")")
	}
	return b.String()
}
