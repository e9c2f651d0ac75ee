package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

var families = map[hoststate.Family]uint8{
	hoststate.Inet:         unix.NFPROTO_INET,
	hoststate.BridgeFamily: unix.NFPROTO_BRIDGE,
	hoststate.IPv4Family:   unix.NFPROTO_IPV4,
	hoststate.IPv6Family:   unix.NFPROTO_IPV6,
	hoststate.ARPFamily:    unix.NFPROTO_ARP,
}

// hooks are the hooks by number, the same in all families but ARP's.
var hooks = []string{
	unix.NF_INET_PRE_ROUTING:  "prerouting",
	unix.NF_INET_LOCAL_IN:     "input",
	unix.NF_INET_FORWARD:      "forward",
	unix.NF_INET_LOCAL_OUT:    "output",
	unix.NF_INET_POST_ROUTING: "postrouting",
}

// hooksARP are those of ARP's family.
var hooksARP = []string{"input", "output"}

// hooksOf are the hooks of a family by number.
func hooksOf(family hoststate.Family) []string {
	if family == hoststate.ARPFamily {
		return hooksARP
	}
	return hooks
}

// dataType is an nft data type with its values.
type dataType struct {
	nftables.SetDatatype
	// field is some field of the type: the kernel keeps the type of a set only.
	field  hoststate.Field
	encode func(hoststate.Value) ([]byte, error)
	decode func([]byte) hoststate.Value
}

func encodeAddr(v hoststate.Value) ([]byte, error) { return v.Addr.AsSlice(), nil }

func decodeAddr(b []byte) hoststate.Value {
	a, _ := netip.AddrFromSlice(b)
	return hoststate.Addr(a)
}

// dataTypes are the types of the fields that sets are keyed by.
var dataTypes = map[string]dataType{
	"ipv4_addr": {nftables.TypeIPAddr, hoststate.FieldSAddr4, encodeAddr, decodeAddr},
	"ipv6_addr": {nftables.TypeIP6Addr, hoststate.FieldSAddr6, encodeAddr, decodeAddr},
	"ifname": {nftables.TypeIFName, hoststate.FieldIIFName,
		func(v hoststate.Value) ([]byte, error) { return ifnameBytes(v.IfName) },
		func(b []byte) hoststate.Value { return hoststate.IfName(nl.CString(b)) }},
	"inet_service": {nftables.TypeInetService, hoststate.FieldDPort,
		func(v hoststate.Value) ([]byte, error) { return portBytes(v.Port), nil },
		func(b []byte) hoststate.Value { return hoststate.Port(binary.BigEndian.Uint16(b)) }},
	"ether_addr": {nftables.TypeEtherAddr, hoststate.FieldEtherS,
		func(v hoststate.Value) ([]byte, error) { return v.MAC[:], nil },
		func(b []byte) hoststate.Value { return hoststate.Value{Type: "ether_addr", MAC: hoststate.MAC(b)} }},
}

// dynamicSetSize bounds what packets can put into a dynamic set. It is what
// nft chooses when nothing is said.
const dynamicSetSize = 65535

// addTable creates a table or changes its flags.
func addTable(t hoststate.TableRef, flags nftables.TableFlags) message {
	m := message{typ: unix.NFT_MSG_NEWTABLE, flags: unix.NLM_F_CREATE, family: families[t.Family]}
	m.attrs.str(unix.NFTA_TABLE_NAME, t.Name)
	m.attrs.u32(unix.NFTA_TABLE_FLAGS, uint32(flags))
	return m
}

// named is a request about an object that is in a table and has a name. In all
// of them the table is the first attribute and the name the second or third.
func named(typ uint16, t hoststate.TableRef, nameAttr uint16, name string) message {
	m := message{typ: typ, family: families[t.Family]}
	m.attrs.str(unix.NFTA_TABLE_NAME, t.Name)
	if name != "" {
		m.attrs.str(nameAttr, name)
	}
	return m
}

func deleteTable(t hoststate.TableRef) message { return named(unix.NFT_MSG_DELTABLE, t, 0, "") }

