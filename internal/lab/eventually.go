package lab

import "time"

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
