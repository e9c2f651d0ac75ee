package host

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a running program that need not be a child of ours. It is held by
// a file descriptor, so that another one with the same number is never meant.
type Process struct {
	fd    *os.File
	done  chan struct{}
	close func() error
}

// OpenProcess takes hold of the process with that id.
func OpenProcess(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	p := &Process{fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch process %d: %w", pid, err), p.fd.Close())
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		// A pidfd can be read from once the process has ended.
		if conn.Read(hasEnded) == nil {
			close(p.done)
		}
	})
	p.close = sync.OnceValue(func() error {
		err := p.fd.Close()
		watching.Wait()
		return err
	})
	return p, nil
}

// hasEnded reports whether a process has ended.
func hasEnded(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(poll, 0)
	return n > 0
}

// Done is closed when the process has ended, unless Close came before.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends the process a signal. One that has ended is an error.
func (p *Process) Signal(sig syscall.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	controlled := conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	return errors.Join(controlled, err)
}

// Close lets go of the process, which runs on.
func (p *Process) Close() error { return p.close() }
