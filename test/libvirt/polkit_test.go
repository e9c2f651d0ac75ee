package libvirt

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
	"viaduct/internal/libvirtrpc/dispatch"
	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/xdr"
	"viaduct/internal/netdef"
)

// polkitd is Debian's.
const polkitd = "/usr/lib/polkit-1/polkitd"

// rules let the user games in, and mail, who may do little there; man is
// refused, and about nobody there is no rule.
const rules = `polkit.addRule(function(action, subject) {
	if (action.id == "org.libvirt.unix.manage") {
		if (subject.user == "games" || subject.user == "mail") return polkit.Result.YES;
		if (subject.user == "man") return polkit.Result.NO;
		return;
	}
	if (action.id.indexOf("org.libvirt.api.") != 0) return;
	if (subject.user == "games") return polkit.Result.YES;
	if (action.id.match(/\.(getattr|read|search-networks)$/) && action.lookup("network_name") != "hidden") return polkit.Result.YES;
	if (action.id == "org.libvirt.api.network.start" && action.lookup("network_name") == "lan") return polkit.Result.YES;
	return polkit.Result.NO;
});
`

// startPolkit gives a host its own bus and polkit.
func (s *server) startPolkit() {
	s.t.Helper()
	lab.Need(s.t, polkitd, "dbus-daemon", "setpriv")
	s.host.WriteFile("/tmp/bus.conf", `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
		<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
		<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
		<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>`)
	s.must(s.host.Do(func() error { return os.MkdirAll("/run/dbus", 0o755) }))
	s.host.WriteFile("/etc/polkit-1/rules.d/10-test.rules", rules)
	s.must(s.host.Do(func() error { return os.Chmod("/etc/polkit-1/rules.d", 0o755) }))
	s.host.Start("dbus-daemon", "--config-file=/tmp/bus.conf", "--nofork", "--nopidfile")
	lab.Eventually(s.t, 20*time.Second, func() error {
		return s.host.Do(func() error {
			_, err := os.Stat("/run/dbus/system_bus_socket")
			return err
		})
	})
	p := s.host.Start(polkitd)
	lab.Eventually(s.t, 20*time.Second, func() error {
		r := s.run("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.PolicyKit1")
		if !strings.Contains(r.Stdout, "boolean true") {
			return fmt.Errorf("polkit is not there: %s%s%s", r.Stdout, r.Stderr, p.Output())
		}
		return nil
	})
}

// as runs virsh as somebody else.
func (s *server) as(user, command string) lab.Result {
	s.t.Helper()
	argv := []string{"virsh", "-c", uri}
	if user != "root" {
		argv = append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups"}, argv...)
	}
	return s.run(append(argv, words(command)...)...)
}

// polkitSteps are what users try.
var polkitSteps = []struct{ user, command string }{
	{"root", "net-define @lan"}, {"root", "net-define @hidden"}, {"root", "net-list --all"},
	{"nobody", "net-list --all"}, {"nobody", "net-start lan"}, {"nobody", "-r net-list --all"}, {"nobody", "-r net-start lan"},
	{"man", "net-list --all"}, {"man", "-r net-dumpxml lan"},
	{"games", "net-list --all"}, {"games", "net-start hidden"}, {"games", "net-destroy hidden"}, {"games", "net-autostart lan"},
	{"mail", "net-list --all"},
}

// objectSteps are those that depend on the network, where polkit is asked about each.
var objectSteps = []struct{ user, command string }{
	{"mail", "net-info lan"}, {"mail", "net-start lan"}, {"mail", "net-destroy lan"}, {"mail", "net-info hidden"},
	{"mail", "net-define @lan"}, {"mail", "net-create @hidden"}, {"mail", "net-undefine lan"}, {"mail", "net-autostart lan --disable"},
	{"mail", "net-dhcp-leases lan"}, {"mail", "net-port-list lan"}, {"games", "net-destroy lan"}, {"games", "net-undefine hidden"}, {"root", "net-list --all"},
}

