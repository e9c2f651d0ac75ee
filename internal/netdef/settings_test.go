package netdef

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestSettings(t *testing.T) {
	const head = `<network><name>n</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'>`
	const tail = `</v:settings></metadata><bridge name='virbr7'/></network>`
	net10 := netip.MustParsePrefix("10.0.0.0/8")
	for _, c := range []struct {
		inner string
		want  Settings
		err   string
	}{
		{"", Settings{}, ""},
		{"<v:ports layout='routed'/>", Settings{Routed: true}, ""},
		{"<v:ports/>", Settings{}, ""},
		{"<v:stp hello='2' max-age='12'/>", Settings{HelloTime: 2, MaxAge: 12}, ""},
		{"<v:stp max-age='5'/>", Settings{}, "Invalid value '5' of attribute 'max-age' in element 'v:stp': it is a number of seconds from 6 to 40"},
		{"<v:services backend='dnsmasq'/>", Settings{Backend: BackendDnsmasq}, ""},
		{"<v:answer dev=''/>", Settings{}, "dev"},
		{"<v:services backend='bind'/>", Settings{}, "bind"},
		{"<v:exempt destination='10.0.0.0/8'/><v:exempt source='10.9.0.7'/>",
			Settings{Exempt: []Exemption{{Destination: net10}, {Source: netip.MustParsePrefix("10.9.0.7/32")}}}, ""},
		{"<v:exempt source='10.0.0.0/99'/>", Settings{}, "Invalid value '10.0.0.0/99' of attribute 'source' in element 'v:exempt': no IP network"},
		{"<v:exempt source='ten'/>", Settings{}, "ten"},
		{"<v:guard/>", Settings{Guard: FullGuard()}, ""},
		{"<v:guard check='mac, arp, 10.9.0.0/28'/>", Settings{Guard: &Guard{
			NoMACSpoof: true, NoARPSpoof: true, AllowDHCP: true, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/28")},
		}}, ""},
		{"<v:guard check='no'/>", Settings{Guard: &Guard{}}, ""},
		{"<v:guard check='10.9.0.7'/>", Settings{}, "nothing to guard against"},
		{"<v:guard check='mac,rap'/>", Settings{}, "'rap'"},
		{"<v:ports layout='star'/>", Settings{}, "star"},
		{"<v:port/>", Settings{}, "<v:port>"},
		{"<ports layout='routed'/>", Settings{}, "<ports>"},
	} {
		n, err := Parse([]byte(head + c.inner + tail))
		if err != nil {
			t.Fatal(err)
		}
		got, err := n.Settings()
		switch {
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%s: %+v, %v", c.inner, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v does not name %s", c.inner, err, c.err)
		}
		if valid := n.Validate() == nil; valid != (c.err == "") {
			t.Errorf("%s: valid is %v", c.inner, valid)
		}
		if again, err := Parse([]byte(n.Format(FormatOptions{}))); err != nil || !reflect.DeepEqual(again.Metadata, n.Metadata) {
			t.Errorf("%s: does not come back: %v", c.inner, err)
		}
	}
}

func TestAnswer(t *testing.T) {
	const ports = "<v:ports layout='routed'/>"
	for _, c := range []struct{ more, forward, ip, err string }{
		{"", "<forward mode='route'/>", "<ip address='10.9.0.1' prefix='24'/>", ""},
		{"", "<forward mode='nat'/>", "<ip address='10.9.0.1' prefix='24'/>", ""},
		{"", "<forward mode='route' dev='eth0'/>", "<ip address='10.9.0.1' prefix='24'/>", ""},
		{"", "<forward mode='route' dev='eth1'/>", "<ip address='10.9.0.1' prefix='24'/>", "eth1"},
		{"", "", "<ip address='10.9.0.1' prefix='24'/>", "forwards nothing"},
		{"", "<forward mode='bridge'/>", "", "forwards nothing"},
		{ports, "<forward mode='route'/>", "", "routed"},
	} {
		n, err := Parse([]byte(`<network><name>n</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:answer dev='eth0'/>` + c.more +
			`</v:settings></metadata>` + c.forward + `<bridge name='br0'/>` + c.ip + `</network>`))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := n.Settings(); err != nil || s.Answer != "eth0" {
			t.Errorf("settings are %+v, %v", s, err)
		}
		if err := n.Validate(); (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s %s: error %v, want %q", c.forward, c.more, err, c.err)
		}
	}
}

