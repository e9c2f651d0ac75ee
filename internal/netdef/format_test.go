package netdef

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// everything has each element in its place; it comes out as it goes in.
const everything = `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' ipv6='yes' trustGuestRxFilters='no'>
  <name>a&apos;b</name>
  <uuid>81ff0d90-c91e-6742-64da-4a736edb9a9b</uuid>
  <title>t &lt; &gt; &amp; &quot;</title>
  <description>two
	lines</description>
  <metadata>
    <a:x xmlns:a="urn:a" b="1&quot;&#10;">t<c/></a:x>
    <z xmlns="urn:z">
      <!-- q -->
      <y k="'"/>
      <?p i?>
      <e>
  two
 lines &lt;</e>
      <f> </f>
    </z>
  </metadata>
  <forward dev='eth0' mode='nat'>
    <nat ipv6='yes'>
      <address start='10.0.0.1' end='10.0.0.9'/>
      <port start='0' end='5'/>
    </nat>
    <interface dev='eth0'/>
  </forward>
  <bridge name='virbr0' zone='z' stp='off' delay='3' macTableManager='libvirt'/>
  <mtu size='1400'/>
  <mac address='52:54:00:00:00:01'/>
  <domain name='d' localOnly='yes' register='yes'/>
  <dns enable='yes' forwardPlainNames='no'>
    <forwarder domain='d' addr='10.0.0.1' port='5353'/>
    <forwarder addr='fd00::1'/>
    <txt name='t' value=''/>
    <srv service='s' protocol='tcp' domain='d' target='t' port='1' priority='2' weight='3'/>
    <host ip='10.0.0.1'>
      <hostname>h</hostname>
      <hostname>i</hostname>
    </host>
  </dns>
  <bandwidth>
    <inbound average='1' peak='2' burst='3'/>
    <outbound average='4'/>
  </bandwidth>
  <port isolated='no'/>
  <ip family='ipv4' address='192.168.5.1' netmask='255.255.255.0' localPtr='yes'>
    <tftp root='/srv'/>
    <dhcp>
      <range start='192.168.5.2' end='192.168.5.9'>
        <lease expiry='0'/>
      </range>
      <host mac='52:54:00:AA:00:1' id='01:52' name='h' ip='192.168.5.10'>
        <lease expiry='120' unit='seconds'/>
      </host>
      <bootp file='f' server='10.0.0.1'/>
    </dhcp>
  </ip>
  <ip address='10.1.0.1' prefix='16'>
  </ip>
  <route address='10.9.0.0' netmask='255.255.0.0' gateway='192.168.5.2' metric='7'/>
  <route family='ipv4' address='0.0.0.0' prefix='0' gateway='192.168.5.2'/>
  <route address='0.0.0.0' gateway='192.168.5.3'/>
  <virtualport type='802.1Qbg'>
    <parameters managerid='11' typeid='8' typeidversion='2' instanceid='09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f'/>
  </virtualport>
  <portgroup name='p' default='yes' trustGuestRxFilters='yes'>
    <vlan>
      <tag id='5'/>
    </vlan>
    <virtualport>
      <parameters profileid='x'/>
    </virtualport>
    <bandwidth>
      <inbound average='1'/>
    </bandwidth>
  </portgroup>
  <portgroup name='q'>
  </portgroup>
  <dnsmasq:options>
    <dnsmasq:option value='a&lt;b'/>
    <dnsmasq:option value=''/>
  </dnsmasq:options>
</network>
`

