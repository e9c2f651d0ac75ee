// Package house has no code. Its tests hold the structure of the project:
// which package may import which, how long a file may be, and that every
// package says what it is for.
package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// floors lists the packages from top to bottom. A package imports only from
// floors below its own. See docs/design.md.
var floors = [][]string{
	{"viaduct/cmd/viaduct", "viaduct/cmd/viaduct-vif"},
	{"viaduct/internal/cli"},
	{"viaduct/internal/libvirtrpc", "viaduct/internal/xenvif", "viaduct/internal/httpapi", "viaduct/internal/bridgehelper"},
	{"viaduct/internal/libvirtrpc/nwfilter", "viaduct/internal/libvirtrpc/attach", "viaduct/internal/xenhost"},
	{"viaduct/internal/xenvif/hotplug"},
	{"viaduct/internal/xenvif/xenstore", "viaduct/internal/xenvif/vifspec", "viaduct/internal/libvirtrpc/dispatch", "viaduct/internal/libvirtrpc/remote"},
	{"viaduct/internal/libvirtrpc/wire", "viaduct/internal/libvirtrpc/polkit", "viaduct/internal/xenvif/direct"},
	{"viaduct/internal/libvirtrpc/xdr"},
	{"viaduct/internal/daemon"},
	{"viaduct/internal/engine"},
	{"viaduct/internal/plan"},
	{"viaduct/internal/guestsvc", "viaduct/internal/firewalld", "viaduct/internal/hostdns"},
	{"viaduct/internal/guestsvc/dhcp4", "viaduct/internal/guestsvc/dhcp6", "viaduct/internal/guestsvc/dns", "viaduct/internal/guestsvc/ra",
		"viaduct/internal/guestsvc/dnsmasq", "viaduct/internal/guestsvc/resolved", "viaduct/internal/guestsvc/tftp", "viaduct/internal/dhcpclient"},
	{"viaduct/internal/guestsvc/pool"},
	{"viaduct/internal/guestsvc/domain", "viaduct/internal/guestsvc/leases", "viaduct/internal/guestsvc/outbox", "viaduct/internal/guestsvc/throttle"},
	{"viaduct/internal/host"},
	{"viaduct/internal/host/nft", "viaduct/internal/host/sockets"},
	{"viaduct/internal/host/changes", "viaduct/internal/host/nl"},
	{"viaduct/internal/store"},
	{"viaduct/internal/guestconf", "viaduct/internal/hook", "viaduct/internal/libvirtfiles", "viaduct/internal/uplink"},
	{"viaduct/internal/hoststate", "viaduct/internal/netdef", "viaduct/internal/peer"},
}

// doors translate between a protocol and the engine, and know nothing below it
// but the language of networks, who their peer is, and their own parts.
var doors = map[string]bool{
	"viaduct/internal/libvirtrpc": true, "viaduct/internal/xenvif": true, "viaduct/internal/httpapi": true,
	"viaduct/internal/bridgehelper": true,
}

// edge are the imports by which a program changes a host's network. The codec
// of neighbor discovery, mdlayher/ndp, is none of them.
var edge = []string{
	"github.com/vishvananda/", "github.com/google/nftables", "golang.org/x/sys/unix",
	"github.com/mdlayher/netlink", "github.com/mdlayher/packet", "github.com/mdlayher/socket",
}

// hostEdge is the kernel's edge, with its parts below it.
const hostEdge = "viaduct/internal/host"

const lab = "viaduct/internal/lab"

// forTests are packages that only tests and the demo use.
var forTests = map[string]bool{lab: true, "viaduct/internal/httpapi/apitest": true, "viaduct/internal/xenvif/xenstore/xenstoretest": true,
	"viaduct/internal/libvirtrpc/rpctest": true, "viaduct/internal/guestsvc/guestsvctest": true}

type source struct {
	path string // relative to the module
	pkg  string // import path
	file *ast.File
	test bool
	size int
}

