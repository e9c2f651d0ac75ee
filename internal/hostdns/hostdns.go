// Package hostdns has the host itself ask the name servers of its own leases:
// by systemd-resolved, by resolvconf(8), or in /etc/resolv.conf, whichever the
// host uses. What was there before comes back.
package hostdns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"viaduct/internal/guestsvc/resolved"
	"viaduct/internal/host"
	"viaduct/internal/uplink"
)

// Deps are what a Host needs of the world.
type Deps struct {
	Resolved *resolved.Client
	// Path is the host's resolv.conf(5).
	Path string
	// Load returns what is remembered, and whether it is of this boot.
	Load func() (r uplink.Resolving, sameBoot bool, err error)
	// Save has it on disk before it returns.
	Save func(uplink.Resolving) error
	Log  *slog.Logger
}

// Host is how the host finds names. It goes on when somebody else changes that.
type Host struct {
	deps Deps

	mu    sync.Mutex
	state uplink.Resolving
	links map[string]*registration
	told  bool          // resolvconf has been told in this boot
	why   string        // what the log says is in the way
	end   chan struct{} // nil while nobody looks at the file
	task  sync.WaitGroup
}

// registration is a link that systemd-resolved is told of.
type registration struct {
	names uplink.Names
	link  *resolved.Link // nil while the link itself is not there
}

// Open takes up what the last daemon has left, and goes on with it.
func Open(d Deps) *Host {
	h := &Host{deps: d, links: map[string]*registration{}}
	var err error
	if h.state, h.told, err = d.Load(); err != nil {
		d.Log.Error("read how the host finds names: nothing of before is put back", "error", err)
		h.state = uplink.Resolving{}
	}
	if len(h.state.Links) > 0 {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.follow()
		if err := h.settle(h.state); err != nil {
			d.Log.Error("keep the host's name servers", "error", err)
		}
	}
	return h
}

// Links are those whose name servers the host asks.
func (h *Host) Links() []uplink.Names {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.state.Links)
}

// Set has the host ask the name servers of a link, beside those of others. That it
// cannot is said in the log: a host with an address is better than one without.
func (h *Host) Set(n uplink.Names) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.follow()
	next := h.state
	next.Links = slices.Clone(next.Links)
	if i := slices.IndexFunc(next.Links, func(o uplink.Names) bool { return o.Link == n.Link }); i >= 0 {
		next.Links[i] = n
	} else {
		next.Links = append(next.Links, n)
	}
	return h.settle(next)
}

// Remove has the host ask them no more.
func (h *Host) Remove(link string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.state
	next.Links = slices.DeleteFunc(slices.Clone(next.Links), func(o uplink.Names) bool { return o.Link == link })
	return h.settle(next)
}

// Close ends the watch over the file. All stays as it is.
func (h *Host) Close() {
	h.mu.Lock()
	if h.end != nil {
		close(h.end)
	}
	h.mu.Unlock()
	h.task.Wait()
}

// calm is how long others have to finish: whoever writes a file anew empties it, or
// removes it, first.
const calm = 200 * time.Millisecond

// follow begins to look at who else writes the file. It needs h.mu.
func (h *Host) follow() {
	if h.end != nil {
		return
	}
	watch, err := host.WatchDir(filepath.Dir(h.deps.Path))
	if err != nil {
		h.deps.Log.Warn("nobody sees what else happens to the host's list of name servers", "error", err)
		return
	}
	h.end = make(chan struct{})
	h.task.Go(func() {
		defer watch.Close()
		for {
			select {
			case <-h.end:
				return
			case <-watch.Changed():
			}
			select {
			case <-h.end:
				return
			case <-time.After(calm):
			}
			h.mu.Lock()
			if err := h.settle(h.state); err != nil {
				h.deps.Log.Error("keep the host's name servers", "error", err)
			}
			h.mu.Unlock()
		}
	})
}

// settle makes all as the state says, which it keeps. It needs h.mu.
func (h *Host) settle(next uplink.Resolving) error {
	if !sameLinks(next.Links, h.state.Links) {
		if err := h.deps.Save(next); err != nil {
			return err
		}
	}
	h.state = next
	told := h.tell()
	program := resolvconf()
	file, err := readResolv(h.deps.Path)
	var records, written []uplink.Names
	switch {
	case told && file.leadsToResolved():
	case program != "":
		records = h.state.Links
	default:
		written = h.state.Links
	}
	err = errors.Join(err, h.record(program, records))
	if err == nil {
		err = h.write(file, written)
	}
	h.note(err)
	return nil
}

