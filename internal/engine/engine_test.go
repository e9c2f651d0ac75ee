package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is an engine on a host in memory, with folders that outlive it.
type rig struct {
	*Engine
	t     *testing.T
	dir   string
	host  *host.Fake
	store *store.Store
	close func()

	// What start does differently, if set.
	options func(*Options)
	bootID  string
	fault   func(point string)
}

func newRig(t *testing.T) *rig {
	t.Helper()
	f := host.NewFake(hoststate.Sysctl{Name: "net/ipv4/ip_forward", Value: "0"})
	f.Stock.Links = []host.Link{{Index: 2, Name: "eth0", Up: true}}
	f.Stock.Addresses = []host.LinkPrefix{{Link: "eth0", Prefix: netip.MustParsePrefix("203.0.113.2/24")}}
	f.Stock.Routes = []host.LinkPrefix{{Link: "eth0", Prefix: netip.MustParsePrefix("203.0.113.0/24")}}
	t.Cleanup(func() { f.Close() })
	r := &rig{t: t, dir: t.TempDir(), host: f}
	r.start()
	return r
}

// start runs an engine on the rig's host and folders.
func (r *rig) start() {
	r.t.Helper()
	r.must(r.tryStart(r.t.Context()))
}

// tryStart is start with a context of the engine's own, returning what Run does.
func (r *rig) tryStart(ctx context.Context) error {
	r.t.Helper()
	st, err := store.Open(store.Options{ConfigDir: r.dir + "/etc", StateDir: r.dir + "/var", RunDir: r.dir + "/run", Fault: r.fault, BootID: r.bootID})
	if err != nil {
		r.t.Fatal(err)
	}
	j, held, err := st.OpenLeases(store.JournalOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.store = st
	o := Options{
		LiveRename: true,
		Host:       r.host, Store: st, Leases: leases.New(j, held, time.Now), Log: slog.New(slog.DiscardHandler),
		DNSPort: func(netip.Addr) (uint16, error) { return 53, nil },
	}
	if r.options != nil {
		r.options(&o)
	}
	r.Engine = New(o)
	closed := false
	r.close = func() {
		if !closed {
			closed = true
			r.Engine.Close()
			j.Close()
			st.Close()
		}
	}
	r.t.Cleanup(r.close)
	return r.Run(ctx)
}

// restart ends the engine and runs another one, as after a crash: the host
// and the folders are as they were, services are gone.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

func (r *rig) stop() {
	r.t.Helper()
	r.close()
	for k := range r.host.State() {
		if k.Kind == hoststate.KindService {
			r.host.Remove(k)
		}
	}
}

func (r *rig) define(xml string) Info {
	r.t.Helper()
	i, err := r.Define(r.t.Context(), []byte(xml))
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// natXML is a NAT network with the subnet 10.0.N.0/24.
func natXML(name string, n int) string {
	return fmt.Sprintf(`<network><name>%s</name><forward mode='nat'/><ip address='10.0.%d.1' prefix='24'>
		<dhcp><range start='10.0.%d.2' end='10.0.%d.254'/></dhcp></ip></network>`, name, n, n, n)
}

func TestStartDoesWhatThePlanSays(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	planned, err := r.Plan(i.UUID)
	r.must(err)
	r.must(r.Start(t.Context(), i.UUID))
	if done := hoststate.FormatOps(slices.Concat(r.host.Calls()...)); done != planned {
		t.Errorf("planned:\n%s\ndone:\n%s", planned, done)
	}
	if again, err := r.Plan(i.UUID); err != nil || again != "" {
		t.Errorf("plan after the start: %v\n%s", err, again)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	r := newRig(t)
	before := r.host.State()
	a, b := r.define(natXML("a", 1)), r.define(natXML("b", 2))
	r.must(r.Start(t.Context(), a.UUID))
	r.must(r.Start(t.Context(), b.UUID))
	r.must(r.Destroy(t.Context(), a.UUID))
	if len(r.host.State()) < 10 {
		t.Fatal("stopping one network took what the other needs")
	}
	r.must(r.Destroy(t.Context(), b.UUID))
	after := r.host.State()
	for k, o := range after {
		if !hoststate.Equal(before[k], o) {
			t.Errorf("left behind: %s", o.Text())
		}
	}
}

// ip_forward is put back only if nobody else changed it meanwhile.
func TestForwardingIsPutBack(t *testing.T) {
	key := hoststate.SysctlKey("net/ipv4/ip_forward")
	for _, c := range []struct{ before, meanwhile, after string }{
		{"0", "1", "0"}, {"1", "1", "1"}, {"0", "0", "0"}, {"0", "2", "2"},
	} {
		r := newRig(t)
		r.host.Set(hoststate.Sysctl{Name: key.Name, Value: c.before})
		i := r.define(natXML("a", 1))
		r.must(r.Start(t.Context(), i.UUID))
		r.restart() // the old value is remembered by the folder, not by the process
		r.host.Set(hoststate.Sysctl{Name: key.Name, Value: c.meanwhile})
		r.must(r.Destroy(t.Context(), i.UUID))
		if got := r.host.State()[key].(hoststate.Sysctl).Value; got != c.after {
			t.Errorf("%s, then %s: left at %s, want %s", c.before, c.meanwhile, got, c.after)
		}
	}
}

func TestFailedStartUndoesAll(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	before := r.host.State()
	for _, kind := range []hoststate.Kind{
		hoststate.KindBridge, hoststate.KindSysctl, hoststate.KindChain, hoststate.KindAddress, hoststate.KindLinkUp, hoststate.KindService,
	} {
		r.host.FailOn = func(op hoststate.Op) error {
			if op.Key().Kind == kind && op.Verb == hoststate.Create {
				return errors.New("no room")
			}
			return nil
		}
		err := r.Start(t.Context(), i.UUID)
		if kind == hoststate.KindSysctl && err == nil {
			continue // a sysctl is changed, not created, where the host has it
		}
		if netdef.CodeOf(err) != netdef.ErrInternal || !strings.Contains(err.Error(), "no room") {
			t.Errorf("%s: %v", kind, err)
		}
		if after := r.host.State(); len(after) != len(before) {
			t.Errorf("%s: %d objects on the host, %d before", kind, len(after), len(before))
		}
		if s, _ := r.store.Statuses(); len(s) != 0 {
			t.Errorf("%s: status %v is left", kind, s)
		}
	}
	r.host.FailOn = nil
	r.must(r.Start(t.Context(), i.UUID))
}

func TestRestartAdopts(t *testing.T) {
	r := newRig(t)
	a := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), a.UUID))
	b, err := r.Create(t.Context(), []byte(natXML("transient", 2)))
	r.must(err)
	before := len(r.host.Calls())
	r.restart()
	for _, ops := range r.host.Calls()[before:] {
		for _, op := range ops {
			if op.Key().Kind != hoststate.KindService {
				t.Errorf("restart did %s", op)
			}
		}
	}
	for _, i := range []Info{a, b} {
		now, err := r.Lookup(i.Name)
		r.must(err)
		if !now.Active || now.UUID != i.UUID {
			t.Errorf("after restart: %+v", now)
		}
	}
	r.must(r.Destroy(t.Context(), b.UUID))
	if _, err := r.Lookup("transient"); netdef.CodeOf(err) != netdef.ErrNoNetwork {
		t.Errorf("transient network after destroy: %v", err)
	}
}

