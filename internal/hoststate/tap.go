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

// Macvtap is a macvtap that Viaduct makes and owns: a device of the host's with
// an address of its own, whose other end a guest holds by a file in /dev.
type Macvtap struct {
	Name string
	// Alias marks the link as ours, as that of a Tap.
	Alias string
	// Device is the host's device that its frames go out by.
	Device string
	// Mode says how it shares the device: "private", "vepa", "bridge" or "passthrough".
	Mode string
	MAC  MAC // the guest's
	// Owner is the uid of the user who may open its file.
	Owner uint32
}

// MacvtapKey names the macvtap called name.
func MacvtapKey(name string) Key { return Key{KindMacvtap, name} }

// Key implements Object.
func (m Macvtap) Key() Key { return MacvtapKey(m.Name) }

// Text implements Object.
func (m Macvtap) Text() string {
	return fmt.Sprintf("macvtap %s on %s mode %s mac %s owner %d", m.Name, m.Device, m.Mode, m.MAC, m.Owner)
}
