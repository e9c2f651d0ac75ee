package hoststate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Verb says what an Op does.
type Verb uint8

// The verbs.
const (
	Create Verb = iota + 1
	Change
	Delete
)

// Op is one operation that brings an object of the host from Old to New.
type Op struct {
	Verb Verb
	Old  Object // nil for Create
	New  Object // nil for Delete
}

// CreateOp makes an object.
func CreateOp(o Object) Op { return Op{Verb: Create, New: o} }

// ChangeOp makes of an object another of the same key.
func ChangeOp(old, to Object) Op { return Op{Verb: Change, Old: old, New: to} }

// DeleteOp removes an object.
func DeleteOp(o Object) Op { return Op{Verb: Delete, Old: o} }

// Object is the object the operation is about: New, or Old for a Delete.
func (o Op) Object() Object {
	if o.New != nil {
		return o.New
	}
	return o.Old
}

// Key is the key of the object the operation is about.
func (o Op) Key() Key { return o.Object().Key() }

// Renames reports whether the operation gives a bridge another name.
func (o Op) Renames() bool {
	old, was := o.Old.(Bridge)
	b, is := o.New.(Bridge)
	return was && is && old.Name != b.Name
}

// Inverse is the operation that undoes o.
func (o Op) Inverse() Op {
	switch o.Verb {
	case Create:
		return DeleteOp(o.New)
	case Delete:
		return CreateOp(o.Old)
	default:
		return ChangeOp(o.New, o.Old)
	}
}

// String is the operation as `viaduct plan` prints it: "+" creates, "~"
// changes, "-" removes.
func (o Op) String() string {
	switch o.Verb {
	case Create:
		return "+ " + o.New.Text()
	case Delete:
		return "- " + o.Old.Text()
	default:
		return "~ " + o.New.Text() + "   (was: " + o.Old.Text() + ")"
	}
}

// removalRank orders removals. Services go first, since a router has to tell its
// guests that it leaves; then taking the link down cuts the guests at once, and
// rules go while nobody can use them; the bridge, whose removal costs the
// kernel tens of milliseconds, goes last. What keeps guests of a bridge apart
// goes when they have left it.
var removalRank = [...]int{
	KindService: 1, KindLinkUp: 2, KindMember: 3, KindPortFlags: 4, KindPortVLANs: 5, KindStation: 6, KindProxy: 7, KindPass: 8, KindZoned: 9,
	KindZone: 10, KindElement: 11, KindChain: 12, KindSet: 13, KindTable: 14, KindRoute: 15, KindAddress: 16, KindSysctl: 17, KindShaper: 18,
	KindMTU: 19, KindTap: 20, KindMacvtap: 21, KindBridge: 22, KindClaim: 23, KindUplink: 24,
}

// SortOps puts operations into the order in which they have to be carried out:
// removals of services and of links' being up, then creations and changes by
// kind, then all other removals. A bridge whose ports move to another one stays
// up until they have: what is sent to the guests meanwhile has a way. One that
// gets another name does so when the rules for that are there.
func SortOps(ops []Op) {
	left := leftBridges(ops)
	renames := slices.ContainsFunc(ops, Op.Renames)
	relieved := func(o Op, k Key) bool { return o.Verb == Delete && k.Kind == KindLinkUp && left[k.Name] }
	phase := func(o Op, k Key) int {
		switch {
		case o.Verb != Delete, relieved(o, k):
			return 1
		case k.Kind == KindLinkUp, k.Kind == KindService:
			return 0
		default:
			return 2
		}
	}
	rank := func(o Op, k Key) int {
		switch {
		case o.Renames(), renames && o.Verb != Delete && k.Kind == KindShaper:
			// Limits are of the link by its new name; its own key comes before theirs.
			return 2*int(KindElement) + 1
		case relieved(o, k):
			return 2*int(KindMember) + 1
		case o.Verb == Delete:
			return removalRank[k.Kind]
		}
		return 2 * int(k.Kind)
	}
	// The kernel drops what a host learned as a host when it becomes a router,
	// so the settings that keep it come before those that forward.
	forwards := func(k Key) int {
		if k.Kind == KindSysctl && (strings.HasSuffix(k.Name, "/forwarding") || strings.HasSuffix(k.Name, "/ip_forward")) {
			return 1
		}
		return 0
	}
	// To make an object's key takes longer than to compare two.
	type place struct {
		op                    Op
		phase, rank, forwards int
		name                  string
	}
	places := make([]place, len(ops))
	for i, o := range ops {
		k := o.Key()
		places[i] = place{o, phase(o, k), rank(o, k), forwards(k), k.Name}
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.phase, b.phase), cmp.Compare(a.rank, b.rank), cmp.Compare(a.forwards, b.forwards), cmp.Compare(a.name, b.name))
	})
	for i, p := range places {
		ops[i] = p.op
	}
}

// leftBridges are the bridges of which ports move to another one.
func leftBridges(ops []Op) map[string]bool {
	moved := map[string]bool{}
	for _, o := range ops {
		if m, ok := o.New.(Member); ok && o.Verb == Create {
			moved[m.Link] = true
		}
	}
	left := map[string]bool{}
	for _, o := range ops {
		if m, ok := o.Old.(Member); ok && o.Verb == Delete && moved[m.Link] {
			left[m.Bridge] = true
		}
	}
	return left
}

// FormatOps is a plan as text, one operation a line.
func FormatOps(ops []Op) string {
	var s strings.Builder
	for _, o := range ops {
		s.WriteString(o.String())
		s.WriteByte('\n')
	}
	return s.String()
}

// OpError is an operation that the host refused.
type OpError struct {
	Op  Op
	Err error
}

func (e *OpError) Error() string { return fmt.Sprintf("apply %q: %v", e.Op, e.Err) }

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }
