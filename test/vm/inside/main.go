// Command inside is the first process of a virtual machine: it makes a small
// world with a daemon in it and tells on the console what happens there. The
// environment, which comes from the kernel's command line, says what to do:
//
//	part=load      give leases for ever, on a disk that outlives the machine
//	part=uplink    start and stop an IPv6 network beside a route that the host was told by its router
//	part=vlan      plug guests into VLANs and try who reaches whom
//	part=cards     put bridges in front of a bond and of a VLAN device
//	part=firewall  show the rules, and what of a guest is seen outside
//	daemon=FLAG    pass the flag to the daemon
//
// Each line on the console begins with a word that says what it is about.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/lab"
)

var parts = map[string]func(*world){"load": load, "firewall": firewall, "uplink": uplink, "vlan": vlans, "cards": cards}

func main() {
	lab.Init()
	if err := furnish(); err != nil {
		fmt.Println("FAILED", err)
		powerOff()
	}
	part := parts[os.Getenv("part")]
	done := make(chan struct{})
	go func() {
		defer close(done)
		w := &world{}
		w.Lab = lab.New(w)
		part(w)
		fmt.Println("DONE")
	}()
	<-done
	powerOff()
}

// furnish mounts what programs expect of a machine.
func furnish() error {
	os.Setenv("PATH", "/bin:/sbin")
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// All other modules come when the kernel asks for them.
	return run("/sbin/modprobe", "-a", "virtio_pci", "virtio_blk", "ext4")
}

func run(argv ...string) error {
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv, err, out)
	}
	return nil
}

func powerOff() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

// world is a lab with one host and its daemon, and is the lab's idea of a test.
type world struct {
	*lab.Lab
	host   *lab.Host
	daemon *lab.Daemon
}

// start makes the host and starts the daemon, with its files in a folder of
// the machine, or in the host's own if dir is "".
func (w *world) start(dir string, args ...string) {
	if flag := os.Getenv("daemon"); flag != "" {
		args = append(args, flag)
	}
	w.host = w.NewHost(lab.HostOptions{})
	w.daemon = w.host.NewDaemon("/bin/viaduct", lab.DaemonOptions{Args: args})
	if dir != "" {
		w.daemon.ConfigDir, w.daemon.StateDir = dir+"/config", dir+"/state"
	}
	w.must(w.daemon.Start())
}

func (w *world) must(err error) {
	if err != nil {
		w.Fatalf("%v", err)
	}
}

// viaduct runs a command that must succeed and returns what it printed.
func (w *world) viaduct(args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := w.daemon.Viaduct(ctx, args...)
	w.must(err)
	return r.Stdout
}

// Helper and the others make a lab.T.
func (w *world) Helper() {}

// Logf prints a line that means nothing to the test.
func (w *world) Logf(format string, args ...any) { fmt.Println("LOG", fmt.Sprintf(format, args...)) }

// Cleanup does nothing: the machine ends with the world.
func (w *world) Cleanup(func()) {}

// Skipf is Fatalf: the machine has what it has.
func (w *world) Skipf(format string, args ...any) { w.Fatalf(format, args...) }

// Fatalf ends the world.
func (w *world) Fatalf(format string, args ...any) {
	fmt.Println("FAILED", fmt.Sprintf(format, args...))
	runtime.Goexit()
}
