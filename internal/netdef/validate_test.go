package netdef

import (
	"strings"
	"testing"
)

func TestValidateRefuses(t *testing.T) {
	for _, c := range []refusal{
		{net(`<forward mode='passthrough'><address type='pci' domain='0' bus='3' slot='0' function='1'/></forward>`),
			ErrConfigUnsupported, `network 'n' has forward mode 'passthrough'  but lists a device by PCI address in the device pool. This is only supported for networks with forward mode 'hostdev'`},
		{net(`<forward mode='hostdev'><interface dev='a'/></forward>`),
			ErrConfigUnsupported, `hostdev network 'n' lists 'a' in the device pool, but hostdev networks require all devices to be listed by PCI address, not network device name`},
		{net(`<forward mode='passthrough'><interface dev='a'/><pf dev='b'/></forward>`),
			ErrConfigUnsupported, `<address>, <interface>, and <pf> elements of <forward> in network n are mutually exclusive`},
		{net(`<forward mode='hostdev'><interface dev='a'/><pf dev='b'/></forward>`),
			ErrConfigUnsupported, `hostdev network 'n' lists 'a' in the device pool, but hostdev networks require all devices to be listed by PCI address, not network device name`},
		{net(`<portgroup name='a' default='yes'/><portgroup name='a' default='yes'/>`),
			ErrConfigUnsupported, `multiple <portgroup> elements with the same name (a) in network 'n'`},
		{withIP(`<forward mode='bridge'/><bridge name='b'/>`),
			ErrConfigUnsupported, `Unsupported <ip> element in network n with forward mode='bridge'`},
		{net(`<forward mode='bridge'/><bridge name='b'/><mac address='52:54:00:00:00:01'/>`),
			ErrConfigUnsupported, `Unsupported <mac> element in network n with forward mode='bridge'`},
		{net(`<forward mode='bridge'/><bridge name='b'/><dns><txt name='a' value='b'/></dns>`),
			ErrConfigUnsupported, `Unsupported <dns> element in network n with forward mode='bridge'`},
		{net(`<forward mode='bridge'/><bridge name='b'/><domain name='d'/>`),
			ErrConfigUnsupported, `Unsupported <domain> element in network n with forward mode='bridge'`},
		{net(`<forward mode='bridge' dev='e'/><bandwidth><inbound average='5'/></bandwidth>`),
			ErrConfigUnsupported, `Unsupported network-wide <bandwidth> element in network n with forward mode='bridge'`},
		{net(`<forward mode='vepa' dev='e'/><portgroup name='p'><bandwidth><inbound average='5'/></bandwidth></portgroup>`),
			ErrConfigUnsupported, `Unsupported <bandwidth> element in network 'n' in portgroup 'p' with forward mode='vepa'`},
		{net(`<forward mode='bridge' dev='e'/><portgroup name='p'><bandwidth><inbound average='5'/></bandwidth></portgroup>`),
			ErrConfigUnsupported, `Unsupported <bandwidth> element in network 'n' in portgroup 'p' with forward mode='bridge'`},
		{net(`<ip address='224.0.0.1'/>`),
			ErrXML, `Invalid address '224.0.0.1' in network 'n'`},
		{net(`<ip address='0.0.0.0' prefix='24'/>`),
			ErrXML, `Invalid address '0.0.0.0' in network 'n'`},
		{dhcp6(`<host id='0:1' ip='fd00:5::2'/>`),
			ErrXML, `id '0:1' in network 'n' is no DUID: it has 2 octets, not 3 to 130`},
		{dhcp4(`<host name='a' ip='fd00::1'/>`),
			ErrXML, `the address family of a host entry IP must match the address family of the dhcp element's parent: 'fd00::1' in network 'n'`},
		{net(`<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.3'/></dhcp></ip><ip address='10.0.1.1' prefix='24'><dhcp><range start='10.0.1.2' end='10.0.1.3'/></dhcp></ip>`),
			ErrConfigUnsupported, `Multiple IPv4 dhcp sections found -- dhcp is supported only for a single IPv4 address on each network`},
		{dhcp6(`<range start='fd00:5::2' end='fd00:5::3'/></dhcp></ip><ip family='ipv6' address='fd00:6::1' prefix='64'><dhcp><host name='x' ip='fd00:6::4'/>`),
			ErrConfigUnsupported, `Multiple IPv6 dhcp sections found -- dhcp is supported only for a single IPv6 address on each network`},
		{net(`<vlan><tag id='1'/></vlan>`),
			ErrConfigUnsupported, `<vlan> element specified for network n, whose type doesn't support vlan configuration`},
		{net(`<portgroup name='a'><vlan><tag id='1'/></vlan></portgroup>`),
			ErrConfigUnsupported, `<vlan> element specified for network n, whose type doesn't support vlan configuration`},
		{net(`<portgroup name='a'/><portgroup name='a'/>`),
			ErrConfigUnsupported, `multiple <portgroup> elements with the same name (a) in network 'n'`},
		{net(`<portgroup name='a' default='yes'/><portgroup name='b' default='YES'/>`),
			ErrConfigUnsupported, `network 'n' has multiple default <portgroup> elements (a and b), but only one default is allowed`},
		{net(`<bridge name='abcdefghijklmnopqrst'/>`),
			ErrXML, `Invalid bridge name 'abcdefghijklmnopqrst' in network 'n'`},
		{net(`<bridge name='../eth0'/>`),
			ErrXML, `Invalid bridge name '../eth0' in network 'n'`},
		{net(`<bridge name='a%d%d'/>`),
			ErrXML, `Invalid bridge name 'a%d%d' in network 'n'`},
		{net(`<forward mode='bridge' dev='a b'/>`),
			ErrXML, `Invalid device name 'a b' in network 'n'`},
		{net(`<domain name='d' register='yes'/>`),
			ErrConfigUnsupported, `domain register='yes' requires localOnly='yes' in network 'n'`},
		{`<network><name>..</name></network>`,
			ErrXML, `name '..' cannot be used for a network`},
		{`<network><name>` + strings.Repeat("a", 252) + `</name></network>`,
			ErrXML, `name '` + strings.Repeat("a", 252) + `' is too long, limit is 251 bytes`},
	} {
		n, err := Parse([]byte(c.doc))
		if err != nil {
			t.Errorf("%s: %v", c.doc, err)
			continue
		}
		checkRefusal(t, n.Validate(), c)
	}
}

