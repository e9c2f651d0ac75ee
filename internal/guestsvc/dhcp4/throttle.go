package dhcp4

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	throttleTime  = 10 * time.Second
	throttleLines = 20
)

// throttle writes to the log what guests cause: no more than throttleLines in
// throttleTime, so that a guest cannot fill the host's disk. It says how many
// lines were left out.
type throttle struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	since   time.Time
	lines   int
	omitted int
}

func newThrottle(log *slog.Logger, now func() time.Time) *throttle {
	return &throttle{log: log, now: now}
}

func (t *throttle) say(level slog.Level, msg string, args ...any) {
	if !t.log.Enabled(context.Background(), level) {
		return
	}
	t.mu.Lock()
	if now := t.now(); now.Sub(t.since) >= throttleTime {
		t.since, t.lines = now, 0
	}
	if t.lines++; t.lines > throttleLines {
		t.omitted++
		t.mu.Unlock()
		return
	}
	if t.omitted > 0 {
		args = append(args, "omitted", t.omitted)
		t.omitted = 0
	}
	t.mu.Unlock()
	t.log.Log(context.Background(), level, msg, args...)
}
