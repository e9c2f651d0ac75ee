package direct

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

// What is larger than the socket's queues arrives whole, both ways.
func TestBothWays(t *testing.T) {
	l, path := listen(t)
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := Dial(path, time.Now().Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("a guest ", 1<<17)
	sent := make(chan error, 1)
	go func() { // the only use by two goroutines: one only reads, one only writes
		_, err := c.Write([]byte(text))
		sent <- errors.Join(err, syscall.Shutdown(c.fd, syscall.SHUT_WR))
	}()
	got, err := io.ReadAll(c)
	if err := errors.Join(err, <-sent); err != nil || string(got) != text {
		t.Errorf("%d octets came back of %d, %v", len(got), len(text), err)
	}
}

func TestDeadline(t *testing.T) {
	l, path := listen(t)
	c, err := Dial(path, time.Now().Add(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read where nothing comes: %v", err)
	}
	if _, err := c.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write where nobody reads: %v", err)
	}
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	c.Extend(time.Now().Add(time.Minute))
	if _, err := other.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("read after the deadline was moved: %d, %v", n, err)
	}
	if _, err := Dial(path, time.Now()); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("connect after the deadline: %v", err)
	}
}

// A server that does not accept is waited for, until the deadline.
func TestFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err == nil {
		defer syscall.Close(fd)
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		c, err := Dial(path, time.Now().Add(50*time.Millisecond))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	t.Error("a queue of one took ten connections")
}

func TestNobodyThere(t *testing.T) {
	if _, err := Dial(filepath.Join(t.TempDir(), "socket"), time.Now().Add(time.Minute)); err != syscall.ENOENT {
		t.Errorf("connect to nothing: %v", err)
	}
	l, path := listen(t)
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Dial(path, time.Now().Add(time.Minute)); err != syscall.ECONNREFUSED {
		t.Errorf("connect to what nobody listens at: %v", err)
	}
}
