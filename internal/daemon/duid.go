package daemon

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"viaduct/internal/netdef"
)

// duidUUID is the type of a DUID that is made of a UUID (RFC 6355).
const duidUUID = 4

// serverDUID identifies this host to DHCPv6 clients: the same as long as the
// machine is. The machine's own id is not for strangers, so it goes in hashed
// (machine-id(5)). A machine without one gets a new DUID with every start.
func serverDUID() []byte {
	id := netdef.NewUUID()
	if machine, err := os.ReadFile("/etc/machine-id"); err == nil {
		sum := sha256.Sum256([]byte(fmt.Sprintf("viaduct dhcp6 %s", strings.TrimSpace(string(machine)))))
		copy(id[:], sum[:])
	}
	return append(binary.BigEndian.AppendUint16(nil, duidUUID), id[:]...)
}
