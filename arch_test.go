package kassett_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "kassett"

// may is the architecture: which packages of this module each package may
// import. A package that is missing here may not exist. "." is the root, "*"
// is everything. ARCHITECTURE.md shows the same table to people; the linter
// keeps the same walls in the editor.
var may = map[string][]string{
	".":                     {},
	"repo":                  {".", "repo/*", "repo/record"},
	"repo/record":           {"."},
	"repo/*":                {"."},
	"storage":               {"."},
	"storage/*":             {".", "storage"},
	"source/*":              {"."},
	"snapshot":              {".", "repo", "repo/record"},
	"mount":                 {".", "repo", "snapshot"},
	"prune":                 {".", "repo", "snapshot"},
	"search":                {".", "repo", "snapshot"},
	"cmd/*":                 {"*"},
	"cmd/kassett/*":         {"."},
	"cmd/kassett/clinic":    {".", "cmd/kassett/*"},
	"bench":                 {},
	"storage/s3":            {".", "storage"},
	"storage/rest":          {".", "storage"},
	"storage/s3/s3test":     {},
	"storage/sftp/sftptest": {},
	"storage/storagetest":   {"."},
	"source/sourcetest":     {"."},
}

// walls are technologies that live in named packages only, with the reason.
var walls = []struct {
	pkg   string   // import path, or a prefix of it that ends in "/"
	where []string // rows of may in which it is allowed
	why   string
}{
	{"database/sql", nil, "SQL lives in catalog and the database sources"},
	{"net/http", []string{"storage/s3", "storage/s3/s3test", "storage/rest", "mount", "cmd/*"}, "HTTP lives in storage/s3, storage/rest, rpc, web, station and mount"},
	{"os/exec", []string{"source/*", "cmd/*", "cmd/kassett/clinic", "bench", "storage/s3/s3test", "storage/sftp/sftptest"}, "only sources, drills and media start programs"},
	{"text/template", nil, "it makes the linker keep every method: 17 MiB"},
	{"html/template", nil, "it makes the linker keep every method: 17 MiB"},
	{"testing", []string{"storage/storagetest", "storage/s3/s3test", "storage/sftp/sftptest", "source/sourcetest"}, "test code stays out of the binary"},
	{"log", nil, "use log/slog, handed in; the engine returns errors"},
	{"math/rand", nil, "use math/rand/v2 or crypto/rand"},
	{"github.com/spf13/", []string{"cmd/*"}, "flags are spoken in cmd only"},
	{"github.com/hanwen/go-fuse/", []string{"mount"}, "FUSE is spoken in mount only"},
}

// Budgets, in lines of hand-written code (comments and blank lines are free, a
// file's length is not) and in fields. They are set by the largest of well-kept
// projects, not by their averages: docs/style.md.
const (
	rootLines    = 1500
	packageLines = 7000
	fileLines    = 700
	fieldBudget  = 20
)

type pkg struct {
	Dir, ImportPath, Doc string
	GoFiles, Imports     []string
}

func TestArchitecture(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		row := rowOf(p.ImportPath)
		allowed, ok := may[row]
		if !ok {
			t.Errorf("%s: not in the table; is it a package of its own, or a file of one?", p.ImportPath)
		}
		if p.Doc == "" {
			t.Errorf("%s: no package comment", p.ImportPath)
		}
		for _, imp := range p.Imports {
			checkImport(t, row, allowed, imp)
		}
		limit := packageLines
		if row == "." {
			limit = rootLines
		}
		if n := size(t, p); n > limit {
			t.Errorf("%s: %d lines, budget %d", row, n, limit)
		}
	}
}

func checkImport(t *testing.T, row string, allowed []string, imp string) {
	t.Helper()
	inside := imp == module || strings.HasPrefix(imp, module+"/")
	switch {
	case inside && !slices.Contains(allowed, "*") && !slices.Contains(allowed, rowOf(imp)):
		t.Errorf("%s may not import %s", row, imp)
	case !inside && row == "." && !rootMay(imp):
		t.Errorf("the root imports %s; it opens nothing and knows only the standard library", imp)
	}
	for _, w := range walls {
		hit := imp == w.pkg || strings.HasSuffix(w.pkg, "/") && strings.HasPrefix(imp, w.pkg)
		if hit && !slices.Contains(w.where, row) {
			t.Errorf("%s imports %s: %s", row, imp, w.why)
		}
	}
}

// packages lists the packages of the module.
func packages(t *testing.T) (all []pkg) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=Dir,ImportPath,Doc,GoFiles,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// size counts the lines of a package's hand-written files and checks its files
// and structs against their budgets.
func size(t *testing.T, p pkg) (lines int) {
	t.Helper()
	fset := token.NewFileSet()
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(f) {
			continue
		}
		lines += codeLines(t, filepath.Join(p.Dir, name))
		if n := fset.Position(f.FileEnd).Line; n > fileLines {
			t.Errorf("%s/%s: %d lines, budget %d", p.ImportPath, name, n, fileLines)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok && p.ImportPath == module {
				t.Errorf("%s: the root starts nothing", fset.Position(g.Pos()))
			}
			if s, ok := n.(*ast.StructType); ok && ownFields(s) > fieldBudget {
				t.Errorf("%s: a struct of %d fields, budget %d", fset.Position(s.Pos()), ownFields(s), fieldBudget)
			}
			return true
		})
	}
	return lines
}

// ownFields counts the fields of a struct. Those with a tag mirror a format that
// others have laid down, and do not count.
func ownFields(s *ast.StructType) (n int) {
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			n += max(1, len(f.Names))
		}
	}
	return n
}

// codeLines counts the lines of a file on which code begins.
func codeLines(t *testing.T, name string) (n int) {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	file := token.NewFileSet().AddFile(name, -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0)
	for last := 0; ; {
		pos, tok, _ := s.Scan()
		if tok == token.EOF {
			return n
		}
		if line := file.Line(pos); line != last {
			n, last = n+1, line
		}
	}
}

// rootMay reports whether the root may import imp: the standard library, less
// what opens or runs things.
func rootMay(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".") &&
		!slices.Contains([]string{"os", "net", "syscall", "unsafe", "database", "testing"}, first)
}

// rowOf maps an import path to its row of the table.
func rowOf(p string) string {
	if p == module {
		return "."
	}
	r := strings.TrimPrefix(p, module+"/")
	if _, ok := may[r]; ok {
		return r
	}
	return path.Dir(r) + "/*"
}
