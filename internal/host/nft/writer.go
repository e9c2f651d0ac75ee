package nft

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// maxMerged is how many waiting requests become one transaction.
const maxMerged = 256

// errClosed is returned for what is asked of a closed host.
var errClosed = errors.New("the host is closed")

// request is one call of Apply: all of it happens, or nothing.
type request struct {
	ops   []hoststate.Op
	reply chan error // buffered
	// gone are the removals that turned out to be of what is not there.
	gone map[goneStep]bool
}

// goneStep names a removal: the operation and its message type.
type goneStep struct {
	op  int
	typ uint16
}

// write is the writer: the only goroutine that uses the socket and changes the
// mirror. It makes one transaction of the requests that come together.
func (a *Applier) write() {
	for {
		select {
		case <-a.done:
			return
		case <-a.dirty.wake:
			a.refresh()
		case first := <-a.requests:
			batch := a.gather(first)
			a.refresh()
			began := time.Now()
			a.commitMerged(batch)
			a.cost = time.Since(began)
		}
	}
}

// Expect tells that n more requests are to come, or, if n is negative, that
// they are here or will never come.
func (a *Applier) Expect(n int) { a.coming.Add(int32(n)) }

// patience is how long a request waits for others that are on their way, in
// transactions. For each transaction the kernel checks all rules of a table
// again. Beside 1000 networks that takes as long as the rest of a network's
// start, so that many networks at once are up sooner if they wait for each other.
const patience = 4

// gather returns the requests for the next transaction: the first and all that
// wait, and those that come soon. If none are on their way it does not wait.
func (a *Applier) gather(first *request) []*request {
	batch := append(make([]*request, 0, 8), first)
	var enough <-chan time.Time
	for len(batch) < maxMerged {
		select {
		case r := <-a.requests:
			batch = append(batch, r)
			continue
		default:
		}
		if a.coming.Load() <= 0 {
			return batch
		}
		if enough == nil {
			enough = time.After(patience * a.cost)
		}
		select {
		case r := <-a.requests:
			batch = append(batch, r)
		case <-enough:
			return batch
		case <-a.done:
			return batch
		}
	}
	return batch
}

// commitMerged carries out requests that do not know of each other. When the
// kernel refuses the transaction, those it found fault with are taken out and
// tried alone, so that each stands and falls by itself.
func (a *Applier) commitMerged(batch []*request) {
	var suspects []*request
	for len(batch) > 0 {
		errs := a.commit(batch)
		if errs == nil {
			for _, r := range batch {
				r.reply <- nil
			}
			break
		}
		if len(batch) == 1 {
			batch[0].reply <- errs[batch[0]]
			break
		}
		var rest []*request
		for _, r := range batch {
			if errs[r] != nil {
				suspects = append(suspects, r)
			} else {
				rest = append(rest, r)
			}
		}
		batch = rest
	}
	for _, r := range suspects {
		r.reply <- a.commit([]*request{r})[r]
	}
}

// commit carries out requests in one transaction. Unless all of them succeed
// it changes nothing and returns the errors of those that are at fault.
func (a *Applier) commit(batch []*request) map[*request]error {
	type origin struct {
		request *request
		step    step
	}
	for {
		view := a.mirror.view(a.newTable)
		errs := map[*request]error{}
		var msgs []message
		var origins []origin
		for _, r := range batch {
			steps, err := view.plan(r.ops)
			if err != nil {
				errs[r] = err
			}
			for _, s := range steps {
				if !r.gone[goneStep{s.op, s.msg.typ}] {
					msgs = append(msgs, s.msg)
					origins = append(origins, origin{r, s})
				}
			}
		}
		if len(errs) > 0 {
			return errs
		}
		refused, err := a.socket.commit(msgs)
		if err == nil && len(refused) == 0 {
			a.mirror.adopt(view)
			return nil
		}
		again := false
		for i, o := range origins {
			r, bad := refused[i]
			switch {
			case !bad:
			case o.step.gone && r.errno == unix.ENOENT:
				again = true
				if o.request.gone == nil {
					o.request.gone = map[goneStep]bool{}
				}
				o.request.gone[goneStep{o.step.op, o.step.msg.typ}] = true
			case errs[o.request] == nil:
				op := o.request.ops[o.step.op]
				errs[o.request] = &hoststate.OpError{Op: op, Err: a.explain(op, r)}
			}
		}
		switch {
		case len(errs) > 0:
			return errs
		case !again:
			if err == nil {
				err = errors.New("the kernel refused the transaction")
			}
			for _, r := range batch {
				errs[r] = &hoststate.OpError{Op: r.ops[0], Err: err}
			}
			return errs
		}
	}
}

// explain says what an error of the kernel means for an operation.
func (a *Applier) explain(op hoststate.Op, r refusal) error {
	err := r.err()
	object := op.Object()
	switch r.errno {
	case unix.EPERM:
		if owner := a.foreignOwner(tableOf(object)); owner != "" {
			return fmt.Errorf("%w: table %s is owned by %s", err, tableOf(object), owner)
		}
		return fmt.Errorf("%w: changing nftables needs CAP_NET_ADMIN", err)
	case unix.EBUSY:
		return fmt.Errorf("%w: still in use, or there with another verdict", err)
	}
	if c, ok := op.New.(hoststate.Chain); ok {
		if missing := a.unsupported(c); missing != nil {
			return missing
		}
	}
	if r.errno == unix.ENOENT {
		return fmt.Errorf("%w: it needs a table, chain or set that is not there", err)
	}
	return err
}

// kernelOption is the kernel's build option for an expression.
func kernelOption(family hoststate.Family, e hoststate.Expr) string {
	bridge := family == hoststate.BridgeFamily
	switch e.(type) {
	case hoststate.Reject:
		if bridge {
			return "CONFIG_NFT_BRIDGE_REJECT"
		}
		return "CONFIG_NFT_REJECT_INET"
	case hoststate.CTState:
		if bridge {
			return "CONFIG_NF_CONNTRACK_BRIDGE"
		}
		return "CONFIG_NFT_CT"
	case hoststate.Masquerade:
		return "CONFIG_NFT_MASQ"
	case hoststate.SNAT:
		return "CONFIG_NFT_NAT"
	case hoststate.Redirect:
		return "CONFIG_NFT_REDIR"
	}
	return "CONFIG_NF_TABLES"
}

// unsupported finds an expression of the chain that this kernel lacks, by
// trying those that refer to nothing else one by one. It returns nil if the
// kernel knows them all.
func (a *Applier) unsupported(c hoststate.Chain) error {
	scratch := hoststate.Chain{Table: hoststate.TableRef{Family: c.Table.Family, Name: probeTable}, Name: "probe"}
	chain, err := addChain(scratch)
	if err != nil {
		return nil
	}
	for _, rule := range c.Rules {
		for _, e := range rule {
			switch v := e.(type) {
			case hoststate.InSet, hoststate.VMap, hoststate.Update:
				continue
			case hoststate.Verdict:
				if v.Chain != "" {
					continue
				}
			}
			m, err := addRule(scratch, hoststate.Rule{e})
			if err != nil {
				continue
			}
			refused, err := a.socket.rehearse(addTable(scratch.Table, 0), chain, m)
			if r, bad := refused[2]; err == nil && bad {
				return fmt.Errorf("%q in family %s: not supported by this kernel, needs %s: %w",
					e.Text(), c.Table.Family, kernelOption(c.Table.Family, e), r.err())
			}
		}
	}
	return nil
}
