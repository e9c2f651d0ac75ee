package lab

import (
	"errors"
	"time"
)

// eventuallyStep is how often Eventually looks.
const eventuallyStep = 20 * time.Millisecond

// Eventually waits until check returns nil and fails the test with its last error
// if it does not before the deadline. It polls: use it only for things outside
// of ours that announce nothing.
func Eventually(t T, deadline time.Duration, check func() error) {
	t.Helper()
	began := time.Now()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Since(began) > deadline {
			t.Fatalf("not so after %v: %v", deadline, err)
			return
		}
		time.Sleep(eventuallyStep)
	}
}

// Await waits until something holds, which what says in the words of a failure,
// and no longer than any busy machine takes. It polls, as Eventually does.
func Await(t T, what string, holds func() bool) {
	t.Helper()
	waiting := errors.New(what)
	Eventually(t, time.Minute, func() error {
		if holds() {
			return nil
		}
		return waiting
	})
}