// addChain creates a chain without rules, or changes the policy of a base chain.
func addChain(c hoststate.Chain) (message, error) {
	m := named(unix.NFT_MSG_NEWCHAIN, c.Table, unix.NFTA_CHAIN_NAME, c.Name)
	m.flags = unix.NLM_F_CREATE
	if err := checkName("chain", c.Name); err != nil || c.Hook == nil {
		return m, err
	}
	number := slices.Index(hooksOf(c.Table.Family), c.Hook.Hook)
	if number < 0 {
		return m, fmt.Errorf("chain %s: no hook %q", c.Name, c.Hook.Hook)
	}
	policy := nftables.ChainPolicyAccept
	if c.Hook.Drop {
		policy = nftables.ChainPolicyDrop
	}
	m.attrs.nest(unix.NFTA_CHAIN_HOOK, func(a *attrs) {
		a.u32(unix.NFTA_HOOK_HOOKNUM, uint32(number))
		a.u32(unix.NFTA_HOOK_PRIORITY, uint32(int32(c.Hook.Priority)))
	})
	m.attrs.u32(unix.NFTA_CHAIN_POLICY, uint32(policy))
	m.attrs.str(unix.NFTA_CHAIN_TYPE, c.Hook.Type)
	return m, nil
}

func flushChain(c hoststate.Chain) message {
	return named(unix.NFT_MSG_DELRULE, c.Table, unix.NFTA_RULE_CHAIN, c.Name)
}

func deleteChain(c hoststate.Chain) message {
	return named(unix.NFT_MSG_DELCHAIN, c.Table, unix.NFTA_CHAIN_NAME, c.Name)
}

// addRule appends a rule to a chain.
func addRule(c hoststate.Chain, r hoststate.Rule) (message, error) {
	m := named(unix.NFT_MSG_NEWRULE, c.Table, unix.NFTA_RULE_CHAIN, c.Name)
	m.flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
	exprs, err := compileRule(c.Table.Family, r)
	if err != nil {
		return m, err
	}
	list, err := encodeExprs(m.family, exprs)
	if err != nil {
		return m, fmt.Errorf("rule %q: %w", r, err)
	}
	m.attrs.bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list)
	if _, reason := splitReason(r); reason != "" {
		if len(reason) > maxReason {
			return m, fmt.Errorf("rule %q: its reason has more than %d characters", r, maxReason)
		}
		m.attrs.bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, reason))
	}
	return m, nil
}

// addSet creates a set or map. The id tells sets of one batch apart.
func addSet(s hoststate.Set, id uint32) (message, error) {
	m := named(unix.NFT_MSG_NEWSET, s.Table, unix.NFTA_SET_NAME, s.Name)
	m.flags = unix.NLM_F_CREATE
	if err := checkName("set", s.Name); err != nil {
		return m, err
	}
	key, err := setKeyType(s)
	if err != nil {
		return m, err
	}
	flags := uint32(0)
	if s.Verdicts {
		flags |= unix.NFT_SET_MAP
	}
	if s.Dynamic {
		flags |= unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	}
	m.attrs.u32(unix.NFTA_SET_FLAGS, flags)
	m.attrs.u32(unix.NFTA_SET_KEY_TYPE, key.GetNFTMagic())
	m.attrs.u32(unix.NFTA_SET_KEY_LEN, key.Bytes)
	m.attrs.u32(unix.NFTA_SET_ID, id)
	if s.Verdicts {
		m.attrs.u32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		m.attrs.u32(unix.NFTA_SET_DATA_LEN, 0)
	}
	if s.Dynamic {
		m.attrs.u64(unix.NFTA_SET_TIMEOUT, uint64(s.TimeoutSeconds)*1000)
		m.attrs.nest(unix.NFTA_SET_DESC, func(a *attrs) { a.u32(unix.NFTA_SET_DESC_SIZE, dynamicSetSize) })
	}
	m.attrs.bytes(unix.NFTA_SET_USERDATA, setUserData(s))
	return m, nil
}

func deleteSet(s hoststate.Set) message {
	return named(unix.NFT_MSG_DELSET, s.Table, unix.NFTA_SET_NAME, s.Name)
}

// setKeyType is the data type of a set's key.
func setKeyType(s hoststate.Set) (nftables.SetDatatype, error) {
	if len(s.Fields) == 0 {
		return nftables.SetDatatype{}, fmt.Errorf("set %s: no fields", s.Name)
	}
	types := make([]nftables.SetDatatype, len(s.Fields))
	for i, f := range s.Fields {
		t, ok := dataTypes[f.Type()]
		if !ok {
			return nftables.SetDatatype{}, fmt.Errorf("set %s: no set is keyed by %q", s.Name, f)
		}
		types[i] = t.SetDatatype
	}
	if len(types) == 1 {
		return types[0], nil
	}
	return nftables.ConcatSetType(types...)
}

