// Command viaduct-vif is Xen's hotplug script. So is viaduct itself under the names
// of the script; but a guest's start waits for a script to start, twice, and this
// one is made of little else than what it says to the daemon.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"viaduct/internal/xenvif/hotplug"
)

func main() { os.Exit(hotplug.Main(os.Args, reach)) }

// reach connects to the daemon. Where none answers, the whole program takes over,
// which can stand in for it: nothing has been done by then.
func reach(socket string, deadline time.Time) (hotplug.Daemon, func(), error) {
	d, done, err := hotplug.Dial(socket, deadline)
	if err == nil {
		return d, done, nil
	}
	err = fmt.Errorf("connect to %s: %w", socket, err)
	self, failed := os.Executable()
	if failed == nil {
		whole := filepath.Join(filepath.Dir(self), "viaduct")
		failed = &os.PathError{Op: "run", Path: whole, Err: syscall.Exec(whole, os.Args, os.Environ())}
	}
	return nil, nil, fmt.Errorf("%w, and cannot do without: %w", err, failed)
}
