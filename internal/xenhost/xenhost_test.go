package xenhost

import (
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/xenstore"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

var update = flag.Bool("update", false, "write the expected texts anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s:\n%s", path, got)
	}
}

func TestImport(t *testing.T) {
	f, err := Import(os.DirFS("testdata/host"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range f.Understood {
		b.WriteString("+ " + s + "\n")
	}
	for _, s := range f.Open {
		b.WriteString("? " + s + "\n")
	}
	for _, n := range f.Networks {
		b.WriteString(n.Format(netdef.FormatOptions{}))
	}
	golden(t, "host.import", b.String())
}

func TestImportOfNothing(t *testing.T) {
	f, err := Import(os.DirFS(t.TempDir()))
	if err != nil || len(f.Networks)+len(f.Understood)+len(f.Open) > 0 {
		t.Errorf("found %+v, %v in an empty folder", f, err)
	}
}

func TestOldScriptsOfXend(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{"(network-script network-nat)", "translates guests' addresses"},
		{"(network-script 'network-route netdev=eth1')", "routes to guests"},
		{"(network-script network-dummy)", "makes no network"},
		{"(network-script /etc/xen/scripts/my-network)", "my-network is not one of Xen's"},
		{"(vif-script vif-mine)", "vif-mine is not one of Xen's bridge, route and nat"},
	} {
		root := t.TempDir()
		if err := os.MkdirAll(root+"/etc/xen", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+"/etc/xen/xend-config.sxp", []byte(c.config), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := Import(os.DirFS(root))
		if err != nil {
			t.Fatal(err)
		}
		if said := strings.Join(append(f.Understood, f.Open...), "\n"); !strings.Contains(said, c.want) {
			t.Errorf("%s: says\n%s\nwant %q", c.config, said, c.want)
		}
	}
}

func TestParseGuest(t *testing.T) {
	g, odd := ParseGuest("name='a'\nbuilder = hvm; vif=[]\nargs = \"\"\"x\ny\"\"\"\nvif = [ 'one', \"two\" ,]\n")
	if g.Name != "a" || !slices.Equal(g.Vifs, []string{"one", "two"}) || len(odd) > 0 {
		t.Errorf("%+v, %q", g, odd)
	}
	for text, want := range map[string]string{
		"vif = [ 'a'":           "line 1: the value of vif cannot be read",
		"\n\nvif = [ 'a' 'b' ]": "line 3: the value of vif cannot be read",
		"name = 'a":             "line 1: the value of name cannot be read",
		"= 5":                   "line 1 is no setting",
	} {
		if _, odd := ParseGuest(text); len(odd) == 0 || odd[0] != want {
			t.Errorf("%q: %q, want %q", text, odd, want)
		}
	}
}

func FuzzParseGuest(f *testing.F) {
	f.Add("name = 'alice'\nvif = [ 'bridge=xenbr0', '' ]\n")
	f.Add("x=[[\n\"\"\"")
	f.Fuzz(func(t *testing.T, text string) {
		if g, _ := ParseGuest(text); len(g.Vifs) > len(text) {
			t.Errorf("%d interfaces out of %d bytes", len(g.Vifs), len(text))
		}
		ParseXend(text)
		ParseInterfaces(text)
		if c := ParseXLConf(SetDefaultScript(text)); c.Script != DefaultScript {
			t.Errorf("the default script is %q", c.Script)
		}
		if again := SetDefaultScript(SetDefaultScript(text)); again != SetDefaultScript(text) {
			t.Errorf("set twice it is %q", again)
		}
	})
}

// TestInstall: what was there before is there after a removal, and doing it
// twice does nothing more.
func TestInstall(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, scriptsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(scriptsDir+"/vif-bridge", "#!/bin/bash\n")
	write(xlConf, "autoballoon=1\nvif.default.script=\"vif-route\"\n")
	before := tree(t, root)
	i := Installer{Root: root, Binary: "/usr/bin/viaduct", EnforceRate: true}
	carry := func(changes []Change, err error) int {
		t.Helper()
		if err == nil {
			err = Carry(changes)
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(changes)
	}
	carry(i.Install())
	for _, name := range ScriptNames {
		if to, err := os.Readlink(filepath.Join(dir, name)); err != nil || to != i.Binary {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(root, xlConf))
	if err != nil || ParseXLConf(string(text)).Script != DefaultScript {
		t.Errorf("xl.conf: %v\n%s", err, text)
	}
	n := &netdef.Network{Name: "xen-nat"}
	settings, err := os.ReadFile(filepath.Join(root, settingsDoc))
	if err == nil {
		n, err = n.WithSettings(string(settings), "<ports layout='routed'/>")
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, err := n.Settings(); err != nil || !s.EnforceRate || !s.Routed {
		t.Errorf("the settings are %+v, %v", s, err)
	}
	if again := carry(i.Install()); again > 0 {
		t.Errorf("a second installation changes %d things", again)
	}
	// As when the script's own program was put beside this one since.
	i.Binary, i.Also = i.Binary+"-vif", i.Binary
	if again := carry(i.Install()); again > 0 {
		t.Errorf("an installation by two programs changes %d things of one's", again)
	}
	// What the admin wrote stays, and is not written over.
	write(settingsDoc, "<settings xmlns='urn:viaduct:settings:1'/>")
	if _, err := i.Install(); err == nil {
		t.Error("settings are written over")
	}
	if changes, err := i.Remove(); err != nil || slices.ContainsFunc(changes, func(c Change) bool { return c.Path == "/"+settingsDoc }) {
		t.Errorf("somebody's settings are removed: %v, %v", changes, err)
	}
	write(settingsDoc, string(settings))
	carry(i.Remove())
	if after := tree(t, root); after != before {
		t.Errorf("after a removal:\n%s\nbefore:\n%s", after, before)
	}
	if again := carry(i.Remove()); again > 0 {
		t.Errorf("a second removal changes %d things", again)
	}
}

func TestInstallNeedsXen(t *testing.T) {
	root := t.TempDir()
	if _, err := (Installer{Root: root, Binary: "/usr/bin/viaduct"}).Install(); err == nil {
		t.Error("it installs scripts where there is no Xen")
	}
	if made, err := os.ReadDir(root); err != nil || len(made) > 0 {
		t.Errorf("it has made %v, %v", made, err)
	}
}

// A script that somebody put in place of our link is not thrown away.
func TestRemoveKeepsNewFiles(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, scriptsDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vif-bridge", "vif-bridge" + savedSuffix} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (Installer{Root: root, Binary: "/usr/bin/viaduct"}).Remove(); err == nil || !strings.Contains(err.Error(), "vif-bridge is another file now") {
		t.Errorf("removal says %v", err)
	}
}

// tree is the content of a folder as text.
func tree(t *testing.T, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		info, _ := d.Info()
		b.WriteString(path + " " + info.Mode().String() + "\n" + string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestList(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	s := xenstoretest.Serve(l)
	defer s.Close()
	for key, value := range map[string]string{
		"/local/domain/12/name": "bob", "/local/domain/12/vm": "/vm/5d0f0a3e-8a4a-4d0e-9a5e-0c9b1f1c7a02",
		"/local/domain/5/name":  "alice",
		"backend/vif/5/1/state": "4", "backend/vif/5/1/mac": "00:16:3e:00:00:02", "backend/vif/5/1/rate": "62500,50000", "backend/vif/5/1/ip": "10.9.0.2",
		"backend/vif/5/0/state": "4", "backend/vif/5/0/vifname": "alice0", "backend/vif/5/0/bridge": "xenbr0", "backend/vif/5/0/script": "/etc/xen/scripts/vif-bridge",
		"backend/vif/12/0/state": "2", "backend/vif/12/0/hotplug-error": "no such bridge",
	} {
		s.Set(key, value)
	}
	c, err := xenstore.Dial(context.Background(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	vifs, err := List(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range vifs {
		rate := ""
		if v.Rate != nil {
			rate = v.Rate.String()
		}
		got = append(got, strings.Join([]string{v.Domain, v.Link, v.MAC.String(), v.Bridge, v.Script, v.IPs, rate, v.State, v.Trouble}, "|"))
	}
	want := []string{
		"alice|alice0|00:00:00:00:00:00|xenbr0|vif-bridge|||connected|",
		"alice|vif5.1|00:16:3e:00:00:02|||10.9.0.2|62500,50000|connected|",
		"bob|vif12.0|00:00:00:00:00:00|||||waiting|no such bridge",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if vifs[2].UUID.IsZero() {
		t.Error("bob has no UUID")
	}
}
