// Package hoststate says what a host should look like, as plain values: links,
// addresses, sysctls, firewall rules and services. It does no I/O. The plan
// package writes these values, the host package compares them with the kernel
// and makes the kernel follow.
package hoststate

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
)

// Kind is the sort of thing an Object describes.
type Kind uint8

// The kinds, in the order in which they are created. What is later in the list
// may rely on what is earlier. Removal has an order of its own, see Op.
const (
	KindUplink    Kind = iota + 1 // a bridge in the place of a network card
	KindClaim                     // a bridge of somebody else's being ours
	KindBridge                    // a bridge link
	KindTap                       // a tap device
	KindMacvtap                   // a macvtap device
	KindMTU                       // the MTU of a link that somebody else made
	KindShaper                    // a limit on what goes over a link
	KindSysctl                    // a kernel setting under /proc/sys
	KindTable                     // an nftables table
	KindSet                       // an nftables set or map, without its elements
	KindChain                     // an nftables chain with all its rules
	KindElement                   // one element of an nftables set or map
	KindPass                      // a rule of ours in a foreign chain
	KindZone                      // a zone of firewalld's
	KindZoned                     // a link being in a zone of firewalld's
	KindAddress                   // an address on a link
	KindLinkUp                    // a link being administratively up
	KindRoute                     // a route
	KindProxy                     // an address that a link answers for
	KindMember                    // a link being a port of a bridge
	KindPortFlags                 // how a bridge treats a port
	KindPortVLANs                 // the VLANs that a port of a bridge is in
	KindStation                   // a port of a bridge being where a guest is
	KindService                   // an in-process service of a network, such as its DHCP server
)

var kindNames = [...]string{
	KindUplink: "uplink", KindClaim: "claim", KindBridge: "bridge", KindTap: "tap", KindMacvtap: "macvtap", KindMTU: "mtu", KindShaper: "shaper", KindSysctl: "sysctl", KindTable: "table",
	KindSet: "set", KindChain: "chain",
	KindElement: "element", KindPass: "pass", KindZone: "firewall zone", KindZoned: "zone", KindAddress: "address", KindLinkUp: "up", KindRoute: "route", KindProxy: "proxy",
	KindMember: "member", KindPortFlags: "port flags", KindPortVLANs: "port vlans", KindStation: "station", KindService: "service",
}

func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Key names one object on a host. Two objects with equal keys describe the
// same thing in possibly different states.
type Key struct {
	Kind Kind
	Name string
}

func (k Key) String() string { return k.Kind.String() + " " + k.Name }

// Object is one thing a host should have. Objects are values: once in a State
// they are not changed.
type Object interface {
	// Key names the object.
	Key() Key
	// Text is the object on one line as `viaduct plan` prints it.
	Text() string
}

// Contained is implemented by objects that the kernel removes by itself
// together with a link: its addresses, its routes, its sysctls.
type Contained interface {
	// Container is the key of the object whose removal removes this one.
	Container() Key
}

// Equal reports whether two objects describe the same thing in the same state.
// What has a complete text form, such as all of the firewall, is equal if it
// reads the same: a range of one port is a port, and a set that was written
// for source addresses comes back from the kernel as one of any addresses.
func Equal(a, b Object) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	if identical(a, b) {
		return true // mostly it is just what we wrote ourselves, and to print it costs more
	}
	_, ok := a.(readable)
	return ok && a.Text() == b.Text()
}

// identical reports whether two objects are the same in every part. Chains,
// which are most of what there is, are compared without reflection, which makes
// a copy of each expression.
func identical(a, b Object) bool {
	c, ok := a.(Chain)
	d, both := b.(Chain)
	if !ok || !both {
		return reflect.DeepEqual(a, b)
	}
	sameHook := c.Hook == d.Hook || c.Hook != nil && d.Hook != nil && *c.Hook == *d.Hook
	return c.Table == d.Table && c.Name == d.Name && sameHook && slices.EqualFunc(c.Rules, d.Rules, func(r, s Rule) bool {
		return slices.EqualFunc(r, s, sameExpr)
	})
}

// sameExpr compares expressions. Those with lists cannot be compared as they are.
func sameExpr(a, b Expr) bool {
	if t := reflect.TypeOf(a); t != nil && !t.Comparable() {
		return reflect.DeepEqual(a, b)
	}
	return a == b
}

// readable is implemented by objects whose Text says all there is about them.
type readable interface{ readable() }

// State is a set of objects by key: a wanted or an observed part of a host.
type State map[Key]Object

// Add puts objects into the state, replacing those of the same key.
func (s State) Add(objects ...Object) {
	for _, o := range objects {
		s[o.Key()] = o
	}
}

// Keys returns the keys in creation order, names sorted within a kind.
func (s State) Keys() []Key {
	keys := make([]Key, 0, len(s))
	for k := range s {
		keys = append(keys, k)
	}
	SortKeys(keys)
	return keys
}

// SortKeys sorts keys by kind in creation order, then by name.
func SortKeys(keys []Key) {
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}
