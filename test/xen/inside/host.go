package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/xenvif/xenstore"
)

const (
	daemonLog = "/var/log/viaduct.log"
	xenTools  = "/usr/lib/xen-4.17/bin/"

	// The host's link to the outside and the addresses there.
	uplink       = "up0"
	hostAddr     = "198.51.100.1"
	outsideAddr  = "198.51.100.2"
	hostAddr6    = "2001:db8:7::1"
	outsideAddr6 = "2001:db8:7::2"
)

// lanXML is the network that the bridged guests are on.
const lanXML = `<network><name>lan</name><forward mode='nat'><nat ipv6='yes'/></forward><bridge name='virbr1'/>
	<ip address='192.168.50.1' prefix='24'><dhcp><range start='192.168.50.10' end='192.168.50.99'/></dhcp></ip>
	<ip family='ipv6' address='` + lanAddr6 + `:1' prefix='64'/></network>`

// lanAddr6 is what the addresses of the network begin with, of those that guests
// make themselves too.
const lanAddr6 = "fd50:1:1:1:"

// boot makes a Xen host of the machine, as Debian's boot scripts do, and starts
// the daemon on it.
func boot(w *world) {
	os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/xen-4.17/bin")
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"devpts", "/dev/pts"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		w.must(os.MkdirAll(m.dir, 0o755))
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			w.Fatalf("mount %s: %v", m.dir, err)
		}
	}
	w.run("busybox", "--install", "-s", "/bin")
	for _, dir := range []string{"/run/lock", "/run/xen", "/run/xenstored", "/var/log/xen", "/var/lib/xen", "/var/lib/xenstored"} {
		w.must(os.MkdirAll(dir, 0o755))
	}
	w.must(os.Symlink("/run", "/var/run"))
	w.must(os.Symlink("/run/lock", "/var/lock"))
	// All other modules come when the kernel asks for them.
	w.run("modprobe", "-a", "xenfs", "xen-privcmd", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-netback", "ifb", "8021q")
	w.must(unix.Mount("xenfs", "/proc/xen", "xenfs", 0, ""))
	w.run("ip", "link", "set", "lo", "up")

	w.start("/var/log/xen/xenstored.log", "oxenstored", "--no-fork")
	w.eventually(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		w.store, err = xenstore.Dial(ctx, xenstore.SocketPath(os.Getenv))
		return err
	})
	w.run("xen-init-dom0")
	w.start("/var/log/xen/xenconsoled.log", "xenconsoled", "--interactive")
	w.makeOutside()
	w.untouched = files(w, xenFolder)
	w.run("viaduct", "xen-install", "--enforce-rate")
	w.startDaemon()
	w.must(os.WriteFile("/tmp/lan.xml", []byte(lanXML), 0o644))
	w.run("viaduct", "net-define", "/tmp/lan.xml")
	w.run("viaduct", "net-start", "lan")
	w.Logf("%s", w.run("xl", "info", "xen_version"))
}

// start starts a program that goes on.
func (w *world) start(log string, argv ...string) *exec.Cmd {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	w.must(err)
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	w.must(cmd.Start())
	return cmd
}

// makeOutside makes a namespace with a server beyond the host's uplink.
func (w *world) makeOutside() {
	w.run("ip", "link", "add", uplink, "type", "veth", "peer", "name", "eth0", "netns", "1")
	server := exec.Command("agent", "serve")
	server.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	w.must(server.Start())
	w.outside = server.Process.Pid
	w.run("ip", "link", "set", "eth0", "netns", fmt.Sprint(w.outside))
	w.run("ip", "addr", "add", hostAddr+"/24", "dev", uplink)
	w.run("ip", "link", "set", uplink, "up")
	w.run("ip", "addr", "add", hostAddr6+"/64", "dev", uplink, "nodad")
	w.run("ip", "route", "add", "default", "via", outsideAddr)
	w.run("ip", "-6", "route", "add", "default", "via", outsideAddr6)
	w.runOutside("echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set lo up && ip addr add " + outsideAddr + "/24 dev eth0 && ip addr add " + outsideAddr6 + "/64 dev eth0 && " +
		"ip link set eth0 up && ip -6 route add " + routedNet6 + " via " + hostAddr6)
}

