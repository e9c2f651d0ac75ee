package dhcp6

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

// answer is what is said to a message, and what has to be on disk before.
type answer struct {
	kind   dhcpv6.MessageType // MessageTypeNone where nothing is said
	status *dhcpv6.OptStatusCode
	ias    []verdict
	// bare answers tell nothing of the network.
	bare  bool
	rapid bool
	// name is the host name that the client gets with its addresses.
	name string
	// quarantine says that addresses given back are used by somebody else.
	quarantine bool
	// why is the reason for saying nothing.
	why string
}

// verdict is the decision about one identity association.
type verdict struct {
	ia ia
	// addr is the address that the client gets, invalid if none, for the time
	// of lease. A reply with one is a promise; an advertisement is none.
	addr  netip.Addr
	lease time.Duration
	// ended are addresses that the client shall not use any longer.
	ended []netip.Addr
	// gone is the address that the client gave back. Then nothing is said.
	gone   netip.Addr
	status *dhcpv6.OptStatusCode
}

func nothing(why string) answer { return answer{why: why} }

// What a client is told by a status code (RFC 8415 section 21.13).
var (
	statusDone         = &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess, StatusMessage: "done"}
	statusOnLink       = &dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess, StatusMessage: "all addresses are of this network"}
	statusNotOnLink    = &dhcpv6.OptStatusCode{StatusCode: iana.StatusNotOnLink, StatusMessage: "an address is not of this network"}
	statusUseMulticast = &dhcpv6.OptStatusCode{StatusCode: iana.StatusUseMulticast, StatusMessage: "ask all servers"}
	statusNoAddress    = &dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "no free address"}
	statusNoTemporary  = &dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail, StatusMessage: "no temporary addresses are leased"}
	statusNoPrefix     = &dhcpv6.OptStatusCode{StatusCode: iana.StatusNoPrefixAvail, StatusMessage: "no prefixes are delegated"}
	statusNoBinding    = &dhcpv6.OptStatusCode{StatusCode: iana.StatusNoBinding, StatusMessage: "nothing is leased to this association"}
)

// neverGiven are the kinds of identity associations that get nothing, and why.
var neverGiven = map[dhcpv6.OptionCode]*dhcpv6.OptStatusCode{
	dhcpv6.OptionIATA: statusNoTemporary, dhcpv6.OptionIAPD: statusNoPrefix,
}

// answer says what is said to a message (RFC 8415 section 18.3). An address
// that the client gets is kept for it by an offer.
func (st *state) answer(m *message, now time.Time) answer {
	rule := rules[m.kind]
	switch {
	case len(m.serverID) > 0 && !bytes.Equal(m.serverID, st.duid):
		for _, a := range m.ias {
			if m.kind == dhcpv6.MessageTypeRequest {
				st.Withdraw(st.OfferTo(leases.DUIDKey(m.clientID, a.id)))
			}
		}
		return nothing("for another server")
	case !m.group && !rule.unicast:
		return nothing("not sent to the group")
	case !m.group:
		return answer{kind: dhcpv6.MessageTypeReply, status: statusUseMulticast, bare: true}
	}
	return rule.answer(st, m, now)
}

// answerSolicit is section 18.3.1. The short way, without a request, is taken
// only if there is something to give.
func answerSolicit(st *state, m *message, now time.Time) answer {
	a := st.assignAll(dhcpv6.MessageTypeAdvertise, m, now)
	if m.rapid && a.gives() {
		a.kind, a.rapid = dhcpv6.MessageTypeReply, true
	}
	return a
}

// answerRequest is section 18.3.2.
func answerRequest(st *state, m *message, now time.Time) answer {
	for _, i := range m.ias {
		if !st.onLink(i.addrs) {
			a := answer{kind: dhcpv6.MessageTypeReply}
			for _, i := range m.ias {
				a.ias = append(a.ias, verdict{ia: i, status: statusNotOnLink})
			}
			return a
		}
	}
	return st.assignAll(dhcpv6.MessageTypeReply, m, now)
}

// answerConfirm is section 18.3.3: only whether addresses fit the link counts.
func answerConfirm(st *state, m *message, _ time.Time) answer {
	a := answer{kind: dhcpv6.MessageTypeReply, status: statusOnLink, bare: true}
	asked := false
	for _, i := range m.ias {
		asked = asked || len(i.addrs) > 0
		if !st.onLink(i.addrs) {
			a.status = statusNotOnLink
		}
	}
	if !asked {
		return nothing("confirm of no address")
	}
	return a
}

