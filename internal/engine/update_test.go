package engine

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
)

const reservation = `<host mac='52:54:00:00:00:09' name='nine' ip='10.0.1.9'/>`

// An update reaches the definitions that it is meant for, and the next daemon
// knows of it.
func TestUpdateAffects(t *testing.T) {
	for _, c := range []struct {
		name                            string
		active, persistent              bool
		live, config                    bool
		reachesLive, reachesPersistence bool
		refused                         string
	}{
		{name: "inactive", persistent: true, reachesPersistence: true},
		{name: "active", active: true, persistent: true, reachesLive: true},
		{name: "both", active: true, persistent: true, live: true, config: true, reachesLive: true, reachesPersistence: true},
		{name: "config of an active one", active: true, persistent: true, config: true, reachesPersistence: true},
		{name: "transient", active: true, reachesLive: true},
		{name: "live of an inactive one", persistent: true, live: true, refused: "network is not running"},
		{name: "config of a transient one", active: true, config: true, refused: "cannot change persistent config of a transient network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			create := r.Create
			if c.persistent {
				create = r.Define
			}
			i, err := create(t.Context(), []byte(natXML("a", 1)))
			r.must(err)
			if c.active && c.persistent {
				r.must(r.Start(t.Context(), i.UUID))
			}
			err = r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionIPDHCPHost, -1, reservation, c.live, c.config)
			if c.refused != "" {
				if netdef.CodeOf(err) != netdef.ErrOperationInvalid || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("got %v, want %s", err, c.refused)
				}
				return
			}
			r.must(err)
			for range 2 {
				for inactive, want := range map[bool]bool{false: c.reachesLive, true: c.reachesPersistence} {
					if inactive && !c.persistent || !inactive && !c.active {
						continue
					}
					text, err := r.XML(i.UUID, inactive)
					r.must(err)
					if got := strings.Contains(text, reservation); got != want {
						t.Errorf("inactive=%v: has the reservation: %v, want %v", inactive, got, want)
					}
				}
				r.restart()
			}
		})
	}
}

// An update that fails half-way changes neither definition nor the host.
func TestUpdateIsAllOrNothing(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	before := r.host.State()
	try := func(why string) {
		t.Helper()
		err := r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionIPDHCPHost, -1, reservation, true, true)
		if err == nil {
			t.Fatalf("%s: update succeeded", why)
		}
		for _, inactive := range []bool{false, true} {
			if text, _ := r.XML(i.UUID, inactive); strings.Contains(text, reservation) {
				t.Errorf("%s: inactive=%v has changed: %v", why, inactive, err)
			}
		}
		for k, o := range r.host.State() {
			if !hoststate.Equal(before[k], o) {
				t.Errorf("%s: host has %s", why, o.Text())
			}
		}
	}
	r.host.FailOn = func(op hoststate.Op) error {
		if op.Verb == hoststate.Change && op.Key().Kind == hoststate.KindService {
			return errors.New("no room")
		}
		return nil
	}
	try("host refuses")
	r.host.FailOn = nil
	r.must(os.RemoveAll(r.dir + "/etc/networks"))
	try("file cannot be written")
}

// Pieces that are right by themselves but not together are refused.
func TestUpdateChecksTheWhole(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	err := r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionForwardInterface, -1, `<interface dev='eth0'/>`, false, true)
	r.must(err)
	err = r.Update(t.Context(), i.UUID, netdef.UpdateAddLast, netdef.SectionForwardInterface, -1, `<interface dev='eth1'/>`, false, true)
	if err == nil || !strings.Contains(err.Error(), "multiple forwarding interfaces specified for network 'a', only one is supported") {
		t.Errorf("second uplink: %v", err)
	}
}

func TestMetadata(t *testing.T) {
	r := newRig(t)
	i := r.define(natXML("a", 1))
	r.must(r.Start(t.Context(), i.UUID))
	events := r.Subscribe()
	defer events.Close()
	const uri = "http://example.com/x"
	for _, s := range []struct {
		t          netdef.MetadataType
		value      string
		live, conf bool
	}{
		{netdef.MetadataTitle, "A title", true, true},
		{netdef.MetadataDescription, "Two\nlines", false, true},
		{netdef.MetadataElement, "<owner><name>x</name></owner>", false, false},
	} {
		r.must(r.SetMetadata(t.Context(), i.UUID, s.t, s.value, "x", uri, s.live, s.conf))
		ev := <-events.C
		if ev.Type != EventMetadataChange || ev.Metadata != s.t || ev.URI != uri || ev.UUID != i.UUID {
			t.Errorf("event %+v", ev)
		}
	}
	want := map[bool][3]string{ // by live
		true:  {"", "A title", "<owner>\n  <name>x</name>\n</owner>"},
		false: {"Two\nlines", "A title", ""},
	}
	for range 2 {
		for live, texts := range want {
			for typ, text := range texts {
				got, err := r.Metadata(i.UUID, netdef.MetadataType(typ), uri, live, !live)
				if got != text || (text == "") != (netdef.CodeOf(err) == netdef.ErrNoNetworkMetadata) {
					t.Errorf("live=%v type %d: %q, %v, want %q", live, typ, got, err, text)
				}
			}
		}
		r.restart()
	}
	if text, _ := r.XML(i.UUID, false); !strings.Contains(text, "<x:owner xmlns:x=\"http://example.com/x\">\n      <x:name>x</x:name>") {
		t.Error(text)
	}
	r.must(r.SetMetadata(t.Context(), i.UUID, netdef.MetadataElement, "", "", uri, true, false))
	if _, err := r.Metadata(i.UUID, netdef.MetadataElement, uri, false, false); netdef.CodeOf(err) != netdef.ErrNoNetworkMetadata {
		t.Errorf("removed element: %v", err)
	}
	if i := slices.IndexFunc(r.Networks(), func(i Info) bool { return i.Title == "A title" }); i < 0 {
		t.Error("list lacks the title")
	}
	for _, bad := range []struct {
		t               netdef.MetadataType
		value, key, uri string
		code            netdef.Code
	}{
		{netdef.MetadataTitle, "a\nb", "", "", netdef.ErrInvalidArg},
		{netdef.MetadataTitle, "a\x01b", "", "", netdef.ErrXMLDetail},
		{netdef.MetadataElement, "<a/>", "", "u", netdef.ErrInvalidArg},
		{netdef.MetadataElement, "<a/>", "k", "", netdef.ErrInvalidArg},
		{netdef.MetadataElement, "<a", "k", "u", netdef.ErrXMLDetail},
		{netdef.MetadataElement, "<a/>", "1:k", "u", netdef.ErrInternal},
		{netdef.MetadataElement, "<a xmlns:k='y'/>", "k", "u", netdef.ErrInternal},
		{netdef.MetadataType(7), "x", "k", "u", netdef.ErrInvalidArg},
	} {
		if err := r.SetMetadata(t.Context(), i.UUID, bad.t, bad.value, bad.key, bad.uri, true, true); err == nil || netdef.CodeOf(err) != bad.code {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
