package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/changes"
	"viaduct/internal/hoststate"
)

// passComment is the user data of our rules in foreign chains, which nft and
// iptables show as the comment "viaduct". It is how we know them again.
var passComment = append([]byte{0, byte(len("viaduct") + 1)}, "viaduct\x00"...)

// passQuiet is how long foreign tables have to be left alone before they are
// read again: other tools load their rules one by one.
const passQuiet = 50 * time.Millisecond

// Passes keeps our rules in foreign chains. It has a socket of its own,
// since that of our tables is their owner's and busy with them.
type Passes struct {
	ours    []hoststate.TableRef
	log     *slog.Logger
	changes *changes.Box
	wake    <-chan struct{}
	done    chan struct{}
	tasks   sync.WaitGroup

	mu     sync.Mutex // of the socket too
	socket *socket
	chains map[hoststate.Key]*foreignChain
}

// Passes reads what is there, and follows it by what the firewall hears.
func (a *Applier) Passes() (*Passes, error) {
	socket, err := openSocket(nil)
	if err != nil {
		return nil, err
	}
	p := &Passes{ours: a.names, log: a.log, changes: changes.New(), wake: a.foreign, done: make(chan struct{}), socket: socket}
	if p.chains, err = socket.foreignFilters(p.ours); err != nil {
		return nil, errors.Join(err, socket.close())
	}
	p.tasks.Go(p.follow)
	p.tasks.Go(func() { p.changes.Run(p.done) })
	return p, nil
}

// Kinds implements Applier.
func (a *Passes) Kinds() []hoststate.Kind { return []hoststate.Kind{hoststate.KindPass} }

// Observe implements Applier, from what was read last.
func (a *Passes) Observe(keys []hoststate.Key) hoststate.State {
	s := a.Owned()
	for k := range s {
		if !slices.Contains(keys, k) {
			delete(s, k)
		}
	}
	return s
}

// Owned implements Applier.
func (a *Passes) Owned() hoststate.State {
	a.mu.Lock()
	defer a.mu.Unlock()
	return passesThere(a.chains)
}

func passesThere(chains map[hoststate.Key]*foreignChain) hoststate.State {
	s := hoststate.State{}
	for _, c := range chains {
		if c.pass != 0 {
			s.Add(hoststate.Pass{Table: c.Table, Chain: c.Name})
		}
	}
	return s
}

// Needed lists where passes have to be.
func (a *Passes) Needed() []hoststate.Pass {
	a.mu.Lock()
	defer a.mu.Unlock()
	return passesIn(a.chains)
}

// Blockers names the chains that may drop our packets all the same.
func (a *Passes) Blockers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return blockersIn(a.chains)
}

// OneByOne says that operations come alone.
func (a *Passes) OneByOne() {}

// Apply implements Applier. A chain that is gone needs no pass any more.
func (a *Passes) Apply(_ context.Context, ops []hoststate.Op) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, op := range ops {
		if err := a.apply(op); err != nil {
			return &hoststate.OpError{Op: op, Err: err}
		}
	}
	return nil
}

// apply needs a.mu.
func (a *Passes) apply(op hoststate.Op) error {
	p, ok := op.Object().(hoststate.Pass)
	if !ok {
		return fmt.Errorf("%T is no pass", op.Object())
	}
	c := a.chains[hoststate.ChainKey(p.Table, p.Chain)]
	if c == nil || (op.Verb == hoststate.Delete) == (c.pass == 0) {
		return nil
	}
	m, err := passMessage(p, op.Verb, c.pass)
	if err != nil {
		return err
	}
	refused, err := a.socket.commit([]message{m})
	if err != nil {
		return err
	}
	if r, bad := refused[0]; bad && r.errno != unix.ENOENT {
		return r.err()
	}
	return a.socket.readForeignRules(c)
}

// passMessage inserts a pass at the head of its chain, or deletes the one with
// the given handle.
func passMessage(p hoststate.Pass, verb hoststate.Verb, handle uint64) (message, error) {
	if verb == hoststate.Delete {
		m := named(unix.NFT_MSG_DELRULE, p.Table, unix.NFTA_RULE_CHAIN, p.Chain)
		m.attrs.u64(unix.NFTA_RULE_HANDLE, handle)
		return m, nil
	}
	m := named(unix.NFT_MSG_NEWRULE, p.Table, unix.NFTA_RULE_CHAIN, p.Chain)
	m.flags = unix.NLM_F_CREATE
	list, err := encodeExprs(m.family, passExprs(p.Table.Family))
	if err != nil {
		return m, err
	}
	m.attrs.bytes(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, list)
	m.attrs.bytes(unix.NFTA_RULE_USERDATA, passComment)
	return m, nil
}

// passExprs accepts marked packets. iptables' tables get iptables' own match,
// or iptables would refuse to list the table.
func passExprs(family hoststate.Family) []expr.Any {
	mark := binary.NativeEndian.AppendUint32(nil, hoststate.PassMark)
	match := []expr.Any{
		metaMark(false),
		&expr.Bitwise{SourceRegister: registerAt(0), DestRegister: registerAt(0), Len: 4, Mask: mark, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: registerAt(0), Data: make([]byte, 4)},
	}
	if family != hoststate.Inet {
		// struct xt_mark_mtinfo1: mark, mask, invert, and padding to eight bytes.
		info := xt.Unknown(append(append(slices.Clone(mark), mark...), make([]byte, 8)...))
		match = []expr.Any{&expr.Match{Name: "mark", Rev: 1, Info: &info}}
	}
	return append(match, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
}

// follow reads foreign tables again when they may have changed.
func (a *Passes) follow() {
	quiet := time.NewTimer(passQuiet)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-a.done:
			return
		case <-a.wake:
			quiet.Reset(passQuiet)
		case <-quiet.C:
			a.refresh()
		}
	}
}

// refresh reads foreign tables and tells what is different for us.
func (a *Passes) refresh() {
	a.mu.Lock()
	defer a.mu.Unlock()
	chains, err := a.socket.foreignFilters(a.ours)
	if err != nil {
		a.log.Error("read the firewall rules of others", "error", err)
		return
	}
	before, after := passState(a.chains), passState(chains)
	a.chains = chains
	for k, was := range before {
		if after[k] != was {
			a.changes.Add(k)
		}
	}
	for k := range after {
		if _, known := before[k]; !known {
			a.changes.Add(k)
		}
	}
}

// passState says for each place where a pass is, or should be, which of both holds.
func passState(chains map[hoststate.Key]*foreignChain) map[hoststate.Key][2]bool {
	state := map[hoststate.Key][2]bool{}
	for _, p := range passesIn(chains) {
		state[p.Key()] = [2]bool{true, false}
	}
	for k := range passesThere(chains) {
		state[k] = [2]bool{state[k][0], true}
	}
	return state
}

// Events tells what others have changed. It is closed with the applier.
func (a *Passes) Events() <-chan []hoststate.Key { return a.changes.Out() }

// Close stops following. Passes stay where they are.
func (a *Passes) Close() error {
	close(a.done)
	a.tasks.Wait()
	return a.socket.close()
}
