package host

import (
	"bytes"
	"reflect"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"viaduct/internal/hoststate"
)

// Flags of TCP (RFC 9293, 3.1).
const (
	tcpSYN = 0x02
	tcpRST = 0x04
)

// nftOpening is the comparison that makes hoststate.SYN of the flags.
func nftOpening(not bool) (*expr.Bitwise, *expr.Cmp) {
	mask := &expr.Bitwise{
		SourceRegister: nftRegister(0), DestRegister: nftRegister(0), Len: 1,
		Mask: []byte{tcpSYN | tcpRST}, Xor: []byte{0},
	}
	return mask, equals([]byte{tcpSYN}, not)
}

func (c *nftCompiler) syn(e hoststate.SYN) error {
	if err := c.load(fieldTCPFlags); err != nil {
		return err
	}
	mask, compare := nftOpening(e.Not)
	c.emit(mask, compare)
	return nil
}

// isOpening reports whether the flags, masked and compared so, are those of a
// SYN, or not.
func isOpening(mask []byte, compare *expr.Cmp) bool {
	wantMask, want := nftOpening(compare.Op == expr.CmpOpNeq)
	return bytes.Equal(mask, wantMask.Mask) && compare.Op == want.Op && bytes.Equal(compare.Data, want.Data)
}

// nftClampMSS writes what the route carries into the option of TCP that says
// the largest segment: 2 bytes behind its kind and length (RFC 9293, 3.2).
func nftClampMSS() []expr.Any {
	const maxseg, offset, size = 2, 2, 2
	return []expr.Any{
		&expr.Rt{Register: nftRegister(0), Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: nftRegister(0), DestRegister: nftRegister(0), Op: expr.ByteorderHton, Len: size, Size: size},
		&expr.Exthdr{SourceRegister: nftRegister(0), Type: maxseg, Offset: offset, Len: size, Op: expr.ExthdrOpTcpopt},
	}
}

// clampMSS reads what nftClampMSS wrote.
func (r *termReader) clampMSS() (nftTerm, bool) {
	want := nftClampMSS()
	if len(r.rest) < len(want) || !reflect.DeepEqual(r.rest[:len(want)], want) {
		return nftTerm{}, false
	}
	r.rest = r.rest[len(want):]
	return nftTerm{expr: hoststate.ClampMSS{}}, true
}

// nftReaders read the expressions that the library writes and cannot read.
var nftReaders = map[string]func(data []byte) expr.Any{
	"rt": func(b []byte) expr.Any {
		return &expr.Rt{Register: u32In(b, unix.NFTA_RT_DREG), Key: expr.RtKey(u32In(b, unix.NFTA_RT_KEY))}
	},
	"byteorder": func(b []byte) expr.Any {
		return &expr.Byteorder{
			SourceRegister: u32In(b, unix.NFTA_BYTEORDER_SREG), DestRegister: u32In(b, unix.NFTA_BYTEORDER_DREG),
			Op: expr.ByteorderOp(u32In(b, unix.NFTA_BYTEORDER_OP)), Len: u32In(b, unix.NFTA_BYTEORDER_LEN),
			Size: u32In(b, unix.NFTA_BYTEORDER_SIZE),
		}
	},
}
