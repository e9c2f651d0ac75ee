package cli

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"log/syslog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/daemon"
	"viaduct/internal/engine"
	"viaduct/internal/hook"
	"viaduct/internal/httpapi"
	"viaduct/internal/store"
	"viaduct/internal/xenvif"
)

// vifScript is Xen's hotplug script. It can be given no options, only an
// environment.
func vifScript(args []string) int {
	debug.SetGCPercent(-1) // it ends before that could be of use
	return xenvif.Script{
		Args: args, Getenv: os.Getenv, Open: vifNetworks, Resolvers: resolvers, Errs: os.Stderr, Log: toSyslog,
	}.Run(context.Background())
}

// toSyslog tells the host's log, as Xen's own scripts do.
func toSyslog(text string) {
	if w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_WARNING, "viaduct"); err == nil {
		w.Warning(text)
		w.Close()
	}
}

// resolvers are the host's name servers.
func resolvers() []string {
	f, err := os.Open("/etc/resolv.conf")
	if err != nil {
		return nil
	}
	defer f.Close()
	var servers []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "nameserver" {
			servers = append(servers, words[1])
		}
	}
	return servers
}

// vifNetworks reaches the daemon. Under systemd a connection starts it. Where
// there is none and nothing can start one, as in a driver domain without
// systemd, the script is the daemon for as long as it runs; the next one adopts
// what it leaves.
func vifNetworks(ctx context.Context) (xenvif.Networks, func(), error) {
	socket := cmp.Or(os.Getenv(socketVariable), defaultSocket)
	for {
		err := answers(ctx, socket)
		if err == nil {
			client := httpapi.NewClient(socket)
			return client, client.Close, nil
		}
		unreachable := &httpapi.UnreachableError{Socket: socket, Err: err}
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			return nil, nil, unreachable
		}
		networks, done, err := standIn(ctx)
		var locked *store.LockedError
		switch {
		case err == nil:
			return networks, done, nil
		case !errors.As(err, &locked):
			return nil, nil, errors.Join(unreachable, err)
		}
		// Another script does the same, or a daemon is about to be ready.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, nil, errors.Join(unreachable, err)
		}
	}
}

// answers reports whether somebody listens at a socket.
func answers(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		var sys *os.SyscallError
		if errors.As(err, &sys) {
			err = sys.Err
		}
		return err
	}
	return conn.Close()
}

// standIn runs a daemon in this process, at a socket of its own.
func standIn(ctx context.Context) (xenvif.Networks, func(), error) {
	folder := func(variable, fallback string) string { return cmp.Or(os.Getenv(variable), fallback) }
	c := daemon.Config{
		ConfigDir: folder("VIADUCT_CONFIG_DIR", "/etc/viaduct"), StateDir: folder("VIADUCT_STATE_DIR", "/var/lib/viaduct"),
		RunDir: folder("VIADUCT_RUN_DIR", "/run/viaduct"), TableOwner: "no", ResolvConf: "/etc/resolv.conf", NoDefault: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	c.Hooks = &hook.Runner{Dir: filepath.Join(c.ConfigDir, "hooks"), Limit: 10 * time.Second, Log: c.Log}
	socket := filepath.Join(c.RunDir, "vif-"+strconv.Itoa(os.Getpid())+".sock")
	ready := make(chan struct{})
	c.Doors = []daemon.Door{{
		Name: "api", Sockets: []daemon.Socket{{Path: socket, Mode: 0o600}},
		Serve: func(ctx context.Context, l net.Listener, e *engine.Engine) error {
			close(ready)
			return (&httpapi.Server{API: httpapi.Of(e), Version: Version(), Log: c.Log}).Serve(ctx, l)
		},
	}}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- daemon.Run(running, c) }()
	select {
	case err := <-ended:
		stop()
		return nil, nil, err
	case <-ready:
	}
	client := httpapi.NewClient(socket)
	return client, func() {
		client.Close()
		stop()
		<-ended
	}, nil
}
