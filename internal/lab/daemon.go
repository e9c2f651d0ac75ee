package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Daemon is a viaduct daemon that runs in a host node, with folders of its own.
type Daemon struct {
	// Where the daemon keeps its files, as the node sees the paths.
	ConfigDir, StateDir, RunDir, Socket string

	node    *Node
	binary  string
	args    []string
	env     []string
	process *Process

	keepFiles bool
	kept      []keptFile
}

// keptFile is a file in a service manager's store (sd_pid_notify_with_fds(3)).
type keptFile struct {
	name string
	*os.File
}

// DaemonOptions are the rarer wishes about a daemon.
type DaemonOptions struct {
	Args []string // in addition to those for the folders
	Env  []string
	// KeepFiles keeps the files that the daemon stores with its service manager
	// and hands them to the next start, as systemd does.
	KeepFiles bool
	// Name keeps the folders of several daemons on one node apart.
	Name string
}

// readyLimit is how long a daemon may take to be ready.
const readyLimit = 30 * time.Second

// StartDaemon starts "viaduct daemon" in the node and waits until it says that it
// is ready. The binary may lie anywhere on the machine.
func (n *Node) StartDaemon(binary string, args ...string) *Daemon {
	n.lab.t.Helper()
	d := n.NewDaemon(binary, DaemonOptions{Args: args})
	n.lab.check(d.Start())
	return d
}

// NewDaemon prepares a daemon without starting it.
func (n *Node) NewDaemon(binary string, o DaemonOptions) *Daemon {
	n.lab.t.Helper()
	if o.Name == "" {
		o.Name = "viaduct"
	}
	binary, err := filepath.Abs(binary)
	n.lab.check(err)
	if isPrivate(binary) {
		n.Share(binary)
	}
	d := &Daemon{
		// Not /etc, where the machine's own definitions would show.
		ConfigDir: filepath.Join("/var/lib", o.Name, "config"),
		StateDir:  filepath.Join("/var/lib", o.Name, "state"),
		RunDir:    filepath.Join("/run", o.Name),
		node:      n, binary: binary, args: o.Args, env: o.Env, keepFiles: o.KeepFiles,
	}
	d.Socket = filepath.Join(d.RunDir, "viaduct.sock")
	return d
}

// Start starts the daemon and waits until it is ready. An error tells what the
// daemon said.
func (d *Daemon) Start() error {
	if d.process != nil {
		select {
		case <-d.process.Done():
		default:
			return errors.New("start daemon: it is running")
		}
	}
	const notify = labDir + "/notify.sock"
	listener, err := d.node.listenNotify(notify)
	if err != nil {
		return fmt.Errorf("start daemon: %w", err)
	}
	defer listener.Close()
	command := Command{
		Argv: append([]string{d.binary, "daemon", "--config-dir", d.ConfigDir, "--state-dir", d.StateDir,
			"--run-dir", d.RunDir, "--socket", d.Socket}, d.args...),
		Env: append([]string{"NOTIFY_SOCKET=" + notify}, d.env...),
	}
	if len(d.kept) > 0 {
		d.passFiles(&command)
	}
	d.process, err = d.node.StartCommand(command)
	if err != nil {
		return err
	}
	if err := d.awaitReady(listener); err != nil {
		d.Kill9()
		return fmt.Errorf("start daemon: it is not ready: %w; it said:\n%s", err, d.Output())
	}
	return nil
}

// passFiles gives a command what is in the store (sd_listen_fds(3)). Its number
// in its own namespace the process knows only itself.
func (d *Daemon) passFiles(c *Command) {
	var names []string
	for _, f := range d.kept {
		c.Files, names = append(c.Files, f.File), append(names, f.name)
	}
	c.Env = append(c.Env, fmt.Sprintf("LISTEN_FDS=%d", len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	c.Argv = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, c.Argv...)
}

// keep puts the files that came with a notification into the store, unless it
// has one of that name.
func (d *Daemon) keep(state string, control []byte) error {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil {
		return err
	}
	_, name, _ := strings.Cut(state, "FDNAME=")
	name, _, _ = strings.Cut(name, "\n")
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			f := os.NewFile(uintptr(fd), name)
			if !d.keepFiles || slices.ContainsFunc(d.kept, func(k keptFile) bool { return k.name == name }) {
				f.Close()
				continue
			}
			d.kept = append(d.kept, keptFile{name, f})
			d.node.atEnd(func() { f.Close() })
		}
	}
	return nil
}

// listenNotify opens the socket that a service manager would (sd_notify(3)).
func (n *Node) listenNotify(path string) (*net.UnixConn, error) {
	var conn *net.UnixConn
	err := n.Do(func() (err error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err == nil {
			conn.SetReadDeadline(time.Now().Add(readyLimit))
		}
		return err
	})
	return conn, err
}

func (d *Daemon) awaitReady(listener *net.UnixConn) error {
	// The end of the daemon ends the wait.
	ended, ready := d.process.Done(), make(chan struct{})
	defer close(ready)
	d.node.goUntilEnd(func() {
		select {
		case <-ended:
			listener.SetReadDeadline(time.Unix(1, 0))
		case <-ready:
		}
	})
	buf, control := make([]byte, 4096), make([]byte, 256)
	for {
		n, c, _, _, err := listener.ReadMsgUnix(buf, control)
		if err == nil {
			err = d.keep(string(buf[:n]), control[:c])
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
}

// Kill9 ends the daemon as a crash would and waits until it is gone.
func (d *Daemon) Kill9() { d.process.Kill() }

// Stop asks the daemon to end and waits until it has.
func (d *Daemon) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	r, err := d.process.Stop(ctx)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d; it said:\n%s", r.Code, d.Output())
	}
	if err != nil {
		return fmt.Errorf("stop daemon: %w", err)
	}
	return nil
}

// Restart stops the daemon and starts it again with the same folders.
func (d *Daemon) Restart() error {
	if err := d.Stop(); err != nil {
		return err
	}
	return d.Start()
}

// SetEnv replaces the environment for the next start.
func (d *Daemon) SetEnv(env ...string) { d.env = env }

// Signal sends the daemon a signal, such as SIGHUP.
func (d *Daemon) Signal(sig syscall.Signal) { d.process.Signal(sig) }

// Process is the running daemon, or the last one that ran.
func (d *Daemon) Process() *Process { return d.process }

// Output is what the daemon has said since its last start; nothing before the first.
func (d *Daemon) Output() string {
	if d.process == nil {
		return ""
	}
	return d.process.Output()
}

// Viaduct runs a command of the command line against the daemon.
func (d *Daemon) Viaduct(ctx context.Context, args ...string) (Result, error) {
	return d.node.Run(ctx, append([]string{d.binary, "--socket", d.Socket}, args...)...)
}
