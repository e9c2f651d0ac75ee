package outcome

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
)

// leasedSite is a host whose card a program configures by DHCP and router
// advertisements, on a LAN where dnsmasq does both.
type leasedSite struct {
	*site
	dnsmasq *lab.Process
	boot    func(s *leasedSite) // starts the host's programs, but for ours
	files   map[string]string   // those below /etc that the host has of its own
	mac     net.HardwareAddr
	boots   int
	// nameServer, if valid, is where the LAN's names are resolved, and what they lead to.
	nameServer netip.Addr
}

// renewal is when clients on the LAN renew, in seconds. The lease is longer.
const renewal = "4"

func newLeasedSite(t *testing.T, files map[string]string, boot func(*leasedSite)) *leasedSite {
	t.Helper()
	return newNamedSite(t, files, boot, netip.Addr{})
}

func newNamedSite(t *testing.T, files map[string]string, boot func(*leasedSite), nameServer netip.Addr) *leasedSite {
	t.Helper()
	lab.Need(t, "dnsmasq", "ip")
	s := &leasedSite{site: &site{Lab: lab.New(t), t: t}, boot: boot, files: files, mac: net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0xbb, 0xcc}, nameServer: nameServer}
	s.host = &lab.Host{Outside: &lab.Outside{Node: s.Node("outside")}}
	s.start()
	s.host.Outside.AddAddr("lan0", netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8:113::1/64"))
	s.dnsmasq = s.serve("203.0.113.50,203.0.113.99")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("dnsmasq:\n%s\nthe daemon:\n%s\n%s", s.dnsmasq.Output(), s.daemon.Output(), s.host.Dump())
		}
	})
	s.boot(s)
	s.configured("eth0")
	return s
}

// serve starts the LAN's server with a range of addresses.
func (s *leasedSite) serve(addresses string, more ...string) *lab.Process {
	args := []string{"dnsmasq", "--port=0", "--dhcp-option=6,203.0.113.53"}
	if a := s.nameServer; a.IsValid() {
		s.host.Outside.AddAddr("lan0", netip.PrefixFrom(a, 32))
		args = []string{"dnsmasq", "--no-resolv", "--no-hosts", "--listen-address=" + a.String(), "--address=/lan.example/" + a.String(), "--dhcp-option=6," + a.String(), "--dhcp-option=15,lan.example", "--dhcp-option=26,1400"}
	}
	args = append(args, more...)
	return s.host.Outside.Start(append(args, "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--interface=lan0", "--bind-dynamic",
		"--dhcp-range="+addresses+",2m", "--dhcp-option=58,"+renewal, "--dhcp-option=59,60",
		"--dhcp-range=2001:db8:113::,ra-only", "--enable-ra", "--dhcp-leasefile=/tmp/leases", "--dhcp-authoritative", "--log-dhcp", "--log-facility=-")...)
}

// start is the host being switched on, with the files that it had.
func (s *leasedSite) start() {
	s.t.Helper()
	if s.host.Node != nil {
		s.must(s.daemon.Stop())
		s.files = s.kept()
		s.host.Node.Close()
	}
	s.boots++
	// systemd-networkd waits for udev where it can write to /sys.
	s.host.Node = s.NewGuest(lab.GuestOptions{Name: "host"}).Node
	if s.boots == 1 {
		s.host.Outside.AddBridge("lan0")
		s.host.Outside.LinkUp("lan0")
	}
	port := fmt.Sprintf("port%d", s.boots)
	s.Connect(s.host.Node, "eth0", s.host.Outside.Node, port, lab.WireOptions{MACA: s.mac})
	s.host.Outside.SetMaster(port, "lan0")
	for path, content := range s.files {
		s.host.WriteFile(path, content)
	}
	s.daemon = s.host.NewDaemon(binary, lab.DaemonOptions{
		Args: []string{"--libvirt-dir", "/nowhere", "--no-default"}, Env: []string{"PATH=" + os.Getenv("PATH") + ":" + filepath.Dir(ifupdownProgram) + ":" + nmRoot + "/usr/bin:/tmp/sbin"},
	})
}

// kept are the files that outlast a reboot.
func (s *leasedSite) kept() map[string]string {
	s.t.Helper()
	files := map[string]string{}
	s.must(s.host.Do(func() error {
		for _, root := range []string{s.daemon.ConfigDir, s.daemon.StateDir, "/etc/systemd/network", "/etc/network", "/etc/NetworkManager", "/var/lib/dhcp", "/var/lib/NetworkManager"} {
			filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					b, _ := os.ReadFile(path)
					files[path] = string(b)
				}
				return nil
			})
		}
		return nil
	}))
	return files
}

