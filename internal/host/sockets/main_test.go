package sockets

import (
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/lab"
)

// TestMain runs the tests in a network of their own, so that they may change
// what they like.
func TestMain(m *testing.M) { lab.RunAlone(func() { goleak.VerifyTestMain(m) }) }