// answerRenew is sections 18.3.4 and 18.3.5. There is one server only, so what
// it says to a client that looks for any server is the same.
func answerRenew(st *state, m *message, now time.Time) answer {
	a := answer{kind: dhcpv6.MessageTypeReply}
	for _, i := range m.ias {
		a.ias = append(a.ias, st.extend(i, m, now))
	}
	return st.withName(a, m, now)
}

// answerRelease is section 18.3.7.
func answerRelease(st *state, m *message, now time.Time) answer {
	a := answer{kind: dhcpv6.MessageTypeReply, status: statusDone, bare: true}
	for _, i := range m.ias {
		v := verdict{ia: i, status: statusNoBinding}
		l, ok := st.leases.ByDUID(m.clientID, i.id)
		if i.code == dhcpv6.OptionIANA && ok && !l.Expired(now) {
			v.status = nil
			for _, addr := range i.addrs {
				if addr == l.Addr {
					v.gone = addr
				}
			}
			if !v.gone.IsValid() {
				continue // it gives back nothing that it has
			}
		}
		a.ias = append(a.ias, v)
	}
	return a
}

// answerDecline is section 18.3.8. Only of what the client has from us is it
// believed that somebody else uses it.
func answerDecline(st *state, m *message, now time.Time) answer {
	a := answerRelease(st, m, now)
	a.quarantine = true
	return a
}

// answerInform is section 18.3.6.
func answerInform(*state, *message, time.Time) answer {
	return answer{kind: dhcpv6.MessageTypeReply}
}

func (st *state) onLink(addrs []netip.Addr) bool {
	for _, a := range addrs {
		if !st.Address.Contains(a) {
			return false
		}
	}
	return true
}

// gives reports whether the client gets any address.
func (a answer) gives() bool {
	for _, v := range a.ias {
		if v.addr.IsValid() {
			return true
		}
	}
	return false
}

func (st *state) assignAll(kind dhcpv6.MessageType, m *message, now time.Time) answer {
	a := answer{kind: kind}
	for _, i := range m.ias {
		a.ias = append(a.ias, st.assign(i, m, now))
	}
	return st.withName(a, m, now)
}

// withName adds the name that the client gets with its first address.
func (st *state) withName(a answer, m *message, now time.Time) answer {
	for _, v := range a.ias {
		if v.addr.IsValid() {
			a.name = st.leases.NameFor(st.leaseOf(v, m, now))
			break
		}
	}
	return a
}

// assign gives an identity association the address it has a claim to, else a new one.
func (st *state) assign(i ia, m *message, now time.Time) verdict {
	if status := neverGiven[i.code]; status != nil {
		return verdict{ia: i, status: status}
	}
	key := leases.DUIDKey(m.clientID, i.id)
	addr, ok := st.claim(i, key, m, now)
	if !ok {
		addr, ok = st.Pick([]byte(key), now)
	}
	if !ok {
		return verdict{ia: i, status: statusNoAddress}
	}
	return st.grant(i, addr, key, now)
}

// extend lets an identity association keep its address. A client whose lease
// we do not know gets it again as long as nobody else has the address: a guest
// that works is not cut off because we lost our memory. Other addresses that it
// believes to have are ended.
func (st *state) extend(i ia, m *message, now time.Time) verdict {
	if neverGiven[i.code] != nil {
		return verdict{ia: i, status: statusNoBinding}
	}
	key := leases.DUIDKey(m.clientID, i.id)
	_, known := st.leases.ByDUID(m.clientID, i.id)
	addr, ok := st.claim(i, key, m, now)
	// One without any address asks for its first (section 18.2.4).
	if fresh := len(i.addrs) == 0; !ok && (known || fresh) {
		if addr, ok = st.Pick([]byte(key), now); !ok && fresh {
			return verdict{ia: i, status: statusNoAddress}
		}
	}
	v := verdict{ia: i}
	if ok {
		v = st.grant(i, addr, key, now)
	}
	for _, a := range i.addrs {
		if a != v.addr && (ok || known || !st.Address.Contains(a)) {
			v.ended = append(v.ended, a)
		}
	}
	if !ok && len(v.ended) < len(i.addrs) {
		v.status = statusNoBinding
	}
	return v
}

