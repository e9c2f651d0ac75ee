package outcome

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/xdr"
)

// filters calls the door of libvirt's packet filters.
func (s *site) filters(procedure uint32, args func(*xdr.Encoder)) error {
	s.t.Helper()
	return s.host.Do(func() error {
		c, err := rpctest.Dial("/run/libvirt/virtnwfilterd-sock")
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Open("nwfilter:///system", 0); err != nil {
			return err
		}
		_, err = c.Call(procedure, args)
		return err
	})
}

// bind binds a guest's link to a filter.
func (s *site) bind(link, filter string) error {
	return s.filters(399, func(e *xdr.Encoder) {
		e.String(fmt.Sprintf(`<filterbinding><owner><name>g</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='%s'/>
			<mac address='%s'/><filterref filter='%s'><parameter name='IP' value='192.168.50.9'/></filterref></filterbinding>`,
			link, net.HardwareAddr(mine[:]), filter))
		e.Uint32(0)
	})
}

// A guest whose link libvirt's QEMU driver binds to clean-traffic is filtered
// from the answer on, also by the next daemon, until the binding is deleted. A
// filter that cannot be enforced, and a link where none can be, is refused.
func TestBoundGuestIsFiltered(t *testing.T) {
	s := startSite(t, "--libvirt-sockets", "/run/libvirt")
	s.create(natXML("a", 50, ""))
	guest := s.host.OpenTap("vnet0")
	s.host.SetMaster("vnet0", "virbr50")
	s.host.LinkUp("vnet0")
	s.viaduct("port-create", "a", "--tap", "vm2")
	watcher := s.host.OpenTap("vm2")
	s.awaitPort(guest, watcher)
	s.awaitPort(watcher, guest)

	last := ether(mine, etherARP, arp4(2, mine, "192.168.50.9"))
	last[41]++
	try := func(when string, filtered bool) {
		t.Helper()
		frames := attempts()
		for _, a := range frames {
			_, err := guest.Write(a.frame)
			s.must(err)
		}
		guest.Write(last)
		found := s.seen(watcher, frames, last)
		for _, a := range frames {
			// clean-traffic is about IPv4 and ARP alone, and has nothing against servers.
			want := !filtered || a.frame[12] != 0x86 && (a.passes || a.name == "DHCP answer")
			if found[a.name] != want {
				t.Errorf("%s: %s passes: %v", when, a.name, found[a.name])
			}
		}
	}
	try("not bound", false)
	for filter, why := range map[string]string{"clean-traffic-gateway": "'clean-traffic-gateway' cannot be enforced", "nosuch": "'nosuch' is missing"} {
		if err := s.bind("vnet0", filter); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("bound to %s: %v", filter, err)
		}
	}
	s.must(s.bind("vnet0", "clean-traffic"))
	try("bound", true)
	s.daemon.Kill9()
	try("daemon killed", true)
	s.must(s.daemon.Start())
	try("daemon restarted", true)
	if err := s.bind("vnet0", "clean-traffic"); err == nil {
		t.Error("bound twice")
	}
	s.must(s.filters(400, func(e *xdr.Encoder) { e.String("vnet0"); e.String("clean-traffic") }))
	try("unbound", false)

	s.host.AddBridge("br-host")
	s.host.OpenTap("theirs")
	s.host.SetMaster("theirs", "br-host")
	if err := s.bind("theirs", "clean-traffic"); err == nil || !strings.Contains(err.Error(), "br-host") {
		t.Errorf("bound in a foreign bridge: %v", err)
	}
}

// A guest on a routed link is guarded as one on a bridge is, and nobody else
// uses its address.
func TestRoutedGuestSpeaksAsItself(t *testing.T) {
	s := startSite(t)
	s.create(`<network><name>a</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:ports layout='routed'/><v:guard/></v:settings></metadata>
		<forward mode='route'/></network>`)
	guest, other := s.host.OpenTap("vif1"), s.host.OpenTap("vif2")
	s.host.LinkUp("vif2")
	s.must(s.host.Do(func() error {
		conn, err := net.Dial("unix", s.daemon.Socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		query := url.Values{"link": {"vif1"}, "mac": {net.HardwareAddr(mine[:]).String()}, "routed": {
			`{"addresses":["192.168.50.9/32","fd00:50::9/128"],"gateways":["192.168.50.1","fe80::1"]}`}}
		r, err := http.NewRequest(http.MethodPost, "http://viaduct/v1/networks/a/ports?"+query.Encode(), nil)
		if err == nil {
			err = r.Write(conn)
		}
		if err != nil {
			return err
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err == nil && answer.StatusCode >= 300 {
			said, _ := io.ReadAll(answer.Body)
			err = fmt.Errorf("%s: %s", answer.Status, said)
		}
		return err
	}))
	s.settled()
	dropped := func() (n uint64) {
		for reason, count := range s.ports("a")[0].FromGuest.Drops {
			if slices.Contains([]string{"not its MAC address", "not its address", "not its address in ARP", "not its address in neighbour discovery",
				"DHCP server", "router advertisement", "VLAN tag"}, reason) {
				n += count
			}
		}
		return n
	}
	send := func(port *os.File, frame []byte) uint64 {
		before := dropped()
		_, err := port.Write(frame)
		s.must(err)
		return dropped() - before
	}
	for _, a := range attempts() {
		if a.name == "ARP of another kind" || strings.Contains(a.name, "VLAN") {
			continue // the kernel drops these itself
		}
		if n := send(guest, a.frame); (n == 0) != a.passes {
			t.Errorf("%s: dropped %d", a.name, n)
		}
	}
	s.must(func() error {
		_, err := other.Write(ether(another, etherIPv4, ip4("192.168.50.9", protoUDP, udp(9, 9, []byte("............")))))
		return err
	}())
	if rules := s.mustRun("nft", "list", "chain", "inet", "viaduct", "unrouted"); !strings.Contains(rules, "@behind4 counter packets 1") {
		t.Errorf("another link used the guest's address:\n%s", rules)
	}
}
