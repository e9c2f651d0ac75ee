package engine

import (
	"slices"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
)

// fakeFirewalld tells what it is told to; after a look it knows more.
type fakeFirewalld struct{ known, after hoststate.Firewalld }

func (f *fakeFirewalld) Facts() hoststate.Firewalld { return f.known }

func (f *fakeFirewalld) Look() hoststate.Firewalld {
	if f.after.Running {
		f.known = f.after
	}
	return f.known
}

func withZones(zones ...string) hoststate.Firewalld {
	return hoststate.Firewalld{Running: true, Zones: zones, Policies: []string{"libvirt-routed-in"}}
}

func zonedXML(zone string) string {
	return strings.Replace(natXML("a", 1), "<ip ", "<bridge zone='"+zone+"'/><ip ", 1)
}

// A zone that a network cannot be put into is refused when it starts, in
// libvirt's words.
func TestZoneIsRefused(t *testing.T) {
	for _, c := range []struct {
		firewalld Firewalld
		want      string
	}{
		{nil, "internal error: zone trusted requested for network a but firewalld is not active"},
		{&fakeFirewalld{}, "internal error: zone trusted requested for network a but firewalld is not active"},
		{&fakeFirewalld{known: hoststate.Firewalld{Running: true}}, "internal error: put network 'a' into zone trusted: firewalld does not answer"},
		{&fakeFirewalld{known: withZones("public")},
			"error from service: GDBus.Error:org.fedoraproject.FirewallD1.Exception: INVALID_ZONE: trusted"},
		{&fakeFirewalld{after: withZones("public", "trusted")}, ""},
		{&fakeFirewalld{known: withZones("public"), after: withZones("public", "trusted")}, ""},
	} {
		r := newRig(t)
		r.Firewalld = c.firewalld
		i := r.define(zonedXML("trusted"))
		before := r.host.State()
		err := r.Start(t.Context(), i.UUID)
		switch {
		case c.want == "":
			r.must(err)
		case err == nil || err.Error() != c.want:
			t.Errorf("got %v, want %s", err, c.want)
		case len(r.host.State()) != len(before):
			t.Errorf("%s, but the host has changed", c.want)
		}
	}
}

// A network that names no zone is put into one that is meant for such networks,
// unless an administrator has put its bridge into another.
func TestZoneByDefault(t *testing.T) {
	for _, c := range []struct {
		name, mode string
		known      hoststate.Firewalld
		placed     string
		want       string
	}{
		{"no firewalld", "nat", hoststate.Firewalld{}, "", ""},
		{"nothing known yet", "nat", hoststate.Firewalld{Running: true}, "", ""},
		{"no such zone", "nat", withZones("public"), "", "viaduct"},
		{"no policies", "nat", hoststate.Firewalld{Running: true, Zones: []string{"public"}}, "", ""},
		{"refused before", "nat", hoststate.Firewalld{Running: true, Zones: []string{"public"}, Policies: []string{"p"}, Closed: true}, "", ""},
		{"libvirt's", "nat", withZones("libvirt", "libvirt-routed", "public"), "", "libvirt"},
		{"libvirt's for routed ones", "route", withZones("libvirt", "libvirt-routed", "public"), "", "libvirt-routed"},
		{"its policy is missing", "route", hoststate.Firewalld{Running: true, Zones: []string{"libvirt", "libvirt-routed"}}, "", "libvirt"},
		{"libvirt's though there is ours", "route", withZones("libvirt", "libvirt-routed", "viaduct"), "", "libvirt-routed"},
		{"open", "open", withZones("libvirt", "viaduct"), "", ""},
		{"left behind", "nat", withZones("libvirt", "viaduct"), "viaduct", "libvirt"},
		{"an administrator's", "nat", withZones("home", "libvirt"), "home", "home"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.options = func(o *Options) { o.Firewalld = &fakeFirewalld{known: c.known} }
			r.restart()
			i := r.define(strings.Replace(natXML("a", 1), "mode='nat'", "mode='"+c.mode+"'", 1))
			key := hoststate.ZonedKey(i.Bridge)
			if c.placed != "" {
				r.host.Set(hoststate.Zoned{Link: i.Bridge, Zone: c.placed})
			}
			r.must(r.Start(t.Context(), i.UUID))
			zone := func() string {
				z, _ := r.host.State()[key].(hoststate.Zoned)
				return z.Zone
			}
			if got := zone(); got != c.want {
				t.Errorf("in zone %q, want %q", got, c.want)
			}
			r.restart()
			r.whole(i.UUID)
			r.must(r.Destroy(t.Context(), i.UUID))
			if _, there := r.host.State()[hoststate.Zone{Name: "viaduct"}.Key()]; there {
				t.Error("left a zone behind")
			}
			left := ""
			if c.placed == c.want {
				left = c.placed
			}
			if got := zone(); got != left {
				t.Errorf("left in zone %q, want %q", got, left)
			}
		})
	}
}

// What a zone is named in the definition can be changed while the network runs,
// and what it was is not taken for an administrator's choice.
func TestZoneIsChanged(t *testing.T) {
	r := newRig(t)
	r.Firewalld = &fakeFirewalld{known: withZones("libvirt", "public", "trusted")}
	i := r.define(zonedXML("trusted"))
	r.must(r.Start(t.Context(), i.UUID))
	calls := len(r.host.Calls())
	r.edit("a", " zone='trusted'", "")
	r.reloads("added [] changed [a] removed [] failed 0")
	done := hoststate.FormatOps(slices.Concat(r.host.Calls()[calls:]...))
	if want := "~ zone libvirt for " + i.Bridge + "   (was: zone trusted for " + i.Bridge + ")\n"; done != want {
		t.Errorf("%s, want %s", done, want)
	}
}
