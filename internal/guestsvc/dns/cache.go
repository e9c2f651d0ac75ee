package dns

import (
	"container/list"
	"sync"
	"time"
)

// cache keeps what upstream servers said, for as long as they allow. What has
// not been asked for the longest goes first when it is full.
type cache struct {
	maxEntries, maxBytes int

	mu      sync.Mutex
	entries map[string]*list.Element
	order   list.List // of *entry, the latest used first
	bytes   int
}

type entry struct {
	key             string
	reply           reply
	stored, expires time.Time
}

// entryOverhead is about what an entry takes besides its key and its records.
const entryOverhead = 256

func (e *entry) size() int { return len(e.key) + len(e.reply.body) + entryOverhead }

func newCache(maxEntries, maxBytes int) *cache {
	return &cache{maxEntries: maxEntries, maxBytes: maxBytes, entries: map[string]*list.Element{}}
}

// get returns what is kept for a question, with its age.
func (c *cache) get(key []byte, now time.Time) (reply, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[string(key)]
	if !ok {
		return reply{}, false
	}
	e := el.Value.(*entry)
	if !now.Before(e.expires) {
		c.remove(el)
		return reply{}, false
	}
	c.order.MoveToFront(el)
	r := e.reply
	r.age = uint32(max(0, now.Sub(e.stored)/time.Second))
	return r, true
}

// put keeps a reply. The cache must be the only one to hold its records from then on.
func (c *cache) put(key string, r reply, ttl time.Duration, now time.Time) {
	e := &entry{key: key, reply: r, stored: now, expires: now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[key]; ok {
		c.remove(el)
	}
	c.entries[key] = c.order.PushFront(e)
	c.bytes += e.size()
	for len(c.entries) > c.maxEntries || c.bytes > c.maxBytes {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.size()
}
