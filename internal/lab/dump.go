package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dump describes a node's network as text, the same for the same state: links,
// addresses, routes, rules, settings and, if nft is installed, the firewall. What
// varies without meaning (indexes, counters, handles, the order in which things
// were made) is left out or sorted. Compare two with cmp.Diff.
func (n *Node) Dump() string {
	n.lab.t.Helper()
	var out strings.Builder
	names := make(map[int]string)
	for _, section := range []struct {
		title string
		lines func(*Node, map[int]string) ([]string, error)
	}{
		{"links", (*Node).dumpLinks}, // fills names for the others
		{"addresses", (*Node).dumpAddrs},
		{"routes", (*Node).dumpRoutes},
		{"rules", (*Node).dumpRules},
		{"qdiscs", (*Node).dumpQdiscs},
		{"settings", (*Node).dumpSysctls},
		{"firewall", (*Node).dumpFirewall},
	} {
		lines, err := section.lines(n, names)
		if err != nil {
			n.lab.t.Fatalf("lab: dump %s of node %s: %v", section.title, n.Name, err)
		}
		fmt.Fprintf(&out, "== %s\n", section.title)
		for _, line := range lines {
			fmt.Fprintln(&out, line)
		}
	}
	return out.String()
}

func (n *Node) dumpLinks(names map[int]string) ([]string, error) {
	links, err := retryDump(n.nl.LinkList)
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var lines []string
	for _, l := range links {
		a := l.Attrs()
		line := fmt.Sprintf("%s %s mac %s mtu %d group %d", a.Name, l.Type(), a.HardwareAddr, a.MTU, a.Group)
		if a.Flags&unix.IFF_UP != 0 {
			line += " up"
		}
		if a.MasterIndex != 0 {
			line += " master " + names[a.MasterIndex]
		}
		if a.Protinfo != nil {
			line += fmt.Sprintf(" port %s", a.Protinfo)
		}
		if a.Alias != "" {
			line += fmt.Sprintf(" alias %q", a.Alias)
		}
		if len(a.AltNames) > 0 {
			line += fmt.Sprintf(" altnames %q", a.AltNames)
		}
		if l.Type() == "bridge" {
			settings, err := n.bridgeSettings(a.Name)
			if err != nil {
				return nil, err
			}
			line += settings
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines, nil
}

// bridgeSettings are what a bridge is told to do, as /sys has it.
func (n *Node) bridgeSettings(name string) (string, error) {
	var text strings.Builder
	err := n.Do(func() error {
		for _, setting := range []string{
			"stp_state", "forward_delay", "hello_time", "max_age", "ageing_time", "priority", "group_fwd_mask",
			"multicast_snooping", "vlan_filtering", "nf_call_iptables", "nf_call_ip6tables", "nf_call_arptables",
		} {
			value, err := os.ReadFile(filepath.Join("/sys/class/net", name, "bridge", setting))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				continue // this kernel lacks it, or the bridge is just going
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(&text, " %s %s", setting, strings.TrimSpace(string(value)))
		}
		return nil
	})
	return text.String(), err
}

func (n *Node) dumpAddrs(names map[int]string) ([]string, error) {
	// All links' at once: the kernel lists all for one link too.
	addrs, err := retryDump(func() ([]netlink.Addr, error) { return n.nl.AddrList(nil, netlink.FAMILY_ALL) })
	var lines []string
	for _, a := range addrs {
		line := fmt.Sprintf("%s %s scope %d", names[a.LinkIndex], toPrefix(a.IPNet), a.Scope)
		if a.Broadcast != nil {
			line += fmt.Sprintf(" broadcast %s", a.Broadcast)
		}
		if a.Label != "" && a.Label != names[a.LinkIndex] {
			line += " label " + a.Label
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines, err
}

// dumpRoutes lists all tables but the kernel's own, which follows from the addresses.
func (n *Node) dumpRoutes(names map[int]string) ([]string, error) {
	var lines []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retryDump(func() ([]netlink.Route, error) {
			return n.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			if r.Table == unix.RT_TABLE_LOCAL {
				continue
			}
			line := fmt.Sprintf("%s dev %s table %d protocol %d scope %d type %d metric %d",
				toPrefix(r.Dst), names[r.LinkIndex], r.Table, r.Protocol, r.Scope, r.Type, r.Priority)
			if r.Gw != nil {
				line += fmt.Sprintf(" via %s", r.Gw)
			}
			if r.Src != nil {
				line += fmt.Sprintf(" src %s", r.Src)
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines, nil
}

func (n *Node) dumpRules(map[int]string) ([]string, error) {
	rules, err := retryDump(func() ([]netlink.Rule, error) { return n.nl.RuleList(netlink.FAMILY_ALL) })
	var lines []string
	for _, r := range rules {
		lines = append(lines, fmt.Sprintf("family %d %s", r.Family, r))
	}
	slices.Sort(lines)
	return lines, err
}

// dumpQdiscs leaves out the ones that the kernel gives every link.
func (n *Node) dumpQdiscs(names map[int]string) ([]string, error) {
	links, err := retryDump(n.nl.LinkList)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, l := range links {
		qdiscs, err := retryDump(func() ([]netlink.Qdisc, error) { return n.nl.QdiscList(l) })
		if err != nil {
			return nil, err
		}
		for _, q := range qdiscs {
			if q.Type() != "noqueue" && q.Attrs().Handle != 0 {
				lines = append(lines, fmt.Sprintf("%s %s parent %s", names[q.Attrs().LinkIndex], q.Type(), netlink.HandleStr(q.Attrs().Parent)))
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// settingsOfInterest are the sysctls that change what a network does, below
// /proc/sys/net.
var settingsOfInterest = []string{
	"ipv4/ip_forward",
	"ipv4/conf/*/forwarding", "ipv4/conf/*/rp_filter", "ipv4/conf/*/proxy_arp", "ipv4/conf/*/arp_ignore",
	"ipv4/conf/*/arp_announce", "ipv4/conf/*/route_localnet", "ipv4/conf/*/send_redirects", "ipv4/conf/*/accept_redirects",
	"ipv6/conf/*/forwarding", "ipv6/conf/*/disable_ipv6", "ipv6/conf/*/accept_ra", "ipv6/conf/*/autoconf",
	"ipv6/conf/*/proxy_ndp", "ipv6/conf/*/accept_dad", "ipv6/conf/*/accept_redirects", "ipv6/conf/*/addr_gen_mode",
	"bridge/bridge-nf-call-*",
}

func (n *Node) dumpSysctls(map[int]string) ([]string, error) {
	const root = "/proc/sys/net/"
	var lines []string
	err := n.Do(func() error {
		for _, pattern := range settingsOfInterest {
			paths, err := filepath.Glob(root + pattern)
			if err != nil {
				return err
			}
			for _, path := range paths {
				value, err := os.ReadFile(path)
				if errors.Is(err, os.ErrNotExist) {
					continue // its link has just gone
				}
				if err != nil {
					return err
				}
				lines = append(lines, strings.TrimPrefix(path, root)+" "+strings.TrimSpace(string(value)))
			}
		}
		return nil
	})
	slices.Sort(lines)
	return lines, err
}

func (n *Node) dumpFirewall(map[int]string) ([]string, error) {
	if len(Missing("nft")) > 0 {
		return []string{"(nft is not installed)"}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := n.Run(ctx, "nft", "--stateless", "list", "ruleset")
	return normaliseRuleset(r.Stdout), err
}

// normaliseRuleset sorts tables, and the chains, sets and maps in each: they
// stand in the order in which they were made, which means nothing. Rules stay.
func normaliseRuleset(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		// Remarks such as "# progname" follow the process, not the rules.
		line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), " # ")
		if line != "" {
			lines = append(lines, line)
		}
	}
	return flatten(blocks(lines, 0), nil)
}

// block is a line with those that are indented below it.
type block struct {
	head string
	body []block
	tail string // the closing brace, if there is one
}

// blocks groups lines of one depth of indentation and below.
func blocks(lines []string, depth int) []block {
	var result []block
	for i := 0; i < len(lines); {
		b := block{head: lines[i]}
		i++
		begin := i
		for i < len(lines) && indentation(lines[i]) > depth {
			i++
		}
		b.body = blocks(lines[begin:i], depth+1)
		if strings.HasSuffix(b.head, "{") && i < len(lines) {
			b.tail = lines[i]
			i++
		}
		result = append(result, b)
	}
	// Below tables (0) and what is in them (1), order has a meaning.
	if depth <= 1 {
		slices.SortStableFunc(result, func(a, b block) int { return cmp.Compare(a.head, b.head) })
	}
	return result
}

func indentation(line string) int { return len(line) - len(strings.TrimLeft(line, "\t")) }

func flatten(tree []block, lines []string) []string {
	for _, b := range tree {
		lines = flatten(b.body, append(lines, b.head))
		if b.tail != "" {
			lines = append(lines, b.tail)
		}
	}
	return lines
}
