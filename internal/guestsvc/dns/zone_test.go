package dns

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

var guests = leases{
	"alpha":            addrs("192.168.122.10", "fd00:122::10"),
	"wpad":             addrs("192.168.122.66"),
	"www.bank.example": addrs("192.168.122.67"),
	"localhost":        addrs("192.168.122.66"),
}

// The configurations of TestLookup.
var configs = map[string]Config{
	"plain": {
		Name: "plain", Bridge: "virbr0", ForwardPlainNames: true,
		Listen:  []netip.AddrPort{netip.MustParseAddrPort("192.168.122.1:53")},
		Clients: prefixes("192.168.122.0/24", "fd00:122::/64"),
		Hosts: []Host{
			{netip.MustParseAddr("192.168.122.5"), []string{"Web", "www.example.com"}},
			{netip.MustParseAddr("192.168.122.6"), []string{"web"}},
		},
		TXTs: []TXT{{Name: "example.com", Value: "hello, world"}},
		SRVs: []SRV{{Service: "ldap", Protocol: "tcp", Domain: "example.com", Target: "web.lan", Port: 389, Priority: 1, Weight: 2}},
	},
	"domain": {
		Name: "domain", Domain: "Lan.Test", ForwardPlainNames: true, LocalOnly: true,
		Clients: prefixes("192.168.122.0/24", "fd00:122::/64"),
		Hosts: []Host{
			{netip.MustParseAddr("192.168.122.5"), []string{"web", "www.example.com"}},
			{netip.MustParseAddr("192.168.122.5"), []string{"web"}},
			{netip.MustParseAddr("fd00:122::6"), []string{"six.deep.lan.test"}},
		},
		SRVs: []SRV{{Service: "ldap", Protocol: "tcp"}},
	},
	"open domain": {Name: "open", Domain: "lan.test", ForwardPlainNames: true, Clients: prefixes("10.1.0.0/20")},
	"no plain":    {Name: "noplain", Clients: prefixes("198.18.0.0/15")},
	"isolated": {
		Name: "isolated", Isolated: true, ForwardPlainNames: true, Clients: prefixes("192.168.122.0/24"),
		Forwarders: []Forwarder{{Domain: "corp.example"}, {Domain: "ask.example", Addr: netip.MustParseAddrPort("10.9.9.9:53")}},
	},
	"forwarders": {
		Name: "forwarders", ForwardPlainNames: true, Domain: "own.example", LocalOnly: true,
		Clients:  prefixes("203.0.112.0/24"),
		LocalPtr: prefixes("203.0.112.0/24"),
		Forwarders: []Forwarder{
			{Addr: netip.MustParseAddrPort("10.0.0.1:53")},
			{Addr: netip.MustParseAddrPort("10.0.0.2:5353")},
			{Domain: "example.com", Addr: netip.MustParseAddrPort("10.0.0.3:53")},
			{Domain: "host.example.com"},
			{Domain: "own.example", Addr: netip.MustParseAddrPort("10.0.0.4:53")},
			{Domain: "168.192.in-addr.arpa", Addr: netip.MustParseAddrPort("10.0.0.5:53")},
		},
	},
}

