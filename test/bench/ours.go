package main

import (
	"fmt"
	"os"
	"path/filepath"

	"viaduct/internal/lab"
)

// ours is a host with our daemon.
type ours struct {
	manager
	host   *lab.Host
	daemon *lab.Daemon
}

// ourSocket is where the daemon answers virsh.
const ourSocket = "/run/libvirt/virtnetworkd-sock"

// newOurs makes a host whose daemon, not started yet, has the networks 0 to count-1
// defined, and as many of them marked for autostart.
func (b *bench) newOurs(name string, count, autostart int) *ours {
	h := b.lab.NewHost(lab.HostOptions{Name: name})
	o := &ours{manager: manager{b, h.Node, ourSocket}, host: h}
	o.daemon = h.NewDaemon(b.binary, lab.DaemonOptions{Args: []string{
		"--libvirt-sockets", filepath.Dir(ourSocket), "--libvirt-dir", "/nowhere", "--no-default", "--log-level", "warn",
	}})
	for n := range count {
		o.define(networkName(n), definition(n, "on"), n < autostart)
	}
	return o
}

// define gives a daemon that is not started yet a network.
func (o *ours) define(name, xml string, autostart bool) {
	o.b.must(o.host.Do(func() error {
		dir, file := filepath.Join(o.daemon.ConfigDir, "networks"), name+".xml"
		if err := os.MkdirAll(filepath.Join(dir, "autostart"), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(xml), 0o600); err != nil {
			return err
		}
		if !autostart {
			return nil
		}
		return os.Symlink(filepath.Join("..", file), filepath.Join(dir, "autostart", file))
	}))
}

// startOurs is newOurs with the daemon running.
func (b *bench) startOurs(name string, count, autostart int) *ours {
	o := b.newOurs(name, count, autostart)
	b.must(o.daemon.Start())
	return o
}

// replace gives a network, which is inactive, another definition.
func (o *ours) replace(n int, xml string) {
	o.viaduct("net-define", o.file(networkName(n), xml))
}

// file writes a definition where the host sees it and returns its path.
func (o *ours) file(name, xml string) string {
	path := fmt.Sprintf("/tmp/%s.xml", name)
	o.host.WriteFile(path, xml)
	return path
}

// viaduct runs a command that has to succeed.
func (o *ours) viaduct(args ...string) {
	_, err := o.daemon.Viaduct(o.b.ctx, args...)
	o.b.must(err)
}

// memory is the daemon's proportional share of memory, in KiB.
func (o *ours) memory() float64 {
	pss, err := o.b.processMemory(o.host.Node, "viaduct")
	o.b.must(err)
	return pss
}
