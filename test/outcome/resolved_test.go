package outcome

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"viaduct/internal/lab"
)

// stub is where systemd-resolved answers the host's programs.
var stub = netip.MustParseAddrPort("127.0.0.53:53")

// A host with systemd-resolved knows guests by name if the definition says so,
// whenever systemd-resolved starts, and not after it says so no more.
func TestHostResolvesGuests(t *testing.T) {
	t.Parallel()
	program := "/lib/systemd/systemd-resolved"
	if _, err := os.Stat(program); err != nil {
		program = "/usr/local/lib/viaduct-test/systemd-resolved" + program // see test/deps.sh
	}
	lab.Need(t, "dbus-daemon", "systemd-sysusers", program)
	s := newSite(t, "--no-default")
	s.host.WriteFile("/tmp/bus.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy></busconfig>`)
	s.host.WriteFile("/tmp/sysusers.conf", "u systemd-resolve - \"systemd Resolver\"\n")
	s.host.WriteFile("/etc/systemd/resolved.conf", "[Resolve]\nDNS=\nFallbackDNS=\nLLMNR=no\nMulticastDNS=no\n")
	s.mustRun("systemd-sysusers", "/tmp/sysusers.conf")
	s.mustRun("mkdir", "-p", "/run/dbus", "/run/systemd")
	s.must(s.daemon.Start())
	s.viaduct("net-define", s.file(strings.Replace(natXML("a", 50, ""), "<ip ", "<domain name='lab.example' localOnly='yes' register='yes'/><ip ", 1)))
	s.viaduct("net-start", "a")
	s.logs("failed to register name server: systemd-resolved is not available")
	_, lease := s.guest("virbr50", "one")

	s.host.Start("dbus-daemon", "--config-file=/tmp/bus.conf", "--nofork", "--nopidfile")
	lab.Eventually(t, 10*time.Second, func() error { _, err := s.host.Run(s.context(), "busctl", "list"); return err })
	resolved := s.host.Start(program)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("systemd-resolved:\n%s", resolved.Output())
		}
	})
	s.soonResolves("one.lab.example", lease.Addr.Addr())
	resolved.Kill()
	<-resolved.Done()
	s.mustRun("rm", "-r", "/run/systemd/resolve") // so that it remembers nothing
	resolved = s.host.Start(program)
	s.soonResolves("one.lab.example", lease.Addr.Addr())

	s.daemon.Kill9()
	s.soonResolvesNot("one.lab.example") // nobody answers
	s.must(s.daemon.Start())
	s.soonResolves("one.lab.example", lease.Addr.Addr())
	s.edit("a", " register='yes'", "")
	s.hangup()
	s.soonResolvesNot("one.lab.example")
}

func (s *site) soonResolves(name string, want netip.Addr) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		got, err := s.hostLookup(name)
		if err == nil && got != want.String() {
			err = fmt.Errorf("%s is %q", name, got)
		}
		return err
	})
}

func (s *site) soonResolvesNot(name string) {
	s.t.Helper()
	lab.Eventually(s.t, 20*time.Second, func() error {
		if got, err := s.hostLookup(name); err == nil {
			return fmt.Errorf("%s is %q", name, got)
		}
		return nil
	})
}

// hostLookup asks as the host's programs do.
func (s *site) hostLookup(name string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Second)
	defer cancel()
	reply, err := s.host.Exchange(ctx, "udp", stub, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA))
	if err != nil {
		return "", err
	}
	if len(reply.Answer) == 0 {
		return "", errors.New(dns.RcodeToString[reply.Rcode])
	}
	return strings.TrimPrefix(reply.Answer[0].String(), reply.Answer[0].Header().String()), nil
}
