// Package vm runs the daemon in a virtual machine with an older kernel, where
// the power can be cut.
package vm

import (
	"testing"

	"viaduct/internal/lab"
)

// scratch is a folder that lasts as long as the tests.
var scratch string

func TestMain(m *testing.M) {
	lab.InScratch("vm", func(dir string) int {
		scratch = dir
		return m.Run()
	})
}

// need skips the test, saying why, where the machine lacks what a virtual one
// needs; on the project's own machines the test fails.
func need(t *testing.T) {
	t.Helper()
	lab.NeedTools(t, "qemu-system-x86_64", "mke2fs", "busybox", "cpio", "depmod", "apt-get", "dpkg-deb", "nft", "bridge", "ldd")
}

func goBuild(pkg, name string) (string, error) { return lab.Build(scratch, pkg, name) }