// What was under way when the daemon died is gone after the next start.
func TestRestartClearsHalfBuiltNetworks(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	clean := r.host.State()
	r.must(r.Start(t.Context(), i.UUID))
	s, _ := r.store.Statuses()
	half := s[0]
	half.Next, half.Live = half.Live, ""
	r.must(r.store.PutStatus(half))
	r.restart()
	if now, _ := r.Lookup("a"); now.Active {
		t.Error("a network whose start was not finished is active")
	}
	after := r.host.State()
	for k, o := range after {
		if !hoststate.Equal(clean[k], o) {
			t.Errorf("left behind: %s", o.Text())
		}
	}
}

func TestHealsWhatOthersBreak(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	whole := r.host.State()
	bridge := hoststate.BridgeKey(i.Bridge)
	r.host.Remove(bridge)
	r.host.Emit(bridge)
	lab.Await(t, "the bridge is made again", func() bool { return len(r.host.State()) == len(whole) })
}

func TestPlug(t *testing.T) {
	r := newRig(t)
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 7, Name: "vif5.0"})
	ctx := t.Context()
	a := r.define(natXML("a", 1))
	fails := func(err error, say string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("error %v, want %q", err, say)
		}
	}
	fails(r.Plug(ctx, a.UUID, "vif5.0", 0), "network 'a' is not active")
	r.must(r.Start(ctx, a.UUID))
	fails(r.Plug(ctx, a.UUID, "vif6.0", time.Millisecond), "link 'vif6.0' does not exist")

	// Settings stay: what their values were before is put back.
	objects := func() int {
		return len(slices.DeleteFunc(r.host.State().Keys(), func(k hoststate.Key) bool { return k.Kind == hoststate.KindSysctl }))
	}
	without := objects()
	member, up := hoststate.MemberKey("vif5.0", a.Bridge), hoststate.LinkUp{Link: "vif5.0"}.Key()
	plugged := func(want bool) {
		t.Helper()
		s := r.host.State()
		_, isMember := s[member]
		_, isUp := s[up]
		if isMember != want || isUp != want {
			t.Errorf("port %t, up %t, want %t", isMember, isUp, want)
		}
	}
	for range 2 {
		r.must(r.Plug(ctx, a.UUID, "vif5.0", 0))
		plugged(true)
	}
	calls := len(r.host.Calls())
	r.restart()
	for _, ops := range r.host.Calls()[calls:] {
		for _, op := range ops {
			if op.Key() == member || op.Key() == up {
				t.Errorf("the restart did %s", op)
			}
		}
	}
	plugged(true)
	r.must(r.Destroy(ctx, a.UUID))
	plugged(false)
	r.must(r.Start(ctx, a.UUID))
	plugged(true)
	for range 2 {
		r.must(r.Unplug(ctx, "vif5.0"))
		plugged(false)
	}
	if n := objects(); n != without {
		t.Errorf("%d objects are left behind", n-without)
	}
}

