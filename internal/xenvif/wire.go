package xenvif

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/peer"
	"viaduct/internal/xenvif/direct"
)

// Between script and daemon goes one message each way: fields NAME=VALUE that
// end with NUL, and another NUL for the end. That is little to take apart for a
// program that has just started.

// The limits of what a script can make the server hold.
const (
	maxMessage = 64 << 10 // octets
	maxConns   = 256
	patience   = 5 * time.Second // for a request to come, and for its answer to go
)

// keyField begins the names of fields that have a key of the store.
const keyField = "key."

type fields struct {
	text []byte
	err  error
}

// add appends a field, unless it is empty.
func (f *fields) add(name, value string) {
	switch {
	case value == "":
	case strings.Contains(value, "\x00"):
		f.err = cmp.Or(f.err, fmt.Errorf("the value of %s has an octet of zero", strings.TrimPrefix(name, keyField)))
	default:
		f.text = append(append(append(append(f.text, name...), '='), value...), 0)
	}
}

// message is what goes over the wire.
func (f *fields) message() ([]byte, error) {
	text := append(f.text, 0)
	if f.err == nil && len(text) > maxMessage {
		return nil, fmt.Errorf("a message of %d octets is too long", len(text))
	}
	return text, f.err
}

// readFields reads a message and hands out its fields.
func readFields(r io.Reader, each func(name, value string) error) error {
	limited := bufio.NewReader(io.LimitReader(r, maxMessage))
	for {
		field, err := limited.ReadBytes(0)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if len(field) == 1 {
			return nil
		}
		name, value, ok := bytes.Cut(field[:len(field)-1], []byte("="))
		if !ok {
			return fmt.Errorf("%q is no field", field)
		}
		if err := each(string(name), string(value)); err != nil {
			return err
		}
	}
}

func (r request) message() ([]byte, error) {
	var f fields
	for _, field := range [][2]string{
		{"command", r.command}, {"face", r.face}, {"kind", r.kind}, {"domain", strconv.Itoa(r.domain)}, {"device", strconv.Itoa(r.device)},
		{"link", r.link}, {"emulated", r.emulated}, {"netdev", r.netdev}, {"guest", r.guest}, {"uuid", r.guestUUID},
	} {
		f.add(field[0], field[1])
	}
	if r.unguarded {
		f.add("guard", "no")
	}
	if r.hooked {
		f.add("hooks", "yes")
	}
	for _, a := range r.resolvers {
		f.add("resolver", a)
	}
	for _, name := range keys {
		f.add(keyField+name, r.keys[name])
	}
	return f.message()
}

func readRequest(from io.Reader) (request, error) {
	r := request{keys: map[string]string{}}
	texts := map[string]*string{
		"command": &r.command, "face": &r.face, "kind": &r.kind, "link": &r.link, "emulated": &r.emulated,
		"netdev": &r.netdev, "guest": &r.guest, "uuid": &r.guestUUID,
	}
	numbers := map[string]*int{"domain": &r.domain, "device": &r.device}
	err := readFields(from, func(name, value string) (err error) {
		key, isKey := strings.CutPrefix(name, keyField)
		switch {
		case texts[name] != nil:
			*texts[name] = value
		case numbers[name] != nil:
			var n uint64
			n, err = strconv.ParseUint(value, 10, 31)
			*numbers[name] = int(n)
		case name == "guard" && value == "no":
			r.unguarded = true
		case name == "hooks" && value == "yes":
			r.hooked = true
		case name == "resolver":
			r.resolvers = append(r.resolvers, value)
		case isKey && slices.Contains(keys, key):
			r.keys[key] = value
		default:
			err = fmt.Errorf("unknown field %.100q", name)
		}
		return err
	})
	if _, known := commands[r.command]; err == nil && (!known || r.link == "") {
		err = errors.New("it has no command or no link")
	}
	return r, err
}

func (a answer) message() ([]byte, error) {
	var f fields
	f.add("mtu", strconv.Itoa(a.mtu))
	f.add("bridge", a.bridge)
	f.add("gateway", a.gateway)
	for _, w := range a.warnings {
		f.add("warning", w)
	}
	if a.err != nil {
		f.add("error", clip(strings.ReplaceAll(a.err.Error(), "\x00", " ")))
	}
	return f.message()
}

func readAnswer(from io.Reader) (a answer) {
	err := readFields(from, func(name, value string) (err error) {
		switch name {
		case "mtu":
			a.mtu, err = strconv.Atoi(value)
		case "bridge":
			a.bridge = value
		case "gateway":
			a.gateway = value
		case "warning":
			a.warnings = append(a.warnings, value)
		case "error":
			a.err = errors.New(value)
		}
		return err
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		a.err = fmt.Errorf("the viaduct daemon does not answer: %w", err)
	case err != nil:
		a.err = fmt.Errorf("read the daemon's answer: %w", err)
	}
	return a
}

// remote is a daemon in another process.
type remote struct{ conn *direct.Conn }

// Dial reaches the daemon that listens at a Unix socket. All has to be done by
// the deadline.
func Dial(socket string, deadline time.Time) (d Daemon, done func(), err error) {
	conn, err := direct.Dial(socket, deadline)
	if err != nil {
		return nil, nil, err
	}
	return remote{conn}, func() { conn.Close() }, nil
}

func (d remote) do(r request) answer {
	text, err := r.message()
	if err == nil {
		_, err = d.conn.Write(text)
	}
	if err != nil {
		return answer{err: fmt.Errorf("ask the viaduct daemon: %w", err)}
	}
	return readAnswer(d.conn)
}

// Server is the daemon's end of the scripts' socket.
type Server struct {
	Desk Desk
	Log  *slog.Logger
}

// Serve answers on l, which it closes, until ctx is done. What is being worked
// on then is finished.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return peer.Serve(ctx, l, maxConns, s.answer)
}

// errGone is what becomes of a script that has given up, or was killed: libxl
// thinks that its guest has no network, so it must not have any.
var errGone = errors.New("the script is gone")

// gone reports whether there is nobody any more at the other end.
func gone(c net.Conn) bool {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = raw.Read(func(fd uintptr) bool {
		n, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || errors.Is(err, syscall.ECONNRESET)
		return true
	})
	return closed || err != nil
}

// answer serves one script.
func (s *Server) answer(c net.Conn) {
	if c.SetReadDeadline(time.Now().Add(patience)) != nil {
		return
	}
	r, err := readRequest(c)
	var a answer
	leaves := commands[r.command].leaves
	switch {
	case err != nil:
		a.err = fmt.Errorf("the viaduct daemon does not understand its script, is one of them of another version? %w", err)
	case !leaves && gone(c):
		a.err = errGone
	default:
		a = s.Desk.do(r)
	}
	text, err := a.message()
	if err == nil && c.SetWriteDeadline(time.Now().Add(patience)) == nil {
		_, err = c.Write(text)
	}
	if err != nil && a.err == nil && !leaves {
		err = errors.Join(errGone, s.Desk.do(request{call: r.call.leaving()}).err)
	}
	if err != nil || a.err != nil {
		s.Log.Warn("a vif's script", "command", r.command, "link", r.link, "error", cmp.Or(a.err, err))
	}
}
