package xenvif

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/xenvif/hotplug"
)

// connected are the two ends of a connection.
func connected(t *testing.T) (here, there net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if here, err = net.Dial("unix", l.Addr().String()); err == nil {
		there, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { there.Close() })
	return here, there
}

// A script and a daemon that are two programs.
func TestServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	p := &ports{networks: []engine.Info{{Name: "lab", UUID: id(1), Bridge: "br0"}}, in: map[string]string{}}
	served := make(chan error)
	server := &Server{Desk: Desk{Networks: p, Settings: noSettings}, Log: slog.New(slog.DiscardHandler)}
	go func() { served <- server.Serve(ctx, l) }()
	ask := func(r hotplug.Request) hotplug.Answer {
		d, done, err := hotplug.Dial(socket, time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		return d.Do(r)
	}
	vif := hotplug.Call{Face: hotplug.FaceBridge, Command: "online", Kind: hotplug.KindVif, Link: "vif5.0", Domain: 5}
	got := ask(hotplug.Request{Call: vif, Keys: map[string]string{"bridge": "lab", "rate": "1,5"}})
	if got.Err != nil || got.MTU != 1400 || len(got.Warnings) == 0 || p.in["vif5.0"] != id(1).String() {
		t.Errorf("plugged %v, %+v", p.in, got)
	}
	// One that has given up before the daemon looks at it is left alone, and so
	// is one that does before it is done.
	gone := hotplug.Call{Face: hotplug.FaceBridge, Command: "online", Kind: hotplug.KindVif, Link: "vif6.0", Domain: 6}
	text, err := hotplug.Request{Call: gone, Keys: map[string]string{"bridge": "lab"}}.Message()
	if err != nil {
		t.Fatal(err)
	}
	for _, early := range []bool{true, false} {
		here, there := connected(t)
		here.Write(text)
		p.creating = func() { here.Close() }
		if early {
			here.Close()
			p.creating = func() { t.Error("a port is made for a script that left before") }
		}
		server.answer(there)
		if p.in["vif6.0"] != "" {
			t.Errorf("a script that left, early %v: its guest is plugged in", early)
		}
	}
	// The next script for the same interface comes after what the one that left
	// before has left behind is taken back.
	here, there := connected(t)
	here.Write(text)
	second := make(chan hotplug.Answer)
	p.creating = func() {
		p.creating = nil
		here.Close()
		go func() { second <- ask(hotplug.Request{Call: gone, Keys: map[string]string{"bridge": "lab"}}) }()
		select {
		case got := <-second:
			t.Fatalf("a second script is served while the first is: %+v", got)
		case <-time.After(50 * time.Millisecond):
		}
	}
	server.answer(there)
	if got := <-second; got.Err != nil || p.in["vif6.0"] != id(1).String() {
		t.Errorf("plugged %v, %+v", p.in, got)
	}
	gone.Command = "offline"
	if got := ask(hotplug.Request{Call: gone}); got.Err != nil || p.in["vif6.0"] != "" {
		t.Errorf("plugged %v, %+v", p.in, got)
	}

	vif.Command = "offline"
	if got := ask(hotplug.Request{Call: vif}); got.Err != nil || len(p.in) > 0 {
		t.Errorf("plugged %v, %+v", p.in, got)
	}
	vif.Command = "start"
	if got := ask(hotplug.Request{Call: vif}); got.Err == nil || !strings.Contains(got.Err.Error(), "does not understand") {
		t.Errorf("a command that is none: %+v", got)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
