package netdef

import (
	"regexp"
	"testing"
)

// emptyLimits is how limits of nothing (average='0') are printed, as libvirt does
// it, and are read as no limits: the one thing that is not printed the same.
var emptyLimits = regexp.MustCompile(`(?m)^ *<bandwidth(?: classID='\d+')?>\n *</bandwidth>\n`)

// Whatever is read can be printed, and what is printed is read back and
// printed the same.
func FuzzParse(f *testing.F) {
	for _, doc := range []string{
		everything, net(""), dhcp4("<range start='192.168.5.2' end='192.168.5.9'/>"),
		dhcp6("<host id='0:1' ip='fd00:5::5'/>"), withIP("<forward mode='nat' dev='e'><nat/></forward>"),
		net("<forward mode='hostdev'><address type='pci' bus='1'/></forward>"),
		net("<bandwidth><inbound average='0'/></bandwidth><portgroup name='p'><bandwidth><outbound average='0'/></bandwidth></portgroup>"),
		net("<metadata><a xmlns='b'> <![CDATA[x]]><c/> y</a></metadata>"),
		"<?xml version='1.0'?><!DOCTYPE network><network xmlns:a='b' a:c='d'><name>n</name></network>",
	} {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ValidateNetwork(data)
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
		if second := again.Format(FormatOptions{}); second != emptyLimits.ReplaceAllString(first, "") {
			t.Fatalf("first\n%s\nthen\n%s", first, second)
		}
		if err := ValidateNetwork([]byte(first)); err != nil && n.Name != "" {
			t.Fatalf("%v\n%s", err, first)
		}
		// Limits of nothing may stand where no limits may, and are gone now.
		if now := again.Validate(); (now == nil) != (valid == nil) && (now != nil || !emptyLimits.MatchString(first)) {
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
		if err := ValidatePort([]byte(first)); err != nil {
			t.Fatalf("%v\n%s", err, first)
		}
		again, err := ParsePort([]byte(first))
		if err != nil {
			t.Fatalf("%v in\n%s", err, first)
		}
		if second := again.Format(); second != emptyLimits.ReplaceAllString(first, "") {
			t.Fatalf("first\n%s\nthen\n%s", first, second)
		}
	})
}

// An update answers with another network or an error and leaves its own alone.
func FuzzUpdate(f *testing.F) {
	for _, piece := range []string{
		"<host mac='52:54:00:00:00:01' name='h' ip='192.168.5.5'/>", "<host ip='10.0.0.1'><hostname>x</hostname></host>",
		"<range start='192.168.5.22' end='192.168.5.29'/>", "<interface dev='eth1'/>", "<portgroup name='p'><vlan><tag id='1'/></vlan></portgroup>",
		"<txt name='a' value='b'/>", "<srv service='s' protocol='tcp' target='t' port='5'/>",
	} {
		for section := SectionBridge; section <= SectionDNSSRV; section++ {
			f.Add(int(UpdateAddLast), int(section), -1, []byte(piece))
		}
	}
	f.Fuzz(func(t *testing.T, command, section, parent int, piece []byte) {
		n := mustParse(t, updatable)
		before := n.Format(FormatOptions{})
		updated, err := n.Update(UpdateCommand(command), Section(section), parent, piece)
		if (updated == nil) == (err == nil) {
			t.Fatalf("got %v and %v", updated, err)
		}
		if updated != nil {
			updated.Format(FormatOptions{})
		}
		if after := n.Format(FormatOptions{}); after != before {
			t.Fatalf("was\n%s\nis\n%s", before, after)
		}
	})
}
