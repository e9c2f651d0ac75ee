// Package xenhost knows a Xen host's own tools: what xenstore says of guests'
// interfaces, and the files of xl, of xend and of Debian's ifupdown, which it
// reads and where an admin asks for it changes.
package xenhost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
	"viaduct/internal/xenvif/vifspec"
	"viaduct/internal/xenvif/xenstore"
)

// Vif is an interface of a domain as its backend's keys describe it.
type Vif struct {
	Domain string      `json:"domain"` // its name
	ID     int         `json:"id"`     // of the domain
	UUID   netdef.UUID `json:"uuid,omitzero"`
	Index  int         `json:"index"` // of the interface in the domain, from 0
	// Backend is the id of the domain that serves the interface; 0 is dom0.
	Backend int `json:"backend"`
	// Link is what the interface is called in the backend's domain.
	Link   string        `json:"link"`
	MAC    netdef.MAC    `json:"mac,omitzero"`
	Bridge string        `json:"bridge,omitempty"` // as libxl wrote it
	Script string        `json:"script,omitempty"` // its name, without the folder
	IPs    string        `json:"ip,omitempty"`     // as the line of the configuration has it
	Rate   *vifspec.Rate `json:"rate,omitempty"`   // that netback holds the guest to; nil for none
	// State is that of the backend's half: "connected" while the guest uses it.
	State string `json:"state"`
	// Trouble is what the hotplug script said when it failed.
	Trouble string `json:"trouble,omitempty"`
}

// states are those of a device's half, by their numbers in Xen's
// public/io/xenbus.h.
var states = map[string]string{
	"1": "initialising", "2": "waiting", "3": "initialised", "4": "connected", "5": "closing", "6": "closed",
	"7": "reconfiguring", "8": "reconfigured",
}

// Store is what List reads.
type Store interface {
	Read(ctx context.Context, path string) (string, error)
	List(ctx context.Context, path string) ([]string, error)
}

// List returns the interfaces of all domains, in the order of domains and of
// interfaces. A domain that goes meanwhile is left out.
func List(ctx context.Context, s Store) ([]Vif, error) {
	var vifs []Vif
	backends, err := numbers(ctx, s, "/local/domain")
	if err != nil {
		return nil, err
	}
	for _, backend := range backends {
		dir := fmt.Sprintf("/local/domain/%d/backend/vif", backend)
		domains, err := numbers(ctx, s, dir)
		if err != nil {
			return nil, err
		}
		for _, id := range domains {
			indices, err := numbers(ctx, s, fmt.Sprintf("%s/%d", dir, id))
			if err != nil {
				return nil, err
			}
			for _, index := range indices {
				v := Vif{ID: id, Index: index, Backend: backend}
				if there, err := v.read(ctx, s, fmt.Sprintf("%s/%d/%d", dir, id, index)); err != nil {
					return nil, err
				} else if there {
					vifs = append(vifs, v)
				}
			}
		}
	}
	slices.SortStableFunc(vifs, func(a, b Vif) int {
		if a.ID != b.ID {
			return a.ID - b.ID
		}
		return a.Index - b.Index
	})
	return vifs, nil
}

// read fills in what the keys say, and reports whether there are any.
func (v *Vif) read(ctx context.Context, s Store, dir string) (bool, error) {
	var failure error
	key := func(path string) string {
		value, err := s.Read(ctx, path)
		if err == nil {
			return value
		}
		if !errors.Is(err, xenstore.ErrNotExist) {
			failure = errors.Join(failure, fmt.Errorf("read %s: %w", path, err))
		}
		return ""
	}
	state := key(dir + "/state")
	if v.State = states[state]; v.State == "" {
		v.State = "unknown"
	}
	v.Domain = key(fmt.Sprintf("/local/domain/%d/name", v.ID))
	v.UUID, _ = netdef.ParseUUID(strings.TrimPrefix(key(fmt.Sprintf("/local/domain/%d/vm", v.ID)), "/vm/"))
	if v.Link = key(dir + "/vifname"); v.Link == "" {
		v.Link = fmt.Sprintf("vif%d.%d", v.ID, v.Index)
	}
	v.MAC, _ = netdef.ParseMAC(key(dir + "/mac"))
	v.Bridge, v.IPs, v.Trouble = key(dir+"/bridge"), key(dir+"/ip"), key(dir+"/hotplug-error")
	script := key(dir + "/script")
	v.Script = script[strings.LastIndexByte(script, '/')+1:]
	if text := key(dir + "/rate"); text != "" {
		if rate, err := vifspec.ParseStoredRate(text); err == nil {
			v.Rate = &rate
		}
	}
	return state != "", failure
}

// numbers are the names below a key that are numbers, in their order; none if
// the key is not there.
func numbers(ctx context.Context, s Store, path string) ([]int, error) {
	names, err := s.List(ctx, path)
	if errors.Is(err, xenstore.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", path, err)
	}
	var list []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n >= 0 {
			list = append(list, n)
		}
	}
	slices.Sort(list)
	return list, nil
}
