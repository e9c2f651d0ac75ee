package xenstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"viaduct/internal/xenvif/xenstore"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// store starts a server and returns a client that is connected to it.
func store(t *testing.T) (*xenstoretest.Server, *xenstore.Client) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	must(t, err)
	s := xenstoretest.Serve(l)
	t.Cleanup(s.Close)
	c, err := xenstore.Dial(t.Context(), socket)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return s, c
}

func TestKeys(t *testing.T) {
	s, c := store(t)
	ctx := t.Context()
	must(t, c.Write(ctx, "backend/vif/5/0/bridge", "br0"))
	if got := s.Get("/local/domain/0/backend/vif/5/0/bridge"); got != "br0" {
		t.Errorf("a relative path led to %q", got)
	}
	must(t, c.Write(ctx, "backend/vif/5/0/mac", ""))
	names, err := c.List(ctx, "/local/domain/0/backend/vif/5/0")
	if err != nil || !slices.Equal(names, []string{"bridge", "mac"}) {
		t.Errorf("list: %q, %v", names, err)
	}
	if names, err := c.List(ctx, "backend/vif/5/0/mac"); err != nil || len(names) != 0 {
		t.Errorf("list of a key without children: %q, %v", names, err)
	}
	must(t, c.Remove(ctx, "backend/vif/5"))
	must(t, c.Remove(ctx, "backend/vif/5"))
	_, err = c.Read(ctx, "backend/vif/5/0/bridge")
	if !errors.Is(err, xenstore.ErrNotExist) || err.Error() != "read backend/vif/5/0/bridge: no such key" {
		t.Errorf("read of a removed key: %v", err)
	}
	for _, bad := range []string{"", "a\x00b", strings.Repeat("/x", 2000)} {
		if err := c.Write(ctx, bad, "v"); err == nil || !strings.Contains(err.Error(), "not a path") {
			t.Errorf("write to %.10q: %v", bad, err)
		}
	}
	if err := c.Write(ctx, "a", strings.Repeat("v", xenstore.MaxPayload)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("write of too long a value: %v", err)
	}
}

