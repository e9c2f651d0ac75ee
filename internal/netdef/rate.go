package netdef

import (
	"strconv"
	"strings"
)

// ParseRate reads a rate in the short form of virsh domiftune:
// "average[,peak[,burst[,floor]]]", in KiB/s, KiB/s, KiB and KiB/s. What is left
// out, or 0, is not given; a rate of which nothing is given is nil.
func ParseRate(text string) (*Rate, error) {
	var r Rate
	parts := strings.Split(text, ",")
	into := []*uint64{&r.Average, &r.Peak, &r.Burst, &r.Floor}
	if len(parts) > len(into) {
		return nil, Errorf(ErrInvalidArg, "'%s' is no rate: it has up to four numbers, 'average,peak,burst,floor'", text)
	}
	for i, part := range parts {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		value, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return nil, Errorf(ErrInvalidArg, "'%s' is no rate: '%s' is not a number from 0 to %d", text, part, uint32(1<<32-1))
		}
		*into[i] = value
	}
	if (r.Peak > 0 || r.Burst > 0) && r.Average == 0 {
		return nil, Errorf(ErrConfigUnsupported, "'peak' and 'burst' require 'average' attribute")
	}
	if r == (Rate{}) {
		return nil, nil
	}
	return &r, nil
}
