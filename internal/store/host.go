package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
)

// hostFormat is the version of host.json.
const hostFormat = 1

// maxHost is the largest host.json that is read, in bytes.
const maxHost = 4 << 20

// HostState is what must be known about the host that its kernel cannot tell.
// It ends when the host goes down.
type HostState struct {
	// Format and BootID are filled in by UpdateHost.
	Format int    `json:"format"`
	BootID string `json:"bootId"`

	// Sysctls are the settings of the host that were changed, by their path
	// below /proc/sys.
	Sysctls map[string]SysctlRecord `json:"sysctls,omitempty"`
	// Autostarted is whether the networks that start with the host were started.
	Autostarted bool `json:"autostarted,omitempty"`
	// FilterBindings are the XML of the links that are bound to a packet filter.
	FilterBindings []string `json:"filterBindings,omitempty"`
}

// SysctlRecord says what a setting was before it was Set, so that it can be
// put back if it still is what it was set to.
type SysctlRecord struct {
	Old string `json:"old"`
	Set string `json:"set"`
}

func (h HostState) clone() HostState {
	h.Sysctls, h.FilterBindings = maps.Clone(h.Sysctls), slices.Clone(h.FilterBindings)
	if h.Sysctls == nil {
		h.Sysctls = map[string]SysctlRecord{}
	}
	return h
}

// Host returns the host's state. Its maps are the caller's own, never nil.
func (s *Store) Host() HostState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.host.clone()
}

// UpdateHost changes the host's state: it hands a copy to change and writes
// the result. Updates come one after the other; change must not call the store.
func (s *Store) UpdateHost(change func(*HostState)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.host.clone()
	change(&next)
	next.Format, next.BootID = hostFormat, s.bootID
	if err := s.putRunFile(hostFile, s.paths.host, next); err != nil {
		return fmt.Errorf("write state of the host: %w", err)
	}
	s.host = next
	s.watch.publish(KindHost, "")
	return nil
}

// AutostartedThisBoot reports whether MarkAutostarted was called since the
// host came up.
func (s *Store) AutostartedThisBoot() bool { return s.Host().Autostarted }

// MarkAutostarted remembers that the networks that start with the host were
// started, so that one which was stopped since stays so when the daemon restarts.
func (s *Store) MarkAutostarted() error {
	return s.UpdateHost(func(h *HostState) { h.Autostarted = true })
}

// loadHost reads host.json. It is written by rename alone: where it cannot be
// read at all, the power was cut, and nothing in it would still be true.
func (s *Store) loadHost() error {
	b, err := readFile(s.paths.host, maxHost)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &FileError{Path: s.paths.host, Err: err}
	}
	var h HostState
	err = decodeVersioned(s.paths.host, b, hostFormat, &h)
	var newer *FormatError
	switch {
	case errors.As(err, &newer):
		return err
	case err != nil:
		aside := s.paths.host + ".damaged"
		s.log.Warn("the state of the host is unreadable, starting without it", "path", s.paths.host, "kept", aside, "error", err)
		return os.Rename(s.paths.host, aside)
	case h.BootID != s.bootID:
		s.log.Info("dropped the state of the host from before it went down")
		return nil
	}
	s.host = h
	return nil
}