// runOutside runs a command of the shell beyond the host's uplink.
func (w *world) runOutside(command string) string {
	return w.run("nsenter", "-t", fmt.Sprint(w.outside), "-n", "sh", "-c", command)
}

// startDaemon starts the daemon and waits until it says that it is ready.
func (w *world) startDaemon() {
	const notify = "/run/notify"
	os.Remove(notify)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	w.must(err)
	defer ready.Close()
	w.must(os.Setenv("NOTIFY_SOCKET", notify))
	w.daemon = w.start(daemonLog, "viaduct", "daemon", "--log-level", "debug", "--no-default")
	os.Unsetenv("NOTIFY_SOCKET")
	gone := make(chan struct{})
	go func(daemon *exec.Cmd) {
		defer close(gone)
		daemon.Wait()
	}(w.daemon)
	w.gone = gone
	ready.SetReadDeadline(time.Now().Add(limit))
	for buf := make([]byte, 4096); ; {
		n, err := ready.Read(buf)
		if err != nil {
			w.Fatalf("the daemon does not get ready: %v", err)
		}
		if strings.Contains(string(buf[:n]), "READY=1") {
			return
		}
	}
}

// killDaemon ends the daemon as a crash does.
func (w *world) killDaemon() {
	w.must(w.daemon.Process.Kill())
	<-w.gone
}

// read is the value of a key in Xen's store, or "" if it does not exist.
func (w *world) read(key string) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	value, err := w.store.Read(ctx, key)
	if err != nil {
		return ""
	}
	return value
}

// vifMAC are the last octets of the address that the kernel gives to the
// host's ends of guests' links, some time after they are up.
const vifMAC = "fcff:ffff:feff:ffff"

// trace is all that guests may leave on the host. Counters do not count, and no
// route for multicast, which a bridge has from its first port on.
func (w *world) trace() string {
	var b strings.Builder
	for _, command := range []string{
		"ls /sys/class/net", "ip -4 route show table all", "ip -6 route show table all | grep -v -e ff00::/8 -e " + vifMAC, "ip rule", "ip neigh show nud permanent",
		"tc qdisc show", "nft list ruleset | sed -e 's/packets [0-9]* bytes [0-9]*//'",
		"cd /proc/sys/net && cat ipv4/ip_forward ipv4/conf/" + uplink + "/proxy_arp ipv6/conf/all/forwarding ipv6/conf/" + uplink + "/proxy_ndp", "/usr/bin/ip neigh show proxy",
		"xenstore-ls /local/domain/0/backend", "viaduct port-list lan",
	} {
		out, err := try("sh", "-c", command)
		if err != nil && !strings.Contains(command, "xenstore-ls") {
			w.Errorf("%v", err)
		}
		fmt.Fprintf(&b, "$ %s\n%s\n", command, out)
	}
	return b.String()
}

// leavesNothing compares with a trace of before. What goes last needs a moment.
func (w *world) leavesNothing(before string) {
	var differs []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if differs = difference(before, w.trace()); differs == nil {
			return
		}
	}
	w.Errorf("left behind, or gone:\n%s", strings.Join(differs, "\n"))
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) (list []string) {
	count := map[string]int{}
	for line := range strings.Lines(before) {
		count[strings.TrimSpace(line)]--
	}
	for line := range strings.Lines(after) {
		count[strings.TrimSpace(line)]++
	}
	for line, n := range count {
		if n > 0 {
			list = append(list, "+ "+line)
		} else if n < 0 {
			list = append(list, "- "+line)
		}
	}
	return list
}
