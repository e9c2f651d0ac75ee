package host

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// ended is a permission that is gone, for connections with an end in a prefix.
type ended struct {
	prefix netip.Prefix
	// dev is a link over which it goes on, "" for none.
	dev string
	// begun says that connections go on which began at the prefix.
	begun bool
}

// withdrawn lists what the operations no longer let through. A rule with a
// verdict that goes takes its permission with it, unless another that comes
// or stays lets the same through; one that lets part of it through leaves that
// part. A rule that comes and refuses guests what is for them ends connections
// that others began; what is still permitted of these is begun anew by its next
// packet.
func withdrawn(ops []hoststate.Op) []ended {
	now := rulesAfter(ops)
	var list []ended
	for _, op := range ops {
		shut := closed(op)
		list = append(list, shut...)
		old, ok := op.Old.(hoststate.Chain)
		if !ok || old.Table.Family == hoststate.BridgeFamily || old.Table.Family == hoststate.ARPFamily || old.Hook != nil || translates(old) || op.New == nil && unjudged(ops, old) {
			continue
		}
		for _, r := range old.Rules {
			if !permits(r) || slices.ContainsFunc(now, func(n hoststate.Rule) bool { return len(missing(n, r)) == 0 }) {
				continue
			}
			ends := prefixesIn(r)
			if slices.ContainsFunc(shut, func(e ended) bool { return slices.Contains(ends, e.prefix) }) {
				continue
			}
			for _, p := range ends {
				list = append(list, remains(now, r, p))
			}
		}
	}
	return list
}

// closed are the guests that a chain refuses to let others reach, and of whom it
// said something else before.
func closed(op hoststate.Op) []ended {
	before, changes := op.Old.(hoststate.Chain)
	after, stays := op.New.(hoststate.Chain)
	if !changes || !stays {
		return nil
	}
	var list []ended
	for _, r := range after.Rules {
		if guest, refuses := refusal(r); refuses && !slices.Equal(about(before, guest), about(after, guest)) {
			list = append(list, ended{prefix: guest, begun: true})
		}
	}
	return list
}

// about are the conditions and verdicts of a chain's rules for a destination.
func about(c hoststate.Chain, guest netip.Prefix) []string {
	var list []string
	for _, r := range c.Rules {
		if len(r) == 0 {
			continue
		}
		if to, ok := r[0].(hoststate.Destination); ok && to.Prefix == guest {
			for _, e := range r {
				list = append(list, e.Text())
			}
		}
	}
	return list
}

// refusal is the destination that a rule refuses, if it asks for nothing else.
func refusal(r hoststate.Rule) (netip.Prefix, bool) {
	if len(r) < 2 {
		return netip.Prefix{}, false
	}
	to, ok := r[0].(hoststate.Destination)
	if !ok || to.Not {
		return netip.Prefix{}, false
	}
	for _, e := range r[1:] {
		switch e.(type) {
		case hoststate.Counter, hoststate.Reject, hoststate.Because:
		default:
			return netip.Prefix{}, false
		}
	}
	return to.Prefix, true
}

// rulesAfter are the rules of the chains that operations make or change. A
// bridge that gets another name gets other chains with the same rules.
func rulesAfter(ops []hoststate.Op) []hoststate.Rule {
	var rules []hoststate.Rule
	for _, op := range ops {
		if c, ok := op.New.(hoststate.Chain); ok && c.Hook == nil && !translates(c) {
			rules = append(rules, slices.DeleteFunc(slices.Clone(c.Rules), func(r hoststate.Rule) bool { return !permits(r) })...)
		}
	}
	return rules
}

// missing are the conditions of a rule that another one does not have.
func missing(r, other hoststate.Rule) []hoststate.Expr {
	var list []hoststate.Expr
	for _, e := range r {
		if !slices.ContainsFunc(other, func(o hoststate.Expr) bool { return o.Text() == e.Text() }) {
			list = append(list, e)
		}
	}
	return list
}

