package lab

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Node is a machine of the lab: a network stack, files and processes of its own.
type Node struct {
	// Name is the node's host name.
	Name string

	lab        *Lab
	holder     *exec.Cmd
	leash      *os.File // the holder ends when this closes
	namespaces [len(namespaceKinds)]*os.File
	nl         *netlink.Handle // requests here act in the node's network

	mu      sync.Mutex
	closed  bool
	atClose map[int]func() // what ends with the node, by the order it came
	closers int            // counts them
	running sync.WaitGroup // goroutines that end with the node
}

// namespaceKinds are a node's namespaces, by their names in /proc/PID/ns, in
// the order in which to enter them.
var namespaceKinds = [...]struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
	{"pid", unix.CLONE_NEWPID},
	{"mnt", unix.CLONE_NEWNS},
}

func startNode(name string, sys sysAccess) (*Node, error) {
	n := &Node{Name: name}
	leashEnd, leash, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer leashEnd.Close()
	n.leash = leash
	said, say, err := os.Pipe()
	if err != nil {
		leash.Close()
		return nil, err
	}
	defer said.Close()

	var flags uintptr
	for _, ns := range namespaceKinds {
		flags |= uintptr(ns.flag)
	}
	n.holder = &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   []string{holderName, name, string(sys)},
		Stdin:  leashEnd,
		Stdout: say,
		Stderr: say,
		// No Pdeathsig: it fires when the starting thread ends, which may be
		// long before the process does. The leash is exact.
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: flags},
	}
	err = n.holder.Start()
	say.Close()
	if err != nil {
		leash.Close()
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	if err := n.settle(said); err != nil {
		n.kill()
		n.reap()
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	return n, nil
}

// settle waits until the holder is ready and takes hold of its namespaces.
func (n *Node) settle(said io.Reader) error {
	r := bufio.NewReader(said)
	line, err := r.ReadString('\n')
	if err != nil || line != holderReady {
		rest, _ := io.ReadAll(r)
		return fmt.Errorf("holder says %q", line+string(rest))
	}
	for i, ns := range namespaceKinds {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", n.holder.Process.Pid, ns.name))
		if err != nil {
			return err
		}
		n.namespaces[i] = f
	}
	n.nl, err = netlink.NewHandleAt(netns.NsHandle(n.netnsFd()))
	return err
}

// netnsFd is the descriptor of the node's network namespace.
func (n *Node) netnsFd() int { return int(n.namespaces[0].Fd()) }

// kill ends the node's processes, in an instant and all at once.
func (n *Node) kill() {
	n.mu.Lock()
	n.closed = true
	closers := n.atClose
	n.atClose = nil
	n.mu.Unlock()
	for _, key := range slices.Backward(slices.Sorted(maps.Keys(closers))) {
		closers[key]()
	}
	n.leash.Close()
	n.holder.Process.Kill()
}

// reap waits until they are gone.
func (n *Node) reap() {
	n.holder.Wait()
	n.running.Wait()
	if n.nl != nil {
		n.nl.Close()
	}
	for _, f := range n.namespaces {
		if f != nil {
			f.Close()
		}
	}
}

// Close ends the node before its lab does, as if its plug were pulled.
func (n *Node) Close() {
	n.mu.Lock()
	closed := n.closed
	n.mu.Unlock()
	if closed {
		return
	}
	n.lab.mu.Lock()
	for i, other := range n.lab.nodes {
		if other == n {
			n.lab.nodes = append(n.lab.nodes[:i], n.lab.nodes[i+1:]...)
			break
		}
	}
	n.lab.mu.Unlock()
	n.kill()
	n.reap()
}

// atEnd has f called when the node ends, at once if it has. It returns what
// makes it forget f.
func (n *Node) atEnd(f func()) (forget func()) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		f()
		return func() {}
	}
	defer n.mu.Unlock()
	if n.atClose == nil {
		n.atClose = make(map[int]func())
	}
	n.closers++
	key := n.closers
	n.atClose[key] = f
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.atClose, key)
	}
}

// goUntilEnd runs f on a goroutine that the node's end waits for. What f
// blocks on must end with the node (see atEnd).
func (n *Node) goUntilEnd(f func()) {
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		f()
	}()
}

// Do runs f inside the node: sockets that f opens are in its network, paths
// are those of its files, also after f returned. Only f's own goroutine is
// inside; relative paths and goroutines that f starts are not.
func (n *Node) Do(f func() error) error {
	var err error
	finished := false
	onOwnThread(func() {
		if err = n.enter(); err != nil {
			err = fmt.Errorf("enter node %s: %w", n.Name, err)
		} else {
			err = f()
		}
		finished = true
	})
	if !finished {
		// f ended its goroutine, as t.Fatal does: so does the caller's.
		runtime.Goexit()
	}
	return err
}

// enter moves the calling thread, and what it starts, into the node for good.
func (n *Node) enter() error {
	n.mu.Lock()
	closed := n.closed
	n.mu.Unlock()
	if closed {
		return errClosed
	}
	// A thread that shares its root folder with others cannot change mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	for i, ns := range namespaceKinds {
		if err := unix.Setns(int(n.namespaces[i].Fd()), ns.flag); err != nil {
			return fmt.Errorf("%s namespace: %w", ns.name, err)
		}
	}
	return nil
}

// onOwnThread runs f on an operating system thread that ends with it, so that
// f may change what belongs to a thread.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread stands for the process in /proc and cannot end:
			// hold it busy while another one is found.
			defer runtime.UnlockOSThread()
			onOwnThread(f)
			return
		}
		f()
	}()
	<-done
}

// WriteFile writes a file of the node's own and makes the folders it needs. The
// path must be in /etc, /run, /var/lib or /tmp, the rest is the machine's.
func (n *Node) WriteFile(path, content string) {
	n.lab.t.Helper()
	n.lab.check(n.writeFile(path, content, 0o644))
}

// WriteScript writes an executable file of the node's own, as WriteFile.
func (n *Node) WriteScript(path, content string) {
	n.lab.t.Helper()
	n.lab.check(n.writeFile(path, content, 0o755))
}

func (n *Node) writeFile(path, content string, mode os.FileMode) error {
	if !isPrivate(path) {
		return fmt.Errorf("write %s in node %s: the file is the machine's", path, n.Name)
	}
	return n.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, []byte(content), mode)
	})
}

// isPrivate tells whether a node has its own copy of the path.
func isPrivate(path string) bool {
	clean := filepath.Clean(path)
	for _, dir := range []string{"/etc/", "/run/", "/var/lib/", "/tmp/"} {
		if strings.HasPrefix(clean, dir) {
			return true
		}
	}
	return false
}

// ReadFile reads a file as the node sees it.
func (n *Node) ReadFile(path string) (string, error) {
	var data []byte
	err := n.Do(func() (err error) {
		data, err = os.ReadFile(path)
		return err
	})
	return string(data), err
}

// Share shows a file or folder of the machine inside the node at the same
// path. Only those below /tmp, /run or /var/lib need it: the node's own hide them.
func (n *Node) Share(path string) {
	n.lab.t.Helper()
	n.lab.check(n.share(path))
}

func (n *Node) share(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("share %s: %w", path, err)
	}
	defer unix.Close(tree)
	return n.Do(func() error {
		if err := makeMountPoint(path, info.IsDir()); err != nil {
			return err
		}
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("share %s: %w", path, err)
		}
		return nil
	})
}

func makeMountPoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}
