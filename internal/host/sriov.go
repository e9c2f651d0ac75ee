package host

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// VF is a virtual function of a device with SR-IOV.
type VF struct {
	Address netdef.PCIAddress
	// Link is the network device that it is on the host; "" if it is none,
	// since it has another driver or none.
	Link string
}

// sysfs is where the kernel shows its devices, usually /sys.
type sysfs string

// virtualFunctions lists the virtual functions of a network device, in the
// device's own order. A device that is no hardware, or that does not exist, has none.
func (s sysfs) virtualFunctions(device string) ([]VF, error) {
	dir := filepath.Join(string(s), "class/net", device, "device")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the virtual functions of %s: %w", device, err)
	}
	type numbered struct {
		VF
		number uint64
	}
	var list []numbered
	for _, e := range entries {
		text, is := strings.CutPrefix(e.Name(), "virtfn")
		number, err := strconv.ParseUint(text, 10, 16)
		if !is || err != nil {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it has just gone
		}
		address, err := parsePCI(filepath.Base(target))
		if err != nil {
			return nil, fmt.Errorf("virtual function %d of %s: %w", number, device, err)
		}
		vf := VF{Address: address}
		if links, err := os.ReadDir(filepath.Join(dir, e.Name(), "net")); err == nil && len(links) > 0 {
			vf.Link = links[0].Name()
		}
		list = append(list, numbered{vf, number})
	}
	slices.SortFunc(list, func(a, b numbered) int { return cmp.Compare(a.number, b.number) })
	vfs := make([]VF, len(list))
	for i, n := range list {
		vfs[i] = n.VF
	}
	return vfs, nil
}

// isVF reports whether the PCI device is a virtual function.
func (s sysfs) isVF(a netdef.PCIAddress) bool {
	_, err := os.Lstat(filepath.Join(string(s), "bus/pci/devices", a.String(), "physfn"))
	return err == nil
}

// parsePCI reads an address as the kernel writes it: "0000:03:10.1".
func parsePCI(text string) (netdef.PCIAddress, error) {
	var a netdef.PCIAddress
	if _, err := fmt.Sscanf(text, "%x:%x:%x.%x", &a.Domain, &a.Bus, &a.Slot, &a.Function); err != nil || a.String() != text {
		return a, fmt.Errorf("'%s' is no PCI address", text)
	}
	return a, nil
}

// VirtualFunctions implements Host.
func (h *kernelHost) VirtualFunctions(device string) ([]VF, error) {
	return h.sysfs.virtualFunctions(device)
}

// IsVF implements Host.
func (h *kernelHost) IsVF(a netdef.PCIAddress) bool { return h.sysfs.isVF(a) }
