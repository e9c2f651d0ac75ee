// Package xen runs the daemon in the dom0 of a real Xen, in an emulated
// machine, with guests that xl starts.
package xen

import (
	"os"
	"testing"

	"viaduct/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// need skips the test, saying why, where the machine lacks what an emulated one
// needs; on the project's own machines the test fails.
func need(t *testing.T) {
	t.Helper()
	lab.NeedTools(t, "qemu-system-x86_64", "busybox", "cpio", "depmod", "apt-get", "dpkg-deb", "nft", "ip", "bridge", "tc", "nsenter", "ldd", "xz")
}
