package outcome

import (
	"fmt"
	"strings"
	"testing"

	"viaduct/internal/lab"
)

// Guests fetch files from the host by TFTP, their own network's only, and
// nothing beside the folder. A host firewall that drops everything does not
// keep them from it.
func TestTFTP(t *testing.T) {
	t.Parallel()
	lab.Need(t, "busybox", "iptables")
	s := startSite(t)
	s.host.WriteFile("/tmp/boot/kernel", strings.Repeat("0123456789abcdef", 10000))
	s.host.WriteFile("/tmp/secret", "secret")
	_, err := s.host.Run(s.context(), "sh", "-c", "chmod -R a+rX /tmp/boot && ln -s ../secret /tmp/boot/out")
	s.must(err)
	_, err = s.host.Run(s.context(), "iptables", "-P", "INPUT", "DROP")
	s.must(err)
	for n, root := range map[int]string{51: "/tmp/boot", 52: "/nowhere"} {
		s.create(strings.Replace(natXML(fmt.Sprintf("net%d", n), n, ""), "<dhcp>", "<tftp root='"+root+"'/><dhcp>", 1))
	}
	guest, _ := s.guest("virbr51", "guest")
	other, _ := s.guest("virbr52", "other")
	fetch := func(from *lab.Guest, file, server string) (lab.Result, error) {
		ctx := short(t)
		return from.Run(ctx, "busybox", "tftp", "-g", "-b", "1400", "-r", file, "-l", "/tmp/got", server)
	}
	if _, err := fetch(guest, "kernel", "192.168.51.1"); err != nil {
		t.Fatal(err)
	}
	if got, err := guest.ReadFile("/tmp/got"); err != nil || got != strings.Repeat("0123456789abcdef", 10000) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	for file, want := range map[string]string{"out": "access violation", "../secret": "access violation", "nothing": "file not found"} {
		if r, err := fetch(guest, file, "192.168.51.1"); err == nil || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %v, %s; want %q", file, err, r.Stderr, want)
		}
	}
	if r, err := fetch(other, "kernel", "192.168.51.1"); err == nil || strings.Contains(r.Stderr, "server error") {
		t.Errorf("a guest of another network is answered: %v, %s", err, r.Stderr)
	}
	if r, _ := fetch(other, "kernel", "192.168.52.1"); !strings.Contains(r.Stderr, "file not found") {
		t.Errorf("from a folder that is not there: %s", r.Stderr)
	}
	s.logs("guests find no files to boot from")
}
