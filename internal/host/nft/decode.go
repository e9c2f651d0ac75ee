package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// foreignRule stands for what the kernel has in one of our chains and the rule
// language cannot say, so somebody else put it there. It equals no wanted
// rule, so the chain is put right.
type foreignRule struct{ what string }

// Text implements hoststate.Expr.
func (e foreignRule) Text() string { return "(foreign rule: " + e.what + ")" }

// exprs makes the kernel's expressions that the rule language compiles to,
// by the name the kernel lists them under.
var exprs = map[string]func() expr.Any{
	"meta":      func() expr.Any { return &expr.Meta{} },
	"cmp":       func() expr.Any { return &expr.Cmp{} },
	"payload":   func() expr.Any { return &expr.Payload{} },
	"bitwise":   func() expr.Any { return &expr.Bitwise{} },
	"ct":        func() expr.Any { return &expr.Ct{} },
	"lookup":    func() expr.Any { return &expr.Lookup{} },
	"dynset":    func() expr.Any { return &expr.Dynset{} },
	"counter":   func() expr.Any { return &expr.Counter{} },
	"immediate": func() expr.Any { return &expr.Immediate{} },
	"reject":    func() expr.Any { return &expr.Reject{} },
	"masq":      func() expr.Any { return &expr.Masq{} },
	"nat":       func() expr.Any { return &expr.NAT{} },
	"redir":     func() expr.Any { return &expr.Redir{} },
	"exthdr":    func() expr.Any { return &expr.Exthdr{} },
}

// encodeExprs writes the attribute with a rule's expressions.
func encodeExprs(family uint8, exprs []expr.Any) (attrs, error) {
	var list attrs
	for _, e := range exprs {
		b, err := expr.Marshal(family, e)
		if err != nil {
			return nil, err
		}
		if m, ok := e.(*expr.Masq); ok && m.ToPorts {
			b = encodeMasqPorts(m)
		}
		list.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, b)
	}
	return list, nil
}

// encodeMasqPorts is what the library lacks: without the flag the kernel takes
// the ports and does not use them.
func encodeMasqPorts(m *expr.Masq) attrs {
	var a attrs
	a.str(unix.NFTA_EXPR_NAME, "masq")
	a.nest(unix.NFTA_EXPR_DATA, func(a *attrs) {
		a.u32(unix.NFTA_MASQ_FLAGS, natSpecified)
		a.u32(unix.NFTA_MASQ_REG_PROTO_MIN, m.RegProtoMin)
		if m.RegProtoMax != 0 {
			a.u32(unix.NFTA_MASQ_REG_PROTO_MAX, m.RegProtoMax)
		}
	})
	return a
}

