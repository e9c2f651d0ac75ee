package nft

import (
	"errors"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"viaduct/internal/host/nl"
	"viaduct/internal/hoststate"
)

// maxReason is the longest comment that nft can list, in bytes.
const maxReason = 127

// splitReason parts the reason at the end of a rule, if there is one, from the rest.
func splitReason(r hoststate.Rule) (hoststate.Rule, string) {
	if len(r) > 0 {
		if b, ok := r[len(r)-1].(hoststate.Because); ok {
			return r[:len(r)-1], b.Reason
		}
	}
	return r, ""
}

// ruleComment reads the comment in the body of a rule message: the kernel keeps
// what programs want to remember of a rule as type, length and value.
func ruleComment(b []byte) string {
	for data := nl.Attr(b, unix.NFTA_RULE_USERDATA); len(data) >= 2; {
		size := int(data[1])
		if len(data) < 2+size {
			break
		}
		if userdata.Type(data[0]) == userdata.TypeComment {
			return nl.CString(data[2 : 2+size])
		}
		data = data[2+size:]
	}
	return ""
}

// Dropped reads what the rules of the chains have dropped and counted, by their
// reasons. Like Collected it has a socket of its own.
func Dropped(chains ...hoststate.Chain) (map[string]uint64, error) {
	s, err := openSocket(nil)
	if err != nil {
		return nil, err
	}
	sum := map[string]uint64{}
	for _, c := range chains {
		var drops []drop
		err := s.dump(named(unix.NFT_MSG_GETRULE, c.Table, unix.NFTA_RULE_CHAIN, c.Name), func(_ uint8, b []byte) {
			if b == nil {
				drops = nil // it begins anew
			} else if nl.String(b, unix.NFTA_RULE_CHAIN) == c.Name {
				drops = append(drops, ruleDrops(c.Table, b)...)
			}
		})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		for _, d := range drops {
			sum[d.reason] += d.packets
		}
	}
	return sum, s.close()
}

// drop is what one rule has counted.
type drop struct {
	reason  string
	packets uint64
}

// ruleDrops reads what the rule in the body of a message has counted.
func ruleDrops(t hoststate.TableRef, b []byte) []drop {
	reason := ruleComment(b)
	exprs, err := decodeExprs(families[t.Family], nl.Attr(b, unix.NFTA_RULE_EXPRESSIONS))
	if reason == "" || err != nil {
		return nil
	}
	var drops []drop
	for _, e := range exprs {
		if c, ok := e.(*expr.Counter); ok && c.Packets > 0 {
			drops = append(drops, drop{reason, c.Packets})
		}
	}
	return drops
}
