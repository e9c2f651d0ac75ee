package engine

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"viaduct/internal/netdef"
)

// network parses a network of that mode and with these elements.
func parseNetwork(t *testing.T, forward, rest string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte("<network><name>n</name>" + forward + rest + "</network>"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// joined allocates ports one after the other and returns them with the last error.
func joined(n *netdef.Network, count int, spec string) (ports []port, err error) {
	for i := range count {
		var p *netdef.Port
		p, err = netdef.ParsePort(fmt.Appendf(nil, "<networkport><uuid>%s</uuid><owner><name>g</name><uuid>%s</uuid></owner>"+
			"<mac address='52:54:00:00:00:%02x'/>%s</networkport>", netdef.UUID{1, 15: byte(i)}, netdef.UUID{2}, i, spec))
		if err == nil {
			joining := port{def: *p, declared: true}
			if err = allocate(n, &joining, ports); err == nil {
				ports = append(ports, joining)
			}
		}
		if err != nil {
			return ports, err
		}
	}
	return ports, nil
}

// What a port does not say it has from its group, or else from its network.
func TestAllocateInherits(t *testing.T) {
	const groups = `
  <port isolated='yes'/>
  <virtualport type='openvswitch'><parameters profileid='net'/></virtualport>
  <portgroup name='eng' default='yes' trustGuestRxFilters='yes'>
    <vlan><tag id='7'/></vlan>
    <bandwidth><inbound average='100'/></bandwidth>
  </portgroup>
  <portgroup name='plain'/>`
	n := parseNetwork(t, "<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='9'/></vlan>", groups)
	for spec, want := range map[string][]string{
		"": {
			"<tag id='7'/>", "average='100'", "isolated='yes'", "trustGuest='yes'", "type='openvswitch'", "profileid='net'", "interfaceid='",
			"<plug type='bridge' bridge='br0'/>",
		},
		"<group>plain</group>": {"<group>plain</group>", "<tag id='9'/>", "isolated='yes'"},
		"<group>none</group>":  {"<tag id='9'/>"},
		"<vlan><tag id='1'/></vlan><bandwidth><inbound average='5'/></bandwidth><port isolated='no'/><rxfilters trustGuest='no'/>": {
			"<tag id='1'/>", "average='5'", "isolated='no'", "trustGuest='no'",
		},
	} {
		ports, err := joined(n, 1, spec)
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		text := ports[0].def.Format()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q lacks %s:\n%s", spec, w, text)
			}
		}
		if strings.Contains(spec, "group") && strings.Contains(text, "<bandwidth") {
			t.Errorf("%q has a bandwidth:\n%s", spec, text)
		}
	}
}

func TestAllocateRefuses(t *testing.T) {
	const pool = "<interface dev='eth0'/><interface dev='eth1'/></forward>"
	for _, c := range []struct{ forward, rest, spec, want string }{
		{
			"", "", "<virtualport type='openvswitch'/>",
			"<virtualport type='openvswitch'> not supported for network 'n' which uses IP forwarding",
		},
		{
			"<forward mode='bridge'/><bridge name='b'/>", "", "<virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>",
			"<virtualport type='802.1Qbh'> not supported for network 'n' which uses a bridge device",
		},
		{
			"<forward mode='vepa'>" + pool, "", "<virtualport type='openvswitch'/>",
			"<virtualport type='openvswitch'> not supported for network 'n' which uses a macvtap device",
		},
		{
			"<forward mode='hostdev'><address type='pci' domain='0' bus='1' slot='0' function='1'/></forward>", "", "<virtualport type='midonet'/>",
			"<virtualport type='midonet'> not supported for network 'n' which uses an SR-IOV Virtual Function via PCI passthrough",
		},
		{
			"<forward mode='bridge'/><bridge name='b'/>", "<virtualport type='openvswitch'/>", "<virtualport type='midonet'/>",
			"attempt to merge virtualports of differing types (midonet and openvswitch)",
		},
		{"<forward mode='vepa'>" + pool, "", "<virtualport type='802.1Qbg'/>", "missing managerid in <virtualport type='802.1Qbg'>"},
		{"<forward mode='private'/>", "", "", "network 'n' uses a direct mode, but has no forward dev and no interface pool"},
		{"<forward mode='passthrough'>" + pool, "", "", "network 'n' requires exclusive access to interfaces, but none are available"},
		{
			"<forward mode='private'>" + pool, "<virtualport type='802.1Qbh'><parameters profileid='x'/></virtualport>", "",
			"network 'n' requires exclusive access to interfaces, but none are available",
		},
		{
			"<forward mode='hostdev'><address type='pci' domain='0' bus='1' slot='0' function='1'/></forward>", "", "",
			"network 'n' requires exclusive access to interfaces, but none are available",
		},
		{
			"<forward mode='bridge'/><bridge name='b'/>", "", "<bandwidth><inbound floor='1'/></bandwidth>",
			"Invalid use of 'floor' on interface with MAC address 52:54:00:00:00:00 - 'floor' is only supported " +
				"for interface type 'network' with forward type 'nat', 'route', 'open' or none",
		},
		{
			"", "", "<bandwidth><inbound floor='1'/></bandwidth>",
			"Invalid use of 'floor' on interface with MAC address 52:54:00:00:00:00 - network 'n' has no inbound QoS set",
		},
		{
			"<bridge name='virbr7'/>", "<bandwidth><inbound average='100'/></bandwidth>", "<bandwidth><inbound floor='40'/></bandwidth>",
			"Cannot plug '52:54:00:00:00:02' interface into 'virbr7' because new combined inbound floor=120 would overcommit average=100 on network 'n'",
		},
		{
			"<bridge name='virbr7'/>", "<bandwidth><inbound average='10' peak='100'/></bandwidth>",
			"<bandwidth><inbound floor='18446744073709551615'/></bandwidth>",
			"Cannot plug '52:54:00:00:00:00' interface into 'virbr7' because new combined inbound floor=18446744073709551615 would overcommit peak=100 on network 'n'",
		},
	} {
		_, err := joined(parseNetwork(t, c.forward, c.rest), 3, c.spec)
		if err == nil || !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("%s %s:\n got %v\nwant %s", c.forward, c.spec, err, c.want)
		}
	}
}

