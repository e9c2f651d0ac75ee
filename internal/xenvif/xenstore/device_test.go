package xenstore

import (
	"path/filepath"
	"syscall"
	"testing"
)

// A pipe that is open at both ends says back what it is told: a request looks
// like its own answer. So the messages and the end are those of a file.
func TestDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xenbus")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Read(t.Context(), "name"); err != nil || got != "name\x00" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
