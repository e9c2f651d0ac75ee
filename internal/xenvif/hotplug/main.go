package hotplug

import (
	"cmp"
	"log/syslog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// DefaultSocket is where the daemon listens unless told otherwise, and
// SocketVariable names the daemon's socket where it is another.
const (
	DefaultSocket  = "/run/viaduct/viaduct.sock"
	SocketVariable = "VIADUCT_SOCKET"
)

// Socket is where a daemon answers to the script: beside its own socket.
func Socket(daemon string) string { return filepath.Join(filepath.Dir(daemon), "vif.sock") }

// Main is the script as a program, and returns its exit status. Open reaches the
// daemon at a socket.
func Main(args []string, open func(socket string, deadline time.Time) (Daemon, func(), error)) int {
	return Script{
		Args: args, Getenv: os.Getenv, Resolvers: resolvers, Errs: os.Stderr, Log: toSyslog,
		Open: func(deadline time.Time) (Daemon, func(), error) {
			return open(Socket(cmp.Or(os.Getenv(SocketVariable), DefaultSocket)), deadline)
		},
	}.Run()
}

// toSyslog tells the host's log, as Xen's own scripts do.
func toSyslog(text string) {
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "viaduct"); err == nil {
		w.Warning(text)
		w.Close()
	}
}

// resolvers are the host's name servers. The file is read without Go's poller,
// which the script does not need for anything else.
func resolvers() []string {
	fd, err := syscall.Open("/etc/resolv.conf", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	text := make([]byte, 16<<10)
	n, err := syscall.Read(fd, text)
	if err != nil {
		return nil
	}
	var servers []string
	for line := range strings.Lines(string(text[:n])) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "nameserver" {
			servers = append(servers, words[1])
		}
	}
	return servers
}
