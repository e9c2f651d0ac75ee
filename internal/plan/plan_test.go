package plan

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

var update = flag.Bool("update", false, "write what the plans are now into the golden files")

const head = `<network><name>net</name><uuid>3e3fce45-4f53-4fa7-bb32-11f34168b82b</uuid>`

const routedPorts = `<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:ports layout='routed'/>`

// networks are definitions whose plans are kept in testdata/NAME.plan.
var networks = []struct {
	name  string
	xml   string
	facts Facts
}{
	{name: "nat", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<domain name='lab.example' localOnly='yes'/>
		<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
		<range start='192.168.122.2' end='192.168.122.254'/>
		<host mac='52:54:00:aa:bb:cc' name='web' ip='192.168.122.10'/></dhcp></ip></network>`},
	{name: "nat-dev-and-ranges", xml: head + `<forward dev='eth1' mode='nat'><nat><address start='203.0.113.10' end='203.0.113.20'/><port start='5000' end='6000'/></nat></forward>
		<bridge name='virbr1' stp='off'/><mac address='52:54:00:01:02:03'/>
		<ip address='10.1.0.1' prefix='16'/><ip address='10.2.0.1' prefix='16'/></network>`},
	{name: "nat-ports", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/><mtu size='9000'/>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Ports: []Port{{Link: "vnet0", Guest: true}, {Link: "vnet1", Guest: true}}}},
	{name: "nat-plugged", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Ports: []Port{{Link: "vif5.0", Guest: true, Plugged: true}, {Link: "vnet0", Guest: true}}}},
	{name: "nat-guarded", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.122.1' prefix='24'><dhcp><range start='192.168.122.2' end='192.168.122.254'/>
		<host mac='52:54:00:aa:bb:cc' name='web' ip='192.168.122.10'/></dhcp></ip><ip family='ipv6' address='fd00:122::1' prefix='64'/></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vnet0", Guest: true, Def: netdef.Port{MAC: netdef.MAC{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}}, Guard: netdef.FullGuard(), Leases: []netip.Addr{netip.MustParseAddr("192.168.122.77")}},
			{Link: "vnet1", Guest: true},
			{Link: "vnet2", Guest: true, Def: netdef.Port{MAC: netdef.MAC{2, 0, 0, 0, 0, 1}}, Guard: &netdef.Guard{NoMACSpoof: true, Only: []netdef.EtherType{netdef.EtherIPv4, netdef.EtherARP}}},
		}}},
	{name: "route-guarded-links", xml: head + `<forward mode='route'/><bridge name='virbr0' stp='off'/><mac address='52:54:00:01:02:03'/><dns enable='no'/>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Ports: []Port{{Link: "vif1.0", Guest: true, Plugged: true, Def: netdef.Port{MAC: netdef.MAC{2, 0, 0, 0, 0, 1}}, Guard: &netdef.Guard{
			NoMACSpoof: true, NoIPSpoof: true, NoARPSpoof: true, Routed: true,
			Prefixes: []netip.Prefix{netip.MustParsePrefix("192.168.122.7/32"), netip.MustParsePrefix("fd00::7/128")},
		}}}}},
	{name: "nat-limits", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<bandwidth><inbound average='1000' peak='5000' burst='5120'/><outbound average='700'/></bandwidth>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vif5.0", Guest: true, Plugged: true, Def: netdef.Port{MAC: netdef.MAC{0, 0x16, 0x3e, 1, 2, 3}, Bandwidth: &netdef.Bandwidth{
				Inbound: &netdef.Rate{Average: 200, Floor: 100}, Outbound: &netdef.Rate{Average: 300, Peak: 400}, ClassID: 4,
			}}},
			{Link: "vnet0", Guest: true, Def: netdef.Port{MAC: netdef.MAC{0x52, 0x54, 0, 1, 2, 3}, Bandwidth: &netdef.Bandwidth{
				Inbound: &netdef.Rate{Average: 7, Floor: 50}, ClassID: 3,
			}}},
		}}},
	{name: "routed-nat", xml: head + routedPorts + `<v:exempt destination='10.9.0.0/16'/></v:settings></metadata><forward mode='nat' dev='eth0'/>
		<dns><forwarder addr='192.0.2.53'/></dns></network>`,
		facts: Facts{Ports: []Port{{Link: "vif1.0", Guest: true, Plugged: true, Def: netdef.Port{MAC: netdef.MAC{0, 0x16, 0x3e, 0, 0, 1}}, Routed: &netdef.Routed{
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.1/32")}, Gateways: []netip.Addr{netip.MustParseAddr("10.0.1.128")}, HostName: "dom1",
		}}}}},
	{name: "routed-route", xml: head + routedPorts + `</v:settings></metadata><forward mode='route'/></network>`,
		facts: Facts{Uplinks: []string{"eth0"}, ForceForwarding: true, Ports: []Port{{Link: "vif2.0", Guest: true, Plugged: true, Def: netdef.Port{MAC: netdef.MAC{0, 0x16, 0x3e, 0, 0, 2}}, Routed: &netdef.Routed{
			Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/32"), netip.MustParsePrefix("192.0.2.64/28"), netip.MustParsePrefix("2001:db8::9/128"),
				netip.MustParsePrefix("2001:db8::10/126"), netip.MustParsePrefix("2001:db8:9::/64")},
			Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("fe80::1")}, Uplink: "eth0",
		}}}}},
	{name: "inbound", xml: head + strings.TrimSuffix(routedPorts, "<v:ports layout='routed'/>") + `<v:inbound to='192.0.2.9' from='198.51.100.0/24' protocol='tcp' port='22'/>
		<v:inbound to='192.0.2.9' protocol='icmp'/><v:inbound to='192.0.2.16/28' allow='no'/><v:inbound to='2001:db8::9' protocol='udp' port='5000-5010'/></v:settings></metadata>
		<forward mode='route' dev='eth0'/><bridge name='virbr0' stp='off'/><mac address='52:54:00:01:02:03'/><dns enable='no'/>
		<ip address='192.0.2.1' prefix='24'/><ip family='ipv6' address='2001:db8::1' prefix='64'/></network>`},
	{name: "nat-real-stp", xml: head + strings.TrimSuffix(routedPorts, "<v:ports layout='routed'/>") + `<v:stp hello='1' max-age='12'/></v:settings></metadata><forward mode='nat'/><bridge name='virbr0' delay='4'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.122.1' prefix='24'/></network>`},
	{name: "nat-wire", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Ports: []Port{{Link: "vnet0", Guest: true}, {Link: "eth1"}}}},
	{name: "nat-dns-elsewhere", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<domain name='lab.example' localOnly='yes' register='yes'/>
		<ip address='192.168.122.1' prefix='24'/></network>`, facts: Facts{DNSPort: 5354}},
	{name: "nat-beside-docker", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.122.1' prefix='24'/></network>`,
		facts: Facts{Passes: []hoststate.Pass{{Table: hoststate.TableRef{Family: hoststate.IPv4Family, Name: "filter"}, Chain: "DOCKER-USER"}}}},
	{name: "nat6", xml: head + `<forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/>
		<domain name='lab.example'/><ip address='192.168.122.1' prefix='24'/><ip family='ipv6' address='fd00:122::1' prefix='64'>
		<dhcp><range start='fd00:122::100' end='fd00:122::1ff'/><host id='0:1:0:1:18:aa' name='web' ip='fd00:122::10'/></dhcp></ip></network>`,
		facts: Facts{ForceForwarding: true, Uplinks: []string{"eth0", "eth1"}}},
	{name: "route6-old-kernel", xml: head + `<forward mode='route' dev='eth0'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/><dns enable='no'/>
		<ip family='ipv6' address='2001:db8:1::1' prefix='64'/>
		<route family='ipv6' address='2001:db8:2::' prefix='64' gateway='2001:db8:1::2' metric='5'/></network>`,
		facts: Facts{Uplinks: []string{"eth0", "eth1"}, RALinks: []string{"eth0", "eth1"}}},
	{name: "isolated", xml: head + `<bridge name='virbr2'/><mac address='52:54:00:01:02:03'/>
		<ip address='192.168.100.1' prefix='24'><dhcp><range start='192.168.100.100' end='192.168.100.200'/></dhcp></ip></network>`},
	{name: "route", xml: head + `<forward mode='route' dev='eth0'/><bridge name='virbr3'/><mac address='52:54:00:01:02:03'/>
		<ip address='198.51.100.1' prefix='24'/></network>`},
	{name: "answer", xml: head + `<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:answer dev='eth0'/></v:settings></metadata>
		<forward mode='route' dev='eth0'/><bridge name='virbr3' stp='off'/><mac address='52:54:00:01:02:03'/><dns enable='no'/>
		<ip address='198.51.100.9' prefix='29'/><ip family='ipv6' address='2001:db8:0:1::1' prefix='64'><dhcp>
		<range start='2001:db8:0:1::100' end='2001:db8:0:1::1ff'/><host name='web' ip='2001:db8:0:1::7'/></dhcp></ip></network>`,
		facts: Facts{Uplinks: []string{"eth0"}, ForceForwarding: true,
			Leases: []netip.Addr{netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8:0:1::123")}}},
	{name: "open", xml: head + `<forward mode='open'/><bridge name='virbr4'/><mac address='52:54:00:01:02:03'/><dns enable='no'/>
		<ip address='198.51.100.1' prefix='24'/></network>`},
	{name: "netboot", xml: head + `<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/><mtu size='1400'/><dns enable='no'/>
		<ip address='192.168.122.1' prefix='24'><tftp root='/srv/tftp'/><dhcp>
		<range start='192.168.122.2' end='192.168.122.254'/><bootp file='boot.ipxe'/></dhcp></ip></network>`},
	{name: "bridge", xml: head + `<forward mode='bridge'/><bridge name='br0'/></network>`,
		facts: Facts{
			BridgeMTU: 9000,
			Taps:      []Tap{{Link: "vm1", Port: netdef.UUID{1}, Owner: 1000}},
			Ports:     []Port{{Link: "vm1", Guest: true, Plugged: true}, {Link: "vif5.0", Guest: true, Plugged: true}, {Link: "vnet0", Guest: true}},
		}},
	{name: "isolated-ports", xml: head + `<forward mode='open'/><bridge name='virbr4'/><mac address='52:54:00:01:02:03'/><dns enable='no'/><port isolated='yes'/></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vif5.0", Guest: true, Plugged: true, Def: netdef.Port{Isolated: netdef.Yes}},
			{Link: "vnet0", Guest: true, Def: netdef.Port{Isolated: netdef.Yes}},
			{Link: "vnet1", Guest: true, Def: netdef.Port{Isolated: netdef.No}},
			{Link: "eth1"},
		}}},
	{name: "bridge-limits", xml: head + `<forward mode='bridge'/><bridge name='br0'/><bandwidth><inbound average='1000'/><outbound average='500' peak='600' burst='64'/></bandwidth></network>`,
		facts: Facts{BridgeMTU: 1500}},
	{name: "bridge-limits-no-bridge", xml: head + `<forward mode='bridge'/><bridge name='br0'/><bandwidth><inbound average='1000'/></bandwidth></network>`},
	{name: "macvtap-limits", xml: head + `<forward mode='private'><interface dev='eth0'/></forward></network>`,
		facts: Facts{Ports: []Port{{Link: "vm1", Guest: true, Plugged: true, Def: netdef.Port{
			Plug:      netdef.Plug{Type: netdef.PlugDirect, Dev: "eth0", Mode: "private"},
			Bandwidth: &netdef.Bandwidth{Inbound: &netdef.Rate{Average: 1000}, Outbound: &netdef.Rate{Average: 500}},
		}}}}},
	{name: "managed", xml: head + `<forward mode='open'/><bridge name='virbr4' macTableManager='libvirt'/><mac address='52:54:00:01:02:03'/><dns enable='no'/></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vif5.0", Guest: true, Plugged: true, Def: netdef.Port{MAC: netdef.MAC{0, 0x16, 0x3e, 1, 2, 3}}},
			{Link: "vnet0", Guest: true, Def: netdef.Port{MAC: netdef.MAC{0x52, 0x54, 0, 1, 2, 4}, Isolated: netdef.Yes}},
			{Link: "eth1"},
		}}},
	{name: "vlans", xml: head + `<forward mode='open'/><bridge name='virbr4'/><mac address='52:54:00:01:02:03'/><dns enable='no'/></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vif5.0", Guest: true, Plugged: true, Def: netdef.Port{VLAN: &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 7}}}}},
			{Link: "vif6.0", Guest: true, Plugged: true},
		}}},
	{name: "bridge-vlans", xml: head + `<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='42'/></vlan></network>`,
		facts: Facts{Ports: []Port{
			{Link: "vif5.0", Guest: true, Plugged: true, Def: netdef.Port{VLAN: &netdef.VLAN{Tags: []netdef.VLANTag{{ID: 42}}}}},
			{Link: "vnet0", Guest: true, Def: netdef.Port{VLAN: &netdef.VLAN{Trunk: netdef.Yes, Tags: []netdef.VLANTag{
				{ID: 20}, {ID: 30, NativeMode: "untagged"}, {ID: 22}, {ID: 21}, {ID: 20},
			}}}},
			{Link: "vnet1", Guest: true, Def: netdef.Port{VLAN: &netdef.VLAN{Trunk: netdef.Yes, Tags: []netdef.VLANTag{{ID: 5, NativeMode: "tagged"}}}}},
		}}},
	{name: "bridge-pass", xml: head + `<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:pass/></v:settings></metadata>
		<forward mode='bridge'/><bridge name='br0'/></network>`,
		facts: Facts{Passes: []hoststate.Pass{{Table: hoststate.TableRef{Family: hoststate.IPv4Family, Name: "filter"}, Chain: "FORWARD"}}}},
	{name: "macvtap", xml: head + `<forward mode='private'><interface dev='eth0'/></forward></network>`,
		facts: Facts{
			Taps: []Tap{{
				Link: "vm1", Port: netdef.UUID{1}, Owner: 1000, MAC: netdef.MAC{0x52, 0x54, 0, 0, 0, 1},
				Plug: netdef.Plug{Type: netdef.PlugDirect, Dev: "eth0", Mode: "private"},
			}},
			Ports: []Port{{Link: "vm1", Guest: true, Plugged: true}, {Link: "macvtap0", Guest: true}},
		}},
	{name: "hostdev", xml: head + `<forward mode='hostdev'><pf dev='eth0'/></forward></network>`},
	{name: "dnsmasq", xml: `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>` + strings.TrimPrefix(head, "<network>") +
		`<forward mode='nat'/><bridge name='virbr0'/><mac address='52:54:00:01:02:03'/><ip address='192.168.122.1' prefix='24'><dhcp>
		<range start='192.168.122.2' end='192.168.122.254'/><host mac='52:54:00:aa:bb:cc' ip='192.168.122.10'/></dhcp></ip>
		<ip family='ipv6' address='fd00:122::1' prefix='64'/><dnsmasq:options><dnsmasq:option value='log-dhcp'/></dnsmasq:options></network>`,
		facts: Facts{Dnsmasq: Dnsmasq{Dir: "/run/viaduct/dnsmasq", ResolvConf: "/tmp/resolv.conf"}, DNSPort: 5354, ForceForwarding: true}},
	{name: "no-ip", xml: head + `<bridge name='virbr5'/><mac address='52:54:00:01:02:03'/></network>`, facts: Facts{NoIPv6: true}},
}

func parse(t *testing.T, xml string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func text(f Fragment) string {
	var s strings.Builder
	for _, part := range []struct {
		name  string
		state hoststate.State
	}{{"shared", f.Shared}, {"own", f.Own}} {
		s.WriteString(part.name + ":\n")
		for _, k := range part.state.Keys() {
			s.WriteString("  " + part.state[k].Text() + "\n")
		}
	}
	return s.String()
}

func TestPlans(t *testing.T) {
	for _, n := range networks {
		t.Run(n.name, func(t *testing.T) {
			f, err := Network(parse(t, n.xml), n.facts)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", n.name+".plan")
			if *update {
				if err := os.WriteFile(golden, []byte(text(f)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), text(f)); diff != "" {
				t.Errorf("plan differs (-want +got), -update writes it:\n%s", diff)
			}
		})
	}
}

// Two networks share what they share in the same state and claim nothing of
// each other's.
func TestPlansFitTogether(t *testing.T) {
	shared, own := hoststate.State{}, map[hoststate.Key]string{}
	for i, n := range networks {
		def := parse(t, n.xml)
		def.UUID[0] = byte(i)
		def.Bridge.Name = fmt.Sprint("virbr", i)
		def.IPs = append([]netdef.IP(nil), def.IPs...)
		for j := range def.IPs {
			def.IPs[j].Address, def.IPs[j].Family = netip.AddrFrom4([4]byte{10, byte(100 + i), byte(j), 1}), ""
			def.IPs[j].Ranges, def.IPs[j].Hosts = nil, nil
		}
		f, err := Network(def, Facts{})
		if err != nil {
			t.Fatal(err)
		}
		for k, o := range f.Shared {
			if have, ok := shared[k]; ok && !hoststate.Equal(have, o) {
				t.Errorf("%s: shared %s differs: %s, %s", n.name, k, have.Text(), o.Text())
			}
			shared[k] = o
		}
		for k := range f.Own {
			if other, ok := own[k]; ok {
				t.Errorf("%s is claimed by %s and %s", k, other, n.name)
			}
			own[k] = n.name
		}
	}
}

// Who serves guests is a matter of the network first, and of the host second.
func TestDnsmasqServes(t *testing.T) {
	const options = `<dnsmasq:options><dnsmasq:option value='log-dhcp'/></dnsmasq:options>`
	settings := func(who string) string {
		return `<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:services backend='` + who + `'/></v:settings></metadata>`
	}
	for _, c := range []struct {
		inner           string
		usually, always bool // for each choice of the host's
	}{
		{"", false, true}, {options, true, true}, {settings("viaduct"), false, false}, {settings("dnsmasq"), true, true},
		{settings("viaduct") + options, true, true},
	} {
		n := parse(t, `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name>`+c.inner+`</network>`)
		if got := (Dnsmasq{}).Serves(n); got != c.usually {
			t.Errorf("%s: %v, want %v", c.inner, got, c.usually)
		}
		if got := (Dnsmasq{Always: true}).Serves(n); got != c.always {
			t.Errorf("%s, where dnsmasq is the host's choice: %v, want %v", c.inner, got, c.always)
		}
	}
}

// What a packet costs must not grow with the number of networks: base chains
// name no network.
func TestBaseChainsDoNotGrow(t *testing.T) {
	one, err := Network(parse(t, networks[0].xml), Facts{})
	if err != nil {
		t.Fatal(err)
	}
	for k, o := range one.Own {
		if c, ok := o.(hoststate.Chain); ok && c.Hook != nil {
			t.Errorf("%s is a base chain of one network", k)
		}
	}
}

// What needs a feature that the kernel lacks is refused before anything is planned.
func TestKernelWithoutVLANs(t *testing.T) {
	_, err := Network(parse(t, head+`<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='42'/></vlan></network>`), Facts{NoVLANs: true})
	if netdef.CodeOf(err) != netdef.ErrConfigUnsupported || !strings.Contains(err.Error(), "CONFIG_BRIDGE_VLAN_FILTERING") {
		t.Error(err)
	}
}

func TestCheckNamesTheElement(t *testing.T) {
	for _, c := range []struct{ element, xml string }{
		{"<port isolated='yes'>", `<network><name>n</name><forward mode='private' dev='eth0'/><port isolated='yes'/></network>`},
		{"vlan tag id 0 ", `<network><name>n</name><forward mode='bridge'/><bridge name='br0'/><portgroup name='p'><vlan><tag id='0'/></vlan></portgroup></network>`},
		{"vlan tag id 4095", `<network><name>n</name><forward mode='bridge'/><bridge name='br0'/><vlan><tag id='4095'/></vlan></network>`},
		{"<dnsmasq:options>", `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><forward mode='bridge'/><bridge name='br0'/><dnsmasq:options><dnsmasq:option value='foo'/></dnsmasq:options></network>`},
	} {
		err := Check(parse(t, c.xml))
		if netdef.CodeOf(err) != netdef.ErrConfigUnsupported || !strings.Contains(err.Error(), c.element) {
			t.Errorf("%s: %v", c.element, err)
		}
	}
}
