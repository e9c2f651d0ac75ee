package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"viaduct/internal/httpapi/apitest"
)

// virshDefault is the network that libvirt's test driver starts with.
const virshDefault = `<network>
  <name>default</name>
  <uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'/>
    </dhcp>
  </ip>
</network>
`

// The real virsh, in front of libvirt's test driver, and viaduct, in front of
// the fake engine, print the same for the same commands.
func TestPrintsWhatVirshPrints(t *testing.T) {
	virsh, err := exec.LookPath("virsh")
	if err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("VIADUCT_REQUIRE_LANES") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	for name, xml := range map[string]string{
		"lab.xml":   "<network><name>Zed</name><uuid>00000000-0000-4000-8000-000000000001</uuid><bridge name='virbr9'/><ip address='10.1.1.1' netmask='255.255.255.0'/></network>",
		"brief.xml": "<network><name>a-network-with-a-long-name</name><uuid>00000000-0000-4000-8000-000000000002</uuid><bridge name='virbr8'/><ip address='10.1.2.1' netmask='255.255.255.0'/></network>",
		"bad.xml":   "<network>\n<nam\n",
		"txt.xml":   "<txt name='a' value='b'/>",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(xml), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("VISUAL", "true")

	// Each row is run from the start: virsh's test driver forgets all when it ends.
	for _, script := range []string{
		"net-list",
		"net-list --all --name",
		"net-list --uuid",
		"net-info default",
		"net-info --network default",
		"net-name dd8fe884-6c02-601e-7551-cca97df1c5df",
		"net-uuid default",
		"net-destroy default; net-dumpxml default",
		"net-edit default",
		"net-define lab.xml; net-list --all; net-list --inactive; net-info Zed; net-start Zed; net-list",
		"net-create --file brief.xml; net-list; net-list --all --transient; net-info a-network-with-a-long-name; net-list --persistent",
		"net-autostart default; net-list --autostart; net-autostart default --disable; net-autostart --network default --disable; net-list --autostart",
		"net-destroy default; net-list; net-list --all --table; net-undefine default; net-list --all",
		"net-create brief.xml; net-destroy a-network-with-a-long-name; net-info a-network-with-a-long-name",
		"net-start default",
		"net-start nope",
		"net-destroy nope",
		"net-undefine nope",
		"net-dumpxml nope",
		"net-autostart nope",
		"net-dhcp-leases nope",
		"net-edit nope",
		"net-uuid nope",
		"net-info 11111111-1111-1111-1111-111111111111",
		"net-define nowhere.xml",
		"net-create nowhere.xml",
		"net-define bad.xml",
		"net-create bad.xml",
		"net-list --table --name",
		"net-start",
		"net-define",
		"net-start x y",
		"net-start --network x y",
		"net-list --foo",
		"net-list extra",
		"net-list --all=yes",
		"net-dhcp-leases default --mac",
		"no-such-command",
		"net-update default add dns-txt txt.xml",
		"net-update default add dns-txt txt.xml --live",
		"net-update default add-first --section dns-txt --xml txt.xml --live --config",
		"net-destroy default; net-update default add dns-txt txt.xml",
		"net-destroy default; net-update default add dns-txt txt.xml --live",
		"net-update default add dns-txt txt.xml --current --config",
		"net-update default add dns-txt txt.xml --current --live",
		"net-update default add dns-txt txt.xml --parent-index 1x",
		"net-update default add dns-txt nowhere.xml",
		"net-update default none dns-txt txt.xml",
		"net-update default add dns txt.xml",
		"net-update default add ip-dhcp-host txt.xml",
		"net-update default add",
		"net-update nope add dns-txt txt.xml",
		"net-event",
		"net-event --event foo",
		"net-event --event lifecycle --timeout 0",
		"net-event --event lifecycle --timeout x1",
		"net-event --event lifecycle --timeout 1",
	} {
		t.Run(script, func(t *testing.T) {
			t.Parallel()
			want := runVirsh(t, virsh, script)
			got := runViaduct(t, script)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-virsh +viaduct):\n%s", diff)
			}
		})
	}
}

type printed struct {
	Out string
	// Errs is what could not be done. The reason comes from the drivers, which
	// are not the same here.
	Errs   string
	Failed bool
}

func runVirsh(t *testing.T, virsh, script string) printed {
	var out, errs strings.Builder
	// virsh 9.0 hangs now and then where it should fail.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, virsh, "-c", "test:///default", script)
	cmd.Stdout, cmd.Stderr = &out, &errs
	failed := cmd.Run() != nil
	if ctx.Err() != nil {
		t.Fatalf("virsh hangs; so far: %s%s", out.String(), errs.String())
	}
	return printed{out.String(), firstError(errs.String()), failed}
}

func runViaduct(t *testing.T, script string) printed {
	f := apitest.New()
	info, err := f.Define(t.Context(), []byte(virshDefault))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Start(t.Context(), info.UUID); err != nil {
		t.Fatal(err)
	}
	socket, err := startServer(f, t.TempDir(), t.Cleanup)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	failed := false
	for command := range strings.SplitSeq(script, "; ") {
		a := &app{in: strings.NewReader(""), out: &out, errs: &errs}
		args := append([]string{"--socket", socket}, strings.Fields(command)...)
		failed = a.run(t.Context(), args) != 0 || failed
	}
	return printed{out.String(), firstError(errs.String()), failed}
}

func firstError(errs string) string {
	line, _, _ := strings.Cut(errs, "\n")
	return line
}
