package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
	"viaduct/internal/lab"
	"viaduct/internal/netdef"
	"viaduct/internal/store"
)

// hosts is how many daemons die at the same time, each on a host of its own.
const hosts = 2

// TestKillAtEveryPoint: at every point, the daemon dies there during the
// script, its successor dies there too if it comes by, and the one after that
// has to have everything in order.
func TestKillAtEveryPoint(t *testing.T) {
	points := allPoints()
	var died atomic.Int64
	t.Cleanup(func() { t.Logf("%d daemons died at %d points", died.Load(), len(points)/len(times)) })
	for i := range hosts {
		t.Run(fmt.Sprint("host", i), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.died = &died
			s.learn(t)
			for j := i; j < len(points); j += hosts {
				t.Run(points[j].String(), func(t *testing.T) { s.try(t, points[j]) })
			}
		})
	}
}

// site is a host that serves one daemon after the other.
type site struct {
	*lab.Lab
	host   *lab.Host
	guest  *lab.Guest
	before string // the host without a daemon
	trials int
	died   *atomic.Int64
	// whole is how the host looks in each state of its networks that nothing disturbed.
	whole map[state]string
}

// state names a state of the networks.
type state string

func (r *trial) state(networks map[string]network) state {
	return state(fmt.Sprint(networks, r.plugged))
}

func newSite(t *testing.T) *site {
	s := &site{Lab: lab.New(t), whole: map[state]string{}}
	lab.Need(t, "ip", "nft")
	s.host = s.NewHost(lab.HostOptions{})
	s.host.SetSysctl("net.ipv4.ip_forward", "0")
	// The ports' IPv6 addresses would come and go in their own time.
	const noIPv6 = "net.ipv6.conf.default.disable_ipv6"
	s.host.SetSysctl(noIPv6, "1")
	s.guest = s.PlugGuest(s.host.Node, "", "guest")
	s.PlugGuest(s.host.Node, "", "aux")
	s.host.SetSysctl(noIPv6, "0")
	// Another firewall that wants to be told which packets are ours.
	for _, add := range [][]string{{"table", "inet", "nixos-fw"}, {"chain", "inet", "nixos-fw", "forward-allow"}} {
		if _, err := s.host.Run(t.Context(), append([]string{"nft", "add"}, add...)...); err != nil {
			t.Fatal(err)
		}
	}
	s.before = s.host.Dump()
	return s
}

// trial is the life and death of one daemon.
type trial struct {
	*testing.T
	*site
	daemon *lab.Daemon
	// whileAlive ends with the daemon.
	whileAlive context.Context
	// world is what must be so now, and told what the last step was told besides
	// its own effect.
	world world
	told  effect
	// plugged is whether the guests are plugged in, and address is what one of
	// them was given.
	plugged bool
	address netip.Addr
}

func (s *site) newTrial(t *testing.T) *trial {
	s.trials++
	return &trial{
		T: t, site: s,
		daemon: s.host.NewDaemon(binary, lab.DaemonOptions{
			Name: fmt.Sprint("daemon", s.trials), Args: []string{"--libvirt-dir", "/none"},
		}),
		world: world{Networks: map[string]network{"default": defaultNetwork}, Leases: map[string][]netip.Addr{}},
	}
}

// learn runs the script with nothing in its way.
func (s *site) learn(t *testing.T) {
	r := s.newTrial(t)
	defer r.cleanUp()
	r.must(r.daemon.Start())
	look := func() {
		lab.Eventually(t, patience, r.complete) // a port that was plugged in has just been heard of
		if state := r.state(r.world.Networks); s.whole[state] == "" {
			s.whole[state] = r.dump()
		}
	}
	look()
	r.run(look)
	r.stopAll()
}

func (s *site) try(t *testing.T, p point) {
	r := s.newTrial(t)
	defer r.cleanUp()
	if p.aged {
		r.world.Leases["house"] = []netip.Addr{address(houseHeld)}
		s.host.WriteFile(r.daemon.StateDir+"/leases/leases.journal", agedJournal(t))
	}
	r.daemon.SetEnv(fmt.Sprintf("VIADUCT_FAULT=%s:%d", p.name, p.nth))
	possible := []world{r.world}
	if r.daemon.Start() == nil {
		possible = r.run(func() {})
	}
	switch ended := r.ended(); {
	case ended, p.nth == 1 && r.dies():
		s.died.Add(1)
	case p.nth == 1:
		t.Fatalf("the daemon did not come by; it said:\n%s", r.daemon.Output())
	default:
		r.daemon.Kill9()
	}
	r.clearObstacle()

	// The successor may die while it makes things good.
	if r.daemon.Start() == nil {
		r.daemon.Kill9()
	}
	r.daemon.SetEnv()
	r.must(r.daemon.Start())
	r.inspect(possible)
	r.welcome()
	r.stopAll()
}

