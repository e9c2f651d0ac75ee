package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// What the rule language loads but sets are not keyed by, named as fields are.
const (
	fieldEtherD   hoststate.Field = "ether daddr"
	fieldL4Proto  hoststate.Field = "meta l4proto"
	fieldNFProto  hoststate.Field = "meta nfproto"
	fieldIIFType  hoststate.Field = "meta iiftype"
	fieldTCPFlags hoststate.Field = "tcp flags"
)

// load is how the kernel loads a field: from the packet's metadata if base
// is 0, else from its headers.
type load struct {
	meta   expr.MetaKey
	base   expr.PayloadBase
	header bool
	offset uint32
	size   uint32 // bytes
}

func meta(key expr.MetaKey, size uint32) load { return load{meta: key, size: size} }

func header(base expr.PayloadBase, offset, size uint32) load {
	return load{header: true, base: base, offset: offset, size: size}
}

var loads = map[hoststate.Field]load{
	hoststate.FieldIIFName: meta(expr.MetaKeyIIFNAME, unix.IFNAMSIZ),
	hoststate.FieldOIFName: meta(expr.MetaKeyOIFNAME, unix.IFNAMSIZ),
	hoststate.FieldSAddr4:  header(expr.PayloadBaseNetworkHeader, 12, 4),
	hoststate.FieldDAddr4:  header(expr.PayloadBaseNetworkHeader, 16, 4),
	hoststate.FieldSAddr6:  header(expr.PayloadBaseNetworkHeader, 8, 16),
	hoststate.FieldDAddr6:  header(expr.PayloadBaseNetworkHeader, 24, 16),
	hoststate.FieldDPort:   header(expr.PayloadBaseTransportHeader, 2, 2),
	hoststate.FieldEtherS:  header(expr.PayloadBaseLLHeader, 6, 6),
	fieldEtherD:            header(expr.PayloadBaseLLHeader, 0, 6),
	fieldL4Proto:           meta(expr.MetaKeyL4PROTO, 1),
	fieldNFProto:           meta(expr.MetaKeyNFPROTO, 1),
	fieldIIFType:           meta(expr.MetaKeyIIFTYPE, 2),
	fieldTCPFlags:          header(expr.PayloadBaseTransportHeader, 13, 1),

	hoststate.FieldProtocol:     meta(expr.MetaKeyPROTOCOL, 2),
	hoststate.FieldSPort:        header(expr.PayloadBaseTransportHeader, 0, 2),
	hoststate.FieldICMP6Type:    header(expr.PayloadBaseTransportHeader, 0, 1),
	hoststate.FieldNDTarget:     header(expr.PayloadBaseTransportHeader, 8, 16),
	hoststate.FieldNDOption:     header(expr.PayloadBaseTransportHeader, 24, 2),
	hoststate.FieldNDOptionMAC:  header(expr.PayloadBaseTransportHeader, 26, 6),
	hoststate.FieldRSOption:     header(expr.PayloadBaseTransportHeader, 8, 2),
	hoststate.FieldRSOptionMAC:  header(expr.PayloadBaseTransportHeader, 10, 6),
	hoststate.FieldDHCPClient:   header(expr.PayloadBaseTransportHeader, 36, 6),
	hoststate.FieldLength6:      header(expr.PayloadBaseNetworkHeader, 4, 2),
	hoststate.FieldARPFormat:    header(expr.PayloadBaseNetworkHeader, 0, 6),
	hoststate.FieldARPSenderMAC: header(expr.PayloadBaseNetworkHeader, 8, 6),
	hoststate.FieldARPSender:    header(expr.PayloadBaseNetworkHeader, 14, 4),
}

func (l load) into(register uint32) expr.Any {
	if l.header {
		return &expr.Payload{DestRegister: register, Base: l.base, Offset: l.offset, Len: l.size}
	}
	return &expr.Meta{Key: l.meta, Register: register}
}

// premise is a comparison that has to come before another field means
// anything: that the packet is IPv4 before its IPv4 source address is loaded.
// nft writes and hides these by itself, so rules do not contain them.
type premise struct {
	field hoststate.Field
	value string // bytes; a string so that premises compare
}

