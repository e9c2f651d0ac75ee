package libvirt

import "fmt"

// files are what the steps name with @.
var files = map[string]string{
	"lan":     natXML("lan", 50, "<mac address='52:54:00:50:50:50'/>"),
	"lan-new": natXML("lan", 50, "<mac address='52:54:00:50:50:50'/><domain name='lan.test' localOnly='yes'/>"),
	"Backup":  natXML("Backup", 51, ""),
	"passing": natXML("passing", 52, ""),
	"taken":   natXML("taken", 53, ""),
	"plain":   `<network><name>plain</name><ip address='192.168.54.1' netmask='255.255.255.0'/></network>`,
	"bare":    `<network><name>bare</name></network>`,
	"routed": `<network><name>routed</name><uuid>5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e5f</uuid><forward dev='eth0' mode='route'/><bridge name='virbr55' stp='off'/>
		<domain name='routed.test'/><mtu size='1400'/><ip address='192.168.55.1' prefix='25'/><route address='10.99.0.0' prefix='16' gateway='192.168.55.2' metric='3'/></network>`,
	"open": `<network><name>open</name><forward mode='open'/><bridge name='virbr56' delay='3'/><ip family='ipv6' address='fd00:56::1' prefix='64'/></network>`,
	"dual": `<network ipv6='yes'><name>dual</name><forward mode='nat'><nat ipv6='yes'><port start='2000' end='3000'/></nat></forward><bridge name='virbr57'/>
		<dns><forwarder addr='203.0.113.9'/><forwarder domain='a.test' addr='203.0.113.8'/><txt name='t' value='some text'/>
		<host ip='192.168.57.9'><hostname>nine</hostname><hostname>neuf</hostname></host>
		<srv service='ldap' protocol='tcp' domain='a.test' target='nine' port='389' priority='1' weight='2'/></dns>
		<ip address='192.168.57.1' netmask='255.255.255.0' localPtr='yes'><dhcp><range start='192.168.57.10' end='192.168.57.20'><lease expiry='3' unit='hours'/></range>
		<host mac='52:54:00:57:00:05' name='five' ip='192.168.57.5'/></dhcp></ip>
		<ip family='ipv6' address='fd00:57::1' prefix='64'><dhcp><range start='fd00:57::100' end='fd00:57::1ff'/></dhcp></ip></network>`,
	"limited": natXML("limited", 58, "<bandwidth><inbound average='1000' peak='2000' burst='512'/><outbound average='500'/></bandwidth>"),
	"groups": `<network><name>groups</name><bridge name='virbr59'/><ip address='192.168.59.1' netmask='255.255.255.0'/>
		<portgroup name='slow' default='yes'/><portgroup name='fast' trustGuestRxFilters='yes'/></network>`,
	"guest": `<network><name>guest</name><bridge name='virbr60'/><ip address='192.168.60.1' netmask='255.255.255.0'>
		<dhcp><range start='192.168.60.100' end='192.168.60.200'/><host mac='52:54:00:60:00:01' name='visitor' ip='192.168.60.7'/></dhcp></ip></network>`,
	"hostbridge": `<network><name>hostbridge</name><forward mode='bridge'/><bridge name='br-host'/></network>`,
	"macvtap":    `<network><name>macvtap</name><forward mode='bridge'><interface dev='eth0'/></forward></network>`,
	"private":    `<network><name>private</name><forward mode='private' dev='eth0'/></network>`,
	"hostdev":    `<network><name>hostdev</name><forward mode='hostdev' managed='yes'><driver name='vfio'/><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1'/></forward></network>`,
	"options": `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>options</name><ip address='192.168.61.1' prefix='24'/>
		<dnsmasq:options><dnsmasq:option value='no-hosts'/></dnsmasq:options></network>`,
	"metadata": `<network><name>metadata</name><metadata><a:thing xmlns:a='http://a.test/1'>text<a:in/></a:thing></metadata><ip address='192.168.62.1' prefix='24'/></network>`,

	"extra":        `<network><name>extra</name><foo/></network>`,
	"extraattr":    `<network><name>extra</name><ip address='192.168.63.1' prefix='24' foo='1'/></network>`,
	"extradeep":    `<network><name>extra</name><ip address='192.168.63.1' prefix='24'><dhcp><host mac='52:54:00:63:00:01' ip='192.168.63.4' foo='x'/></dhcp></ip></network>`,
	"extratext":    `<network><name>extra</name>text</network>`,
	"extraport":    "<networkport><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2d</uuid>" + ownerXML + "<mac address='52:54:00:63:00:01'/><foo/></networkport>",
	"clash-uuid":   `<network><name>other</name><uuid>5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e5f</uuid></network>`,
	"clash-name":   `<network><name>routed</name><uuid>5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e50</uuid></network>`,
	"clash-bridge": `<network><name>other</name><bridge name='virbr50'/></network>`,
	"broken":       "<network><name>broken</name>",
	"nothing":      "",
	"noroot":       `<netwerk><name>n</name></netwerk>`,
	"unknown":      `<network><name>unknown</name><colour>green</colour></network>`,

	"port":       portXML("11111111-aaaa-4aaa-8aaa-000000000001", "", ""),
	"port-limit": portXML("11111111-aaaa-4aaa-8aaa-000000000002", "", "<bandwidth><inbound average='128' peak='256' burst='64'/><outbound average='64'/></bandwidth>"),
	"port-group": portXML("11111111-aaaa-4aaa-8aaa-000000000003", "<group>fast</group>", ""),
	"port-alone": portXML("11111111-aaaa-4aaa-8aaa-000000000004", "", "<port isolated='yes'/>"),
	"port-plug":  portXML("11111111-aaaa-4aaa-8aaa-000000000005", "", "<plug type='network' bridge='virbr50'/>"),
	"port-owner": `<networkport><uuid>11111111-aaaa-4aaa-8aaa-000000000006</uuid><mac address='52:54:00:aa:00:01'/></networkport>`,
	"port-uuid":  `<networkport><owner><name>vm</name><uuid>22222222-bbbb-4bbb-8bbb-000000000001</uuid></owner><mac address='52:54:00:aa:00:01'/></networkport>`,
	"port-mac":   `<networkport><uuid>11111111-aaaa-4aaa-8aaa-000000000007</uuid><owner><name>vm</name><uuid>22222222-bbbb-4bbb-8bbb-000000000001</uuid></owner></networkport>`,
	"port-vport": portXML("11111111-aaaa-4aaa-8aaa-000000000008", "", "<virtualport type='openvswitch'/>"),
}

