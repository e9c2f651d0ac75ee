// Package daemon puts the pieces together: folders, sockets, signals, systemd,
// and the order in which things start and end.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"viaduct/internal/engine"
	"viaduct/internal/firewalld"
	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/hook"
	"viaduct/internal/host"
	"viaduct/internal/host/nft"
	"viaduct/internal/plan"
	"viaduct/internal/store"
)

// Config says where a daemon keeps its files and how it works. Several daemons
// can run on one machine, each in a network namespace and with folders of its own.
type Config struct {
	ConfigDir string // definitions
	StateDir  string // leases
	RunDir    string // what ends with the host: status, lock
	// TableOwner is "auto", "yes" or "no": whether the kernel protects our
	// nftables tables from everybody else.
	TableOwner string
	// ResolvConf lists the host's resolvers.
	ResolvConf string
	// LibvirtDirs hold network definitions of libvirt, which the default
	// network keeps clear of.
	LibvirtDirs []string
	// NoDefault leaves out the default network at the first start.
	NoDefault bool
	// Dnsmasq has dnsmasq serve the guests of networks that do not say by whom
	// they are to be served.
	Dnsmasq bool
	// UnsafeNoSync leaves leases unsynced, see store.JournalOptions.
	UnsafeNoSync bool
	// Hooks are the administrator's programs for moments in networks' lives.
	Hooks *hook.Runner
	Doors []Door
	Tasks []Task
	Log   *slog.Logger
}

// Task is something that goes on beside the doors until the context ends.
type Task struct {
	Name string
	Run  func(ctx context.Context, e *engine.Engine) error
}

// Door is a way in to the engine: a protocol on one or more Unix sockets.
type Door struct {
	Name    string
	Sockets []Socket
	// Serve answers on one listener until the context ends.
	Serve func(ctx context.Context, l net.Listener, e *engine.Engine) error
}

// Socket is a Unix socket of a door.
type Socket struct {
	Path  string
	Mode  os.FileMode
	Group string // owner group by name; "" leaves the process's own
	// Passed says that it is served only if the service manager passes it.
	Passed bool
}

// Run is the daemon: it adopts what is there, starts what is to be started,
// serves until the context or a signal ends it, and leaves the networks as
// they are.
func Run(ctx context.Context, c Config) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)

	inherited := inherit()
	defer inherited.close()
	fault := faultFromEnvironment()
	st, err := store.Open(store.Options{ConfigDir: c.ConfigDir, StateDir: c.StateDir, RunDir: c.RunDir, Fault: fault, Log: c.Log})
	if err != nil {
		return err
	}
	defer st.Close()
	// Only who holds the store's lock may replace sockets. Clients that come
	// before all is up wait in their queues.
	listeners, err := open(c.Doors, inherited.listeners)
	if err != nil {
		return err
	}
	defer listeners.close()
	journal, held, err := st.OpenLeases(store.JournalOptions{UnsafeNoSync: c.UnsafeNoSync})
	if err != nil {
		return err
	}
	defer journal.Close()
	table := leases.New(journal, held, time.Now)

	services, closeServices := startServices(c, table, st, serverDUID())
	defer closeServices()
	zones := firewalld.New(firewalld.Connect, c.Log)
	defer zones.Close()
	h, err := host.Open(host.Options{
		Appliers: []host.Applier{services, zones}, Tables: plan.Tables, TableOwner: nft.OwnerMode(c.TableOwner), Fault: fault, Log: c.Log,
		OwnerSocket: inherited.owner, KeepOwner: keepOwner(c.Log),
	})
	if err != nil {
		return err
	}
	defer h.Close()

	e := engine.New(engine.Options{
		Host: h, Store: st, Leases: table, Log: c.Log,
		DNSPort: choosesDNSPort(c.Log),
		NoIPv6:  !exists("/proc/sys/net/ipv6"),

		LiveRename:      host.LiveRename(),
		ForceForwarding: exists("/proc/sys/net/ipv6/conf/all/force_forwarding"),
		Firewalld:       zones,
		Foreign:         libvirtNetworks(c.LibvirtDirs),
		Dnsmasq:         plan.Dnsmasq{Dir: c.dnsmasqDir(), ResolvConf: c.ResolvConf, Always: c.Dnsmasq},
		Default:         !c.NoDefault,
		Hooks:           c.Hooks,
		System:          hostFiles{},
	})
	if err := e.Run(ctx); err != nil {
		if ctx.Err() != nil { // it was told to end before all was up
			err = nil
		}
		return errors.Join(err, e.Close())
	}
	defer e.Close()

	return serve(ctx, c, e, listeners, hup)
}

// serve answers at the doors and goes on with the tasks until the context ends
// or a door fails, and until all that was begun has an answer.
func serve(ctx context.Context, c Config, e *engine.Engine, doors *listeners, hup <-chan os.Signal) error {
	serving, stop := context.WithCancel(ctx)
	failed := doors.serve(serving, e, c.Log)
	var tasks sync.WaitGroup
	for _, t := range c.Tasks {
		tasks.Go(func() {
			if err := t.Run(serving, e); err != nil && serving.Err() == nil {
				c.Log.Error("task ended", "task", t.Name, "error", err)
			}
		})
	}
	defer tasks.Wait()
	defer stop()
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		c.Log.Warn("tell the service manager that all is ready", "error", err)
	}
	c.Log.Info("ready")
	for {
		select {
		case <-ctx.Done():
			sd.SdNotify(false, sd.SdNotifyStopping)
			stop()
			doors.wait()
			return nil
		case err := <-failed:
			stop()
			doors.wait()
			return err
		case <-hup:
			reload(ctx, e, c.Log)
		}
	}
}

// reload answers SIGHUP.
func reload(ctx context.Context, e *engine.Engine, log *slog.Logger) {
	sd.SdNotify(false, sd.SdNotifyReloading)
	defer sd.SdNotify(false, sd.SdNotifyReady)
	report, err := e.Reload(ctx)
	if err != nil {
		log.Error("reload", "error", err)
	}
	for _, f := range report.Failed {
		log.Error("definition left as it was", "file", f.File, "error", f.Error)
	}
	log.Info("reloaded", "added", report.Added, "changed", report.Changed, "removed", report.Removed)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// listeners are the open sockets of all doors.
type listeners struct {
	open []opened
	wg   sync.WaitGroup
}

type opened struct {
	door Door
	net.Listener
}

func (l *listeners) close() {
	for _, o := range l.open {
		o.Close()
	}
}

// serve starts all doors. The channel tells of the first one that fails.
func (l *listeners) serve(ctx context.Context, e *engine.Engine, log *slog.Logger) <-chan error {
	failed := make(chan error, len(l.open))
	for _, o := range l.open {
		l.wg.Go(func() {
			if err := o.door.Serve(ctx, o.Listener, e); err != nil && ctx.Err() == nil {
				log.Error("door closed", "door", o.door.Name, "error", err)
				failed <- fmt.Errorf("serve %s: %w", o.door.Name, err)
			}
		})
	}
	return failed
}

func (l *listeners) wait() { l.wg.Wait() }
