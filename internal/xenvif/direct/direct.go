// Package direct has connections for programs that live for some milliseconds.
// They do without Go's own: its poller and the threads behind it take a program
// longer to set up than to say what it has to say.
package direct

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Conn is a connection to a socket, or an open device. It is for one goroutine.
type Conn struct {
	fd       int
	deadline time.Time
}

// Dial connects to a Unix socket. All that is done with the connection has to
// be done by the deadline.
func Dial(path string, deadline time.Time) (*Conn, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	c := &Conn{fd, deadline}
	if err := c.connect(path); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return c, nil
}

// connect waits for room in the queue of a server that is busy, which only a
// blocking socket does.
func (c *Conn) connect(path string) error {
	left := time.Until(c.deadline)
	if left <= 0 {
		return os.ErrDeadlineExceeded
	}
	limit := syscall.NsecToTimeval(max(left, time.Microsecond).Nanoseconds())
	if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	switch err := retry(func() error { return syscall.Connect(c.fd, &syscall.SockaddrUnix{Name: path}) }); err {
	case nil, syscall.EISCONN:
		return syscall.SetNonblock(c.fd, true)
	case syscall.EAGAIN:
		return os.ErrDeadlineExceeded
	default:
		return err
	}
}

// Open opens a device as a connection.
func Open(path string, deadline time.Time) (*Conn, error) {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Conn{fd, deadline}, nil
}

// Close ends the connection.
func (c *Conn) Close() error { return syscall.Close(c.fd) }

// Extend moves the deadline.
func (c *Conn) Extend(deadline time.Time) { c.deadline = deadline }

// Read implements io.Reader.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.move(b, syscall.Read, pollIn)
	if err == nil && n == 0 && len(b) > 0 {
		err = io.EOF
	}
	return n, err
}

// Write implements io.Writer.
func (c *Conn) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var n int
		n, err = c.move(b[done:], syscall.Write, pollOut)
		done += n
	}
	return done, err
}

// move reads or writes what it can once it can, which is what event says.
func (c *Conn) move(b []byte, do func(int, []byte) (int, error), event int16) (int, error) {
	for {
		n, err := do(c.fd, b)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			if err := c.await(event); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
	}
}

// The events of poll(2), and what it asks about.
const pollIn, pollOut = 1, 4

type pollfd struct {
	fd              int32
	events, revents int16
}

// await waits for an event until the deadline.
func (c *Conn) await(event int16) error {
	ask := pollfd{fd: int32(c.fd), events: event}
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		limit := syscall.NsecToTimespec(left.Nanoseconds())
		n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&ask)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
		switch {
		case errno != 0 && errno != syscall.EINTR:
			return errno
		case errno == 0 && n > 0:
			return nil
		}
	}
}

func retry(do func() error) error {
	for {
		if err := do(); err != syscall.EINTR {
			return err
		}
	}
}
