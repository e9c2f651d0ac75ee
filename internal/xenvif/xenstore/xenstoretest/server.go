// Package xenstoretest is a store like Xen's, for tests of what talks to it:
// real ones need Xen below them. It serves one domain, number 0.
package xenstoretest

import (
	"bufio"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"viaduct/internal/xenvif/xenstore"
)

// home is where relative paths of a client on a socket begin.
const home = "/local/domain/0"

// Limits of one connection, as xenstored has them.
const (
	maxTransactions = 10
	maxWatches      = 128
)

// Server is a store.
type Server struct {
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex
	tree  tree
	conns map[*conn]bool
}

// tree is all keys by absolute path. Its generation counts changes.
type tree struct {
	keys       map[string]string
	generation int
}

// conn is one client.
type conn struct {
	net.Conn
	sending sync.Mutex
	// The rest is guarded by Server.mu.
	lastTx       uint32
	transactions map[uint32]*transaction
	watches      []watch
}

type transaction struct {
	tree
	begin   int // the store's generation then
	changed []string
}

type watch struct{ path, given, token string }

// Serve starts a store on a listener.
func Serve(l net.Listener) *Server {
	s := &Server{listener: l, tree: tree{keys: map[string]string{"/": ""}}, conns: map[*conn]bool{}}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.running.Go(func() { s.serve(&conn{Conn: c, transactions: map[uint32]*transaction{}}) })
		}
	})
	return s
}

// Close ends the store and its connections.
func (s *Server) Close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

// Get returns a value. It is "" for a key that does not exist.
func (s *Server) Get(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tree.keys[absolute(key)]
}

// Set writes a key, as another client would.
func (s *Server) Set(key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree.write(absolute(key), value)
	s.fire(absolute(key))
}

// Remove deletes a key and all below it, as another client would.
func (s *Server) Remove(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tree.remove(absolute(key))
	s.fire(absolute(key))
}

// Watching counts the clients that watch keys, and their watches.
func (s *Server) Watching() (clients, watches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if len(c.watches) > 0 {
			clients++
			watches += len(c.watches)
		}
	}
	return clients, watches
}

func absolute(key string) string {
	if strings.HasPrefix(key, "/") {
		return path.Clean(key)
	}
	return path.Join(home, key)
}

func (t *tree) write(key, value string) {
	t.generation++
	for parent := path.Dir(key); ; parent = path.Dir(parent) {
		if _, ok := t.keys[parent]; ok {
			break
		}
		t.keys[parent] = ""
	}
	t.keys[key] = value
}

func (t *tree) remove(key string) {
	t.generation++
	maps.DeleteFunc(t.keys, func(k, _ string) bool { return k == key || strings.HasPrefix(k, key+"/") })
}

func (t *tree) children(key string) []string {
	var names []string
	for k := range t.keys {
		if k != "/" && path.Dir(k) == key {
			names = append(names, path.Base(k))
		}
	}
	slices.Sort(names)
	return names
}

// fire tells the watches that cover a key, and those of what has gone with it. It
// needs s.mu.
func (s *Server) fire(key string) {
	_, exists := s.tree.keys[key]
	for c := range s.conns {
		for _, w := range c.watches {
			switch {
			case key == w.path || strings.HasPrefix(key, w.path+"/"):
				c.tell(w, w.given+strings.TrimPrefix(key, w.path))
			case !exists && strings.HasPrefix(w.path, key+"/"):
				c.tell(w, w.given)
			}
		}
	}
}

func (c *conn) tell(w watch, key string) {
	c.send(xenstore.Message{Op: xenstore.OpWatchEvent, Payload: xenstore.Terminated(key, w.token)})
}

// send loses the connection of a client that does not listen.
func (c *conn) send(m xenstore.Message) {
	c.sending.Lock()
	defer c.sending.Unlock()
	if _, err := c.Write(m.Append(nil)); err != nil {
		c.Close()
	}
}

func (s *Server) serve(c *conn) {
	defer c.Close()
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	r := bufio.NewReader(c)
	for {
		m, err := xenstore.ReadMessage(r)
		if err != nil {
			return
		}
		s.answer(c, m)
	}
}

func (s *Server) answer(c *conn, m xenstore.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	payload, errno := s.do(c, m)
	if errno != "" {
		m.Op, payload = xenstore.OpError, xenstore.Terminated(string(errno))
	}
	op := m.Op
	m.Payload = payload
	c.send(m)
	if op == xenstore.OpWatch {
		w := c.watches[len(c.watches)-1]
		c.tell(w, w.given)
	}
}

// ok is the answer to what has none of its own.
var ok = xenstore.Terminated("OK")

// do carries a request out. It needs s.mu.
func (s *Server) do(c *conn, m xenstore.Message) ([]byte, xenstore.Errno) {
	first, rest, terminated := strings.Cut(string(m.Payload), "\x00")
	if !terminated {
		return nil, "EINVAL"
	}
	on, tx := &s.tree, c.transactions[m.Tx]
	if tx != nil {
		on = &tx.tree
	} else if m.Tx != 0 {
		return nil, xenstore.ErrNotExist
	}
	key := absolute(first)
	value, exists := on.keys[key]
	changed := func() {
		if tx != nil {
			tx.changed = append(tx.changed, key)
		} else {
			s.fire(key)
		}
	}
	switch m.Op {
	case xenstore.OpRead, xenstore.OpDirectory, xenstore.OpRemove:
		if !exists {
			return nil, xenstore.ErrNotExist
		}
	}
	switch m.Op {
	case xenstore.OpRead:
		return []byte(value), ""
	case xenstore.OpDirectory:
		return xenstore.Terminated(on.children(key)...), ""
	case xenstore.OpWrite:
		on.write(key, rest)
		changed()
	case xenstore.OpRemove:
		on.remove(key)
		changed()
	case xenstore.OpWatch:
		if len(c.watches) == maxWatches {
			return nil, "E2BIG"
		}
		c.watches = append(c.watches, watch{key, first, strings.TrimSuffix(rest, "\x00")})
	case xenstore.OpUnwatch:
		c.watches = slices.DeleteFunc(c.watches, func(w watch) bool { return w.given == first && w.token == strings.TrimSuffix(rest, "\x00") })
	case xenstore.OpTransactionStart:
		if len(c.transactions) == maxTransactions {
			return nil, "ENOSPC"
		}
		c.lastTx++
		c.transactions[c.lastTx] = &transaction{tree: tree{keys: maps.Clone(s.tree.keys)}, begin: s.tree.generation}
		return xenstore.Terminated(strconv.Itoa(int(c.lastTx))), ""
	case xenstore.OpTransactionEnd:
		return s.end(c, m.Tx, first == "T")
	default:
		return nil, "ENOSYS"
	}
	return ok, ""
}

// end ends a transaction. It stands only if nobody else changed anything.
func (s *Server) end(c *conn, id uint32, commit bool) ([]byte, xenstore.Errno) {
	tx := c.transactions[id]
	delete(c.transactions, id)
	switch {
	case tx == nil:
		return nil, xenstore.ErrNotExist
	case !commit || len(tx.changed) == 0:
		return ok, ""
	case s.tree.generation != tx.begin:
		return nil, "EAGAIN"
	}
	s.tree.keys = tx.keys
	s.tree.generation++
	for _, key := range tx.changed {
		s.fire(key)
	}
	return ok, ""
}