// The premises, by what they assert and the family of the table.
var (
	layer3 = map[hoststate.Family]map[int]premise{
		hoststate.Inet: {
			4: {fieldNFProto, string([]byte{unix.NFPROTO_IPV4})},
			6: {fieldNFProto, string([]byte{unix.NFPROTO_IPV6})},
		},
		hoststate.BridgeFamily: {
			4:         {hoststate.FieldProtocol, string(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP))},
			6:         {hoststate.FieldProtocol, string(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6))},
			layer3ARP: {hoststate.FieldProtocol, string(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))},
		},
		hoststate.ARPFamily: {}, // every packet is ARP
	}
	tcp      = premise{fieldL4Proto, string([]byte{unix.IPPROTO_TCP})}
	ethernet = premise{fieldIIFType, string(binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER))}
)

// layer3ARP stands beside the IP versions.
const layer3ARP = 1

// fieldLayer3 is the IP version, or layer3ARP, that a field implies.
var fieldLayer3 = map[hoststate.Field]int{
	hoststate.FieldSAddr4: 4, hoststate.FieldDAddr4: 4, hoststate.FieldSAddr6: 6, hoststate.FieldDAddr6: 6, hoststate.FieldLength6: 6,
	hoststate.FieldARPSenderMAC: layer3ARP, hoststate.FieldARPSender: layer3ARP,
}

// isAddress reports whether a field is an IP address, of which a prefix may be
// loaded and compared.
func isAddress(f hoststate.Field) bool { return f.Type() == "ipv4_addr" || f.Type() == "ipv6_addr" }

