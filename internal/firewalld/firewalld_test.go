package firewalld

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"go.uber.org/goleak"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bus is a message bus with a firewalld on it that does as it is told. The real
// one is met in test/outcome.
type bus struct {
	t       *testing.T
	address string
	conn    *dbus.Conn // the firewalld's; nil while there is none

	mu     sync.Mutex
	zoneOf map[string]string
	hangs  chan struct{} // calls wait until it is closed, if it is not nil
	calls  []string
}

func newBus(t *testing.T) *bus {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs dbus-daemon: ", err)
	}
	socket := filepath.Join(t.TempDir(), "bus")
	config := filepath.Join(t.TempDir(), "bus.conf")
	text := `<busconfig><type>session</type><listen>unix:path=` + socket + `</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(program, "--config-file="+config, "--nofork", "--nopidfile")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	lab.Await(t, "the bus listens", func() bool { _, err := os.Stat(socket); return err == nil })
	return &bus{t: t, address: "unix:path=" + socket, zoneOf: map[string]string{}}
}

func (b *bus) connect(ctx context.Context) (*dbus.Conn, error) {
	return dbus.Connect(b.address, dbus.WithContext(ctx), dbus.WithSignalHandler(dbus.NewSequentialSignalHandler()))
}

func (b *bus) client() *Client {
	c := New(b.connect, slog.New(slog.DiscardHandler))
	b.t.Cleanup(c.Close)
	return c
}

// start starts the firewalld, which has no links in zones.
func (b *bus) start() {
	b.t.Helper()
	conn, err := dbus.Connect(b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.conn = conn
	b.t.Cleanup(func() { conn.Close() })
	b.mu.Lock()
	b.zoneOf = map[string]string{}
	b.mu.Unlock()
	methods := map[string]any{
		"getZones": func() ([]string, *dbus.Error) { b.wait("getZones"); return []string{"trusted", "libvirt"}, nil },
		"getActiveZones": func() (map[string]map[string][]string, *dbus.Error) {
			b.wait("getActiveZones")
			b.mu.Lock()
			defer b.mu.Unlock()
			active := map[string]map[string][]string{}
			for link, zone := range b.zoneOf {
				if active[zone] == nil {
					active[zone] = map[string][]string{}
				}
				active[zone]["interfaces"] = append(active[zone]["interfaces"], link)
			}
			return active, nil
		},
		"getZoneOfInterface": func(link string) (string, *dbus.Error) {
			b.wait("getZoneOfInterface")
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.zoneOf[link], nil
		},
		"changeZoneOfInterface": func(zone, link string) (string, *dbus.Error) {
			b.wait("changeZoneOfInterface " + zone + " " + link)
			if zone != "trusted" && zone != "libvirt" {
				return "", dbus.NewError(busName+".Exception", []any{"INVALID_ZONE: " + zone})
			}
			b.put(link, zone)
			return zone, nil
		},
		"removeInterface": func(zone, link string) (string, *dbus.Error) {
			b.wait("removeInterface " + zone + " " + link)
			b.put(link, "")
			return zone, nil
		},
	}
	if err := conn.ExportMethodTable(methods, objectPath, zones); err != nil {
		b.t.Fatal(err)
	}
	if reply, err := conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		b.t.Fatal(reply, err)
	}
}

func (b *bus) wait(call string) {
	b.mu.Lock()
	b.calls = append(b.calls, call)
	hangs := b.hangs
	b.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
}

// put puts a link into a zone, by whosever hand, and tells so.
func (b *bus) put(link, zone string) {
	b.mu.Lock()
	signal, said := ".ZoneOfInterfaceChanged", zone
	if zone == "" {
		signal, said = ".InterfaceRemoved", b.zoneOf[link]
		delete(b.zoneOf, link)
	} else {
		b.zoneOf[link] = zone
	}
	b.mu.Unlock()
	_ = b.conn.Emit(objectPath, zones+signal, said, link)
}

// hang has calls go unanswered until the function is called that it returns.
func (b *bus) hang() (end func()) {
	hangs := make(chan struct{})
	b.mu.Lock()
	b.hangs = hangs
	b.mu.Unlock()
	return func() {
		b.mu.Lock()
		b.hangs = nil
		b.mu.Unlock()
		close(hangs)
	}
}

func in(zone, link string) hoststate.Op {
	return hoststate.CreateOp(hoststate.Zoned{Link: link, Zone: zone})
}

func zoneOf(c *Client, link string) string {
	z, _ := c.Observe([]hoststate.Key{hoststate.ZonedKey(link)})[hoststate.ZonedKey(link)].(hoststate.Zoned)
	return z.Zone
}

// What firewalld has is known from when it starts, whoever changes it, until it
// ends.
func TestMirror(t *testing.T) {
	b := newBus(t)
	c := b.client()
	if c.Facts().Running {
		t.Fatal("there is none")
	}
	b.start()
	lab.Await(t, "two zones are known", func() bool { return len(c.Facts().Zones) == 2 })
	<-c.Events()
	if err := c.Apply(t.Context(), []hoststate.Op{in("libvirt", "virbr0")}); err != nil || zoneOf(c, "virbr0") != "libvirt" {
		t.Fatal(err, zoneOf(c, "virbr0"))
	}
	b.put("virbr0", "trusted")
	if keys := <-c.Events(); len(keys) != 1 || keys[0] != hoststate.ZonedKey("virbr0") || zoneOf(c, "virbr0") != "trusted" {
		t.Error(keys, zoneOf(c, "virbr0"))
	}
	b.put("virbr0", "")
	if keys := <-c.Events(); len(keys) != 1 || zoneOf(c, "virbr0") != "" {
		t.Error(keys, zoneOf(c, "virbr0"))
	}
	b.put("eth0", "trusted")
	<-c.Events()
	b.mu.Lock()
	clear(b.zoneOf)
	b.mu.Unlock()
	if err := b.conn.Emit(objectPath, busName+".Reloaded"); err != nil {
		t.Fatal(err)
	}
	if keys := <-c.Events(); len(keys) != 0 || zoneOf(c, "eth0") != "" {
		t.Error(keys, zoneOf(c, "eth0"))
	}
	b.conn.Close()
	<-c.Events()
	if c.Facts().Running {
		t.Error("it has ended")
	}
	undo := hoststate.DeleteOp(hoststate.Zoned{Link: "virbr0", Zone: "libvirt"})
	if err := c.Apply(t.Context(), []hoststate.Op{undo}); err != nil {
		t.Error(err)
	}
}

// What fails is undone, and says why.
func TestApplyIsUndone(t *testing.T) {
	b := newBus(t)
	b.start()
	c := b.client()
	c.Facts()
	err := c.Apply(t.Context(), []hoststate.Op{in("libvirt", "virbr0"), in("nowhere", "virbr1")})
	if err == nil || !strings.Contains(err.Error(), `"+ zone nowhere for virbr1"`) || !strings.Contains(err.Error(), "INVALID_ZONE: nowhere") {
		t.Error(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if zone := zoneOf(c, "virbr0"); zone != "" || len(b.zoneOf) != 0 {
		t.Errorf("virbr0 is in zone %q, %v", zone, b.zoneOf)
	}
}

// A firewalld that does not answer holds nobody up for long, however many wait,
// and keeps no network from stopping. When it answers again, all is as before.
func TestSilence(t *testing.T) {
	b := newBus(t)
	b.start()
	c := b.client()
	if len(c.Facts().Zones) != 2 {
		t.Fatal(c.Facts())
	}
	end := b.hang()
	began := time.Now()
	var waiting sync.WaitGroup
	for range 20 {
		waiting.Go(func() {
			if err := c.Apply(t.Context(), []hoststate.Op{in("libvirt", "virbr0")}); !errors.Is(err, errSilent) {
				t.Errorf("got %v", err)
			}
		})
	}
	waiting.Wait()
	stop := hoststate.DeleteOp(hoststate.Zoned{Link: "virbr0", Zone: "libvirt"})
	if err := c.Apply(t.Context(), []hoststate.Op{stop}); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*patience {
		t.Errorf("21 operations took %s", took)
	}
	end()
	lab.Await(t, "it is applied", func() bool { return c.Apply(t.Context(), []hoststate.Op{in("libvirt", "virbr0")}) == nil })
	if zone := zoneOf(c, "virbr0"); zone != "libvirt" {
		t.Errorf("in zone %q", zone)
	}
}

// A firewalld that does not say what it has counts as running, and is asked
// again until it does.
func TestSlowStart(t *testing.T) {
	b := newBus(t)
	end := b.hang()
	b.start()
	c := b.client()
	if f := c.Facts(); !f.Running || len(f.Zones) != 0 {
		t.Errorf("%+v", f)
	}
	end()
	lab.Await(t, "two zones are known", func() bool { return len(c.Facts().Zones) == 2 })
}

// Where there is no bus, nobody waits, and one that comes is found by the next
// look.
func TestNoBus(t *testing.T) {
	var b *bus
	var mu sync.Mutex
	c := New(func(ctx context.Context) (*dbus.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if b == nil {
			return nil, os.ErrNotExist
		}
		return b.connect(ctx)
	}, slog.New(slog.DiscardHandler))
	defer c.Close()
	if c.Facts().Running || c.Look().Running {
		t.Error("there is none")
	}
	there := newBus(t)
	there.start()
	mu.Lock()
	b = there
	mu.Unlock()
	lab.Await(t, "two zones are known", func() bool { return len(c.Look().Zones) == 2 })
}

// What an administrator has changed of our zone is told from what firewalld
// says of its own accord.
func TestEdited(t *testing.T) {
	p := parts("viaduct")[0]
	as := func(key string, value any) map[string]dbus.Variant {
		s := map[string]dbus.Variant{
			"short": dbus.MakeVariant("viaduct"), "description": dbus.MakeVariant(about), "target": dbus.MakeVariant("default"),
			"services": dbus.MakeVariant([]string{"tftp", "ssh", "dns", "dhcpv6", "dhcp"}), "protocols": dbus.MakeVariant([]string{"icmp", "ipv6-icmp"}),
			"masquerade": dbus.MakeVariant(false), "icmp_block_inversion": dbus.MakeVariant(false), "forward": dbus.MakeVariant(true),
			"interfaces": dbus.MakeVariant([]string{}),
		}
		if key != "" {
			s[key] = dbus.MakeVariant(value)
		}
		return s
	}
	if key := p.edited(as("", nil)); key != "" {
		t.Errorf("%s counts as edited", key)
	}
	for key, value := range map[string]any{
		"services": []string{"dns"}, "masquerade": true, "target": "ACCEPT", "short": "mine", "interfaces": []string{"eth0"},
		"ports": [][]any{{"80", "tcp"}},
	} {
		if got := p.edited(as(key, value)); got != key {
			t.Errorf("%s counts as edited, not %s", got, key)
		}
	}
}
