package house

import (
	"fmt"
	"go/ast"
	"os"
	"regexp"
	"strings"
	"testing"
)

const coverage = "../../docs/coverage.md"

// covered are the first and the last row of docs/coverage.md.
var covered = [2]int{1, 164}

var (
	// coverageRow is a line of a table: the row's number, what, how, where tested.
	coverageRow = regexp.MustCompile(`^\| S(\d+) \|(.+)\|(.+)\|(.+)\|$`)
	quoted      = regexp.MustCompile("`([^`]+)`")
	testName    = regexp.MustCompile(`^(\w+)\.(Test\w+)$`)
)

// TestCoverage holds docs/coverage.md to what is there: the rows in order, tests
// that exist, commands that exist.
func TestCoverage(t *testing.T) {
	text, err := os.ReadFile(coverage)
	if err != nil {
		t.Fatal(err)
	}
	tests, verbs := map[string]bool{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.pkg == "viaduct/internal/cli" && !s.test {
			noteVerbs(s.file, verbs)
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && f.Recv == nil {
				tests[strings.TrimSuffix(s.file.Name.Name, "_test")+"."+f.Name.Name] = true
			}
		}
	}
	next := covered[0]
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| S") {
			continue
		}
		m := coverageRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil || m[1] != fmt.Sprint(next) {
			t.Fatalf("want row S%d here: %s", next, line)
		}
		next++
		shown := strings.Contains(m[4], "missing")
		for _, q := range quoted.FindAllStringSubmatch(m[3]+m[4], -1) {
			if name := testName.FindStringSubmatch(q[1]); name != nil {
				shown = true
				if !tests[q[1]] {
					t.Errorf("row S%s names %s, which is no test here", m[1], q[1])
				}
			}
			if verb, ok := strings.CutPrefix(q[1], "viaduct "); ok && !verbs[strings.Fields(verb)[0]] {
				t.Errorf("row S%s names the command %s, which is none", m[1], q[1])
			}
		}
		if !shown {
			t.Errorf("row S%s names no test, and does not say that something is missing", m[1])
		}
	}
	if next != covered[1]+1 {
		t.Errorf("the rows end before S%d, want them up to S%d", next, covered[1])
	}
}

// noteVerbs collects the words that are names of something in the source of the
// command line.
func noteVerbs(f *ast.File, verbs map[string]bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		kv, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		key, isName := kv.Key.(*ast.Ident)
		value, isText := kv.Value.(*ast.BasicLit)
		if isName && isText && key.Name == "name" {
			verbs[strings.Trim(value.Value, `"`)] = true
		}
		return true
	})
}
