package dnsmasq

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

// TestCorpus compares with the files that libvirt expects of itself.
func TestCorpus(t *testing.T) {
	folder := os.Getenv("VIADUCT_CORPUS")
	if folder == "" {
		t.Skip("VIADUCT_CORPUS names no folder with libvirt's test data")
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(folder, "libvirt", name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var index struct {
		Cases []struct{ Suite, Name, Input, Expected, ExpectedHostsfile string }
	}
	if err := json.Unmarshal(read("cases.json"), &index); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, c := range index.Cases {
		if c.Suite != "networkxml2conf" {
			continue
		}
		ran++
		t.Run(c.Name, func(t *testing.T) {
			n := parse(t, string(read(c.Input)))
			got, err := Render(n, LibvirtPaths(n.Name))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(read(c.Expected)), got.Conf); diff != "" {
				t.Errorf("configuration (-want +got)\n%s", diff)
			}
			hosts := ""
			if c.ExpectedHostsfile != "" {
				hosts = string(read(c.ExpectedHostsfile))
			}
			if diff := cmp.Diff(hosts, got.DHCPHosts); diff != "" {
				t.Errorf("reservations (-want +got)\n%s", diff)
			}
		})
	}
	if ran == 0 {
		t.Fatal("no case of suite networkxml2conf")
	}
}

func parse(t testing.TB, xml string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(xml))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// body is what follows the lines that every configuration begins with.
func body(r Rendering) string {
	_, rest, _ := strings.Cut(r.Conf, "strict-order\n")
	return rest
}

const (
	link  = "except-interface=lo\nbind-dynamic\ninterface=br0\n"
	names = "addn-hosts=/names\n"
)

// TestRules has a case for each rule; what is common to all is cut off.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, xml       string
		conf, dhcp, dns string
		isolated        bool
	}{
		{name: "dns off", xml: `<dns enable='no'/><domain name='d' localOnly='yes'/><ip address='10.0.0.1' prefix='24' localPtr='yes'/>`,
			conf: "port=0\nlocal=/d/\ndomain=d\nexpand-hosts\n" + link},
		{name: "plain names", xml: `<dns forwardPlainNames='no'/><ip address='10.0.0.1' prefix='24'/>`,
			conf: "domain-needed\nlocal=//\n" + link + names},
		{name: "forwarders", xml: `<dns><forwarder domain='a.example' addr='10.1.1.1' port='5353'/><forwarder addr='fd00::1'/>
			<forwarder addr='10.1.1.2' port='53'/><forwarder domain='b.example'/></dns><ip address='10.0.0.1' prefix='24'/>`,
			conf: "server=/a.example/10.1.1.1#5353\nserver=fd00::1\nserver=10.1.1.2#53\nserver=/b.example/#\nno-resolv\n" + link + names},
		{name: "reverse zones", xml: `<ip address='10.77.0.1' prefix='16' localPtr='yes'/><ip address='192.168.7.1' prefix='24' localPtr='yes'/>
			<ip family='ipv6' address='2001:db8:ac10:fd01::1' prefix='60' localPtr='yes'/><ip family='ipv6' address='2001:db8::1' prefix='32' localPtr='yes'/>`,
			conf: "local=/77.10.in-addr.arpa/\nlocal=/7.168.192.in-addr.arpa/\nlocal=/0.d.f.0.1.c.a.8.b.d.0.1.0.0.2.ip6.arpa/\nlocal=/8.b.d.0.1.0.0.2.ip6.arpa/\n" +
				link + names + "dhcp-range=2001:db8:ac10:fd01::1,ra-only\ndhcp-range=2001:db8::1,ra-only\n"},
		{name: "isolated", isolated: true, xml: `<dns><forwarder addr='10.1.1.1'/></dns><ip address='10.0.0.1' prefix='24'/>`,
			conf: "server=10.1.1.1\nno-resolv\n" + link + "dhcp-option=3\nno-resolv\nra-param=*,0,0\n" + names},
		{name: "srv", xml: `<dns><srv service='a' protocol='tcp'/><srv service='a' protocol='tcp' domain='x.example' target='.'/>
			<srv service='b' protocol='udp' target='h' port='5'/><srv service='b' protocol='udp' target='h' priority='3'/>
			<srv service='b' protocol='udp' domain='x.example' target='h' port='5' priority='0' weight='9'/></dns><ip address='10.0.0.1' prefix='24'/>`,
			conf: link + "srv-host=_a._tcp\nsrv-host=_a._tcp.x.example\nsrv-host=_b._udp,h,5\nsrv-host=_b._udp,h,1,3\nsrv-host=_b._udp.x.example,h,5,0,9\n" + names},
		{name: "dns hosts", xml: `<dns><host ip='10.0.0.9'><hostname>a</hostname><hostname>b.example</hostname></host>
			<host ip='fd00::9'><hostname>c</hostname></host></dns><ip address='10.0.0.1' prefix='24'/>`,
			conf: link + names, dns: "10.0.0.9\ta\tb.example\t\nfd00::9\tc\t\n"},
		{name: "lease times", xml: `<ip address='10.0.0.1' prefix='20'><dhcp><range start='10.0.0.2' end='10.0.0.9'><lease expiry='5'/></range>
			<range start='10.0.1.0' end='10.0.1.255'><lease expiry='3' unit='hours'/></range><range start='10.0.2.1' end='10.0.2.1'><lease expiry='0'/></range>
			<host mac='52:54:00:00:00:01' ip='10.0.0.10'><lease expiry='120' unit='seconds'/></host>
			<host name='n' ip='10.0.0.11'><lease expiry='0'/></host><host mac='52:54:00:00:00:02' name='m' ip='10.0.0.12'/></dhcp></ip>`,
			conf: link + "dhcp-range=10.0.0.2,10.0.0.9,255.255.240.0,5m\ndhcp-range=10.0.1.0,10.0.1.255,255.255.240.0,3h\n" +
				"dhcp-range=10.0.2.1,10.0.2.1,255.255.240.0,infinite\ndhcp-no-override\ndhcp-authoritative\ndhcp-lease-max=265\ndhcp-hostsfile=/hosts\n" + names,
			dhcp: "52:54:00:00:00:01,10.0.0.10,120s\nn,10.0.0.11,infinite\n52:54:00:00:00:02,10.0.0.12,m\n"},
		{name: "static only", xml: `<mtu size='9000'/><dns enable='no'/><ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host id='0:1' name='x' ip='fd00::2'/></dhcp></ip>
			<ip address='10.0.0.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' ip='10.0.0.10'/></dhcp></ip>`,
			conf: "port=0\n" + link + "dhcp-range=10.0.0.1,static\ndhcp-no-override\ndhcp-authoritative\ndhcp-range=fd00::1,static,64\ndhcp-hostsfile=/hosts\n" +
				"dhcp-option=option:mtu,9000\nenable-ra\n",
			dhcp: "id:0:1,x,[fd00::2]\n52:54:00:00:00:01,10.0.0.10\n"},
		{name: "tftp twice", xml: `<dns enable='no'/><ip address='10.0.0.1' prefix='24'><tftp root='/a'/></ip><ip address='10.0.1.1' prefix='24'><tftp root='/b'/></ip>`,
			conf: "port=0\n" + link + "enable-tftp\ntftp-root=/a\ntftp-root=/b\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			forward := "<forward mode='nat'/>"
			if c.isolated {
				forward = ""
			}
			n := parse(t, "<network><name>net</name>"+forward+"<bridge name='br0'/>"+c.xml+"</network>")
			got, err := Render(n, Paths{DHCPHosts: "/hosts", DNSHosts: "/names"})
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range []struct{ name, want, got string }{
				{"configuration", c.conf, body(got)}, {"reservations", c.dhcp, got.DHCPHosts}, {"names", c.dns, got.DNSHosts},
			} {
				if diff := cmp.Diff(file.want, file.got); diff != "" {
					t.Errorf("%s (-want +got)\n%s", file.name, diff)
				}
			}
		})
	}
}

