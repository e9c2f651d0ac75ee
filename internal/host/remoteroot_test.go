package host

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRemoteRoots(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"devices/platform/host3/session2/target3:0:0/block/sda/sda1", "devices/virtual/block/nbd0", "devices/virtual/block/dm-0/slaves",
		"devices/pci0/block/vda", "dev/block", "class/iscsi_connection/connection2:0"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{
		"dev/block/8:1":                          "devices/platform/host3/session2/target3:0:0/block/sda/sda1",
		"dev/block/43:0":                         "devices/virtual/block/nbd0",
		"dev/block/253:0":                        "devices/virtual/block/dm-0",
		"dev/block/254:0":                        "devices/pci0/block/vda",
		"devices/virtual/block/dm-0/slaves/sda1": "devices/platform/host3/session2/target3:0:0/block/sda/sda1",
	} {
		if err := os.Symlink(filepath.Join(dir, to), filepath.Join(dir, from)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "class/iscsi_connection/connection2:0/persistent_address"), []byte("192.0.2.9\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target := netip.MustParseAddr("192.0.2.9")
	for line, want := range map[string][]RemoteRoot{
		"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw":               nil,
		"22 1 0:20 / / rw - nfs4 server:/root rw,vers=4.2,addr=192.0.2.9,hard": {{"/", "nfs4", target}},
		"22 1 0:20 / /home rw - nfs4 server:/home rw,addr=192.0.2.9":           nil,
		"22 1 8:1 / / rw shared:1 master:2 - xfs /dev/sda1 rw":                 {{"/", "iscsi", target}},
		"22 1 253:0 / /usr rw - ext4 /dev/mapper/usr rw":                       {{"/usr", "iscsi", target}},
		"22 1 43:0 / / rw - ext4 /dev/nbd0 rw":                                 {{"/", "nbd", netip.Addr{}}},
		"nonsense":                                                             nil,
	} {
		if got := remoteRoots(line+"\n", sysfs(dir).blockOrigin); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
}