// setUserData says in which byte order nft is to print the keys; the kernel
// does not look at it.
func setUserData(s hoststate.Set) []byte {
	const hostOrder, bigEndian = 1, 2
	order := uint32(bigEndian)
	if len(s.Fields) == 1 && s.Fields[0].Type() == "ifname" {
		order = hostOrder
	}
	if len(s.Fields) > 1 {
		order = 0
	}
	return userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, order)
}

// elementMessage adds (NFT_MSG_NEWSETELEM) or deletes (NFT_MSG_DELSETELEM) an
// element.
func elementMessage(typ uint16, e hoststate.Element) (message, error) {
	m := message{typ: typ, flags: unix.NLM_F_CREATE, family: families[e.Table.Family]}
	if err := checkName("set", e.Set); err != nil {
		return m, err
	}
	key, err := elementKey(e)
	if err != nil {
		return m, err
	}
	var item attrs
	item.nest(unix.NFTA_SET_ELEM_KEY, func(a *attrs) { a.bytes(unix.NFTA_DATA_VALUE, key) })
	if e.Verdict != nil && typ == unix.NFT_MSG_NEWSETELEM {
		v, err := compileVerdict(*e.Verdict)
		if err != nil {
			return m, err
		}
		item.nest(unix.NFTA_SET_ELEM_DATA, func(a *attrs) {
			a.nest(unix.NFTA_DATA_VERDICT, func(a *attrs) {
				a.u32(unix.NFTA_VERDICT_CODE, uint32(v.Kind))
				if v.Chain != "" {
					a.str(unix.NFTA_VERDICT_CHAIN, v.Chain)
				}
			})
		})
	}
	m.attrs.str(unix.NFTA_SET_ELEM_LIST_TABLE, e.Table.Name)
	m.attrs.str(unix.NFTA_SET_ELEM_LIST_SET, e.Set)
	m.attrs.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(a *attrs) {
		a.bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, item)
	})
	return m, nil
}

