// Package systemd runs the daemon as a service of a real systemd: what `make
// install` puts on a host, started, killed, denied and rebooted there, beside
// the real programs that systemd runs for hosts with libvirt or netplan.
package systemd

import (
	"os"
	"path/filepath"
	"testing"

	"viaduct/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(run(m))
}

// scratch is a folder that lasts as long as the tests.
var scratch string

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "systemd")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	scratch = dir
	return m.Run()
}

// in is a path in scratch.
func in(elem ...string) string { return filepath.Join(append([]string{scratch}, elem...)...) }
