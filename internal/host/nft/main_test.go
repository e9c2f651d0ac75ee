package nft

import (
	"maps"
	"testing"

	"go.uber.org/goleak"

	"viaduct/internal/hoststate"
	"viaduct/internal/lab"
)

func TestMain(m *testing.M) { lab.RunAlone(func() { goleak.VerifyTestMain(m) }) }

func state(objects ...hoststate.Object) hoststate.State {
	s := hoststate.State{}
	s.Add(objects...)
	return s
}

func union(states ...hoststate.State) hoststate.State {
	all := hoststate.State{}
	for _, s := range states {
		maps.Copy(all, s)
	}
	return all
}

// difference is what host.Diff says of objects in nftables.
func difference(desired, observed hoststate.State) []hoststate.Op {
	var ops []hoststate.Op
	for key, want := range desired {
		switch have, exists := observed[key]; {
		case !exists:
			ops = append(ops, hoststate.CreateOp(want))
		case !hoststate.Equal(have, want):
			ops = append(ops, hoststate.ChangeOp(have, want))
		}
	}
	for key, have := range observed {
		if c, ok := have.(hoststate.Contained); ok && observed[c.Container()] != nil && desired[c.Container()] == nil {
			continue // it goes with what it is in
		}
		if desired[key] == nil {
			ops = append(ops, hoststate.DeleteOp(have))
		}
	}
	hoststate.SortOps(ops)
	return ops
}
