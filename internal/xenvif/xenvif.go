// Package xenvif is the door for Xen: the hotplug script that libxl runs when a
// guest's network interface comes and goes (docs/misc/vif-paths and
// tools/libs/light/libxl_nic.c in Xen's sources). It reads from xenstore what
// the guest is to have, asks the daemon for it, and writes back how it went. It
// translates Xen's terms; what can be applied is the engine's to decide.
package xenvif

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/xenstore"
)

// Networks is what this door asks of the daemon.
type Networks interface {
	Networks(ctx context.Context) ([]engine.Info, error)
	Bridges(ctx context.Context) ([]string, error)
	GuestPorts(ctx context.Context, mac netdef.MAC, guest netdef.UUID, name string) ([]engine.GuestPort, error)
	XML(ctx context.Context, ref string, inactive bool) (string, error)
	Create(ctx context.Context, xml []byte) (engine.Info, error)
	CreatePort(ctx context.Context, ref string, p engine.PortSpec) (engine.Port, error)
	Unplug(ctx context.Context, link string) error
	Release(ctx context.Context, ref string) error
}

// libxl kills a script after 40 s. What goes wrong is told well before that.
const (
	workLimit = 25 * time.Second
	tellLimit = 5 * time.Second
	// linkLimit is how long the guest's link may take to appear: the kernel
	// tells libxl that it is there shortly before it is.
	linkLimit = 10 * time.Second
)

// Script is one run of the hotplug script.
type Script struct {
	// Args are the program's arguments: its name, a command, and settings
	// such as type_if=vif.
	Args   []string
	Getenv func(string) string
	// Open reaches the daemon, or stands in for it where there can be none.
	Open func(ctx context.Context) (networks Networks, done func(), err error)
	// Resolvers are the name servers that guests in NAT are told of.
	Resolvers func() []string
	Errs      io.Writer
	// Log takes what goes wrong or is not as one would think, besides Errs; it
	// may be nil.
	Log func(text string)
}

// Run does what libxl asks for and returns the exit status.
func (s Script) Run(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	v, err := s.call()
	switch do := commands[v.command]; {
	case err != nil:
		// libxl shows what is in the store rather than what the script says.
		err = errors.Join(err, s.fail(ctx, v, err))
	case do.kind != v.kind:
		// Xen's own scripts ignore it too.
	default:
		err = do.run(s, ctx, v)
	}
	if err != nil {
		s.say(err)
		return 1
	}
	return 0
}

func (s Script) say(what any) {
	text := fmt.Sprintf("%s: %v", s.Args[0], what)
	fmt.Fprintln(s.Errs, text)
	if s.Log != nil {
		s.Log(text)
	}
}

// commands are what a script is told to do, each of one kind of interface.
var commands = map[string]struct {
	kind string
	run  func(Script, context.Context, call) error
}{
	"online": {kindVif, Script.online}, "offline": {kindVif, Script.offline},
	"add": {kindTap, Script.online}, "remove": {kindTap, Script.offline},
}

// online plugs the guest in and tells the guest's driver and libxl how it went.
func (s Script) online(ctx context.Context, c call) error {
	store, err := xenstore.Dial(ctx, xenstore.SocketPath(s.Getenv))
	if err != nil {
		return err
	}
	defer store.Close()
	v, err := s.read(ctx, store, c)
	var port engine.Port
	if err == nil {
		port, err = s.plug(ctx, v)
	}
	return errors.Join(err, tell(ctx, store, c, err, func(ctx context.Context, tx *xenstore.Tx) error {
		if c.kind == kindTap {
			return nil
		}
		var mtu error
		if v.frontend != "" && port.MTU > 0 {
			mtu = tx.Write(ctx, v.frontend+"/mtu", strconv.Itoa(port.MTU))
		}
		return errors.Join(mtu, tx.Write(ctx, c.path+"/hotplug-status", "connected"))
	}))
}

// fail tells of an error from before there was a connection to the store. What
// prevents that is of no interest beside it.
func (s Script) fail(ctx context.Context, c call, failed error) error {
	if c.path == "" || c.command == "offline" || c.command == "remove" {
		return nil
	}
	store, err := xenstore.Dial(ctx, xenstore.SocketPath(s.Getenv))
	if err != nil {
		return nil
	}
	defer store.Close()
	return tell(ctx, store, c, failed, nil)
}

// tell writes into the store how it went.
func tell(ctx context.Context, store *xenstore.Client, c call, failed error, good func(context.Context, *xenstore.Tx) error) error {
	// There is time for this even if there was none left for plugging in.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellLimit)
	defer cancel()
	return store.Transaction(ctx, func(tx *xenstore.Tx) error {
		if failed != nil {
			return errors.Join(tx.Write(ctx, c.path+"/hotplug-error", clip(failed.Error())),
				tx.Write(ctx, c.path+"/hotplug-status", "error"))
		}
		removed := make(chan error, 1)
		go func() { removed <- tx.Remove(ctx, c.path+"/hotplug-error") }()
		return errors.Join(good(ctx, tx), <-removed)
	})
}

// plug makes the guest's link a port of the network that its keys name.
func (s Script) plug(ctx context.Context, v vif) (engine.Port, error) {
	networks, done, err := s.Open(ctx)
	if err != nil {
		return engine.Port{}, err
	}
	defer done()
	for attempt := 1; ; attempt++ {
		at, err := s.place(ctx, networks, v)
		if err != nil {
			return engine.Port{}, err
		}
		spec, err := s.port(v, at)
		if err != nil {
			return engine.Port{}, err
		}
		port, err := networks.CreatePort(ctx, at.ref, spec)
		if err == nil {
			return port, nil
		}
		if at.implicit != "" {
			// It ended with its last port between our finding it and our asking.
			if netdef.CodeOf(err) == netdef.ErrNoNetwork && attempt < maxAttempts {
				continue
			}
			err = errors.Join(err, ignoreGone(networks.Release(ctx, at.ref)))
		}
		return engine.Port{}, fmt.Errorf("plug %s into network '%s': %w", v.link, at.name, err)
	}
}

// maxAttempts bounds how often a network may end before a guest gets into it.
const maxAttempts = 5

func ignoreGone(err error) error {
	if netdef.CodeOf(err) == netdef.ErrNoNetwork {
		return nil
	}
	return err
}

// offline unplugs the guest. It needs nothing of xenstore and no bridge, and
// touches no link but the one that online plugged in. Without a daemon there is
// nothing to do: one that is started later sees that the link is gone.
func (s Script) offline(ctx context.Context, c call) error {
	networks, done, err := s.Open(ctx)
	if err != nil {
		s.say(fmt.Errorf("leave %s where it is: %w", c.link, err))
		return nil
	}
	defer done()
	if err := networks.Unplug(ctx, c.port().String()); err != nil {
		return err
	}
	known, err := networks.Networks(ctx)
	if err != nil {
		return err
	}
	for _, n := range known {
		if n.UUID == implicitUUID(n.Name) && n.Connections == 0 {
			err = errors.Join(err, ignoreGone(networks.Release(ctx, n.UUID.String())))
		}
	}
	return err
}

// clip keeps a message so short that it fits into xenstore beside any path.
func clip(message string) string {
	const limit = 1000
	if len(message) > limit {
		return toValid(message[:limit]) + "..."
	}
	return message
}
