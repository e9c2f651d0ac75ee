package netdef

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const updatable = `<network><name>n</name><forward mode='route'><interface dev='eth0'/></forward><dns>
<txt name='a' value='b'/><srv service='s' protocol='tcp' domain='d1' target='t'/><srv service='s' protocol='tcp' domain='d2' target='t'/>
<host ip='10.0.0.1'><hostname>x</hostname><hostname>y</hostname></host><host ip='10.0.0.2'><hostname>x</hostname></host></dns>
<ip address='192.168.5.1' netmask='255.255.255.0'><dhcp><range start='192.168.5.2' end='192.168.5.9'/><host mac='52:54:00:00:00:01' name='h1' ip='192.168.5.11'/><host name='h2' ip='192.168.5.12'/></dhcp></ip>
<ip address='192.168.6.1' netmask='255.255.255.0'/><ip family='ipv6' address='fd00:5::1' prefix='64'><dhcp><host id='0:1' name='v6' ip='fd00:5::5'/></dhcp></ip>
<portgroup name='p1' default='yes'/><portgroup name='p2'/></network>`

// Codes and texts are those that libvirt 9.0 was seen to answer, but for the
// last ones.
func TestUpdateRefuses(t *testing.T) {
	n, err := Parse([]byte(updatable))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		command UpdateCommand
		section Section
		parent  int
		refusal
	}{
		{UpdateAddLast, SectionBridge, -1, refusal{`<bridge/>`,
			ErrOperationUnsupported, `can't update 'bridge' section of network 'n'`}},
		{UpdateAddLast, SectionDomain, -1, refusal{`<domain/>`,
			ErrOperationUnsupported, `can't update 'domain' section of network 'n'`}},
		{UpdateAddLast, SectionIP, -1, refusal{`<ip/>`,
			ErrOperationUnsupported, `can't update 'ip' section of network 'n'`}},
		{UpdateAddLast, SectionForward, -1, refusal{`<forward/>`,
			ErrOperationUnsupported, `can't update 'forward' section of network 'n'`}},
		{UpdateAddLast, SectionForwardPF, -1, refusal{`<pf/>`,
			ErrOperationUnsupported, `can't update 'forward pf' section of network 'n'`}},
		{UpdateAddLast, SectionIPDHCPHost, -1, refusal{`<range/>`,
			ErrXML, `unexpected element <range>, expecting <host>, while updating network 'n'`}},
		{UpdateAddLast, SectionIPDHCPHost, 9, refusal{`<host mac='52:54:00:00:00:09' ip='192.168.5.19'/>`,
			ErrOperationInvalid, `couldn't update dhcp host entry - no <ip> element found at index 9 in network 'n'`}},
		{UpdateAddLast, SectionIPDHCPHost, -1, refusal{`<host mac='52:54:00:00:00:1' ip='192.168.5.19'/>`,
			ErrOperationInvalid, `there is an existing dhcp host entry in network 'n' that matches "<host mac='52:54:00:00:00:1' name='(null)' ip='192.168.5.19'/>"`}},
		{UpdateAddLast, SectionIPDHCPHost, -1, refusal{`<host name='h1' ip='192.168.5.19'/>`,
			ErrOperationInvalid, `there is an existing dhcp host entry in network 'n' that matches "<host mac='unknown' name='h1' ip='192.168.5.19'/>"`}},
		{UpdateAddLast, SectionIPDHCPHost, -1, refusal{`<host name='h9' ip='192.168.5.12'/>`,
			ErrOperationInvalid, `there is an existing dhcp host entry in network 'n' that matches "<host mac='unknown' name='h9' ip='192.168.5.12'/>"`}},
		{UpdateAddLast, SectionIPDHCPHost, 1, refusal{`<host name='h9' ip='192.168.6.19'/>`,
			ErrOperationInvalid, `dhcp is supported only for a single IPv4 address on each network`}},
		{UpdateAddLast, SectionIPDHCPHost, 0, refusal{`<host name='h9' ip='fd00::1'/>`,
			ErrOperationInvalid, `the address family of a host entry IP must match the address family of the dhcp element's parent`}},
		{UpdateAddLast, SectionIPDHCPHost, -1, refusal{`<host mac='52:54:00:00:00:09'/>`,
			ErrXML, `Missing IP address in static host definition for network 'n'`}},
		{UpdateDelete, SectionIPDHCPHost, -1, refusal{`<host id='0:1'/>`,
			ErrXML, `At least one of name, mac, or ip attribute must be specified for static host definition in network 'n' `}},
		// What is wrong with the piece is said before what is wrong with the command.
		{9, SectionIPDHCPHost, -1, refusal{`<host mac='52:54:00:00:00:09'/>`,
			ErrXML, `Missing IP address in static host definition for network 'n'`}},
		{-1, SectionIPDHCPHost, -1, refusal{`<host mac='52:54:00:00:00:09' ip='192.168.5.19'/>`,
			ErrOperationUnsupported, `unrecognized network update command code -1`}},
		{UpdateModify, SectionIPDHCPRange, -1, refusal{`<host/>`,
			ErrXML, `unexpected element <host>, expecting <range>, while updating network 'n'`}},
		{9, SectionDNSHost, -1, refusal{`<host ip='10.0.0.9'/>`,
			ErrOperationUnsupported, `unrecognized network update command code 9`}},
		{UpdateModify, SectionForwardInterface, -1, refusal{`<x/>`,
			ErrXML, `unexpected element <x>, expecting <interface>, while updating network 'n'`}},
		{UpdateModify, SectionIPDHCPRange, 9, refusal{`<range/>`,
			ErrOperationInvalid, `couldn't update dhcp host entry - no <ip> element found at index 9 in network 'n'`}},
		{UpdateDelete, SectionIPDHCPHost, -1, refusal{`<host name='h1' ip='192.168.5.12'/>`,
			ErrOperationInvalid, `couldn't locate a matching dhcp host entry in network 'n'`}},
		{UpdateModify, SectionIPDHCPHost, -1, refusal{`<host mac='52:54:00:00:00:09' ip='192.168.5.19'/>`,
			ErrOperationInvalid, `couldn't locate an existing dhcp host entry with "mac='52:54:00:00:00:09'" "name='(null)'" "ip='192.168.5.19'" in network 'n'`}},
		{UpdateModify, SectionIPDHCPHost, -1, refusal{`<host name='zz' ip='192.168.5.19'/>`,
			ErrOperationInvalid, `couldn't locate an existing dhcp host entry with "mac='unknown'" "name='zz'" "ip='192.168.5.19'" in network 'n'`}},
		{UpdateModify, SectionIPDHCPRange, -1, refusal{`<range start='192.168.5.2' end='192.168.5.9'/>`,
			ErrOperationUnsupported, `dhcp ranges cannot be modified, only added or deleted`}},
		{UpdateAddLast, SectionIPDHCPRange, -1, refusal{`<range start='192.168.5.2' end='192.168.5.9'/>`,
			ErrOperationInvalid, `there is an existing dhcp range entry in network 'n' that matches "<range start='192.168.5.2' end='192.168.5.9'/>"`}},
		{UpdateDelete, SectionIPDHCPRange, -1, refusal{`<range start='192.168.5.22' end='192.168.5.29'/>`,
			ErrOperationInvalid, `couldn't locate a matching dhcp range entry in network 'n'`}},
		{UpdateAddLast, SectionIPDHCPRange, 1, refusal{`<range start='192.168.6.22' end='192.168.6.29'/>`,
			ErrOperationInvalid, `dhcp is supported only for a single IPv4 address on each network`}},
		{UpdateAddLast, SectionIPDHCPRange, 0, refusal{`<range start='192.168.6.22' end='192.168.6.29'/>`,
			ErrInternal, `range 192.168.6.22 - 192.168.6.29 is not entirely within network 192.168.5.1/24`}},
		{UpdateAddLast, SectionIPDHCPRange, 7, refusal{`<range start='192.168.6.22' end='192.168.6.29'/>`,
			ErrOperationInvalid, `couldn't update dhcp host entry - no <ip> element found at index 7 in network 'n'`}},
		{UpdateModify, SectionForwardInterface, -1, refusal{`<interface dev='eth0'/>`,
			ErrOperationUnsupported, `forward interface entries cannot be modified, only added or deleted`}},
		{UpdateAddLast, SectionForwardInterface, -1, refusal{`<interface dev='eth0'/>`,
			ErrOperationInvalid, `there is an existing interface entry in network 'n' that matches "<interface dev='eth0'>"`}},
		{UpdateAddLast, SectionForwardInterface, -1, refusal{`<interface/>`,
			ErrXML, `missing dev attribute in <interface> element`}},
		{UpdateDelete, SectionForwardInterface, -1, refusal{`<interface dev='eth1'/>`,
			ErrOperationInvalid, `couldn't find an interface entry in network 'n' matching <interface dev='eth1'>`}},
		{UpdateAddLast, SectionPortGroup, -1, refusal{`<portgroup name='p1'/>`,
			ErrOperationInvalid, `there is an existing portgroup entry in network 'n' that matches "<portgroup name='p1'>"`}},
		{UpdateAddLast, SectionPortGroup, -1, refusal{`<portgroup name='p3' default='yes'/>`,
			ErrOperationInvalid, `a different portgroup entry in network 'n' is already set as the default. Only one default is allowed.`}},
		{UpdateModify, SectionPortGroup, -1, refusal{`<portgroup name='p3'/>`,
			ErrOperationInvalid, `couldn't find a portgroup entry in network 'n' matching <portgroup name='p3'>`}},
		{UpdateDelete, SectionPortGroup, -1, refusal{`<portgroup name='p3'/>`,
			ErrOperationInvalid, `couldn't find a portgroup entry in network 'n' matching <portgroup name='p3'>`}},
		{UpdateModify, SectionPortGroup, -1, refusal{`<portgroup name='p2' default='yes'/>`,
			ErrOperationInvalid, `a different portgroup entry in network 'n' is already set as the default. Only one default is allowed.`}},
		{UpdateAddLast, SectionPortGroup, -1, refusal{`<portgroup/>`,
			ErrXML, `Missing required name attribute in portgroup`}},
		{UpdateAddLast, SectionDNSHost, -1, refusal{`<host ip='10.0.0.1'><hostname>q</hostname></host>`,
			ErrOperationInvalid, `there is already at least one DNS HOST record with a matching field in network n`}},
		{UpdateAddLast, SectionDNSHost, -1, refusal{`<host ip='10.0.0.9'/>`,
			ErrXMLDetail, `Missing hostname in network 'n' DNS HOST record`}},
		{UpdateDelete, SectionDNSHost, -1, refusal{`<host ip='10.0.0.9'/>`,
			ErrOperationInvalid, `couldn't locate a matching DNS HOST record in network n`}},
		{UpdateDelete, SectionDNSHost, -1, refusal{`<host><hostname>x</hostname></host>`,
			ErrOperationInvalid, `multiple matching DNS HOST records were found in network n`}},
		{UpdateDelete, SectionDNSHost, -1, refusal{`<host/>`,
			ErrXMLDetail, `Missing ip and hostname in network 'n' DNS HOST record`}},
		{UpdateDelete, SectionDNSHost, -1, refusal{`<host ip='q'/>`,
			ErrXMLDetail, `Invalid IP address in network 'n' DNS HOST record`}},
		{UpdateAddLast, SectionDNSTXT, -1, refusal{`<txt name='a' value='c'/>`,
			ErrOperationInvalid, `there is already a DNS TXT record with name 'a' in network n`}},
		{UpdateAddLast, SectionDNSTXT, -1, refusal{`<txt name='c'/>`,
			ErrXMLDetail, `missing required value attribute in DNS TXT record named 'c' of network n`}},
		{UpdateDelete, SectionDNSTXT, -1, refusal{`<txt name='c'/>`,
			ErrOperationInvalid, `couldn't locate a matching DNS TXT record in network n`}},
		{UpdateModify, SectionDNSSRV, -1, refusal{`<srv service='s' protocol='tcp'/>`,
			ErrOperationUnsupported, `DNS SRV records cannot be modified, only added or deleted`}},
		{UpdateAddLast, SectionDNSSRV, -1, refusal{`<srv service='s' protocol='tcp'/>`,
			ErrOperationInvalid, `there is already at least one DNS SRV record matching all specified fields in network n`}},
		{UpdateDelete, SectionDNSSRV, -1, refusal{`<srv service='s'/>`,
			ErrOperationInvalid, `multiple DNS SRV records matching all specified fields were found in network n`}},
		{UpdateDelete, SectionDNSSRV, -1, refusal{`<srv domain='d9'/>`,
			ErrOperationInvalid, `couldn't locate a matching DNS SRV record in network n`}},
		{5, SectionDNSTXT, -1, refusal{`<txt name='a' value='c'/>`,
			ErrOperationUnsupported, `unrecognized network update command code 5`}},
		{UpdateAddLast, 13, -1, refusal{`<txt name='a' value='c'/>`,
			ErrOperationUnsupported, `can't update unrecognized section of network`}},
		{UpdateModify, SectionDNSTXT, -1, refusal{`<txt name='c' value='d'/>`,
			ErrOperationInvalid, `couldn't locate a matching DNS TXT record in network n`}},
		{UpdateModify, SectionDNSHost, -1, refusal{`<host ip='10.0.0.9'><hostname>x</hostname></host>`,
			ErrOperationInvalid, `multiple matching DNS HOST records were found in network n`}},
		{UpdateAddLast, SectionDNSTXT, -1, refusal{`<txt`,
			ErrXMLDetail, "network_update_xml:1: Couldn't find end of Start Tag txt line 1\n<txt\n----^"}},
	} {
		updated, err := n.Update(c.command, c.section, c.parent, []byte(c.doc))
		if updated != nil {
			t.Errorf("%s: got a network beside the error", c.doc)
		}
		checkRefusal(t, err, c.refusal)
	}
	if diff := cmp.Diff(mustParse(t, updatable), n, sameNetwork); diff != "" {
		t.Errorf("the network itself changed (-want +got)\n%s", diff)
	}
}

