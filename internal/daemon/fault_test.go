package daemon

import (
	"testing"
)

func TestFaultsAreCounted(t *testing.T) {
	for _, c := range []struct {
		wanted string
		points []string
		hit    int // index of the point at which it strikes, -1 for never
	}{
		{"before bridge create", []string{"after sysctl create", "before bridge create", "before bridge create"}, 1},
		{"before bridge create:2", []string{"before bridge create", "x", "before bridge create"}, 2},
		{"before bridge create:3", []string{"before bridge create", "before bridge create"}, -1},
		{"before x:y", []string{"before x", "before x:y"}, 1},
		{"before x:0", []string{"before x", "before x"}, -1},
	} {
		hit, now := -1, 0
		fault := faultAt(c.wanted, func() {
			if hit >= 0 {
				t.Errorf("%s: struck twice", c.wanted)
			}
			hit = now
		})
		for now = range c.points {
			fault(c.points[now])
		}
		if hit != c.hit {
			t.Errorf("%s: struck at %d, want %d", c.wanted, hit, c.hit)
		}
	}
	t.Setenv(faultVariable, "")
	if faultFromEnvironment() != nil {
		t.Error("there is a fault that nobody asked for")
	}
}
