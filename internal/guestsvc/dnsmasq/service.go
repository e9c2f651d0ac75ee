package dnsmasq

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"viaduct/internal/guestsvc/leases"
	"viaduct/internal/host"
	"viaduct/internal/netdef"
)

// Deps is what a service needs from others.
type Deps struct {
	// Leases is the table that a network's leases are read back into.
	Leases func(netdef.UUID) *leases.Table
	// DUID is the host's own, by which DHCPv6 clients know it.
	DUID []byte
	// Died is called, from another goroutine, when a dnsmasq has ended by itself.
	Died func(netdef.UUID)
	Log  *slog.Logger
}

// Service is a network's dnsmasq. The program outlives us: whoever finds it
// running takes it over.
type Service struct {
	deps Deps
	log  *slog.Logger

	mu      sync.Mutex
	config  Config
	link    int // index of the bridge that it was started for
	process *host.Process
	over    chan struct{}  // closed to end what follows the process; nil while nothing does
	tasks   sync.WaitGroup // what follows the process
}

// state is what the next one of us needs to know, in a file.
type state struct {
	Version int
	Link    int
	Config  Config
}

const stateVersion = 1

// Start starts a network's dnsmasq, with the leases that the network has. It
// serves when Start returns.
func Start(c Config, deps Deps) (*Service, error) {
	s := newService(c, deps)
	if err := s.launch(c, true); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.Dir))
	}
	return s, nil
}

func newService(c Config, deps Deps) *Service {
	return &Service{deps: deps, log: deps.Log.With("network", c.Name), config: c}
}

// Find takes over each dnsmasq that runs below the folder, and clears away the
// files of those that have ended.
func Find(dir string, deps Deps) []*Service {
	paths, _ := filepath.Glob(filepath.Join(dir, "*", fileState)) // the pattern is a good one
	var found []*Service
	for _, path := range paths {
		s, err := takeOver(path, deps)
		if err != nil {
			deps.Log.Warn("dnsmasq is not taken over", "folder", filepath.Dir(path), "error", err)
			continue
		}
		found = append(found, s)
	}
	return found
}

func takeOver(path string, deps Deps) (*Service, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var st state
	if err := json.Unmarshal(data, &st); err != nil || st.Version != stateVersion || st.Config.Dir != filepath.Dir(path) {
		return nil, errors.Join(err, fmt.Errorf("version %d of %s is not understood", st.Version, path))
	}
	s := newService(st.Config, deps)
	s.link = st.Link
	p, err := st.Config.find()
	if errors.Is(err, fs.ErrNotExist) {
		s.takeLeases(st.Config, map[lost]bool{})
		return nil, errors.Join(errors.New("it has ended"), os.RemoveAll(st.Config.Dir))
	}
	if err != nil {
		return nil, err
	}
	// A change that was cut short may have left files that it has not read yet.
	if err := p.Signal(syscall.SIGHUP); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return s, s.follow(p)
}

