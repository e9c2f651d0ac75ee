package dispatch

import (
	"sync"
	"time"

	"viaduct/internal/libvirtrpc/wire"
)

// keepalive asks a silent client whether it is there, and gives it up when it
// does not say a word for so many questions. A client is asked only after it
// has let the server know that it can answer.
type keepalive struct {
	mu     sync.Mutex
	timer  *time.Timer // nil while the client is not asked
	ended  bool
	paused int  // how many calls wait to be taken, so that nothing is read
	left   int  // how many questions may still go unanswered
	spoke  bool // since the last look
}

// start begins to ask.
func (k *keepalive) start(s *Session) {
	interval, count := s.server.KeepaliveInterval, s.server.KeepaliveCount
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.timer != nil || k.ended || interval < 0 {
		return
	}
	k.left = count
	k.timer = time.AfterFunc(interval, func() {
		k.mu.Lock()
		ended := k.ended
		if k.spoke || k.paused > 0 {
			k.left = count
		}
		k.spoke = false
		dead := k.left == 0
		k.left--
		if !ended && !dead {
			k.timer.Reset(interval)
		}
		k.mu.Unlock()
		switch {
		case ended:
		case dead:
			s.server.Log.Info("give up a client that does not answer", "client", s.client)
			s.conn.Close()
		default:
			s.send(wire.Header{Program: wire.ProgramKeepalive, Version: wire.Version, Procedure: wire.Ping, Type: wire.Message}, nil)
		}
	})
}

// heard notes a message from the client.
func (k *keepalive) heard() {
	k.mu.Lock()
	k.spoke = true
	k.mu.Unlock()
}

// pause says that nothing is read for a while, and resume that it is again:
// until then silence is no fault of the client's.
func (k *keepalive) pause() {
	k.mu.Lock()
	k.paused++
	k.mu.Unlock()
}

func (k *keepalive) resume() {
	k.mu.Lock()
	k.paused--
	k.mu.Unlock()
}

func (k *keepalive) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	if k.timer != nil {
		k.timer.Stop()
	}
}
