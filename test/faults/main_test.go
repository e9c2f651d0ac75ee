// Package faults kills the daemon at every point where it is about to change
// something, or just has, and looks at what its successor makes of it: whatever
// a client was told is so, no network is half there, and when all networks are
// stopped the host is as it was.
package faults

import (
	"testing"

	"viaduct/internal/lab"
)

// binary is the program under test.
var binary string

func TestMain(m *testing.M) { lab.Main("faults", &binary, m.Run) }
