package libvirt

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/guestsvc/dnsmasq"
	"viaduct/internal/netdef"
)

// served are parts of definitions that each make something of dnsmasq's files.
var served = []string{
	`<ip address='192.168.5.1' netmask='255.255.255.0'><dhcp><range start='192.168.5.10' end='192.168.5.20'/></dhcp></ip>`,
	`<ip address='192.168.5.1' netmask='255.255.255.0'/>`,
	`<domain name='d.te&amp;st' localOnly='yes'/><dns forwardPlainNames='no'><forwarder domain='f.te&amp;st' addr='10.0.0.9'/><forwarder addr='10.0.0.8'/><forwarder domain='g.test'/><forwarder addr='fd00::8'/><txt name='t.d&lt;' value='some&lt;&amp;, "text" &apos;q&apos; \\ x=y # z'/><txt name='empty' value=''/>
<srv service='ldap' protocol='tcp' domain='a&amp;.test' target='ni&amp;ne' port='389' priority='1' weight='2'/><srv service='s' protocol='udp'/><srv service='s' protocol='udp' domain='d'/><srv service='s' protocol='udp' target='t'/><srv service='s' protocol='udp' target='t' weight='9'/><srv service='s' protocol='udp' target='t' priority='9'/><srv service='s' protocol='udp' target='t' port='7' weight='9'/><srv service='s' protocol='udp' target='.'/><srv service='s' protocol='udp' target='.' port='3'/>
<host ip='192.168.5.9'><hostname>nine</hostname><hostname>ne&amp;uf</hostname></host><host ip='fd00:5::9'><hostname>nine</hostname></host><host ip='192.168.5.9'><hostname>again</hostname></host></dns><mtu size='9000'/>
<ip address='192.168.5.1' netmask='255.255.255.0' localPtr='yes'><tftp root='/tmp/t f&apos;&amp;'/><dhcp><range start='192.168.5.10' end='192.168.5.20'><lease expiry='3' unit='hours'/></range><range start='192.168.5.30' end='192.168.5.33'><lease expiry='0'/></range><range start='192.168.5.40' end='192.168.5.43'><lease expiry='240' unit='seconds'/></range><range start='192.168.5.50' end='192.168.5.53'><lease expiry='7'/></range>
<host mac='52:54:00:57:00:05' name='fi&amp;ve' ip='192.168.5.5'/><host mac='52:54:00:57:00:06' ip='192.168.5.6'/><host name='seven' ip='192.168.5.7'/><host mac='52:54:00:57:00:0A' name='ten' id='01:02' ip='192.168.5.8'><lease expiry='3' unit='hours'/></host><host mac='52:54:00:57:00:0b' ip='192.168.5.81'><lease expiry='0'/></host><host name='x' ip='192.168.5.82'><lease expiry='300' unit='seconds'/></host><bootp file='a &amp;b&lt;' server='192.168.5.8'/></dhcp></ip>
<ip address='10.77.0.1' prefix='16' localPtr='yes'/>
<ip family='ipv6' address='fd00:5::1' prefix='64' localPtr='yes'><dhcp><range start='fd00:5::100' end='fd00:5::1ff'><lease expiry='5' unit='hours'/></range><host id='0:1:2' name='six' ip='fd00:5::6'/><host name='sieben' ip='fd00:5::7'/><host id='0:1:3' ip='fd00:5::8'><lease expiry='5' unit='hours'/></host></dhcp></ip><ip family='ipv6' address='fd00:6::1' prefix='60' localPtr='yes'/>`,
	`<ip family='ipv6' address='fd00:5::1' prefix='64'/><ip family='ipv6' address='fd00:6::1' prefix='80'/>`,
	`<ip family='ipv6' address='fd00:5::1' prefix='64'><dhcp><host name='x' ip='fd00:5::7'/></dhcp></ip><ip address='192.168.5.1' netmask='255.255.255.0'/>`,
	`<ip address='192.168.5.1' netmask='255.255.255.0'><dhcp><host name='x' ip='192.168.5.7'/><bootp file='x'/></dhcp></ip>`,
	`<dns enable='no'/><ip address='192.168.5.1' netmask='255.255.255.0'><dhcp><range start='192.168.5.10' end='192.168.5.20'/></dhcp></ip>`,
	`<dns enable='no'/><ip address='192.168.5.1' netmask='255.255.255.0'><tftp root='/tmp'/></ip>`,
	`<dns><forwarder domain='x.test' addr='10.0.0.9'/></dns><ip address='192.168.5.1' netmask='255.255.255.0'/>`,
	`<domain name='d'/><ip address='192.168.5.1'/><ip address='10.0.0.1' localPtr='yes'/>`,
	`<ip address='192.168.5.1' prefix='20' localPtr='yes'/>`,
	`<ip address='192.168.5.1' prefix='32' localPtr='yes'/>`,
	`<ip family='ipv6' address='fd00:5::1' prefix='62' localPtr='yes'/>`,
	`<dns><host ip='192.168.5.9'><hostname>a.b</hostname></host></dns><domain name='d' localOnly='no'/><ip address='192.168.5.1' prefix='24'><dhcp><range start='192.168.5.10' end='192.168.5.20'/></dhcp></ip><ip address='192.168.6.1' prefix='24'><tftp root='/var'/><dhcp><bootp file='x'/></dhcp></ip>`,
}

// What is written for dnsmasq is what libvirtd writes for it when it starts the
// network, also where the network's name is odd.
func TestDnsmasqFiles(t *testing.T) {
	theirs := newTheirs(t)
	c := theirs.dial()
	theirs.must(theirs.host.Do(func() error { return os.Mkdir("/tmp/t f'&", 0o777) })) // dnsmasq wants it to be there
	for i, inner := range served {
		for name, forward := range map[string]string{"net": []string{"<forward mode='nat'/>", "<forward mode='open'/>"}[i%2], "it's \"odd\"": ""} {
			text := "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>" + name + "</name>" + forward + "<bridge name='virbr9' stp='off'/>" + inner +
				"<dnsmasq:options><dnsmasq:option value='no-hosts'/><dnsmasq:option value='# a&amp;b'/></dnsmasq:options></network>"
			def, err := netdef.Parse([]byte(text))
			theirs.must(err)
			paths := dnsmasq.LibvirtPaths(def.Name)
			paths.PID = "/run/libvirt/network/" + netdef.Escape(def.Name) + ".pid"
			rendering, err := dnsmasq.Render(def, paths)
			network, failure := made(t, c, procCreate, text)
			if failure != "" || err != nil {
				if err == nil || failure != "67/19: "+err.Error() {
					t.Errorf("%s%s\n libvirt: %s\n viaduct: %v", forward, inner, failure, err)
				}
				continue
			}
			for file, got := range map[string]string{".conf": rendering.Conf, ".hostsfile": rendering.DHCPHosts, ".addnhosts": rendering.DNSHosts} {
				path := map[string]string{".conf": "/var/lib/libvirt/dnsmasq/" + name + file, ".hostsfile": paths.DHCPHosts, ".addnhosts": paths.DNSHosts}[file]
				want, _ := theirs.host.ReadFile(path) // a file that is not needed is not there
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s of %s%s (-libvirt +viaduct):\n%s", file, forward, inner, diff)
				}
			}
			if _, failure := call(t, c, procDestroy, network); failure != "" {
				t.Errorf("destroy: %s", failure)
			}
		}
	}
}
