package outcome

import (
	"context"
	"fmt"
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

// staticSite is a host whose card somebody configured by hand, with all that
// there can be.
func staticSite(t *testing.T, o lab.DaemonOptions) *site {
	t.Helper()
	o.Args = append(o.Args, "--no-default")
	s := siteWith(t, lab.HostOptions{}, o)
	for _, line := range []string{
		"addr add 203.0.113.3/24 brd + dev eth0 label eth0:1",
		"addr add 198.51.100.2/28 dev eth0 metric 77",
		"addr add 10.9.9.9 peer 10.9.9.8 dev eth0",
		"route add 10.1.0.0/16 via 203.0.113.9 dev eth0 metric 50 mtu 1400",
		"route add default via 203.0.113.1 dev eth0 table 100 src 203.0.113.3",
		"route add 10.2.0.0/16 dev eth0 scope link",
		"route add 10.3.0.0/16 nexthop via 203.0.113.9 dev eth0 weight 3 nexthop via 203.0.113.10 dev eth0",
		"-6 route add fd99::/64 via 2001:db8:113::9 dev eth0 metric 7",
		"-6 route add default via 2001:db8:113::1 dev eth0 table 100",
		"rule add from 203.0.113.3 lookup 100",
		"rule add iif eth0 to 10.4.0.0/16 lookup 100 priority 1000",
		"-6 rule add oif eth0 from fd99::/64 lookup 100 priority 1001",
		"neigh add 203.0.113.200 lladdr 52:54:00:00:00:c8 dev eth0 nud permanent",
	} {
		s.mustRun(append([]string{"ip"}, strings.Fields(line)...)...)
	}
	s.must(s.daemon.Start())
	return s
}

// reachable fails the test unless the LAN reaches the host by both families.
func (s *site) reachable() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	for _, a := range []netip.Addr{s.host.Addr, s.host.Addr6} {
		if a.IsValid() {
			s.must(s.host.Outside.Ping(ctx, a))
		}
	}
}

// quiet is the dump of the host once no address is tentative.
func (s *site) quiet() string {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		if out := s.mustRun("ip", "-6", "addr", "show", "tentative"); out != "" {
			return fmt.Errorf("tentative: %s", out)
		}
		return nil
	})
	return s.host.Dump()
}

// maxLostPings is how many of one each 10 ms may be lost: on a machine that is
// busy with other things the half second that docs/uplink.md speaks of.
const maxLostPings = 50