func sameLinks(a, b []uplink.Names) bool {
	return slices.EqualFunc(a, b, func(a, b uplink.Names) bool { return a.String() == b.String() })
}

// note says once what is in the way, and once that it is no more. It needs h.mu.
func (h *Host) note(err error) {
	why := ""
	if err != nil {
		why = err.Error()
	}
	if why != h.why && why != "" {
		h.deps.Log.Warn("the host does not ask the name servers of its lease", "links", h.state.Links, "reason", why)
	}
	h.why = why
}

// tell has systemd-resolved know the links, and reports whether it does. It needs h.mu.
func (h *Host) tell() bool {
	wanted := map[string]bool{}
	for _, n := range h.state.Links {
		wanted[n.Link] = true
		r := h.links[n.Link]
		if r != nil && r.link != nil && r.names.String() == n.String() {
			continue
		}
		if r != nil && r.link != nil && r.names.Index == n.Index {
			_ = r.link.Reconfigure(registered(n)) // it cannot fail
			r.names = n
			continue
		}
		h.forget(n.Link)
		link, err := h.deps.Resolved.Start(registered(n))
		if err == nil { // or the link is not there yet, and comes with another index
			h.links[n.Link] = &registration{n, link}
		}
	}
	for _, name := range slices.Collect(maps.Keys(h.links)) {
		if !wanted[name] {
			h.forget(name)
		}
	}
	told := len(h.links) > 0
	for _, r := range h.links {
		told = told && r.link.Told()
	}
	return told
}

// forget has systemd-resolved know a link no more, if it is still there. It needs h.mu.
func (h *Host) forget(link string) {
	if r := h.links[link]; r != nil {
		if err := r.link.Close(); err != nil {
			h.deps.Log.Debug("have systemd-resolved forget a link", "link", link, "error", err)
		}
		delete(h.links, link)
	}
}

func registered(n uplink.Names) resolved.Config {
	c := resolved.Config{Bridge: n.Link, Search: n.Search}
	for _, a := range n.Servers {
		c.Servers = append(c.Servers, netip.AddrPortFrom(a, 53))
	}
	return c
}

// commandLimit is how long resolvconf and what it tells may take.
const commandLimit = 20 * time.Second

// resolvconf is the program of that name, unless it is another face of
// systemd-resolved; "" where there is none.
func resolvconf() string {
	path, err := exec.LookPath("resolvconf")
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(path); err != nil || filepath.Base(real) == "resolvectl" {
		return ""
	}
	return path
}

// recordDirs are where Debian's resolvconf keeps what it was told, and openresolv.
var recordDirs = []string{"/run/resolvconf/interface", "/run/resolvconf/interfaces", "/run/resolvconf/keys"}

