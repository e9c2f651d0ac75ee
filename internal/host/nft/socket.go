package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
)

// socket is a netlink socket to nf_tables. Its port id is what the kernel
// knows the owner of a table by, so it lasts as long as the process, or longer
// in the hands of a service manager. One goroutine uses it at a time.
//
// The batches are put together here and not by the nftables library's Conn:
// that one asks the kernel to repeat every rule, and tells only the first of
// several errors without the message it belongs to.
type socket struct {
	fd      int
	port    uint32
	seq     uint32
	sendbuf int
	buf     []byte
}

// message is one nf_tables request inside a batch, or the request for a dump.
type message struct {
	typ    uint16 // NFT_MSG_*
	flags  uint16 // NLM_F_*, besides NLM_F_REQUEST
	family uint8
	attrs  attrs
}

const (
	nlHeaderLen = unix.NLMSG_HDRLEN
	nfHeaderLen = 4  // struct nfgenmsg
	nlErrorLen  = 4  // the errno before the header of the message in question
	readBytes   = 64 // KiB; the kernel sends at most 32 KiB at a time
)

// openSocket opens a socket to nf_tables, or goes on with an inherited one.
func openSocket(inherited *os.File) (*socket, error) {
	s := &socket{buf: make([]byte, readBytes<<10), sendbuf: 1 << 20}
	var err error
	if inherited == nil {
		s.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	} else {
		s.fd, err = unix.FcntlInt(inherited.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open nf_tables socket: %w", err)
	}
	if err := s.prepare(inherited != nil); err != nil {
		_ = unix.Close(s.fd)
		return nil, fmt.Errorf("open nf_tables socket: %w", err)
	}
	return s, nil
}

func (s *socket) prepare(inherited bool) error {
	if !inherited {
		if err := unix.Bind(s.fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
	}
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return err
	}
	addr, ok := name.(*unix.SockaddrNetlink)
	if !ok {
		return fmt.Errorf("not a netlink socket: %T", name)
	}
	s.port = addr.Pid
	// Room for the errors of a large batch. Errors of the kernel's messages are
	// short with CAP_ACK, and explained with EXT_ACK; older kernels lack both.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, s.sendbuf)
	// What an earlier process was told and did not read is not for us.
	return s.receive(func(nlMessage) error { return nil })
}

func (s *socket) close() error { return unix.Close(s.fd) }

// refusal is the kernel's error for one message of a batch.
type refusal struct {
	errno unix.Errno
	hint  string // the kernel's own words, often empty
}

// commit sends messages as one transaction. It returns what the kernel refused
// by index into msgs; if that is not empty, nothing has changed. An error says
// that the transaction failed for no message in particular.
func (s *socket) commit(msgs []message) (map[int]refusal, error) {
	if len(msgs) == 0 {
		return nil, nil
	}
	first := s.seq + 1
	size := 2 * (nlHeaderLen + nfHeaderLen)
	for _, m := range msgs {
		size += nlHeaderLen + nfHeaderLen + len(m.attrs)
	}
	b := s.appendHeader(make([]byte, 0, size), unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	for _, m := range msgs {
		b = s.appendMessage(b, m)
	}
	b = s.appendHeader(b, unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, 0)
	if err := s.send(b); err != nil {
		return nil, err
	}
	refused := map[int]refusal{}
	var whole error
	// The kernel has done the batch when send returns, and queued its errors.
	err := s.receive(func(m nlMessage) error {
		r, failed := m.refusal()
		if !failed {
			return nil
		}
		if i := int(int32(m.seq-first)) - 1; i >= 0 && i < len(msgs) {
			if _, known := refused[i]; !known {
				refused[i] = r
			}
		} else if whole = r.err(); r.errno == unix.EPERM {
			whole = fmt.Errorf("%w: changing nftables needs CAP_NET_ADMIN", whole)
		}
		return nil
	})
	return refused, errors.Join(whole, err)
}

// maxDumps is how often an interrupted dump is begun again.
const maxDumps = 50

// dump lists what req asks for. An interrupted dump is begun again, so collect
// is called for a fresh start with a nil body first.
func (s *socket) dump(req message, collect func(family uint8, body []byte)) error {
	for range maxDumps {
		collect(0, nil)
		done, interrupted := false, false
		req.flags |= unix.NLM_F_DUMP
		if err := s.send(s.appendMessage(nil, req)); err != nil {
			return err
		}
		err := s.receive(func(m nlMessage) error {
			if m.seq != s.seq {
				return nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			r, failed := m.refusal()
			switch {
			case failed && r.errno == unix.EINTR:
				done, interrupted = true, true
			case failed && r.errno == unix.ENOENT:
				done = true // the table is gone
			case failed:
				return r.err()
			case m.typ == unix.NLMSG_DONE:
				done = true
			case len(m.body) >= nfHeaderLen:
				collect(m.body[0], m.body[nfHeaderLen:])
			}
			return nil
		})
		if err == nil && !done {
			err = errors.New("the kernel ended the list early")
		}
		if err != nil {
			return fmt.Errorf("list nftables: %w", err)
		}
		if !interrupted {
			return nil
		}
	}
	return fmt.Errorf("list nftables: interrupted %d times by changes", maxDumps)
}

func (s *socket) appendMessage(b []byte, m message) []byte {
	b = s.appendHeader(b, unix.NFNL_SUBSYS_NFTABLES<<8|m.typ, m.flags, m.family, 0, len(m.attrs))
	return append(b, m.attrs...)
}

// appendHeader appends a netlink and an nfnetlink header. resource is 0 but in
// the frame of a batch.
func (s *socket) appendHeader(b []byte, typ, flags uint16, family uint8, resource uint16, attrs int) []byte {
	s.seq++
	b = binary.NativeEndian.AppendUint32(b, uint32(nlHeaderLen+nfHeaderLen+attrs))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, s.seq)
	b = binary.NativeEndian.AppendUint32(b, s.port)
	b = append(b, family, unix.NFNETLINK_V0)
	return binary.BigEndian.AppendUint16(b, resource)
}

func (s *socket) send(b []byte) error {
	if need := len(b) + 4096; need > s.sendbuf {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, need); err != nil {
			return fmt.Errorf("make room for a batch of %d bytes: %w", len(b), err)
		}
		s.sendbuf = need
	}
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return os.NewSyscallError("send to nf_tables", err)
		}
	}
}

