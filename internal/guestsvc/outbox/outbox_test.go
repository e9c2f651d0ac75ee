package outbox

import (
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSendsInOrderWhatIsReady(t *testing.T) {
	b := New[int](1000)
	var sent []int
	all := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		b.Send(func(m int) {
			if sent = append(sent, m); m == 999 {
				close(all)
			}
		})
	})
	for i := range 1000 {
		if !b.Enter() {
			t.Fatalf("no place for message %d of 1000", i)
		}
		b.Ready(i)
	}
	<-all
	b.Close()
	sending.Wait()
	if len(sent) != 1000 || !slices.IsSorted(sent) {
		t.Errorf("%d messages sent, want 1000 in order", len(sent))
	}
}

func TestPlacesAreBoundedAndFreed(t *testing.T) {
	b := New[string](2)
	for range 2 {
		if !b.Enter() {
			t.Fatal("no place in an empty outbox")
		}
	}
	if b.Enter() {
		t.Error("a third place of two")
	}
	b.Ready("first")
	if b.Enter() {
		t.Error("a place before the message was taken to be sent")
	}
	var sending sync.WaitGroup
	sent := make(chan string)
	sending.Go(func() { b.Send(func(m string) { sent <- m }) })
	if m := <-sent; m != "first" {
		t.Errorf("sent %q", m)
	}
	if !b.Enter() {
		t.Error("no place after one was freed")
	}
	b.Close()
	sending.Wait()
}
