package xenscript

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// debianDirs are where Debian's package xen-utils-common may have been unpacked.
var debianDirs = []string{"/usr/local/lib/viaduct-test/xen-utils-common/etc/xen/scripts", "/etc/xen/scripts"}

// debianFolder is where its scripts are on a test's host.
const debianFolder = "/etc/xen-debian/"

// putDebianScripts gives the host Debian's own scripts, which log to where the
// test's host has a place for it.
func (x *xenHost) putDebianScripts() {
	x.t.Helper()
	for _, dir := range debianDirs {
		files, _ := filepath.Glob(dir + "/*")
		if _, err := os.Stat(dir + "/vif-common.sh"); err != nil {
			continue
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				continue // a folder
			}
			x.host.WriteScript(debianFolder+filepath.Base(file), strings.ReplaceAll(string(text), "/var/log/xen/", "/tmp/"))
		}
		return
	}
	if os.Getenv("CI") == "true" {
		x.t.Fatal("needs Debian's package xen-utils-common")
	}
	x.t.Skip("needs Debian's package xen-utils-common")
}

// comparison is a case that Debian's scripts and ours are given alike, with
// what comes of it.
type comparison struct {
	name, face string
	keys       keys
	do         func(c *contest) string
	debian     string
	ours       string // "" for the same
}

// contest is one of the scripts on a host of its own, where a bridge br9 and a
// bridge eth7 of the host's own wait for the interface of guest 5.
type contest struct {
	*xenHost
	*nic
	guest *lab.Guest
}

// online says how the script ended, with what the guest's driver and libxl read.
func (c *contest) online() string {
	c.set("hotplug-status", "")
	c.unset("hotplug-error")
	r := c.run("online")
	return c.outcome(r)
}

func (c *contest) outcome(r lab.Result) string {
	said := fmt.Sprintf("exit %d", r.Code)
	if s := c.status(); s != "" {
		said += " " + s
	}
	if p := c.problem(); p != "" {
		said += ": " + p
	}
	return said
}

// has says which of the texts are in what a program on the host prints.
func (c *contest) has(command string, texts ...string) string {
	out := c.in(c.host.Node, command)
	var found []string
	for _, text := range texts {
		if strings.Contains(out, text) {
			found = append(found, text)
		}
	}
	return "[" + strings.Join(found, ", ") + "]"
}

func connectedTo(c *contest) string {
	said := c.online()
	return fmt.Sprintf("%s, in %s, %s, told MTU %s", said, c.host.Master(c.link()), c.has("ip -o link show "+c.link(), "mtu 1500", "mtu 1400"),
		c.store.Get(c.frontend()+"/mtu"))
}

