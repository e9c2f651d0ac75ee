package dhcp4

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/netdef"
)

// action is what a server does about a message.
type action uint8

const (
	actNothing    action = iota
	actOffer             // offer verdict.addr
	actAck               // lease verdict.addr and confirm it
	actNak               // refuse what the client asked for
	actInform            // confirm without a lease
	actWithdraw          // give up our offer of verdict.addr: the client chose another server
	actRelease           // end the lease of verdict.addr
	actQuarantine        // end the lease of verdict.addr, which somebody else uses
)

var actionNames = [...]string{"nothing", "offer", "ack", "nak", "inform", "withdraw", "release", "quarantine"}

func (a action) String() string { return actionNames[a] }

// verdict is the decision about one message.
type verdict struct {
	action action
	addr   netip.Addr
	// lease is for how long the address is given; 0 means for ever.
	lease time.Duration
	// name is the host name that the client gets with the address.
	name string
	// probe says that the address has to be probed before it is offered, since
	// the client is not known to have had it.
	probe bool
	// why is the reason of a refusal, or of doing nothing.
	why string
}

// whyExhausted is the one reason for doing nothing that the administrator should know.
const whyExhausted = "no free address"

func nothing(why string) verdict { return verdict{action: actNothing, why: why} }

// minRequested is the shortest lease that a client gets by asking for it.
const minRequested = 2 * time.Minute

// decide says what to do about a message (RFC 2131 section 4.3), by what the
// pool and the lease table hold. It changes neither.
func decide(st *state, m *message, now time.Time) verdict {
	if m.relay.IsValid() && !st.Address.Contains(m.relay) {
		return nothing("relayed from another subnet")
	}
	if m.server.IsValid() && m.server != st.server && m.kind != dhcpv4.MessageTypeRequest {
		return nothing("for another server")
	}
	switch m.kind {
	case dhcpv4.MessageTypeDiscover:
		return decideDiscover(st, m, now)
	case dhcpv4.MessageTypeRequest:
		return decideRequest(st, m, now)
	case dhcpv4.MessageTypeDecline:
		return decideDecline(st, m, now)
	case dhcpv4.MessageTypeRelease:
		return decideRelease(st, m, now)
	case dhcpv4.MessageTypeInform:
		if !m.ciaddr.IsValid() || !st.Address.Contains(m.ciaddr) {
			return nothing("inform without an address in this subnet")
		}
		return verdict{action: actInform, addr: m.ciaddr}
	}
	return nothing("no message for a server")
}

// decideDiscover is RFC 2131 section 4.3.1: the client's reservation, else the
// address it has or had, else the one it wishes, else a new one.
func decideDiscover(st *state, m *message, now time.Time) verdict {
	former, known := st.leases.ByClient(m.clientID, m.mac)
	if h := st.hostOf(m); h != nil && st.FreeFor(h.Addr, m.key, now) {
		return st.grant(actOffer, h.Addr, m, now)
	}
	if known && st.refusal(former.Addr, m, now) == "" {
		return st.grant(actOffer, former.Addr, m, now)
	}
	if h := st.OfferTo(m.key); h != nil && st.refusal(h.Addr, m, now) == "" {
		return st.grant(actOffer, h.Addr, m, now)
	}
	if m.requested.IsValid() && st.refusal(m.requested, m, now) == "" {
		return st.grant(actOffer, m.requested, m, now)
	}
	if a, ok := st.Pick(m.mac[:], now); ok {
		return st.grant(actOffer, a, m, now)
	}
	return nothing(whyExhausted)
}

// decideRequest is RFC 2131 section 4.3.2. A client whose lease we do not know
// gets it again as long as nobody else has the address: a guest that works is
// not cut off because we lost our memory.
func decideRequest(st *state, m *message, now time.Time) verdict {
	// How the fields tell the client's state is table 4 of section 4.3.6.
	selecting := m.server.IsValid()
	addr := m.requested
	if !addr.IsValid() || !selecting && m.ciaddr.IsValid() {
		addr = m.ciaddr // renewing or rebinding
	}
	if selecting && m.server != st.server {
		if h := st.OfferTo(m.key); h != nil {
			return verdict{action: actWithdraw, addr: h.Addr, why: "client chose another server"}
		}
		return nothing("client chose another server")
	}
	if !addr.IsValid() {
		return nothing("request for no address")
	}
	if why := st.refusal(addr, m, now); why != "" {
		return verdict{action: actNak, addr: addr, why: why}
	}
	return st.grant(actAck, addr, m, now)
}

