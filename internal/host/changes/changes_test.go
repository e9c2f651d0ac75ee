package changes

import (
	"testing"

	"viaduct/internal/hoststate"
)

func TestEventsAreBounded(t *testing.T) {
	c := New()
	for i := range maxPendingKeys + 2 {
		c.Add(hoststate.Key{Kind: hoststate.KindElement, Name: string(rune(i)) + string(rune(i>>16))})
		if len(c.keys) > maxPendingKeys {
			t.Fatalf("%d keys pending", len(c.keys))
		}
	}
	for i := range maxPendingKeys + 2 {
		c.Add(hoststate.Key{Kind: hoststate.KindElement, Name: string(rune(i + maxPendingKeys))})
	}
	if keys, ok := c.Take(); !ok || len(keys) != 0 {
		t.Errorf("%d keys, %v; want none, which says that everything may have changed", len(keys), ok)
	}
	if _, ok := c.Take(); ok {
		t.Error("told twice")
	}
}