// claim is the address that an identity association should get before any
// other: that reserved for the client, else the one it has or had, else the one
// offered to it, else one that it wishes.
func (st *state) claim(i ia, key string, m *message, now time.Time) (netip.Addr, bool) {
	var candidates []netip.Addr
	if h := st.hostOf(m); h != nil && st.FreeFor(h.Addr, key, now) {
		return h.Addr, true
	}
	if l, ok := st.leases.ByDUID(m.clientID, i.id); ok {
		candidates = append(candidates, l.Addr)
	}
	if h := st.OfferTo(key); h != nil {
		candidates = append(candidates, h.Addr)
	}
	for _, a := range append(candidates, i.addrs...) {
		if st.refusal(a, key, m, now) == "" {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// refusal says why a client without a free reservation cannot have an address;
// "" if it can.
func (st *state) refusal(a netip.Addr, key string, m *message, now time.Time) string {
	reserved := st.hostAt[a]
	switch {
	case !st.Address.Contains(a):
		return "address is of another subnet"
	case st.space.HasRole(a):
		return "address is not for guests"
	case reserved != nil && reserved != st.hostOf(m):
		return "address is reserved for another guest"
	case reserved == nil && !st.space.Open(a):
		return "address is not in a range for guests"
	case st.FreeFor(a, key, now):
		return ""
	}
	// A guest that works with the address comes before one that has only a promise.
	working := m.kind == dhcpv6.MessageTypeRenew || m.kind == dhcpv6.MessageTypeRebind
	if l, ok := st.leases.ByAddr(a); working && st.OfferOf(a) != nil && (!ok || l.Expired(now)) {
		return ""
	}
	return "address is taken"
}

// grant is the verdict by which an association gets an address, which is then
// kept for it.
func (st *state) grant(i ia, a netip.Addr, key string, now time.Time) verdict {
	if l, ok := st.leases.ByAddr(a); !ok || l.Expired(now) {
		st.Offer(a, key, now)
	}
	return verdict{ia: i, addr: a, lease: st.leaseTime(a)}
}

// leaseOf is the lease that a verdict gives, with the name that the client wishes.
func (st *state) leaseOf(v verdict, m *message, now time.Time) netdef.Lease {
	l := netdef.Lease{
		Network: st.Network, Addr: v.addr, PrefixLen: st.Address.Bits(), MAC: m.mac,
		ClientID: m.clientID, IAID: v.ia.id, Hostname: m.name,
	}
	if v.lease != forever {
		l.Expiry = now.Add(v.lease)
	}
	if h := st.hostOf(m); h != nil && h.Name != "" {
		l.Hostname = h.Name
	}
	return l
}

// String is the answer as the log has it.
func (a answer) String() string {
	if a.kind == dhcpv6.MessageTypeNone {
		return "nothing (" + a.why + ")"
	}
	var b strings.Builder
	b.WriteString(strings.ToLower(a.kind.String()))
	if a.rapid {
		b.WriteString(" at once")
	}
	if a.status != nil {
		fmt.Fprintf(&b, " %s", a.status.StatusCode)
	}
	for _, v := range a.ias {
		b.WriteString(v.String(a.quarantine))
	}
	return b.String()
}

// String is the verdict as the log has it.
func (v verdict) String(quarantine bool) string {
	var b strings.Builder
	switch v.ia.code {
	case dhcpv6.OptionIATA:
		b.WriteString("; temporary")
	case dhcpv6.OptionIAPD:
		b.WriteString("; prefix")
	default:
		fmt.Fprintf(&b, "; %d", v.ia.id)
	}
	if v.addr.IsValid() {
		fmt.Fprintf(&b, " gets %s", v.addr)
	}
	for _, a := range v.ended {
		fmt.Fprintf(&b, " loses %s", a)
	}
	switch {
	case v.gone.IsValid() && quarantine:
		fmt.Fprintf(&b, " declines %s", v.gone)
	case v.gone.IsValid():
		fmt.Fprintf(&b, " releases %s", v.gone)
	}
	if v.status != nil {
		fmt.Fprintf(&b, " %s", v.status.StatusCode)
	}
	return b.String()
}
