package xenstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Errno is an error that the store answered, such as "ENOENT".
type Errno string

// The answers that callers decide on.
const (
	ErrNotExist Errno = "ENOENT"
	// errConflict ends a transaction that another client was in the way of.
	errConflict Errno = "EAGAIN"
)

var errnoTexts = map[Errno]string{
	ErrNotExist: "no such key", "EACCES": "permission denied", "EINVAL": "invalid request", "ENOSPC": "quota exceeded",
}

func (e Errno) Error() string {
	if text, ok := errnoTexts[e]; ok {
		return text
	}
	return string(e)
}

// errClosed is what remains to say once the client was closed.
var errClosed = errors.New("connection is closed")

// SocketPath is where xenstored listens, by the variables that Xen's own tools
// look at.
func SocketPath(getenv func(string) string) string {
	if path := getenv("XENSTORED_PATH"); path != "" {
		return path
	}
	if dir := getenv("XENSTORED_RUNDIR"); dir != "" {
		return filepath.Join(dir, "socket")
	}
	return "/run/xenstored/socket"
}

// Client is a connection to the store. Paths that do not begin with a slash are
// below the caller's own domain. Its methods may be called concurrently.
type Client struct {
	conn transport
	done chan struct{} // closed when no more messages come

	sending sync.Mutex

	mu      sync.Mutex
	last    uint32 // the number of the last request, or watch
	waiting map[uint32]chan Message
	watches map[string]chan struct{} // by token
	err     error                    // why no more messages come
}

// Dial connects to the store.
func Dial(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		var sys *os.SyscallError
		if errors.As(err, &sys) {
			err = sys.Err
		}
		return nil, fmt.Errorf("connect to xenstore at %s: %w", socket, err)
	}
	return NewClient(conn), nil
}

// device is the kernel's way to the store, for domains without a socket of
// xenstored's: drivers/xen/xenbus/xenbus_dev_frontend.c.
const device = "/dev/xen/xenbus"

// Open connects to the store of this domain: by xenstored's socket, or where
// there is none by the kernel's device.
func Open(ctx context.Context, getenv func(string) string) (*Client, error) {
	c, err := Dial(ctx, SocketPath(getenv))
	if err == nil {
		return c, nil
	}
	if c, failed := openDevice(device); failed == nil {
		return c, nil
	} else if !errors.Is(failed, fs.ErrNotExist) {
		err = errors.Join(err, failed)
	}
	return nil, err
}

func openDevice(path string) (*Client, error) {
	// Only a file that does not block can be closed while it is read from.
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return NewClient(f), nil
}

// transport is a connection or a device file.
type transport interface {
	io.ReadWriteCloser
	SetWriteDeadline(time.Time) error
}

// NewClient makes a client of a connection that is there already.
func NewClient(conn transport) *Client {
	c := &Client{
		conn: conn, done: make(chan struct{}),
		waiting: map[uint32]chan Message{}, watches: map[string]chan struct{}{},
	}
	go c.receive()
	return c
}

// Close ends the connection, and with it open transactions and watches.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.err == nil {
		c.err = errClosed
	}
	c.mu.Unlock()
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// receive hands out messages until the connection ends.
func (c *Client) receive() {
	defer close(c.done)
	r := bufio.NewReader(c.conn)
	for {
		m, err := ReadMessage(r)
		c.mu.Lock()
		if err != nil {
			if c.err == nil {
				c.err = fmt.Errorf("lost the connection: %w", err)
			}
			for _, w := range c.watches {
				close(w)
			}
			c.watches = nil
			c.mu.Unlock()
			return
		}
		c.deliver(m)
		c.mu.Unlock()
	}
}

// deliver gives a message to whoever waits for it, if anybody still does. It
// needs c.mu and never blocks: an answer has a place of its own, and the news
// of a watch merges with what was not read yet.
func (c *Client) deliver(m Message) {
	if m.Op == OpWatchEvent {
		if news := m.Strings(); len(news) >= 2 {
			select {
			case c.watches[news[1]] <- struct{}{}:
			default:
			}
		}
		return
	}
	if answer, ok := c.waiting[m.Request]; ok {
		delete(c.waiting, m.Request)
		answer <- m
	}
}

// call sends a request and waits for its answer.
func (c *Client) call(ctx context.Context, op Op, tx uint32, payload []byte) (Message, error) {
	if len(payload) > MaxPayload {
		return Message{}, fmt.Errorf("a payload of %d octets is too long", len(payload))
	}
	answer := make(chan Message, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return Message{}, c.err
	}
	c.last++
	request := Message{Op: op, Request: c.last, Tx: tx, Payload: payload}
	c.waiting[request.Request] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, request.Request)
		c.mu.Unlock()
	}()
	if err := c.send(ctx, request); err != nil {
		return Message{}, err
	}
	select {
	case m := <-answer:
		return m, answerError(op, m)
	case <-ctx.Done():
		return Message{}, ctx.Err()
	case <-c.done:
	}
	select {
	case m := <-answer: // it was the last thing that came
		return m, answerError(op, m)
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Message{}, c.err
}

