// Package throttle writes to the log what guests cause, slowly enough that no
// guest can fill the host's disk by it.
package throttle

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// No more than Lines are written in Period.
const (
	Period = 10 * time.Second
	Lines  = 20
)

// Log writes lines to a log, and says how many it left out.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu      sync.Mutex
	since   time.Time
	lines   int
	omitted int
}

// New makes a Log that writes to log. now tells the time.
func New(log *slog.Logger, now func() time.Time) *Log {
	return &Log{log: log, now: now}
}

// Say writes a line, unless there were too many of late.
func (l *Log) Say(level slog.Level, msg string, args ...any) {
	if !l.log.Enabled(context.Background(), level) {
		return
	}
	l.mu.Lock()
	if now := l.now(); now.Sub(l.since) >= Period {
		l.since, l.lines = now, 0
	}
	if l.lines++; l.lines > Lines {
		l.omitted++
		l.mu.Unlock()
		return
	}
	if l.omitted > 0 {
		args = append(args, "omitted", l.omitted)
		l.omitted = 0
	}
	l.mu.Unlock()
	l.log.Log(context.Background(), level, msg, args...)
}
