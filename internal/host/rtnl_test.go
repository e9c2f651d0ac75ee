package host

import (
	"errors"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answers is a netlink socket that answers each request with the next reply.
type answers struct {
	request netlink.Message
	replies []any // an error, or the flags of a message
	closed  bool
}

func (s *answers) Close() error                         { s.closed = true; return nil }
func (s *answers) SendMessages([]netlink.Message) error { return errors.New("not expected") }

func (s *answers) Send(m netlink.Message) error {
	s.request = m
	return nil
}

func (s *answers) Receive() ([]netlink.Message, error) {
	reply := s.replies[0]
	s.replies = s.replies[1:]
	if err, ok := reply.(error); ok {
		return nil, err
	}
	h := s.request.Header
	h.Flags = netlink.Multi | reply.(netlink.HeaderFlags)
	done := h
	done.Type = netlink.Done
	return []netlink.Message{{Header: h, Data: []byte{byte(len(s.replies))}}, {Header: done, Data: make([]byte, 4)}}, nil
}

func TestDumpIsRepeated(t *testing.T) {
	whole, partial := netlink.HeaderFlags(0), netlink.DumpInterrupted
	for _, c := range []struct {
		name    string
		replies []any
		wantErr string
	}{
		{"whole", []any{whole}, ""},
		{"interrupted twice", []any{partial, partial, whole}, ""},
		{"a signal", []any{unix.EINTR, whole}, ""},
		{"refused", []any{unix.EPERM}, "operation not permitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &answers{replies: c.replies}
			r := newRTNL()
			r.idle <- netlink.NewConn(s, 0)
			msgs, err := r.dump(unix.RTM_GETLINK, nil)
			if (err != nil) != (c.wantErr != "") || err != nil && !strings.Contains(err.Error(), c.wantErr) {
				t.Fatalf("error %v, want %q", err, c.wantErr)
			}
			if err == nil && (len(msgs) != 1 || msgs[0].Data[0] != 0) {
				t.Errorf("got %v, want the last reply", msgs)
			}
			r.close()
			if !s.closed {
				t.Error("the socket stays open")
			}
		})
	}
	endless := make([]any, maxDumps)
	for i := range endless {
		endless[i] = partial
	}
	r := newRTNL()
	r.idle <- netlink.NewConn(&answers{replies: endless}, 0)
	if _, err := r.dump(unix.RTM_GETLINK, nil); err == nil {
		t.Error("took an interrupted dump for whole")
	}
}