// remains is what of a rule's permission for a prefix is in one of the others
// about it, which is narrower by a link or by who has to begin.
func remains(rules []hoststate.Rule, r hoststate.Rule, p netip.Prefix) ended {
	for _, other := range rules {
		if !slices.Contains(prefixesIn(other), p) {
			continue
		}
		left := ended{prefix: p}
		narrower := true
		for _, e := range missing(other, r) {
			switch e := e.(type) {
			case hoststate.InIface:
				left.dev = e.Name
				narrower = narrower && !e.Not
			case hoststate.OutIface:
				left.dev = e.Name
				narrower = narrower && !e.Not
			case hoststate.CTState:
				left.begun = e.Established
			default:
				narrower = false
			}
		}
		if narrower && (left.dev != "" || left.begun) {
			return left
		}
	}
	return ended{prefix: p}
}

// translates reports whether a chain is about addresses: a verdict in it
// permits nothing.
func translates(c hoststate.Chain) bool {
	return slices.ContainsFunc(c.Rules, func(r hoststate.Rule) bool {
		return slices.ContainsFunc(r, func(e hoststate.Expr) bool {
			switch e.(type) {
			case hoststate.Masquerade, hoststate.SNAT:
				return true
			}
			return false
		})
	})
}

// unjudged reports whether a chain goes whose link stays, so that nothing of
// ours decides any more on what passes the link.
func unjudged(ops []hoststate.Op, c hoststate.Chain) bool {
	for _, op := range ops {
		e, ok := op.Old.(hoststate.Element)
		if !ok || op.New != nil || e.Verdict == nil || e.Verdict.Chain != c.Name || len(e.Fields) == 0 {
			continue
		}
		link := e.Fields[0].IfName
		return link != "" && !slices.ContainsFunc(ops, func(o hoststate.Op) bool {
			return o.Verb == hoststate.Delete && (o.Key() == hoststate.BridgeKey(link) || o.Key() == hoststate.LinkUp{Link: link}.Key())
		})
	}
	return false
}

// permits reports whether a rule lets something through, as far as it goes.
func permits(r hoststate.Rule) bool {
	if len(r) == 0 {
		return false
	}
	v, ok := r[len(r)-1].(hoststate.Verdict)
	return ok && (v.Kind == hoststate.Accept || v.Kind == hoststate.Return)
}

// prefixesIn are the addresses that a rule is about, but for those with which
// no connection leads from one link to another.
func prefixesIn(r hoststate.Rule) []netip.Prefix {
	var list []netip.Prefix
	for _, e := range r {
		switch e := e.(type) {
		case hoststate.Source:
			list = append(list, e.Prefix)
		case hoststate.Destination:
			list = append(list, e.Prefix)
		}
	}
	return slices.DeleteFunc(list, func(p netip.Prefix) bool {
		return p.Addr().IsLinkLocalUnicast() || p.IsSingleIP() && p.Addr().IsUnspecified()
	})
}

// tracked are the addresses of a connection: those with which it began, and
// those that answers to it come with, after translation.
type tracked struct{ from, to, answerFrom, answerTo netip.Addr }

// ends reports whether the connection is no longer permitted. leads says which
// link leads to an address.
func (e ended) ends(c tracked, leads func(netip.Addr) string) bool {
	if !slices.ContainsFunc([]netip.Addr{c.from, c.to, c.answerFrom, c.answerTo}, e.prefix.Contains) {
		return false
	}
	began := e.prefix.Contains(c.from)
	far := c.to
	if !began {
		far = c.from
	}
	switch {
	case e.dev == "" && !e.begun, e.begun && !began:
		return true
	case e.dev == "":
		return false
	}
	return leads(far) != e.dev
}

// leads is the name of the link by which the host reaches an address: the one
// of the longest matching route of the main table, of these the one with the
// smallest metric.
func (m *mirror) leads(to netip.Addr) (link string) {
	m.now(func() {
		var best routeID
		for id := range m.routes {
			if id.table != unix.RT_TABLE_MAIN || !id.dst.Contains(to) {
				continue
			}
			if link == "" || id.dst.Bits() > best.dst.Bits() || id.dst.Bits() == best.dst.Bits() && id.metric < best.metric {
				best, link = id, m.links[id.index].name
			}
		}
	})
	return link
}