// record has resolvconf know the links, and no others of ours. It needs h.mu.
func (h *Host) record(program string, links []uplink.Names) error {
	run := func(input string, args ...string) error {
		ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Stdin, cmd.WaitDelay = strings.NewReader(input), time.Second
		if out, err := cmd.CombinedOutput(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
			return fmt.Errorf("resolvconf %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return nil
	}
	keep := func(link string, r *uplink.Records) error {
		next := h.state
		next.Records = maps.Clone(next.Records)
		if next.Records == nil {
			next.Records = map[string]uplink.Records{}
		}
		if delete(next.Records, link); r != nil {
			next.Records[link] = *r
		}
		h.state = next
		return h.deps.Save(next)
	}
	wanted := map[string]bool{}
	for _, n := range links {
		wanted[n.Link] = true
		was, known := h.state.Records[n.Link]
		if known && was.Text == n.Text() && h.told {
			continue
		}
		now := uplink.Records{Earlier: was.Earlier}
		if !known || !h.told {
			now.Earlier = earlierRecords(n.NIC)
		}
		if err := keep(n.Link, &now); err != nil {
			return err
		}
		if err := run(n.Text(), "-a", n.Link); err != nil {
			return err
		}
		for name := range now.Earlier {
			if err := run("", "-d", name); err != nil {
				return err
			}
		}
		now.Text = n.Text()
		if err := keep(n.Link, &now); err != nil {
			return err
		}
		h.deps.Log.Info("resolvconf knows the name servers of this link", "link", n.Link, "servers", n.Servers)
	}
	for _, link := range slices.Sorted(maps.Keys(h.state.Records)) {
		if wanted[link] {
			continue
		}
		if program != "" && h.told {
			for name, text := range h.state.Records[link].Earlier {
				if err := run(text, "-a", name); err != nil {
					return err
				}
			}
			if err := run("", "-d", link); err != nil {
				return err
			}
		}
		if err := keep(link, nil); err != nil {
			return err
		}
	}
	h.told = true
	return nil
}

// earlierRecords are those that the card's own client has told resolvconf.
func earlierRecords(nic string) map[string]string {
	found := map[string]string{}
	for _, dir := range recordDirs {
		entries, _ := os.ReadDir(dir) // of the other one's there is none
		for _, e := range entries {
			if name, _, _ := strings.Cut(e.Name(), "."); nic == "" || name != nic || !e.Type().IsRegular() {
				continue
			}
			if text, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
				found[e.Name()] = string(text)
			}
		}
	}
	return found
}

// resolvConf is the host's file as found.
type resolvConf struct {
	content *string // nil where it is missing
	link    string  // where it leads, if it is a symbolic link
	mode    fs.FileMode
	uid     int
	gid     int
}

// maxResolvConf is the largest that is read, in bytes.
const maxResolvConf = 1 << 20

func readResolv(path string) (resolvConf, error) {
	f := resolvConf{mode: 0o644}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, nil
	case err != nil:
		return f, err
	case info.Mode()&fs.ModeSymlink != 0:
		f.link, err = os.Readlink(path)
		return f, err
	case !info.Mode().IsRegular() || info.Size() > maxResolvConf:
		return f, fmt.Errorf("%s is no plain file", path)
	}
	f.mode = info.Mode().Perm()
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		f.uid, f.gid = int(s.Uid), int(s.Gid)
	}
	text, err := os.ReadFile(path)
	content := string(text)
	f.content = &content
	return f, err
}

// leadsToResolved reports whether programs that read the file ask systemd-resolved.
func (f resolvConf) leadsToResolved() bool {
	return strings.Contains(f.link, "systemd") || f.content != nil && slices.ContainsFunc(uplink.ResolvServers(*f.content), netip.Addr.IsLoopback)
}

// write has the file list the links' servers, or be what it was. It needs h.mu.
func (h *Host) write(f resolvConf, links []uplink.Names) error {
	was := h.state.File
	keep := func(file uplink.ResolvFile) error {
		next := h.state
		next.File = file
		if err := h.deps.Save(next); err != nil {
			return err
		}
		h.state = next
		return nil
	}
	if len(links) == 0 {
		switch {
		case was == uplink.ResolvFile{}:
			return nil
		case was.Written == nil:
		case !was.Ours(f.content):
			h.deps.Log.Warn("the host's list of name servers is left as it is: somebody else has changed it", "path", h.deps.Path)
		default:
			if err := f.replace(h.deps.Path, was.Before); err != nil {
				return err
			}
			h.deps.Log.Info("put back the host's list of name servers", "path", h.deps.Path)
		}
		return keep(uplink.ResolvFile{})
	}
	if f.link != "" {
		return fmt.Errorf("%s is a link to %s", h.deps.Path, f.link)
	}
	next, err := was.Wanted(f.content, links)
	if err != nil {
		return fmt.Errorf("%s is left alone: %w", h.deps.Path, err)
	}
	if next == was {
		return nil
	}
	if err := keep(next); err != nil || next.Written == nil || next.Written == was.Written {
		return err
	}
	if err := f.replace(h.deps.Path, next.Written); err != nil {
		return err
	}
	h.deps.Log.Info("the host asks the name servers of its lease", "path", h.deps.Path, "links", links)
	return nil
}

// replace replaces the file whole, or, where it is mounted by itself, writes into it; nil
// removes it.
func (f resolvConf) replace(path string, content *string) error {
	if content == nil {
		return os.Remove(path)
	}
	pending, err := renameio.NewPendingFile(path, renameio.WithPermissions(f.mode), renameio.IgnoreUmask())
	if err == nil {
		defer pending.Cleanup()
		_, err = pending.WriteString(*content)
	}
	if err == nil {
		err = pending.Chown(f.uid, f.gid)
	}
	if err == nil {
		err = pending.CloseAtomicallyReplace()
	}
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EROFS) {
		err = os.WriteFile(path, []byte(*content), f.mode)
	}
	return err
}
