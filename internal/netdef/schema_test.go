package netdef

import (
	"strings"
	"testing"
)

// The messages are those of libvirt 9.0.0 about the same documents, below its
// first line.
func TestValidateNetwork(t *testing.T) {
	inIP := "Extra element ip in interleave\nElement network failed to validate content\n"
	for name, v := range map[string]struct{ inner, want string }{
		"nothing else":     {"", ""},
		"element":          {"<foo/>", "Element network has extra content: foo\n"},
		"text":             {"hello", "Element network has extra content: text\n"},
		"attribute":        {"<ip address='10.0.0.1' prefix='24' foo='1'/>", "Invalid attribute foo for element ip\n" + inIP},
		"element in ip":    {"<ip address='10.0.0.1' prefix='24'><foo/></ip>", "Element ip has extra content: foo\n" + inIP},
		"element in dhcp":  {"<ip><dhcp><range start='10.0.0.2' end='10.0.0.5'/><foo/></dhcp></ip>", "Element dhcp has extra content: foo\nExtra element dhcp in interleave\nElement ip failed to validate content\n" + inIP},
		"attribute deep":   {"<ip><dhcp><host ip='10.0.0.4' foo='x'/></dhcp></ip>", "Invalid attribute foo for element host\nExtra element host in interleave\nElement dhcp failed to validate content\nExtra element dhcp in interleave\nElement ip failed to validate content\n" + inIP},
		"twice":            {"<mtu size='1500'/><mtu size='1500'/>", "Extra element mtu in interleave\nElement network failed to validate content\n"},
		"element in group": {"<portgroup name='x'><foo/></portgroup>", "Element portgroup has extra content: foo\nExtra element portgroup in interleave\nElement network failed to validate content\n"},
		"in forward":       {"<forward mode='nat'><foo/></forward>", "Extra element forward in interleave\nElement network failed to validate content\n"},
		"forward":          {"<forward mode='nat' foo='1'/>", "Extra element forward in interleave\nElement network failed to validate content\n"},
		"metadata":         {"<metadata><a:b xmlns:a='urn:x'><a:c d='1'/></a:b></metadata><!-- foo -->", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := ValidateNetwork([]byte("<network><name>a</name>" + v.inner + "</network>"))
			want := ""
			if v.want != "" {
				want = "XML document failed to validate against schema: Unable to validate doc against /usr/share/libvirt/schemas/network.rng\n" + v.want
			}
			if got := said(err); got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
		})
	}
	if err := ValidateNetwork([]byte("<network foo='1'/>")); !strings.HasSuffix(said(err), "\nInvalid attribute foo for element network\n") {
		t.Error(err)
	}
	if err := ValidateNetwork([]byte("<network><forward/></network>")); !strings.HasSuffix(said(err), ".rng\nExpecting an element name, got nothing\nInvalid sequence in interleave\nElement network failed to validate content\n") {
		t.Error(err)
	}
	for _, unread := range []string{"", "<network>", "<foo/>"} {
		if err := ValidateNetwork([]byte(unread)); err != nil {
			t.Errorf("%q: %v, which is Parse's to say", unread, err)
		}
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// All that libvirt's tests have, and all that we print, is in the schema.
func TestValidateTakesWhatThereIs(t *testing.T) {
	if err := ValidateNetwork([]byte(everything)); err != nil {
		t.Error(err)
	}
	t.Run("networks", func(t *testing.T) {
		corpus(t, "networkxml2xml", func(t *testing.T, c corpusCase, read func(string) []byte) {
			if err := ValidateNetwork(read(c.Input)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("ports", func(t *testing.T) {
		corpus(t, "virnetworkportxml2xml", func(t *testing.T, c corpusCase, read func(string) []byte) {
			if err := ValidatePort(read(c.Input)); err != nil {
				t.Error(err)
			}
		})
	})
}
