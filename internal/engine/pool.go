package engine

import (
	"viaduct/internal/netdef"
)

// withPool is the definition as it is in effect: the pool that is filled from a
// physical function lists the virtual functions that this has now.
func (e *Engine) withPool(def *netdef.Network) (*netdef.Network, error) {
	if len(def.Forward.PFs) == 0 || len(def.Forward.Interfaces)+len(def.Forward.Addresses) > 0 {
		return def, nil
	}
	pf := def.Forward.PFs[0]
	vfs, err := e.Host.VirtualFunctions(pf)
	if err != nil {
		return nil, errAs(netdef.ErrInternal, err)
	}
	c := def.Clone()
	for _, vf := range vfs {
		switch {
		case def.Forward.Mode == netdef.ModeHostdev:
			c.Forward.Addresses = append(c.Forward.Addresses, vf.Address)
		case vf.Link != "":
			c.Forward.Interfaces = append(c.Forward.Interfaces, vf.Link)
		}
	}
	if len(c.Forward.Addresses)+len(c.Forward.Interfaces) == 0 {
		return nil, netdef.Errorf(netdef.ErrInternal, "No usable Vf's present on SRIOV PF %s", pf)
	}
	return c, nil
}

// checkDevices refuses PCI devices that a guest cannot be given apart from
// others.
func (e *Engine) checkDevices(def *netdef.Network) error {
	for _, a := range def.Forward.Addresses {
		if !e.Host.IsVF(a) {
			return netdef.Errorf(netdef.ErrConfigUnsupported, "device '/sys/bus/pci/devices/%s' in network '%s' is not an SR-IOV Virtual Function", a, def.Name)
		}
	}
	return nil
}
