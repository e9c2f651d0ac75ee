package xenstore

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"viaduct/internal/xenvif/direct"
)

// answering is a store that answers each request as said, and nothing once that
// says false.
func answering(t *testing.T, answer func(Message) (Message, bool)) *Brief {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		for {
			m, err := ReadMessage(c)
			if err != nil {
				return
			}
			m, more := answer(m)
			if !more {
				return
			}
			c.Write(m.Append(nil))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	b, err := OpenBrief(func(name string) string { return map[string]string{"XENSTORED_PATH": socket}[name] }, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func refusal(m Message, e Errno) (Message, bool) {
	m.Op, m.Payload = OpError, Terminated(string(e))
	return m, true
}

func TestBriefReads(t *testing.T) {
	b := answering(t, func(m Message) (Message, bool) {
		switch path := m.Strings()[0]; path {
		case "absent":
			return refusal(m, ErrNotExist)
		case "secret":
			return refusal(m, "EACCES")
		case "odd":
			m.Op = OpWrite
		default:
			m.Payload = []byte("value of " + path)
		}
		return m, true
	})
	for range 2 {
		got, err := b.ReadAll("a", "absent", "b", "secret", "c")
		if want := []string{"value of a", "", "value of b", "", "value of c"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	if _, err := b.ReadAll("a", ""); err == nil || !strings.Contains(err.Error(), "not a path") {
		t.Errorf("read of no path: %v", err)
	}
	if _, err := b.ReadAll("odd"); err == nil || !strings.Contains(err.Error(), "the store answers with write") {
		t.Errorf("read that is answered with something else: %v", err)
	}
}

func TestBriefChanges(t *testing.T) {
	var seen []string
	b := answering(t, func(m Message) (Message, bool) {
		seen = append(seen, m.Op.String()+" "+strings.ReplaceAll(string(m.Payload), "\x00", " "))
		switch m.Strings()[0] {
		case "absent":
			return refusal(m, ErrNotExist)
		case "theirs":
			return refusal(m, "EACCES")
		}
		return m, true
	})
	if err := b.Change(Change{Path: "absent", Remove: true}, Change{Path: "a", Value: "1"}); err != nil {
		t.Errorf("change: %v", err)
	}
	err := b.Change(Change{Path: "theirs", Value: "2"}, Change{Path: "b", Value: "3"})
	if err == nil || err.Error() != "write theirs: permission denied" {
		t.Errorf("refused change: %v", err)
	}
	if want := []string{"remove absent ", "write a 1", "write theirs 2", "write b 3"}; !slices.Equal(seen, want) {
		t.Errorf("the store was asked to %q, want %q", seen, want)
	}
	if err := b.Change(Change{Path: "a", Value: strings.Repeat("v", MaxPayload)}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("write of too long a value: %v", err)
	}
}

func TestBriefLosesTheStore(t *testing.T) {
	b := answering(t, func(m Message) (Message, bool) { return m, m.Strings()[0] != "end" })
	if _, err := b.ReadAll("a", "end", "b"); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read from a store that ended: %v", err)
	}
	b = answering(t, func(m Message) (Message, bool) { m.Request++; return m, true })
	if _, err := b.ReadAll("a"); err == nil || !strings.Contains(err.Error(), "answers request 2") {
		t.Errorf("read with somebody else's answer: %v", err)
	}
}

// As TestDevice.
func TestBriefDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xenbus")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	conn, err := direct.Open(path, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	b := newBrief(conn, true)
	defer b.Close()
	if got, err := b.ReadAll("name", "other"); err != nil || !slices.Equal(got, []string{"name\x00", "other\x00"}) {
		t.Errorf("read %q, %v", got, err)
	}
}