// TestLookup is what each configuration says to each question: an answer as
// short has it, or who is asked.
func TestLookup(t *testing.T) {
	for _, row := range []struct{ config, question, want string }{
		// Guests by lease and by reservation.
		{"plain", "alpha A", "NOERROR A 192.168.122.10"},
		{"plain", "ALPHA aaaa", "NOERROR AAAA fd00:122::10"},
		{"plain", "alpha MX", "NOERROR"},
		{"plain", "web A", "NOERROR A 192.168.122.5 A 192.168.122.6"},
		{"plain", "web AAAA", "NOERROR"},
		{"plain", "www.example.com A", "NOERROR A 192.168.122.5"},
		{"plain", "www.example.com TXT", "NOERROR"},
		{"plain", "10.122.168.192.in-addr.arpa PTR", "NOERROR PTR alpha."},
		{"plain", "10.122.168.192.in-addr.arpa A", "NOERROR"},
		{"plain", "5.122.168.192.in-addr.arpa PTR", "NOERROR PTR web."},
		{"plain", "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.2.1.0.0.0.d.f.ip6.arpa PTR", "NOERROR PTR alpha."},
		// Unknown addresses of a private subnet stay here; other subnets' do not.
		{"plain", "99.122.168.192.in-addr.arpa PTR", "NXDOMAIN"},
		{"plain", "122.168.192.in-addr.arpa SOA", "NOERROR"},
		{"plain", "9.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.2.1.0.0.0.d.f.ip6.arpa PTR", "NXDOMAIN"},
		{"plain", "1.1.168.192.in-addr.arpa PTR", "ask host"},
		{"plain", "8.8.8.8.in-addr.arpa PTR", "ask host"},
		{"plain", "010.122.168.192.in-addr.arpa PTR", "NXDOMAIN"},
		// Records of the definition override their type only.
		{"plain", "example.com TXT", `NOERROR TXT "hello, world"`},
		{"plain", "example.com A", "ask host"},
		{"plain", "_ldap._TCP.example.com SRV", "NOERROR SRV 1 2 389 web.lan."},
		{"plain", "_tcp.example.com SRV", "ask host"},
		// Everything else goes out.
		{"plain", "unknown A", "ask host"},
		{"plain", "example.org A", "ask host"},
		{"plain", ". NS", "ask host"},
		// Names that never leave a host (RFC 6761 and others).
		{"plain", "localhost A", "NOERROR A 127.0.0.1"},
		{"plain", "a.localhost AAAA", "NOERROR AAAA ::1"},
		{"plain", "localhost MX", "NOERROR"},
		{"plain", "1.0.0.127.in-addr.arpa PTR", "NOERROR PTR localhost."},
		{"plain", "2.0.0.127.in-addr.arpa PTR", "NXDOMAIN"},
		{"plain", "1.0.254.169.in-addr.arpa PTR", "NXDOMAIN"},
		{"plain", "x.invalid A", "NXDOMAIN"},
		{"plain", "x.onion A", "NXDOMAIN"},
		{"plain", "host.home.arpa A", "ask host"},
		{"plain", "_dns.resolver.arpa SVCB", "NOERROR"},
		// Names with a meaning are not for whoever asks for them.
		{"plain", "wpad A", "ask host"},
		{"plain", "66.122.168.192.in-addr.arpa PTR", "NXDOMAIN"},
		{"plain", "www.bank.example A", "ask host"},
		{"plain", "67.122.168.192.in-addr.arpa PTR", "NXDOMAIN"},
		// Questions that are none.
		{"plain", "alpha AXFR", "REFUSED"},
		{"plain", "alpha IXFR", "REFUSED"},
		{"plain", "alpha ANY", `NOERROR HINFO "RFC8482" ""`},
		{"plain", "example.org ANY", `NOERROR HINFO "RFC8482" ""`},
		{"plain", "99.122.168.192.in-addr.arpa ANY", "NXDOMAIN"},
		{"plain", "version.bind TXT CH", "REFUSED"},
		{"plain", "alpha TKEY", "NOTIMP"},
		{"plain", "alpha OPT", "FORMERR"},
		{"plain", "alpha A norec", "NOERROR A 192.168.122.10"},
		{"plain", "example.org A norec", "REFUSED"},

		{"domain", "alpha A", "NOERROR A 192.168.122.10"},
		{"domain", "alpha.lan.TEST A", "NOERROR A 192.168.122.10"},
		{"domain", "alpha.lan.test AAAA", "NOERROR AAAA fd00:122::10"},
		{"domain", "web A", "NOERROR A 192.168.122.5"},
		{"domain", "web.lan.test A", "NOERROR A 192.168.122.5"},
		{"domain", "www.example.com.lan.test A", "NXDOMAIN"},
		{"domain", "10.122.168.192.in-addr.arpa PTR", "NOERROR PTR alpha.lan.test."},
		{"domain", "5.122.168.192.in-addr.arpa PTR", "NOERROR PTR web.lan.test."},
		{"domain", "lan.test A", "NOERROR"},
		{"domain", "beta.lan.test A", "NXDOMAIN"},
		{"domain", "beta.lan.test MX", "NXDOMAIN"},
		{"domain", "beta A", "ask host"},
		{"domain", "a.alpha.lan.test A", "NXDOMAIN"},
		{"domain", "six.deep.lan.test AAAA", "NOERROR AAAA fd00:122::6"},
		{"domain", "deep.lan.test AAAA", "NOERROR"},
		{"domain", "_ldap._tcp.lan.test SRV", "NOERROR SRV 0 0 1 ."},
		{"domain", "_ldap._tcp.lan.test A", "NOERROR"},
		{"domain", "_tcp.lan.test A", "NOERROR"},
		{"domain", "localhost.lan.test A", "NXDOMAIN"},
		{"domain", "other.test A", "ask host"},

		{"open domain", "beta.lan.test A", "ask host"},
		{"open domain", "lan.test A", "ask host"},
		{"open domain", "9.15.1.10.in-addr.arpa PTR", "NXDOMAIN"},
		{"open domain", "9.16.1.10.in-addr.arpa PTR", "ask host"},

		{"no plain", "beta A", "NXDOMAIN"},
		{"no plain", "beta MX", "NXDOMAIN"},
		{"no plain", "alpha A", "NOERROR A 192.168.122.10"},
		{"no plain", "example.org A", "ask host"},
		{"no plain", ". DNSKEY", "ask host"},
		{"no plain", "1.0.18.198.in-addr.arpa PTR", "ask host"}, // not a private subnet

		{"isolated", "alpha A", "NOERROR A 192.168.122.10"},
		{"isolated", "beta A", "NXDOMAIN"},
		{"isolated", "example.org A", "NXDOMAIN"},
		{"isolated", ". NS", "NOERROR"},
		{"isolated", "a.corp.example A", "NXDOMAIN"},
		{"isolated", "a.ask.example A", "ask 10.9.9.9:53"},

		{"forwarders", "example.org A", "ask 10.0.0.1:53 10.0.0.2:5353"},
		{"forwarders", "beta A", "ask 10.0.0.1:53 10.0.0.2:5353"},
		{"forwarders", "example.com A", "ask 10.0.0.3:53"},
		{"forwarders", "a.b.EXAMPLE.com A", "ask 10.0.0.3:53"},
		{"forwarders", "notexample.com A", "ask 10.0.0.1:53 10.0.0.2:5353"},
		{"forwarders", "a.host.example.com A", "ask host"},
		{"forwarders", "a.own.example A", "NXDOMAIN"},
		{"forwarders", "1.1.168.192.in-addr.arpa PTR", "ask 10.0.0.5:53"},
		{"forwarders", "1.112.0.203.in-addr.arpa PTR", "NXDOMAIN"}, // public, but localPtr
	} {
		t.Run(row.config+"/"+row.question, func(t *testing.T) {
			z, err := newZone(configs[row.config])
			if err != nil {
				t.Fatal(err)
			}
			if got := lookup(t, z, row.question); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// lookup asks a zone a question like "name TYPE [CH] [norec]".
func lookup(t *testing.T, z *zone, question string) string {
	t.Helper()
	words := strings.Fields(question)
	m := new(mdns.Msg).SetQuestion(mdns.Fqdn(words[0]), mdns.StringToType[strings.ToUpper(words[1])])
	for _, w := range words[2:] {
		switch w {
		case "CH":
			m.Question[0].Qclass = mdns.ClassCHAOS
		case "norec":
			m.RecursionDesired = false
		}
	}
	msg, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q query
	if code, ok := q.parse(msg); code != success || !ok {
		t.Fatalf("parse: code %d, %t", code, ok)
	}
	r, ask := z.lookup(&q, guests, make([]byte, 0, 32))
	if ask == hostResolvers {
		return "ask host"
	}
	if ask != nil {
		return "ask " + strings.TrimSpace(ask.id)
	}
	got := new(mdns.Msg)
	if err := got.Unpack(r.append(nil, &q, maxUDP)); err != nil {
		t.Fatal(err)
	}
	if got.Id != m.Id || !reflect.DeepEqual(got.Question, m.Question) || !got.Response ||
		got.RecursionDesired != m.RecursionDesired {
		t.Errorf("answer does not fit the question: %v", got)
	}
	if local := got.Rcode == mdns.RcodeSuccess || got.Rcode == mdns.RcodeNameError; got.Authoritative != local {
		t.Errorf("authoritative: %t", got.Authoritative)
	}
	return short(got)
}

func TestMayAsk(t *testing.T) {
	z, err := newZone(configs["plain"])
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]bool{
		"192.168.122.77": true, "fd00:122::77": true, "fe80::1%virbr0": true, "192.168.122.1": true,
		"127.0.0.1": true, "::1": true,
		"192.168.123.77": false, "8.8.8.8": false, "fe80::1%eth0": false, "fe80::1": false, "2001:db8::1": false,
	} {
		if got := z.mayAsk(netip.MustParseAddr(from)); got != want {
			t.Errorf("%s may ask: %t, want %t", from, got, want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	long := strings.Repeat("a", 64)
	listen := []netip.AddrPort{netip.MustParseAddrPort("192.168.122.1:53")}
	for want, c := range map[string]Config{
		`domain: name "` + long:              {Domain: long},
		`host 10.0.0.1: name "a..b"`:         {Hosts: []Host{{netip.MustParseAddr("10.0.0.1"), []string{"a..b"}}}},
		`host 10.0.0.1: a name is empty`:     {Hosts: []Host{{netip.MustParseAddr("10.0.0.1"), []string{"."}}}},
		`host web has no address`:            {Hosts: []Host{{Names: []string{"web"}}}},
		`forwarder domain: name ".."`:        {Forwarders: []Forwarder{{Domain: "..."}}},
		`forwarder 192.168.122.1:53 is th`:   {Listen: listen, Forwarders: []Forwarder{{Addr: listen[0]}}},
		`txt "big": value is longer`:         {TXTs: []TXT{{Name: "big", Value: strings.Repeat("a", maxTXT+1)}}},
		`txt: name "x.` + long:               {TXTs: []TXT{{Name: "x." + long, Value: "a"}}},
		`srv _a._tcp: target: name "` + long: {SRVs: []SRV{{Service: "a", Protocol: "tcp", Target: long}}},
		`srv: name "_` + long:                {SRVs: []SRV{{Service: long, Protocol: "tcp"}}},
	} {
		if _, err := newZone(c); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s...", err, want)
		}
	}
}

func TestLongTXT(t *testing.T) {
	value := strings.Repeat("x", 600)
	z, err := newZone(Config{TXTs: []TXT{{Name: "t", Value: value}}})
	if err != nil {
		t.Fatal(err)
	}
	if got := lookup(t, z, "t TXT"); strings.Count(got, "x") != 600 || strings.Count(got, `"`) != 6 {
		t.Errorf("got %s", got)
	}
}

func TestReverseZones(t *testing.T) {
	for p, want := range map[string]string{
		"192.168.122.0/24": "122.168.192.in-addr.arpa",
		"10.0.0.0/8":       "10.in-addr.arpa",
		"172.16.0.0/12":    "16.172.in-addr.arpa 17.172.in-addr.arpa ... 31.172.in-addr.arpa (16)",
		"10.1.2.252/30":    "252.2.1.10.in-addr.arpa 253.2.1.10.in-addr.arpa ... 255.2.1.10.in-addr.arpa (4)",
		"10.255.254.0/23":  "254.255.10.in-addr.arpa 255.255.10.in-addr.arpa",
		"10.1.2.3/32":      "3.2.1.10.in-addr.arpa",
		"0.0.0.0/0":        "in-addr.arpa",
		"fe80::/10":        "8.e.f.ip6.arpa 9.e.f.ip6.arpa ... b.e.f.ip6.arpa (4)",
		"2001:db8::/32":    "8.b.d.0.1.0.0.2.ip6.arpa",
		"fd00:ff::/31":     "e.f.0.0.0.0.d.f.ip6.arpa f.f.0.0.0.0.d.f.ip6.arpa",
	} {
		zones := reverseZones(netip.MustParsePrefix(p))
		got := strings.Join(zones, " ")
		if n := len(zones); n > 2 {
			got = strings.Join([]string{zones[0], zones[1], "...", zones[n-1]}, " ") + " (" + strconv.Itoa(n) + ")"
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", p, got, want)
		}
	}
}

func TestConfigString(t *testing.T) {
	c := configs["forwarders"]
	c.Bridge = "virbr0"
	c.Hosts = []Host{{netip.MustParseAddr("10.0.0.1"), []string{"a", "b"}}}
	c.TXTs = []TXT{{Name: "t", Value: "v w"}}
	c.SRVs = []SRV{{Service: "ldap", Protocol: "tcp", Target: "a", Port: 389}}
	c.ForwardPlainNames = false
	want := "on virbr0 domain own.example local-only no-plain-names clients 203.0.112.0/24 local-ptr 203.0.112.0/24 " +
		"forward * to 10.0.0.1:53 forward * to 10.0.0.2:5353 forward example.com to 10.0.0.3:53 " +
		"forward host.example.com to host forward own.example to 10.0.0.4:53 forward 168.192.in-addr.arpa to 10.0.0.5:53 " +
		`host 10.0.0.1 a,b txt t "v w" srv _ldap._tcp.own.example a:389 priority 0 weight 0`
	if got := c.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