func init() {
	for i, r := range refusals {
		files[fmt.Sprint("refused", i)] = r
	}
}

// portXML is a port of a guest.
func portXML(id, group, inner string) string {
	return "<networkport><uuid>" + id + "</uuid><owner><name>vm</name><uuid>22222222-bbbb-4bbb-8bbb-000000000001</uuid></owner>" +
		group + "<mac address='52:54:00:aa:00:01'/>" + inner + "</networkport>"
}

// in wraps what a definition has, beside its name.
func in(inner string) string { return "<network><name>n</name>" + inner + "</network>" }

// withIP is in with an address.
func withIP(inner string) string {
	return in(inner + "<ip address='192.168.5.1' netmask='255.255.255.0'/>")
}

// dhcp is in with a subnet that is served.
func dhcp(inner string) string {
	return in("<ip address='192.168.5.1' netmask='255.255.255.0'><dhcp>" + inner + "</dhcp></ip>")
}

// refusals are definitions that are wrong, one for each rule that virsh's users
// are likely to meet. All the others are compared by the tests of package
// netdef, with what libvirt was seen to say.
var refusals = []string{
	"<network/>",
	"<network><name>a/b</name></network>",
	in("<uuid>123</uuid>"),
	"<network ipv6='maybe'><name>n</name></network>",
	in("<forward mode='warp'/>"),
	in("<forward mode='nat'/>"),
	in("<forward mode='route'/>"),
	withIP("<forward mode='nat'><interface dev='a'/><interface dev='b'/></forward>"),
	withIP("<forward mode='open' dev='e'/>"),
	in("<forward mode='bridge'><interface/></forward>"),
	in("<forward mode='bridge'><interface dev='a'/><interface dev='a'/></forward>"),
	in("<forward mode='bridge' dev='b'><interface dev='a'/></forward>"),
	in("<forward mode='hostdev'><pf dev='a'/><pf dev='b'/></forward>"),
	in("<forward mode='hostdev'><pf dev='a'/></forward><ip address='192.168.5.1' netmask='255.255.255.0'/>"),
	in("<forward mode='bridge'/><bridge name='b'/><dns><txt name='a' value='b'/></dns>"),
	in("<forward mode='bridge'/><bridge name='b'/><domain name='d'/>"),
	in("<forward mode='private' dev='e'/><bridge name='b'/>"),
	withIP("<forward mode='route'><nat/></forward>"),
	withIP("<forward mode='nat'><nat/><nat/></forward>"),
	withIP("<forward mode='nat'><nat><address start='1.2.3.4' end='1.2.3.3'/></nat></forward>"),
	withIP("<forward mode='nat'><nat><port start='7' end='5'/></nat></forward>"),
	in("<forward mode='bridge'/><bridge name='b' stp='on'/>"),
	in("<forward mode='bridge' dev='e'/><bridge name='b'/>"),
	in("<bridge name='b' delay='x'/>"),
	in("<bridge name='b' macTableManager='x'/>"),
	in("<mac address='53:54:00:00:00:01'/>"),
	in("<mtu size='x'/>"),
	in("<dns enable='no'><txt name='a' value='b'/></dns>"),
	in("<dns><forwarder/></dns>"),
	in("<dns><txt name='a b' value='c'/></dns>"),
	in("<dns><host ip='1.2.3.4'/></dns>"),
	in("<dns><srv service='a'/></dns>"),
	in("<dns><srv service='ab' protocol='tcp' port='5'/></dns>"),
	in("<ip/>"),
	in("<ip address='10.0.0.1' prefix='33'/>"),
	in("<ip address='10.0.0.1' prefix='24' netmask='255.255.255.0'/>"),
	in("<ip address='fd00::1'/>"),
	in("<ip family='ipv6' address='fd00::1' prefix='64'><tftp root='/'/></ip>"),
	dhcp("<range end='192.168.5.9'/>"),
	dhcp("<range start='192.168.6.2' end='192.168.6.9'/>"),
	dhcp("<range start='192.168.5.0' end='192.168.5.9'/>"),
	dhcp("<range start='192.168.5.9' end='192.168.5.255'/>"),
	dhcp("<range start='192.168.5.9' end='192.168.5.2'/>"),
	dhcp("<range start='192.168.5.9' end='192.168.5.12'><lease expiry='1'/></range>"),
	dhcp("<host mac='01:54:00:00:00:01' ip='192.168.5.5'/>"),
	dhcp("<host ip='192.168.5.5'/>"),
	dhcp("<host name='a'/>"),
	in("<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.0.2' end='10.0.0.3'/></dhcp></ip><ip address='10.1.0.1' prefix='24'><dhcp><range start='10.1.0.2' end='10.1.0.3'/></dhcp></ip>"),
	withIP("<route address='10.0.0.0' prefix='8' gateway='192.168.6.2'/>"),
	withIP("<route address='10.0.0.1' prefix='8' gateway='192.168.5.2'/>"),
	withIP("<route address='10.0.0.0' prefix='8' gateway='192.168.5.2' metric='0'/>"),
	in("<bandwidth><inbound/></bandwidth>"),
	in("<bandwidth><inbound average='1' floor='1'/></bandwidth>"),
	in("<forward mode='hostdev'><pf dev='a'/></forward><bandwidth><inbound average='1'/></bandwidth>"),
	in("<vlan><tag id='5'/></vlan>"),
	in("<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>"),
	in("<virtualport type='x'/>"),
	in("<virtualport type='openvswitch'/>"),
	in("<portgroup name='a' default='yes'/><portgroup name='b' default='yes'/>"),
	in("<portgroup name='a'/><portgroup name='a'/>"),
}
