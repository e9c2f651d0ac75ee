package netdef

import (
	"os"
	"strings"
	"testing"
)

// The examples of docs/definitions.md are definitions, or pieces of one, and its
// table has a row for each of the settings.
func TestDefinitionsDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for block := range strings.SplitSeq(string(data), "\n\n") {
		if !strings.HasPrefix(block, "    <") {
			continue
		}
		examples++
		if !strings.HasPrefix(block, "    <network>") {
			block = "<network><name>example</name>" + block + "</network>"
		}
		n, err := Parse([]byte(block))
		if err == nil {
			_, err = n.Settings()
		}
		if err != nil {
			t.Errorf("%v\n%s", err, block)
		}
	}
	if examples < 5 {
		t.Errorf("found only %d examples", examples)
	}
	for name := range settingElements {
		if !strings.Contains(string(data), "\n| `<viaduct:"+name) {
			t.Errorf("no row for <viaduct:%s>", name)
		}
	}
}