// ended tells whether the daemon is no more.
func (r *trial) ended() bool {
	select {
	case <-r.daemon.Process().Done():
		return true
	default:
		return false
	}
}

// dies waits for the daemon to be killed.
func (r *trial) dies() bool {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	result, err := r.daemon.Process().Wait(ctx)
	if err == nil && result.Code != -1 {
		r.Fatalf("the daemon ended with exit code %d; it said:\n%s", result.Code, r.daemon.Output())
	}
	return err == nil
}

// defaultNetwork is what the daemon makes by itself.
var defaultNetwork = network{Config: "none", Live: "none", Autostart: true}

// run runs the script until the daemon dies and returns the worlds that may be
// then: what was acknowledged, and that with the step in which it died. It
// calls after each step that was acknowledged.
func (r *trial) run(after func()) []world {
	alive, died := context.WithCancel(r.Context())
	defer died()
	r.whileAlive = alive
	process := r.daemon.Process()
	go func() {
		<-process.Done()
		died()
	}()
	for _, s := range script {
		r.told = nil
		err := s.do(r)
		next := r.world.clone()
		for _, e := range []effect{s.effect, r.told} {
			if e != nil {
				e(next)
			}
		}
		if err != nil {
			if !r.dies() {
				r.Fatalf("%s: %v", s.name, err)
			}
			return []world{r.world, next}
		}
		r.world = next
		after()
	}
	return []world{r.world}
}

// patience is how long a daemon may live on after it came by its point, and how
// long a change may take to be heard of. Other tests keep the kernel busy.
const patience = 20 * time.Second

// complete is nil when nothing is missing of any active network.
func (r *trial) complete() error {
	r.Helper()
	for _, i := range r.list() {
		if !i.Active {
			continue
		}
		if p := r.plan(i.Name); len(p) > 0 {
			return fmt.Errorf("active network %s is not complete, it lacks:\n%s", i.Name, strings.Join(p, "\n"))
		}
	}
	return nil
}

var madeUp = regexp.MustCompile(`52:54:00:[0-9a-f:]{8}|[0-9a-f]{8}-[0-9a-f-]{27}`)

// dump is the host without what is chosen at random.
func (r *trial) dump() string { return madeUp.ReplaceAllString(r.host.Dump(), "...") }

// inspect compares what is there with what may be.
func (r *trial) inspect(possible []world) {
	r.Helper()
	found := r.networks()
	if diff := difference(found, possible); diff != "" {
		r.Errorf("networks after the death (-told +found), for each possibility:\n%s", diff)
	}
	if err := r.complete(); err != nil {
		r.Error(err)
	}
	if diff := cmp.Diff(r.whole[r.state(found)], r.dump()); diff != "" {
		r.Errorf("the host has not what it should with networks %v (-should +has):\n%s", found, diff)
	}
	// Leases are never taken back while their network is there.
	for name, addrs := range possible[0].Leases {
		if _, ok := found[name]; !ok {
			continue
		}
		var listed []httpapi.Lease
		r.json(&listed, "net-dhcp-leases", name)
		for _, a := range addrs {
			if !slices.ContainsFunc(listed, func(l httpapi.Lease) bool { return l.IP == a }) {
				r.Errorf("lease of %s in %s is lost; there are %v", a, name, listed)
			}
		}
	}
	if said := lines(r.daemon.Output(), "level=ERROR"); said != "" {
		r.Errorf("the successor complains:\n%s", said)
	}
}

// welcome lets the guest come back to its network, which may have to be
// started: it is still plugged in, and has the address that it had.
func (r *trial) welcome() {
	r.Helper()
	house, ok := r.networks()["house"]
	if !ok || !r.plugged {
		return
	}
	if house.Live == "" {
		r.viaduct("net-start", "house")
	}
	for _, link := range []string{"guest", "aux"} {
		if in := r.host.Master(link); in != houseBridge {
			r.Errorf("port %s of network house is in bridge %q now", link, in)
			return
		}
	}
	seen, err := r.guest.DHCP(r.Context(), lab.Builtin)
	if err != nil {
		r.Error(err)
	} else if r.address.IsValid() && seen.Addr.Addr() != r.address {
		r.Errorf("the guest had %s and has %s now", r.address, seen.Addr.Addr())
	}
}

