package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"viaduct/internal/uplink"
)

// hostFiles is the host as uplink.System.
type hostFiles struct{}

func (hostFiles) Root() fs.FS { return os.DirFS("/") }

func (hostFiles) Write(path, content string, mode uint32) error {
	perm := fs.FileMode(0o644)
	if mode != 0 {
		perm = fs.FileMode(mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, []byte(content), perm, renameio.WithExistingPermissions(), renameio.IgnoreUmask())
}

func (hostFiles) Remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// commandLimit is how long a command of a network manager may take: it may wait
// for a lease.
const commandLimit = 90 * time.Second

func (hostFiles) Run(ctx context.Context, argv []string) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// What it starts in the background does not keep it waiting.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}

// clients are the programs that are DHCP clients of the links in their arguments.
var clients = []string{"dhclient", "udhcpc", "dhcpcd"}

func (hostFiles) Clients(link string) []uplink.Client {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil
	}
	var found []uplink.Client
	entries, _ := os.ReadDir("/proc") // without it nobody is found
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + entry.Name()
		line, err := os.ReadFile(dir + "/cmdline")
		ns, errNS := os.Readlink(dir + "/ns/net")
		argv := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
		if err != nil || errNS != nil || ns != own || !slices.Contains(argv[1:], link) {
			continue
		}
		program := filepath.Base(argv[0])
		if program == "busybox" && len(argv) > 1 {
			program = argv[1]
		}
		if slices.Contains(clients, program) {
			found = append(found, uplink.Client{PID: pid, Argv: argv})
		}
	}
	return found
}

func (hostFiles) StopClient(c uplink.Client) error { return syscall.Kill(c.PID, syscall.SIGKILL) }

func (hostFiles) StartClient(argv []string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // so that it does not stay as a zombie; it tells its log how it ends
	return nil
}
