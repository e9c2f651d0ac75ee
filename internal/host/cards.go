package host

import (
	"context"
	"net/netip"

	"viaduct/internal/hoststate"
)

// Cards is what a host tells of the network cards by which it is reached.
type Cards interface {
	// Held reads from the kernel what the host has on a link, so that it can be
	// moved to another. What cannot be moved is an error.
	Held(link string) (hoststate.Held, error)
	// Neighbour waits until the host of that address on the link answers.
	Neighbour(ctx context.Context, link string, addr netip.Addr) error
	// Echo waits until the host of that address answers to a ping.
	Echo(ctx context.Context, addr netip.Addr) error
	// Towards names the link by which the host reaches the address; "" if by none.
	Towards(addr netip.Addr) string
	// RemoteRoots tells which of the files that the host runs from are elsewhere.
	RemoteRoots() []RemoteRoot
}
