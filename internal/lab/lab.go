// Package lab builds small networks of real kernels' parts to test against: a
// host with an uplink, guests behind its bridges, a LAN outside. Every node has
// network, mount, host name and process namespaces of its own, so nothing the
// lab does, and nothing a DHCP client in it writes, touches the machine. All of
// it ends with the process that made it, however that process ends.
//
// The lab needs only Go and a Linux kernel, and root or a user namespace (see
// BecomeRoot). Its wiring and measuring go by netlink and sockets; programs such
// as nft, dhclient or systemd-networkd are started only where a test asks.
//
// A program that uses it calls Init first thing in main or TestMain:
//
//	func TestMain(m *testing.M) {
//		lab.Init()
//		goleak.VerifyTestMain(m)
//	}
package lab

import (
	"errors"
	"os"
	"sync"
)

// T is what the lab needs of a *testing.T. A program that is no test brings
// its own.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Lab is a set of nodes that live and end together.
type Lab struct {
	t T

	mu     sync.Mutex
	nodes  []*Node
	guests int
}

// initialised tells that Init ran: without it the lab's helper processes
// would run the caller's program once more.
var initialised bool

// Init makes this process a lab helper if it was started as one, and then
// does not return. Otherwise it notes that the program can use the lab, and adds
// the system folders, where Debian keeps dhclient and nft, to PATH.
func Init() {
	if len(os.Args) > 0 && os.Args[0] == holderName {
		holderMain(os.Args[1:])
	}
	initialised = true
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin")
}

// New starts an empty lab that ends with the test. It skips the test where the
// machine does not let us have namespaces (see Need).
func New(t T) *Lab {
	t.Helper()
	if !initialised {
		t.Fatalf("lab: call lab.Init first in main or TestMain")
	}
	Need(t)
	l := &Lab{t: t}
	t.Cleanup(l.Close)
	return l
}

// Close ends all nodes and everything that runs in them.
func (l *Lab) Close() {
	l.mu.Lock()
	nodes := l.nodes
	l.nodes = nil
	l.mu.Unlock()
	for _, n := range nodes {
		n.kill()
	}
	for _, n := range nodes {
		n.reap()
	}
}

// Node adds a machine: fresh namespaces with the loopback device up.
func (l *Lab) Node(name string) *Node {
	l.t.Helper()
	return l.node(name, sysWritable)
}

func (l *Lab) node(name string, sys sysAccess) *Node {
	l.t.Helper()
	n, err := startNode(name, sys)
	l.check(err)
	n.lab = l
	l.mu.Lock()
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	n.LinkUp("lo")
	return n
}

// check ends the test when an operation of the lab itself failed.
func (l *Lab) check(err error) {
	if err != nil {
		l.t.Helper()
		l.t.Fatalf("lab: %v", err)
	}
}

// errClosed is what remains when a node ends under a waiting caller.
var errClosed = errors.New("node has ended")
