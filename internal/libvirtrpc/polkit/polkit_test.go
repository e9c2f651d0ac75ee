package polkit

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"viaduct/internal/netdef"
)

// startBus starts a bus that takes the place of the system's.
func startBus(t *testing.T) {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs dbus-daemon")
	}
	dir := t.TempDir()
	address := "unix:path=" + filepath.Join(dir, "bus")
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, `<busconfig><listen>%s</listen><auth>EXTERNAL</auth><policy context="default">
		<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`, address), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "--config-file="+config, "--nofork", "--print-address")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the bus does not start: %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
}

// fake is a polkit that answers what it is told to.
type fake struct {
	answers map[string]answer // by action

	mu    sync.Mutex
	asked []string
}

func (f *fake) CheckAuthorization(s subject, action string, details map[string]string, flags uint32, cancel string) (answer, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf("%s %v %v %v for %s %v, flags %d", s.Kind, s.Details["pid"].Value(), s.Details["start-time"].Value(),
		s.Details["uid"].Value(), action, details, flags))
	a, ok := f.answers[action]
	if !ok {
		return a, dbus.NewError("org.freedesktop.PolicyKit1.Error.Failed", []any{"action " + action + " is not registered"})
	}
	return a, nil
}

func TestAnswersAreLibvirtsErrors(t *testing.T) {
	startBus(t)
	ctx := t.Context()
	if (Authority{}).Available(ctx) {
		t.Error("it is there before it has come")
	}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := &fake{answers: map[string]answer{
		"yes": {Authorized: true, Details: map[string]string{}}, "no": {Details: map[string]string{}},
		"ask": {Challenge: true, Details: map[string]string{}}, "dismiss": {Details: map[string]string{"polkit.dismissed": "true"}},
	}}
	if err := conn.Export(f, objectPath, busName+".Authority"); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(busName, 0); err != nil {
		t.Fatal(err)
	}
	if !(Authority{}).Available(ctx) {
		t.Error("it is not there")
	}
	who := Subject{PID: 7, Started: 1 << 40, UID: 1000}
	for _, v := range []struct {
		action, want string
		code         netdef.Code
	}{
		{"yes", "", 0},
		{"no", "authentication failed: access denied by policy", netdef.ErrAuthFailed},
		{"ask", "authentication unavailable: no polkit agent available to authenticate action 'ask'", netdef.ErrAuthUnavailable},
		{"dismiss", "authentication cancelled: user cancelled authentication process", netdef.ErrAuthCancelled},
		{"other", "authentication failed: ask polkit: action other is not registered", netdef.ErrAuthFailed},
	} {
		err := Authority{}.Check(ctx, who, v.action, map[string]string{"network_name": "lan"}, v.action == "ask")
		var e *netdef.Error
		if v.want == "" && err == nil {
			continue
		}
		if !errors.As(err, &e) || e.Error() != v.want || e.Code != v.code {
			t.Errorf("%s: %v, want %s", v.action, err, v.want)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var want []string
	for _, action := range []string{"yes", "no", "ask", "dismiss", "other"} {
		flags := 0
		if action == "ask" {
			flags = interaction
		}
		want = append(want, fmt.Sprintf("unix-process 7 1099511627776 1000 for %s map[network_name:lan], flags %d", action, flags))
	}
	if diff := cmp.Diff(want, f.asked); diff != "" {
		t.Errorf("it was asked (-want +got):\n%s", diff)
	}
}

func TestNoBus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	if (Authority{}).Available(t.Context()) {
		t.Error("polkit is there without a bus")
	}
	var e *netdef.Error
	if err := (Authority{}).Check(t.Context(), Subject{}, "x", nil, false); !errors.As(err, &e) || e.Code != netdef.ErrAuthFailed {
		t.Error(err)
	}
}
