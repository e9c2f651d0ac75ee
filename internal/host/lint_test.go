package host

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// dumpers are the names by which routing netlink is asked for whole lists: of
// the libraries in use, and of the kernel.
var dumpers = map[string]bool{
	"RTM_GETLINK": true, "RTM_GETADDR": true, "RTM_GETROUTE": true, "RTM_GETNEIGH": true, "NLM_F_DUMP": true,
	"LinkList": true, "AddrList": true, "RouteList": true, "RouteListFiltered": true, "NeighList": true, "RuleList": true,
	"Interfaces": true, "InterfaceAddrs": true, "NetlinkRIB": true,
}

// mayDump says why a function may after all.
var mayDump = map[string]string{
	"mirror.go reload":           "it goes by rtnl.dump",
	"counters.go counters":       "it asks for one link",
	"proxy.go Observe":           "it goes by rtnl.dump, and lists proxies alone",
	"held.go held":               "it goes by rtnl.dump, when a host's card is moved and no more often",
	"heldrule.go heldRules":      "it goes by rtnl.dump, as held, which calls it",
	"heldrule.go heldNeighbours": "it goes by rtnl.dump, as held, which calls it",
	"answer.go neighbourState":   "it goes by rtnl.dump, when a host's card is moved",
	"answer.go Towards":          "it asks for one route",
}

// TestListsAreReadInOnePlace forbids dumps outside of rtnl.dump, which repeats
// interrupted ones, and of its one user. A dump of one link's addresses is a
// dump of the host's.
func TestListsAreReadInOnePlace(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources: %v", err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		if isTest, _ := filepath.Match("*_test.go", name); isTest {
			continue
		}
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && mayDump[name+" "+d.Name.Name] != "" {
				continue
			}
			if d, ok := decl.(*ast.FuncDecl); ok && name == "station.go" && d.Name.Name == "entries" {
				continue // it goes by rtnl.dump, and lists one bridge's alone
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				pkg, _ := s.X.(*ast.Ident)
				rtnlDump := pkg != nil && pkg.Name == "netlink" && s.Sel.Name == "Dump" && name != "rtnl.go"
				if rtnlDump || dumpers[s.Sel.Name] && !(pkg != nil && pkg.Name == "unix" && firewall(name)) {
					t.Errorf("%s: %s lists more of the host than it may", set.Position(s.Pos()), s.Sel.Name)
				}
				return true
			})
		}
	}
}

// firewall reports whether a source file is about nftables, which has dumps of
// its own.
func firewall(file string) bool {
	is, _ := filepath.Match("nft*.go", file)
	return is
}
