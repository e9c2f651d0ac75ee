// Command viaduct gives a host its virtual networks: it is the daemon that
// owns them and the command line that manages them.
package main

import (
	"os"

	"viaduct/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
