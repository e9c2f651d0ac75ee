package ra

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// The times of RFC 4861 section 10.
const (
	initialAdverts     = 3 // as many come quickly after a start or a change
	maxInitialInterval = 16 * time.Second
	minDelayBetween    = 3 * time.Second
	maxAnswerDelay     = 500 * time.Millisecond
)

// maxAnswers bounds the guests that wait for an answer of their own. An
// advertisement to all serves what more there are.
const maxAnswers = 64

// schedule decides when advertisements are sent, and to whom. It has no clock.
type schedule struct {
	min, max time.Duration // between two to all

	next     time.Time // to all
	last     time.Time // that one was sent to all
	quick    int       // so many more come quickly
	failures int       // in a row
	answers  []answer
}

type answer struct {
	to netip.Addr
	at time.Time
}

// between is a random time from a to b.
func between(a, b time.Duration) time.Duration { return a + rand.N(b-a+1) }

// setInterval sets the longest time between two advertisements to all.
func (s *schedule) setInterval(longest time.Duration) {
	s.min, s.max = max(longest/3, minDelayBetween), longest
}

// restart begins anew with advertisements in quick succession.
func (s *schedule) restart(now time.Time) {
	s.next, s.quick, s.failures = now, initialAdverts, 0
}

// solicited notes that a guest asks (RFC 4861 section 6.2.6).
func (s *schedule) solicited(from netip.Addr, now time.Time) {
	at := now.Add(between(0, maxAnswerDelay))
	if !at.Before(s.next) {
		return // it will hear the one to all
	}
	if from.IsLinkLocalUnicast() {
		if slices.ContainsFunc(s.answers, func(a answer) bool { return a.to == from }) {
			return
		}
		if len(s.answers) < maxAnswers {
			s.answers = append(s.answers, answer{from, at})
			return
		}
	}
	if earliest := s.last.Add(minDelayBetween); at.Before(earliest) {
		at = earliest.Add(between(0, maxAnswerDelay))
	}
	if at.Before(s.next) {
		s.next = at
	}
}

// wake is when something is due next.
func (s *schedule) wake() time.Time {
	next := s.next
	for _, a := range s.answers {
		if a.at.Before(next) {
			next = a.at
		}
	}
	return next
}

// due takes off what is due: an advertisement to all, or to some.
func (s *schedule) due(now time.Time) (all bool, some []netip.Addr) {
	if !s.next.After(now) {
		s.answers = s.answers[:0]
		return true, nil
	}
	s.answers = slices.DeleteFunc(s.answers, func(a answer) bool {
		if a.at.After(now) {
			return false
		}
		some = append(some, a.to)
		return true
	})
	return false, some
}

// sent says that one to all was sent, or could not be, and chooses the time of
// the next. After failures it is later and later, so that a link that stays
// away costs nothing; a guest that asks hastens it.
func (s *schedule) sent(ok bool, now time.Time) {
	if !ok {
		delay := min(maxInitialInterval<<min(s.failures, 8), s.max)
		s.failures++
		s.next = now.Add(between(delay/2, delay))
		return
	}
	s.last, s.failures, s.quick = now, 0, max(s.quick-1, 0)
	if s.quick > 0 {
		s.next = now.Add(between(minDelayBetween, min(maxInitialInterval, s.max)))
	} else {
		s.next = now.Add(between(s.min, s.max))
	}
}