// errorCases are calls that must be refused, in libvirt's words, changing nothing.
func TestRefusals(t *testing.T) {
	r := newRig(t)
	active := r.define(natXML("active", 1))
	r.must(r.Start(t.Context(), active.UUID))
	idle := r.define(natXML("idle", 2))
	transient, err := r.Create(t.Context(), []byte(natXML("transient", 3)))
	r.must(err)
	ctx := t.Context()
	define := func(xml string) error { _, err := r.Define(ctx, []byte(xml)); return err }
	create := func(xml string) error { _, err := r.Create(ctx, []byte(xml)); return err }
	with := func(xml, element string) string { return strings.Replace(xml, "</name>", "</name>"+element, 1) }
	nothing := netdef.NewUUID()

	for _, c := range []struct {
		name string
		do   func() error
		code netdef.Code
		text string
	}{
		{"start twice", func() error { return r.Start(ctx, active.UUID) }, netdef.ErrOperationInvalid, "network is already active"},
		{"destroy idle", func() error { return r.Destroy(ctx, idle.UUID) }, netdef.ErrOperationInvalid, "network 'idle' is not active"},
		{"undefine transient", func() error { return r.Undefine(ctx, transient.UUID) }, netdef.ErrOperationInvalid, "can't undefine transient network"},
		{"autostart transient", func() error { return r.SetAutostart(ctx, transient.UUID, true) }, netdef.ErrOperationInvalid, "cannot set autostart for transient network"},
		{"start nothing", func() error { return r.Start(ctx, nothing) }, netdef.ErrNoNetwork, "no network with matching uuid '" + nothing.String() + "'"},
		{"same name", func() error { return define(natXML("idle", 9)) }, netdef.ErrOperationFailed, "network 'idle' already exists with uuid " + idle.UUID.String()},
		{"same uuid", func() error { return define(with(natXML("other", 9), "<uuid>"+idle.UUID.String()+"</uuid>")) },
			netdef.ErrOperationFailed, "network 'idle' is already defined with uuid " + idle.UUID.String()},
		{"same bridge", func() error { return define(with(natXML("other", 9), "<bridge name='"+idle.Bridge+"'/>")) },
			netdef.ErrInternal, "bridge name '" + idle.Bridge + "' already in use."},
		{"create active", func() error { return create(with(natXML("active", 1), "<uuid>"+active.UUID.String()+"</uuid>")) },
			netdef.ErrOperationInvalid, "network is already active as 'active'"},
		{"subnet of the host", func() error { return create(natXML2("x", "203.0.113.129/25")) }, netdef.ErrInternal, "Network is already in use by interface eth0"},
		{"subnet around the host's", func() error { return create(natXML2("x", "203.0.0.1/16")) }, netdef.ErrInternal, "Network is already in use by interface eth0"},
		{"device as bridge", func() error { return create(with(natXML("x", 9), "<bridge name='eth0'/>")) }, netdef.ErrInternal, "bridge name 'eth0' already in use."},
		{"not applied", func() error {
			return define("<network><name>x</name><forward mode='private' dev='eth9'/><port isolated='yes'/></network>")
		},
			netdef.ErrConfigUnsupported, "<port isolated='yes'>"},
		{"broken XML", func() error { return define("<network><name>x</name>") }, netdef.ErrXMLDetail, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, list := r.host.State(), fmt.Sprint(r.Networks())
			err := c.do()
			if netdef.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("got %d %v, want %d %s", netdef.CodeOf(err), err, c.code, c.text)
			}
			if len(r.host.State()) != len(before) || fmt.Sprint(r.Networks()) != list {
				t.Error("the refusal changed something")
			}
		})
	}
}

func natXML2(name, prefix string) string {
	p := netip.MustParsePrefix(prefix)
	return fmt.Sprintf(`<network><name>%s</name><forward mode='nat'/><ip address='%s' prefix='%d'/></network>`, name, p.Addr(), p.Bits())
}

func TestBridgeNamesAreTheLowestFree(t *testing.T) {
	r := newRig(t)
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 9, Name: "virbr1"})
	var got []string
	for i := range 3 {
		got = append(got, r.define(natXML(fmt.Sprint("n", i), i)).Bridge)
	}
	if want := "[virbr0 virbr2 virbr3]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	r := newRig(t)
	s := r.Subscribe()
	defer s.Close()
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	r.must(r.Destroy(t.Context(), i.UUID))
	r.must(r.Undefine(t.Context(), i.UUID))
	for _, want := range []EventType{EventDefined, EventStarted, EventStopped, EventUndefined} {
		if ev := <-s.C; ev.Type != want || ev.Name != "a" || ev.UUID != i.UUID {
			t.Errorf("got %+v, want %s", ev, want)
		}
	}
}
