package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// xenFolder has the files of Xen's tools.
const xenFolder = "/etc/xen"

// files is all that is in a folder, as a text.
func files(w *world, dir string) string {
	var b strings.Builder
	w.must(filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %v\n", path, info.Mode())
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			fmt.Fprintf(&b, "%s -> %s\n", path, to)
			return err
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			fmt.Fprintf(&b, "%s: %q\n", path, content)
			return err
		}
		return nil
	}))
	return b.String()
}

// lists fails the step unless xen-list shows of links what is expected.
func (w *world) lists(want map[string]string) {
	out := w.run("viaduct", "xen-list")
	for line := range strings.Lines(out) {
		words := strings.Fields(line)
		if len(words) < 3 || want[words[2]] == "" {
			continue
		}
		link := words[2]
		if got := strings.Join(append(words[:2], words[3:]...), " "); got == want[link] {
			delete(want, link)
		}
	}
	if len(want) > 0 {
		w.Errorf("xen-list does not show %q but\n%s", want, out)
	}
}

// interfaces is a bridge of the host's in Debian's configuration, and
// defaultBridge what xl.conf says beside.
const (
	interfaces    = "auto xenbr7\niface xenbr7 inet manual\n\tbridge_ports none\n"
	defaultBridge = "vif.default.bridge=\"xenbr7\"\n"
)

// importXen: what import-xen makes of the files of a Xen host is a network that a
// guest of theirs gets into.
func importXen(w *world) {
	const conf = xenFolder + "/xl.conf"
	old, err := os.ReadFile(conf)
	w.must(err)
	w.Cleanup(func() { w.must(os.WriteFile(conf, old, 0o644)) })
	w.must(os.WriteFile(conf, append(old[:len(old):len(old)], defaultBridge...), 0o644))
	w.must(os.MkdirAll("/etc/network", 0o755))
	w.must(os.WriteFile("/etc/network/interfaces", []byte(interfaces), 0o644))
	w.run("ip", "link", "add", "xenbr7", "type", "bridge")
	w.Cleanup(func() { w.run("ip", "link", "del", "xenbr7") })
	w.run("ip", "addr", "add", "10.9.0.1/24", "dev", "xenbr7")
	w.run("ip", "link", "set", "xenbr7", "up")
	g := w.guest("zoe", "mac=00:16:3e:00:00:26,ip=10.9.0.2")
	w.Cleanup(g.destroy)
	config := xenFolder + "/zoe.cfg"
	text, err := os.ReadFile(g.config)
	w.must(err)
	w.must(os.WriteFile(config, text, 0o644))
	w.Cleanup(func() { w.must(os.Remove(config)) })
	g.config = config

	said := w.run("viaduct", "import-xen")
	for _, want := range []string{"the default bridge of interfaces is xenbr7", "the default script of interfaces is vif-viaduct", "network xenbr7: defined"} {
		if !strings.Contains(said, want) {
			w.Errorf("import-xen does not say %q but\n%s", want, said)
		}
	}
	w.run("viaduct", "net-start", "xenbr7")
	w.Cleanup(func() {
		w.run("viaduct", "net-destroy", "xenbr7")
		w.run("viaduct", "net-undefine", "xenbr7")
	})
	w.create(g)
	if ports := w.run("viaduct", "port-list", "xenbr7"); !strings.Contains(ports, g.link(0)) {
		w.Errorf("the guest is not in the network:\n%s", ports)
	}
	g.byHand("eth0", "10.9.0.2/24", "10.9.0.1")
	g.reaches("10.9.0.1")
}

// takeBack: xen-install --remove leaves Xen's files as they were.
func takeBack(w *world) {
	if now := files(w, xenFolder); !strings.Contains(now, "/vif-viaduct -> /usr/bin/viaduct-vif") {
		w.Errorf("the script is not there:\n%s", strings.Join(difference(w.untouched, now), "\n"))
	}
	w.run("viaduct", "xen-install", "--remove")
	if _, err := os.Stat("/etc/viaduct/xen.xml"); err == nil {
		w.Errorf("the settings are still there")
	}
	if differs := difference(w.untouched, files(w, xenFolder)); differs != nil {
		w.Errorf("left behind, or gone:\n%s", strings.Join(differs, "\n"))
	}
}
