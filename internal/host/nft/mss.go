package nft

import (
	"bytes"
	"reflect"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// Flags of TCP (RFC 9293, 3.1).
const (
	tcpSYN = 0x02
	tcpRST = 0x04
)

// opening is the comparison that makes hoststate.SYN of the flags.
func opening(not bool) (*expr.Bitwise, *expr.Cmp) {
	mask := &expr.Bitwise{
		SourceRegister: registerAt(0), DestRegister: registerAt(0), Len: 1,
		Mask: []byte{tcpSYN | tcpRST}, Xor: []byte{0},
	}
	return mask, equals([]byte{tcpSYN}, not)
}

func (c *compiler) syn(e hoststate.SYN) error {
	if err := c.load(fieldTCPFlags); err != nil {
		return err
	}
	mask, compare := opening(e.Not)
	c.emit(mask, compare)
	return nil
}

// isOpening reports whether the flags, masked and compared so, are those of a
// SYN, or not.
func isOpening(mask []byte, compare *expr.Cmp) bool {
	wantMask, want := opening(compare.Op == expr.CmpOpNeq)
	return bytes.Equal(mask, wantMask.Mask) && compare.Op == want.Op && bytes.Equal(compare.Data, want.Data)
}

// clampMSS writes what the route carries into the option of TCP that says
// the largest segment: 2 bytes behind its kind and length (RFC 9293, 3.2).
func clampMSS() []expr.Any {
	const maxseg, offset, size = 2, 2, 2
	return []expr.Any{
		&expr.Rt{Register: registerAt(0), Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: registerAt(0), DestRegister: registerAt(0), Op: expr.ByteorderHton, Len: size, Size: size},
		&expr.Exthdr{SourceRegister: registerAt(0), Type: maxseg, Offset: offset, Len: size, Op: expr.ExthdrOpTcpopt},
	}
}

// clampMSS reads what clampMSS wrote.
func (r *termReader) clampMSS() (term, bool) {
	want := clampMSS()
	if len(r.rest) < len(want) || !reflect.DeepEqual(r.rest[:len(want)], want) {
		return term{}, false
	}
	r.rest = r.rest[len(want):]
	return term{expr: hoststate.ClampMSS{}}, true
}

// readers read the expressions that the library writes and cannot read.
var readers = map[string]func(data []byte) expr.Any{
	"rt": func(b []byte) expr.Any {
		return &expr.Rt{Register: nl.Uint32(b, unix.NFTA_RT_DREG), Key: expr.RtKey(nl.Uint32(b, unix.NFTA_RT_KEY))}
	},
	"byteorder": func(b []byte) expr.Any {
		return &expr.Byteorder{
			SourceRegister: nl.Uint32(b, unix.NFTA_BYTEORDER_SREG), DestRegister: nl.Uint32(b, unix.NFTA_BYTEORDER_DREG),
			Op: expr.ByteorderOp(nl.Uint32(b, unix.NFTA_BYTEORDER_OP)), Len: nl.Uint32(b, unix.NFTA_BYTEORDER_LEN),
			Size: nl.Uint32(b, unix.NFTA_BYTEORDER_SIZE),
		}
	},
}
