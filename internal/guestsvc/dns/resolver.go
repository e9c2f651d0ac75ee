package dns

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"viaduct/internal/netdef"
)

// Limits of what all networks of a host may use together, and each of them.
const (
	maxWaiting          = 4096 // clients' queries waiting for an answer to one
	maxWaitingOfNetwork = 512
	maxConns            = 1024 // TCP connections of clients
	maxConnsOfNetwork   = 128
	cacheEntries        = 10000
	cacheBytes          = 8 << 20
	maxCachedReply      = 16 << 10
	maxAttempts         = 4
)

// Resolver asks the servers outside, for all networks of a host. It asks each
// question once, however many wait for the answer, and keeps answers.
type Resolver struct {
	log   *slog.Logger
	conf  resolvConf
	cache *cache
	down  outages

	// waiting and conns bound what the networks' servers hold.
	waiting, conns *gate[netdef.UUID]

	// Time for all attempts together, and how long an attempt is waited for
	// before the next one starts beside it.
	limit, patience time.Duration
	// failureTTL is how long a failure is not tried again (RFC 9520).
	failureTTL time.Duration
	now        func() time.Time

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	maxFlights int // how many different questions may be asked at once
	mu         sync.Mutex
	flights    map[string]*flight
	// own counts by how many servers an address of ours is listened on.
	own map[netip.Addr]int
}

// flight is a question being asked.
type flight struct {
	done  chan struct{} // closed once reply is set
	reply reply
}