// decideDecline is RFC 2131 section 4.3.3. Only what the client could have got
// from us is believed.
func decideDecline(st *state, m *message, now time.Time) verdict {
	if holder, held := st.Holder(m.requested, now); !held || holder != m.key {
		return nothing("decline of an address that the client does not have")
	}
	return verdict{action: actQuarantine, addr: m.requested, why: "declined by the client"}
}

// decideRelease is RFC 2131 section 4.3.4.
func decideRelease(st *state, m *message, now time.Time) verdict {
	l, ok := st.leases.ByAddr(m.ciaddr)
	if !ok || l.Expired(now) || leases.ClientKey(l.ClientID, l.MAC) != m.key {
		return nothing("release of an address that the client does not have")
	}
	return verdict{action: actRelease, addr: m.ciaddr}
}

// refusal says why a client cannot have an address; "" if it can.
func (st *state) refusal(a netip.Addr, m *message, now time.Time) string {
	reserved := st.hostAt[a]
	own := st.hostOf(m)
	switch {
	case !st.Address.Contains(a):
		return "address is of another subnet"
	case st.space.HasRole(a):
		return "address is not for guests"
	case reserved != nil && reserved != own:
		return "address is reserved for another guest"
	case reserved == nil && !st.space.Open(a):
		return "address is not in a range for guests"
	case own != nil && own.Addr != a && st.FreeFor(own.Addr, m.key, now):
		return "another address is reserved for the guest"
	}
	holder, held := st.Holder(a, now)
	if !held || holder == m.key {
		return ""
	}
	// A guest that works with the address comes before one that has only a promise.
	if h := st.OfferOf(a); h != nil && h.Key == holder && m.ciaddr == a && !st.leasedAt(a, now) {
		return ""
	}
	return "address is taken"
}

func (st *state) leasedAt(a netip.Addr, now time.Time) bool {
	l, ok := st.leases.ByAddr(a)
	return ok && !l.Expired(now)
}

// grant is the verdict by which the client gets an address.
func (st *state) grant(act action, a netip.Addr, m *message, now time.Time) verdict {
	v := verdict{action: act, addr: a, lease: st.leaseFor(a, m), probe: act == actOffer && st.unproven(a, m)}
	v.name = st.leases.NameFor(st.leaseOf(v, m, now))
	return v
}

// unproven reports whether somebody without a lease may use the address: it
// is neither one that the client had nor one that was probed for it just now.
func (st *state) unproven(a netip.Addr, m *message) bool {
	if l, ok := st.leases.ByClient(m.clientID, m.mac); ok && l.Addr == a {
		return false
	}
	h := st.OfferTo(m.key)
	return h == nil || h.Addr != a || !h.Ready
}

// leaseFor is for how long the client gets an address, 0 for ever: what is
// configured, or less if it asks for less.
func (st *state) leaseFor(a netip.Addr, m *message) time.Duration {
	configured := st.leaseTime(a)
	asked := m.packet.IPAddressLeaseTime(0)
	if asked <= 0 || asked >= maxLease {
		return configured
	}
	asked = max(asked, minRequested)
	if configured == 0 {
		return asked
	}
	return min(asked, configured)
}

// leaseOf is the lease that a verdict gives, with the name that the client wishes.
func (st *state) leaseOf(v verdict, m *message, now time.Time) netdef.Lease {
	l := netdef.Lease{
		Network: st.Network, Addr: v.addr, PrefixLen: st.Address.Bits(), MAC: m.mac, ClientID: m.clientID, Hostname: m.name,
	}
	if v.lease != 0 {
		l.Expiry = now.Add(v.lease)
	}
	if h := st.hostOf(m); h != nil && h.Name != "" {
		l.Hostname = h.Name
	}
	return l
}

// destination is where the reply to a message goes (RFC 2131 section 4.1).
func destination(m *message, v verdict) (netdef.MAC, netip.AddrPort) {
	switch {
	case m.relay.IsValid():
		return m.from, netip.AddrPortFrom(m.relay, serverPort)
	case v.action == actNak:
		return broadcastMAC, netip.AddrPortFrom(broadcastAddr, clientPort)
	case m.ciaddr.IsValid() && v.action != actOffer:
		return m.mac, netip.AddrPortFrom(m.ciaddr, clientPort)
	case m.packet.IsBroadcast():
		return broadcastMAC, netip.AddrPortFrom(broadcastAddr, clientPort)
	}
	return m.mac, netip.AddrPortFrom(v.addr, clientPort)
}

// String is the verdict as the log has it.
func (v verdict) String() string {
	s := v.action.String()
	if v.addr.IsValid() {
		s += " " + v.addr.String()
	}
	if v.why != "" {
		s = fmt.Sprintf("%s (%s)", s, v.why)
	}
	return s
}
