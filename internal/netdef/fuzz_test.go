package netdef

import "testing"

// Whatever is read can be printed, and what is printed is read back and
// printed the same.
func FuzzParse(f *testing.F) {
	for _, doc := range []string{
		everything, net(""), dhcp4("<range start='192.168.5.2' end='192.168.5.9'/>"),
		dhcp6("<host id='0:1' ip='fd00:5::5'/>"), withIP("<forward mode='nat' dev='e'><nat/></forward>"),
		net("<forward mode='hostdev'><address type='pci' bus='1'/></forward>"),
		net("<metadata><a xmlns='b'> <![CDATA[x]]><c/> y</a></metadata>"),
		"<?xml version='1.0'?><!DOCTYPE network><network xmlns:a='b' a:c='d'><name>n</name></network>",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(data)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without text")
			}
			return
		}
		valid := n.Validate()
		first := n.Format(FormatOptions{})
		again, err := Parse([]byte(first))
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if second := again.Format(FormatOptions{}); second != first {
			t.Fatalf("first\n%s\nthen\n%s", first, second)
		}
		if now := again.Validate(); (now == nil) != (valid == nil) {
			t.Fatalf("validity was %v, is %v\n%s", valid, now, first)
		}
	})
}

func FuzzParsePort(f *testing.F) {
	for _, doc := range []string{
		port(""), port("<plug type='network' bridge='b'/><bandwidth classID='3'><inbound floor='1'/></bandwidth>"),
		port("<plug type='hostdev-pci'><address bus='1'/></plug>"), port("<vlan trunk='yes'><tag id='1'/></vlan><port isolated='yes'/>"),
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePort(data)
		if err != nil {
			return
		}
		first := p.Format()
		again, err := ParsePort([]byte(first))
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if second := again.Format(); second != first {
			t.Fatalf("first\n%s\nthen\n%s", first, second)
		}
	})
}
