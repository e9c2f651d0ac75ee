package host

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"viaduct/internal/hoststate"
)

// A guest is told where an address is in frames that are whole to the last bit.
func TestIntroduction(t *testing.T) {
	mac := hoststate.MAC{0x52, 0x54, 0, 1, 2, 3}
	for addr, want := range map[string]string{
		"192.168.50.1": "ffffffffffff 525400010203 0806 0001 0800 06 04 0001 525400010203 c0a83201 000000000000 c0a83201",
		"fd00:50::1": "333300000001 525400010203 86dd 60000000 0020 3a ff fd000050000000000000000000000001 ff020000000000000000000000000001" +
			" 88 00 CSUM a0000000 fd000050000000000000000000000001 02 01 525400010203",
	} {
		got := introduction(mac, netip.MustParseAddr(addr))
		if len(got) > 60 {
			sum := uint32(58 + 32) // of the pseudo header: what follows, and its length
			for i := 14 + 8; i < len(got); i += 2 {
				sum += uint32(got[i])<<8 | uint32(got[i+1])
			}
			for sum > 0xffff {
				sum = sum>>16 + sum&0xffff
			}
			if sum != 0xffff {
				t.Errorf("%s: the checksum does not fit: %x", addr, sum)
			}
			want = string(bytes.ReplaceAll([]byte(want), []byte("CSUM"), []byte(hex.EncodeToString(got[56:58]))))
		}
		if plain := string(bytes.ReplaceAll([]byte(want), []byte(" "), nil)); hex.EncodeToString(got) != plain {
			t.Errorf("%s:\n got %x\nwant %s", addr, got, plain)
		}
	}
}
