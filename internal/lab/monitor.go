package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Monitor hears what the kernel announces about a node's network: changes of
// links, addresses, routes, rules, traffic control, forwarding sysctls and
// nftables, by whomever. What traffic alone brings about (neighbours, the
// addresses a bridge learns) is left out.
type Monitor struct {
	ears []*ear
}

// maxHeard bounds what a Monitor keeps per source.
const maxHeard = 10000

// monitorBuffer is the room for announcements that wait to be read, in bytes.
const monitorBuffer = 8 << 20

// hearing is one netlink family to listen to.
type hearing struct {
	family   int
	groups   []int
	describe func(*Node, syscall.NetlinkMessage) string
}

var hearings = []hearing{
	{
		family: unix.NETLINK_ROUTE,
		groups: []int{
			unix.RTNLGRP_LINK, unix.RTNLGRP_TC,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
			unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF,
			unix.RTNLGRP_NEXTHOP,
		},
		describe: describeRoute,
	},
	{
		family:   unix.NETLINK_NETFILTER,
		groups:   []int{unix.NFNLGRP_NFTABLES},
		describe: describeNft,
	},
}

// ear listens to one family.
type ear struct {
	file   *os.File
	node   *Node
	kind   hearing
	done   chan struct{}
	forget func()

	mu    sync.Mutex
	heard []string
}

// Monitor starts listening in the node.
func (n *Node) Monitor() *Monitor {
	n.lab.t.Helper()
	m := &Monitor{}
	for _, kind := range hearings {
		e, err := n.listen(kind)
		n.lab.check(err)
		m.ears = append(m.ears, e)
	}
	return m
}

// Stop stops listening and returns what was announced until now, a line each.
func (m *Monitor) Stop() []string {
	var heard []string
	for _, e := range m.ears {
		heard = append(heard, e.stop()...)
	}
	return heard
}

func (n *Node) listen(kind hearing) (*ear, error) {
	e := &ear{node: n, kind: kind, done: make(chan struct{})}
	err := n.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, kind.family)
		if err != nil {
			return err
		}
		// Beyond the system's limit only with privilege over the machine.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, monitorBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, monitorBuffer)
		}
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		for _, group := range kind.groups {
			if err == nil {
				err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
			}
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("monitor node %s: %w", n.Name, err)
		}
		e.file = os.NewFile(uintptr(fd), "netlink")
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.forget = n.atEnd(func() { e.file.Close() })
	n.goUntilEnd(func() {
		defer close(e.done)
		e.listen(func(buf []byte) (int, error) { return e.file.Read(buf) })
	})
	return e, nil
}

// listen reads until there is nothing more to read.
func (e *ear) listen(read func([]byte) (int, error)) {
	buf := make([]byte, 64<<10)
	for {
		n, err := read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			e.note("announcements were lost")
			continue
		}
		if err != nil {
			return
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			e.note(fmt.Sprintf("announcement that cannot be read: %v", err))
		}
		for _, m := range messages {
			e.note(e.kind.describe(e.node, m))
		}
	}
}

func (e *ear) note(line string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.heard) < maxHeard {
		e.heard = append(e.heard, line)
	}
}

// stop also reads what the kernel announced before the call but nobody has
// read yet.
func (e *ear) stop() []string {
	e.forget()
	e.file.SetReadDeadline(time.Unix(1, 0))
	<-e.done
	raw, err := e.file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			e.listen(func(buf []byte) (int, error) {
				n, _, err := unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT)
				return n, err
			})
		})
	}
	if err != nil {
		e.note(fmt.Sprintf("stopped listening early: %v", err))
	}
	e.file.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.heard
}

// routeVerbs name the messages of rtnetlink.
var routeVerbs = map[uint16]string{
	unix.RTM_NEWLINK: "link", unix.RTM_DELLINK: "link gone",
	unix.RTM_NEWADDR: "address", unix.RTM_DELADDR: "address gone",
	unix.RTM_NEWROUTE: "route", unix.RTM_DELROUTE: "route gone",
	unix.RTM_NEWRULE: "rule", unix.RTM_DELRULE: "rule gone",
	unix.RTM_NEWQDISC: "qdisc", unix.RTM_DELQDISC: "qdisc gone",
	unix.RTM_NEWTCLASS: "class", unix.RTM_DELTCLASS: "class gone",
	unix.RTM_NEWTFILTER: "filter", unix.RTM_DELTFILTER: "filter gone",
	unix.RTM_NEWNETCONF: "forwarding setting", unix.RTM_DELNETCONF: "forwarding setting gone",
	unix.RTM_NEWNEXTHOP: "nexthop", unix.RTM_DELNEXTHOP: "nexthop gone",
}