func sources(t *testing.T) []source {
	t.Helper()
	root := "../.."
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, data, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		all = append(all, source{
			path: rel, pkg: "viaduct/" + filepath.ToSlash(filepath.Dir(rel)), file: f,
			test: strings.HasSuffix(path, "_test.go"), size: strings.Count(string(data), "\n"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found only %d source files", len(all))
	}
	return all
}

func imports(f *ast.File) []string {
	var list []string
	for _, i := range f.Imports {
		list = append(list, strings.Trim(i.Path.Value, `"`))
	}
	return list
}

func floorOf(pkg string) int {
	for i, floor := range floors {
		for _, p := range floor {
			if p == pkg {
				return i
			}
		}
	}
	return -1
}

func TestImportsGoDown(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.pkg, "viaduct/test/") || forTests[s.pkg] {
			continue
		}
		own := floorOf(s.pkg)
		if own < 0 {
			t.Errorf("%s: package %s has no floor: give it one here and in docs/design.md", s.path, s.pkg)
			continue
		}
		for _, imp := range imports(s.file) {
			if !strings.HasPrefix(imp, "viaduct/") {
				continue
			}
			switch other := floorOf(imp); {
			case other < 0:
				t.Errorf("%s imports %s, which has no floor", s.path, imp)
			case other <= own:
				t.Errorf("%s imports %s, which is not below it", s.path, imp)
			}
			if doors[s.pkg] && imp != "viaduct/internal/engine" && imp != "viaduct/internal/netdef" && imp != "viaduct/internal/peer" && !strings.HasPrefix(imp, s.pkg+"/") {
				t.Errorf("%s imports %s: a door knows only engine, netdef, peer and its own parts", s.path, imp)
			}
		}
	}
}

func TestOnlyHostTouchesTheKernel(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.pkg == hostEdge || strings.HasPrefix(s.pkg, hostEdge+"/") || s.pkg == lab || strings.HasPrefix(s.pkg, "viaduct/test/") {
			continue
		}
		for _, imp := range imports(s.file) {
			for _, e := range edge {
				if strings.HasPrefix(imp, e) {
					t.Errorf("%s imports %s: only internal/host does", s.path, imp)
				}
			}
		}
	}
}

func TestHelpersAreForTests(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || strings.HasPrefix(s.pkg, "viaduct/test/") {
			continue
		}
		for _, imp := range imports(s.file) {
			if forTests[imp] && !forTests[s.pkg] {
				t.Errorf("%s imports %s, which is for tests", s.path, imp)
			}
			if s.pkg == lab && strings.HasPrefix(imp, "viaduct/") {
				t.Errorf("%s imports %s: the lab does not know what it tests", s.path, imp)
			}
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	const limit = 600
	for _, s := range sources(t) {
		if s.size > limit {
			t.Errorf("%s has %d lines, more than %d", s.path, s.size, limit)
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			documented[s.pkg] = documented[s.pkg] || s.file.Doc != nil
		}
	}
	for pkg, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", pkg)
		}
	}
}

// The document says where every package is, and each decision has a number of
// its own, so that one can be spoken of.
func TestDesignDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/design.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	for _, floor := range floors {
		for _, pkg := range floor {
			name := strings.TrimPrefix(pkg, "viaduct/")
			if !strings.Contains(doc, "`"+name+"`") && !strings.Contains(doc, "`"+filepath.Base(name)+"`") {
				t.Errorf("docs/design.md has no word of %s", name)
			}
		}
	}
	_, decisions, _ := strings.Cut(doc, "\n## Decisions\n")
	decisions, _, _ = strings.Cut(decisions, "\n## ")
	n := 0
	for line := range strings.Lines(decisions) {
		number, _, found := strings.Cut(line, ". **")
		if got, err := strconv.Atoi(number); found && err == nil {
			if n++; got != n {
				t.Fatalf("decision %d of docs/design.md is numbered %d", n, got)
			}
		}
	}
}
