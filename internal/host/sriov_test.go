package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

// fakeSysfs is a host with a device that has eleven virtual functions, of which
// the last has no driver.
func fakeSysfs(t *testing.T) sysfs {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pf := filepath.Join(root, "devices/pci0000:00/0000:03:00.0")
	must(os.MkdirAll(filepath.Join(pf, "net/eth3"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "class/net/eth3"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "class/net/lo"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "bus/pci/devices"), 0o755))
	must(os.Symlink(pf, filepath.Join(root, "class/net/eth3/device")))
	must(os.Symlink(pf, filepath.Join(root, "bus/pci/devices/0000:03:00.0")))
	for i := range 11 {
		address := netdef.PCIAddress{Bus: 3, Slot: 0x10 + uint(i)/8, Function: uint(i) % 8}
		vf := filepath.Join(filepath.Dir(pf), address.String())
		must(os.MkdirAll(vf, 0o755))
		if i < 10 {
			must(os.MkdirAll(filepath.Join(vf, "net", "eth3v"+string(rune('0'+i))), 0o755))
		}
		must(os.Symlink("../0000:03:00.0", filepath.Join(vf, "physfn")))
		must(os.Symlink("../"+address.String(), filepath.Join(pf, "virtfn"+[]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}[i])))
		must(os.Symlink(vf, filepath.Join(root, "bus/pci/devices", address.String())))
	}
	return sysfs(root)
}

func TestVirtualFunctions(t *testing.T) {
	s := fakeSysfs(t)
	vfs, err := s.virtualFunctions("eth3")
	if err != nil || len(vfs) != 11 {
		t.Fatalf("%v, %v", vfs, err)
	}
	for i, want := range map[int]VF{
		0:  {netdef.PCIAddress{Bus: 3, Slot: 0x10}, "eth3v0"},
		9:  {netdef.PCIAddress{Bus: 3, Slot: 0x11, Function: 1}, "eth3v9"},
		10: {netdef.PCIAddress{Bus: 3, Slot: 0x11, Function: 2}, ""},
	} {
		if diff := cmp.Diff(want, vfs[i]); diff != "" {
			t.Errorf("function %d:\n%s", i, diff)
		}
		if !s.isVF(vfs[i].Address) {
			t.Errorf("%s does not pass for a virtual function", vfs[i].Address)
		}
	}
	for _, device := range []string{"lo", "none"} {
		if vfs, err := s.virtualFunctions(device); err != nil || len(vfs) > 0 {
			t.Errorf("%s: %v, %v", device, vfs, err)
		}
	}
	if s.isVF(netdef.PCIAddress{Bus: 3}) || s.isVF(netdef.PCIAddress{Bus: 9}) {
		t.Error("a physical function, or nothing, passes for a virtual one")
	}
}

// No address makes the parser panic, and what it reads is what the kernel wrote.
func FuzzParsePCI(f *testing.F) {
	for _, seed := range []string{"0000:03:10.1", "10000:e1:00.0", "", "::.", "0000:03:10", "0000:03:1x.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if a, err := parsePCI(text); err == nil && a.String() != text {
			t.Errorf("%q reads as %s", text, a)
		}
	})
}
