package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// engineLock is a held lock. The file stays when it is released: removing it
// would let two engines hold locks on two files of the same name.
type engineLock struct{ f *os.File }

// lockEngine takes the lock and writes our pid for whoever comes second.
func lockEngine(path string) (*engineLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open engine lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Path: path, PID: readPID(f)}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	pid := strconv.AppendInt(nil, int64(os.Getpid()), 10)
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(append(pid, '\n'), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", path, err), f.Close())
	}
	return &engineLock{f}, nil
}

func (l *engineLock) release() error { return l.f.Close() }

// readPID is the pid in a lock file, 0 if there is none yet.
func readPID(f *os.File) int {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
