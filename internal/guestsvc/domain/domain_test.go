package domain

import (
	"strings"
	"testing"
)

func TestAppend(t *testing.T) {
	label := strings.Repeat("l", maxLabel)
	full := strings.Join([]string{label, label, label, strings.Repeat("l", maxName-3*(maxLabel+1))}, ".")
	for name, want := range map[string]string{
		"example.test": "\x07example\x04test\x00", "example.test.": "\x07example\x04test\x00", "a": "\x01a\x00",
		label: "\x3f" + label + "\x00", label + "l": "", "": "", ".": "", "a..b": "", ".a": "", "a..": "", full + "l": "",
	} {
		b, err := Append([]byte("before"), name)
		if (err != nil) != (want == "") || string(b) != "before"+want {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
	if b, err := Append(nil, full+"."); err != nil || len(b) != maxName+2 {
		t.Errorf("the longest name: %d bytes, %v", len(b), err)
	}
	if got := string(List([]string{"a", "b..c", "d.e"})); got != "\x01a\x00\x01d\x01e\x00" {
		t.Errorf("a list: %q", got)
	}
}
