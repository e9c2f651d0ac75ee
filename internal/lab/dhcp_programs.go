package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The names under which every client's words have the host name and the lease
// time in seconds, beside the client's own names.
const (
	optHostname = "lab_hostname"
	optLease    = "lab_lease"
)

// hookFile is where a client's hook leaves its environment each time it has
// configured the guest.
const hookFile = labDir + "/dhcp/environment"

// hook is the shell text that does. The file appears whole.
const hook = "env > " + hookFile + ".new && mv " + hookFile + ".new " + hookFile + "\n"

// program is a DHCP client as a system ships it: a row of a table.
type program struct {
	name  string
	tools []string
	files map[string]string // written before the start; scripts begin with #!
	argv  []string          // stays in the foreground
	dirs  []string          // made before the start
	owner string            // the user that dirs belong to, default root

	// report is the file that tells what the client was told, as NAME=VALUE
	// lines; %d stands for eth0's index. The client replaces it, and events in
	// its folder and in watch say that it may have.
	report string
	watch  []string
	// isBound tells whether a report speaks of a lease.
	isBound func(report map[string]string) bool
	// hostname and lease are the report's names for them.
	hostname, lease string
	// settled, if set, is looked at besides the report.
	settled func(g *Guest, index int, report map[string]string) (bool, error)

	// done is what the client says after the report, when it is at rest.
	done string

	renewOn   syscall.Signal // 0: cannot
	releaseOn syscall.Signal // 0: cannot, or by the command
	releaseBy []string
}

// The clients that Debian ships.
var (
	// Udhcpc is busybox's; its script here does what the usual ones do.
	Udhcpc DHCPClient = &program{
		name:  "udhcpc",
		tools: []string{"busybox"},
		files: map[string]string{labDir + "/udhcpc.script": udhcpcScript},
		argv: []string{"busybox", "udhcpc", "-f", "-i", "eth0", "-s", labDir + "/udhcpc.script", "-T", "1", "-t", "5",
			"-F", hostnamePlaceholder, "-x", "hostname:" + hostnamePlaceholder,
			"-O", "hostname", "-O", "search", "-O", "mtu", "-O", "staticroutes", "-O", "broadcast"},
		report:    hookFile,
		isBound:   func(r map[string]string) bool { return r["ip"] != "" },
		hostname:  "hostname",
		lease:     "lease",
		renewOn:   syscall.SIGUSR1,
		releaseOn: syscall.SIGUSR2,
	}
	// Dhclient is ISC's, with the distribution's script.
	Dhclient DHCPClient = &program{
		name:      "dhclient",
		tools:     []string{"dhclient", dhclientScript, "ip"},
		dirs:      []string{"/var/lib/dhcp"},
		files:     map[string]string{labDir + "/dhclient.script": hookAfter(dhclientScript)},
		argv:      append(dhclientArgv, "-d", "eth0"),
		report:    hookFile,
		isBound:   func(r map[string]string) bool { return dhclientBound[r["reason"]] },
		hostname:  "new_host_name",
		lease:     "new_dhcp_lease_time",
		done:      "^bound to",
		releaseBy: append(dhclientArgv, "-d", "-r", "eth0"),
	}
	// Dhcpcd is Roy Marples', with the distribution's hooks, but without its
	// five seconds of ARP probing.
	Dhcpcd DHCPClient = &program{
		name:  "dhcpcd",
		tools: []string{"dhcpcd", dhcpcdHooks},
		dirs:  []string{"/var/lib/dhcpcd"},
		files: map[string]string{
			labDir + "/dhcpcd.conf": "hostname\nclientid\npersistent\noption domain_name_servers, domain_name, domain_search, host_name\n" +
				"option classless_static_routes, interface_mtu\nrequire dhcp_server_identifier\nnoipv4ll\nnoarp\n",
			labDir + "/dhcpcd.script": hookAfter(dhcpcdHooks),
		},
		argv:      append(dhcpcdArgv, "-B", "eth0"),
		report:    hookFile,
		isBound:   func(r map[string]string) bool { return dhclientBound[r["reason"]] },
		hostname:  "new_host_name",
		lease:     "new_dhcp_lease_time",
		renewOn:   syscall.SIGUSR1,
		releaseOn: syscall.SIGALRM,
	}
	// Networkd is systemd's. Without a D-Bus and systemd-resolved beside it,
	// the lab writes resolv.conf from what it knows.
	Networkd DHCPClient = &program{
		name:  "systemd-networkd",
		tools: []string{networkdPath},
		dirs:  []string{"/run/systemd/netif", "/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp"},
		owner: "systemd-network",
		files: map[string]string{
			"/run/systemd/network/eth0.network": "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n" +
				"[DHCPv4]\nUseDomains=yes\nUseMTU=yes\nClientIdentifier=mac\n",
		},
		argv:     []string{networkdPath},
		report:   "/run/systemd/netif/leases/%d",
		watch:    []string{"/run/systemd/netif/links"},
		isBound:  func(r map[string]string) bool { return r["ADDRESS"] != "" },
		hostname: "HOSTNAME",
		lease:    "LIFETIME",
		settled:  networkdSettled,
	}
)