func describeRoute(n *Node, m syscall.NetlinkMessage) string {
	verb, known := routeVerbs[m.Header.Type]
	if !known {
		return fmt.Sprintf("rtnetlink message %d", m.Header.Type)
	}
	detail := ""
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if link, err := netlink.LinkDeserialize(nil, m.Data); err == nil {
			a := link.Attrs()
			detail = fmt.Sprintf("%s %s mtu %d master %d alias %q", a.Name, a.Flags, a.MTU, a.MasterIndex, a.Alias)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) >= unix.SizeofIfAddrmsg {
			header := nl.DeserializeIfAddrmsg(m.Data)
			detail = fmt.Sprintf("%s on %s", attributeAddr(m.Data[header.Len():], unix.IFA_ADDRESS, header.Prefixlen), n.linkName(int(header.Index)))
		}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) >= unix.SizeofRtMsg {
			header := nl.DeserializeRtMsg(m.Data)
			detail = fmt.Sprintf("%s table %d protocol %d", attributeAddr(m.Data[header.Len():], unix.RTA_DST, header.Dst_len), header.Table, header.Protocol)
		}
	}
	return strings.TrimSpace(verb + " " + detail)
}

// attributeAddr is the address in one of a message's attributes, or "default".
func attributeAddr(data []byte, kind uint16, bits uint8) string {
	attrs, err := nl.ParseRouteAttr(data)
	if err != nil {
		return err.Error()
	}
	for _, a := range attrs {
		if addr, ok := netip.AddrFromSlice(a.Value); ok && a.Attr.Type == kind {
			return netip.PrefixFrom(addr, int(bits)).String()
		}
	}
	return "default"
}

// linkName is the name of a link that may be gone already.
func (n *Node) linkName(index int) string {
	if link, err := n.nl.LinkByIndex(index); err == nil {
		return link.Attrs().Name
	}
	return fmt.Sprintf("link %d", index)
}

// nftVerbs name the messages of nf_tables.
var nftVerbs = map[uint16]string{
	unix.NFT_MSG_NEWTABLE: "table", unix.NFT_MSG_DELTABLE: "table gone",
	unix.NFT_MSG_NEWCHAIN: "chain", unix.NFT_MSG_DELCHAIN: "chain gone",
	unix.NFT_MSG_NEWRULE: "rule", unix.NFT_MSG_DELRULE: "rule gone",
	unix.NFT_MSG_NEWSET: "set", unix.NFT_MSG_DELSET: "set gone",
	unix.NFT_MSG_NEWSETELEM: "element", unix.NFT_MSG_DELSETELEM: "element gone",
	unix.NFT_MSG_NEWOBJ: "object", unix.NFT_MSG_DELOBJ: "object gone",
	unix.NFT_MSG_NEWFLOWTABLE: "flowtable", unix.NFT_MSG_DELFLOWTABLE: "flowtable gone",
	unix.NFT_MSG_NEWGEN: "commit",
}

func describeNft(_ *Node, m syscall.NetlinkMessage) string {
	message := m.Header.Type & 0xff // above it stands the subsystem
	verb, known := nftVerbs[message]
	if !known {
		return fmt.Sprintf("nft message %d", message)
	}
	detail := ""
	// Beside the generation's, each message begins with the table's name, and
	// most go on with that of what is in it.
	if message != unix.NFT_MSG_NEWGEN && len(m.Data) > nl.SizeofNfgenmsg {
		attrs, err := nl.ParseRouteAttr(m.Data[nl.SizeofNfgenmsg:])
		for _, a := range attrs {
			if name, ok := printableName(a.Value); err == nil && ok {
				detail += " " + name
			}
		}
	}
	return "nft " + verb + detail
}

// printableName reads an attribute that is a text.
func printableName(value []byte) (string, bool) {
	name, terminated := strings.CutSuffix(string(value), "\x00")
	if !terminated || name == "" {
		return "", false
	}
	for _, c := range name {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	return name, true
}