// Devices of a pool are used evenly, and guarantees have classes of their own.
func TestAllocateSpreads(t *testing.T) {
	n := parseNetwork(t, "<forward mode='bridge'><interface dev='eth0'/><interface dev='eth1'/></forward>", "")
	ports, err := joined(n, 4, "")
	if err != nil {
		t.Fatal(err)
	}
	devs := ""
	for _, p := range ports {
		devs += p.def.Plug.Dev + p.def.Plug.Mode + " "
	}
	if devs != "eth0bridge eth1bridge eth0bridge eth1bridge " {
		t.Errorf("devices: %s", devs)
	}

	n = parseNetwork(t, "", "<bandwidth><inbound average='100'/></bandwidth>")
	ports, err = joined(n, 3, "<bandwidth classID='9'><inbound floor='10'/></bandwidth>")
	if err != nil {
		t.Fatal(err)
	}
	ports = append(ports[:1:1], ports[2])
	p := ports[0]
	p.def = *p.def.Clone()
	p.def.UUID = netdef.UUID{9}
	p.def.Plug = netdef.Plug{}
	if err := allocate(n, &p, ports); err != nil || ports[0].def.Bandwidth.ClassID != 3 || ports[1].def.Bandwidth.ClassID != 5 || p.def.Bandwidth.ClassID != 4 {
		t.Errorf("classes %d, %d and %d, %v", ports[0].def.Bandwidth.ClassID, ports[1].def.Bandwidth.ClassID, p.def.Bandwidth.ClassID, err)
	}
}

func TestReclaim(t *testing.T) {
	n := parseNetwork(t, "<forward mode='passthrough'><interface dev='eth0'/></forward>", "")
	p := port{def: netdef.Port{Plug: netdef.Plug{Type: netdef.PlugDirect, Dev: "eth0", Mode: "passthrough"}}, declared: true}
	if err := reclaim(n, &p, nil); err != nil {
		t.Error(err)
	}
	if err := reclaim(n, &p, []port{p}); err == nil || !strings.Contains(err.Error(), "network 'n' claims dev='eth0' is already in use by a different port") {
		t.Error(err)
	}
	p.def.Plug.Dev = "eth7"
	if err := reclaim(n, &p, nil); err == nil || !strings.Contains(err.Error(), "network 'n' doesn't have dev='eth7' in use by network port") {
		t.Error(err)
	}
	p.def.Plug = netdef.Plug{Type: netdef.PlugBridge, Bridge: "br0"}
	if err := reclaim(n, &p, nil); err == nil {
		t.Error("a port in a bridge of a network that has none")
	}
}

// A share is guaranteed once: to the port that was declared for a guest or to
// those made of it, and to the two links of one interface together.
func TestGuaranteedOnce(t *testing.T) {
	kept := func(id, pattern, mac byte, kib uint64) port {
		p := port{declared: true, def: netdef.Port{UUID: netdef.UUID{id}, MAC: netdef.MAC{5: mac}}}
		p.def.Bandwidth = &netdef.Bandwidth{Inbound: &netdef.Rate{Floor: kib}}
		if pattern != 0 {
			p.pattern = netdef.UUID{pattern}
		}
		return p
	}
	for what, c := range map[string]struct {
		ports []port
		want  uint64
	}{
		"the guest is not there":    {[]port{kept(1, 0, 1, 100)}, 100},
		"it is":                     {[]port{kept(2, 1, 1, 100), kept(1, 0, 1, 100)}, 100},
		"by another address":        {[]port{kept(1, 0, 1, 100), kept(2, 1, 2, 100)}, 100},
		"with an emulated NIC":      {[]port{kept(1, 0, 1, 100), kept(2, 1, 1, 100), kept(3, 1, 1, 100)}, 100},
		"with two interfaces":       {[]port{kept(2, 1, 1, 100), kept(1, 0, 1, 100), kept(3, 1, 2, 100)}, 200},
		"with less than it may":     {[]port{kept(1, 0, 1, 100), kept(2, 1, 1, 60)}, 100},
		"with more":                 {[]port{kept(1, 0, 1, 100), kept(2, 1, 1, 140)}, 140},
		"its declaration is gone":   {[]port{kept(2, 1, 1, 100)}, 100},
		"two guests":                {[]port{kept(1, 0, 1, 100), kept(2, 1, 1, 100), kept(3, 0, 1, 50)}, 150},
		"more than there are bytes": {[]port{kept(1, 0, 1, math.MaxUint64), kept(2, 0, 2, 1)}, math.MaxUint64},
	} {
		if got := guaranteed(c.ports); got != c.want {
			t.Errorf("%s: %d, want %d", what, got, c.want)
		}
	}
}
