package outcome

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// state is all that a refused call could have changed.
type state struct {
	networks, host string
	config         lab.Snapshot
}

func (s *site) state() state {
	s.t.Helper()
	now := state{networks: s.viaduct("net-list", "--all"), host: s.host.Dump()}
	s.must(s.host.Do(func() error {
		now.config = lab.TreeSnapshot(s.daemon.ConfigDir)
		return nil
	}))
	return now
}

// unchanged fails the test unless all is as it was before.
func (s *site) unchanged(what string, before state) {
	s.t.Helper()
	now := s.state()
	if now.networks != before.networks {
		s.t.Errorf("%s: networks before:\n%s\nafter:\n%s", what, before.networks, now.networks)
	}
	if now.host != before.host {
		s.t.Errorf("%s: the host before:\n%s\nafter:\n%s", what, before.host, now.host)
	}
	if changed := now.config.Diff(before.config); len(changed) > 0 {
		s.t.Errorf("%s: definitions changed: %s", what, changed)
	}
}

// says fails the test unless a command ends with exit code 1 and an error that
// contains all of the parts.
func (s *site) says(parts []string, args ...string) {
	s.t.Helper()
	r, _ := s.daemon.Viaduct(s.context(), args...)
	if r.Code != 1 {
		s.t.Errorf("viaduct %s: exit code %d, want 1\n%s", strings.Join(args, " "), r.Code, r.Stdout)
	}
	for _, part := range parts {
		if !strings.Contains(r.Stderr, part) {
			s.t.Errorf("viaduct %s says:\n%swant it to name %s", strings.Join(args, " "), r.Stderr, part)
		}
	}
}

const (
	someBridge = `<bridge name='virbr50'/>`
	someIP     = `<ip address='192.168.50.1' prefix='24'/>`
)

// network puts elements into a network called a.
func network(elements string) string { return "<network><name>a</name>" + elements + "</network>" }

// dhcp is a network with these elements in <dhcp>.
func dhcp(elements string) string {
	return network(someBridge + "<ip address='192.168.50.1' prefix='24'><dhcp>" + elements + "</dhcp></ip>")
}

func dnsRecords(elements string) string { return network(someBridge + "<dns>" + elements + "</dns>") }

// wrongDefinitions are documents that describe no network, with what an error
// has to name.
var wrongDefinitions = []struct {
	xml   string
	names []string
}{
	{"", []string{"network_definition"}},
	{"<network><name>a</name>\n<bridge name='virbr50'>\n</network>", []string{"line 3", "bridge", "network"}},
	{"<domain/>", []string{"<domain>", "'domain'"}},
	{"<network>" + someBridge + "</network>", []string{"missing name"}},
	{"<network><name>a/b</name>" + someBridge + "</network>", []string{"<name>", "name: /"}},
	{"<network><name>..</name>" + someBridge + "</network>", []string{"'..'"}},
	{network("<uuid>12</uuid>"), []string{"<uuid>", "malformed uuid"}},
	{network("<bridge name='a/b'/>"), []string{"bridge name 'a/b'"}},
	{network("<bridge name='virbr50' delay='x'/>"), []string{"<bridge>", "delay"}},
	{network(someBridge + "<mac address='52:54:00:12:34'/>"), []string{"<mac>", "'52:54:00:12:34'"}},
	{network(someBridge + "<mac address='01:00:5e:00:00:01'/>"), []string{"<mac>", "multicast", "'01:00:5e:00:00:01'"}},
	{network(someBridge + "<mtu size='12'/>"), []string{"mtu size '12'"}},
	{network("<forward mode='teleport'/>" + someBridge), []string{"<forward>", "'teleport'"}},
	{network("<forward mode='nat'><nat><address start='10.0.0.9' end='10.0.0.1'/></nat></forward>" + someIP), []string{"<address>", "10.0.0.9 - 10.0.0.1"}},
	{network("<forward mode='nat'><nat><port start='9' end='x'/></nat></forward>" + someIP), []string{"<port>", "'end'"}},
	{network(someBridge + "<ip address='192.168.500.1' prefix='24'/>"), []string{"<ip>", "'192.168.500.1'"}},
	{network(someBridge + "<ip address='192.168.50.1' prefix='33'/>"), []string{"<ip>", "'33'"}},
	{network(someBridge + "<ip address='192.168.50.1' netmask='255.0.255.0'/>"), []string{"<ip>", "'255.0.255.0'"}},
	{dhcp("<range start='192.168.51.2' end='192.168.51.9'/>"), []string{"<range>", "192.168.51.2 - 192.168.51.9", "192.168.50.1/24"}},
	{dhcp("<range start='192.168.50.2' end='192.168.51.9'/>"), []string{"<range>", "192.168.50.2 - 192.168.51.9", "192.168.50.1/24"}},
	{dhcp("<range start='192.168.50.9' end='192.168.50.2'/>"), []string{"<range>", "192.168.50.9 - 192.168.50.2"}},
	{dhcp("<range start='192.168.50.0' end='192.168.50.2'/>"), []string{"<range>", "192.168.50.0", "network address"}},
	{dhcp("<range start='192.168.50.2' end='192.168.50.255'/>"), []string{"<range>", "192.168.50.255", "broadcast"}},
	{dhcp("<host mac='52:54:00:12:34' ip='192.168.50.9'/>"), []string{"<host>", "'52:54:00:12:34'"}},
	{dhcp("<host mac='01:00:5e:00:00:01' ip='192.168.50.9'/>"), []string{"<host>", "multicast", "'01:00:5e:00:00:01'"}},
	{dhcp("<host mac='52:54:00:12:34:56' ip='192.168.50.999'/>"), []string{"<host>", "Invalid IP address"}},
	{dnsRecords("<host ip='192.168.50.9'/>"), []string{"<host>", "hostname"}},
	{dnsRecords("<host ip='192.168.50'><hostname>x</hostname></host>"), []string{"<host>", "IP address"}},
}

