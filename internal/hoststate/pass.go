package hoststate

import "fmt"

// PassMark is the bit of a packet's mark that says that our rules let the
// packet through. It lies outside the bits that the common users of marks claim
// (Kubernetes 0xc000, Tailscale 0xff0000).
const PassMark = 0x02000000

// Pass is a rule of ours at the head of a foreign chain: it accepts packets that
// carry PassMark. An accept of our own table is not final, since any other
// table may still drop the packet, so tools that drop what they do not know
// need to be told in their own chains.
type Pass struct {
	Table TableRef
	Chain string
}

// Key implements Object.
func (p Pass) Key() Key { return Key{KindPass, p.Table.String() + " " + p.Chain} }

// Text implements Object.
func (p Pass) Text() string {
	return fmt.Sprintf("pass in %s %s { meta mark & %#08x != 0 accept }", p.Table, p.Chain, PassMark)
}
