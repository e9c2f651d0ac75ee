package httpapi

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"viaduct/internal/netdef"
	"viaduct/internal/peer"
)

// access says what a connection may do.
type access struct {
	change bool
	who    string
}

type accessKey struct{}

// accessOf decides for one connection. Whoever the socket's permissions let in
// may look; changing things takes root, the user who runs the daemon, or a
// member of the socket's group.
func accessOf(c net.Conn) access {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return access{who: "a connection that is not local"}
	}
	p, err := peer.Of(uc)
	if err != nil {
		return access{who: "an unknown user"}
	}
	who := fmt.Sprintf("uid %d", p.UID)
	if p.UID == 0 || int(p.UID) == os.Geteuid() {
		return access{change: true, who: who}
	}
	info, err := os.Stat(uc.LocalAddr().String())
	if err != nil {
		return access{who: who}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return access{change: ok && slices.Contains(p.Groups, st.Gid), who: who}
}

func withAccess(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, accessKey{}, accessOf(c))
}

// mayChange returns an error if the connection that ctx belongs to may only look.
func mayChange(ctx context.Context) error {
	a, _ := ctx.Value(accessKey{}).(access)
	if a.change {
		return nil
	}
	return netdef.Errorf(netdef.ErrOperationDenied,
		"%s has read only access: changes are for root and for members of the socket's group", a.who)
}