// NewResolver makes a resolver that asks the servers in the resolv.conf(5)
// file at the path given, normally /etc/resolv.conf, where a network names no
// others. It follows changes of the file.
func NewResolver(resolvConfPath string, log *slog.Logger) *Resolver {
	r := &Resolver{
		log:        log,
		conf:       resolvConf{path: resolvConfPath, port: 53},
		cache:      newCache(cacheEntries, cacheBytes),
		down:       outages{down: map[netip.AddrPort]outage{}},
		waiting:    newGate[netdef.UUID](maxWaiting, maxWaitingOfNetwork),
		conns:      newGate[netdef.UUID](maxConns, maxConnsOfNetwork),
		limit:      4500 * time.Millisecond, // before clients give up, after 5 s
		patience:   time.Second,
		failureTTL: time.Second,
		now:        time.Now,
		maxFlights: 512, // two or three sockets each at worst
		flights:    map[string]*flight{},
		own:        map[netip.Addr]int{},
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r
}

// Close gives up what is being asked and waits for that to end. No server may
// use the resolver any more.
func (r *Resolver) Close() {
	r.cancel()
	r.wg.Wait()
}

// listening notes that a server of ours listens, or with -1 no longer
// listens, on an address, which the host's resolver list may hold too.
func (r *Resolver) listening(a netip.Addr, by int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own[a] += by; r.own[a] == 0 {
		delete(r.own, a)
	}
}

// servers resolves hostResolvers to what it stands for at the moment.
func (r *Resolver) servers(via *upstreams) *upstreams {
	if via == hostResolvers {
		return r.conf.current(r.now())
	}
	return via
}

// maxKey is the length of a question's key without the servers' part.
const maxKey = maxName + 6

// appendKey writes what tells questions apart: what is asked, whether with
// DNSSEC, and who is asked.
func appendKey(out []byte, q *query, servers *upstreams) []byte {
	out = append(out, q.name()...)
	out = binary.BigEndian.AppendUint16(out, uint16(q.typ))
	out = binary.BigEndian.AppendUint16(out, q.class)
	bits := q.flags & flagCD
	if q.do {
		bits |= 1
	}
	out = append(out, byte(bits))
	return append(out, servers.id...)
}

// cached returns a kept answer.
func (r *Resolver) cached(q *query, via *upstreams) (reply, bool) {
	var buf [maxKey + 128]byte
	return r.cache.get(appendKey(buf[:0], q, r.servers(via)), r.now())
}

var failure = reply{code: serverFailure}

// resolve asks the servers, or waits for the answer if they are being asked
// already. It ends early, with a failure, when ctx ends.
func (r *Resolver) resolve(ctx context.Context, q *query, via *upstreams) reply {
	f := r.join(q, r.servers(via), via == hostResolvers)
	if f == nil {
		return failure
	}
	select {
	case <-f.done:
		return f.reply
	case <-ctx.Done():
		return failure
	}
}

// join returns the flight that asks this question, a new one if there is
// none, or nil if there are too many.
func (r *Resolver) join(q *query, servers *upstreams, avoidOwn bool) *flight {
	key := string(appendKey(nil, q, servers))
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.flights[key]; f != nil {
		return f
	}
	if len(r.flights) >= r.maxFlights || r.ctx.Err() != nil {
		return nil
	}
	addrs := servers.addrs
	if avoidOwn {
		addrs = slices.DeleteFunc(slices.Clone(addrs), func(a netip.AddrPort) bool { return r.own[a.Addr()] > 0 })
	}
	f := &flight{done: make(chan struct{})}
	r.flights[key] = f
	r.wg.Go(func() { r.fly(f, key, q, addrs) })
	return f
}

// fly carries a flight out.
func (r *Resolver) fly(f *flight, key string, q *query, addrs []netip.AddrPort) {
	resp := r.ask(q, addrs)
	if resp.ttl > 0 && len(resp.reply.body) <= maxCachedReply && r.ctx.Err() == nil {
		resp.reply.body = slices.Clone(resp.reply.body)
		r.cache.put(key, resp.reply, resp.ttl, r.now())
	}
	r.mu.Lock()
	delete(r.flights, key)
	r.mu.Unlock()
	f.reply = resp.reply
	close(f.done)
}

// attempt is the outcome of asking one server.
type attempt struct {
	server netip.AddrPort
	response
	err error
}

// ask asks one server after the other until one settles the question. A slow
// one is not given up while the next is asked: the first good answer counts.
func (r *Resolver) ask(q *query, addrs []netip.AddrPort) response {
	ctx, cancel := context.WithTimeout(r.ctx, r.limit)
	defer cancel()
	queue := r.down.order(addrs, r.now())
	queue = append(queue, queue...) // a datagram may get lost
	queue = queue[:min(len(queue), maxAttempts)]

	outcomes := make(chan attempt, maxAttempts)
	pending := 0
	silent := map[netip.AddrPort]bool{} // had the time to answer and did not
	defer func() { r.note(silent) }()
	var last netip.AddrPort
	start := func() {
		if len(queue) == 0 || ctx.Err() != nil {
			return
		}
		server := queue[0]
		queue, last = queue[1:], server
		pending++
		r.wg.Go(func() {
			resp, err := exchange(ctx, server, q)
			outcomes <- attempt{server, resp, err}
		})
	}
	next := time.NewTicker(r.patience)
	defer next.Stop()
	for start(); pending > 0; start() {
		select {
		case o := <-outcomes:
			pending--
			silent[o.server] = o.err != nil
			if o.err == nil && o.final() {
				return o.response
			}
			// Whoever refuses or is not there will not do better the second time.
			queue = slices.DeleteFunc(queue, func(a netip.AddrPort) bool { return a == o.server })
		case <-next.C:
			if _, known := silent[last]; !known {
				silent[last] = true
			}
		}
	}
	return response{reply: failure, ttl: r.failureTTL}
}

// note remembers which servers were silent and which were not.
func (r *Resolver) note(silent map[netip.AddrPort]bool) {
	for server, is := range silent {
		switch {
		case r.ctx.Err() != nil:
		case is && r.down.failed(server, r.now()):
			r.log.Warn("name server does not answer", "server", server)
		case !is && r.down.answered(server):
			r.log.Info("name server answers again", "server", server)
		}
	}
}
