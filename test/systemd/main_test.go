// Package systemd runs the daemon as a service of a real systemd: what `make
// install` puts on a host, started, killed, denied and rebooted there, beside
// the real programs that systemd runs for hosts with libvirt or netplan.
package systemd

import (
	"path/filepath"
	"testing"

	"viaduct/internal/lab"
)

// scratch is a folder that lasts as long as the tests.
var scratch string

func TestMain(m *testing.M) {
	lab.InScratch("systemd", func(dir string) int {
		scratch = dir
		return m.Run()
	})
}

// in is a path in scratch.
func in(elem ...string) string { return filepath.Join(append([]string{scratch}, elem...)...) }