func TestUplinkTakesOverAndGivesBack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip")
	s := staticSite(t, lab.DaemonOptions{})
	s.reachable()
	before := s.quiet()

	said := s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--dry-run")
	if !strings.Contains(said, "+ uplink xenbr0 with eth0") {
		t.Errorf("dry run says:\n%s", said)
	}
	if diff := cmp.Diff(before, s.quiet()); diff != "" {
		t.Fatalf("a dry run changed the host:\n%s", diff)
	}

	s.unharmed(func() { s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--peer", "203.0.113.1") })
	taken := s.quiet()
	s.knows("xenbr0")
	s.unharmed(func() { s.viaduct("uplink-delete", "xenbr0") })
	s.knows("eth0")
	// All that was said of eth0 is said of xenbr0.
	for _, section := range []string{"addresses", "routes", "rules"} {
		want := strings.ReplaceAll(part(before, section), "eth0", "xenbr0")
		if diff := cmp.Diff(sorted(want), sorted(part(taken, section))); diff != "" {
			t.Errorf("%s after the take-over:\n%s", section, diff)
		}
	}
	if diff := cmp.Diff(before, s.quiet()); diff != "" {
		t.Errorf("not exactly as before:\n%s", diff)
	}
}

// knows fails the test unless the link has the one neighbour that is known for
// good, and rules name it.
func (s *site) knows(link string) {
	s.t.Helper()
	if got := s.mustRun("ip", "neigh", "show", "nud", "permanent"); !strings.HasPrefix(got, "203.0.113.200 dev "+link+" ") || strings.Count(got, "\n") > 1 {
		s.t.Errorf("neighbours: %s", got)
	}
	if got := s.mustRun("ip", "rule") + s.mustRun("ip", "-6", "rule"); !strings.Contains(got, "iif "+link) || !strings.Contains(got, "oif "+link) ||
		strings.Contains(got, "detached") || strings.Count(got, "iif")+strings.Count(got, "oif") != 2 {
		s.t.Errorf("rules: %s", got)
	}
}

// part is a section of a dump.
func part(dump, section string) string {
	_, rest, _ := strings.Cut(dump, "== "+section+"\n")
	text, _, _ := strings.Cut(rest, "== ")
	return text
}

// sorted are lines in order.
func sorted(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestUplinkHealsAndOutlivesTheDaemonAndTheHost(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip")
	s := staticSite(t, lab.DaemonOptions{})
	s.viaduct("uplink-create", "xenbr0", "--nic", "eth0")
	taken := s.quiet()

	monitor := s.host.Monitor()
	s.daemon.Kill9()
	s.must(s.daemon.Start())
	if heard := monitor.Stop(); len(heard) > 0 {
		for _, line := range heard {
			if strings.Contains(line, "xenbr0") || strings.Contains(line, "eth0") {
				t.Errorf("the next daemon did: %s", line)
			}
		}
	}
	for _, harm := range []string{"route del default dev xenbr0", "addr del 203.0.113.2/24 dev xenbr0", "link set eth0 nomaster", "link del xenbr0"} {
		s.mustRun(append([]string{"ip"}, strings.Fields(harm)...)...)
		lab.Eventually(t, 30*time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := s.host.Outside.Ping(ctx, s.host.Addr); err != nil {
				return fmt.Errorf("after %q: %w", harm, err)
			}
			if diff := cmp.Diff(taken, s.quiet()); diff != "" {
				return fmt.Errorf("after %q:\n%s", harm, diff)
			}
			return nil
		})
	}

	s.anew()
	s.must(s.daemon.Start())
	s.reachable()
	if out := s.mustRun("ip", "-o", "addr", "show", "dev", "xenbr0"); strings.Count(out, "inet ") != 4 {
		t.Errorf("after a reboot xenbr0 has:\n%s", out)
	}
}

// anew replaces the host by a fresh one with the same card and the same files.
func (s *site) anew() {
	s.t.Helper()
	mac := s.host.MAC("eth0")
	var outside []netip.Prefix
	for _, p := range s.host.Outside.Addrs("eth0") {
		if !p.Addr().IsLinkLocalUnicast() {
			outside = append(outside, p)
		}
	}
	s.must(s.daemon.Stop())
	files := map[string]string{}
	s.must(s.host.Do(func() error {
		for _, root := range []string{s.daemon.ConfigDir, s.daemon.StateDir, "/etc/systemd/network", "/etc/network"} {
			err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return nil
				}
				b, err := os.ReadFile(path)
				files[path] = string(b)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
	s.host.Close()
	next := s.Node("host")
	s.host.Node = next
	s.Connect(next, "eth0", s.host.Outside.Node, "eth9", lab.WireOptions{MACA: mac})
	for _, p := range outside {
		s.host.Outside.AddAddr("eth9", p)
	}
	for path, text := range files {
		next.WriteFile(path, text)
	}
	s.daemon = next.NewDaemon(binary, lab.DaemonOptions{Args: []string{"--libvirt-dir", "/nowhere", "--no-default"}})
}

// unharmed fails the test if the LAN lost more than it may while do ran.
func (s *site) unharmed(do func()) {
	s.t.Helper()
	pings := []*lab.Pinger{s.host.Outside.StartPing(s.host.Addr, 10*time.Millisecond), s.host.Outside.StartPing(s.host.Addr6, 10*time.Millisecond)}
	do()
	s.reachable()
	for _, p := range pings {
		if loss := p.Stop(); loss.Sent-loss.Received > maxLostPings {
			s.t.Errorf("lost too much: %s", loss)
		} else {
			s.t.Logf("%s", loss)
		}
	}
}

// Whoever loses the host gets it back: in each case all is as before.
func TestUplinkIsTakenBack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip", "nft")
	create := []string{"uplink-create", "xenbr0", "--nic", "eth0"}
	confirmed := append(slices.Clone(create), "--confirm", "1h")
	for name, c := range map[string]struct {
		env  []string
		harm string // rules that make somebody silent once the bridge is there
		do   func(s *site)
	}{
		"gateway silent": {
			harm: "table arp harm { chain out { type filter hook output priority 0; oifname xenbr0 drop; }; }",
			do: func(s *site) {
				if said := s.refused(create...); !strings.Contains(said, "203.0.113.1 does not answer on xenbr0") {
					t.Errorf("says %q", said)
				}
			},
		},
		"peer silent": {
			harm: "table ip harm { chain out { type filter hook output priority 0; oifname xenbr0 ip daddr 203.0.113.77 drop; }; }",
			do: func(s *site) {
				s.host.Outside.AddAddr("eth0", netip.MustParsePrefix("203.0.113.77/24"))
				if said := s.refused(append(create, "--peer", "203.0.113.77")...); !strings.Contains(said, "203.0.113.77 does not answer") {
					t.Errorf("says %q", said)
				}
			},
		},
		"not confirmed":      {do: func(s *site) { s.viaduct(append(create, "--confirm", "1s")...) }},
		"taken back by hand": {do: func(s *site) { s.viaduct(confirmed...); s.viaduct("uplink-confirm", "xenbr0", "--undo") }},
		"gateway lost later": {do: func(s *site) {
			s.viaduct(confirmed...)
			s.mustRun("nft", "add table arp harm; add chain arp harm out { type filter hook output priority 0; }; add rule arp harm out oifname xenbr0 drop")
		}},
		"killed before":    {env: []string{"VIADUCT_FAULT=before uplink create"}, do: func(s *site) { s.refused(create...) }},
		"killed plugged":   {env: []string{"VIADUCT_FAULT=uplink plugged"}, do: func(s *site) { s.refused(create...) }},
		"killed half done": {env: []string{"VIADUCT_FAULT=uplink put"}, do: func(s *site) { s.refused(create...) }},
		"killed after":     {env: []string{"VIADUCT_FAULT=after uplink create"}, do: func(s *site) { s.refused(create...) }},
		"killed in removal": {env: []string{"VIADUCT_FAULT=uplink unplugged"}, do: func(s *site) {
			s.viaduct(create...)
			s.refused("uplink-delete", "xenbr0")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := staticSite(t, lab.DaemonOptions{Env: c.env})
			if c.harm != "" {
				s.host.WriteFile("/tmp/harm", c.harm)
				s.mustRun("nft", "-f", "/tmp/harm")
			}
			s.reachable()
			before := part(s.quiet(), "links") + part(s.quiet(), "addresses") + part(s.quiet(), "routes") + part(s.quiet(), "settings")
			c.do(s)
			if c.env != nil {
				s.daemon.SetEnv()
				// Its client hears of its end before everybody else does.
				lab.Eventually(t, time.Minute, s.daemon.Start)
			}
			lab.Eventually(t, 60*time.Second, func() error {
				now := s.quiet()
				if diff := cmp.Diff(before, part(now, "links")+part(now, "addresses")+part(now, "routes")+part(now, "settings")); diff != "" {
					return fmt.Errorf("not as before:\n%s", diff)
				}
				return nil
			})
			s.mustRun("nft", "flush", "ruleset")
			s.reachable()
			// The record goes last.
			lab.Eventually(t, 20*time.Second, func() error {
				if out := s.viaduct("-o", "json", "uplink-create"); !strings.Contains(out, `"uplinks": []`) {
					return fmt.Errorf("it is remembered:\n%s", out)
				}
				return nil
			})
		})
	}
}

// A removal that loses the gateway or the peer is taken back too.
func TestUplinkRemovalIsTakenBack(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip", "nft")
	s := staticSite(t, lab.DaemonOptions{})
	before := s.quiet()
	s.host.Outside.AddAddr("eth0", netip.MustParsePrefix("203.0.113.77/24"))
	s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--peer", "203.0.113.77")
	taken := s.quiet()
	for harm, want := range map[string]string{
		"arp harm; add chain arp harm out { type filter hook output priority 0; }; add rule arp harm out oifname eth0 drop":                    "203.0.113.1 does not answer on eth0",
		"ip harm; add chain ip harm out { type filter hook output priority 0; }; add rule ip harm out oifname eth0 ip daddr 203.0.113.77 drop": "203.0.113.77 does not answer",
	} {
		s.mustRun("nft", "add table "+harm)
		if said := s.refused("uplink-delete", "xenbr0"); !strings.Contains(said, "uplink xenbr0 was made again: "+want) {
			t.Errorf("says %q", said)
		}
		s.mustRun("nft", "flush", "ruleset")
		s.reachable()
		if diff := cmp.Diff(taken, s.quiet()); diff != "" {
			t.Errorf("not as with the uplink:\n%s", diff)
		}
	}
	s.viaduct("uplink-delete", "xenbr0")
	s.reachable()
	if diff := cmp.Diff(before, s.quiet()); diff != "" {
		t.Errorf("not exactly as before:\n%s", diff)
	}
}

func TestUplinkRefusals(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip")
	s := staticSite(t, lab.DaemonOptions{})
	s.viaduct("uplink-create", "br0", "--nic", "none")
	s.mustRun("ip", "link", "add", "veth1", "type", "veth", "peer", "name", "veth2")
	s.mustRun("ip", "link", "set", "veth1", "master", "br0")
	for want, args := range map[string][]string{
		"there is no network card eth7":         {"uplink-create", "xenbr0", "--nic", "eth7"},
		"link veth2 exists already":             {"uplink-create", "veth2", "--nic", "eth0"},
		"veth1 is a port of br0 already":        {"uplink-create", "xenbr0", "--nic", "veth1"},
		"uplink br0 exists already, with no ca": {"uplink-create", "br0", "--nic", "eth0"},
		"lo is no Ethernet card":                {"uplink-create", "xenbr0", "--nic", "lo"},
		"no name of a bridge":                   {"uplink-create", "a-name-that-is-too-long", "--nic", "eth0"},
		"peer 203.0.113.99 does not answer":     {"uplink-create", "xenbr0", "--nic", "eth0", "--peer", "203.0.113.99"},
		"bridge br0 has other ports: veth1":     {"uplink-delete", "br0"},
		"no uplink with bridge 'xenbr9'":        {"uplink-delete", "xenbr9"},
		"does not await confirmation":           {"uplink-confirm", "br0"},
	} {
		if said := s.refused(args...); !strings.Contains(said, want) {
			t.Errorf("%q says %q, want %q", args, said, want)
		}
	}
	if said := s.viaduct("uplink-create"); !strings.Contains(said, "Proposed: viaduct uplink-create xenbr0 --nic eth0 --confirm 60s") {
		t.Errorf("proposes:\n%s", said)
	}
	if ip := s.host.Sysctl("net.ipv4.ip_forward"); ip != "0" {
		t.Errorf("the host is a router: ip_forward=%s", ip)
	}
}

// A card that knows no VLANs gets room for their tags, and one whose checksums
// are wrong on VLANs computes none, as long as the bridge is there.
func TestUplinkSettingsOfTheCard(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip", "ethtool")
	s := staticSite(t, lab.DaemonOptions{})
	before := s.quiet()
	offload := func() string {
		_, text, _ := strings.Cut(s.mustRun("ethtool", "-k", "eth0"), "tx-checksumming: ")
		return strings.Fields(text)[0]
	}
	if offload() != "on" {
		t.Fatal("the card computes no checksums to begin with")
	}
	s.viaduct("uplink-create", "xenbr0", "--nic", "eth0", "--mtu", "1496", "--tx-checksum", "off")
	for _, link := range []string{"eth0", "xenbr0"} {
		if out := s.mustRun("ip", "link", "show", link); !strings.Contains(out, "mtu 1496") {
			t.Errorf("%s", out)
		}
	}
	if got := offload(); got != "off" {
		t.Errorf("tx-checksumming is %s", got)
	}
	s.reachable()
	s.viaduct("uplink-delete", "xenbr0")
	if got := offload(); got != "on" {
		t.Errorf("tx-checksumming is %s after all", got)
	}
	if diff := cmp.Diff(before, s.quiet()); diff != "" {
		t.Errorf("not exactly as before:\n%s", diff)
	}
}

// Two cards have a bridge each; guests on them are hosts of the two LANs, and
// the host leads nothing from one to the other.
func TestUplinksOfTwoCards(t *testing.T) {
	t.Parallel()
	lab.Need(t, "ip")
	s := staticSite(t, lab.DaemonOptions{})
	far := s.Node("far")
	s.Connect(s.host.Node, "eth1", far, "eth0", lab.WireOptions{})
	s.host.AddAddr("eth1", netip.MustParsePrefix("192.0.2.2/24"))
	far.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24"))
	before := s.quiet()
	for i, address := range []string{"203.0.113.40/24", "192.0.2.40/24"} {
		bridge := fmt.Sprintf("xenbr%d", i)
		s.viaduct("uplink-create", bridge, "--nic", fmt.Sprintf("eth%d", i))
		guest := s.PlugGuest(s.host.Node, bridge, fmt.Sprintf("vif%d.0", i+1))
		guest.AddAddr("eth0", netip.MustParsePrefix(address))
		lan := []netip.Addr{s.host.Outside.Addr, s.host.Addr}
		if i == 1 {
			lan = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
		}
		for _, a := range lan {
			s.must(guest.Ping(s.context(), a))
		}
		s.host.SetMTU(fmt.Sprintf("vif%d.0", i+1), 1400)
		if out := s.mustRun("ip", "link", "show", bridge); !strings.Contains(out, "mtu 1500") {
			t.Errorf("a guest has made the host's MTU smaller: %s", out)
		}
		if forwards := s.host.Sysctl("net.ipv4.ip_forward") + s.host.Sysctl("net.ipv6.conf.all.forwarding"); forwards != "00" {
			t.Errorf("the host is a router: %s", forwards)
		}
		defer func() {
			guest.Unplug()
			s.viaduct("uplink-delete", bridge)
			if i == 0 {
				s.reachable()
				if diff := cmp.Diff(before, s.quiet()); diff != "" {
					t.Errorf("not exactly as before:\n%s", diff)
				}
			}
		}()
	}
	s.reachable()
	if said := s.viaduct("uplink-create"); !strings.Contains(said, "xenbr1   eth1") || strings.Contains(said, "Proposed") {
		t.Errorf("lists:\n%s", said)
	}
}