// Concurrent transactions that read and write the same key lose nothing.
func TestTransactions(t *testing.T) {
	s, c := store(t)
	ctx := t.Context()
	s.Set("n", "")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				err := c.Transaction(ctx, func(tx *xenstore.Tx) error {
					v, err := tx.Read(ctx, "n")
					if err != nil {
						return err
					}
					return tx.Write(ctx, "n", v+"x")
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Get("n"); len(got) != 20 {
		t.Errorf("%d of 20 changes stand", len(got))
	}
	refused := errors.New("refused")
	err := c.Transaction(ctx, func(tx *xenstore.Tx) error {
		must(t, tx.Remove(ctx, "n"))
		return refused
	})
	if !errors.Is(err, refused) || s.Get("n") == "" {
		t.Errorf("a transaction that failed: %v, the key is %q", err, s.Get("n"))
	}
}

func TestWatch(t *testing.T) {
	s, c := store(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	changed, stop, err := c.Watch(ctx, "backend/vif")
	must(t, err)
	await := func(what string) {
		t.Helper()
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("no news of %s", what)
		}
	}
	await("the watch itself")
	s.Set("backend/vif/5/0/rate", "1,2")
	await("a change below")
	must(t, c.Transaction(ctx, func(tx *xenstore.Tx) error { return tx.Write(ctx, "backend/vif/5/0/rate", "3,4") }))
	await("a transaction")
	stop()
	if _, open := <-changed; open {
		t.Error("news after the end")
	}
	changed, _, err = c.Watch(ctx, "backend/vif")
	must(t, err)
	s.Close()
	for range changed {
	}
	if _, _, err := c.Watch(ctx, "x"); err == nil || !strings.Contains(err.Error(), "lost the connection") {
		t.Errorf("watch without a store: %v", err)
	}
}

// A store that does not answer, or answers nonsense, holds nobody up.
func TestBadStores(t *testing.T) {
	dial := func(t *testing.T, answer func(xenstore.Message) []byte) *xenstore.Client {
		t.Helper()
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
		must(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				m, err := xenstore.ReadMessage(conn)
				if err != nil {
					return
				}
				conn.Write(answer(m))
			}
		})
		c, err := xenstore.Dial(t.Context(), l.Addr().String())
		must(t, err)
		t.Cleanup(func() { c.Close(); l.Close(); wg.Wait() })
		return c
	}
	for _, tt := range []struct {
		name   string
		answer func(xenstore.Message) []byte
		say    string
	}{
		{"silent", func(xenstore.Message) []byte { return nil }, "deadline exceeded"},
		{"answers another", func(m xenstore.Message) []byte { m.Request++; return m.Append(nil) }, "deadline exceeded"},
		{"other type", func(m xenstore.Message) []byte { m.Op = xenstore.OpWrite; return m.Append(nil) }, "the store answers with write"},
		{"unknown error", func(m xenstore.Message) []byte {
			m.Op, m.Payload = xenstore.OpError, xenstore.Terminated("EISDIR")
			return m.Append(nil)
		}, "EISDIR"},
		{"too long", func(m xenstore.Message) []byte {
			b := m.Append(nil)
			binary.NativeEndian.PutUint32(b[12:], xenstore.MaxPayload+1)
			return b
		}, "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, tt.answer)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := c.Read(ctx, "x"); err == nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("error %v, want %q", err, tt.say)
			}
		})
	}
	if _, err := xenstore.Dial(t.Context(), "/nowhere/socket"); err == nil || err.Error() != "connect to xenstore at /nowhere/socket: no such file or directory" {
		t.Errorf("no store: %v", err)
	}
}

func TestSocketPath(t *testing.T) {
	for _, tt := range []struct{ path, dir, want string }{
		{"", "", "/run/xenstored/socket"},
		{"", "/x", "/x/socket"},
		{"/y", "/x", "/y"},
	} {
		env := map[string]string{"XENSTORED_PATH": tt.path, "XENSTORED_RUNDIR": tt.dir}
		if got := xenstore.SocketPath(func(name string) string { return env[name] }); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// FuzzReadMessage reads whatever comes, and what it made sense of comes out
// again as it went in.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add(xenstore.Message{Op: xenstore.OpRead, Request: 1, Payload: xenstore.Terminated("a/b")}.Append(nil))
	f.Add(xenstore.Message{Op: xenstore.OpWatchEvent, Payload: xenstore.Terminated("a", "1")}.Append(nil))
	f.Add(xenstore.Message{Op: 99, Payload: bytes.Repeat([]byte{'x'}, xenstore.MaxPayload)}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var again []byte
		for {
			m, err := xenstore.ReadMessage(r)
			if err != nil {
				break
			}
			m.Strings()
			_ = fmt.Sprint(m.Op)
			again = m.Append(again)
		}
		if !bytes.HasPrefix(data, again) {
			t.Errorf("read %x, which is no part of %x", again, data)
		}
	})
}

// FuzzClient gives a client whatever a store may answer.
func FuzzClient(f *testing.F) {
	f.Add(xenstore.Message{Op: xenstore.OpRead, Request: 1, Payload: []byte("br0")}.Append(nil))
	f.Add(xenstore.Message{Op: xenstore.OpError, Request: 1, Payload: []byte("ENOENT\x00")}.Append(nil))
	f.Add(xenstore.Message{Op: xenstore.OpWatchEvent, Payload: []byte("a\x00")}.Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer theirs.Close()
			if _, err := xenstore.ReadMessage(theirs); err == nil {
				theirs.Write(data)
			}
		})
		c := xenstore.NewClient(ours)
		c.Read(t.Context(), "a")
		c.Close()
		wg.Wait()
	})
}