// unappliedDefinitions say what this version understands and does not do yet.
var unappliedDefinitions = []struct{ xml, element string }{
	{dhcp("<host mac='52:54:00:12:34:56' ip='10.9.9.9'/>"), "10.9.9.9"},
	{network("<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='4095'/></vlan>"), "vlan tag id 4095"},
	{network("<forward mode='private' dev='eth0'/><port isolated='yes'/>"), "<port isolated='yes'>"},
	{"<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>a</name><forward mode='bridge'/><bridge name='br0'/>" +
		"<dnsmasq:options><dnsmasq:option value='log-dhcp'/></dnsmasq:options></network>", "<dnsmasq:options>"},
}

// A definition that is wrong, or says what cannot be done yet, is refused by
// every command in words that name the culprit, and nothing changes.
func TestRefusesDefinitions(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.viaduct("net-define", s.file(natXML("there", 60, "")))
	s.viaduct("net-start", "there")
	s.settled()
	before := s.state()
	refused := func(xml string, names ...string) {
		t.Helper()
		file := s.file(xml)
		for _, verb := range []string{"net-validate", "net-define", "net-create"} {
			s.says(names, verb, file)
		}
		s.unchanged(xml, before)
	}
	for _, c := range wrongDefinitions {
		refused(c.xml, c.names...)
	}
	for _, c := range unappliedDefinitions {
		refused(c.xml, c.element)
	}
}

// Where bridges know no VLANs, a network that needs them does not start, and one
// that is well without does.
func TestKernelWithoutVLANs(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.host.AddBridge("br0")
	s.mustRun("ip", "link", "set", "br0", "up")
	if r, err := s.host.Run(s.context(), "ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"); err == nil && r.Code == 0 {
		t.Skip("this kernel's bridges know VLANs")
	}
	before := s.state()
	s.says([]string{"CONFIG_BRIDGE_VLAN_FILTERING"}, "net-create", s.file(network("<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='4'/></vlan>")))
	s.unchanged("a network with VLANs", before)
	s.create(network("<bridge name='virbr50' macTableManager='libvirt'/>"))
	before = s.state()
	s.says([]string{"CONFIG_BRIDGE_VLAN_FILTERING"}, "net-port-create", "a", s.file(`<networkport><uuid>7d1f3a0c-0000-4000-8000-000000000001</uuid>
		<owner><name>g</name><uuid>7d1f3a0c-0000-4000-9000-000000000001</uuid></owner><mac address='52:54:00:00:00:01'/>
		<vlan><tag id='7'/></vlan></networkport>`))
	s.unchanged("a port with a VLAN", before)
}

