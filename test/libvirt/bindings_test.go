package libvirt

import (
	"embed"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

//go:embed testdata
var scripts embed.FS

// guestWanted is a script's request for a guest.
var guestWanted = regexp.MustCompile(`(?m)^guest on (\S+)$`)

// script runs a program that is a client, and gives it the guest that it asks for.
func (s *server) script(argv ...string) {
	s.t.Helper()
	s.must(fs.WalkDir(scripts, "testdata", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := scripts.ReadFile(path)
		s.host.WriteFile("/tmp/"+filepath.Base(path), string(content))
		return err
	}))
	p := s.host.Start(argv...)
	var bridge string
	lab.Eventually(s.t, 2*time.Minute, func() error {
		if m := guestWanted.FindStringSubmatch(p.Output()); m != nil {
			bridge = m[1]
			return nil
		}
		select {
		case <-p.Done():
			s.t.Fatalf("it has ended: %s\n%s", p.Output(), s.log())
		default:
		}
		return fmt.Errorf("it asks for no guest: %s", p.Output())
	})
	s.lease(s.PlugGuest(s.host.Node, bridge, "one"))
	r, err := p.Wait(s.context())
	if err != nil || r.Code != 0 || r.Stderr != "" || !strings.HasSuffix(r.Stdout, "done\n") {
		s.t.Errorf("%v %+v\n%s", err, r, s.log())
	}
}

// The interpreters are Debian's, which have libvirt's bindings.
const (
	python = "/usr/bin/python3"
	perl   = "/usr/bin/perl"
)

// needBinding skips where a line that loads libvirt's binding fails.
func needBinding(t *testing.T, interpreter, flag, line string) {
	t.Helper()
	lab.Need(t, interpreter)
	lack := t.Skipf
	if lab.Strict() {
		lack = t.Fatalf
	}
	if said, err := exec.Command(interpreter, flag, line).CombinedOutput(); err != nil {
		lack("needs libvirt's binding: %s", said)
	}
}

func TestPython(t *testing.T) {
	needBinding(t, python, "-c", "import libvirt")
	newOurs(t).script(python, "/tmp/bindings.py")
}

func TestPerl(t *testing.T) {
	needBinding(t, perl, "-e", "use Sys::Virt")
	newOurs(t).script(perl, "/tmp/bindings.pl")
}

// virt-manager itself reaches a network daemon only by way of libvirt's own
// daemon for guests, which Debian does not have. The script calls what it calls.
func TestVirtManager(t *testing.T) {
	needBinding(t, python, "-c", "import libvirt")
	s := newOurs(t)
	s.host.WriteFile("/tmp/office.xml", natXML("office", 50, ""))
	_, err := s.daemon.Viaduct(s.context(), "net-define", "/tmp/office.xml")
	s.must(err)
	s.script(python, "/tmp/virtmanager.py")
}
