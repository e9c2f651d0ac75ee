package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"viaduct/internal/hoststate"
	"viaduct/internal/netdef"
	"viaduct/internal/uplink"
)

// UplinkSpec says which bridge is to stand in front of which network card.
type UplinkSpec struct {
	Bridge string `json:"bridge"`
	// NIC is the card; "" makes a bridge without one.
	NIC string `json:"nic,omitempty"`
	// Peer, if valid, is somebody who has to be reachable before and after.
	Peer netip.Addr `json:"peer,omitzero"`
	// Confirm takes the change back after this time unless ConfirmUplink is called.
	Confirm time.Duration `json:"-"`
	// Plan only tells what would be done.
	Plan bool `json:"plan,omitempty"`
	// Manager is who keeps the configuration; "" finds it out.
	Manager uplink.Manager `json:"manager,omitempty"`
	// MTU of card and bridge in bytes; 0 leaves the card's.
	MTU int `json:"mtu,omitempty"`
	// Unoffloaded has the host compute the checksums of what it sends.
	Unoffloaded bool `json:"unoffloaded,omitempty"`
	// DHCP has Viaduct be the DHCP client on the bridge, where no other program
	// configures the card. Where the card has a leased address it is so anyway.
	DHCP bool `json:"dhcp,omitempty"`
}

// UplinkFile is a file of the manager's that changes.
type UplinkFile struct {
	Path string `json:"path"`
	Diff string `json:"diff"`
}

// UplinkReport is what became of an uplink, or would.
type UplinkReport struct {
	Bridge  string         `json:"bridge"`
	NIC     string         `json:"nic,omitempty"`
	Manager uplink.Manager `json:"manager"`
	// DHCP says that the manager, Viaduct, is the bridge's DHCP client.
	DHCP       bool         `json:"dhcp,omitempty"`
	Phase      uplink.Phase `json:"phase,omitempty"`
	Addresses  []string     `json:"addresses"`
	Operations []string     `json:"operations,omitempty"`
	Files      []UplinkFile `json:"files,omitempty"`
	Notes      []string     `json:"notes,omitempty"`
	// Deadline is when it is taken back unless it is confirmed.
	Deadline *time.Time `json:"deadline,omitempty"`
}

// UplinkProposal is a card that could be behind a bridge.
type UplinkProposal struct {
	Bridge  string         `json:"bridge"`
	NIC     string         `json:"nic"`
	Manager uplink.Manager `json:"manager"`
	// Default says that the host's way out is by this card.
	Default   bool     `json:"default"`
	Addresses []string `json:"addresses"`
	// Refused says why it cannot be; "" if it can.
	Refused string `json:"refused,omitempty"`
}

// uplinks are the bridges in front of network cards. One change at a time is
// made to them: the host's own way out is at stake.
type uplinks struct {
	busy sync.Mutex // held by the one change under way

	mu      sync.Mutex
	records map[string]uplink.Record
	waiting map[string]chan struct{} // closed to end the wait for confirmation
	leasing chan struct{}            // told of each change of a DHCP client; nil while nobody waits for one
	healing map[string]*healing
}

// How long those who are needed may take to answer: a switch that thinks about
// a port for a while is part of it. One who is asked before does not think.
const (
	answerBefore = 3 * time.Second
	answerAfter  = 10 * time.Second
	// While a change awaits confirmation they are asked this often, and may
	// miss so many questions.
	askEvery    = 2 * time.Second
	missesAtEnd = 3
)