// Who may do what is what polkit says, and virsh says about it what it says about
// libvirtd's answers.
func TestPolkit(t *testing.T) {
	lab.Need(t, "virsh", "libvirtd", "dnsmasq", "dbus-send")
	for _, v := range []struct {
		name, ours, theirs string
		steps              []struct{ user, command string }
	}{
		{"connections", accessConnection, "", polkitSteps},
		{"objects", accessObject, "access_drivers = [ \"polkit\" ]\n", append(polkitSteps[:len(polkitSteps):len(polkitSteps)], objectSteps...)},
	} {
		t.Run(v.name, func(t *testing.T) {
			ours := newOurs(t, "--libvirt-access", v.ours)
			theirs := newTheirsWith(t, func(s *server) {
				s.startPolkit()
				s.host.WriteFile("/etc/libvirt/libvirtd.conf", "auth_unix_rw = \"polkit\"\nauth_unix_ro = \"polkit\"\nunix_sock_rw_perms = \"0777\"\nunix_sock_ro_perms = \"0777\"\n"+v.theirs)
			})
			ours.startPolkit()
			for _, s := range []*server{ours, theirs} {
				s.host.WriteFile("/tmp/lan.xml", natXML("lan", 50, ""))
				s.host.WriteFile("/tmp/hidden.xml", natXML("hidden", 51, ""))
				s.host.WriteFile("/tmp/broken.xml", "<network><name>x</name>")
			}
			for _, step := range v.steps {
				var got [2]lab.Result
				var both sync.WaitGroup
				for i, s := range []*server{theirs, ours} {
					both.Go(func() { got[i] = s.as(step.user, step.command) })
				}
				both.Wait()
				for i := range got {
					got[i].Stdout, got[i].Stderr = hide(got[i].Stdout), hide(got[i].Stderr)
				}
				if diff := cmp.Diff(got[0], got[1]); diff != "" {
					t.Errorf("virsh %s as %s (-libvirt +viaduct):\n%s", step.command, step.user, diff)
				}
			}
			if v.ours == accessObject {
				// Newer ones of libvirt's do not read what they refuse either.
				if r := ours.as("mail", "net-define @broken"); !strings.Contains(r.Stderr, "error: access denied: 'network' denied access\n") {
					t.Errorf("%+v", r)
				}
				ours.onBehalf()
			}
		})
	}
}

// The values of --libvirt-access.
const (
	accessConnection = "connection"
	accessObject     = "object"
)

// onBehalf has root's client act for others: polkit is asked about these, and
// the log says who changed what.
func (s *server) onBehalf() {
	s.t.Helper()
	process := s.host.Start("setpriv", "--reuid=mail", "--regid=mail", "--clear-groups", "sh", "-c", "echo $$; exec sleep 1000")
	s.t.Cleanup(process.Kill)
	line, err := process.WaitLine(s.context(), `\d+`)
	s.must(err)
	pid, err := strconv.ParseUint(line, 10, 31) // as the host numbers it
	s.must(err)
	r := s.run("id", "-u", "mail")
	uid, err := strconv.ParseUint(strings.TrimSpace(r.Stdout), 10, 32)
	s.must(err)
	var c *rpctest.Client
	s.must(s.host.Do(func() (err error) {
		c, err = rpctest.Dial(socket)
		return err
	}))
	defer c.Close()
	s.must(c.Open(uri, 0))
	_, err = c.Call(419, func(e *xdr.Encoder) {
		dispatch.WriteParams(e, []dispatch.Param{
			{Name: "user-name", Type: dispatch.ParamString, Text: "mail"}, {Name: "unix-user-id", Type: dispatch.ParamUint64, Number: uid},
			{Name: "unix-group-id", Type: dispatch.ParamUint64, Number: uid}, {Name: "process-id", Type: dispatch.ParamInt64, Number: pid},
			{Name: "selinux-context", Type: dispatch.ParamString, Text: "unconfined"},
		})
		e.Uint32(0)
	})
	s.must(err)
	d, err := c.Call(46, func(e *xdr.Encoder) { e.String("lan") })
	s.must(err)
	name, id := d.String(), d.UUID()
	lan := func(e *xdr.Encoder) { e.String(name); e.UUID(id) }
	_, err = c.Call(39, lan)
	s.must(err)
	_, err = c.Call(42, lan)
	s.must(fails(err, netdef.ErrAccessDenied, "access denied: 'network' denied access"))
	for _, line := range []string{
		fmt.Sprintf("msg=changed call=virNetworkCreate by=\"user mail (uid %d, pid %d)\"", uid, pid),
		fmt.Sprintf("msg=\"refused a change\" call=virNetworkDestroy by=\"user mail (uid %d, pid %d)\"", uid, pid),
	} {
		lab.Eventually(s.t, 10*time.Second, func() error {
			if log := s.log(); !strings.Contains(log, line) {
				return fmt.Errorf("the log does not say %s:\n%s", line, log)
			}
			return nil
		})
	}
}