// receive reads what is queued on the socket.
func (s *socket) receive(f func(nlMessage) error) error {
	var first error
	for {
		// Not waiting is asked for each time: whoever else holds the socket may
		// have made it a blocking one.
		n, _, err := unix.Recvfrom(s.fd, s.buf, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return first
		default:
			return errors.Join(first, os.NewSyscallError("receive from nf_tables", err))
		}
		for m := range nlMessages(s.buf[:n]) {
			if err := f(m); err != nil && first == nil {
				first = err
			}
		}
	}
}

// nlMessage is a netlink message as received.
type nlMessage struct {
	typ, flags uint16
	seq, port  uint32
	body       []byte
}

// nlMessages splits what was received in one read. It ends at what is malformed.
func nlMessages(b []byte) iter.Seq[nlMessage] {
	return func(yield func(nlMessage) bool) {
		for len(b) >= nlHeaderLen {
			size := int(binary.NativeEndian.Uint32(b))
			if size < nlHeaderLen || size > len(b) {
				return
			}
			m := nlMessage{
				typ:   binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				port:  binary.NativeEndian.Uint32(b[12:]),
				body:  b[nlHeaderLen:size],
			}
			if !yield(m) {
				return
			}
			b = b[min(nl.Align(size), len(b)):]
		}
	}
}

// refusal is the error that the message carries, if it is one.
func (m nlMessage) refusal() (refusal, bool) {
	if (m.typ != unix.NLMSG_ERROR && m.typ != unix.NLMSG_DONE) || len(m.body) < nlErrorLen {
		return refusal{}, false
	}
	errno := -int32(binary.NativeEndian.Uint32(m.body))
	if errno == 0 {
		return refusal{}, false
	}
	r := refusal{errno: unix.Errno(errno)}
	if skip := nlErrorLen + nlHeaderLen; m.flags&unix.NLM_F_ACK_TLVS != 0 && m.flags&unix.NLM_F_CAPPED != 0 && len(m.body) > skip {
		for typ, v := range nl.Attrs(m.body[skip:]) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				r.hint = nl.CString(v)
			}
		}
	}
	return r, true
}

func (r refusal) err() error {
	if r.hint != "" {
		return fmt.Errorf("%w (%s)", r.errno, r.hint)
	}
	return r.errno
}

// attrs are netlink attributes as they are sent. Numbers are big endian, as
// everywhere in nf_tables.
type attrs []byte

func (a *attrs) bytes(typ uint16, v []byte) {
	at := a.begin(typ)
	*a = append(*a, v...)
	a.end(at)
}

// begin appends the head of an attribute, and end closes what has been appended
// since.
func (a *attrs) begin(typ uint16) (at int) {
	at = len(*a)
	if *a == nil {
		*a = make(attrs, 0, 256) // most messages fit
	}
	*a = binary.NativeEndian.AppendUint16(append(*a, 0, 0), typ)
	return at
}

func (a *attrs) end(at int) {
	b := *a
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	for len(b) != nl.Align(len(b)) {
		b = append(b, 0)
	}
	*a = b
}

func (a *attrs) str(typ uint16, v string) {
	at := a.begin(typ)
	*a = append(append(*a, v...), 0)
	a.end(at)
}

func (a *attrs) u32(typ uint16, v uint32) {
	at := a.begin(typ)
	*a = binary.BigEndian.AppendUint32(*a, v)
	a.end(at)
}

func (a *attrs) u64(typ uint16, v uint64) {
	at := a.begin(typ)
	*a = binary.BigEndian.AppendUint64(*a, v)
	a.end(at)
}

func (a *attrs) nest(typ uint16, f func(*attrs)) {
	at := a.begin(typ | unix.NLA_F_NESTED)
	f(a)
	a.end(at)
}

// file is another handle on the socket.
func (s *socket) file() (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("share nf_tables socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "nf_tables"), nil
}
