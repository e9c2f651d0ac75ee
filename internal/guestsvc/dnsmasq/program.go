package dnsmasq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/host"
)

const (
	// startLimit is how long dnsmasq may take until it serves.
	startLimit = 30 * time.Second
	// stopLimit is how long it may take to end before it is killed.
	stopLimit = 5 * time.Second
)

// program is where dnsmasq is.
func program(network string) (string, error) {
	for _, name := range []string{"dnsmasq", "/usr/sbin/dnsmasq", "/usr/local/sbin/dnsmasq"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("start dnsmasq for network '%s': the program dnsmasq is not installed; install it (Debian: dnsmasq-base), "+
		"or take <dnsmasq:options> and backend='dnsmasq' out of the network", network)
}

// arguments are those by which a running dnsmasq is known to be a network's.
func (c Config) arguments(conf string) []string { return []string{"--conf-file=" + c.file(conf)} }

// run runs dnsmasq until it has gone into the background, or has failed.
func run(path string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	// It goes on when this process ends, whoever sends signals to its group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(said.String()), "dnsmasq:"))
	if text == "" {
		return err
	}
	return errors.New(strings.ReplaceAll(text, "\n", "; "))
}

// find takes hold of the dnsmasq that runs with the network's files, or fails
// with fs.ErrNotExist. A number in a file alone proves nothing: the process may
// be another one since.
func (c Config) find() (*host.Process, error) {
	text, err := os.ReadFile(c.file(filePID))
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return nil, fs.ErrNotExist
	}
	p, err := host.OpenProcess(pid)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	// Asked after it is held, so that it is this process that answers.
	if !c.isServedBy(pid) {
		return nil, errors.Join(fs.ErrNotExist, p.Close())
	}
	return p, nil
}

// isServedBy reports whether the process was started with the network's configuration.
func (c Config) isServedBy(pid int) bool {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return false
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	return len(words) == 2 && filepath.Base(words[0]) == "dnsmasq" && words[1] == c.arguments(fileConf)[0]
}

// stop ends a dnsmasq and waits until it is gone.
func stop(p *host.Process) error {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.Signal(sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		select {
		case <-p.Done():
			return nil
		case <-time.After(stopLimit):
		}
	}
	return errors.New("it does not end")
}

// write writes a file whole or not at all, whatever the process's umask is.
func (c Config) write(name string, data []byte, mode os.FileMode) error {
	tmp := c.file("." + name + ".new")
	err := os.WriteFile(tmp, data, mode)
	if err == nil {
		err = os.Chmod(tmp, mode)
	}
	if err == nil {
		err = os.Rename(tmp, c.file(name))
	}
	return err
}

// makeDir makes the folder. dnsmasq reads it as an ordinary user.
func (c Config) makeDir() error {
	for _, dir := range []string{filepath.Dir(c.Dir), c.Dir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// writeHosts writes the files that dnsmasq reads again at SIGHUP.
func (c Config) writeHosts() error {
	return errors.Join(c.write(fileHosts, []byte(c.DHCPHosts), 0o644), c.write(fileNames, []byte(c.DNSHosts), 0o644))
}
