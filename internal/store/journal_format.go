package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"time"

	"viaduct/internal/netdef"
)

// The journal is text: a header, then one record a line in the order in which
// they were made, a later one replacing an earlier one about the same address.
// A line is the CRC-32C of what follows as eight hex digits, a space, JSON and
// a line feed:
//
//	xxxxxxxx {"viaductLeases":1}
//	xxxxxxxx {"network":"…","address":"192.168.122.7","prefix":24,"mac":"…","expiry":"2026-11-21T10:00:00Z"}
//	xxxxxxxx {"network":"…","address":"192.168.122.7","removed":true}
//
// Later versions keep the header's form, so that every version can tell.

// journalFormat is the version of the journal.
const journalFormat = 1

// maxRecord is the longest line of the journal, in bytes. DHCP's options cannot
// fill it: they are at most 255 bytes long each.
const maxRecord = 4096

// castagnoli is made when it is first needed: most runs of the program never do.
func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// header is the first line.
type header struct {
	Version int `json:"viaductLeases"`
}

// record is any other line.
type record struct {
	Network   netdef.UUID `json:"network"`
	Addr      netip.Addr  `json:"address"`
	Removed   bool        `json:"removed,omitempty"`
	PrefixLen int         `json:"prefix,omitempty"`
	MAC       netdef.MAC  `json:"mac,omitzero"`
	ClientID  string      `json:"clientId,omitempty"` // hex
	IAID      uint32      `json:"iaid,omitempty"`
	Hostname  string      `json:"hostname,omitempty"`
	Expiry    time.Time   `json:"expiry,omitzero"`
}

// leaseKey is what a record is about: an address has one holder.
type leaseKey struct {
	network netdef.UUID
	addr    netip.Addr
}

func keyOf(l netdef.Lease) leaseKey { return leaseKey{l.Network, l.Addr} }

// encodeLine adds the checksum and the line feed to the JSON of a value.
func encodeLine(value any) ([]byte, error) {
	body, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, 8+1+len(body)+1)
	var sum [4]byte
	binary.BigEndian.PutUint32(sum[:], crc32.Checksum(body, castagnoli()))
	line = hex.AppendEncode(line, sum[:])
	line = append(line, ' ')
	line = append(line, body...)
	line = append(line, '\n')
	if len(line) > maxRecord {
		return nil, fmt.Errorf("record of %d bytes is longer than %d", len(line), maxRecord)
	}
	return line, nil
}

// decodeLine checks a line, without its line feed, and reads its JSON.
func decodeLine(line []byte, into any) error {
	if len(line) < 9 || line[8] != ' ' {
		return errors.New("no checksum")
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:8]); err != nil {
		return errors.New("no checksum")
	}
	if binary.BigEndian.Uint32(sum[:]) != crc32.Checksum(line[9:], castagnoli()) {
		return errors.New("wrong checksum")
	}
	return json.Unmarshal(line[9:], into)
}

func encodeHeader() []byte {
	line, err := encodeLine(header{journalFormat})
	if err != nil {
		panic(err) // a number always has a JSON form
	}
	return line
}

// decodeHeader is the version in the first line, 0 if it is no header.
func decodeHeader(line []byte) int {
	var h header
	if decodeLine(line, &h) != nil {
		return 0
	}
	return max(h.Version, 0)
}

func encodeChange(c LeaseChange) ([]byte, error) {
	l := c.Lease
	if !l.Addr.IsValid() {
		return nil, errors.New("lease without address")
	}
	r := record{Network: l.Network, Addr: l.Addr, Removed: c.Removed}
	if !c.Removed {
		r.PrefixLen, r.MAC, r.IAID, r.Hostname = l.PrefixLen, l.MAC, l.IAID, l.Hostname
		r.ClientID, r.Expiry = hex.EncodeToString(l.ClientID), l.Expiry
	}
	return encodeLine(r)
}

func decodeChange(line []byte) (LeaseChange, error) {
	var r record
	if err := decodeLine(line, &r); err != nil {
		return LeaseChange{}, err
	}
	if !r.Addr.IsValid() {
		return LeaseChange{}, errors.New("record without address")
	}
	id, err := hex.DecodeString(r.ClientID)
	if err != nil {
		return LeaseChange{}, fmt.Errorf("clientId: %w", err)
	}
	if len(id) == 0 {
		id = nil
	}
	return LeaseChange{Removed: r.Removed, Lease: netdef.Lease{
		Network: r.Network, Addr: r.Addr, PrefixLen: r.PrefixLen, MAC: r.MAC,
		ClientID: id, IAID: r.IAID, Hostname: r.Hostname, Expiry: r.Expiry,
	}}, nil
}

// scanned is what a journal file holds.
type scanned struct {
	version int // of the header; 0 if it has none
	leases  map[leaseKey]netdef.Lease
	live    map[leaseKey][]byte // the lines that made them
	records int                 // valid ones
	lost    int                 // complete lines that are not valid
	end     int64               // of the last complete line
	torn    int64               // bytes after it
}

// damaged reports whether something is wrong that no interrupted write explains.
func (s scanned) damaged() bool {
	return s.lost > 0 || s.version == 0 && s.records > 0 || s.torn > maxRecord
}

// scan reads a journal. It keeps every valid record, whatever is around it.
// A journal of a newer version is not read beyond its header.
func scan(r io.Reader) (scanned, error) {
	s := scanned{leases: map[leaseKey]netdef.Lease{}, live: map[leaseKey][]byte{}}
	in := bufio.NewReaderSize(r, maxRecord)
	for first := true; ; first = false {
		line, n, err := readLine(in)
		if err == io.EOF {
			s.torn = n
			return s, nil
		}
		if err != nil {
			return s, err
		}
		s.end += n
		if first {
			if s.version = decodeHeader(bytes.TrimSuffix(line, []byte("\n"))); s.version > journalFormat {
				return s, nil
			}
			if s.version > 0 {
				continue
			}
		}
		s.add(line)
	}
}

// add takes one complete line, nil if it is too long to be one of ours.
func (s *scanned) add(line []byte) {
	c, err := decodeChange(bytes.TrimSuffix(line, []byte("\n")))
	if err != nil {
		s.lost++
		return
	}
	s.records++
	key := keyOf(c.Lease)
	if c.Removed {
		delete(s.leases, key)
		delete(s.live, key)
		return
	}
	s.leases[key] = c.Lease
	s.live[key] = bytes.Clone(line)
}

// readLine reads up to the next line feed and tells how many bytes that were.
// The line is nil if it is longer than a record can be, and valid until the
// next call. Bytes without line feed at the end come with io.EOF.
func readLine(in *bufio.Reader) (line []byte, n int64, err error) {
	for {
		line, err = in.ReadSlice('\n')
		whole := n == 0
		n += int64(len(line))
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err != nil:
			return nil, n, err
		case !whole:
			return nil, n, nil
		}
		return line, n, nil
	}
}
