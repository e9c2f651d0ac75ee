package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"viaduct/internal/netdef"
)

// withChecksums gives every line the right checksum, so that a fuzzer gets
// past it.
func withChecksums(b []byte) []byte {
	var out []byte
	for line := range bytes.Lines(b) {
		body, ended := bytes.CutSuffix(line, []byte("\n"))
		if len(body) >= 9 {
			body = body[9:]
		}
		out = fmt.Appendf(out, "%08x %s", crc32.Checksum(body, castagnoli()), body)
		if ended {
			out = append(out, '\n')
		}
	}
	return out
}

// FuzzJournal: whatever is in the file, opening it keeps every valid record
// and leaves a journal that goes on.
func FuzzJournal(f *testing.F) {
	_, content := journalWith(f, 3)
	removed, err := encodeChange(LeaseChange{Lease: lease(1), Removed: true})
	check(f, err)
	newer, err := encodeLine(header{journalFormat + 1})
	check(f, err)
	for _, seed := range [][]byte{
		nil, content, content[:len(content)-5], content[40:], append(bytes.Clone(content), removed...), newer,
		bytes.Repeat([]byte("x"), 3*maxRecord), append(bytes.Repeat([]byte("x"), 2*maxRecord), "\nrest"...),
		append(bytes.Clone(content), make([]byte, 500)...), []byte("\n\n\n"), append([]byte("\n"), content...),
		[]byte(`00000000 {"address":""}` + "\n"), []byte(`00000000 {"address":"1.2.3.4","clientId":"xyz"}` + "\n"),
		[]byte(`00000000 {"viaductLeases":-1}` + "\n"),
	} {
		f.Add(seed, false)
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if fix {
			b = withChecksums(b)
		}
		path := filepath.Join(memoryDir(t), "leases.journal")
		writeFile(t, path, b)
		options := JournalOptions{UnsafeNoSync: true}
		j, got, err := OpenJournal(path, options)
		var newer *FormatError
		if errors.As(err, &newer) {
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, b) {
				t.Fatalf("the newer journal was changed (%v)", err)
			}
			return
		}
		check(t, err)
		want := map[leaseKey]netdef.Lease{}
		for line := range bytes.Lines(b) {
			if line, ended := bytes.CutSuffix(line, []byte("\n")); ended && len(line) < maxRecord && decodeHeader(line) == 0 {
				if c, err := decodeChange(line); err == nil && c.Removed {
					delete(want, keyOf(c.Lease))
				} else if err == nil {
					want[keyOf(c.Lease)] = c.Lease
				}
			}
		}
		equal := func(got []netdef.Lease) bool {
			return slices.EqualFunc(sortedLeases(want), got, func(a, b netdef.Lease) bool { return fmt.Sprint(a) == fmt.Sprint(b) })
		}
		if !equal(got) {
			t.Fatalf("leases %v, want %v", got, slices.Collect(maps.Values(want)))
		}
		check(t, appendWait(j, LeaseChange{Lease: lease(77)}))
		check(t, j.Close())
		want[keyOf(lease(77))] = lease(77)
		j, got = openJournal(t, path, options)
		check(t, j.Close())
		if !equal(got) || j.Recovery() != (Recovery{}) {
			t.Fatalf("second time: leases %v, want %v; %+v", got, slices.Collect(maps.Values(want)), j.Recovery())
		}
	})
}

// FuzzDefinition: the header never changes what follows it, and is found again.
func FuzzDefinition(f *testing.F) {
	for _, seed := range []string{
		"<network/>\n", "", "<!-- mine -->\n<network/>", "<?xml version='1.0'?>\r\n<network/>", "<?xml", "\uFEFF<network/>",
		"<!--\nviaduct-format: 1\n-->\n<network/>", "<!--\nviaduct-format: 99999999999999999999\n", "<!--", " <!-- viaduct-format: 0 -->",
	} {
		f.Add("name--", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, name string, xml []byte) {
		formatOf(xml) // must not panic
		if CheckName(name) != nil {
			return
		}
		once := withHeader(name, xml)
		if version, err := formatOf(once); version != definitionFormat || err != nil {
			t.Fatalf("%q has format %d, %v", once, version, err)
		}
		if twice := withHeader(name, once); !bytes.Equal(once, twice) {
			t.Fatalf("%q became %q", once, twice)
		}
		if !bytes.Contains(xml, []byte(formatWord)) && len(once)-len(xml) < len(formatWord) {
			t.Fatalf("%q lost something as %q", xml, once)
		}
	})
}