// elementKey is the key as the kernel has it: the fields one behind the other,
// in a concatenation each padded to 4 bytes.
func elementKey(e hoststate.Element) ([]byte, error) {
	if len(e.Fields) == 0 {
		return nil, fmt.Errorf("element of %s: no key", e.Set)
	}
	var key []byte
	for _, v := range e.Fields {
		t, ok := dataTypes[v.Type]
		if !ok {
			return nil, fmt.Errorf("element of %s: no type %q", e.Set, v.Type)
		}
		b, err := t.encode(v)
		if err == nil && len(b) != int(t.Bytes) {
			err = fmt.Errorf("%v is no %s", v, v.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("element of %s: %w", e.Set, err)
		}
		key = append(key, b...)
		if len(e.Fields) > 1 {
			key = append(key, make([]byte, nl.Align(len(key))-len(key))...)
		}
	}
	return key, nil
}

// fitsIn reports whether an element can be in a set.
func fitsIn(e hoststate.Element, s hoststate.Set) bool {
	return s.Verdicts == (e.Verdict != nil) && !s.Dynamic &&
		slices.EqualFunc(e.Fields, s.Fields, func(v hoststate.Value, f hoststate.Field) bool { return v.Type == f.Type() })
}

// decodeTable reads the body of a table message.
func decodeTable(b []byte) (name string, flags nftables.TableFlags, owner uint32) {
	const ownerAttr = 7 // NFTA_TABLE_OWNER
	return nl.String(b, unix.NFTA_TABLE_NAME), nftables.TableFlags(nl.Uint32(b, unix.NFTA_TABLE_FLAGS)), nl.Uint32(b, ownerAttr)
}

// decodeChain reads the body of a chain message, without rules.
func decodeChain(t hoststate.TableRef, b []byte) hoststate.Chain {
	c := hoststate.Chain{Table: t, Name: nl.String(b, unix.NFTA_CHAIN_NAME)}
	hook := nl.Attr(b, unix.NFTA_CHAIN_HOOK)
	if hook == nil {
		return c
	}
	number := nl.Uint32(hook, unix.NFTA_HOOK_HOOKNUM)
	c.Hook = &hoststate.Hook{
		Type:     nl.String(b, unix.NFTA_CHAIN_TYPE),
		Hook:     fmt.Sprint(number),
		Priority: int(int32(nl.Uint32(hook, unix.NFTA_HOOK_PRIORITY))),
		Drop:     nftables.ChainPolicy(nl.Uint32(b, unix.NFTA_CHAIN_POLICY)) == nftables.ChainPolicyDrop,
	}
	if hooks := hooksOf(t.Family); int(number) < len(hooks) {
		c.Hook.Hook = hooks[number]
	}
	return c
}

// decodeRuleMessage reads the body of a rule message and names its chain.
func decodeRuleMessage(t hoststate.TableRef, b []byte) (chain string, rule hoststate.Rule) {
	chain = nl.String(b, unix.NFTA_RULE_CHAIN)
	exprs, err := decodeExprs(families[t.Family], nl.Attr(b, unix.NFTA_RULE_EXPRESSIONS))
	if err != nil {
		return chain, hoststate.Rule{foreignRule{err.Error()}}
	}
	rule = decodeRule(t.Family, exprs)
	if reason := ruleComment(b); reason != "" {
		rule = append(rule, hoststate.Because{Reason: reason})
	}
	return chain, rule
}

// decodeSet reads the body of a set message. A set that is none of ours comes
// back without fields; one that belongs to a foreign rule is not ok.
func decodeSet(t hoststate.TableRef, b []byte) (s hoststate.Set, ok bool) {
	const ours = unix.NFT_SET_MAP | unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	flags := nl.Uint32(b, unix.NFTA_SET_FLAGS)
	s = hoststate.Set{Table: t, Name: nl.String(b, unix.NFTA_SET_NAME)}
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		return s, false
	}
	s.Verdicts = flags&unix.NFT_SET_MAP != 0
	s.Dynamic = flags&(unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT) == unix.NFT_SET_EVAL|unix.NFT_SET_TIMEOUT
	if v := nl.Attr(b, unix.NFTA_SET_TIMEOUT); len(v) == 8 {
		s.TimeoutSeconds = int(time.Duration(binary.BigEndian.Uint64(v)) * time.Millisecond / time.Second)
	}
	if flags&^ours == 0 && (!s.Verdicts || nl.Uint32(b, unix.NFTA_SET_DATA_TYPE) == unix.NFT_DATA_VERDICT) {
		s.Fields = keyFields(nl.Uint32(b, unix.NFTA_SET_KEY_TYPE))
	}
	return s, true
}

// keyFields are fields of the types that a set's key is made of.
func keyFields(magic uint32) []hoststate.Field {
	var fields []hoststate.Field
	for ; magic != 0; magic >>= nftables.SetConcatTypeBits {
		f, ok := fieldOfType[magic&nftables.SetConcatTypeMask]
		if !ok {
			return nil
		}
		fields = append(fields, f)
	}
	slices.Reverse(fields)
	return fields
}

var fieldOfType = func() map[uint32]hoststate.Field {
	m := map[uint32]hoststate.Field{}
	for _, t := range dataTypes {
		m[t.GetNFTMagic()] = t.field
	}
	return m
}()

// decodeElements reads the body of an element message.
func decodeElements(s hoststate.Set, b []byte) []hoststate.Element {
	var out []hoststate.Element
	for _, item := range nl.Attrs(nl.Attr(b, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
		e := hoststate.Element{Table: s.Table, Set: s.Name}
		key := nl.Attr(nl.Attr(item, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)
		for _, f := range s.Fields {
			t := dataTypes[f.Type()]
			size := int(t.Bytes)
			if len(key) < size {
				return out
			}
			e.Fields = append(e.Fields, t.decode(key[:size]))
			key = key[min(nl.Align(size), len(key)):]
		}
		if s.Verdicts {
			data := nl.Attr(nl.Attr(item, unix.NFTA_SET_ELEM_DATA), unix.NFTA_DATA_VERDICT)
			v, ok := wantedVerdict(&expr.Verdict{
				Kind:  expr.VerdictKind(int32(nl.Uint32(data, unix.NFTA_VERDICT_CODE))),
				Chain: nl.String(data, unix.NFTA_VERDICT_CHAIN),
			})
			if !ok {
				v = hoststate.Verdict{Kind: "foreign"}
			}
			e.Verdict = &v
		}
		out = append(out, e)
	}
	return out
}
