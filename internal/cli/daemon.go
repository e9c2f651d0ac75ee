package cli

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/bridgehelper"
	"viaduct/internal/daemon"
	"viaduct/internal/engine"
	"viaduct/internal/hook"
	"viaduct/internal/httpapi"
	"viaduct/internal/libvirtrpc"
	"viaduct/internal/libvirtrpc/attach"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/nwfilter"
	"viaduct/internal/libvirtrpc/polkit"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif"
	"viaduct/internal/xenvif/hotplug"
	"viaduct/internal/xenvif/xenstore"
)

var logLevels = []string{"debug", "info", "warn", "error"}

var backends = []string{netdef.BackendViaduct, netdef.BackendDnsmasq}

var daemonFlags = []flag{
	{name: "config-dir", value: "DIR", help: "definitions are in DIR", fallback: "/etc/viaduct"},
	{name: "state-dir", value: "DIR", help: "leases are in DIR", fallback: "/var/lib/viaduct"},
	{name: "run-dir", value: "DIR", help: "what ends with the host is in DIR", fallback: "/run/viaduct"},
	{name: "socket-group", value: "GROUP", help: "members of GROUP may change networks", fallback: "viaduct"},
	{name: "libvirt-sockets", value: "DIR", help: "answer libvirt's clients at virtnetworkd-sock and virtnetworkd-sock-ro in DIR, not only where systemd opened these for us in /run/libvirt"},
	{name: "libvirt-access", value: "MODE", help: "ask polkit who may use libvirt's sockets (MODE is connection) or about each call too (object)", fallback: accessConnection, choices: []string{accessConnection, accessObject}},
	{name: "libvirtd-socket", value: "SOCKET", help: "libvirtd answers at SOCKET, if libvirt-attach asks for it", fallback: "/run/libvirt/libvirt-sock"},
	{name: "libvirt-dir", value: "DIR", help: "keep the default network clear of libvirt's own in DIR", fallback: "/etc/libvirt/qemu/networks"},
	{name: "table-owner", value: "MODE", help: "let the kernel protect our nftables tables: MODE is yes, no, or auto for if it can", fallback: "auto", choices: []string{"auto", "yes", "no"}},
	{name: "resolv-conf", value: "FILE", help: "FILE lists the servers that guests' DNS queries go to", fallback: "/etc/resolv.conf"},
	{name: "hook-dir", value: "DIR", help: "programs for moments in networks' lives are DIR/network and DIR/network.d/* (default: hooks in the folder of --config-dir)"},
	{name: "hook-timeout", value: "SECONDS", help: "end such a program after SECONDS", fallback: "60"},
	{name: "dns-dhcp-backend", value: "WHO", help: "networks that do not say so are served by WHO: viaduct itself or dnsmasq", fallback: netdef.BackendViaduct, choices: backends},
	{name: "no-default", help: "do not create the network default at the first start"},
	{name: "unsafe-no-sync", help: "promise leases that a power cut loses", hidden: true},
	{name: "log-level", value: "LEVEL", help: "log from LEVEL on: debug, info, warn or error", fallback: "info", choices: logLevels},
}

// garbagePercent is how much garbage the daemon lets gather, in percent of what
// it uses. It lives as long as its host, mostly waiting, and allocates little
// at work: there memory counts more than the collector's time. GOGC overrides it.
const garbagePercent = 25

