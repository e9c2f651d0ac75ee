package daemon

import (
	"os"
	"path/filepath"

	"viaduct/internal/netdef"
)

// libvirtNetworks reads the definitions in libvirt's own folders, as far as
// they can be read.
func libvirtNetworks(dirs []string) func() []*netdef.Network {
	return func() []*netdef.Network {
		var networks []*netdef.Network
		for _, dir := range dirs {
			files, _ := filepath.Glob(filepath.Join(dir, "*.xml"))
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					continue
				}
				if n, err := netdef.Parse(data); err == nil {
					networks = append(networks, n)
				}
			}
		}
		return networks
	}
}
