package bridgehelper

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// Helper is one run of the program that QEMU starts.
type Helper struct {
	// Args are the program's name, --br=BRIDGE, --fd=NUMBER of the socket that
	// QEMU waits at for the tap, and --use-vnet.
	Args   []string
	Socket string // of the daemon
	Errs   io.Writer
}

// Run hands QEMU a tap and returns the exit status.
func (h Helper) Run() int {
	if err := h.run(); err != nil {
		fmt.Fprintf(h.Errs, "%s: %v\n", h.Args[0], err)
		return 1
	}
	return 0
}

func (h Helper) run() error {
	flags := flag.NewFlagSet(h.Args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	bridge := flags.String("br", "", "")
	fd := flags.Int("fd", -1, "")
	vnet := flags.Bool("use-vnet", false, "")
	err := flags.Parse(h.Args[1:])
	if err != nil || *bridge == "" || *fd < 0 || flags.NArg() > 0 {
		return errors.Join(errors.New("usage: [--use-vnet] --br=BRIDGE --fd=UNIXFD"), err)
	}
	tap, err := ask(h.Socket, *bridge, *vnet)
	if err != nil {
		return fmt.Errorf("get a tap in bridge '%s': %w", *bridge, err)
	}
	if err := syscall.Sendmsg(*fd, []byte{0}, syscall.UnixRights(tap), nil, 0); err != nil {
		return fmt.Errorf("hand over the tap: %w", err)
	}
	return nil
}

// answerLimit is more than the daemon needs to plug a tap in.
const answerLimit = 20 * time.Second

// ask gets a tap from the daemon.
func ask(socket, bridge string, vnet bool) (fd int, err error) {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return 0, fmt.Errorf("is the viaduct daemon running? %w", err)
	}
	defer c.Close()
	request := bridge
	if vnet {
		request += " vnet"
	}
	if err := c.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintln(c, request); err != nil {
		return 0, err
	}
	text, rights := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4))
	n, oob, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return 0, fmt.Errorf("read the daemon's answer: %w", err)
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:oob])
	if err != nil {
		return 0, fmt.Errorf("read the daemon's answer: %w", err)
	}
	if len(messages) == 0 {
		rest, _ := io.ReadAll(io.LimitReader(c, int64(len(text))))
		return 0, errors.New(strings.TrimSpace(string(text[:n]) + string(rest)))
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("read the daemon's answer: %d files, %w", len(fds), err)
	}
	return fds[0], nil
}
