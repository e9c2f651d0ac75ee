package hoststate

import "slices"

// Zoned is a link being in a zone of firewalld's.
type Zoned struct {
	Link string
	Zone string
}

// ZonedKey names the zone of a link.
func ZonedKey(link string) Key { return Key{KindZoned, link} }

// Key implements Object.
func (z Zoned) Key() Key { return ZonedKey(z.Link) }

// Text implements Object.
func (z Zoned) Text() string { return "zone " + z.Zone + " for " + z.Link }

// Zone is a zone of firewalld's for our networks, with the policies that belong
// to it.
type Zone struct{ Name string }

// Key implements Object.
func (z Zone) Key() Key { return Key{KindZone, z.Name} }

// Text implements Object.
func (z Zone) Text() string { return "firewall zone " + z.Name }

// Firewalld is what is known of the host's firewalld. The zero value says that
// it does not run.
type Firewalld struct {
	Running bool
	// Zones and Policies are the names of those that there are, sorted. They are
	// empty as long as firewalld has not told.
	Zones, Policies []string
	// Closed says that it has refused to have a zone of ours.
	Closed bool
}

// Equal reports whether both say the same.
func (f Firewalld) Equal(g Firewalld) bool {
	return f.Running == g.Running && f.Closed == g.Closed && slices.Equal(f.Zones, g.Zones) && slices.Equal(f.Policies, g.Policies)
}