func runDaemon(c *call) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbagePercent)
	}
	log, err := logger(c)
	if err != nil {
		return err
	}
	switch c.text("table-owner") {
	case "auto", "yes", "no":
	default:
		return usagef("unknown --table-owner '%s': it is auto, yes or no", c.text("table-owner"))
	}
	switch c.text("libvirt-access") {
	case accessConnection, accessObject:
	default:
		return usagef("unknown --libvirt-access '%s': it is connection or object", c.text("libvirt-access"))
	}
	if !slices.Contains(backends, c.text("dns-dhcp-backend")) {
		return usagef("unknown --dns-dhcp-backend '%s': it is %s", c.text("dns-dhcp-backend"), strings.Join(backends, " or "))
	}
	seconds, err := strconv.ParseUint(c.text("hook-timeout"), 10, 31)
	if err != nil || seconds == 0 {
		return usagef("--hook-timeout '%s' is no number of seconds", c.text("hook-timeout"))
	}
	libvirtd := &attach.Libvirtd{Socket: c.text("libvirtd-socket"), Mark: filepath.Join(c.text("state-dir"), "libvirtd-attached"), Log: log}
	rates := xenvif.NewRates(func(ctx context.Context) (*xenstore.Client, error) { return xenstore.Open(ctx, os.Getenv) }, log)
	config := daemon.Config{
		Tasks: []daemon.Task{
			{Name: "follow for libvirtd", Run: func(ctx context.Context, e *engine.Engine) error { return libvirtd.Follow(ctx, e) }},
			{Name: "follow rates in xenstore", Run: func(ctx context.Context, e *engine.Engine) error { return rates.Follow(ctx, e) }},
		},
		Hooks:     &hook.Runner{Dir: hookDir(c), Limit: time.Duration(seconds) * time.Second, Log: log},
		Dnsmasq:   c.text("dns-dhcp-backend") == netdef.BackendDnsmasq,
		ConfigDir: c.text("config-dir"), StateDir: c.text("state-dir"), RunDir: c.text("run-dir"),
		TableOwner: c.text("table-owner"), ResolvConf: c.text("resolv-conf"), NoDefault: c.is("no-default"),
		UnsafeNoSync: c.is("unsafe-no-sync"),
		LibvirtDirs:  []string{c.text("libvirt-dir")}, Log: log,
		Doors: []daemon.Door{{
			Name:    "api",
			Sockets: []daemon.Socket{{Path: c.socket, Mode: 0o660, Group: c.text("socket-group")}},
			Serve: func(ctx context.Context, l net.Listener, e *engine.Engine) error {
				return (&httpapi.Server{API: httpapi.Of(e), Version: Version(), Libvirtd: attacher{libvirtd, e}, Log: log}).Serve(ctx, l)
			},
		}},
	}
	config.Doors = append(config.Doors, daemon.Door{
		Name: "bridge helper",
		// Everybody may ask; the list of who gets what is looked at there.
		Sockets: []daemon.Socket{{Path: helperSocket(c.socket), Mode: 0o666}},
		Serve: func(ctx context.Context, l net.Listener, e *engine.Engine) error {
			allow := filepath.Join(c.text("config-dir"), "bridge.conf")
			return (&bridgehelper.Server{Allow: allow, OpenTap: e.OpenTap, Log: log}).Serve(ctx, l)
		},
	})
	config.Doors = append(config.Doors, daemon.Door{
		Name: "vif script",
		// As to the API: who may connect may change networks.
		Sockets: []daemon.Socket{{Path: hotplug.Socket(c.socket), Mode: 0o660, Group: c.text("socket-group")}},
		Serve: func(ctx context.Context, l net.Listener, e *engine.Engine) error {
			return (&xenvif.Server{Desk: desk(e, c.text("config-dir"), rates), Log: log}).Serve(ctx, l)
		},
	})
	config.Doors = append(config.Doors, libvirtDoors(c, log)...)
	return daemon.Run(c, config)
}

// hookDir is the folder with the administrator's programs.
func hookDir(c *call) string {
	if dir := c.text("hook-dir"); dir != "" {
		return dir
	}
	return filepath.Join(c.text("config-dir"), "hooks")
}

// The values of --libvirt-access.
const (
	accessConnection = "connection"
	accessObject     = "object"
)

// libvirtDoors are libvirt's sockets of its network daemon. Where nobody asks
// for them they are served only if the service manager passes them: on a host
// that has libvirt's own daemon its clients go on to find that one.
func libvirtDoors(c *call, log *slog.Logger) []daemon.Door {
	dir := c.text("libvirt-sockets")
	passed := dir == ""
	if passed {
		dir = "/run/libvirt"
	}
	access := dispatch.Access{Group: c.text("socket-group"), Polkit: polkit.Authority{}, PerObject: c.text("libvirt-access") == accessObject}
	networks := func(e *engine.Engine) dispatch.Driver { return libvirtrpc.Driver(e) }
	filters := func(e *engine.Engine) dispatch.Driver { return nwfilter.Driver(e) }
	door := func(name, socket string, driver func(*engine.Engine) dispatch.Driver, readOnly bool) daemon.Door {
		return daemon.Door{
			Name: name,
			// Everybody may come in; who may stay is seen then, as at libvirt's own.
			Sockets: []daemon.Socket{{Path: filepath.Join(dir, socket), Mode: 0o666, Passed: passed}},
			Serve: func(ctx context.Context, l net.Listener, e *engine.Engine) error {
				return (&dispatch.Server{Driver: driver(e), ReadOnly: readOnly, Access: access, Log: log}).Serve(ctx, l)
			},
		}
	}
	return []daemon.Door{
		door("libvirt", "virtnetworkd-sock", networks, false), door("libvirt, read-only", "virtnetworkd-sock-ro", networks, true),
		door("libvirt, filters", "virtnwfilterd-sock", filters, false), door("libvirt, filters, read-only", "virtnwfilterd-sock-ro", filters, true),
	}
}

// logger writes to the standard error. Under systemd the journal knows the
// time itself.
func logger(c *call) (*slog.Logger, error) {
	options := &slog.HandlerOptions{}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.text("log-level"))); err != nil {
		return nil, usagef("unknown --log-level '%s': it is debug, info, warn or error", c.text("log-level"))
	}
	options.Level = level
	if os.Getenv("JOURNAL_STREAM") != "" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(c.errs, options)), nil
}
