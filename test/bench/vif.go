package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"viaduct/internal/lab"
	"viaduct/internal/xenvif/hotplug"
	"viaduct/internal/xenvif/xenstore/xenstoretest"
)

const (
	storeSocket   = "/run/xenstored/socket"
	scriptsFolder = "/etc/xen/scripts/"
	parallelVifs  = 100
)

// debianScripts is where test/deps.sh puts Debian's package xen-utils-common.
const debianScripts = "/usr/local/lib/viaduct-test/xen-utils-common/etc/xen/scripts"

// xenHost is a host with a store, scripts, and links that stand for vifs.
type xenHost struct {
	*lab.Host
	b     *bench
	store *xenstoretest.Server
	// guests are at the other ends of the links.
	guests *lab.Node
	env    []string
}

// newXenHost makes a host with the scripts that put installs, a bridge br0 of
// its own and the vif 0 of as many domains.
func (b *bench) newXenHost(name string, domains int, put func(h *xenHost)) *xenHost {
	h := &xenHost{Host: b.lab.NewHost(lab.HostOptions{Name: name}), b: b}
	var l net.Listener
	b.must(h.Do(func() (err error) {
		for _, dir := range []string{scriptsFolder, filepath.Dir(storeSocket)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		l, err = net.Listen("unix", storeSocket)
		return err
	}))
	h.store = xenstoretest.Serve(l)
	h.env = []string{"XENSTORED_PATH=" + storeSocket}
	put(h)
	h.AddBridge("br0")
	h.LinkUp("br0")
	h.guests = b.lab.Node(name + "-guests")
	for d := 1; d <= domains; d++ {
		h.attach(d)
		for key, value := range map[string]string{
			"frontend": fmt.Sprintf("/local/domain/%d/device/vif/0", d), "frontend-id": fmt.Sprint(d), "handle": "0", "bridge": "br0",
			"mac": fmt.Sprintf("00:16:3e:00:00:%02x", d), "ip": fmt.Sprintf("203.0.113.%d", 100+d), "hotplug-status": "",
		} {
			h.store.Set(fmt.Sprintf("backend/vif/%d/0/%s", d, key), value)
		}
	}
	return h
}

// attach makes a domain's vif as netback does: down, and in no bridge.
func (h *xenHost) attach(domain int) {
	h.b.lab.Connect(h.Node, vifName(domain), h.guests, fmt.Sprintf("eth%d", domain), lab.WireOptions{})
	h.LinkDown(vifName(domain))
}

func vifName(domain int) string { return fmt.Sprintf("vif%d.0", domain) }

// run runs a script for a domain's vif, which has to succeed.
func (h *xenHost) run(face, command string, domain int) (time.Duration, error) {
	path := fmt.Sprintf("backend/vif/%d/0", domain)
	began := time.Now()
	r, err := h.RunCommand(h.b.ctx, lab.Command{
		Argv: []string{scriptsFolder + face, command, "type_if=vif"},
		Env:  append([]string{"XENBUS_TYPE=vif", "XENBUS_PATH=" + path, "vif=" + vifName(domain), "netdev=eth0", "script=" + scriptsFolder + face}, h.env...),
	})
	took := time.Since(began)
	if status := h.store.Get(path + "/hotplug-status"); err == nil && command == "online" && status != "connected" {
		err = fmt.Errorf("hotplug-status is %q", status)
	}
	if err != nil {
		err = fmt.Errorf("%s %s for %s: %w: %s %s", face, command, vifName(domain), err, h.store.Get(path+"/hotplug-error"), r.Stderr)
	}
	h.store.Set(path+"/hotplug-status", "")
	return took, err
}

// vif runs Xen's hotplug script, ours and Debian's in turn, for one vif and then
// for many at once.
func (b *bench) vif() {
	lab.Need(b, "xenstore-read", "ifconfig")
	ours := b.newXenHost("vif-ours", parallelVifs, func(h *xenHost) {
		d := h.NewDaemon(b.binary, lab.DaemonOptions{Args: []string{"--libvirt-dir", "/nowhere", "--log-level", "warn"}})
		b.must(d.Start())
		h.env = append(h.env, "VIADUCT_SOCKET="+d.Socket)
		script := filepath.Join(filepath.Dir(b.binary), "viaduct-vif") // as xen-install would
		h.Share(script)
		b.must(h.Do(func() error {
			for _, face := range hotplug.Faces {
				if err := os.Symlink(script, scriptsFolder+face); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	theirs := b.newXenHost("vif-debian", parallelVifs, func(h *xenHost) {
		files, _ := filepath.Glob(debianScripts + "/*")
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil { // else it is a folder
				h.WriteScript(scriptsFolder+filepath.Base(file), strings.ReplaceAll(string(text), "/var/log/xen/", "/tmp/"))
			}
		}
	})
	both := []*xenHost{ours, theirs}
	for _, face := range []string{"vif-bridge", "vif-route", "vif-nat"} {
		if face == "vif-nat" { // which needs the lower half of a subnet
			for _, h := range both {
				h.store.Set("backend/vif/1/0/ip", "10.1.0.1")
				h.store.Set("backend/vif/2/0/ip", "10.1.0.2")
			}
		}
		for _, h := range both { // the host has another guest
			_, err := h.run(face, "online", 2)
			b.must(err)
		}
		times := map[*xenHost][]time.Duration{}
		for range b.scale.vifs {
			for _, h := range both {
				online, err := h.run(face, "online", 1)
				b.must(err)
				h.DeleteLink(vifName(1)) // as netback does, before the script is told
				offline, err := h.run(face, "offline", 1)
				b.must(err)
				times[h] = append(times[h], online+offline)
				h.attach(1)
			}
		}
		for _, h := range both {
			h.DeleteLink(vifName(2))
			_, err := h.run(face, "offline", 2)
			b.must(err)
			h.attach(2)
		}
		us, them := median(times[ours]), median(times[theirs])
		b.report.add(atLeast(fmt.Sprintf("%s online and offline beside another guest, median of %d", face, b.scale.vifs), millis(us), "Debian's script "+millis(them), quotient(them, us), 5))
	}
	us, them := ours.all("vif-bridge"), theirs.all("vif-bridge")
	b.report.add(atLeast(fmt.Sprintf("the same of %d vifs at once, until the last", parallelVifs), millis(us), "Debian's script "+millis(them), quotient(them, us), 1))
}

// all brings all vifs online at once, and then offline.
func (h *xenHost) all(face string) time.Duration {
	began := time.Now()
	for _, command := range []string{"online", "offline"} {
		var wg sync.WaitGroup
		failed := make([]error, parallelVifs)
		for i := range parallelVifs {
			wg.Go(func() { _, failed[i] = h.run(face, command, i+1) })
		}
		wg.Wait()
		for _, err := range failed {
			h.b.must(err)
		}
	}
	return time.Since(began)
}