// lines are those of a text that have the word in them.
func lines(text, word string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found.WriteString(line)
		}
	}
	return found.String()
}

// stopAll ends all networks, after which the host must be as before.
func (r *trial) stopAll() {
	r.Helper()
	for name, n := range r.networks() {
		if n.Live != "" {
			r.viaduct("net-destroy", name)
		}
		if n.Config != "" {
			r.viaduct("net-undefine", name)
		}
	}
	if diff := cmp.Diff(r.before, r.host.Dump()); diff != "" {
		r.Errorf("the host after all networks stopped (-before +after):\n%s", diff)
	}
	if err := r.daemon.Stop(); err != nil {
		r.Error(err)
	}
	var left []string
	r.must(r.host.Do(func() error {
		for _, pattern := range []string{"/networks/*", "/networks/autostart/*", "/leases/*", "/*"} {
			for _, dir := range []string{r.daemon.ConfigDir, r.daemon.StateDir, r.daemon.RunDir} {
				found, err := filepath.Glob(dir + pattern)
				if err != nil {
					return err
				}
				left = append(left, found...)
			}
		}
		return nil
	}))
	for _, path := range left {
		if name := filepath.Base(path); strings.HasSuffix(name, ".xml") || strings.HasSuffix(name, ".tmp") {
			r.Errorf("%s is left", path)
		}
	}
}

// cleanUp makes the host fit for the next trial whatever happened.
func (r *trial) cleanUp() {
	if p := r.daemon.Process(); p != nil {
		p.Kill()
	}
	r.clearObstacle()
	r.guest.StopDHCP(context.Background())
}

func (r *trial) clearObstacle() error {
	if r.host.HasLink(obstacle) {
		r.host.DeleteLink(obstacle)
	}
	return nil
}

func (r *trial) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// viaduct runs a command that must succeed and returns what it printed.
func (r *trial) viaduct(args ...string) string {
	r.Helper()
	result, err := r.daemon.Viaduct(r.Context(), args...)
	if err != nil {
		r.Fatalf("%v\nthe daemon said:\n%s", err, r.daemon.Output())
	}
	return result.Stdout
}

func (r *trial) json(into any, args ...string) {
	r.Helper()
	r.must(json.Unmarshal([]byte(r.viaduct(append(args, "-o", "json")...)), into))
}

func (r *trial) list() []engine.Info {
	r.Helper()
	var infos []engine.Info
	r.json(&infos, "net-list", "--all")
	return infos
}

func (r *trial) plan(name string) []string {
	r.Helper()
	var p httpapi.Plan
	r.json(&p, "plan", name)
	return p.Operations
}

// networks are those that the daemon knows.
func (r *trial) networks() map[string]network {
	r.Helper()
	found := map[string]network{}
	for _, i := range r.list() {
		n := network{Autostart: i.Autostart}
		if i.Persistent {
			n.Config = domain(r.viaduct("net-dumpxml", "--inactive", i.Name))
		}
		if i.Active {
			n.Live = domain(r.viaduct("net-dumpxml", i.Name))
		}
		var ports []engine.Port
		r.json(&ports, "port-list", i.Name)
		for _, p := range ports {
			if p.Origin == engine.OriginTap {
				n.Tap += p.Link
			}
		}
		found[i.Name] = n
	}
	return found
}

var domainElement = regexp.MustCompile(`<domain name='(\w+)'`)

// domain is what tells definitions apart.
func domain(xml string) string {
	if m := domainElement.FindStringSubmatch(xml); m != nil {
		return m[1]
	}
	return "none"
}

// agedJournal is a journal with one lease that was renewed so often that the
// next one has it compacted, and with an unfinished record.
func agedJournal(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := store.OpenJournal(path, store.JournalOptions{CompactMin: 1 << 30, UnsafeNoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	id, err := netdef.ParseUUID(houseUUID)
	if err != nil {
		t.Fatal(err)
	}
	held := netdef.Lease{Network: id, Addr: address(houseHeld), PrefixLen: 24, MAC: netdef.MAC{2, 0, 0, 0, 0, 1}}
	for i := range 1100 {
		held.Hostname = fmt.Sprint("old", i)
		j.Append(store.LeaseChange{Lease: held}, nil)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content) + `0123abcd {"net`
}
