package libvirt

import (
	"sync"
	"testing"

	"viaduct/internal/lab"
)

const ownerXML = "<owner><name>g</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>"

// filterFiles are what the script about filters reads.
var filterFiles = map[string]string{
	"bind":     "<filterbinding>" + ownerXML + "<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/><filterref filter='clean-traffic'><parameter name='IP' value='10.0.0.1'/></filterref></filterbinding>",
	"bindlost": "<filterbinding>" + ownerXML + "<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/><filterref filter='nosuch'/></filterbinding>",
	"bindgate": "<filterbinding>" + ownerXML + "<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/><filterref filter='clean-traffic-gateway'/></filterbinding>",
	"bindown":  "<filterbinding>" + ownerXML + "<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/><filterref filter='mine'><parameter name='IP' value='10.0.0.1'/></filterref></filterbinding>",
	"bind1":    "<filterbinding/>",
	"bind2":    "<filterbinding>" + ownerXML + "<portdev name='vnet0'/></filterbinding>",
	"bind3":    "<filterbinding>" + ownerXML + "<portdev name='vnet0'/><mac address='52:54:00:7b:35:93'/></filterbinding>",
	"mine":     "<filter name='mine'><filterref filter='clean-traffic'/></filter>",
	"id":       "<filter name='id'><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid><filterref filter='no-mac-spoofing'/></filter>",
	"otherid":  "<filter name='otherid'><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid><filterref filter='no-mac-spoofing'/></filter>",
	"arp":      "<filter name='arp' chain='root'><rule action='accept' direction='inout' priority='-500'><mac protocolid='arp'/></rule></filter>",
	"empty":    "<filter name='empty'/>",
	"drop":     "<filter name='drop'><rule action='drop' direction='out'><ip protocol='udp'/></rule></filter>",
	"bad1":     "<x/>",
	"bad2":     "<filter/>",
	"bad3":     "<filter name='x' chain='foo'/>",
	"bad4":     "<filter name='x'><filterref/></filter>",
	"bad5":     "<filter name='x'><rule action='foo' direction='out'/></filter>",
}

func filterSteps() []step {
	steps := same("nwfilter-list", "nwfilter-binding-list")
	for _, f := range stockNames {
		steps = append(steps, same("nwfilter-dumpxml "+f)...)
	}
	steps = append(steps, same("nwfilter-dumpxml nosuch", "nwfilter-binding-create @bind", "nwfilter-binding-create @bind", "nwfilter-binding-list",
		"nwfilter-binding-dumpxml vnet0", "nwfilter-binding-dumpxml vnet9", "nwfilter-undefine clean-traffic",
		"nwfilter-binding-delete vnet0", "nwfilter-binding-delete vnet0", "nwfilter-binding-list",
		"nwfilter-binding-create @bindlost")...)
	steps = append(steps, differs("a filter that cannot be enforced is refused by name", "nwfilter-binding-create @bindgate",
		"nwfilter-define @drop")...)
	steps = append(steps, same("nwfilter-binding-delete vnet0", "nwfilter-define @mine", "nwfilter-define @mine", "nwfilter-dumpxml mine", "nwfilter-define @id", "nwfilter-define @id",
		"nwfilter-define @otherid", "nwfilter-define @arp", "nwfilter-dumpxml arp", "nwfilter-define @empty", "nwfilter-dumpxml empty",
		"nwfilter-binding-create @bindown", "nwfilter-undefine mine", "nwfilter-binding-delete vnet0", "nwfilter-undefine mine", "nwfilter-undefine mine",
		"nwfilter-binding-create @mine", "nwfilter-define @bad1", "nwfilter-define @bad2", "nwfilter-define @bad3", "nwfilter-define @bad4",
		"nwfilter-define @bad5", "nwfilter-binding-create @bind1", "nwfilter-binding-create @bind2", "nwfilter-binding-create @bind3",
		"-r nwfilter-undefine empty", "-r nwfilter-list --quiet", "net-list")...)
	return append(steps, differs("stock filters are the same on all hosts", "nwfilter-undefine allow-ipv6")...)
}

// stockNames are the filters that libvirt brings.
var stockNames = []string{
	"allow-arp", "allow-dhcp", "allow-dhcp-server", "allow-dhcpv6", "allow-dhcpv6-server", "allow-incoming-ipv4", "allow-incoming-ipv6", "allow-ipv4",
	"allow-ipv6", "clean-traffic", "clean-traffic-gateway", "no-arp-ip-spoofing", "no-arp-mac-spoofing", "no-arp-spoofing", "no-ip-multicast",
	"no-ip-spoofing", "no-ipv6-multicast", "no-ipv6-spoofing", "no-mac-broadcast", "no-mac-spoofing", "no-other-l2-traffic", "no-other-rarp-traffic",
	"qemu-announce-self", "qemu-announce-self-rarp",
}

// virsh says the same about Viaduct's filters as about libvirt's.
func TestVirshFiltersTheSame(t *testing.T) {
	theirs, ours := newTheirs(t), newOurs(t)
	for _, s := range []*server{theirs, ours} {
		for name, xml := range filterFiles {
			s.host.WriteFile("/tmp/"+name+".xml", xml)
		}
		s.host.WriteFile("/tmp/net.xml", natXML("a", 50, ""))
		s.succeed("net-create", "/tmp/net.xml")
		s.host.OpenTap("vnet0")
		s.host.SetMaster("vnet0", "virbr50")
		s.host.LinkUp("vnet0")
	}
	var compared comparison
	for _, step := range filterSteps() {
		var got [2]lab.Result
		var both sync.WaitGroup
		for i, s := range []*server{theirs, ours} {
			both.Go(func() {
				got[i] = s.run(append([]string{"virsh", "-c", "nwfilter:///system"}, words(step.command)...)...)
			})
		}
		both.Wait()
		compared.add(t, step.command, step.differs, got)
	}
	t.Log(compared)
}