// decodeExprs reads the attribute with a rule's expressions. It fails for what
// the rule language has no use for.
func decodeExprs(family uint8, list []byte) ([]expr.Any, error) {
	var out []expr.Any
	for _, v := range nl.Attrs(list) {
		name, data := nl.String(v, unix.NFTA_EXPR_NAME), nl.Attr(v, unix.NFTA_EXPR_DATA)
		if read, ok := readers[name]; ok {
			out = append(out, read(data))
			continue
		}
		create, ok := exprs[name]
		if !ok {
			return nil, fmt.Errorf("%s", name)
		}
		if name == "immediate" && nl.Attr(nl.Attr(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT) != nil {
			v, err := decodeVerdict(nl.Attr(nl.Attr(data, unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT))
			if err != nil {
				return nil, err
			}
			out = append(out, v)
			continue
		}
		e := create()
		if err := expr.Unmarshal(family, data, e); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, e)
	}
	return out, nil
}

func decodeVerdict(b []byte) (*expr.Verdict, error) {
	v := &expr.Verdict{Kind: expr.VerdictKind(int32(nl.Uint32(b, unix.NFTA_VERDICT_CODE))), Chain: nl.String(b, unix.NFTA_VERDICT_CHAIN)}
	if _, ok := wantedVerdict(v); !ok {
		return nil, fmt.Errorf("verdict %d", v.Kind)
	}
	return v, nil
}

// wantedVerdict is the inverse of compileVerdict.
func wantedVerdict(v *expr.Verdict) (hoststate.Verdict, bool) {
	for kind, k := range verdicts {
		if k == v.Kind {
			return hoststate.Verdict{Kind: kind, Chain: v.Chain}, true
		}
	}
	return hoststate.Verdict{}, false
}

// decodeRule is the inverse of compileRule. What it cannot say comes back as
// one foreignRule.
func decodeRule(family hoststate.Family, exprs []expr.Any) hoststate.Rule {
	terms, err := readTerms(exprs)
	if err != nil {
		return hoststate.Rule{foreignRule{err.Error()}}
	}
	rule, err := hidePremises(family, terms)
	if err != nil {
		return hoststate.Rule{foreignRule{err.Error()}}
	}
	return rule
}

// term is one expression of the rule language as read from the kernel's.
type term struct {
	expr   hoststate.Expr    // nil if it can only be a premise
	fields []hoststate.Field // what it loads
	// premise is what it asserts for later terms, if its field is not "".
	premise premise
}

// hidePremises leaves out the comparisons that are there only for the sake of
// the term behind them.
func hidePremises(family hoststate.Family, terms []term) (hoststate.Rule, error) {
	var rule hoststate.Rule
	var known, pending []premise
	for i, t := range terms {
		if n := len(pending); n > 0 && t.premise == pending[0] {
			known = append(known, pending[0])
			pending = pending[1:]
			continue
		}
		missing := slices.DeleteFunc(premises(family, t.fields), func(p premise) bool { return slices.Contains(known, p) })
		if len(missing) > 0 {
			return nil, fmt.Errorf("%s without its premise", t.fields)
		}
		if t.premise.field != "" {
			if want := premisesAhead(family, terms[i:], known); len(want) > 0 {
				known = append(known, want[0])
				pending = want[1:]
				continue
			}
		}
		if t.expr == nil {
			return nil, fmt.Errorf("%s", t.fields)
		}
		rule = append(rule, t.expr)
	}
	return rule, nil
}

// premisesAhead returns the premises that the terms begin with, if the term
// behind them lacks exactly these.
func premisesAhead(family hoststate.Family, terms []term, known []premise) []premise {
	var found []premise
	for _, t := range terms {
		missing := slices.DeleteFunc(premises(family, t.fields), func(p premise) bool { return slices.Contains(known, p) })
		if len(missing) > 0 {
			if slices.Equal(missing, found) {
				return found
			}
			return nil
		}
		if t.premise.field == "" {
			return nil
		}
		found = append(found, t.premise)
	}
	return nil
}

// termReader walks over the kernel's expressions.
type termReader struct{ rest []expr.Any }

// nextAs takes the next expression if it is of type T.
func nextAs[T expr.Any](r *termReader) (T, bool) {
	var zero T
	if len(r.rest) == 0 {
		return zero, false
	}
	e, ok := r.rest[0].(T)
	if ok {
		r.rest = r.rest[1:]
	}
	return e, ok
}

func readTerms(exprs []expr.Any) ([]term, error) {
	r := &termReader{rest: exprs}
	var terms []term
	for len(r.rest) > 0 {
		head := r.rest[0]
		t, ok := r.term()
		if !ok {
			return nil, fmt.Errorf("%s %+v", strings.TrimPrefix(fmt.Sprintf("%T", head), "*expr."), head)
		}
		terms = append(terms, t)
	}
	return terms, nil
}

func (r *termReader) term() (term, bool) {
	switch e := r.rest[0].(type) {
	case *expr.Meta, *expr.Payload:
		if m, ok := e.(*expr.Meta); ok && m.Key == expr.MetaKeyMARK {
			return r.mark()
		}
		return r.loaded()
	case *expr.Ct:
		return r.ctState()
	case *expr.Rt:
		return r.clampMSS()
	case *expr.Immediate, *expr.Masq, *expr.NAT, *expr.Redir:
		x, ok := r.translation()
		return term{expr: x}, ok
	case *expr.Counter:
		r.rest = r.rest[1:]
		return term{expr: hoststate.Counter{}}, true
	case *expr.Verdict:
		r.rest = r.rest[1:]
		v, ok := wantedVerdict(e)
		return term{expr: v}, ok
	case *expr.Reject:
		r.rest = r.rest[1:]
		ok := e.Type == unix.NFT_REJECT_ICMPX_UNREACH && e.Code == unix.NFT_REJECT_ICMPX_PORT_UNREACH
		return term{expr: hoststate.Reject{}}, ok
	}
	return term{}, false
}

// loaded reads the load of one or more fields and what is done with them.
func (r *termReader) loaded() (term, bool) {
	var fields []hoststate.Field
	prefixBytes, words := 0, uint32(0)
	for {
		var l load
		var register uint32
		if m, ok := nextAs[*expr.Meta](r); ok {
			if m.SourceRegister {
				return term{}, false
			}
			l, register = load{meta: m.Key}, m.Register
		} else if p, ok := nextAs[*expr.Payload](r); ok {
			if p.OperationType != expr.PayloadLoad {
				return term{}, false
			}
			l, register = load{header: true, base: p.Base, offset: p.Offset, size: p.Len}, p.DestRegister
		} else {
			break
		}
		f, ok := fieldOf(l)
		if !ok || register != registerAt(words) {
			return term{}, false
		}
		if l.header && l.size < loads[f].size {
			prefixBytes = int(l.size)
		}
		fields = append(fields, f)
		words += wordsIn(loads[f].size)
	}
	t := term{fields: fields}
	var ok bool
	switch {
	case prefixBytes == 0 && r.lookup(&t):
		return t, true
	case len(fields) == 1:
		t.expr, t.premise, ok = r.compared(fields[0], prefixBytes)
		return t, ok
	}
	return t, false
}

// place is where a field is loaded from; no two fields share one.
type place struct {
	header bool
	meta   expr.MetaKey
	base   expr.PayloadBase
	offset uint32
	size   uint32 // 0 for metadata, and for an address of which a part is loaded
}

var fieldAt = func() map[place]hoststate.Field {
	m := map[place]hoststate.Field{}
	for f, l := range loads {
		place := place{l.header, l.meta, l.base, l.offset, 0}
		if l.header {
			if isAddress(f) {
				m[place] = f
			}
			place.size = l.size
		}
		m[place] = f
	}
	return m
}()

// fieldOf names what is loaded. Addresses may be loaded in part.
func fieldOf(l load) (hoststate.Field, bool) {
	place := place{l.header, l.meta, l.base, l.offset, l.size}
	if f, ok := fieldAt[place]; ok {
		return f, true
	}
	place.size = 0
	f, ok := fieldAt[place]
	return f, ok && (!l.header || l.size > 0 && l.size < loads[f].size)
}

// lookup reads the use of a set or map.
func (r *termReader) lookup(t *term) bool {
	if l, ok := nextAs[*expr.Lookup](r); ok {
		switch {
		case l.SourceRegister != registerAt(0):
			return false
		case l.IsDestRegSet:
			t.expr = hoststate.VMap{Fields: t.fields, Map: l.SetName}
			return l.DestRegister == unix.NFT_REG_VERDICT && !l.Invert
		}
		t.expr = hoststate.InSet{Fields: t.fields, Set: l.SetName, Not: l.Invert}
		return true
	}
	if d, ok := nextAs[*expr.Dynset](r); ok {
		t.expr = hoststate.Update{Fields: t.fields, Set: d.SetName}
		return d.SrcRegKey == registerAt(0) && d.SrcRegData == 0 && d.Operation == uint32(unix.NFT_DYNSET_OP_UPDATE) &&
			d.Timeout == 0 && !d.Invert && len(d.Exprs) == 0
	}
	return false
}

// compared reads the comparison of a field with a value, a prefix or a range.
func (r *termReader) compared(f hoststate.Field, prefixBytes int) (hoststate.Expr, premise, bool) {
	none := premise{}
	var mask []byte
	if b, ok := nextAs[*expr.Bitwise](r); ok {
		if b.SourceRegister != registerAt(0) || b.DestRegister != registerAt(0) || len(bytes.Trim(b.Xor, "\x00")) > 0 {
			return nil, none, false
		}
		mask = b.Mask
	}
	cmp, ok := nextAs[*expr.Cmp](r)
	if !ok || cmp.Register != registerAt(0) {
		return nil, none, false
	}
	if cmp.Op == expr.CmpOpGte {
		last, ok := nextAs[*expr.Cmp](r)
		if !ok || f != hoststate.FieldDPort || mask != nil || last.Op != expr.CmpOpLte || len(cmp.Data) != 2 || len(last.Data) != 2 {
			return nil, none, false
		}
		return hoststate.DPort{First: binary.BigEndian.Uint16(cmp.Data), Last: binary.BigEndian.Uint16(last.Data)}, none, true
	}
	not := cmp.Op == expr.CmpOpNeq
	if !not && cmp.Op != expr.CmpOpEq {
		return nil, none, false
	}
	if f == fieldTCPFlags {
		return hoststate.SYN{Not: not}, none, isOpening(mask, cmp)
	}
	if isAddress(f) {
		p, ok := prefixOf(cmp.Data, mask, prefixBytes, int(loads[f].size))
		return addressMatch(f, p, not), none, ok
	}
	if mask != nil || len(cmp.Data) != int(loads[f].size) {
		return nil, none, false
	}
	given := none
	if !not {
		given = premise{f, string(cmp.Data)}
	}
	e, ok := valueMatch(f, cmp.Data, not)
	return e, given, ok
}

// prefixOf is the prefix that the comparison with data is about.
func prefixOf(data, mask []byte, prefixBytes, size int) (netip.Prefix, bool) {
	bits := 8 * size
	switch {
	case mask != nil:
		var ok bool
		if bits, ok = maskBits(mask); !ok || prefixBytes != 0 {
			return netip.Prefix{}, false
		}
	case prefixBytes != 0:
		if bits = 8 * prefixBytes; len(data) == prefixBytes {
			data = append(slices.Clone(data), make([]byte, size-prefixBytes)...)
		}
	}
	addr, ok := netip.AddrFromSlice(data)
	if !ok || len(data) != size {
		return netip.Prefix{}, false
	}
	p := netip.PrefixFrom(addr, bits)
	return p, p == p.Masked()
}

// maskBits is the length of the prefix that a mask stands for.
func maskBits(mask []byte) (int, bool) {
	bits, ended := 0, false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			on := b>>i&1 == 1
			if on && ended {
				return 0, false
			}
			ended = !on
			if on {
				bits++
			}
		}
	}
	return bits, true
}

