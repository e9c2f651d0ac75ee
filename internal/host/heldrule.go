package host

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

const (
	ruleHeaderLen = 12 // struct fib_rule_hdr
	ruleFlags     = 8  // offset of its flags
	// What the kernel says in the flags of a rule whose link is not there
	// (FIB_RULE_IIF_DETACHED, FIB_RULE_OIF_DETACHED), and other accounts of its own.
	ruleOwnFlags = 0x1c
)

// heldRules reads the routing rules that name a link.
func heldRules(r *rtnl, link string) ([]hoststate.HeldRule, error) {
	msgs, err := r.dump(unix.RTM_GETRULE, make([]byte, ruleHeaderLen))
	if err != nil {
		return nil, err
	}
	var rules []hoststate.HeldRule
	for _, msg := range msgs {
		if rule, ok := decodeHeldRule(msg.Data, link); ok {
			rules = append(rules, rule)
		}
	}
	return rules, nil
}

// decodeHeldRule reads an RTM_NEWRULE. It reports false for one that does not
// name the link, and for those of multicast routing, which are of another kind.
func decodeHeldRule(b []byte, link string) (rule hoststate.HeldRule, ok bool) {
	if len(b) < ruleHeaderLen || b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
		return rule, false
	}
	rule.Header = slices.Clone(b[:ruleHeaderLen])
	flags := binary.NativeEndian.Uint32(rule.Header[ruleFlags:]) &^ ruleOwnFlags
	binary.NativeEndian.PutUint32(rule.Header[ruleFlags:], flags)
	for b = b[ruleHeaderLen:]; len(b) >= unix.SizeofNlAttr; {
		n := int(binary.NativeEndian.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return rule, false
		}
		padded := min((n+3)&^3, len(b))
		named := string(bytes.TrimRight(b[unix.SizeofNlAttr:n], "\x00")) == link
		switch typ := binary.NativeEndian.Uint16(b[2:]); {
		case typ == unix.FRA_IIFNAME && named:
			rule.In = true
		case typ == unix.FRA_OIFNAME && named:
			rule.Out = true
		default:
			rule.Attributes = append(rule.Attributes, b[:padded]...)
		}
		b = b[padded:]
	}
	return rule, rule.In || rule.Out
}

// heldRuleBody is the body of a request about a rule for a link.
func heldRuleBody(link string, rule hoststate.HeldRule) ([]byte, error) {
	return appendAttrs(slices.Concat(rule.Header, rule.Attributes), func(e *netlink.AttributeEncoder) {
		if rule.In {
			e.String(unix.FRA_IIFNAME, link)
		}
		if rule.Out {
			e.String(unix.FRA_OIFNAME, link)
		}
	})
}

func sameRule(a, b hoststate.HeldRule) bool {
	return bytes.Equal(a.Header, b.Header) && bytes.Equal(a.Attributes, b.Attributes) && a.In == b.In && a.Out == b.Out
}

// heldNeighbours reads the neighbours of a link that are known for good.
func heldNeighbours(r *rtnl, index int) ([]hoststate.HeldNeighbour, error) {
	msgs, err := r.dump(unix.RTM_GETNEIGH, make([]byte, ndmsgLen))
	if err != nil {
		return nil, err
	}
	var list []hoststate.HeldNeighbour
	for _, msg := range msgs {
		b := msg.Data
		if len(b) < ndmsgLen || int(binary.NativeEndian.Uint32(b[4:])) != index || binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0 ||
			b[0] != unix.AF_INET && b[0] != unix.AF_INET6 {
			continue
		}
		d, err := netlink.NewAttributeDecoder(b[ndmsgLen:])
		if err != nil {
			return nil, err
		}
		var n hoststate.HeldNeighbour
		for d.Next() {
			switch d.Type() {
			case unix.NDA_DST:
				n.Addr, _ = netip.AddrFromSlice(d.Bytes())
			case unix.NDA_LLADDR:
				copy(n.MAC[:], d.Bytes())
			}
		}
		if d.Err() == nil && n.Addr.IsValid() {
			list = append(list, n)
		}
	}
	return list, nil
}

func heldNeighbourBody(index int, n hoststate.HeldNeighbour) ([]byte, error) {
	family := byte(unix.AF_INET)
	if n.Addr.Is6() {
		family = unix.AF_INET6
	}
	b := append(make([]byte, 0, 64), family, 0, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = append(binary.NativeEndian.AppendUint16(b, unix.NUD_PERMANENT), 0, 0)
	return appendAttrs(b, func(e *netlink.AttributeEncoder) {
		e.Bytes(unix.NDA_DST, n.Addr.AsSlice())
		e.Bytes(unix.NDA_LLADDR, n.MAC[:])
	})
}

// putAbout gives a link the rules and neighbours that another one has.
func (a *uplinkApplier) putAbout(l link, h hoststate.Held) error {
	for _, n := range h.Neighbours {
		body, err := heldNeighbourBody(l.index, n)
		if err == nil {
			err = a.rtnl.do(unix.RTM_NEWNEIGH, netlink.Create|netlink.Replace, body)
		}
		if err != nil {
			return fmt.Errorf("tell %s of neighbour %s: %w", l.name, n.Addr, err)
		}
	}
	for _, rule := range h.Rules {
		body, err := heldRuleBody(l.name, rule)
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_NEWRULE, netlink.Create|netlink.Excl, body), unix.EEXIST)
		}
		if err != nil {
			return fmt.Errorf("make a routing rule name %s: %w", l.name, err)
		}
	}
	return nil
}

// dropAbout takes rules and neighbours from a link.
func (a *uplinkApplier) dropAbout(l link, h hoststate.Held) error {
	for _, n := range h.Neighbours {
		body, err := heldNeighbourBody(l.index, n)
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_DELNEIGH, 0, body), unix.ENOENT)
		}
		if err != nil {
			return fmt.Errorf("take neighbour %s from %s: %w", n.Addr, l.name, err)
		}
	}
	for _, rule := range h.Rules {
		body, err := heldRuleBody(l.name, rule)
		if err == nil {
			err = allow(a.rtnl.do(unix.RTM_DELRULE, 0, body), unix.ENOENT)
		}
		if err != nil {
			return fmt.Errorf("remove a routing rule that names %s: %w", l.name, err)
		}
	}
	return nil
}