// libvirt calls the two files of a network by its name as it is in XML.
func TestOddName(t *testing.T) {
	want := Paths{DHCPHosts: "/var/lib/libvirt/dnsmasq/it&apos;s.hostsfile", DNSHosts: "/var/lib/libvirt/dnsmasq/it&apos;s.addnhosts"}
	if diff := cmp.Diff(want, LibvirtPaths("it's")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct{ xml, want string }{
		{`<ip address='10.0.0.1' prefix='20' localPtr='yes'/>`, "PTR domain for IPv4 network with prefix 20 cannot be automatically created"},
		{`<ip family='ipv6' address='fd00::1' prefix='62' localPtr='yes'/>`, "PTR domain for IPv6 network with prefix 62 cannot be automatically created"},
	} {
		n := parse(t, `<network><name>net</name><bridge name='br0'/>`+c.xml+`</network>`)
		if _, err := Render(n, LibvirtPaths("net")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that names %s", c.xml, err, c.want)
		}
	}
	for name, change := range map[string]func(*netdef.Network){
		"<name>":              func(n *netdef.Network) { n.Name = "a\nb" },
		"<domain name=>":      func(n *netdef.Network) { n.Domain.Name = "a\nport=1" },
		"<forwarder domain=>": func(n *netdef.Network) { n.DNS.Forwarders = []netdef.DNSForwarder{{Domain: "a\rb"}} },
		"<txt name=>":         func(n *netdef.Network) { n.DNS.TXTs = []netdef.DNSTXT{{Name: "a\tb"}} },
		"<txt value=>":        func(n *netdef.Network) { n.DNS.TXTs = []netdef.DNSTXT{{Name: "a", Value: "b\nuser=root"}} },
		"<srv service=>":      func(n *netdef.Network) { n.DNS.SRVs = []netdef.DNSSRV{{Service: "a\n"}} },
		"<srv domain=>":       func(n *netdef.Network) { n.DNS.SRVs = []netdef.DNSSRV{{Service: "a", Domain: "b\nc"}} },
		"<srv target=>":       func(n *netdef.Network) { n.DNS.SRVs = []netdef.DNSSRV{{Service: "a", Target: "b\nc"}} },
		"<tftp root=>":        func(n *netdef.Network) { n.IPs[0].TFTPRoot = "/a\n" },
		"<bootp file=>":       func(n *netdef.Network) { n.IPs[0].BootFile = "/a\n"; n.IPs[0].Hosts = reserved("a") },
		"<bootp server=>": func(n *netdef.Network) {
			n.IPs[0].BootFile, n.IPs[0].BootServer = "a", "b\n"
			n.IPs[0].Hosts = reserved("a")
		},
		"<host name=>":            func(n *netdef.Network) { n.IPs[0].Hosts = reserved("x\ny") },
		"<host mac=>":             func(n *netdef.Network) { n.IPs[0].Hosts = reserved("a"); n.IPs[0].Hosts[0].MAC = "\n" },
		"<dnsmasq:option value=>": func(n *netdef.Network) { n.DnsmasqOptions = []string{"a\nb"} },
		"<hostname>": func(n *netdef.Network) {
			n.DNS.Hosts = []netdef.DNSHost{{IP: n.IPs[0].Address, Hostnames: []string{"a\x7f"}}}
		},
		"forward mode='bridge'": func(n *netdef.Network) { n.Forward.Mode = netdef.ModeBridge },
		"bridge name":           func(n *netdef.Network) { n.Bridge.Name = "" },
	} {
		n := parse(t, `<network><name>net</name><bridge name='br0'/><ip address='10.0.0.1' prefix='24'/></network>`)
		change(n)
		if _, err := Render(n, LibvirtPaths("net")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want an error that names %s", err, name)
		}
	}
}

func reserved(name string) []netdef.DHCPHost {
	return []netdef.DHCPHost{{Name: name, IP: netip.MustParseAddr("10.0.0.3")}}
}

// FuzzRender holds that no definition, however odd, gets a control character
// into a file, and that every file ends with its last line.
func FuzzRender(f *testing.F) {
	for _, xml := range []string{
		`<network><name>n</name><bridge name='br0'/><domain name='d'/><dns><txt name='a' value='b&#10;c'/></dns><ip address='10.0.0.1' prefix='24'/></network>`,
		`<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><bridge name='br0'/><ip address='10.0.0.1' prefix='8' localPtr='yes'>
			<dhcp><range start='10.0.0.2' end='10.0.0.9'/><host mac='52:54:00:00:00:01' ip='10.0.0.10' name='x'/><bootp file='f'/></dhcp><tftp root='/t'/></ip>
			<dnsmasq:options><dnsmasq:option value='a=b'/></dnsmasq:options></network>`,
		`<network><name>n</name><bridge name='br0'/><ip family='ipv6' address='fd00::1' prefix='64'><dhcp><host id='0:1' ip='fd00::2'/></dhcp></ip></network>`,
	} {
		f.Add([]byte(xml))
	}
	f.Fuzz(func(t *testing.T, xml []byte) {
		n, err := netdef.Parse(xml)
		if err != nil || n.Validate() != nil {
			return
		}
		r, err := Render(n, LibvirtPaths("n"))
		if err != nil {
			return
		}
		for name, text := range map[string]string{"configuration": r.Conf, "reservations": r.DHCPHosts, "names": r.DNSHosts} {
			if i := strings.IndexFunc(text, func(c rune) bool { return unicode.IsControl(c) && c != '\n' && (c != '\t' || name != "names") }); i >= 0 {
				t.Errorf("%s: control character in %q", name, text)
			}
			if text != "" && !strings.HasSuffix(text, "\n") {
				t.Errorf("%s: no end of line in %q", name, text)
			}
		}
		lines := strings.Count(r.DHCPHosts, "\n")
		hosts := 0
		for _, ip := range n.IPs {
			hosts += len(ip.Hosts)
		}
		if lines != hosts {
			t.Errorf("%d reservations in %d lines", hosts, lines)
		}
	})
}