// A network whose name, UUID or bridge another one has is refused.
func TestRefusesDuplicates(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.host.AddBridge("br-foreign")
	const uuid = "6d07ce2a-26f6-4ba1-9fc1-2c6dd5f0b6f1"
	there := strings.Replace(natXML("there", 60, ""), "<bridge", "<uuid>"+uuid+"</uuid><bridge", 1)
	s.viaduct("net-define", s.file(there))
	s.viaduct("net-start", "there")
	s.create(natXML("transient", 61, ""))
	s.settled()
	before := s.state()
	for _, c := range []struct {
		xml   string
		names []string
	}{
		{natXML("there", 50, ""), []string{"'there'", uuid}},
		{natXML("transient", 50, ""), []string{"'transient'"}},
		{strings.Replace(there, "<name>there", "<name>other", 1), []string{"'there'", uuid}},
		{network("<bridge name='virbr60'/>"), []string{"bridge name 'virbr60'"}},
		{network("<bridge name='virbr61'/>"), []string{"bridge name 'virbr61'"}},
	} {
		for _, verb := range []string{"net-define", "net-create"} {
			s.says(c.names, verb, s.file(c.xml))
			s.unchanged(verb+" "+c.xml, before)
		}
	}
	for _, link := range []string{"br-foreign", "eth0"} {
		s.says([]string{"bridge name '" + link + "'"}, "net-create", s.file(network("<bridge name='"+link+"'/>")))
		s.unchanged("the host's own "+link, before)
	}
	s.says([]string{"already active"}, "net-create", s.file(there))
	s.says([]string{"already active"}, "net-start", "there")
	s.unchanged("started twice", before)
}

// A network does not start on addresses that the host has or knows the way to,
// however large the one subnet or the other is.
func TestRefusesOverlaps(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	s.host.AddBridge("br-lan")
	s.host.AddAddr("br-lan", netip.MustParsePrefix("172.20.8.1/22"))
	s.host.AddAddr("lo", netip.MustParsePrefix("100.64.3.7/32"))
	s.host.AddRoute(netip.MustParsePrefix("10.9.0.0/16"), s.host.Outside.Addr)
	s.create(natXML("there", 60, ""))
	s.settled()
	for subnet, link := range map[string]string{
		"203.0.113.1/24": "eth0", "203.0.113.129/25": "eth0", "203.0.113.9/30": "eth0", "203.0.0.1/16": "eth0", "203.0.0.1/8": "eth0",
		"172.20.8.9/22": "br-lan", "172.20.11.129/26": "br-lan", "172.16.0.1/12": "br-lan",
		"100.64.3.1/24": "lo", "100.64.0.1/10": "lo",
		"10.9.8.1/24": "eth0", "10.0.0.1/8": "eth0", "10.9.255.253/30": "eth0",
		"192.168.60.129/25": "virbr60", "192.168.0.1/16": "virbr60",
	} {
		xml := network(fmt.Sprintf("<forward mode='nat'/><bridge name='virbr50'/><ip address='%s' prefix='%s'/>",
			strings.Split(subnet, "/")[0], strings.Split(subnet, "/")[1]))
		names := []string{"already in use by interface " + link}
		before := s.state()
		s.says(names, "net-create", s.file(xml))
		s.unchanged("create "+subnet, before)
		s.viaduct("net-define", s.file(xml))
		before = s.state()
		s.says(names, "net-start", "a")
		s.unchanged("start "+subnet, before)
		s.viaduct("net-undefine", "a")
	}
	// One of several subnets is enough, and neighbours are no overlap.
	s.says([]string{"interface eth0"}, "net-create", s.file(network(someBridge+someIP+"<ip address='203.0.113.9' prefix='29'/>")))
	s.create(network(someBridge + "<ip address='172.20.12.1' prefix='22'/><ip address='192.168.61.1' prefix='24'/>"))
}