func mustParse(t *testing.T, doc string) *Network {
	t.Helper()
	n, err := Parse([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestUpdate(t *testing.T) {
	for _, c := range []struct {
		command UpdateCommand
		section Section
		parent  int
		piece   string
		change  func(*Network)
	}{
		{UpdateAddFirst, SectionIPDHCPHost, -1, `<host name='h9' ip='192.168.5.19'/>`,
			func(n *Network) {
				n.IPs[0].Hosts = append([]DHCPHost{{Name: "h9", IP: addr("192.168.5.19")}}, n.IPs[0].Hosts...)
			}},
		{UpdateAddLast, SectionIPDHCPHost, 2, `<host id='0:2' ip='fd00:5::6'/>`,
			func(n *Network) { n.IPs[2].Hosts = append(n.IPs[2].Hosts, DHCPHost{ID: "0:2", IP: addr("fd00:5::6")}) }},
		{UpdateModify, SectionIPDHCPHost, -1, `<host name='h2' ip='192.168.5.19'/>`,
			func(n *Network) { n.IPs[0].Hosts[1].IP = addr("192.168.5.19") }},
		{UpdateDelete, SectionIPDHCPHost, -1, `<host name='h1'/>`,
			func(n *Network) { n.IPs[0].Hosts = n.IPs[0].Hosts[1:] }},
		{UpdateAddLast, SectionIPDHCPRange, -1, `<range start='192.168.5.22' end='192.168.5.29'/>`,
			func(n *Network) {
				n.IPs[0].Ranges = append(n.IPs[0].Ranges, DHCPRange{Start: addr("192.168.5.22"), End: addr("192.168.5.29")})
			}},
		{UpdateDelete, SectionIPDHCPRange, -1, `<range start='192.168.5.2' end='192.168.5.9'/>`,
			func(n *Network) { n.IPs[0].Ranges = nil }},
		{UpdateDelete, SectionForwardInterface, -1, `<interface dev='eth0'/>`,
			func(n *Network) { n.Forward.Interfaces = nil }},
		{UpdateModify, SectionPortGroup, -1, `<portgroup name='p1'/>`,
			func(n *Network) { n.PortGroups[0].Default = false }},
		{UpdateDelete, SectionPortGroup, -1, `<portgroup name='p1'/>`,
			func(n *Network) { n.PortGroups = n.PortGroups[1:] }},
		{UpdateAddLast, SectionDNSHost, -1, `<host ip='10.0.0.9'><hostname>x</hostname></host>`,
			func(n *Network) {
				n.DNS.Hosts = append(n.DNS.Hosts, DNSHost{IP: addr("10.0.0.9"), Hostnames: []string{"x"}})
			}},
		{UpdateModify, SectionDNSHost, -1, `<host ip='10.0.0.1'><hostname>z</hostname></host>`,
			func(n *Network) { n.DNS.Hosts[0].Hostnames = []string{"z"} }},
		{UpdateDelete, SectionDNSHost, -1, `<host><hostname>y</hostname></host>`,
			func(n *Network) { n.DNS.Hosts = n.DNS.Hosts[1:] }},
		{UpdateModify, SectionDNSTXT, -1, `<txt name='a' value='c'/>`,
			func(n *Network) { n.DNS.TXTs[0].Value = "c" }},
		{UpdateDelete, SectionDNSSRV, -1, `<srv domain='d1'/>`,
			func(n *Network) { n.DNS.SRVs = n.DNS.SRVs[1:] }},
	} {
		want := mustParse(t, updatable)
		c.change(want)
		got, err := mustParse(t, updatable).Update(c.command, c.section, c.parent, []byte(c.piece))
		if err != nil {
			t.Errorf("%s: %v", c.piece, err)
			continue
		}
		if diff := cmp.Diff(want, got, sameNetwork); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.piece, diff)
		}
	}
}