// send writes a request. One that was written in part leaves the connection
// useless.
func (c *Client) send(ctx context.Context, m Message) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	deadline, _ := ctx.Deadline()
	if err := c.conn.SetWriteDeadline(deadline); err != nil && !errors.Is(err, os.ErrNoDeadline) {
		return err
	}
	n, err := c.conn.Write(m.Append(nil))
	if err != nil && n > 0 {
		c.conn.Close()
	}
	return err
}

func answerError(op Op, m Message) error {
	switch m.Op {
	case op:
		return nil
	case OpError:
		return Errno(strings.TrimRight(string(m.Payload), "\x00"))
	}
	return fmt.Errorf("the store answers with %s", m.Op)
}

// about calls the store about a path.
func (c *Client) about(ctx context.Context, op Op, tx uint32, path string, payload []byte) (Message, error) {
	var err error
	if path == "" || len(path) > maxPath || strings.Contains(path, "\x00") {
		err = errors.New("not a path")
	}
	var m Message
	if err == nil {
		m, err = c.call(ctx, op, tx, payload)
	}
	if err != nil {
		return m, fmt.Errorf("%s %s: %w", op, path, err)
	}
	return m, nil
}

// Read returns the value of a key.
func (c *Client) Read(ctx context.Context, path string) (string, error) {
	return (&Tx{c: c}).Read(ctx, path)
}

// Write sets a key and makes the folders above it.
func (c *Client) Write(ctx context.Context, path, value string) error {
	return (&Tx{c: c}).Write(ctx, path, value)
}

// Remove deletes a key with all below it. One that is not there is fine.
func (c *Client) Remove(ctx context.Context, path string) error {
	return (&Tx{c: c}).Remove(ctx, path)
}

// List returns the names of a key's children.
func (c *Client) List(ctx context.Context, path string) ([]string, error) {
	return (&Tx{c: c}).List(ctx, path)
}

// Tx is a transaction: what it reads does not change meanwhile, and what it
// writes appears all at once.
type Tx struct {
	c  *Client
	id uint32 // 0 for none at all
}

// Read returns the value of a key.
func (t *Tx) Read(ctx context.Context, path string) (string, error) {
	m, err := t.c.about(ctx, OpRead, t.id, path, Terminated(path))
	return string(m.Payload), err
}

// Write sets a key and makes the folders above it.
func (t *Tx) Write(ctx context.Context, path, value string) error {
	_, err := t.c.about(ctx, OpWrite, t.id, path, append(Terminated(path), value...))
	return err
}

// Remove deletes a key with all below it. One that is not there is fine.
func (t *Tx) Remove(ctx context.Context, path string) error {
	_, err := t.c.about(ctx, OpRemove, t.id, path, Terminated(path))
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	return err
}

// List returns the names of a key's children.
func (t *Tx) List(ctx context.Context, path string) ([]string, error) {
	m, err := t.c.about(ctx, OpDirectory, t.id, path, Terminated(path))
	return m.Strings(), err
}

// Transaction runs do in a transaction, again each time another client was in
// the way. If do fails nothing has changed.
func (c *Client) Transaction(ctx context.Context, do func(*Tx) error) error {
	for {
		m, err := c.call(ctx, OpTransactionStart, 0, Terminated(""))
		if err != nil {
			return fmt.Errorf("%s: %w", OpTransactionStart, err)
		}
		id, err := strconv.ParseUint(strings.TrimRight(string(m.Payload), "\x00"), 10, 32)
		if err != nil {
			return fmt.Errorf("%s: the store answers %q", OpTransactionStart, m.Payload)
		}
		failed := do(&Tx{c, uint32(id)})
		verdict := "T"
		if failed != nil {
			verdict = "F"
		}
		_, err = c.call(ctx, OpTransactionEnd, uint32(id), Terminated(verdict))
		switch {
		case failed != nil:
			return failed
		case errors.Is(err, errConflict):
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", OpTransactionEnd, err)
		}
		return nil
	}
}

// Watch tells of changes at a path and below it: once at the start, and then
// at least once after the last of any number of changes. The channel closes
// when the connection ends or stop is called.
func (c *Client) Watch(ctx context.Context, path string) (changed <-chan struct{}, stop func(), err error) {
	news := make(chan struct{}, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, nil, c.err
	}
	c.last++
	token := strconv.FormatUint(uint64(c.last), 10)
	c.watches[token] = news
	c.mu.Unlock()
	forget := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.watches[token]; ok {
			delete(c.watches, token)
			close(news)
		}
	}
	if _, err := c.about(ctx, OpWatch, 0, path, Terminated(path, token)); err != nil {
		forget()
		return nil, nil, err
	}
	return news, func() {
		forget()
		// Nobody waits for the answer. Number 0 is never waited for.
		c.send(context.Background(), Message{Op: OpUnwatch, Payload: Terminated(path, token)})
	}, nil
}
