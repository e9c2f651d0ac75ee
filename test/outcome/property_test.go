package outcome

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"viaduct/internal/lab"
	"viaduct/internal/netdef"
	"viaduct/test/random"
)

// propertyTime bounds how long new pairs of definitions are tried.
const propertyTime = 25 * time.Second

// drawn makes definitions from seeds. Some are restricted to an uplink that
// the host does not have.
var drawn = rapid.Custom(func(t *rapid.T) *netdef.Network { return random.Network(t, "eth0", "eth9") })

// drawnHost is a host on which networks are tried, with one guest.
type drawnHost struct {
	*site
	guest *lab.Guest
	empty string // what the host is without a network
}

func newDrawnHost(t *testing.T) *drawnHost {
	t.Helper()
	h := &drawnHost{site: newSite(t, "--no-default", "--log-level", "debug")}
	h.host.AddBridge("parking")
	h.guest = h.PlugGuest(h.host.Node, "parking", "vnet0")
	h.host.SetMaster("vnet0", "")
	h.host.DeleteLink("parking")
	h.must(h.daemon.Start())
	h.settled()
	h.empty = h.dump()
	return h
}

// dump is what the host is, but for the MAC that the kernel chose for its uplink.
func (h *drawnHost) dump() string {
	return uplinkMAC.ReplaceAllString(h.host.Dump(), "")
}

var uplinkMAC = regexp.MustCompile(`(?m)^eth0 (veth mac|fe80:).*$`)

// start defines and starts the network, as plan has announced it, plugs the
// guest in and returns what the host then is.
func (h *drawnHost) start(n *netdef.Network) string {
	h.t.Helper()
	h.viaduct("net-define", h.file(n.Format(netdef.FormatOptions{Inactive: true})))
	planned := h.viaduct("plan", n.Name)
	before := len(h.daemon.Output())
	h.viaduct("net-start", n.Name)
	h.nothingToChange(n.Name)
	if done := h.applied(before); done != planned {
		h.t.Errorf("planned and done differ:\n%s", cmp.Diff(planned, done))
	}
	if h.host.Master("vnet0") != n.Bridge.Name {
		h.host.SetMaster("vnet0", n.Bridge.Name)
	}
	return h.atRest(n.Name)
}

var appliedLine = regexp.MustCompile(`level=DEBUG msg=applied network=\S+ operations=(".*")`)

// applied is what the daemon did first after it had said so many bytes.
func (h *drawnHost) applied(after int) string {
	h.t.Helper()
	var m []string
	lab.Eventually(h.t, 5*time.Second, func() error { // what it says comes by another way than its answer
		if m = appliedLine.FindStringSubmatch(h.daemon.Output()[after:]); m == nil {
			return errors.New("the daemon does not say what it has done")
		}
		return nil
	})
	text, err := strconv.Unquote(m[1])
	h.must(err)
	return text
}

// edit gives the running network another definition and returns what the host
// then is.
func (h *drawnHost) edit(n *netdef.Network) string {
	h.t.Helper()
	h.host.WriteFile(h.definitionPath(n.Name), n.Format(netdef.FormatOptions{Inactive: true}))
	h.viaduct("reload")
	return h.atRest(n.Name)
}

// atRest waits until the network needs no change and the guest is in it.
func (h *drawnHost) atRest(name string) string {
	h.t.Helper()
	h.soonNothingToChange(name)
	return h.dump()
}

// remove stops and undefines the network, which leaves nothing.
func (h *drawnHost) remove(name string) {
	h.t.Helper()
	h.viaduct("net-destroy", name)
	h.viaduct("net-undefine", name)
	if now := h.dump(); now != h.empty {
		h.t.Errorf("left behind:\n%s", cmp.Diff(h.empty, now))
	}
}

// translation is what stays so that connections go on that were begun while
// the network was in NAT mode.
var translation = regexp.MustCompile(`(?m)^\t(map nat_from|chain postrouting|chain nat_\S+) \{\n(\t\t.*\n)*\t\}\n\n?`)

// numbered are the labels that the kernel gives the addresses but the first of a
// link that is renamed (inetdev_changename in net/ipv4/devinet.c), and which only
// ifconfig shows.
var numbered = regexp.MustCompile(`(?m) label \S+:\d+$`)

// goneOn is the dump of a host without what a network has that left NAT mode, or
// whose bridge was renamed.
func goneOn(dump string, from, to *netdef.Network) string {
	if from.Bridge.Name != to.Bridge.Name {
		dump = numbered.ReplaceAllString(dump, "")
	}
	if from.Forward.Mode == netdef.ModeNAT && to.Forward.Mode != netdef.ModeNAT {
		return translation.ReplaceAllString(dump, "")
	}
	return dump
}

// Whatever a network was before, an edit makes the host what it would be if
// the network had been started so; and what plan prints is what is done. Only
// connections that are translated go on as they are.
func TestEditEqualsStart(t *testing.T) {
	t.Parallel()
	edited, fresh := newDrawnHost(t), newDrawnHost(t)
	began, pairs := time.Now(), 0
	for seed := 0; time.Since(began) < propertyTime && !t.Failed(); seed += 2 {
		a, b := drawn.Example(seed), drawn.Example(seed+1)
		edited.start(a)
		for _, step := range [][2]*netdef.Network{{a, b}, {b, a}} {
			before, n := step[0], step[1]
			got, want := goneOn(edited.edit(n), before, n), fresh.start(n)
			if got != want {
				t.Errorf("seed %d: edited from the one to the other, the host differs from a fresh one:\n%s", seed, cmp.Diff(want, got))
			}
			fresh.remove(n.Name)
		}
		edited.remove(a.Name)
		if t.Failed() {
			t.Logf("one:\n%s\nother:\n%s", a.Format(netdef.FormatOptions{}), b.Format(netdef.FormatOptions{}))
		}
		pairs++
	}
	t.Logf("%d pairs of definitions", pairs)
	if out := edited.daemon.Output() + fresh.daemon.Output(); strings.Contains(out, "level=ERROR") {
		t.Errorf("the daemons say:\n%s", out)
	}
}