func addressMatch(f hoststate.Field, p netip.Prefix, not bool) hoststate.Expr {
	switch f {
	case hoststate.FieldSAddr4, hoststate.FieldSAddr6:
		return hoststate.Source{Prefix: p, Not: not}
	case hoststate.FieldDAddr4, hoststate.FieldDAddr6:
		return hoststate.Destination{Prefix: p, Not: not}
	}
	return hoststate.Within{Field: f, Prefix: p, Not: not}
}

// valueMatch is the match of a field with one value. It is nil and fine for a
// field that is only ever a premise.
func valueMatch(f hoststate.Field, v []byte, not bool) (hoststate.Expr, bool) {
	switch f {
	case hoststate.FieldIIFName:
		return hoststate.InIface{Name: nl.CString(v), Not: not}, true
	case hoststate.FieldOIFName:
		return hoststate.OutIface{Name: nl.CString(v), Not: not}, true
	case hoststate.FieldEtherS:
		return hoststate.EtherSource{MAC: hoststate.MAC(v), Not: not}, true
	case fieldEtherD:
		return hoststate.EtherDest{MAC: hoststate.MAC(v), Not: not}, true
	case hoststate.FieldDPort:
		return hoststate.DPort{First: binary.BigEndian.Uint16(v)}, !not
	case fieldL4Proto:
		return hoststate.L4Proto{Proto: hoststate.Proto(v[0])}, !not
	case fieldNFProto:
		for version, p := range layer3[hoststate.Inet] {
			if p.value == string(v) {
				return hoststate.NFProto{Version: version}, !not
			}
		}
		return nil, false
	case fieldIIFType:
		return nil, !not
	}
	// All others are numbers.
	return hoststate.Is{Field: f, Number: binary.BigEndian.Uint64(append(make([]byte, 8-len(v), 8), v...)), Not: not}, len(v) <= 8
}