// What the programs are and how each is called.
const (
	dhclientScript = "/sbin/dhclient-script"
	dhcpcdHooks    = "/lib/dhcpcd/dhcpcd-run-hooks"
)

var (
	dhclientArgv = []string{"dhclient", "-4", "-pf", "/run/dhclient.pid", "-sf", labDir + "/dhclient.script"}
	dhcpcdArgv   = []string{"dhcpcd", "-4", "-f", labDir + "/dhcpcd.conf", "-c", labDir + "/dhcpcd.script"}
)

// hookAfter is a script that runs the distribution's and then reports. The
// distribution's own folders for hooks are not ours to write in a user namespace.
func hookAfter(script string) string {
	return "#!/bin/sh\n" + script + ` "$@"` + "\nstatus=$?\n" + hook + "exit $status\n"
}

const networkdPath = "/lib/systemd/systemd-networkd"

// hostnamePlaceholder stands for the guest's host name in argv.
const hostnamePlaceholder = "%h"

// dhclientBound are the reasons for which dhclient and dhcpcd run their hooks
// that mean a lease.
var dhclientBound = map[string]bool{"BOUND": true, "RENEW": true, "REBIND": true, "REBOOT": true}

const udhcpcScript = `#!/bin/busybox sh
export PATH=/usr/bin:/bin:/usr/sbin:/sbin
ip() { busybox ip "$@"; }
case "$1" in
deconfig)
	ip link set dev "$interface" up
	ip -4 addr flush dev "$interface"
	: > /etc/resolv.conf
	;;
bound|renew)
	[ -n "$mtu" ] && ip link set dev "$interface" mtu "$mtu"
	ip -4 addr replace "$ip/$mask" broadcast "${broadcast:-+}" dev "$interface"
	if [ -n "$staticroutes" ]; then
		set -- $staticroutes
		while [ $# -ge 2 ]; do
			if [ "$2" = 0.0.0.0 ]; then ip route replace "$1" dev "$interface"
			else ip route replace "$1" via "$2" dev "$interface"; fi
			shift 2
		done
	else
		for gateway in $router; do ip route replace default via "$gateway" dev "$interface"; break; done
	fi
	{
		[ -n "$search$domain" ] && echo "search ${search:-$domain}"
		for server in $dns; do echo "nameserver $server"; done
	} > /etc/resolv.conf
	;;
esac
` + hook

// networkdSettled tells whether networkd is done with the link, and then does
// what systemd-resolved would.
func networkdSettled(g *Guest, index int, report map[string]string) (bool, error) {
	text, err := g.ReadFile(fmt.Sprintf("/run/systemd/netif/links/%d", index))
	if err != nil || parseVariables(text)["ADMIN_STATE"] != "configured" {
		return false, ignoreMissing(err)
	}
	var resolv strings.Builder
	for _, server := range strings.Fields(report["DNS"]) {
		fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	if domain := report["DOMAINNAME"]; domain != "" {
		fmt.Fprintf(&resolv, "search %s\n", strings.TrimSpace(domain+" "+report["DOMAIN_SEARCH_LIST"]))
	}
	return true, g.writeFile("/etc/resolv.conf", resolv.String(), 0o644)
}

func (p *program) Name() string    { return p.name }
func (p *program) Tools() []string { return p.tools }

// programSession is a program at work.
type programSession struct {
	*program
	guest   *Guest
	index   int // eth0's
	process *Process
	events  *watcher
	seen    string         // the report that was last taken for a lease
	asked   syscall.Signal // what the client was last sent, until it has done it
}

// askAgain is when a client is sent a signal again that had no effect:
// dhcpcd loses one that comes while its hooks run.
const askAgain = 2 * time.Second

func (p *program) start(ctx context.Context, g *Guest) (dhcpSession, error) {
	if missing := Missing(p.tools...); len(missing) > 0 {
		return nil, fmt.Errorf("needs %q, which is not installed", missing)
	}
	link, err := g.nl.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	s := &programSession{program: p, guest: g, index: link.Attrs().Index}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if s.events, err = g.watch(s.watched()...); err != nil {
		return nil, err
	}
	argv := make([]string, len(p.argv))
	for i, arg := range p.argv {
		argv[i] = strings.ReplaceAll(arg, hostnamePlaceholder, g.Name)
	}
	if s.process, err = g.StartCommand(Command{Argv: argv}); err != nil {
		s.events.close()
		return nil, err
	}
	return s, nil
}

// prepare lays out the client's private files.
func (s *programSession) prepare() error {
	uid, gid := 0, 0
	if s.owner != "" {
		owner, err := user.Lookup(s.owner)
		if err != nil {
			return err
		}
		uid, _ = strconv.Atoi(owner.Uid)
		gid, _ = strconv.Atoi(owner.Gid)
	}
	for path, content := range s.files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		if err := s.guest.writeFile(path, content, mode); err != nil {
			return err
		}
	}
	return s.guest.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(hookFile), 0o755); err != nil {
			return err
		}
		for _, dir := range s.dirs {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := os.Chown(dir, uid, gid); err != nil {
				return err
			}
		}
		for _, dir := range s.watched() {
			if err := removeFiles(dir); err != nil {
				return err
			}
		}
		return nil
	})
}

