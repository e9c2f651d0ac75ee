package daemon

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// faultVariable makes the daemon kill itself at a certain point, for tests:
// "before sysctl create" the first time, "after status put:3" the third.
const faultVariable = "VIADUCT_FAULT"

// faultGrace is how long the daemon stays at the point before it dies: whoever
// should wait for what happens there, and does not, gets the time to show it.
const faultGrace = 20 * time.Millisecond

// faultFromEnvironment is nil unless a test asked for a fault.
func faultFromEnvironment() func(point string) {
	wanted := os.Getenv(faultVariable)
	if wanted == "" {
		return nil
	}
	return faultAt(wanted, func() {
		time.Sleep(faultGrace)
		// SIGKILL, so that nothing gets the chance to tidy up.
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	})
}

// faultAt strikes at a point, given as in faultVariable.
func faultAt(wanted string, strike func()) func(point string) {
	left := int64(1)
	if name, n, ok := strings.Cut(wanted, ":"); ok {
		if v, err := strconv.ParseInt(n, 10, 64); err == nil {
			wanted, left = name, v
		}
	}
	var count atomic.Int64
	return func(point string) {
		if point == wanted && count.Add(1) == left {
			strike()
		}
	}
}
