package engine

import (
	"errors"
	"testing"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

// tap is a port with a tap of its own.
func tap(name string, owner uint32) PortSpec {
	return PortSpec{Tap: &TapSpec{Name: name, Owner: owner}}
}

func withMAC(p PortSpec, mac netdef.MAC) PortSpec {
	p.MAC = mac
	return p
}

// hasTap reports whether the host has the tap.
func (r *rig) hasTap(name string) bool {
	_, ok := r.host.State()[hoststate.TapKey(name)]
	return ok
}

// in reports whether the host has the link in the bridge.
func (r *rig) in(link, bridge string) bool {
	_, ok := r.host.State()[hoststate.MemberKey(link, bridge)]
	return ok
}

// A made port follows its network through stops, starts and new daemons, and
// is gone, with its tap, when it or the network is.
func TestMadePortsLife(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(natXML("a", 1))
	if _, err := r.CreatePort(ctx, i.UUID, tap("vm0", 0)); err == nil {
		t.Error("a port of a network that is not active")
	}
	r.must(r.Start(ctx, i.UUID))
	p, err := r.CreatePort(ctx, i.UUID, tap("vm0", 1000))
	r.must(err)
	if p.MAC.IsZero() || p.Origin != OriginTap || *p.Owner != 1000 || !p.Active || !r.in("vm0", i.Bridge) {
		t.Errorf("made %+v", p)
	}
	for _, step := range []struct {
		name   string
		do     func()
		active bool
	}{
		{"a new daemon", r.restart, true},
		{"stop", func() { r.must(r.Destroy(ctx, i.UUID)) }, false},
		{"a new daemon while it is stopped", r.restart, false},
		{"start", func() { r.must(r.Start(ctx, i.UUID)) }, true},
		{"its tap was removed", func() {
			r.host.Remove(hoststate.TapKey("vm0"))
			n, err := r.seize(i.UUID)
			r.must(err)
			n.busy.Unlock()
			r.heal(ctx, n)
		}, true},
	} {
		step.do()
		list, err := r.Ports(i.UUID)
		r.must(err)
		if len(list) != 1 || list[0].UUID != p.UUID || list[0].MAC != p.MAC || list[0].Active != step.active {
			t.Errorf("%s: ports are %+v", step.name, list)
		}
		if !r.hasTap("vm0") || r.in("vm0", i.Bridge) != step.active {
			t.Errorf("%s: the host has\n%s", step.name, r.text())
		}
	}
	r.must(r.DeletePort(ctx, i.UUID, p.UUID.String()))
	if list, _ := r.Ports(i.UUID); len(list) > 0 || r.hasTap("vm0") {
		t.Errorf("after its deletion: %+v\n%s", list, r.text())
	}

	for _, c := range []struct {
		name string
		end  func()
	}{
		{"deleted while the network is stopped", func() {
			r.must(r.Destroy(ctx, i.UUID))
			r.must(r.DeletePort(ctx, i.UUID, "vm1"))
			r.must(r.Start(ctx, i.UUID))
		}},
		{"undefined, then stopped", func() {
			r.must(r.Undefine(ctx, i.UUID))
			r.must(r.Destroy(ctx, i.UUID))
		}},
		{"stopped, then undefined", func() {
			r.must(r.Destroy(ctx, i.UUID))
			r.must(r.Undefine(ctx, i.UUID))
		}},
	} {
		if _, err := r.Lookup("a"); err != nil {
			i = r.define(natXML("a", 1))
			r.must(r.Start(ctx, i.UUID))
		}
		_, err := r.CreatePort(ctx, i.UUID, tap("vm1", 0))
		r.must(err)
		c.end()
		if r.hasTap("vm1") {
			t.Errorf("%s: the tap is left", c.name)
		}
	}
	if text := r.text(); text != "+ sysctl net/ipv4/ip_forward = 0\n" {
		t.Errorf("left behind:\n%s", text)
	}
}

func TestPortsRefused(t *testing.T) {
	ctx := t.Context()
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(ctx, i.UUID))
	p, err := r.CreatePort(ctx, i.UUID, tap("vm0", 0))
	r.must(err)
	before := r.text()
	for want, err := range map[string]error{
		"invalid argument: '' is no name for a link: it has 1 to 15 characters, none of which is a blank, '/', ':' or '%'":      r.create(i, tap("", 0)),
		"invalid argument: 'tap%d' is no name for a link: it has 1 to 15 characters, none of which is a blank, '/', ':' or '%'": r.create(i, tap("tap%d", 0)),
		"operation failed: link 'eth0' already exists":                                               r.create(i, tap("eth0", 0)),
		"operation failed: a port of network 'a' has the MAC address " + p.MAC.String() + " already": r.create(i, withMAC(tap("vm1", 0), p.MAC)),
		"expected unicast mac address, found multicast '01:00:00:00:00:00'":                          r.create(i, withMAC(tap("vm1", 0), netdef.MAC{1})),
		"network 'a' has no port 'vm9'":                                                              r.DeletePort(ctx, i.UUID, "vm9"),
	} {
		var known *netdef.Error
		if !errors.As(err, &known) || known.Detail != want && known.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	r.host.FailOn = func(op hoststate.Op) error {
		if op.Key() == hoststate.TapKey("vm2") {
			return errors.New("no taps here")
		}
		return nil
	}
	if err := r.create(i, tap("vm2", 0)); err == nil {
		t.Error("a tap that the host refused")
	}
	if list, _ := r.Ports(i.UUID); len(list) != 1 || r.text() != before {
		t.Errorf("what was refused changed something: %+v\n%s", list, r.text())
	}
}

func (r *rig) create(i Info, p PortSpec) error {
	_, err := r.CreatePort(r.t.Context(), i.UUID, p)
	return err
}
