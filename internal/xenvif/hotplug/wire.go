package hotplug

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/xenvif/direct"
)

// Between script and daemon goes one message each way: fields NAME=VALUE that
// end with NUL, and another NUL for the end. That is little to take apart for a
// program that has just started.

// maxMessage is how much a message has at most, in octets.
const maxMessage = 64 << 10

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

// Message is the request as it goes to the daemon.
func (r Request) Message() ([]byte, error) {
	var f fields
	for _, field := range [][2]string{
		{"command", r.Command}, {"face", r.Face}, {"kind", r.Kind}, {"domain", strconv.Itoa(r.Domain)}, {"device", strconv.Itoa(r.Device)},
		{"link", r.Link}, {"emulated", r.Emulated}, {"netdev", r.Netdev}, {"guest", r.Guest}, {"uuid", r.GuestUUID},
	} {
		f.add(field[0], field[1])
	}
	if r.Unguarded {
		f.add("guard", "no")
	}
	if r.Hooked {
		f.add("hooks", "yes")
	}
	for _, a := range r.Resolvers {
		f.add("resolver", a)
	}
	for _, name := range Keys {
		f.add(keyField+name, r.Keys[name])
	}
	return f.message()
}

// ReadRequest reads what a script asks for.
func ReadRequest(from io.Reader) (Request, error) {
	r := Request{Keys: map[string]string{}}
	texts := map[string]*string{
		"command": &r.Command, "face": &r.Face, "kind": &r.Kind, "link": &r.Link, "emulated": &r.Emulated,
		"netdev": &r.Netdev, "guest": &r.Guest, "uuid": &r.GuestUUID,
	}
	numbers := map[string]*int{"domain": &r.Domain, "device": &r.Device}
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
			r.Unguarded = true
		case name == "hooks" && value == "yes":
			r.Hooked = true
		case name == "resolver":
			r.Resolvers = append(r.Resolvers, value)
		case isKey && slices.Contains(Keys, key):
			r.Keys[key] = value
		default:
			err = fmt.Errorf("unknown field %.100q", name)
		}
		return err
	})
	if _, known := commands[r.Command]; err == nil && (!known || r.Link == "") {
		err = errors.New("it has no command or no link")
	}
	return r, err
}

// Message is the answer as it goes to the script.
func (a Answer) Message() ([]byte, error) {
	var f fields
	f.add("mtu", strconv.Itoa(a.MTU))
	f.add("bridge", a.Bridge)
	f.add("gateway", a.Gateway)
	for _, w := range a.Warnings {
		f.add("warning", w)
	}
	if a.Err != nil {
		f.add("error", clip(strings.ReplaceAll(a.Err.Error(), "\x00", " ")))
	}
	return f.message()
}

func readAnswer(from io.Reader) (a Answer) {
	err := readFields(from, func(name, value string) (err error) {
		switch name {
		case "mtu":
			a.MTU, err = strconv.Atoi(value)
		case "bridge":
			a.Bridge = value
		case "gateway":
			a.Gateway = value
		case "warning":
			a.Warnings = append(a.Warnings, value)
		case "error":
			a.Err = errors.New(value)
		}
		return err
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		a.Err = fmt.Errorf("the viaduct daemon does not answer: %w", err)
	case err != nil:
		a.Err = fmt.Errorf("read the daemon's answer: %w", err)
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

func (d remote) Do(r Request) Answer {
	text, err := r.Message()
	if err == nil {
		_, err = d.conn.Write(text)
	}
	if err != nil {
		return Answer{Err: fmt.Errorf("ask the viaduct daemon: %w", err)}
	}
	return readAnswer(d.conn)
}