// launch starts the program. carry gives it the leases of the table in place of
// those it has itself.
func (s *Service) launch(c Config, carry bool) error {
	path, err := program(c.Name)
	if err != nil {
		return err
	}
	link, err := net.InterfaceByName(c.Bridge)
	if err != nil {
		return fmt.Errorf("start dnsmasq for network '%s': %w", c.Name, err)
	}
	data, err := json.Marshal(state{Version: stateVersion, Link: link.Index, Config: c})
	if err != nil {
		return err
	}
	if err := c.makeDir(); err != nil {
		return err
	}
	// One of which nobody knew any more would serve the guests too.
	if p, err := c.find(); err == nil {
		if err := errors.Join(stop(p), p.Close()); err != nil {
			return fmt.Errorf("stop an old dnsmasq of network '%s': %w", c.Name, err)
		}
	}
	if carry {
		if err := c.write(fileLeases, formatLeases(s.deps.Leases(c.Network).All(), s.deps.DUID), 0o600); err != nil {
			return err
		}
	}
	// The state goes before the program: should we die in between, it is known
	// that there is none. The number of the last process is nobody's now.
	if err := errors.Join(c.write(fileConf, []byte(c.Conf), 0o600), c.writeHosts(), c.write(fileState, data, 0o600), remove(c.file(filePID))); err != nil {
		return err
	}
	if err := run(path, c.arguments(fileConf)...); err != nil {
		return fmt.Errorf("start dnsmasq for network '%s': %w", c.Name, err)
	}
	p, err := c.find()
	if err != nil {
		return fmt.Errorf("start dnsmasq for network '%s': it ended at once: %w", c.Name, err)
	}
	s.config, s.link = c, link.Index
	return s.follow(p)
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// follow begins to read leases and to wait for the end of the process.
func (s *Service) follow(p *host.Process) error {
	watch, err := host.WatchFile(s.config.file(fileLeases))
	if err != nil {
		return errors.Join(err, stop(p), p.Close())
	}
	over, c := make(chan struct{}), s.config
	s.process, s.over = p, over
	s.tasks.Go(func() {
		defer watch.Close()
		s.readLeases(c, watch.Changed(), over, p.Done())
		select {
		case <-over:
		default:
			s.log.Warn("dnsmasq has ended by itself")
			s.deps.Died(c.Network)
		}
	})
	return nil
}

// unfollow ends what follow began, if it did. The process runs on.
func (s *Service) unfollow() error {
	if s.over == nil {
		return nil
	}
	close(s.over)
	s.over = nil
	s.tasks.Wait()
	return s.process.Close()
}

// end stops the process, if there is one, and takes its last leases.
func (s *Service) end() error {
	if s.over == nil {
		return nil
	}
	err := errors.Join(stop(s.process), s.unfollow())
	s.takeLeases(s.config, map[lost]bool{})
	return err
}

// Reconfigure makes dnsmasq be as c says: by SIGHUP where only reservations and
// names differ, else by another process. On error it runs on as it was.
func (s *Service) Reconfigure(c Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Network != s.config.Network || c.Dir != s.config.Dir {
		return fmt.Errorf("configure dnsmasq of network '%s': it is another network's", c.Name)
	}
	if c.Conf == s.config.Conf && c.Bridge == s.config.Bridge && slices.Equal(c.Subnets, s.config.Subnets) && s.over != nil {
		return s.reload(c)
	}
	path, err := program(c.Name)
	if err != nil {
		return err
	}
	const trial = "trial"
	defer os.Remove(c.file(trial))
	if err := c.write(trial, []byte(c.Conf), 0o600); err != nil {
		return err
	}
	if err := run(path, append(c.arguments(trial), "--test")...); err != nil {
		return fmt.Errorf("configure dnsmasq of network '%s': %w", c.Name, err)
	}
	old := s.config
	if err = s.end(); err == nil {
		err = s.launch(c, true)
	}
	if err != nil {
		return errors.Join(err, s.launch(old, false))
	}
	return nil
}

// reload has dnsmasq read its hosts again.
func (s *Service) reload(c Config) error {
	data, err := json.Marshal(state{Version: stateVersion, Link: s.link, Config: c})
	if err != nil {
		return err
	}
	if err := c.writeHosts(); err != nil {
		return err
	}
	if err := s.process.Signal(syscall.SIGHUP); err != nil {
		return err
	}
	if err := c.write(fileState, data, 0o600); err != nil {
		return err
	}
	s.config = c
	return nil
}

// Config returns the configuration in force.
func (s *Service) Config() Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config
}

// Alive reports whether the program runs, and on the bridge that is there:
// its socket for DHCP does not move to a new link of the same name.
func (s *Service) Alive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
	}
	link, err := net.InterfaceByName(s.config.Bridge)
	return err == nil && link.Index == s.link
}

// Close stops the program and removes its files. What it leased is in the table.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.end(), os.RemoveAll(s.config.Dir))
}

// Leave lets the program run on, for the next one of us to find.
func (s *Service) Leave() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unfollow()
}