// Whoever fills in a Network by hand meets the same rules about its name.
func TestValidateName(t *testing.T) {
	for _, c := range []refusal{
		{"", ErrNoName, "missing name information"},
		{"a/b", ErrXMLDetail, "invalid char in name: /"},
		{"a\nb", ErrXMLDetail, "invalid char in name: \n"},
	} {
		checkRefusal(t, (&Network{Name: c.doc}).Validate(), c)
	}
}

func TestValidateAccepts(t *testing.T) {
	for _, doc := range []string{
		net(""),
		withIP("<forward mode='nat' dev='eth0'/>"),
		net("<forward mode='open'/>"),
		net("<bridge name='br%d'/>"),
		net("<forward mode='bridge'/><bridge name='br0'/><vlan><tag id='5'/></vlan><bandwidth><inbound average='5'/></bandwidth>"),
		net("<forward mode='hostdev'><pf dev='eth0'/></forward>"),
		dhcp4("<host name='a' ip='10.9.9.9'/>"), // libvirt takes it, and people have it
		net("<domain name='d' localOnly='yes' register='yes'/>"),
	} {
		n, err := Parse([]byte(doc))
		if err == nil {
			err = n.Validate()
		}
		if err != nil {
			t.Errorf("%s: %v", doc, err)
		}
	}
}
