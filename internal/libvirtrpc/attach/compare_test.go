package attach

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// paper is an engine that has definitions and nothing else.
type paper map[netdef.UUID]string

func (p paper) Networks() []engine.Info                           { return nil }
func (p paper) Subscribe() *engine.Subscription                   { return nil }
func (p paper) XML(id netdef.UUID, inactive bool) (string, error) { return p[id], nil }

// image is what libvirtd is to have for a network of the definition.
func image(t *testing.T, name string, id byte, active bool, xml string) network {
	t.Helper()
	info := engine.Info{Name: name, UUID: netdef.UUID{15: id}, Active: active}
	w, err := wish(paper{info.UUID: "<network><name>" + name + "</name><uuid>" + info.UUID.String() + "</uuid>" + xml + "</network>"}, info)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

const lan = "<title>t</title><forward mode='nat'/><bridge name='virbr1'/><bandwidth><inbound average='1'/></bandwidth>" +
	"<ip address='192.0.2.1' prefix='24'/><portgroup name='g'><bandwidth><inbound average='2'/></bandwidth></portgroup>"

// libvirtd is told of the bridge and of what it does to guests' taps, and of
// nothing that we do.
func TestImage(t *testing.T) {
	got := image(t, "lan", 1, true, lan)
	want := `<network>
  <name>lan</name>
  <uuid>00000000-0000-0000-0000-000000000001</uuid>
  <metadata>
    <viaduct:attached xmlns:viaduct="urn:viaduct:attached:1"/>
  </metadata>
  <forward mode='bridge'/>
  <bridge name='virbr1'/>
  <portgroup name='g'>
    <bandwidth>
      <inbound average='2'/>
    </bandwidth>
  </portgroup>
</network>
`
	if diff := cmp.Diff(want, got.config); diff != "" || got.live != got.config {
		t.Errorf("definition (-want +got):\n%s\nlive:\n%s", diff, got.live)
	}
}

func TestCompare(t *testing.T) {
	up, down := image(t, "lan", 1, true, lan), image(t, "lan", 1, false, lan)
	marked := up
	marked.autostart = true
	moved := image(t, "lan", 1, true, strings.ReplaceAll(lan, "virbr1", "virbr9"))
	halfMoved := moved
	halfMoved.live = up.live
	another := image(t, "lan", 2, true, lan)
	theirs := network{name: "lan", id: netdef.UUID{15: 7}, config: "<network/>", active: true, live: "<network/>"}
	transient := up
	transient.config = ""
	unbridged := image(t, "pool", 3, true, "<forward mode='private'><interface dev='eth0'/></forward>")
	for _, c := range []struct {
		name         string
		wanted, have []network
		steps        string
	}{
		{"new", []network{up}, nil, "define lan, start lan"},
		{"new and inactive", []network{down}, nil, "define lan"},
		{"the same", []network{up}, []network{up}, ""},
		{"started", []network{up}, []network{down}, "start lan"},
		{"stopped", []network{down}, []network{up}, "stop lan"},
		{"marked", []network{marked}, []network{up}, "autostart lan"},
		{"unmarked", []network{up}, []network{marked}, "no autostart lan"},
		{"another bridge", []network{moved}, []network{up}, "define lan, stop lan, start lan"},
		{"another bridge, cut short", []network{moved}, []network{halfMoved}, "stop lan, start lan"},
		{"defined anew", []network{another}, []network{up}, "stop lan, undefine lan, define lan, start lan"},
		{"gone", nil, []network{up, theirs}, "stop lan, undefine lan"},
		{"gone while stopped", nil, []network{down}, "undefine lan"},
		{"undefined by hand", []network{up}, []network{transient}, "define lan"},
		{"theirs", []network{up}, []network{theirs}, "leave lan"},
		{"no bridge", []network{unbridged}, nil, "leave pool"},
	} {
		steps, err := compare(c.wanted, c.have)
		var got []string
		for _, s := range steps {
			got = append(got, string(s.Action)+" "+s.Network)
			if (s.Action == Leave) != (s.Reason != "") {
				t.Errorf("%s: %+v has a reason or none", c.name, s)
			}
		}
		if text := strings.Join(got, ", "); text != c.steps || err != nil {
			t.Errorf("%s: %q, %v, want %q", c.name, text, err, c.steps)
		}
	}

	ourselves := theirs
	ourselves.id = up.id
	var refused *netdef.Error
	if _, err := compare([]network{up}, []network{ourselves}); !errors.As(err, &refused) {
		t.Errorf("a daemon that asks us: %v, want a refusal", err)
	}
}
