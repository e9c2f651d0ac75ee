package outcome

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// foreignFirewalls are what other programs do to a host's packet filter, in
// the commands that leave the same rules.
var foreignFirewalls = []struct {
	name  string
	rules [][]string
	// flush is what the program does when it loads its rules again.
	flush [][]string
}{
	{
		name: "docker",
		rules: [][]string{
			{"iptables", "-N", "DOCKER-USER"}, {"iptables", "-A", "DOCKER-USER", "-j", "RETURN"},
			{"iptables", "-I", "FORWARD", "-j", "DOCKER-USER"}, {"iptables", "-P", "FORWARD", "DROP"},
		},
		flush: [][]string{
			{"iptables", "-F", "FORWARD"}, {"iptables", "-F", "DOCKER-USER"},
			{"iptables", "-A", "DOCKER-USER", "-j", "RETURN"}, {"iptables", "-I", "FORWARD", "-j", "DOCKER-USER"},
		},
	},
	{
		name: "ufw",
		rules: [][]string{
			{"iptables", "-P", "INPUT", "DROP"}, {"iptables", "-P", "FORWARD", "DROP"},
			{"iptables", "-N", "ufw-before-input"}, {"iptables", "-A", "INPUT", "-j", "ufw-before-input"},
			{"iptables", "-A", "ufw-before-input", "-i", "lo", "-j", "ACCEPT"},
			{"iptables", "-A", "ufw-before-input", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
			{"iptables", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
		},
		flush: [][]string{
			{"iptables", "-F", "INPUT"}, {"iptables", "-F", "FORWARD"},
			{"iptables", "-A", "INPUT", "-j", "ufw-before-input"},
		},
	},
	{
		name: "rules by hand",
		rules: [][]string{
			{"iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
			{"iptables", "-A", "INPUT", "-j", "REJECT"}, {"iptables", "-A", "FORWARD", "-j", "REJECT"},
		},
		flush: [][]string{
			{"iptables", "-F", "INPUT"}, {"iptables", "-F", "FORWARD"},
			{"iptables", "-A", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"},
			{"iptables", "-A", "INPUT", "-j", "REJECT"}, {"iptables", "-A", "FORWARD", "-j", "REJECT"},
		},
	},
	{
		name: "NixOS",
		rules: [][]string{
			{"nft", "add table inet nixos-fw; add chain inet nixos-fw input-allow; add chain inet nixos-fw forward-allow;" +
				"add chain inet nixos-fw input { type filter hook input priority filter; policy drop; };" +
				"add chain inet nixos-fw forward { type filter hook forward priority filter; policy drop; };" +
				"add rule inet nixos-fw input iifname lo accept; add rule inet nixos-fw input ct state established,related accept;" +
				"add rule inet nixos-fw input jump input-allow;" +
				"add rule inet nixos-fw forward ct state established,related accept; add rule inet nixos-fw forward jump forward-allow"},
		},
		flush: [][]string{{"nft", "flush chain inet nixos-fw input-allow; flush chain inet nixos-fw forward-allow"}},
	},
}

// Guests have their address, their names and their way out whatever else
// filters packets on the host, in whichever order the programs start, and
// still after the other program has loaded its rules again. At the end nothing
// of ours is left in its tables.
func TestBesideForeignFirewalls(t *testing.T) {
	lab.Need(t, "iptables", "nft")
	for _, f := range foreignFirewalls {
		t.Run(f.name, func(t *testing.T) {
			s := startSite(t)
			run := func(commands [][]string) {
				t.Helper()
				for _, c := range commands {
					s.mustRun(c...)
				}
			}
			works := func(when string, g *lab.Guest) {
				t.Helper()
				lab.Eventually(t, 10*time.Second, func() error {
					if err := g.Reach(short(t), netip.AddrPortFrom(s.host.Outside.Addr, lab.PortEcho)); err != nil {
						return err
					}
					_, err := g.Resolve(short(t), g.Name)
					return err
				})
			}
			s.create(natXML("a", 50, ""))
			run(f.rules)
			one, _ := s.guest("virbr50", "one")
			works("it came later", one)
			s.create(natXML("b", 51, ""))
			two, _ := s.guest("virbr51", "two")
			works("it was there first", two)
			run(f.flush)
			works("it loaded its rules again", one)
			works("it loaded its rules again", two)
			s.cannotReach(one.Node, netip.AddrPortFrom(addr("192.168.51.1"), 53))

			s.settled()
			if strings.HasPrefix(f.rules[0][0], "iptables") {
				if rules := s.mustRun("iptables", "-S"); !strings.Contains(rules, "--mark 0x2000000/0x2000000") {
					t.Errorf("iptables does not show our rule:\n%s", rules)
				}
			}
			s.viaduct("net-destroy", "a")
			works("one network stopped", two)
			s.viaduct("net-destroy", "b")
			if rules := s.mustRun("nft", "list", "ruleset"); strings.Contains(rules, "viaduct") || strings.Contains(rules, "xt match \"mark\"") {
				t.Errorf("something of ours is left:\n%s", rules)
			}
		})
	}
}

// On a host that shows bridged frames to its firewall, guests on a bridge of the
// host's own get through that firewall if their network says so, and only then.
func TestHostsBridgeBesideForeignFirewall(t *testing.T) {
	lab.Need(t, "iptables", "nft")
	for _, f := range foreignFirewalls {
		t.Run(f.name, func(t *testing.T) {
			s := startSite(t)
			_, outside := s.lan()
			s.host.AddBridge("br0")
			s.host.SetMaster("eth1", "br0")
			s.host.SetSysctl("net.bridge.bridge-nf-call-iptables", "1")
			for _, c := range f.rules {
				s.mustRun(c...)
			}
			g := s.PlugGuest(s.host.Node, "br0", "one")
			g.AddAddr("eth0", netip.MustParsePrefix("198.51.100.11/24"))
			s.create(network("<forward mode='bridge'/><bridge name='br0'/>"))
			s.cannotReach(g.Node, outside)
			s.viaduct("net-destroy", "a")

			passing := network("<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:pass/></v:settings></metadata><forward mode='bridge'/><bridge name='br0'/>")
			s.create(passing)
			s.create(strings.Replace(passing, "<name>a</name>", "<name>b</name>", 1))
			s.steadily(g.Node, outside)
			s.viaduct("net-destroy", "b")
			s.steadily(g.Node, outside)
			for _, c := range f.flush {
				s.mustRun(c...)
			}
			s.steadily(g.Node, outside)
			s.viaduct("net-destroy", "a")
			s.cannotReach(g.Node, outside)
			if rules := s.mustRun("nft", "list", "ruleset"); strings.Contains(rules, "viaduct") {
				t.Errorf("something of ours is left:\n%s", rules)
			}
		})
	}
}

// A firewall that offers no place for others' rules is named.
func TestBlockingFirewallIsNamed(t *testing.T) {
	s := startSite(t)
	s.mustRun("nft", "add table inet strict; add chain inet strict fwd_all { type filter hook forward priority filter; policy drop; }")
	s.settled()
	s.create(natXML("a", 50, ""))
	if _, err := s.daemon.Process().WaitLine(s.context(), `inet strict fwd_all`); err != nil {
		t.Errorf("the daemon does not name the chain that blocks: %v\n%s", err, s.daemon.Output())
	}
}
