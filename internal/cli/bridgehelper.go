package cli

import (
	"cmp"
	"os"
	"path/filepath"

	"viaduct/internal/bridgehelper"
)

// bridgeHelper is what QEMU runs for -netdev bridge. QEMU passes its
// environment on.
func bridgeHelper(args []string) int {
	socket := helperSocket(cmp.Or(os.Getenv(socketVariable), defaultSocket))
	return bridgehelper.Helper{Args: args, Socket: socket, Errs: os.Stderr}.Run()
}

// helperSocket is where the daemon answers to the helper: beside its own socket.
func helperSocket(socket string) string {
	return filepath.Join(filepath.Dir(socket), "bridge-helper.sock")
}
