package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	left, err := OpenProcess(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
		t.Error("it has not ended")
	case <-left.Done():
		t.Error("letting go is no end")
	default:
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Error("its end is not told")
	}
	cmd.Wait()
	if err := p.Signal(syscall.SIGTERM); err == nil {
		t.Error("signalled a process that is gone")
	}
	if _, err := OpenProcess(cmd.Process.Pid); err == nil {
		t.Error("opened a process that is gone")
	}
}

func TestWatchFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := WatchFile(path); err == nil {
		t.Error("watched a file that is not there")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := WatchFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.Changed():
	case <-time.After(30 * time.Second):
		t.Error("the change is not told")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
