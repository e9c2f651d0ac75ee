package apitest

import (
	"context"
	"time"

	"viaduct/internal/engine"
	"viaduct/internal/netdef"
)

// CreateUplink answers as if the card were the host's own way out.
func (f *Fake) CreateUplink(_ context.Context, spec engine.UplinkSpec) (engine.UplinkReport, error) {
	if spec.Bridge == "taken" {
		return engine.UplinkReport{}, netdef.Errorf(netdef.ErrOperationInvalid, "link %s exists already", spec.Bridge)
	}
	report := engine.UplinkReport{Bridge: spec.Bridge, NIC: spec.NIC, Manager: "viaduct", Phase: "kept", Addresses: []string{"192.0.2.2/24"}}
	if spec.Confirm > 0 {
		deadline := time.Now().Add(spec.Confirm)
		report.Deadline = &deadline
	}
	return report, nil
}

// DeleteUplink knows no uplink but xenbr0.
func (f *Fake) DeleteUplink(_ context.Context, bridge string) (engine.UplinkReport, error) {
	return engine.UplinkReport{Bridge: bridge, NIC: "eth0", Manager: "viaduct", Addresses: []string{"192.0.2.2/24"}}, f.uplink(bridge)
}

// ConfirmUplink knows no uplink but xenbr0.
func (f *Fake) ConfirmUplink(_ context.Context, bridge string, _ bool) error { return f.uplink(bridge) }

func (f *Fake) uplink(bridge string) error {
	if bridge != "xenbr0" {
		return netdef.Errorf(netdef.ErrNoNetwork, "no uplink with bridge '%s'", bridge)
	}
	return nil
}

// Uplinks lists one, and a card that could have another.
func (f *Fake) Uplinks() ([]engine.UplinkReport, []engine.UplinkProposal) {
	return []engine.UplinkReport{{Bridge: "xenbr0", NIC: "eth0", Manager: "viaduct", Phase: "kept", Addresses: []string{"192.0.2.2/24"}}},
		[]engine.UplinkProposal{{Bridge: "xenbr1", NIC: "eth1", Manager: "viaduct", Addresses: []string{}}}
}