// comparisons are what Debian's scripts do well, and what they do not: the
// defects have numbers, see docs/xen.md.
var comparisons = []comparison{
	{"bridge", "vif-bridge", keys{"bridge": "br9"}, connectedTo, "exit 0 connected, in br9, [mtu 1500], told MTU 1500", ""},
	{"mtu", "vif-bridge", keys{"bridge": "br9", "mtu": "1400"}, connectedTo, "exit 0 connected, in br9, [mtu 1400], told MTU 1400", ""},
	{"bridge of old", "vif-bridge", keys{"bridge": "xenbr7"}, connectedTo, "exit 0 connected, in eth7, [mtu 1500], told MTU 1500", ""},
	{
		"no bridge", "vif-bridge", keys{"bridge": "nowhere"}, func(c *contest) string { return c.online() },
		"exit 1 error: Could not find bridge device nowhere",
		"exit 1 error: bridge=nowhere: no network is called so, none has a bridge of that name, and neither has the host",
	},
	{"offline", "vif-bridge", keys{"bridge": "br9"}, func(c *contest) string {
		c.online()
		r := c.run("offline")
		return fmt.Sprintf("exit %d, in %q", r.Code, c.host.Master(c.link()))
	}, `exit 0, in ""`, ""},
	{"vifname", "vif-bridge", keys{"bridge": "br9", "vifname": "alice"}, func(c *contest) string {
		said := c.online()
		return said + ", in " + c.host.Master("alice")
	}, "exit 0 connected, in br9", ""},
	{"route", "vif-route", keys{"ip": "203.0.113.50 203.0.113.51"}, func(c *contest) string {
		said := c.online()
		c.static(c.guest, "eth0", "203.0.113.2", "", "203.0.113.50/32")
		c.guest.ServeEcho(lab.PortEcho)
		c.in(c.host.Node, "ping -n -c 1 -W 5 203.0.113.50")
		said += " " + c.has("ip route", "203.0.113.50 dev vif5.0", "203.0.113.51 dev vif5.0", "metric 2")
		return said + " " + c.has("sysctl net.ipv4.conf.vif5/0.proxy_arp", "= 1")
	}, "exit 0 connected [203.0.113.50 dev vif5.0, 203.0.113.51 dev vif5.0, metric 2] [= 1]", ""},
	{"nat", "vif-nat", nil, func(c *contest) string {
		said := c.online()
		c.static(c.guest, "eth0", "10.0.5.128", "", "10.0.5.1/32")
		c.in(c.guest.Node, "ping -n -c 1 -W 5 10.0.5.128")
		return said + " " + c.has("ip route", "10.0.5.1 dev vif5.0") + " " + c.has("ip addr show vif5.0", "10.0.5.128/32")
	}, "exit 0 connected [10.0.5.1 dev vif5.0] [10.0.5.128/32]", ""},
	{
		"B1 the MTU of a renamed vif", "vif-bridge", keys{"bridge": "br9", "vifname": "alice"}, func(c *contest) string {
			c.online()
			return fmt.Sprintf("told %q, elsewhere %q", c.store.Get(c.frontend()+"/mtu"), c.store.Get("/local/domain/alice/device/vif/alice/mtu"))
		},
		`told "", elsewhere "1500"`, `told "1500", elsewhere ""`,
	},
	{
		"B2 a name that another guest's link has", "vif-bridge", keys{"bridge": "br9", "vifname": "alice"}, func(c *contest) string {
			c.online()
			other := c.xenHost.nic("vif-bridge", 6, 0, keys{"bridge": "br9", "vifname": "alice"})
			other.debian = c.debian
			other.attach()
			refused := other.run("online").Code
			other.run("offline")
			return fmt.Sprintf("refused %d, alice is in %q %s", refused, c.host.Master("alice"), c.has("ip -o link show alice", ",UP"))
		},
		`refused 1, alice is in "" []`, `refused 1, alice is in "br9" [,UP]`,
	},
	{
		"B3 a link that never comes", "vif-bridge", keys{"bridge": "br9"}, func(c *contest) string {
			c.host.DeleteLink(c.link())
			return c.online()
		},
		"exit 1", "exit 1 error: plug vif5.0 into network 'xen-bridge-br9': internal error: link 'vif5.0' does not exist",
	},
	{
		"B4 an address that is none", "vif-route", keys{"ip": "203.0.113.500"}, func(c *contest) string { return c.online() },
		"exit 1 error: /etc/xen-debian/vif-route failed; error detected.",
		"exit 1 error: ip=203.0.113.500: '203.0.113.500' is no IP address or network",
	},
	{
		"B5 a host without net-tools", "vif-route", keys{"ip": "203.0.113.50"}, func(c *contest) string {
			c.in(c.host.Node, "mount --bind /bin/false /usr/sbin/ifconfig")
			return c.online()
		},
		"exit 1 error: /etc/xen-debian/vif-route failed; error detected.", "exit 0 connected",
	},
	{
		"B6 an IPv6 address", "vif-route", keys{"ip": "203.0.113.50 2001:db8:113::50"}, func(c *contest) string {
			return c.online() + " " + c.has("ip route", "203.0.113.50") + " " + c.has("ip -6 route", "2001:db8:113::50")
		},
		"exit 1 error: /etc/xen-debian/vif-route failed; error detected. [203.0.113.50] []",
		"exit 0 connected [203.0.113.50] [2001:db8:113::50]",
	},
	{
		"B7 offline when the host has lost its address", "vif-route", keys{"ip": "203.0.113.50"}, func(c *contest) string {
			c.online()
			c.in(c.host.Node, "ip addr flush dev eth0")
			return fmt.Sprintf("exit %d %s", c.run("offline").Code, c.has("ip route", "203.0.113.50"))
		},
		"exit 1 [203.0.113.50]", "exit 0 []",
	},
	{
		"B8 online twice", "vif-nat", nil, func(c *contest) string {
			c.online()
			return c.online()
		},
		"exit 0", "exit 0 connected",
	},
	{
		"B8 a name that begins like another's", "vif-nat", nil, func(c *contest) string {
			c.in(c.host.Node, "ip link add vif5.01 type veth peer name decoy")
			c.in(c.host.Node, "ip link set vif5.01 up")
			c.in(c.host.Node, "ip route add 198.51.100.1 dev vif5.01")
			return c.online()
		},
		"exit 0", "exit 0 connected",
	},
	{
		"B9 an address from the upper half", "vif-nat", keys{"ip": "10.0.0.200"}, func(c *contest) string {
			return c.online() + " " + c.has("ip addr show vif5.0", "10.0.0.73/32")
		},
		"exit 1 error: ip addr add 10.0.0.327 dev vif5.0 failed []", "exit 0 connected [10.0.0.73/32]",
	},
	{
		"B9 two addresses", "vif-nat", keys{"ip": "10.0.0.5 10.0.0.6"}, func(c *contest) string {
			said := c.online()
			return said[:6] + " " + c.has("ip route", "10.0.0.5 dev vif5.0", "10.0.0.6 dev vif5.0")
		},
		"exit 1 []", "exit 0 [10.0.0.5 dev vif5.0, 10.0.0.6 dev vif5.0]",
	},
	{
		"B10 offline when the bridge is gone", "vif-bridge", keys{"bridge": "br9"}, func(c *contest) string {
			c.online()
			c.host.DeleteLink("br9")
			return fmt.Sprintf("exit %d", c.run("offline").Code)
		},
		"exit 1", "exit 0",
	},
	{
		"B11 a VLAN that cannot be applied", "vif-bridge", keys{"bridge": "br9", "vlan": "10p/20u"}, func(c *contest) string { return c.online() },
		"exit 0 connected", "exit 1 error: vlan=10p/20u: a guest can have a single VLAN without tags",
	},
	{
		"B12 another guest's address", "vif-bridge", keys{"bridge": "br9", "ip": "10.9.0.5"}, func(c *contest) string {
			c.online()
			c.in(c.host.Node, "ip addr add 10.9.0.1/24 dev br9")
			c.in(c.guest.Node, "ip addr add 10.9.0.6/24 dev eth0")
			_, err := c.guest.Run(c.context(), "ping", "-n", "-c", "1", "-W", "1", "10.9.0.1")
			return fmt.Sprintf("heard: %v", err == nil)
		},
		"heard: true", "heard: false",
	},
	{
		"B13 no bridge named", "vif-bridge", keys{"bridge": ""}, func(c *contest) string {
			c.unset("bridge")
			return strings.ReplaceAll(c.online(), "\n", " ")
		},
		"exit 1 error: Could not find bridge, and none was specified", "exit 0 connected",
	},
	{
		"B14 a host without the store's programs", "vif-bridge", keys{"bridge": "br9"}, func(c *contest) string {
			for _, program := range []string{"/usr/bin/xenstore-read", "/usr/bin/xenstore-write"} {
				c.in(c.host.Node, "mount --bind /bin/false "+program)
			}
			return c.online()
		},
		"exit 1", "exit 0 connected",
	},
	{
		"B17 the host's own end", "vif-bridge", keys{"bridge": "br9"}, func(c *contest) string {
			c.online()
			return c.has("ip -6 addr show "+c.link(), "fe80::")
		},
		"[fe80::]", "[]",
	},
}

// The script does what Debian's do where they are right, and better where they
// are not.
func TestBesideDebian(t *testing.T) {
	for _, tt := range comparisons {
		for _, debian := range []bool{true, false} {
			whose, want := "ours", tt.ours
			if debian {
				whose, want = "debian", tt.debian
			}
			if want == "" {
				want = tt.debian
			}
			t.Run(tt.name+"/"+whose, func(t *testing.T) {
				c := &contest{xenHost: newXenHost(t)}
				if debian {
					c.putDebianScripts()
				} else {
					c.must(c.daemon.Start())
				}
				for _, bridge := range []string{"br9", "eth7"} {
					c.host.AddBridge(bridge)
					c.host.LinkUp(bridge)
				}
				c.nic = c.xenHost.nic(tt.face, 5, 0, tt.keys)
				c.nic.debian = debian
				c.guest = c.attach()
				if got := tt.do(c); got != want && want != "" {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			})
		}
	}
}