// configured waits until the link has an address of each family and the LAN
// reaches it there, and returns its addresses.
func (s *leasedSite) configured(link string) []netip.Prefix {
	s.t.Helper()
	var got []netip.Prefix
	lab.Eventually(s.t, 60*time.Second, func() error {
		if !s.host.HasLink(link) {
			return fmt.Errorf("there is no %s", link)
		}
		got = s.host.Addrs(link)
		slices.SortFunc(got, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
		s.host.Addr, s.host.Addr6 = netip.Addr{}, netip.Addr{}
		for _, p := range got {
			switch a := p.Addr(); {
			case a.Is4():
				s.host.Addr = a
			case !a.IsLinkLocalUnicast():
				s.host.Addr6 = a
			}
		}
		if !s.host.Addr.IsValid() || !s.host.Addr6.IsValid() || len(got) != 3 {
			return fmt.Errorf("%s has %v", link, got)
		}
		routes := s.mustRun("ip", "route", "show", "default", "dev", link) + s.mustRun("ip", "-6", "route", "show", "default", "dev", link)
		if strings.Count(routes, "default") < 2 {
			return fmt.Errorf("default routes over %s: %s", link, routes)
		}
		return nil
	})
	s.reachable()
	return got
}

// renewed waits until the host's client has renewed its lease.
func (s *leasedSite) renewed() {
	s.t.Helper()
	before := strings.Count(s.dnsmasq.Output(), "DHCPACK")
	lab.Eventually(s.t, 60*time.Second, func() error {
		if strings.Count(s.dnsmasq.Output(), "DHCPACK") < before+2 {
			return fmt.Errorf("no renewal")
		}
		return nil
	})
}

// wholeLife takes the card over and gives it back.
func (s *leasedSite) wholeLife(manager string) {
	t := s.t
	t.Helper()
	before := s.configured("eth0")
	etc := s.kept()
	s.must(s.daemon.Start())
	ping := s.host.Outside.StartPing(s.host.Addr, 10*time.Millisecond)
	if said := s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--confirm", "1h"); !strings.Contains(said, "kept by "+manager) {
		t.Errorf("says %s", said)
	}
	s.same("after the take-over", before, s.configured("xenbr0"))
	loss := ping.Stop()
	t.Logf("take-over: %s", loss)
	if loss.Gap > 5*time.Second {
		t.Errorf("out of reach for %v", loss.Gap)
	}
	if left := s.host.Addrs("eth0"); len(left) > 0 {
		t.Errorf("eth0 still has %v", left)
	}
	s.viaduct("uplink-confirm", "xenbr0")
	s.renewed()
	s.same("after a renewal", before, s.configured("xenbr0"))
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	s.same("after the daemon's death", before, s.configured("xenbr0"))

	s.start()
	s.boot(s)
	s.must(s.daemon.Start())
	s.same("after a reboot", before, s.configured("xenbr0"))

	s.viaduct("uplink-delete", "xenbr0")
	s.same("after all", before, s.configured("eth0"))
	if s.host.HasLink("xenbr0") {
		t.Error("the bridge is still there")
	}
	s.renewed()
	s.same("after all and a renewal", before, s.configured("eth0"))
	now := s.kept()
	for _, files := range []map[string]string{etc, now} {
		maps.DeleteFunc(files, func(path, _ string) bool { return !strings.HasPrefix(path, "/etc/") })
	}
	if diff := cmp.Diff(etc, now); diff != "" {
		t.Errorf("files are not as before:\n%s", diff)
	}
}

func (s *leasedSite) same(when string, want, got []netip.Prefix) {
	s.t.Helper()
	if !slices.Equal(want, got) {
		s.t.Errorf("%s: %v, want %v", when, got, want)
	}
}

const networkdProgram = "/lib/systemd/systemd-networkd"

// startBus starts the system's message bus.
func (s *leasedSite) startBus() {
	s.t.Helper()
	s.host.WriteFile("/tmp/bus.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`)
	s.mustRun("mkdir", "-p", "/run/dbus")
	s.host.Start("dbus-daemon", "--config-file=/tmp/bus.conf", "--nofork", "--nopidfile")
	lab.Eventually(s.t, 10*time.Second, func() error { _, err := s.host.Run(s.context(), "busctl", "list"); return err })
}

// bootNetworkd starts systemd-networkd and the bus by which it is told to reload.
func bootNetworkd(s *leasedSite) {
	s.t.Helper()
	s.startBus()
	s.mustRun("mkdir", "-p", "/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp")
	s.mustRun("chown", "-R", "systemd-network", "/run/systemd/netif")
	networkd := s.host.Start(networkdProgram)
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Logf("systemd-networkd:\n%s", networkd.Output())
		}
	})
}

func TestUplinkOfSystemdNetworkd(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dbus-daemon", "networkctl", networkdProgram)
	s := newLeasedSite(t, map[string]string{
		"/etc/systemd/network/20-wired.network": "[Match]\nName=eth*\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\n",
	}, bootNetworkd)
	s.wholeLife("systemd-networkd")
}

// ifupdownProgram is where test/deps.sh has put Debian's.
const ifupdownProgram = "/usr/local/lib/viaduct-test/ifupdown/sbin/ifup"

// bootIfupdown starts what is to be started, as Debian does.
func bootIfupdown(s *leasedSite) {
	s.t.Helper()
	s.mustRun("mkdir", "-p", "/run/network", "/var/lib/dhcp", "/etc/network/if-pre-up.d", "/etc/network/if-up.d", "/etc/network/if-post-up.d")
	s.mustRun(ifupdownProgram, "-a")
}

func TestUplinkOfIfupdown(t *testing.T) {
	t.Parallel()
	lab.Need(t, ifupdownProgram, "dhclient")
	s := newLeasedSite(t, map[string]string{
		"/etc/network/interfaces": "auto lo\niface lo inet loopback\n\n# the LAN\nauto eth0\niface eth0 inet dhcp\n",
	}, bootIfupdown)
	s.wholeLife("ifupdown")
}
