package cli

import (
	"cmp"
	"context"
	"os"

	"viaduct/internal/httpapi"
	"viaduct/internal/xenvif"
)

// vifViaduct is Xen's hotplug script. It can be given no options, only an
// environment.
func vifViaduct(args []string) int {
	client := httpapi.NewClient(cmp.Or(os.Getenv(socketVariable), defaultSocket))
	defer client.Close()
	return xenvif.Script{Args: args, Getenv: os.Getenv, Networks: client, Errs: os.Stderr}.Run(context.Background())
}
