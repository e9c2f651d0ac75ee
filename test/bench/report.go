package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is one figure beside its peer's.
type row struct {
	what string
	ours string
	peer string
	// ratio is how many times better we are, or worse than what we compare
	// with, as wanted says.
	ratio  string
	wanted string
	met    bool
}

// report collects rows in the order in which they were measured.
type report struct{ rows []row }

func (r *report) add(rows ...row) { r.rows = append(r.rows, rows...) }

// atLeast is a row that asks for a quotient of at least limit.
func atLeast(what, ours, peer string, quotient, limit float64) row {
	return row{what, ours, peer, times(quotient), fmt.Sprintf("at least %g", limit), quotient >= limit}
}

// atMost is a row that asks for a quotient of at most limit.
func atMost(what, ours, peer string, quotient, limit float64) row {
	return row{what, ours, peer, times(quotient), fmt.Sprintf("at most %g", limit), quotient <= limit}
}

func times(quotient float64) string {
	if quotient >= 10 {
		return fmt.Sprintf("%.0f", quotient)
	}
	return fmt.Sprintf("%.2f", quotient)
}

func millis(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mebibytes(kib float64) string { return fmt.Sprintf("%.1f MiB", kib/1024) }

// markdown prints the machine and the table.
func (r *report) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Machine: %d cores, kernel %s.\n\n", runtime.NumCPU(), kernelVersion())
	s.WriteString("| what | ours | compared with | ratio | wanted | met |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, row := range r.rows {
		met := "yes"
		switch {
		case row.wanted == "":
			met = ""
		case !row.met:
			met = "**no**"
		}
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s |\n", row.what, row.ours, row.peer, row.ratio, row.wanted, met)
	}
	return s.String()
}

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	return version
}

// The marks in the file that holds the tables.
const (
	beginMark = "<!-- figures: written by make bench -->\n"
	endMark   = "<!-- end of figures -->\n"
)

// keep replaces what is between the marks of a file.
func (r *report) keep(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(content), beginMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return fmt.Errorf("keep figures in %s: it has no marks %q and %q", path, strings.TrimSpace(beginMark), strings.TrimSpace(endMark))
	}
	return os.WriteFile(path, []byte(before+beginMark+r.markdown()+endMark+after), 0o644)
}

// median is the middle value.
func median[T int | float64 | time.Duration](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// mean is the average.
func mean(values []time.Duration) time.Duration {
	var sum time.Duration
	for _, v := range values {
		sum += v
	}
	return sum / time.Duration(len(values))
}

func quotient(a, b time.Duration) float64 { return a.Seconds() / b.Seconds() }

// quotients is the median of what the quotients of each round are.
func quotients(a, b []float64) float64 {
	each := make([]float64, len(a))
	for i := range each {
		each[i] = a[i] / b[i]
	}
	return median(each)
}
