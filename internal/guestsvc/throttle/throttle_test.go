package throttle

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogCountsWhatItOmits(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1_700_000_000, 0)
	l := New(slog.New(slog.NewTextHandler(&out, nil)), func() time.Time { return now })
	for range 3 * Lines {
		l.Say(slog.LevelInfo, "again")
	}
	if n := strings.Count(out.String(), "again"); n != Lines {
		t.Errorf("%d lines, want %d", n, Lines)
	}
	now = now.Add(Period)
	l.Say(slog.LevelInfo, "again")
	if !strings.Contains(out.String(), "omitted=40") {
		t.Errorf("log does not tell of 40 omitted lines:\n%s", out.String())
	}
}
