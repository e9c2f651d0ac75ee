package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"viaduct/internal/host"
)

func underSystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// driverLimit is how long libvirt's daemon may take to end.
const driverLimit = time.Minute

// stop ends libvirt's daemon, which leaves networks and guests as they are.
func (d *driver) stop(ctx context.Context) error {
	if d.program == "" {
		return nil
	}
	if d.unit != "" {
		// Clients that come meanwhile must not start it again.
		sockets, err := systemctl(ctx, "show", "--property=TriggeredBy", "--value", d.unit)
		if err != nil {
			return err
		}
		d.sockets = strings.Fields(sockets)
		_, err = systemctl(ctx, append(append([]string{"stop"}, d.sockets...), d.unit)...)
		return err
	}
	p, err := host.OpenProcess(d.pid)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(driverLimit):
		return fmt.Errorf("process %d does not end", d.pid)
	}
}

// plan tells what stop and restart would do.
func (d *driver) plan() []string {
	switch {
	case d.program == "":
		return nil
	case d.unit != "":
		return []string{d.unit + " would be stopped for that"}
	}
	return []string{fmt.Sprintf("%s (process %d) would be ended for that", d.program, d.pid)}
}

// restart starts libvirt's daemon again where systemd runs it, and tells what
// is left to do.
func (d *driver) restart(ctx context.Context, next string) []string {
	if d.program == "" {
		return nil
	}
	if d.unit == "" {
		return []string{d.program + " has ended; start it again" + next}
	}
	if _, err := systemctl(ctx, append(append([]string{"start"}, d.sockets...), d.unit)...); err != nil {
		return []string{d.program + " did not start again: " + err.Error()}
	}
	return []string{d.program + " has started again" + next}
}

// replaced tells what is left to do once libvirt's daemon has no networks any more.
func (d *driver) replaced(ctx context.Context) []string {
	if d.program == virtnetworkd {
		return []string{"virtnetworkd has ended; to answer its clients in its place: " +
			"systemctl enable --now virtnetworkd.socket virtnetworkd-ro.socket && systemctl restart viaduct"}
	}
	return d.restart(ctx, "; now viaduct libvirt-attach lets its guests find the networks")
}

func systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}