// premises lists what has to be known before the fields are loaded. In the
// bridge family every packet is Ethernet.
func premises(family hoststate.Family, fields []hoststate.Field) []premise {
	var list []premise
	add := func(p premise) {
		if !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	for _, f := range fields {
		if p, ok := layer3[family][fieldLayer3[f]]; ok {
			add(p)
		}
		if (f == hoststate.FieldEtherS || f == fieldEtherD) && family != hoststate.BridgeFamily {
			add(ethernet)
		}
		if f == fieldTCPFlags {
			add(tcp)
		}
	}
	return list
}

// Connection tracking states as bits of the kernel's ct state.
const (
	ctInvalid     = 1
	ctEstablished = 2
	ctRelated     = 4
	ctNew         = 8
)

var verdicts = map[hoststate.VerdictKind]expr.VerdictKind{
	hoststate.Accept: expr.VerdictAccept,
	hoststate.Drop:   expr.VerdictDrop,
	hoststate.Return: expr.VerdictReturn,
	hoststate.Jump:   expr.VerdictJump,
	hoststate.Goto:   expr.VerdictGoto,
}

// natSpecified says that a translation names its ports.
const natSpecified = expr.NF_NAT_RANGE_PROTO_SPECIFIED

// compileRule translates a rule of a table of the given family into the
// kernel's expressions. The kernel's registers are used as nft uses them, so
// that nft lists the rule as it was written.
func compileRule(family hoststate.Family, rule hoststate.Rule) ([]expr.Any, error) {
	c := compiler{family: family}
	if _, reason := splitReason(rule); reason != "" {
		rule = rule[:len(rule)-1] // the kernel keeps it beside the expressions
	}
	for _, e := range rule {
		if err := c.expr(e); err != nil {
			return nil, fmt.Errorf("rule %q: %w", rule, err)
		}
	}
	return c.out, nil
}

type compiler struct {
	family hoststate.Family
	known  []premise
	out    []expr.Any
}

func (c *compiler) expr(e hoststate.Expr) error {
	switch e := e.(type) {
	case hoststate.InIface:
		return c.matchIface(hoststate.FieldIIFName, e.Name, e.Not)
	case hoststate.OutIface:
		return c.matchIface(hoststate.FieldOIFName, e.Name, e.Not)
	case hoststate.Source:
		return c.matchPrefix(hoststate.FieldSAddr4, hoststate.FieldSAddr6, e.Prefix, e.Not)
	case hoststate.Destination:
		return c.matchPrefix(hoststate.FieldDAddr4, hoststate.FieldDAddr6, e.Prefix, e.Not)
	case hoststate.Within:
		return c.matchPrefix(e.Field, e.Field, e.Prefix, e.Not)
	case hoststate.Is:
		return c.matchNumber(e)
	case hoststate.L4Proto:
		return c.match(fieldL4Proto, []byte{byte(e.Proto)}, false)
	case hoststate.NFProto:
		return c.matchNFProto(e.Version)
	case hoststate.EtherSource:
		return c.match(hoststate.FieldEtherS, e.MAC[:], e.Not)
	case hoststate.EtherDest:
		return c.match(fieldEtherD, e.MAC[:], e.Not)
	case hoststate.DPort:
		return c.matchPort(e)
	case hoststate.CTState:
		return c.ctState(e)
	case hoststate.SYN:
		return c.syn(e)
	case hoststate.ClampMSS:
		c.emit(clampMSS()...)
	case hoststate.InSet:
		return c.lookup(e.Fields, &expr.Lookup{SetName: e.Set, Invert: e.Not})
	case hoststate.VMap:
		return c.lookup(e.Fields, &expr.Lookup{SetName: e.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
	case hoststate.Update:
		return c.update(e)
	case hoststate.Mark:
		bits := binary.NativeEndian.AppendUint32(nil, e.Bits)
		keep := binary.NativeEndian.AppendUint32(nil, ^e.Bits)
		c.emit(metaMark(false),
			&expr.Bitwise{SourceRegister: registerAt(0), DestRegister: registerAt(0), Len: 4, Mask: keep, Xor: bits},
			metaMark(true))
	case hoststate.Counter:
		c.emit(&expr.Counter{})
	case hoststate.Verdict:
		v, err := compileVerdict(e)
		if err != nil {
			return err
		}
		c.emit(v)
	case hoststate.Reject:
		c.emit(&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	case hoststate.Masquerade:
		return c.masquerade(e)
	case hoststate.SNAT:
		return c.snat(e)
	case hoststate.Redirect:
		if e.Port == 0 {
			return errors.New("redirect: no port")
		}
		port := c.immediates(portBytes(e.Port))
		c.emit(&expr.Redir{RegisterProtoMin: port, Flags: natSpecified})
	default:
		return fmt.Errorf("%q: not part of the rule language", e.Text())
	}
	return nil
}

// metaMark loads the packet's mark, or writes it.
func metaMark(write bool) *expr.Meta {
	return &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: write, Register: registerAt(0)}
}

func (c *compiler) emit(e ...expr.Any) { c.out = append(c.out, e...) }

// load loads fields one behind the other into registers from the first on,
// after the premises that are not known yet.
func (c *compiler) load(fields ...hoststate.Field) error {
	for _, p := range premises(c.family, fields) {
		if !slices.Contains(c.known, p) {
			c.known = append(c.known, p)
			c.emit(loads[p.field].into(registerAt(0)), equals([]byte(p.value), false))
		}
	}
	words := uint32(0)
	for _, f := range fields {
		l, ok := loads[f]
		if !ok {
			return fmt.Errorf("field %q: not known", f)
		}
		c.emit(l.into(registerAt(words)))
		words += wordsIn(l.size)
	}
	if words > maxWords {
		return fmt.Errorf("%d bytes of fields: a key has at most %d", 4*words, 4*maxWords)
	}
	return nil
}

// maxWords is how many 4-byte words all registers hold.
const maxWords = 16

// wordsIn is how many registers of 4 bytes a value fills.
func wordsIn(size uint32) uint32 { return (size + 3) / 4 }

// registerAt names the register that starts at the given 4-byte word. The
// kernel has two names for those on a 16-byte boundary and lists this one.
func registerAt(word uint32) uint32 {
	if word%4 == 0 {
		return unix.NFT_REG_1 + word/4
	}
	return unix.NFT_REG32_00 + word
}

func equals(value []byte, not bool) *expr.Cmp {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: registerAt(0), Data: value}
}

func (c *compiler) match(f hoststate.Field, value []byte, not bool) error {
	if err := c.load(f); err != nil {
		return err
	}
	c.emit(equals(value, not))
	return nil
}

func (c *compiler) matchIface(f hoststate.Field, name string, not bool) error {
	value, err := ifnameBytes(name)
	if err != nil {
		return err
	}
	return c.match(f, value, not)
}

// matchNFProto leaves what it learns unused: a following address match repeats
// it, so that the kernel's form of the rule tells whether it was written.
func (c *compiler) matchNFProto(version int) error {
	p, ok := layer3[hoststate.Inet][version]
	if !ok || c.family != hoststate.Inet {
		return fmt.Errorf("meta nfproto: no IP version %d in family %s", version, c.family)
	}
	return c.match(fieldNFProto, []byte(p.value), false)
}

func (c *compiler) matchPrefix(v4, v6 hoststate.Field, p netip.Prefix, not bool) error {
	if !p.IsValid() {
		return fmt.Errorf("address: %v is not a prefix", p)
	}
	field := v6
	if p.Addr().Is4() {
		field = v4
	}
	if err := c.load(field); err != nil {
		return err
	}
	addr, bits := p.Masked().Addr().AsSlice(), p.Bits()
	switch {
	case bits == 0 || bits%8 != 0 || !isPartOf(field, bits/8):
		mask := make([]byte, len(addr))
		for i := range bits {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		c.emit(&expr.Bitwise{
			SourceRegister: registerAt(0), DestRegister: registerAt(0),
			Len: uint32(len(addr)), Mask: mask, Xor: make([]byte, len(addr)),
		})
	default: // whole bytes: load and compare only these
		c.out[len(c.out)-1].(*expr.Payload).Len = uint32(bits / 8)
		addr = addr[:bits/8]
	}
	c.emit(equals(addr, not))
	return nil
}

func (c *compiler) matchNumber(e hoststate.Is) error {
	size := loads[e.Field].size
	if size > 8 || isAddress(e.Field) {
		return fmt.Errorf("%q: the field is no number", e.Text())
	}
	value := binary.BigEndian.AppendUint64(nil, e.Number)
	for _, b := range value[:8-size] {
		if b != 0 {
			return fmt.Errorf("%q: the field has %d bytes", e.Text(), size)
		}
	}
	return c.match(e.Field, value[8-size:], e.Not)
}

// isPartOf reports whether the first bytes of an address are told from other
// fields by their place: 6 of an IPv6 source are also where ARP has a MAC.
func isPartOf(f hoststate.Field, size int) bool {
	l := loads[f]
	l.size = uint32(size)
	is, ok := fieldOf(l)
	return ok && is == f
}

func (c *compiler) matchPort(e hoststate.DPort) error {
	if e.Last == 0 || e.Last == e.First {
		return c.match(hoststate.FieldDPort, portBytes(e.First), false)
	}
	if e.Last < e.First {
		return fmt.Errorf("%q: the range ends before it begins", e.Text())
	}
	if err := c.load(hoststate.FieldDPort); err != nil {
		return err
	}
	c.emit(&expr.Cmp{Op: expr.CmpOpGte, Register: registerAt(0), Data: portBytes(e.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: registerAt(0), Data: portBytes(e.Last)})
	return nil
}

func (c *compiler) ctState(e hoststate.CTState) error {
	var bits uint32
	for _, s := range []struct {
		on  bool
		bit uint32
	}{{e.Invalid, ctInvalid}, {e.Established, ctEstablished}, {e.Related, ctRelated}, {e.New, ctNew}} {
		if s.on {
			bits |= s.bit
		}
	}
	if bits == 0 {
		return errors.New("ct state: no state given")
	}
	c.emit(&expr.Ct{Key: expr.CtKeySTATE, Register: registerAt(0)},
		&expr.Bitwise{
			SourceRegister: registerAt(0), DestRegister: registerAt(0), Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		equals(make([]byte, 4), true))
	return nil
}

func (c *compiler) lookup(fields []hoststate.Field, l *expr.Lookup) error {
	if err := checkName("set", l.SetName); err != nil {
		return err
	}
	if err := c.load(fields...); err != nil {
		return err
	}
	l.SourceRegister = registerAt(0)
	c.emit(l)
	return nil
}

func (c *compiler) update(e hoststate.Update) error {
	if err := checkName("set", e.Set); err != nil {
		return err
	}
	if err := c.load(e.Fields...); err != nil {
		return err
	}
	c.emit(&expr.Dynset{SrcRegKey: registerAt(0), SetName: e.Set, Operation: uint32(unix.NFT_DYNSET_OP_UPDATE)})
	return nil
}

func (c *compiler) masquerade(e hoststate.Masquerade) error {
	ports, err := portRange(e.FirstPort, e.LastPort)
	if err != nil {
		return err
	}
	m := &expr.Masq{}
	if len(ports) > 0 {
		m.ToPorts = true
		m.RegProtoMin = c.immediates(ports...)
		if len(ports) > 1 {
			m.RegProtoMax = m.RegProtoMin + 1
		}
	}
	c.emit(m)
	return nil
}

func (c *compiler) snat(e hoststate.SNAT) error {
	n := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4}
	if e.First.Is6() {
		n.Family = unix.NFPROTO_IPV6
	}
	values := [][]byte{e.First.AsSlice()}
	switch {
	case !e.First.IsValid():
		return errors.New("snat: no address")
	case !e.Last.IsValid() || e.Last == e.First:
	case e.Last.Is4() != e.First.Is4() || e.Last.Less(e.First):
		return fmt.Errorf("%q: not a range of addresses", e.Text())
	default:
		values = append(values, e.Last.AsSlice())
		n.RegAddrMax = unix.NFT_REG_2
	}
	ports, err := portRange(e.FirstPort, e.LastPort)
	if err != nil {
		return err
	}
	first := c.immediates(append(values, ports...)...)
	n.RegAddrMin = first
	if len(ports) > 0 {
		n.Specified = true
		n.RegProtoMin = first + uint32(len(values))
	}
	if len(ports) > 1 {
		n.RegProtoMax = n.RegProtoMin + 1
	}
	c.emit(n)
	return nil
}

// immediates loads constants, each into a 16-byte register of its own, and
// returns the first register.
func (c *compiler) immediates(values ...[]byte) uint32 {
	for i, v := range values {
		c.emit(&expr.Immediate{Register: unix.NFT_REG_1 + uint32(i), Data: v})
	}
	return unix.NFT_REG_1
}

func compileVerdict(v hoststate.Verdict) (*expr.Verdict, error) {
	kind, ok := verdicts[v.Kind]
	if !ok {
		return nil, fmt.Errorf("verdict %q: not known", v.Kind)
	}
	if v.Kind == hoststate.Jump || v.Kind == hoststate.Goto {
		if err := checkName("chain", v.Chain); err != nil {
			return nil, err
		}
	} else if v.Chain != "" {
		return nil, fmt.Errorf("verdict %q: takes no chain", v.Kind)
	}
	return &expr.Verdict{Kind: kind, Chain: v.Chain}, nil
}

// portRange lists the ends of a range of ports: none, one or two.
func portRange(first, last uint16) ([][]byte, error) {
	switch {
	case first == 0 && last == 0:
		return nil, nil
	case last == 0 || last == first:
		return [][]byte{portBytes(first)}, nil
	case first == 0 || last < first:
		return nil, fmt.Errorf("ports %d-%d: not a range", first, last)
	}
	return [][]byte{portBytes(first), portBytes(last)}, nil
}

func portBytes(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }

// ifnameBytes is a link's name as the kernel compares it: with NULs to 16 bytes.
func ifnameBytes(name string) ([]byte, error) {
	if name == "" || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("link name %q: has to have 1 to %d characters", name, unix.IFNAMSIZ-1)
	}
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b, nil
}

// maxNFTName is the longest name of a table, chain or set.
const maxNFTName = unix.NFT_NAME_MAXLEN - 1

func checkName(what, name string) error {
	if name == "" || len(name) > maxNFTName {
		return fmt.Errorf("%s name %q: has to have 1 to %d characters", what, name, maxNFTName)
	}
	return nil
}
