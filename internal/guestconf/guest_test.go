package guestconf

import (
	"net/netip"
	"slices"
	"testing"

	"viaduct/internal/netdef"
)

const network = `<network><name>n</name><forward mode='nat'/><bridge name='virbr9'/><mtu size='1400'/><domain name='example.test'/>
<ip address='192.168.2.1' netmask='255.255.255.0'><dhcp><range start='192.168.2.100' end='192.168.2.200'/>
<host mac='00:16:3e:4f:94:a9' name='alice' ip='192.168.2.10'/><host mac='00:16:3e:4f:94:aa' name='dolly' ip='192.168.2.11'/></dhcp></ip>
<ip family='ipv6' address='fd00:2::1' prefix='64'><dhcp><host id='00:03:00:01:00:16:3e:4f:94:a9' name='alice' ip='fd00:2::10'/></dhcp></ip></network>`

func parse(t *testing.T, xml string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGuests(t *testing.T) {
	n := parse(t, network)
	alice, err := Find(Reserved(n), "Alice")
	if err != nil || len(alice.Addresses) != 2 {
		t.Fatalf("alice is %v, %v", alice, err)
	}
	if _, err := Find(Reserved(n), "bob"); err == nil {
		t.Error("bob is found")
	}

	c, err := Of(n, alice, false)
	if err != nil || !c.DHCP4 || !c.Auto6 || len(c.Addresses) > 0 || len(c.Gateways) > 0 || c.MTU != 1400 {
		t.Errorf("by DHCP: %+v, %v", c, err)
	}
	c, err = Of(n, alice, true)
	if err != nil || c.DHCP4 || c.Auto6 || !slices.Equal(c.Addresses, prefixes("192.168.2.10/24", "fd00:2::10/64")) ||
		len(c.Gateways) != 2 || c.Gateways[0].OnLink || len(c.DNS) != 2 || c.Domain != "example.test" {
		t.Errorf("static: %+v, %v", c, err)
	}
	stranger, err := Find(Reserved(n), "00:16:3e:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Of(n, stranger, true); err == nil {
		t.Errorf("a guest without an address has %+v", c)
	}
	c, err = Of(n, stranger, true, netip.MustParsePrefix("192.168.2.77/24"))
	if err != nil || len(c.Gateways) != 1 || len(c.DNS) != 1 {
		t.Errorf("with an address of its own: %+v, %v", c, err)
	}

	lan := parse(t, `<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>`)
	if c, err = Of(lan, stranger, false); err != nil || !c.DHCP4 || !c.Auto6 {
		t.Errorf("on a LAN: %+v, %v", c, err)
	}
	isolated := parse(t, `<network><name>i</name><bridge name='virbr8'/><ip address='10.1.0.1' prefix='24'/></network>`)
	c, err = Of(isolated, stranger, false, netip.MustParsePrefix("10.1.0.9/24"))
	if err != nil || len(c.Gateways) > 0 {
		t.Errorf("in an isolated network: %+v, %v", c, err)
	}
}