func TestFormatEverything(t *testing.T) {
	n, err := Parse([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(everything, n.Format(FormatOptions{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFormatCanonical(t *testing.T) {
	head := "<network>\n  <name>n</name>\n"
	bridge := "  <bridge stp='on' delay='0'/>\n"
	for _, c := range []struct{ doc, want string }{
		{net(""), bridge},
		{net("<!-- c --><foo/><bridge wobble='1'/>"), bridge},
		// Of single elements the first counts.
		{net("<bridge name='a'/><bridge name='b'/><mtu size='1400'/><mtu size='1500'/><dns enable='no'/><dns><txt name='a' value='b'/></dns>"),
			"  <bridge name='a' stp='on' delay='0'/>\n  <mtu size='1400'/>\n  <dns enable='no'/>\n"},
		{net("<forward/><ip address='10.0.0.1'/>"),
			"  <forward mode='nat'/>\n" + bridge + "  <ip address='10.0.0.1'>\n  </ip>\n"},
		{net("<forward mode='none'/>"), bridge},
		{net("<forward mode='nat'><nat/></forward><ip address='10.0.0.1'/>"),
			"  <forward mode='nat'/>\n" + bridge + "  <ip address='10.0.0.1'>\n  </ip>\n"},
		{net("<forward mode='nat'><nat ipv6='no'/></forward><ip address='10.0.0.1' prefix='0'/>"),
			"  <forward mode='nat'>\n    <nat ipv6='no'/>\n  </forward>\n" + bridge + "  <ip address='10.0.0.1'>\n  </ip>\n"},
		{net("<forward mode='hostdev' managed='YES'><driver name='vfio'/><pf dev='a'/></forward>"),
			"  <forward mode='hostdev' managed='yes'>\n    <driver name='vfio'/>\n    <pf dev='a'/>\n  </forward>\n"},
		{net("<forward mode='hostdev'><pf dev='a'/></forward>"),
			"  <forward mode='hostdev' managed='no'>\n    <pf dev='a'/>\n  </forward>\n"},
		{net("<forward mode='bridge'/><vlan trunk='no'><tag id='1'/></vlan>"),
			"  <forward mode='bridge'/>\n  <vlan>\n    <tag id='1'/>\n  </vlan>\n"},
		{net("<forward mode='bridge'/><vlan><tag id='1'/><tag id='2'/></vlan>"),
			"  <forward mode='bridge'/>\n  <vlan trunk='yes'>\n    <tag id='1'/>\n    <tag id='2'/>\n  </vlan>\n"},
		{net("<bandwidth/>"), bridge},
		{net("<bandwidth><inbound average='0'/></bandwidth>"), bridge + "  <bandwidth>\n  </bandwidth>\n"},
		{net("<dns/><domain localOnly='yes'/>"), bridge},
		{net("<ip family='ipv6' address='FD00:0::0:1' prefix='64'><dhcp><bootp file='f'/></dhcp></ip>"),
			bridge + "  <ip family='ipv6' address='fd00::1' prefix='64'>\n  </ip>\n"},
		// Metadata: one child for each namespace, none without; the blanks between elements are ours.
		{"<network xmlns:o='urn:o'><name>n</name><metadata>text<none/><o:x>\n\n<o:y/></o:x><p:z xmlns:p='urn:o'/><q:u/></metadata></network>",
			"  <metadata>\n    <o:x xmlns:o=\"urn:o\">\n      <o:y/>\n    </o:x>\n  </metadata>\n" + bridge},
		{net("<metadata><x xmlns='urn:x'><![CDATA[a<b]]></x></metadata>"),
			"  <metadata>\n    <x xmlns=\"urn:x\">a&lt;b</x>\n  </metadata>\n" + bridge},
		{net("<metadata><none/></metadata>"),
			"  <metadata/>\n" + bridge},
		{net("<metadata><x xmlns='urn:x' k='é'>é</x></metadata>"),
			"  <metadata>\n    <x xmlns=\"urn:x\" k=\"&#xE9;\">é</x>\n  </metadata>\n" + bridge},
		{net("<dns><host ip='10.0.0.1'><hostname/><hostname>h</hostname></host></dns>"),
			bridge + "  <dns>\n    <host ip='10.0.0.1'>\n      <hostname>h</hostname>\n    </host>\n  </dns>\n"},
		// Of lease times and boot files the last counts. A lease time may be written as C writes numbers.
		{net("<ip address='10.0.0.1'><dhcp><range start='10.0.0.5' end='10.0.0.9'><lease expiry='9'/><lease expiry='0x10'/></range><bootp file='f'/><bootp file='g'/></dhcp></ip>"),
			bridge + "  <ip address='10.0.0.1'>\n    <dhcp>\n      <range start='10.0.0.5' end='10.0.0.9'>\n        <lease expiry='16' unit='minutes'/>\n      </range>\n" +
				"      <bootp file='g'/>\n    </dhcp>\n  </ip>\n"},
	} {
		n, err := Parse([]byte(c.doc))
		if err != nil {
			t.Errorf("%s: %v", c.doc, err)
			continue
		}
		if diff := cmp.Diff(head+c.want+"</network>\n", n.Format(FormatOptions{})); diff != "" {
			t.Errorf("%s\n(-want +got)\n%s", c.doc, diff)
		}
	}
}

// What only a running network has is missing from its definition.
func TestFormatInactive(t *testing.T) {
	n := &Network{Name: "n", Forward: Forward{Mode: ModePassthrough, PFs: []string{"eth0"}, Interfaces: []string{"v0", "v1"}}}
	o := FormatOptions{Connections: 3, DeviceConnections: map[string]int{"v1": 3}}
	active := `<network connections='3'>
  <name>n</name>
  <forward mode='passthrough'>
    <pf dev='eth0'/>
    <interface dev='v0'/>
    <interface dev='v1' connections='3'/>
  </forward>
</network>
`
	if diff := cmp.Diff(active, n.Format(o)); diff != "" {
		t.Errorf("active (-want +got)\n%s", diff)
	}
	o.Inactive = true
	inactive := `<network>
  <name>n</name>
  <forward mode='passthrough'>
    <pf dev='eth0'/>
  </forward>
</network>
`
	if diff := cmp.Diff(inactive, n.Format(o)); diff != "" {
		t.Errorf("inactive (-want +got)\n%s", diff)
	}
}