// mark reads the setting of bits of the packet's mark.
func (r *termReader) mark() (term, bool) {
	load, _ := nextAs[*expr.Meta](r)
	change, ok := nextAs[*expr.Bitwise](r)
	if !ok || load.SourceRegister || len(change.Mask) != 4 || len(change.Xor) != 4 {
		return term{}, false
	}
	write, ok := nextAs[*expr.Meta](r)
	bits := binary.NativeEndian.Uint32(change.Xor)
	if !ok || !write.SourceRegister || write.Key != expr.MetaKeyMARK || binary.NativeEndian.Uint32(change.Mask) != ^bits {
		return term{}, false
	}
	return term{expr: hoststate.Mark{Bits: bits}}, true
}

func (r *termReader) ctState() (term, bool) {
	ct, _ := nextAs[*expr.Ct](r)
	mask, ok := nextAs[*expr.Bitwise](r)
	if !ok || ct.Key != expr.CtKeySTATE || ct.SourceRegister || len(mask.Mask) != 4 {
		return term{}, false
	}
	cmp, ok := nextAs[*expr.Cmp](r)
	bits := binary.NativeEndian.Uint32(mask.Mask)
	if !ok || cmp.Op != expr.CmpOpNeq || !bytes.Equal(cmp.Data, make([]byte, 4)) ||
		bits&^(ctInvalid|ctEstablished|ctRelated|ctNew) != 0 {
		return term{}, false
	}
	return term{expr: hoststate.CTState{
		Invalid: bits&ctInvalid != 0, Established: bits&ctEstablished != 0,
		Related: bits&ctRelated != 0, New: bits&ctNew != 0,
	}}, true
}

