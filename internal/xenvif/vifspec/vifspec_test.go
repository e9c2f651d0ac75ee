package vifspec

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// vectors reads a table of Xen's test data: columns divided by tabs.
func vectors(t *testing.T, name string) [][]string {
	t.Helper()
	corpus := os.Getenv("VIADUCT_CORPUS")
	if corpus == "" {
		t.Skip("VIADUCT_CORPUS does not name the folder with Xen's test data")
	}
	f, err := os.Open(filepath.Join(corpus, "xen", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var rows [][]string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := s.Text(); line != "" && !strings.HasPrefix(line, "#") {
			rows = append(rows, append(strings.Split(line, "\t"), "", "", "", "", ""))
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return rows
}

func TestRateVectors(t *testing.T) {
	for _, row := range vectors(t, "xl-rate-vectors.tsv") {
		r, err := ParseRate(row[0])
		switch row[1] {
		case "ok":
			if err != nil || strconv.FormatUint(r.Bytes, 10) != row[2] || strconv.FormatUint(r.Interval, 10) != row[3] {
				t.Errorf("rate %q: %v, %v; want %s,%s", row[0], r, err, row[2], row[3])
			}
		default:
			if err == nil || err.Error() != row[3] {
				t.Errorf("rate %q: %v, %v; want error %s", row[0], r, err, row[3])
			}
		}
	}
}

// TestRates has what the vectors leave out.
func TestRates(t *testing.T) {
	for text, want := range map[string]string{
		"010Mb/s":          "50000,50000", // octal
		"08Mb/s":           "error: rate overflow in `08Mb/s'",
		"100Mb/s@20":       "250000000,20000000",
		"@20ms":            "error: no rate specified in `@20ms'",
		"10MB/s@0us":       "error: replenishment interval overflow in `0us'",
		"10MB/s@50ms@50ms": "error: invalid replenishment interval in `50ms@50ms'",
		"250KB/s":          "12500,50000",
		"1B/s@4294968ms":   "error: replenishment interval overflow in `4294968ms'",
	} {
		r, err := ParseRate(text)
		got := r.String()
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != want {
			t.Errorf("rate %q: %s, want %s", text, got, want)
		}
	}
	if got := (Rate{Bytes: 250000, Interval: 20000}).BytesPerSecond(); got != 12_500_000 {
		t.Errorf("100 Mb/s are %d octets a second", got)
	}
}

func TestStoredRateVectors(t *testing.T) {
	for _, row := range vectors(t, "netback-credit-vectors.tsv") {
		if strings.HasPrefix(row[0], "(") {
			continue
		}
		r, err := ParseStoredRate(row[0])
		if row[1] == "-" {
			if err == nil {
				t.Errorf("stored rate %q is read as %v", row[0], r)
			}
			continue
		}
		if err != nil || fmt.Sprint(r.Bytes) != row[1] || fmt.Sprint(r.Interval) != row[2] {
			t.Errorf("stored rate %q: %v, %v", row[0], r, err)
		}
		if troubled := r.Bytes == 0 || r.Interval < 1000; troubled != (len(r.Warnings()) > 0) {
			t.Errorf("stored rate %q has the warnings %q", row[0], r.Warnings())
		}
	}
}

func TestVLANVectors(t *testing.T) {
	list := func(ids []uint16) string {
		var s []string
		for _, id := range ids {
			s = append(s, fmt.Sprint(id))
		}
		return strings.Join(s, ",")
	}
	for _, row := range vectors(t, "xl-vlan-vectors.tsv") {
		v, err := ParseVLANs(row[0])
		if row[1] == "error" {
			if err == nil {
				t.Errorf("vlan %q is read as %v", row[0], v)
			}
			continue
		}
		if err != nil || fmt.Sprint(v.PVID) != row[1] || list(v.Untagged) != row[2] || list(v.Tagged) != row[3] {
			t.Errorf("vlan %q: %v, %v; want %q", row[0], v, err, row[1:4])
		}
	}
}

func TestMACVectors(t *testing.T) {
	strict := 0
	for _, row := range vectors(t, "xl-mac-vectors.tsv") {
		m, ok := LooseMAC(row[0])
		if ok != (row[1] == "ok") || m.String() != row[2] {
			t.Errorf("xl reads %q as %v, %v; want %s, %s", row[0], m, ok, row[2], row[1])
		}
		if s, err := ParseMAC(row[0]); err == nil {
			strict++
			if s != m {
				t.Errorf("%q is %v, and %v to xl", row[0], s, m)
			}
		}
	}
	if strict == 0 {
		t.Error("no address is right")
	}
}

func TestStrictMAC(t *testing.T) {
	for text, right := range map[string]bool{
		"00:16:3e:4f:94:a9": true, "aa:00:00:00:00:11": true, "ab:00:00:00:00:11": false, "01:14:3e:00:00:11": false,
		"00:16:3e:4f:94": false, "00:16:3e:01:02:03:04": false, "00-16-3e-01-02-03": false, "00:16:3e:01:02:03zz": false,
		"00:00:00:00:00:00": false, "ff:ff:ff:ff:ff:ff": false,
	} {
		if _, err := ParseMAC(text); (err == nil) != right {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMACsOfOurs(t *testing.T) {
	a, b := StableMAC("alice", 0), StableMAC("alice", 1)
	if a == b || a != StableMAC("Alice", 0) || a == StableMAC("dolly", 0) {
		t.Errorf("stable addresses: %s and %s", a, b)
	}
	for range 100 {
		m := GenerateMAC()
		if _, err := ParseMAC(m.String()); err != nil || m[3]&0x80 != 0 || [3]byte(m[:3]) != prefix {
			t.Fatalf("generated %s: %v", m, err)
		}
	}
}

func TestNATVectors(t *testing.T) {
	for _, row := range vectors(t, "vif-nat-vectors.tsv") {
		domain, _ := strconv.Atoi(row[0])
		handle, _ := strconv.Atoi(row[1])
		n, err := NATAddresses(domain, handle, row[2])
		if err != nil || n.Guest.String() != row[3] || n.HostName != row[5] {
			t.Errorf("%q: %v, %v", row, n, err)
		}
		// Xen's own arithmetic leaves the octet for high addresses.
		if last, _ := strconv.Atoi(row[4][strings.LastIndex(row[4], ".")+1:]); last < 255 && n.Router.String() != row[4] {
			t.Errorf("%q: router %v", row, n.Router)
		}
		if last := n.Router.As4()[3]; last == 0 || last == 255 || n.Router == n.Guest {
			t.Errorf("%q: router %v is of no use", row, n.Router)
		}
	}
	for _, ip := range []string{"10.0.0.1 10.0.0.2", "fe80::1", "10.0.0.256"} {
		if n, err := NATAddresses(1, 0, ip); err == nil {
			t.Errorf("ip=%s gives %v", ip, n)
		}
	}
}

func TestOVSVectors(t *testing.T) {
	for _, row := range vectors(t, "vif-openvswitch-bridge-vectors.tsv") {
		o, err := ParseOVS(row[0])
		if row[1] != "ok" {
			if err == nil {
				t.Errorf("%q is read as %v", row[0], o)
			}
			continue
		}
		if err != nil || o.Bridge != row[2] || o.Tag != row[3] || strings.Join(o.Trunks, ",") != row[4] {
			t.Errorf("%q: %v, %v", row[0], o, err)
		}
	}
}

func TestParse(t *testing.T) {
	wrong := func(f Finding) bool { return f.Severity == Wrong }
	for line, errors := range map[string]int{
		"": 0,
		"mac=00:16:3e:4f:94:a9,bridge=br0,ip=10.0.0.1 10.0.0.2,rate=100Mb/s@20ms,mtu=9000,vifname=alice0,vlan=10p/20": 0,
		"bridge=br0, model=e1000,type=ioemu,devid=3,backend=net,gatewaydev=eth0,script=vif-route,untrusted":           0,
		"ip=10.0.0.1 2001:db8::5 192.0.2.0/28": 0,
		"mac=00:16:3e:zz:01:02,bridge=br0":     1,
		"Mac=00:16:3e:01:02:03":                1,
		"mac =00:16:3e:01:02:03":               1,
		"foo":                                  1,
		"type=tap,mtu=9,vlan=0,rate=10ZB/s":    4,
		"vifname=averyverylongname":            1,
		"script=/etc/xen/scripts/vif-x a":      1,
		"trusted=1":                            1,
		"bridge":                               1,
		"bridge=":                              1,
		"ip=300.1.1.1":                         1,
		"colo_tcp_port=3":                      1,
	} {
		_, findings := Parse(line)
		n := 0
		for _, f := range findings {
			if wrong(f) {
				n++
			}
		}
		if n != errors {
			t.Errorf("%q: %v", line, findings)
		}
	}
}

func TestFindings(t *testing.T) {
	for line, want := range map[string]string{
		"rate=8b/s":                       "cannot send anything",
		"rate=100Mb/s@20u":                "not limited",
		"rate=100Mb/s@20":                 "seconds to xl",
		"mtu=1500":                        "does not pass on",
		"mac=00:16:3e:01:02:03:04":        "xl takes it for 00:16:3e:01:02:03",
		"mac=00:16:3e:zz:01:02":           "with 00:16:3e:00:00:00",
		"mac=a8:00:00:00:00:11":           "neither Xen's",
		"vifname=twelve-chars":            "at most 11",
		"mac=00:16:3e:01:02:03,bridge=b ": "keeps the blank",
		"netdev=eth1":                     "gatewaydev=eth1",
		"vlan=10p/20,script=vif-bridge":   "ignores vlan",
		"foo=1":                           "starts the guest all the same",
	} {
		_, findings := Parse(line)
		if !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.Text, want) }) {
			t.Errorf("%q: nothing says %q: %v", line, want, findings)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "mac=00:16:3e:4f:94:a9,bridge=br0,ip=10.0.0.1 10.0.0.2,rate=100Mb/s@20ms,mtu=9000,vifname=alice0,vlan=10p/20",
		"rate=0@", "rate=@", "vlan=1+1x4093", "vlan=/", "mac=-0x1:", "trusted,untrusted", "mac=+0x:0x:",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		v, findings := Parse(line)
		if v.VLANs != nil && (v.VLANs.PVID < 1 || v.VLANs.PVID > maxVLAN || !slices.Contains(v.VLANs.Untagged, v.VLANs.PVID)) {
			t.Errorf("%q: %+v", line, *v.VLANs)
		}
		for _, found := range findings {
			if found.Text == "" {
				t.Errorf("%q: an empty finding", line)
			}
		}
		LooseMAC(line)
		ParseOVS(line)
		NATAddresses(1, 0, line)
		ParseStoredRate(line)
	})
}
