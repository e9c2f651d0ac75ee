package uplink

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Names is how a host finds names by one link.
type Names struct {
	Link string `json:"link"`
	// Index is the kernel's number of the link.
	Index int `json:"index"`
	// NIC is the card behind the link, whose program has had a say until now.
	NIC string `json:"nic,omitempty"`
	// Taken says that it had a lease, and did with its servers what the host's
	// administrator wants.
	Taken   bool         `json:"taken,omitempty"`
	Servers []netip.Addr `json:"servers"`
	Search  []string     `json:"search,omitempty"`
}

// String tells all of it on one line, as a plan shows it.
func (n Names) String() string {
	s := fmt.Sprintf("on %s (%d", n.Link, n.Index)
	if n.NIC != "" {
		s += " with " + n.NIC
	}
	if n.Taken {
		s += " leased before"
	}
	s += ")"
	for _, a := range n.Servers {
		s += " server " + a.String()
	}
	for _, d := range n.Search {
		s += " domain " + d
	}
	return s
}

// Text is what a resolv.conf(5) says of it.
func (n Names) Text() string { return resolvText("", []Names{n}) }

// Resolving is what is remembered of how the host finds names by its uplinks. The
// program resolvconf(8) and /etc/resolv.conf are shared by all of them.
type Resolving struct {
	// Format and BootID are filled in by the store.
	Format int     `json:"format"`
	BootID string  `json:"bootId"`
	Links  []Names `json:"links,omitempty"`
	// Records are what resolvconf was told, by link.
	Records map[string]Records `json:"records,omitempty"`
	// File is what became of /etc/resolv.conf.
	File ResolvFile `json:"file,omitzero"`
}

// Records are what resolvconf(8) was told of one link.
type Records struct {
	Text string `json:"text"`
	// Earlier are those of the card's own client, by name.
	Earlier map[string]string `json:"earlier,omitempty"`
}

// ResolvFile is a resolv.conf(5) that was written.
type ResolvFile struct {
	// Before is nil where there was none.
	Before *string `json:"before,omitempty"`
	// Written is what is in it, nil if nothing was written, Earlier what may still
	// be if the host's power went just then.
	Written *string `json:"written,omitempty"`
	Earlier *string `json:"earlier,omitempty"`
	// Found is the file in which the servers already were, and nothing was written.
	Found *string `json:"found,omitempty"`
}

// Ours reports whether nobody else has changed the file.
func (f ResolvFile) Ours(content *string) bool {
	return slices.ContainsFunc([]*string{f.Written, f.Earlier, f.Before, f.Found}, func(s *string) bool {
		return s != nil && content != nil && *s == *content
	})
}

// resolvMark begins the file that we have written.
const resolvMark = "# From viaduct, for "

var (
	// writtenByProgram finds a line by which a program says that the file is its.
	writtenByProgram = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?mi)^[#;].*\b(generated|managed|maintained|created) by\b.*$`)
	})
	resolvLine = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?m)^[ \t]*(nameserver|search|domain|options|sortlist)[ \t]+(.*)$`)
	})
)

// Wanted is the file for the links, given its content, nil where it is missing. An error
// says why it is not to be touched although the links' servers are not in it.
func (f ResolvFile) Wanted(content *string, links []Names) (ResolvFile, error) {
	have, leased := "", allServers(links)
	if content != nil {
		have = *content
	}
	servers := ResolvServers(have)
	lacks := func(a netip.Addr) bool { return !slices.Contains(servers, a) }
	if !f.Ours(content) || f.Written == nil {
		mark := writtenByProgram().FindString(have)
		fromCard := func(n Names) bool { return n.NIC != "" && slices.Contains(words(mark), n.NIC) }
		switch {
		case !slices.ContainsFunc(leased, lacks):
			if f.Written == nil && (f.Found == nil || content == nil || *f.Found != have) {
				f.Found = content
			}
			return f, nil
		case slices.ContainsFunc(servers, netip.Addr.IsLoopback):
			return f, errors.New("it leads to a resolver on the host itself")
		case mark != "" && !slices.ContainsFunc(links, fromCard):
			return f, fmt.Errorf("another program writes it: %q", mark)
		case len(servers) == 0, f.Ours(content):
		case f.Written != nil || f.Found != nil:
			return f, errors.New("somebody else has changed it since")
		case slices.ContainsFunc(links, func(n Names) bool { return n.Taken }):
			return f, errors.New("it named others before, though there was a lease")
		}
	}
	before := content
	if f.Written != nil {
		before = f.Before
	}
	old := ""
	if before != nil {
		old = *before
	}
	text := resolvMark + linkNames(links) + "; uplink-delete puts back what was here\n" + resolvText(old, links)
	if content != nil && have == text {
		return f, nil
	}
	return ResolvFile{Before: before, Written: &text, Earlier: f.Written}, nil
}

// words are those of a line, and of names in it such as "eth0.dhcp" the beginnings.
func words(line string) []string {
	list := strings.Fields(line)
	for _, w := range list {
		head, _, _ := strings.Cut(w, ".")
		list = append(list, head)
	}
	return list
}

// ResolvServers are the name servers of a resolv.conf(5).
func ResolvServers(text string) []netip.Addr {
	var list []netip.Addr
	for _, line := range resolvLine().FindAllStringSubmatch(text, -1) {
		if word := strings.Fields(line[2]); line[1] == "nameserver" && len(word) > 0 {
			if a, err := netip.ParseAddr(word[0]); err == nil {
				list = append(list, a.Unmap())
			}
		}
	}
	return list
}

// allServers are those of all links, each once.
func allServers(links []Names) []netip.Addr {
	var list []netip.Addr
	for _, n := range links {
		for _, a := range n.Servers {
			if !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}

func linkNames(links []Names) string {
	names := make([]string, len(links))
	for i, n := range links {
		names[i] = n.Link
	}
	return strings.Join(names, " ")
}

// resolvText are the lines for the links. Of the file before stay the options, and what the
// links do not say: where to search, and servers that are reached by IPv6.
func resolvText(before string, links []Names) string {
	var search, keep, servers []string
	for _, n := range links {
		for _, d := range n.Search {
			if !slices.Contains(search, d) {
				search = append(search, d)
			}
		}
	}
	for _, a := range allServers(links) {
		servers = append(servers, "nameserver "+a.String())
	}
	for _, line := range resolvLine().FindAllStringSubmatch(before, -1) {
		text := line[1] + " " + strings.TrimSpace(line[2])
		switch {
		case line[1] == "options" || line[1] == "sortlist" || len(search) == 0 && line[1] != "nameserver":
			keep = append(keep, text)
		case line[1] == "nameserver" && strings.Contains(line[2], ":"):
			servers = append(servers, text)
		}
	}
	if len(search) > 0 {
		keep = append(keep, "search "+strings.Join(search, " "))
	}
	return strings.Join(slices.Concat(keep, servers, []string{""}), "\n")
}
