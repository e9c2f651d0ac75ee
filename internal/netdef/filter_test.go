package netdef

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// findStock finds stock filters and those that are given as well.
func findStock(more ...*Filter) func(string) (*Filter, bool) {
	return func(name string) (*Filter, bool) {
		for _, f := range append(StockFilters(), more...) {
			if f.Name == name {
				return f, true
			}
		}
		return nil, false
	}
}

func mustFilter(t *testing.T, xml string) *Filter {
	t.Helper()
	f, err := ParseFilter([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	f.UUID = NewUUID()
	return f
}

func TestStockFilters(t *testing.T) {
	list := StockFilters()
	if len(list) != 24 {
		t.Errorf("there are %d stock filters", len(list))
	}
	seen := map[UUID]bool{}
	for _, f := range list {
		again, err := ParseFilter([]byte(f.Format()))
		if err != nil || !reflect.DeepEqual(again, f) {
			t.Errorf("%s comes back as %+v, %v", f.Name, again, err)
		}
		if seen[f.UUID] {
			t.Errorf("%s has the UUID of another", f.Name)
		}
		seen[f.UUID] = true
	}
}

func TestFilterFormat(t *testing.T) {
	f := mustFilter(t, `<filter name='mine' chain='arp-x' priority='-510'><rule action='drop' direction='out' priority='1000'/>
		<filterref filter='a'><parameter name='MAC' value='x'/><parameter name='IP' value='2'/><parameter name='IP' value='1'/></filterref>
		<rule action='accept' direction='inout'><mac protocolid='arp'/></rule></filter>`)
	f.UUID = UUID{1}
	const want = `<filter name='mine' chain='arp-x' priority='-510'>
  <uuid>01000000-0000-0000-0000-000000000000</uuid>
  <rule action='drop' direction='out' priority='1000'/>
  <filterref filter='a'>
    <parameter name='IP' value='2'/>
    <parameter name='IP' value='1'/>
    <parameter name='MAC' value='x'/>
  </filterref>
  <rule action='accept' direction='inout' priority='500'>
    <mac protocolid='arp'/>
  </rule>
</filter>
`
	if got := f.Format(); got != want {
		t.Errorf("%s", got)
	}
}

func TestFilterErrors(t *testing.T) {
	for xml, want := range map[string]string{
		`<x/>`:      "XML error: expecting root element of 'filter', not 'x'",
		`<filter/>`: "internal error: filter has no name",
		`<filter name='x' chain='foo'/>`: "invalid argument: Invalid chain name 'foo'. Please use a chain name called 'root' or any of the following prefixes: " +
			"mac, vlan, stp, arp, rarp, ipv4, ipv6",
		`<filter name='x'><filterref/></filter>`:                            "internal error: rule node requires action attribute",
		`<filter name='x'><rule action='foo' direction='out'/></filter>`:    "unsupported configuration: unknown rule action attribute value",
		`<filter name='x'><rule action='drop'/></filter>`:                   "internal error: rule node requires direction attribute",
		`<filter name='x' chain='mac' priority='1001'/>`:                    "invalid argument: Priority '1001' is outside valid range of [-1000,1000]",
		`<filter name='x'><rule action='drop' direction='aside'/></filter>`: "unsupported configuration: unknown rule direction attribute value",
	} {
		if _, err := ParseFilter([]byte(xml)); err == nil || err.Error() != want {
			t.Errorf("%s: %v", xml, err)
		}
	}
	const owner = `<owner><name>g</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>`
	for xml, want := range map[string]string{
		`<filter/>`:                       "XML error: expecting root element of 'filterbinding', not 'filter'",
		`<filterbinding/>`:                "internal error: filter binding has no port dev name",
		owner + `<portdev name='vnet0'/>`: "internal error: filter binding has no MAC address",
		owner + `<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/>`: "internal error: filter binding has no filter reference",
	} {
		if !strings.HasPrefix(xml, "<filter") {
			xml = "<filterbinding>" + xml + "</filterbinding>"
		}
		if _, err := ParseFilterBinding([]byte(xml)); err == nil || err.Error() != want {
			t.Errorf("%s: %v", xml, err)
		}
	}
}

const bindingXML = `<filterbinding>
  <owner>
    <name>g</name>
    <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid>
  </owner>
  <portdev name='vnet0'/>
  <mac address='52:54:00:7b:35:93'/>
  <filterref filter='clean-traffic'>
    <parameter name='IP' value='10.0.0.1'/>
  </filterref>
</filterbinding>
`

func TestFilterBindingFormat(t *testing.T) {
	b, err := ParseFilterBinding([]byte(bindingXML))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.Format(); got != bindingXML {
		t.Errorf("%s", got)
	}
}

// What a filter means for a guest, and by which name one is refused that
// cannot be enforced.
func TestFilterMeansGuard(t *testing.T) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	prefix := netip.MustParsePrefix
	own := []*Filter{
		mustFilter(t, `<filter name='mine'><filterref filter='clean-traffic'/></filter>`),
		mustFilter(t, `<filter name='round'><filterref filter='round'/></filter>`),
		mustFilter(t, `<filter name='rule'><rule action='drop' direction='out'><ip protocol='udp'/></rule></filter>`),
		mustFilter(t, `<filter name='lost'><filterref filter='nowhere'/></filter>`),
		mustFilter(t, `<filter name='way'><filterref filter='allow-incoming-ipv4'/><filterref filter='allow-arp'/><filterref filter='no-other-l2-traffic'/></filter>`),
		mustFilter(t, `<filter name='silent'><filterref filter='no-other-l2-traffic'/></filter>`),
		mustFilter(t, `<filter name='six'><filterref filter='no-ipv6-spoofing'/><filterref filter='no-arp-spoofing'/></filter>`),
	}
	clean := Guard{MAC: mac, NoMACSpoof: true, NoIPSpoof: true, NoARPSpoof: true, AllowDHCP: true,
		Prefixes: []netip.Prefix{anyIPv6}, Only: []EtherType{EtherARP, EtherIPv4, EtherRARP}}
	learned := clean
	learned.Learn = true
	given := clean
	given.Prefixes = []netip.Prefix{prefix("10.0.0.1/32"), prefix("10.0.0.2/32"), anyIPv6}
	for _, c := range []struct {
		filter string
		params []Parameter
		want   *Guard
		err    string
	}{
		{"clean-traffic", nil, &learned, ""},
		{"mine", nil, &learned, ""},
		{"clean-traffic", []Parameter{{"IP", "10.0.0.1"}, {"IP", "10.0.0.2"}}, &given, ""},
		{"no-mac-spoofing", nil, &Guard{MAC: mac, NoMACSpoof: true, Prefixes: []netip.Prefix{anyIPv4, anyIPv6}}, ""},
		{"no-ip-spoofing", nil, &Guard{MAC: mac, NoIPSpoof: true, AllowDHCP: true, Learn: true, Prefixes: []netip.Prefix{anyIPv6}}, ""},
		{"allow-dhcp", nil, &Guard{MAC: mac, AllowDHCP: true, Prefixes: []netip.Prefix{anyIPv4, anyIPv6}}, ""},
		{"no-ipv6-spoofing", []Parameter{{"IPV6", "fd00::1"}}, &Guard{MAC: mac, NoIPSpoof: true, AllowDHCP: true,
			Prefixes: []netip.Prefix{prefix("fd00::1/128"), anyIPv4}}, ""},
		{"clean-traffic", []Parameter{{"CTRL_IP_LEARNING", "none"}}, nil, "CTRL_IP_LEARNING"},
		{"clean-traffic", []Parameter{{"IP", "fd00::1"}}, nil, "parameter IP"},
		{"clean-traffic-gateway", nil, nil, "'clean-traffic-gateway'"},
		{"no-ip-multicast", nil, nil, "'no-ip-multicast'"},
		{"allow-dhcp-server", nil, nil, "'allow-dhcp-server'"},
		{"round", nil, nil, "'round'"},
		{"rule", nil, nil, "'rule'"},
		{"lost", nil, nil, "'nowhere'"},
		{"way", nil, nil, "ipv4 through in one direction"},
		{"silent", nil, nil, "no protocol"},
		{"six", nil, nil, "no-ip-spoofing"},
	} {
		find := findStock(own...)
		f, _ := find(c.filter)
		got, err := (&FilterBinding{MAC: mac, Ref: FilterRef{Filter: c.filter, Parameters: c.params}}).Guard(f, find)
		switch {
		case c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)):
			t.Errorf("%s %v: %+v, %v", c.filter, c.params, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || CodeOf(err) != ErrConfigUnsupported):
			t.Errorf("%s %v: %v does not name %s", c.filter, c.params, err, c.err)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range StockFilters() {
		f.Add([]byte(s.Format()))
	}
	f.Add([]byte(bindingXML))
	f.Fuzz(func(t *testing.T, data []byte) {
		if filter, err := ParseFilter(data); err == nil {
			CheckFilter(filter, findStock(filter))
			again, err := ParseFilter([]byte(filter.Format()))
			if err != nil || again.Format() != filter.Format() {
				t.Errorf("%q does not come back: %v", data, err)
			}
		}
		if b, err := ParseFilterBinding(data); err == nil {
			again, err := ParseFilterBinding([]byte(b.Format()))
			if err != nil || again.Format() != b.Format() {
				t.Errorf("%q does not come back: %v", data, err)
			}
		}
	})
}
