package bridgehelper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"viaduct/internal/peer"
)

// The limits of a list and of what it includes.
const (
	maxList  = 64 << 10 // octets of one file
	maxFiles = 64
)

// verdict is what a list says of one user and one bridge. As in QEMU's
// bridge.conf everything is denied that is not allowed, and a denial counts
// more than any permission.
type verdict struct{ allowed, denied bool }

// reader reads a list and what it includes.
type reader struct {
	who    peer.Peer
	bridge string
	files  int
	verdict
}

// check looks up whether the user may have taps in the bridge. A list that
// somebody but root could write, or that makes no sense, allows nothing.
func check(path string, who peer.Peer, bridge string) error {
	r := reader{who: who, bridge: bridge}
	if err := r.file(path, true); err != nil {
		return err
	}
	if !r.allowed || r.denied {
		return fmt.Errorf("%s does not allow bridge '%s' to user %d", path, bridge, who.UID)
	}
	return nil
}

// file reads one file. An included one counts only for users that could read it
// themselves, so that its permissions say whom it is for.
func (r *reader) file(path string, first bool) error {
	if r.files++; r.files > maxFiles {
		return fmt.Errorf("read %s: more than %d files include one another", path, maxFiles)
	}
	// A pipe would keep us waiting.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) && first {
		return fmt.Errorf("no bridge is allowed to anybody: %w", err)
	} else if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.Mode().IsRegular():
		return fmt.Errorf("read %s: it is not a regular file", path)
	case int(st.Uid) != 0 && int(st.Uid) != os.Geteuid() || info.Mode()&0o022 != 0:
		return fmt.Errorf("read %s: others than root may write it", path)
	case !first && !readable(st, r.who):
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return err
	}
	if len(data) > maxList {
		return fmt.Errorf("read %s: it is larger than %d octets", path, maxList)
	}
	return r.lines(path, string(data))
}

func readable(st *syscall.Stat_t, who peer.Peer) bool {
	switch {
	case who.UID == 0:
		return true
	case who.UID == st.Uid:
		return st.Mode&0o400 != 0
	case slices.Contains(who.Groups, st.Gid):
		return st.Mode&0o040 != 0
	}
	return st.Mode&0o004 != 0
}

// lines reads the text of a list: "allow BRIDGE", "deny BRIDGE", either with
// "all", and "include FILE".
func (r *reader) lines(path, text string) error {
	number := 0
	for line := range strings.Lines(text) {
		number++
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 2 {
			return fmt.Errorf("%s:%d: a line is a keyword and one value, not %q", path, number, strings.TrimSpace(line))
		}
		matches := words[1] == "all" || words[1] == r.bridge
		switch words[0] {
		case "allow":
			r.allowed = r.allowed || matches
		case "deny":
			r.denied = r.denied || matches
		case "include":
			if err := r.file(words[1], false); err != nil {
				return fmt.Errorf("%s:%d: %w", path, number, err)
			}
		default:
			return fmt.Errorf("%s:%d: unknown keyword '%s': it is allow, deny or include", path, number, words[0])
		}
	}
	return nil
}