// translation reads constants and the address translation that uses them.
func (r *termReader) translation() (hoststate.Expr, bool) {
	values := map[uint32][]byte{}
	for {
		i, ok := nextAs[*expr.Immediate](r)
		if !ok {
			break
		}
		values[i.Register] = i.Data
	}
	port := func(register uint32) uint16 {
		if b := values[register]; len(b) == 2 {
			return binary.BigEndian.Uint16(b)
		}
		return 0
	}
	address := func(register uint32) netip.Addr {
		a, _ := netip.AddrFromSlice(values[register])
		return a
	}
	// Of a range of one the kernel lists the same register twice.
	single := func(first uint32, last *uint32) {
		if *last == first {
			*last = 0
		}
	}
	// Comparing with what the result compiles to refuses all that it does not say.
	var result hoststate.Expr
	var have expr.Any
	if m, ok := nextAs[*expr.Masq](r); ok {
		single(m.RegProtoMin, &m.RegProtoMax)
		have, result = m, hoststate.Masquerade{FirstPort: port(m.RegProtoMin), LastPort: port(m.RegProtoMax)}
	} else if n, ok := nextAs[*expr.NAT](r); ok {
		single(n.RegAddrMin, &n.RegAddrMax)
		single(n.RegProtoMin, &n.RegProtoMax)
		have, result = n, hoststate.SNAT{
			First: address(n.RegAddrMin), Last: address(n.RegAddrMax),
			FirstPort: port(n.RegProtoMin), LastPort: port(n.RegProtoMax),
		}
	} else if d, ok := nextAs[*expr.Redir](r); ok {
		single(d.RegisterProtoMin, &d.RegisterProtoMax)
		have, result = d, hoststate.Redirect{Port: port(d.RegisterProtoMin)}
	} else {
		return nil, false
	}
	want, err := compileRule(hoststate.Inet, hoststate.Rule{result})
	return result, err == nil && fmt.Sprintf("%+v", want[len(want)-1]) == fmt.Sprintf("%+v", have)
}