// watched are the folders where reports appear.
func (p *program) watched() []string {
	return append([]string{filepath.Dir(p.report)}, p.watch...)
}

// removeFiles empties a folder of what an earlier run reported.
func removeFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
	}
	return err
}

func (s *programSession) bound(ctx context.Context) (report map[string]string, err error) {
	err = s.await(ctx, func() (bool, error) {
		report, err = s.look()
		return report != nil, err
	})
	if err == nil && s.done != "" {
		_, err = s.process.WaitLine(ctx, s.done)
	}
	return report, err
}

// await waits until what the client was asked for has come true.
func (s *programSession) await(ctx context.Context, done func() (bool, error)) error {
	again := time.NewTicker(askAgain)
	defer again.Stop()
	defer func() { s.asked = 0 }()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-s.events.changed:
		case <-again.C:
			if s.asked != 0 {
				s.process.Signal(s.asked)
			}
		case <-s.process.Done():
			// What it did at its end counts.
			if ok, err := done(); ok || err != nil {
				return err
			}
			return fmt.Errorf("%s ended early; it said:\n%s", s.name, s.process.Output())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; it said:\n%s", s.name, ctx.Err(), s.process.Output())
		}
	}
}

// look returns the report if it is a new one and speaks of a lease.
func (s *programSession) look() (map[string]string, error) {
	path := strings.ReplaceAll(s.report, "%d", strconv.Itoa(s.index))
	text, err := s.guest.ReadFile(path)
	if err != nil || text == s.seen {
		return nil, ignoreMissing(err)
	}
	report := parseVariables(text)
	if !s.isBound(report) {
		return nil, nil
	}
	if s.settled != nil {
		if ok, err := s.settled(s.guest, s.index, report); !ok || err != nil {
			return nil, err
		}
	}
	s.seen = text
	report = maps.Clone(report)
	report[optHostname], report[optLease] = report[s.hostname], report[s.lease]
	return report, nil
}

func (s *programSession) renew(context.Context) error {
	if s.renewOn == 0 {
		return ErrUnsupported
	}
	// The report of the renewed lease may equal the last one to the letter.
	if err := s.guest.Do(func() error { return os.Remove(hookFile) }); err != nil {
		return err
	}
	s.seen = ""
	s.ask(s.renewOn)
	return nil
}

// ask sends the client a signal, and again by and by until it is done.
func (s *programSession) ask(sig syscall.Signal) {
	s.asked = sig
	s.process.Signal(sig)
}

func (s *programSession) release(ctx context.Context) error {
	switch {
	case s.releaseOn != 0:
		s.ask(s.releaseOn)
		return s.await(ctx, s.unbound)
	case s.releaseBy != nil:
		if _, err := s.guest.Run(ctx, s.releaseBy...); err != nil {
			return err
		}
		return s.await(ctx, s.unbound)
	}
	return ErrUnsupported
}

// unbound tells whether the report no longer speaks of a lease.
func (s *programSession) unbound() (bool, error) {
	text, err := s.guest.ReadFile(s.report)
	return err == nil && !s.isBound(parseVariables(text)), err
}

func (s *programSession) stop(context.Context) error {
	s.process.Kill()
	s.events.close()
	return nil
}

// parseVariables reads NAME=VALUE lines.
func parseVariables(text string) map[string]string {
	variables := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			variables[name] = value
		}
	}
	return variables
}

// parseLeaseTime reads seconds as the clients print them.
func parseLeaseTime(seconds string) (time.Duration, error) {
	if seconds == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(seconds, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("lease time %q: %w", seconds, err)
	}
	return time.Duration(n) * time.Second, nil
}

// ignoreMissing drops the error of a file that is not there yet.
func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// watcher tells when files come or go in folders of a node.
type watcher struct {
	changed chan struct{} // holds at most one note
	file    *os.File
	forget  func()
}

func (n *Node) watch(dirs ...string) (*watcher, error) {
	w := &watcher{changed: make(chan struct{}, 1)}
	err := n.Do(func() error {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return err
		}
		w.file = os.NewFile(uintptr(fd), "inotify")
		for _, dir := range dirs {
			if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_CLOSE_WRITE|unix.IN_DELETE); err != nil {
				w.file.Close()
				return fmt.Errorf("watch %s: %w", dir, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	w.forget = n.atEnd(func() { w.file.Close() })
	n.goUntilEnd(func() {
		buf := make([]byte, 4096)
		for {
			if _, err := w.file.Read(buf); err != nil {
				return
			}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	})
	return w, nil
}

func (w *watcher) close() {
	w.forget()
	w.file.Close()
}
