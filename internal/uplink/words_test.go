package uplink

import (
	"strings"
	"testing"
)

// netplanWords are what a netplan file is made of, and what makes YAML hard to read.
var netplanWords = []string{
	"", // the next slot of the template
	"null", "~", "0", "1", "0x1", "0o7", "1_0", "1e3", ".5", ".inf", "-.INF", ".nan", "true", "no", "off", "2001-12-14", "-", "+", "=", "a", "b", "c",
	"eth0", "eth1", "xenbr0", "br1", "network", "ethernets", "bonds", "vlans", "bridges", "version",
	"network:", "ethernets:", "bonds:", "vlans:", "bridges:", "eth0:", "eth1:", "xenbr0:", "\"eth0\":", "'eth0':",
	"dhcp4: true", "dhcp6: no", "match: {name: eth0}", "match:", "mtu: 1500", "addresses:", "[192.0.2.2/24]", "- 192.0.2.2/24", "2001:db8::1", "routes: [{to: default, via: 192.0.2.1}]",
	"52:54:00:aa:bb:cc", "a: b", "b: 2", "c: [1, 2]", "interfaces: [eth0]", "a:", "b:", "a:b", "a#b", "a #b",
	" ", "  ", "   ", "    ", "\t", "\n", "\n ", "\n  ", "\n   ", "\n    ", "\n      ", "\n        ", "\r\n", "\r\n  ", "\r", "\n\t", "\n\n",
	": ", ":", "? ", "?", "- ", "\n  - ", "\n      - ", "-\n", "{", "}", "[", "]", ", ", ",", "{}", "[]", "#", " # c", "\n# c\n", "\n      # c\n",
	"&a", "&a ", "*a", "*a ", "&", "*", "!!str ", "!!int ", "!!null", "!!binary ", "!", "!a ", "<<: *a", "<<", "<<: ", "|", "|\n", "|-\n", "|+\n", ">", ">-\n", "|2\n", "> # c\n",
	"\"", "'", "\\", "\\n", "\\\n", "\\x41", "\\u263a", "\"a\"", "'a'", "'it''s'", "\"a\\\"b\"", "\"a\nb\"", "'a\n  b'", "\"\"", "''", "\"#\"", "\"a: b\"", "'{'",
	"---", "---\n", "\n---\n", "...", "\n...\n", "%", "%YAML 1.2\n", "@", "`", "\x00", "\ufeff", "\u00a0", "\u2028", "\u0085", "ä", "\xff", "😀", "\x7f", "\v", "\f", "$", "^", "(", ")", ";", "/", "..", ".",
}

// netplanTemplates are files with slots (~~).
var netplanTemplates = []string{
	"network:\n  ethernets:\n    eth0:\n      ~~\n~~",
	"network:\n  ethernets:\n    eth0: {~~}~~\n~~",
	"network:\n  ethernets:\n    eth0:\n      dhcp4: true\n      a: ~~\n      mtu: ~~\n~~",
	"network:\n  ethernets:\n    eth0:\n      match: ~~\n      ~~: ~~\n    eth1: ~~\n",
	"network:\n  ethernets:\n    eth0: ~~\n    eth1:\n      dhcp4: ~~\n  bridges:\n    br1: ~~\n~~",
	"network:\n  bridges: ~~\n  ethernets:\n    eth0:\n      dhcp4: true ~~\n  ~~",
	"network:\n  bridges:\n    ~~\n  bonds:\n    eth0: {dhcp4: true, ~~}\n    ~~: ~~\n",
	"~~network:~~\n  ethernets:~~\n    eth0:~~\n      dhcp4: true\n  ~~",
	"network:\n  version: 2\n  vlans:\n    eth0:\n      id: 1\n      link: eth1\n      addresses: ~~\n  ethernets:\n    ~~: ~~\n    eth0: ~~\n",
	"network:\n  ethernets:\n    eth1: ~~\n    eth0:\n      ~~: {~~}\n      routes:\n      - to: ~~\n        via: ~~\n# the end\n",
	"network:\r\n  ethernets:\r\n    eth0:\r\n      a: ~~\r\n      ~~\r\n",
	"a: ~~\nnetwork:\n  ethernets:\n    eth0:\n      dhcp4: true\nb: ~~\n",
	"~~",
}

// inWords makes a file of bytes: the first chooses the template, the others words.
func inWords(data []byte, templates, words []string) string {
	if len(data) == 0 {
		return ""
	}
	slots := strings.Split(templates[int(data[0])%len(templates)], "~~")
	var s strings.Builder
	s.WriteString(slots[0])
	slots = slots[1:]
	for _, b := range data[1:] {
		word := words[int(b)%len(words)]
		if word == "" && len(slots) > 0 {
			s.WriteString(slots[0])
			slots = slots[1:]
		}
		s.WriteString(word)
	}
	s.WriteString(strings.Join(slots, ""))
	return s.String()
}

// FuzzNetplanWords is FuzzNetplan with files of words, which bytes alone seldom
// come upon.
func FuzzNetplanWords(f *testing.F) {
	for i := range netplanTemplates {
		f.Add([]byte{byte(i)})
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkNetplan(t, inWords(data, netplanTemplates, netplanWords)) })
}