func TestPass(t *testing.T) {
	for rest, fits := range map[string]bool{
		"<forward mode='bridge'/><bridge name='br0'/>": true, "<forward mode='bridge'><interface dev='eth0'/></forward>": false, "<bridge name='virbr0'/>": false,
	} {
		n, err := Parse([]byte(`<network><name>n</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:pass/></v:settings></metadata>` + rest + `</network>`))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := n.Settings(); err != nil || !s.Pass {
			t.Errorf("settings are %+v, %v", s, err)
		}
		if err := n.Validate(); (err == nil) != fits {
			t.Errorf("%s: %v", rest, err)
		}
	}
}

func TestRoutedPortsRefuse(t *testing.T) {
	for _, rest := range []string{"<ip address='10.9.0.1' prefix='24'/>", "<forward mode='bridge'/><bridge name='br0'/>"} {
		n, err := Parse([]byte(`<network><name>n</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:ports layout='routed'/></v:settings></metadata>` +
			rest + `</network>`))
		if err != nil {
			t.Fatal(err)
		}
		if n.Validate() == nil {
			t.Errorf("%s is accepted where ports are routed", rest)
		}
	}
}

func TestInbound(t *testing.T) {
	const ip = "<bridge name='virbr7'/><ip address='192.0.2.1' prefix='24'/>"
	for _, c := range []struct{ element, rest, err string }{
		{"<v:inbound to='192.0.2.9' from='198.51.100.0/24' protocol='tcp' port='22'/>", "<forward mode='route'/>" + ip, ""},
		{"<v:inbound to='192.0.2.16/28' protocol='udp' port='5000-5010'/>", "<forward mode='nat'/>" + ip, ""},
		{"<v:inbound to='192.0.2.9' allow='no'/>", "<forward mode='route'/>" + ip, ""},
		{"<v:ports layout='routed'/><v:inbound to='203.0.113.9'/>", "<forward mode='route'/>", ""},
		{"<v:inbound from='198.51.100.0/24'/>", "<forward mode='route'/>" + ip, "'to'"},
		{"<v:inbound to='192.0.3.9'/>", "<forward mode='route'/>" + ip, "192.0.3.9/32, which is in none"},
		{"<v:inbound to='192.0.2.9'/>", ip, "<inbound> in network 'n' has no meaning"},
		{"<v:inbound to='192.0.2.9' from='2001:db8::1'/>", "<forward mode='route'/>" + ip, "not of the same family"},
		{"<v:inbound to='192.0.2.9' port='22'/>", "<forward mode='route'/>" + ip, "needs protocol"},
		{"<v:inbound to='192.0.2.9' protocol='tcp' port='0'/>", "<forward mode='route'/>" + ip, "'0'"},
		{"<v:inbound to='192.0.2.9' protocol='tcp' port='9-8'/>", "<forward mode='route'/>" + ip, "'9-8'"},
		{"<v:inbound to='192.0.2.9' protocol='gre'/>", "<forward mode='route'/>" + ip, "gre"},
		{"<v:inbound to='192.0.2.9' allow='no' protocol='tcp'/>", "<forward mode='route'/>" + ip, "both allow='no'"},
	} {
		n, err := Parse([]byte("<network><name>n</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'>" + c.element + "</v:settings></metadata>" + c.rest + "</network>"))
		if err != nil {
			t.Fatal(err)
		}
		if err = n.Validate(); (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: error %v, want %q", c.element, err, c.err)
		}
	}
}
