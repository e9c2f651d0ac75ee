package xenvif

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"viaduct/internal/engine"
)

var wholeRequest = request{
	call: call{face: faceNAT, command: "online", kind: kindVif, link: "vif5.0", domain: 5, device: 1, emulated: "vif5.1-emu", netdev: "eth0"},
	keys: map[string]string{"bridge": "br0", "ip": "10.0.0.1 10.0.0.2", "mac": "00:16:3e:00:00:01"}, guest: "g=1", guestUUID: "0-1",
	unguarded: true, resolvers: []string{"192.0.2.1", "192.0.2.2"},
}

func TestMessages(t *testing.T) {
	text, err := wholeRequest.message()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readRequest(bytes.NewReader(text)); err != nil || !reflect.DeepEqual(got, wholeRequest) {
		t.Errorf("read %+v, %v\nof %+v", got, err, wholeRequest)
	}
	said := answer{mtu: 1400, warnings: []string{"one", "two"}, err: errors.New("no room")}
	if text, err = said.message(); err != nil {
		t.Fatal(err)
	}
	if got := readAnswer(bytes.NewReader(text)); !reflect.DeepEqual(got, said) {
		t.Errorf("read %+v\nof %+v", got, said)
	}
	for want, r := range map[string]request{
		"octet of zero": {keys: map[string]string{"bridge": "a\x00guard=no"}},
		"too long":      {guest: strings.Repeat("g", maxMessage)},
	} {
		if _, err := r.message(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, text := range map[string]string{
		"unexpected EOF":   "command=online\x00link=vif5.0\x00",
		"no field":         "online\x00\x00",
		"unknown field":    "command=online\x00link=vif5.0\x00key.script=x\x00\x00",
		"invalid syntax":   "command=online\x00link=vif5.0\x00domain=-1\x00\x00",
		"no command or no": "command=start\x00link=vif5.0\x00\x00",
	} {
		if r, err := readRequest(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v, want %s", text, r, err, want)
		}
	}
}

func FuzzMessages(f *testing.F) {
	text, _ := wholeRequest.message()
	f.Add(text)
	text, _ = answer{mtu: 1400, warnings: []string{"one"}, err: errors.New("no room")}.message()
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		readAnswer(bytes.NewReader(text))
		r, err := readRequest(bytes.NewReader(text))
		if err != nil {
			return
		}
		again, err := r.message()
		if err != nil {
			t.Fatalf("%+v cannot be said: %v", r, err)
		}
		if got, err := readRequest(bytes.NewReader(again)); err != nil || got.call != r.call || got.guest != r.guest {
			t.Errorf("read %+v, %v\nof %+v", got, err, r)
		}
	})
}

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
	go func() {
		served <- (&Server{Desk: Desk{Networks: p, Settings: noSettings}, Log: slog.New(slog.DiscardHandler)}).Serve(ctx, l)
	}()
	ask := func(r request) answer {
		d, done, err := Dial(socket, time.Now().Add(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		return d.do(r)
	}
	vif := call{face: faceBridge, command: "online", kind: kindVif, link: "vif5.0", domain: 5}
	got := ask(request{call: vif, keys: map[string]string{"bridge": "lab", "rate": "1,5"}})
	if got.err != nil || got.mtu != 1400 || len(got.warnings) == 0 || p.in["vif5.0"] != id(1).String() {
		t.Errorf("plugged %v, %+v", p.in, got)
	}
	// One that has given up before the daemon looks at it is left alone, and so
	// is one that does before it is done.
	gone := call{face: faceBridge, command: "online", kind: kindVif, link: "vif6.0", domain: 6}
	text, err := request{call: gone, keys: map[string]string{"bridge": "lab"}}.message()
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
		(&Server{Desk: Desk{Networks: p, Settings: noSettings}, Log: slog.New(slog.DiscardHandler)}).answer(there)
		if p.in["vif6.0"] != "" {
			t.Errorf("a script that left, early %v: its guest is plugged in", early)
		}
	}
	p.creating = nil

	vif.command = "offline"
	if got := ask(request{call: vif}); got.err != nil || len(p.in) > 0 {
		t.Errorf("plugged %v, %+v", p.in, got)
	}
	vif.command = "start"
	if got := ask(request{call: vif}); got.err == nil || !strings.Contains(got.err.Error(), "does not understand") {
		t.Errorf("a command that is none: %+v", got)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