var linkName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:-]{0,14}$`) })

// CreateUplink puts a bridge in front of a network card: what the host has on
// the card moves to the bridge in one step. If then somebody who is needed does
// not answer, all is as before.
func (e *Engine) CreateUplink(ctx context.Context, spec UplinkSpec) (UplinkReport, error) {
	e.uplinks.busy.Lock()
	defer e.uplinks.busy.Unlock()
	r, report, err := e.designUplink(ctx, spec)
	if err != nil || spec.Plan {
		return report, err
	}
	ctx = context.WithoutCancel(ctx)
	if err := e.keepUplink(r); err != nil {
		return report, err
	}
	if err := e.makeUplink(ctx, &r); err != nil {
		if undone := e.unmakeUplink(ctx, r); undone != nil { // the next daemon tries again
			e.Log.Error("take back an uplink that failed", "bridge", spec.Bridge, "error", undone)
		}
		return report, netdef.Errorf(netdef.ErrOperationFailed, "uplink %s was taken back: %w", spec.Bridge, err)
	}
	r.Phase = uplink.Kept
	if r.Manager != uplink.Viaduct {
		// From now on what the host has on the bridge is the manager's business.
		r.Uplink.Held = hoststate.Held{Settings: r.Uplink.Held.Settings}
	}
	if spec.Confirm > 0 {
		r.Phase, r.Within, r.Deadline = uplink.Awaiting, spec.Confirm, time.Now().Add(spec.Confirm)
		report.Deadline = &r.Deadline
	}
	if err := e.keepUplink(r); err != nil {
		return report, errors.Join(err, e.unmakeUplink(ctx, r))
	}
	report.Phase = r.Phase
	e.Log.Info("uplink made", "bridge", spec.Bridge, "nic", spec.NIC, "manager", r.Manager)
	if r.Phase == uplink.Awaiting {
		e.awaitUplink(r)
	}
	return report, nil
}

// designUplink finds out what there is, and refuses what would cut the host off.
func (e *Engine) designUplink(ctx context.Context, spec UplinkSpec) (uplink.Record, UplinkReport, error) {
	r := uplink.Record{Phase: uplink.Changing, Manager: spec.Manager, DHCP: spec.DHCP, Uplink: hoststate.Uplink{
		Bridge: spec.Bridge, NIC: spec.NIC, MTU: spec.MTU, Unoffloaded: spec.Unoffloaded,
	}}
	report := UplinkReport{Bridge: spec.Bridge, NIC: spec.NIC, Addresses: []string{}}
	if err := e.checkUplink(spec); err != nil {
		return r, report, err
	}
	if spec.NIC != "" {
		nic, _ := e.Host.Link(spec.NIC)
		r.Uplink.MAC, r.Uplink.CardMTU = nic.MAC, nic.MTU
		var err error
		if r.Uplink.Held, err = e.Host.Held(spec.NIC); err != nil {
			return r, report, errAs(netdef.ErrOperationFailed, err)
		}
	}
	for _, a := range r.Uplink.Held.Addresses {
		report.Addresses = append(report.Addresses, a.Prefix.String())
	}
	if err := e.manageUplink(&r); err != nil {
		return r, report, err
	}
	report.Manager, report.DHCP = r.Manager, r.DHCP
	for _, edit := range r.Edits {
		if edit.Once {
			continue
		}
		report.Files = append(report.Files, UplinkFile{Path: edit.Path, Diff: edit.Diff()})
	}
	op := hoststate.CreateOp(r.Uplink)
	report.Operations = []string{op.String()}
	if r.DHCP {
		report.Operations = append(report.Operations, hoststate.CreateOp(e.uplinkClient(r)).String())
	}
	if err := e.needed(ctx, spec, &r, &report); err != nil {
		return r, report, err
	}
	return r, report, nil
}

// checkUplink refuses what cannot be.
func (e *Engine) checkUplink(spec UplinkSpec) error {
	invalid := func(format string, args ...any) error {
		return netdef.Errorf(netdef.ErrOperationInvalid, format, args...)
	}
	if !linkName().MatchString(spec.Bridge) {
		return netdef.Errorf(netdef.ErrInvalidArg, "'%s' is no name of a bridge: up to 15 letters, digits, and ._:-", spec.Bridge)
	}
	if r, known := e.uplinkOf(spec.Bridge); known {
		return invalid("uplink %s exists already, with %s", spec.Bridge, orNone(r.Uplink.NIC))
	}
	if _, exists := e.Host.Link(spec.Bridge); exists {
		return invalid("link %s exists already", spec.Bridge)
	}
	e.mu.Lock()
	user := e.claims[hoststate.BridgeKey(spec.Bridge)]
	e.mu.Unlock()
	if user != nil {
		return invalid("network '%s' has the bridge %s", user.name, spec.Bridge)
	}
	if spec.NIC == "" {
		if spec.DHCP {
			return netdef.Errorf(netdef.ErrInvalidArg, "a bridge without a card has nobody to ask for an address")
		}
		return nil
	}
	nic, exists := e.Host.Link(spec.NIC)
	switch {
	case !exists:
		return invalid("there is no network card %s", spec.NIC)
	case !linkName().MatchString(spec.NIC):
		return invalid("the card's name %q is more than what the files of network managers can hold", spec.NIC)
	case nic.Master != "":
		return invalid("%s is a port of %s already", spec.NIC, nic.Master)
	case spec.NIC == "lo" || nic.MAC == (hoststate.MAC{}):
		return invalid("%s is no Ethernet card", spec.NIC)
	case nic.Kind == "bridge":
		return invalid("%s is a bridge itself: use it as it is, with <forward mode='bridge'/>", spec.NIC)
	}
	return e.refuseRemoteRoot(spec.NIC)
}

// refuseRemoteRoot refuses a card by which the host reads its own files: there
// is no moment in which it could do without.
func (e *Engine) refuseRemoteRoot(nic string) error {
	for _, root := range e.Host.RemoteRoots() {
		if root.Server.IsValid() {
			way := e.Host.Towards(root.Server)
			if way != nic {
				continue
			}
		}
		return netdef.Errorf(netdef.ErrOperationInvalid,
			"%s comes over the network (%s), by %s: let the bridge be made in the initial RAM disk, and this be done without", root.Mount, root.Kind, nic)
	}
	return nil
}

func orNone(nic string) string {
	if nic == "" {
		return "no card"
	}
	return nic
}

// manageUplink finds out who configures the card and what is to be changed there.
func (e *Engine) manageUplink(r *uplink.Record) error {
	u := r.Uplink
	if u.NIC == "" || e.System == nil {
		r.Manager = uplink.Viaduct
	}
	if r.Manager == "" {
		var err error
		if r.Manager, err = uplink.Detect(e.System.Root(), e.card(u.NIC)); err != nil {
			return errAs(netdef.ErrOperationFailed, err)
		}
	}
	if r.Manager == uplink.Viaduct {
		r.DHCP = r.DHCP || slices.ContainsFunc(u.Held.Addresses, isLeased)
		return nil
	}
	if r.DHCP {
		return netdef.Errorf(netdef.ErrOperationInvalid, "%s is configured by %s: let that be the DHCP client", u.NIC, r.Manager)
	}
	var err error
	r.Edits, err = uplink.Plan(r.Manager, e.System.Root(), e.card(u.NIC), u.Bridge)
	return errAs(netdef.ErrOperationInvalid, err)
}

// card is a link as managers know it.
func (e *Engine) card(link string) uplink.Card {
	l, _ := e.Host.Link(link)
	return uplink.Card{Name: link, Index: l.Index, MAC: l.MAC.String()}
}

// needed notes who has to answer afterwards: those gateways that answer now, and
// the peer.
func (e *Engine) needed(ctx context.Context, spec UplinkSpec, r *uplink.Record, report *UplinkReport) error {
	ctx, cancel := context.WithTimeout(ctx, answerBefore)
	defer cancel()
	for _, gateway := range r.Uplink.Held.Gateways() {
		if err := e.Host.Neighbour(ctx, spec.NIC, gateway); err != nil {
			report.Notes = append(report.Notes, fmt.Sprintf("gateway %s does not answer now, so nobody can tell whether it does afterwards", gateway))
			continue
		}
		r.Needed, r.Gateways = append(r.Needed, gateway), append(r.Gateways, gateway)
	}
	if !spec.Peer.IsValid() {
		return nil
	}
	if err := e.Host.Echo(ctx, spec.Peer); err != nil {
		return netdef.Errorf(netdef.ErrOperationInvalid, "peer %s does not answer a ping even now", spec.Peer)
	}
	if !slices.Contains(r.Needed, spec.Peer) {
		r.Needed = append(r.Needed, spec.Peer)
	}
	return nil
}

// makeUplink carries the change out and sees whether the host is still reached.
func (e *Engine) makeUplink(ctx context.Context, r *uplink.Record) error {
	if err := e.Host.Apply(ctx, []hoststate.Op{{Verb: hoststate.Create, New: r.Uplink}}); err != nil {
		return opError(err)
	}
	if r.DHCP {
		if err := e.leaseUplink(ctx, r); err != nil {
			return err
		}
	}
	if err := e.handOver(ctx, *r); err != nil {
		return err
	}
	return e.answered(ctx, *r, r.Uplink.Bridge, answerAfter)
}

// handOver has the manager take the bridge for the card.
func (e *Engine) handOver(ctx context.Context, r uplink.Record) error {
	for _, edit := range r.Edits {
		if err := edit.Put(e.System, false, false); err != nil {
			return err
		}
	}
	return e.command(ctx, r, r.Uplink.NIC, r.Uplink.Bridge, false)
}

// settleLimit is how long a manager may take to configure a link.
const settleLimit = 60 * time.Second

// command has the manager take up its files. Whoever was a DHCP client of a link
// on its behalf is one no more.
func (e *Engine) command(ctx context.Context, r uplink.Record, from, to string, undo bool) error {
	commands := uplink.Commands(r, undo)
	if len(commands) == 0 {
		return nil
	}
	for _, c := range e.System.Clients(from) {
		if e.System.StopClient(c) == nil {
			e.Log.Info("ended a DHCP client that has lost its link", "link", from, "client", c.Argv, "process", c.PID)
		}
	}
	for _, argv := range commands {
		if err := e.System.Run(ctx, argv); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		done, err := uplink.Settled(r.Manager, e.System.Root(), e.card(to))
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not finish to configure %s", r.Manager, to)
		case <-time.After(lookAgain):
		}
	}
}

// lookAgain is how often a manager's files are read that say how far it is.
const lookAgain = 50 * time.Millisecond

// answered asks those who are needed, each until it answers, gateways on the link.
func (e *Engine) answered(ctx context.Context, r uplink.Record, link string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for _, a := range r.Needed {
		var err error
		if slices.Contains(r.Gateways, a) {
			err = e.Host.Neighbour(ctx, link, a)
		} else {
			err = e.Host.Echo(ctx, a)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmakeUplink makes all as it was, and forgets the uplink.
func (e *Engine) unmakeUplink(ctx context.Context, r uplink.Record) error {
	if !e.Store.SameBoot(r) && r.Phase != uplink.Leaving {
		// What the host had on the card then it has now as its manager says.
		r.Uplink.Held = hoststate.Held{Settings: r.Uplink.Held.Settings}
	}
	if lease, _, err := e.Store.UplinkLease(r.Uplink.Bridge); r.DHCP && err == nil {
		r.Uplink.MTU = leasedMTU(r.Uplink, lease) // so that the card has its own again
	}
	for _, edit := range r.Edits {
		if err := edit.Put(e.System, true, true); err != nil {
			return errAs(netdef.ErrOperationFailed, err)
		}
	}
	var ops []hoststate.Op
	for _, running := range e.Host.Observe([]hoststate.Key{e.uplinkClient(r).Key(), namesKey(r)}) {
		ops = append(ops, hoststate.DeleteOp(running))
	}
	if err := e.Host.Apply(ctx, append(ops, hoststate.DeleteOp(r.Uplink))); err != nil {
		return opError(err)
	}
	e.giveBackClients(r)
	if err := e.command(ctx, r, r.Uplink.Bridge, r.Uplink.NIC, true); err != nil {
		// The card has what it had; its manager sees to it at the next start.
		e.Log.Error("have the card's manager take it back", "manager", r.Manager, "nic", r.Uplink.NIC, "error", err)
	}
	if _, again := e.Host.Link(r.Uplink.Bridge); again {
		// By its files of before the manager has made it anew in between.
		if err := e.Host.Apply(ctx, []hoststate.Op{{Verb: hoststate.Delete, Old: hoststate.Uplink{Bridge: r.Uplink.Bridge}}}); err != nil {
			return opError(err)
		}
	}
	if err := errors.Join(e.Store.DeleteUplinkLease(r.Uplink.Bridge), e.Store.DeleteUplink(r.Uplink.Bridge)); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	delete(e.uplinks.records, r.Uplink.Bridge)
	return nil
}

// DeleteUplink gives the card back what the host has on the bridge, and removes
// the bridge.
func (e *Engine) DeleteUplink(ctx context.Context, bridge string) (UplinkReport, error) {
	e.uplinks.busy.Lock()
	defer e.uplinks.busy.Unlock()
	r, known := e.uplinkOf(bridge)
	report := UplinkReport{Bridge: bridge, NIC: r.Uplink.NIC, Manager: r.Manager, Addresses: []string{}}
	if !known {
		return report, noUplink(bridge)
	}
	var others []string
	for _, p := range e.Host.Ports(bridge) {
		if p.Name != r.Uplink.NIC {
			others = append(others, p.Name)
		}
	}
	if len(others) > 0 {
		return report, netdef.Errorf(netdef.ErrOperationInvalid, "bridge %s has other ports: %s", bridge, strings.Join(others, ", "))
	}
	for _, edit := range r.Edits {
		if changed, err := edit.Changed(e.System); err != nil || changed {
			return report, netdef.Errorf(netdef.ErrOperationInvalid, "%s was changed since the uplink was made: undo that, or change it all by hand and remove the record", edit.Path)
		}
	}
	e.stopWaiting(bridge)
	if err := e.leaveUplink(context.WithoutCancel(ctx), r); err != nil {
		return report, err
	}
	held, err := e.Host.Held(r.Uplink.NIC)
	if r.Uplink.NIC == "" || err != nil {
		return report, nil
	}
	for _, a := range held.Addresses {
		report.Addresses = append(report.Addresses, a.Prefix.String())
		if r.DHCP && isLeased(a) && len(r.Clients) == 0 {
			report.Notes = append(report.Notes, fmt.Sprintf("%s keeps %s until %s, unless a DHCP client is started on it: none was when uplink %s was made",
				r.Uplink.NIC, a.Prefix, a.Valid.Local().Format(time.DateTime), bridge))
		}
	}
	return report, nil
}

// ConfirmUplink keeps an uplink that awaits confirmation, or, if undo is set,
// takes it back at once.
func (e *Engine) ConfirmUplink(ctx context.Context, bridge string, undo bool) error {
	e.uplinks.busy.Lock()
	defer e.uplinks.busy.Unlock()
	r, known := e.uplinkOf(bridge)
	if !known {
		return noUplink(bridge)
	}
	if r.Phase != uplink.Awaiting {
		return netdef.Errorf(netdef.ErrOperationInvalid, "uplink %s does not await confirmation", bridge)
	}
	e.stopWaiting(bridge)
	if undo {
		return e.unmakeUplink(context.WithoutCancel(ctx), r)
	}
	r.Phase, r.Deadline, r.Within = uplink.Kept, time.Time{}, 0
	return e.keepUplink(r)
}

func noUplink(bridge string) error {
	return netdef.Errorf(netdef.ErrNoNetwork, "no uplink with bridge '%s'", bridge)
}

// uplinkOf finds the record of a bridge.
func (e *Engine) uplinkOf(bridge string) (uplink.Record, bool) {
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	r, ok := e.uplinks.records[bridge]
	return r, ok
}

// keepUplink has the record on disk and in mind.
func (e *Engine) keepUplink(r uplink.Record) error {
	if err := e.Store.PutUplink(r); err != nil {
		return errAs(netdef.ErrInternal, err)
	}
	e.uplinks.mu.Lock()
	defer e.uplinks.mu.Unlock()
	e.uplinks.records[r.Uplink.Bridge] = r
	return nil
}

// Uplinks lists the uplinks by name, and the cards that could have one.
func (e *Engine) Uplinks() ([]UplinkReport, []UplinkProposal) {
	e.uplinks.mu.Lock()
	records := slices.SortedFunc(maps.Values(e.uplinks.records), func(a, b uplink.Record) int {
		return strings.Compare(a.Uplink.Bridge, b.Uplink.Bridge)
	})
	e.uplinks.mu.Unlock()
	reports := []UplinkReport{}
	for _, r := range records {
		report := UplinkReport{Bridge: r.Uplink.Bridge, NIC: r.Uplink.NIC, Manager: r.Manager, DHCP: r.DHCP, Phase: r.Phase, Addresses: []string{}}
		if held, err := e.Host.Held(r.Uplink.Bridge); err == nil {
			for _, a := range held.Addresses {
				report.Addresses = append(report.Addresses, a.Prefix.String())
			}
		}
		if r.Phase == uplink.Awaiting {
			report.Deadline = &r.Deadline
		}
		reports = append(reports, report)
	}
	return reports, e.proposeUplinks()
}
