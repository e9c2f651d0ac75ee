package libvirtfiles

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"viaduct/internal/netdef"
)

const lanXML = `<network><name>lan</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid><forward mode='nat'/><bridge name='virbr7'/>
<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.2' end='192.0.2.9'/></dhcp></ip><ip family='ipv6' address='2001:db8::1' prefix='64'/></network>`

const leasesJSON = `[
  {"ip-address": "192.0.2.5", "mac-address": "52:54:00:00:00:05", "hostname": "five", "client-id": "01:52:54:00:00:00:05", "expiry-time": 1770000000},
  {"iaid": "7", "ip-address": "2001:db8::5", "mac-address": "52:54:00:00:00:05", "client-id": "00:01:02", "server-duid": "00:01:ff", "expiry-time": 0},
  {"ip-address": "198.51.100.5", "mac-address": "52:54:00:00:00:06", "expiry-time": 1}
]`

// tree makes libvirt's folders with one active network.
func tree(t *testing.T) Paths {
	t.Helper()
	root := t.TempDir()
	p := Paths{Config: filepath.Join(root, "etc"), Run: filepath.Join(root, "run"), State: filepath.Join(root, "lib")}
	for path, text := range map[string]string{
		p.definition("lan"): "<!--\nWARNING\n-->\n\n" + lanXML,
		p.status("lan"): "<!--\nWARNING\n-->\n<networkstatus>\n  <class_id bitmap='0-2'/>\n  <floor sum='0'/>\n" + lanXML +
			"<firewall name='fwRemoval' backend='nftables'><group><network/></group></firewall></networkstatus>",
		p.pid("lan"):                  "4711\n",
		p.ports("lan") + "/u.xml":     "<networkport/>",
		p.Leases("virbr7"):            leasesJSON,
		p.Run + "/network/driver.pid": "42",
		p.definition("other"):         "<network><name>another</name></network>",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(p.autostart("lan")), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.definition("lan"), p.autostart("lan")); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRead(t *testing.T) {
	p := tree(t)
	networks, errs := Read(p)
	if len(networks) != 1 || len(errs) != 1 || !strings.Contains(errs[0].Error(), "it is about network 'another'") {
		t.Fatalf("networks %v, errors %v", networks, errs)
	}
	n := networks[0]
	want := Network{
		Name: "lan", UUID: n.UUID, Config: "<!--\nWARNING\n-->\n\n" + lanXML, Live: lanXML, Autostart: true, Bridge: "virbr7", Dnsmasq: 4711,
		Ports: []string{"<networkport/>"}, Lasting: []string{p.definition("lan"), p.autostart("lan")},
		Passing: []string{p.status("lan"), p.pid("lan"), p.ports("lan") + "/u.xml"},
	}
	if diff := cmp.Diff(want, n, cmpopts.IgnoreFields(Network{}, "Leases")); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
	if len(n.Leases) != 2 {
		t.Fatalf("leases %+v", n.Leases)
	}
	four, six := n.Leases[0], n.Leases[1]
	if four.Hostname != "five" || four.PrefixLen != 24 || four.Expiry != time.Unix(1770000000, 0) || len(four.ClientID) != 7 {
		t.Errorf("lease %+v", four)
	}
	if six.IAID != 7 || six.PrefixLen != 64 || !six.Expiry.IsZero() {
		t.Errorf("lease %+v", six)
	}
	if p.Driver() != 42 {
		t.Errorf("driver %d", p.Driver())
	}
}

// What was recorded and removed comes back as it was, but for the leases.
func TestRecord(t *testing.T) {
	p := tree(t)
	networks, _ := Read(p)
	n, dir := networks[0], filepath.Join(t.TempDir(), "imported")
	if _, err := n.Record(dir); err != nil {
		t.Fatal(err)
	}
	if err := n.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := Read(p); len(left) != 0 {
		t.Fatalf("libvirt still knows %v", left)
	}
	records, err := Records(dir)
	if err != nil || len(records) != 1 || !records[0].Active || records[0].UUID != n.UUID {
		t.Fatalf("records %+v, %v", records, err)
	}
	later := n.Leases[1]
	later.Hostname = "six"
	if err := records[0].Restore(p, true, []netdef.Lease{later}); err != nil {
		t.Fatal(err)
	}
	again, _ := Read(p)
	n.Leases = []netdef.Lease{later}
	if diff := cmp.Diff([]Network{n}, again, cmpopts.EquateComparable(netdef.Lease{}.Addr)); diff != "" {
		t.Errorf("restored (-was +is):\n%s", diff)
	}
	text, _ := os.ReadFile(p.Leases("virbr7"))
	if ServerDUID(text) != "00:01:ff" {
		t.Errorf("the leases no longer tell the server:\n%s", text)
	}
	if err := records[0].Forget(); err != nil {
		t.Fatal(err)
	}
	if records, err = Records(dir); err != nil || len(records) != 0 {
		t.Errorf("records %+v, %v", records, err)
	}
}

func FuzzParseLeases(f *testing.F) {
	f.Add([]byte(leasesJSON))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ParseLeases(data)
		if err != nil {
			return
		}
		text, err := FormatLeases(list, "")
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseLeases(text); err != nil || len(again) != len(list) {
			t.Fatalf("%d leases become %d, %v:\n%s", len(list), len(again), err, text)
		}
	})
}

func FuzzLiveDefinition(f *testing.F) {
	f.Add([]byte("<networkstatus><class_id bitmap='0-2'/>" + lanXML + "</networkstatus>"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if text, err := liveDefinition(data); err == nil && !strings.HasPrefix(text, "<") {
			t.Fatalf("%q", text)
		}
	})
}

func TestPIDFileOfOddName(t *testing.T) {
	if got, want := (Paths{Run: "/run/libvirt"}).pid("it's"), "/run/libvirt/network/it&apos;s.pid"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
