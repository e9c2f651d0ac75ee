package engine

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"viaduct/internal/host"
	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/plan"
)

const (
	theirID  = "d54df46f-1ab5-4a22-8618-4560ef5fac2c"
	theirXML = `<network><name>lan</name><uuid>` + theirID + `</uuid><forward mode='nat'/><bridge name='virbr7'/><mac address='52:54:00:00:00:07'/>
		<ip address='10.0.7.1' prefix='24'><dhcp><range start='10.0.7.2' end='10.0.7.9'/></dhcp></ip></network>`
)

var theirs = Taking{Config: theirXML, Live: theirXML, Autostart: true, Leases: []netdef.Lease{{Addr: netip.MustParseAddr("10.0.7.5"), PrefixLen: 24, MAC: netdef.MAC{0x52, 1}}}}

// theirBridge adds the bridge of another program's network. Its alias is that
// which a claim gives it, since the fake host gives it none.
func (r *rig) theirBridge() {
	id, _ := netdef.ParseUUID(theirID)
	r.host.Stock.Links = append(r.host.Stock.Links, host.Link{Index: 7, Name: "virbr7", Kind: kindBridge, Up: true, Alias: plan.Alias(id)})
}

func TestTakeOver(t *testing.T) {
	r := newRig(t)
	r.theirBridge()
	before := r.host.State()
	plan, err := r.TakeOver(t.Context(), theirs, true)
	if err != nil || !plan.Active || len(plan.Operations) < 5 || plan.Operations[0] != "+ take over bridge virbr7" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if len(r.host.State()) != len(before) || len(r.Networks()) != 0 {
		t.Errorf("planning has changed something: %v", r.Networks())
	}
	if _, err := r.TakeOver(t.Context(), theirs, false); err != nil {
		t.Fatal(err)
	}
	info := r.Networks()[0]
	if !info.Active || !info.Persistent || !info.Autostart || info.UUID.String() != theirID {
		t.Errorf("network %+v", info)
	}
	if known := r.Engine.Options.Leases.Table(info.UUID).Known(); len(known) != 1 {
		t.Errorf("leases %v", known)
	}
	var refused *netdef.Error
	if _, err := r.TakeOver(t.Context(), theirs, false); !errors.As(err, &refused) || refused.Code != netdef.ErrOperationFailed {
		t.Errorf("once more: %v, want a refusal", err)
	}

	r.must(r.GiveBack(t.Context(), info.UUID))
	for k := range r.host.State() {
		if k.Kind == hoststate.KindClaim || k.Kind == hoststate.KindService || k.Kind == hoststate.KindChain && strings.Contains(k.Name, "virbr7") {
			t.Errorf("%s is left on the host", k)
		}
	}
	if _, ok := r.host.State()[hoststate.Address{Link: "virbr7", Prefix: netip.MustParsePrefix("10.0.7.1/24")}.Key()]; !ok {
		t.Error("the bridge has lost its address")
	}
	if len(r.Networks()) != 0 {
		t.Errorf("networks %v are left", r.Networks())
	}
	r.restart()
	if len(r.Networks()) != 0 {
		t.Errorf("the next daemon has networks %v", r.Networks())
	}
}

// A network that cannot be taken over is nobody's business here afterwards.
func TestTakeOverFails(t *testing.T) {
	r := newRig(t)
	if _, err := r.TakeOver(t.Context(), theirs, false); err == nil {
		t.Error("a network without its bridge was taken over")
	}
	r.theirBridge()
	wrong := theirs
	wrong.Dnsmasq = os.Getpid()
	if _, err := r.TakeOver(t.Context(), wrong, false); err == nil || !strings.Contains(err.Error(), "is not the dnsmasq of network 'lan'") {
		t.Errorf("another process than dnsmasq: %v", err)
	}
	r.host.FailOn = func(op hoststate.Op) error {
		if op.Key().Kind == hoststate.KindService {
			return errors.New("refused by the test")
		}
		return nil
	}
	if _, err := r.TakeOver(t.Context(), theirs, false); err == nil {
		t.Fatal("it did not fail")
	}
	if left := r.Networks(); len(left) != 0 {
		t.Errorf("networks %v", left)
	}
	if _, claimed := r.host.State()[hoststate.Key{Kind: hoststate.KindClaim, Name: "virbr7"}]; claimed {
		t.Error("the bridge stays claimed")
	}
	r.host.FailOn = nil
	r.restart()
	if left := r.Networks(); len(left) != 0 {
		t.Errorf("networks %v after a restart", left)
	}
	if _, err := r.TakeOver(t.Context(), theirs, false); err != nil {
		t.Errorf("in the end: %v", err)
	}
}

// A daemon that died while it took a network over leaves no half of it.
func TestTakeOverCutShort(t *testing.T) {
	r := newRig(t)
	r.theirBridge()
	if _, err := r.TakeOver(t.Context(), theirs, false); err != nil {
		t.Fatal(err)
	}
	status := r.status(r.names["lan"])
	status.Next, status.Live, status.Taking = status.Live, "", true
	r.stop()
	for k := range r.host.State() { // nothing but what the other program had
		if k.Kind != hoststate.KindSysctl && k.Kind != hoststate.KindAddress {
			r.host.Remove(k)
		}
	}
	r.options = func(o *Options) { r.must(o.Store.PutStatus(status)) }
	r.start()
	info, err := r.ByName("lan")
	if err != nil || !info.Active {
		t.Errorf("network %+v, %v", info, err)
	}
	if _, claimed := r.host.State()[hoststate.Key{Kind: hoststate.KindClaim, Name: "virbr7"}]; !claimed {
		t.Error("the bridge is not claimed")
	}
}
