package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"viaduct/internal/engine"
	"viaduct/internal/httpapi"
	"viaduct/internal/httpapi/apitest"
	"viaduct/internal/netdef"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"viaduct": func() { os.Exit(Main(os.Args)) },
	})
}

// TestScripts runs the real command line against the real API in front of a
// fake engine. What is printed is compared to the byte; set
// VIADUCT_UPDATE_GOLDEN to write it anew.
func TestScripts(t *testing.T) {
	t.Run("script", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:           "testdata/script",
			UpdateScripts: os.Getenv("VIADUCT_UPDATE_GOLDEN") != "",
			Setup:         setup,
			Cmds: map[string]func(*testscript.TestScript, bool, []string){
				"lease": lease, "planned": planned, "reloads": reloads, "subscribed": subscribed, "drop-events": dropEvents,
			},
		})
	})
	goleak.VerifyNone(t)
}

type fakeKey struct{}

// setup starts a daemon for the script.
func setup(env *testscript.Env) error {
	f := apitest.New()
	f.Subscribed = make(chan struct{}, 16)
	env.Values[fakeKey{}] = f
	socket, err := startServer(f, env.WorkDir, env.Defer)
	env.Setenv(socketVariable, socket)
	env.Setenv("TZ", "UTC")
	env.Setenv("TMPDIR", env.WorkDir)
	env.Setenv("VISUAL", "")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
	return err
}

func startServer(f *apitest.Fake, dir string, atEnd func(func())) (socket string, err error) {
	socket = filepath.Join(dir, "viaduct.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() {
		s := &httpapi.Server{API: f, Version: "1.2.3", Log: slog.New(slog.DiscardHandler)}
		served <- s.Serve(ctx, l)
	}()
	atEnd(func() {
		stop()
		<-served
	})
	return socket, nil
}

func fakeOf(ts *testscript.TestScript) *apitest.Fake { return ts.Value(fakeKey{}).(*apitest.Fake) }

func networkOf(ts *testscript.TestScript, name string) engine.Info {
	info, err := fakeOf(ts).Lookup(name)
	ts.Check(err)
	return info
}

// lease NETWORK MAC IP/PREFIX HOSTNAME CLIENTID EXPIRY ... gives a network
// leases; "-" is for nothing.
func lease(ts *testscript.TestScript, _ bool, args []string) {
	info := networkOf(ts, args[0])
	var leases []netdef.Lease
	for a := args[1:]; len(a) >= 5; a = a[5:] {
		mac, err := netdef.ParseMAC(a[0])
		ts.Check(err)
		prefix := netip.MustParsePrefix(a[1])
		l := netdef.Lease{MAC: mac, Addr: prefix.Addr(), PrefixLen: prefix.Bits()}
		if a[2] != "-" {
			l.Hostname = a[2]
		}
		if a[3] != "-" {
			l.ClientID, err = hex.DecodeString(a[3])
			ts.Check(err)
		}
		if a[4] != "-" {
			l.Expiry, err = time.Parse(time.RFC3339, a[4])
			ts.Check(err)
		}
		leases = append(leases, l)
	}
	fakeOf(ts).SetLeases(info.UUID, leases...)
}

// planned NETWORK FILE makes the file what `viaduct plan` is answered.
func planned(ts *testscript.TestScript, _ bool, args []string) {
	fakeOf(ts).SetPlan(networkOf(ts, args[0]).UUID, ts.ReadFile(args[1]))
}

// reloads +NAME ~NAME -NAME FILE=ERROR ... makes what `viaduct reload` is answered.
func reloads(ts *testscript.TestScript, _ bool, args []string) {
	var r engine.ReloadReport
	for _, a := range args {
		file, text, failed := strings.Cut(a, "=")
		switch {
		case failed:
			r.Failed = append(r.Failed, engine.ReloadFailure{File: file, Error: text})
		case a[0] == '+':
			r.Added = append(r.Added, a[1:])
		case a[0] == '~':
			r.Changed = append(r.Changed, a[1:])
		default:
			r.Removed = append(r.Removed, a[1:])
		}
	}
	fakeOf(ts).SetReport(r)
}

// subscribed waits until a reader of events is there.
func subscribed(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-fakeOf(ts).Subscribed:
	case <-time.After(30 * time.Second):
		ts.Fatalf("nobody reads events")
	}
}

// drop-events ends the streams of all readers.
func dropEvents(ts *testscript.TestScript, _ bool, _ []string) { fakeOf(ts).DropReaders() }

func TestTable(t *testing.T) {
	tb := table{header: []string{"Name", "Title"}}
	tb.add("ürban", "a")
	tb.add("x", "evil\x1b[2J\n\xff")
	var out strings.Builder
	if err := tb.print(&out); err != nil {
		t.Fatal(err)
	}
	want := " Name    Title\n" +
		"------------------------------\n" +
		" ürban   a\n" +
		" x       evil\\x1b[2J\\x0a\\xff\n"
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}

// Manual pages exist for everything that help shows, and groff has nothing to
// complain about (where it is installed).
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	var out, errs strings.Builder
	a := &app{in: strings.NewReader(""), out: &out, errs: &errs}
	if status := a.run(t.Context(), []string{"man-pages", dir}); status != 0 {
		t.Fatal(errs.String())
	}
	for _, v := range verbs() {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf("viaduct-%s.1", v.name)))
		if v.hidden != errors.Is(err, os.ErrNotExist) {
			t.Errorf("page of %s: %v", v.name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "viaduct-net-event.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		".TH \"VIADUCT\\-NET\\-EVENT\" \"1\"", "viaduct net\\-event [OPTIONS] [NETWORK] [EVENT]\n",
		".TP\n.B \"\\-\\-timeout SECONDS\"\nend after SECONDS\n",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("page lacks %q:\n%s", want, text)
		}
	}
}
