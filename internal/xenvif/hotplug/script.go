// Package hotplug is the script that libxl runs when a guest's network interface
// comes and goes (docs/misc/vif-paths and tools/libs/light/libxl_nic.c in Xen's
// sources), and what it says to the daemon. It reads from xenstore what the guest
// is to have, asks the daemon for it, and writes back how it went. It knows no
// networks: a guest's start waits for it, and a program starts the faster the
// less it is made of.
package hotplug

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/xenvif/xenstore"
)

// libxl kills a script after 40 s. What goes wrong is told well before that.
const (
	// WorkLimit is how long the daemon may take.
	WorkLimit = 25 * time.Second
	tellLimit = 5 * time.Second
)

// Script is one run of the hotplug script. A guest's start waits for it, so it
// does little by itself: what the store says of the interface goes to the
// daemon as it is, in one request.
type Script struct {
	// Args are the program's arguments: its name, a command, and settings
	// such as type_if=vif.
	Args   []string
	Getenv func(string) string
	// Open reaches the daemon, or stands in for it where there can be none.
	// All has to be done by the deadline.
	Open func(deadline time.Time) (daemon Daemon, done func(), err error)
	// Resolvers are the name servers that guests in NAT are told of.
	Resolvers func() []string
	Errs      io.Writer
	// Log takes what goes wrong or is not as one would think, besides Errs; it
	// may be nil.
	Log func(text string)
}

// Run does what libxl asks for and returns the exit status.
func (s Script) Run() int {
	v, err := s.call()
	switch do := commands[v.Command]; {
	case err != nil:
		// libxl shows what is in the store rather than what the script says.
		err = errors.Join(err, s.fail(v, err))
	case do.kind != v.Kind:
		// Xen's own scripts ignore it too.
	case do.leaves:
		err = s.offline(v, time.Now().Add(WorkLimit))
	default:
		err = s.online(v, time.Now().Add(WorkLimit))
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

// commands are what a script is told to do, each for one kind of interface.
var commands = map[string]struct {
	kind   string
	leaves bool // the guest's link goes
}{
	"online": {kind: KindVif}, "offline": {kind: KindVif, leaves: true},
	"add": {kind: KindTap}, "remove": {kind: KindTap, leaves: true},
}

// online plugs the guest in and tells the guest's driver and libxl how it went.
func (s Script) online(c Call, deadline time.Time) error {
	store, err := xenstore.OpenBrief(s.Getenv, deadline)
	if err != nil {
		return err
	}
	defer store.Close()
	hooks := findHooks()
	r, err := s.read(store, c)
	r.Hooked = len(hooks) > 0
	var got Answer
	if err == nil {
		got, err = s.plug(r, deadline)
	}
	if err == nil {
		err = s.runHooks(hooks, r, got, deadline)
	}
	return errors.Join(err, tell(store, c, err, func() []xenstore.Change {
		if c.Kind == KindTap {
			return nil
		}
		var changes []xenstore.Change
		if frontend := r.Keys[KeyFrontend]; frontend != "" && got.MTU > 0 {
			changes = append(changes, xenstore.Change{Path: frontend + "/mtu", Value: strconv.Itoa(got.MTU)})
		}
		return append(changes, xenstore.Change{Path: c.Path + "/hotplug-status", Value: "connected"})
	}))
}

// guardVariable, set to "no", leaves guests unguarded of whose network nobody
// has said whether they are to be guarded.
const guardVariable = "VIADUCT_GUARD"

// read gets what libxl wrote into the store for the interface
// (docs/man/xl-network-configuration.5).
func (s Script) read(store *xenstore.Brief, c Call) (Request, error) {
	r := Request{Call: c, Unguarded: s.Getenv(guardVariable) == "no"}
	if c.Face == FaceNAT {
		r.Resolvers = s.Resolvers()
	}
	paths := make([]string, len(Keys), len(Keys)+2)
	for i, name := range Keys {
		paths[i] = c.Path + "/" + name
	}
	// A driver domain may not be allowed to read whose interface it is.
	values, err := store.ReadAll(append(paths, fmt.Sprintf("/local/domain/%d/vm", c.Domain), c.Path+"/frontend-id")...)
	if err != nil {
		return r, fmt.Errorf("read what xenstore has of the interface: %w", err)
	}
	known := false
	for _, value := range values {
		known = known || value != ""
	}
	if !known {
		return r, fmt.Errorf("xenstore has nothing at %s", c.Path)
	}
	if guest := values[len(Keys)]; guest != "" {
		about, err := store.ReadAll(guest+"/name", guest+"/uuid")
		if err != nil {
			return r, fmt.Errorf("read whose interface it is: %w", err)
		}
		r.Guest, r.GuestUUID = about[0], about[1]
	}
	r.Keys = make(map[string]string, len(Keys))
	for i, name := range Keys {
		if values[i] != "" {
			r.Keys[name] = values[i]
		}
	}
	return r, nil
}

// ask has the daemon do what is to be done for the interface.
func (s Script) ask(daemon Daemon, r Request) (Answer, error) {
	got := daemon.Do(r)
	for _, warning := range got.Warnings {
		s.say(warning)
	}
	return got, got.Err
}

// plug asks the daemon to make the guest's link a port of the network that its
// keys name.
func (s Script) plug(r Request, deadline time.Time) (Answer, error) {
	daemon, done, err := s.Open(deadline)
	if err != nil {
		return Answer{}, err
	}
	defer done()
	return s.ask(daemon, r)
}

// fail tells of an error from before there was a connection to the store. What
// prevents that is of no interest beside it.
func (s Script) fail(c Call, failed error) error {
	if c.Path == "" || commands[c.Command].leaves {
		return nil
	}
	store, err := xenstore.OpenBrief(s.Getenv, time.Now().Add(tellLimit))
	if err != nil {
		return nil
	}
	defer store.Close()
	return tell(store, c, failed, nil)
}

// tell writes into the store how it went. libxl waits for the status, so that
// is written after all else.
func tell(store *xenstore.Brief, c Call, failed error, good func() []xenstore.Change) error {
	// There is time for this even if there was none left for plugging in.
	store.Extend(time.Now().Add(tellLimit))
	if failed != nil {
		return store.Change(xenstore.Change{Path: c.Path + "/hotplug-error", Value: clip(failed.Error())},
			xenstore.Change{Path: c.Path + "/hotplug-status", Value: "error"})
	}
	return store.Change(append([]xenstore.Change{{Path: c.Path + "/hotplug-error", Remove: true}}, good()...)...)
}

// offline unplugs the guest. It needs nothing of xenstore and no bridge, and
// touches no link but the one that online plugged in. Without a daemon there is
// nothing to do: one that is started later sees that the link is gone.
func (s Script) offline(c Call, deadline time.Time) error {
	daemon, done, err := s.Open(deadline)
	if err != nil {
		s.say(fmt.Errorf("leave %s where it is: %w", c.Link, err))
		return nil
	}
	defer done()
	hooks := findHooks()
	r := Request{Call: c}
	if len(hooks) > 0 {
		r = s.reread(c, deadline)
	}
	got, err := s.ask(daemon, r)
	return errors.Join(err, s.runHooks(hooks, r, got, deadline))
}

// clip keeps a message so short that it fits into xenstore beside any path.
func clip(message string) string {
	const limit = 1000
	if len(message) > limit {
		return strings.ToValidUTF8(message[:limit], "") + "..."
	}
	return message
}
