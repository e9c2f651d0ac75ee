package cli

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"viaduct/internal/daemon"
	"viaduct/internal/engine"
	"viaduct/internal/hook"
	"viaduct/internal/httpapi"
	"viaduct/internal/store"
	"viaduct/internal/xenvif"
	"viaduct/internal/xenvif/hotplug"
)

// vifScript is Xen's hotplug script. It can be given no options, only an
// environment.
func vifScript(args []string) int { return hotplug.Main(args, vifDaemon) }

// vifDaemon reaches the daemon. Under systemd a connection starts it. Where
// there is none and nothing can start one, as in a driver domain without
// systemd, the script is the daemon for as long as it runs; the next one adopts
// what it leaves.
func vifDaemon(socket string, deadline time.Time) (hotplug.Daemon, func(), error) {
	for {
		d, done, err := hotplug.Dial(socket, deadline)
		if err == nil {
			return d, done, nil
		}
		unreachable := &httpapi.UnreachableError{Socket: socket, Err: err}
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			return nil, nil, unreachable
		}
		d, done, err = standIn()
		var locked *store.LockedError
		switch {
		case err == nil:
			return d, done, nil
		case !errors.As(err, &locked) || time.Now().After(deadline):
			return nil, nil, errors.Join(unreachable, err)
		}
		// Another script does the same, or a daemon is about to be ready.
		time.Sleep(50 * time.Millisecond)
	}
}

// desk is where scripts are served.
func desk(e *engine.Engine, configDir string, rates *xenvif.Rates) xenvif.Desk {
	return xenvif.Desk{Networks: e, Settings: xenvif.FileSettings(filepath.Join(configDir, "xen.xml")), Rates: rates}
}

// standIn runs a daemon in this process, with no door but that to the script.
func standIn() (hotplug.Daemon, func(), error) {
	folder := func(variable, fallback string) string { return cmp.Or(os.Getenv(variable), fallback) }
	ready := make(chan *engine.Engine)
	c := daemon.Config{
		ConfigDir: folder("VIADUCT_CONFIG_DIR", "/etc/viaduct"), StateDir: folder("VIADUCT_STATE_DIR", "/var/lib/viaduct"),
		RunDir: folder("VIADUCT_RUN_DIR", "/run/viaduct"), TableOwner: "no", ResolvConf: "/etc/resolv.conf", NoDefault: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Tasks: []daemon.Task{{Name: "script", Run: func(_ context.Context, e *engine.Engine) error {
			ready <- e
			return nil
		}}},
	}
	c.Hooks = &hook.Runner{Dir: filepath.Join(c.ConfigDir, "hooks"), Limit: 10 * time.Second, Log: c.Log}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- daemon.Run(running, c) }()
	select {
	case err := <-ended:
		stop()
		return nil, nil, err
	case e := <-ready:
		return desk(e, c.ConfigDir, nil), func() {
			stop()
			<-ended
		}, nil
	}
}
