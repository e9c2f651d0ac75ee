package cli

import (
	"os"
	"path/filepath"
	"testing"

	"viaduct/internal/guestconf"
)

// TestImageStaysInside plays a guest that laid links in its image to lead a
// writer out of it.
func TestImageStaysInside(t *testing.T) {
	outside, image := t.TempDir(), t.TempDir()
	for _, f := range []string{outside + "/etc", image + "/usr"} {
		if err := os.MkdirAll(f, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside+"/etc", image+"/etc"); err != nil {
		t.Fatal(err)
	}
	c := &call{app: &app{out: os.Stderr, output: formatTable}}
	file := []guestconf.File{{Path: "/etc/netplan/60-net0.yaml", Content: "network:\n"}}
	if err := c.writeFiles(image, file); err == nil {
		t.Error("a link out of the image is followed")
	}
	if left, _ := os.ReadDir(outside + "/etc"); len(left) > 0 {
		t.Errorf("outside there is now %v", left)
	}

	if err := os.Remove(image + "/etc"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := c.writeFiles(image, file); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(image, file[0].Path)); err != nil || string(b) != "network:\n" {
		t.Errorf("the file has %q, %v", b, err)
	}
}
