package files_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"kassett"
	"kassett/source/files"
)

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, path string
		want, below   bool
	}{
		{"*.go", "/a/b.go", true, true},
		{"*.go", "/a.go/b", true, true}, // what is in a matched folder
		{"*.go", "/a/b.goo", false, true},
		{"a", "/x/a/y", true, true},
		{"a/b", "/x/a/b", true, true},
		{"a/b", "/x/a/c/b", false, true},
		{"/a", "/a/b", true, true},
		{"/a", "/x/a", false, false},
		{"/a/b/c", "/a", false, true},
		{"/a/b/c", "/a/b", false, true},
		{"/a/b/c", "/a/x", false, false},
		{"/a/*/c", "/a/x/c", true, true},
		{"/a/*/c", "/a/x/y/c", false, false},
		{"/a/**/c", "/a/c", true, true},
		{"/a/**/c", "/a/x/y/c/z", true, true},
		{"/a/**/c", "/a/x/y", false, true},
		{"/a/**/c", "/b", false, false},
		{"/**", "/anything", true, true},
		{"/", "/anything", true, true},
		{"**", "/a", true, true},
		{"a/**/b/**/c", "/a/b/c", true, true},
		{"a/**/b/**/c", "a/b/c", false, true}, // as in restic: "**" later on counts as one name
		{"a/**/b/**/c", "/a/x/b/y/c", true, true},
		{"a/", "/x/a", true, true}, // cleaned
		{"./a", "/x/a", true, true},
		{"a?c", "/abc", true, true},
		{"[a-c]x", "/bx", true, true},
		{`\*`, "/*", true, true},
		{"*", "/", true, true},
		{"a", "a", true, true}, // paths within a snapshot need no root
		{"/a", "a", false, false},
		{"a\xff*", "/a\xffb", true, true},
	} {
		p, err := files.NewPatterns([]string{c.pattern}, false)
		must(t, err)
		got, below := p.MatchChild(files.NewPath(c.path))
		if got != c.want || below != c.below || p.Match(files.NewPath(c.path)) != c.want {
			t.Errorf("%q on %q: %v, below %v; want %v, %v", c.pattern, c.path, got, below, c.want, c.below)
		}
	}
}

func TestMatchLists(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		patterns string
		fold     bool
		path     string
		want     bool
	}{
		{"*.txt !keep.txt", false, "/a/keep.txt", false},
		{"*.txt !keep.txt *.txt", false, "/a/keep.txt", true},
		{"!keep.txt *.txt", false, "/a/keep.txt", true},
		{"/a/* !/a/b", false, "/a/b/c", false},
		{"*.TXT", true, "/A/x.TxT", true},
		{"*.TXT", false, "/A/x.txt", false},
		{"ÄRZTE", true, "/ärzte", true},
		{"", false, "/a", false},
	} {
		p, err := files.NewPatterns(strings.Split(c.patterns, " "), c.fold)
		must(t, err)
		if got := p.Match(files.NewPath(c.path)); got != c.want {
			t.Errorf("%q on %q: %v", c.patterns, c.path, got)
		}
	}
	bad := []string{"[", "a/[x", "a[/]"}
	if filepath.Separator == '/' {
		bad = append(bad, `x\`) // a separator on Windows
	}
	for _, bad := range bad {
		_, err := files.NewPatterns([]string{"good", bad}, false)
		if errorIs(t, err, kassett.Invalid); err != nil && (!strings.Contains(err.Error(), strconvQuote(bad)) || kassett.HintOf(err) == "") {
			t.Errorf("%q: error %v does not name it, or has no hint", bad, err)
		}
	}
}

func strconvQuote(s string) string { b, _ := json.Marshal(s); return string(b) }

// slowMatch says what a pattern without "!" means in the plainest way: "**" is
// tried as every number of "*", under the limit that restic sets.
func slowMatch(pattern, path []string) bool {
	for i, p := range pattern {
		if p != "**" {
			continue
		}
		for n := 0; n+len(pattern)-1 <= len(path); n++ {
			wide := slices.Concat(pattern[:i], slices.Repeat([]string{"*"}, n), pattern[i+1:])
			if slowMatch(wide, path) {
				return true
			}
		}
		return false
	}
	for at := range path {
		if len(pattern) == 0 || at+len(pattern) > len(path) || pattern[0] == "/" && at > 0 || path[at] == "/" && pattern[0] != "/" {
			continue
		}
		all := true
		for i, p := range pattern {
			ok, _ := filepath.Match(p, path[at+i])
			all = all && ok
		}
		if all {
			return true
		}
	}
	return false
}

func TestMatchIsWhatItSays(t *testing.T) {
	t.Parallel()
	name := rapid.SampledFrom([]string{"a", "b", "ab", "a.c"})
	part := rapid.SampledFrom([]string{"a", "b", "*", "**", "a*", "*b", "?", "[ab]*", "*.c", "**"})
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.SliceOfN(part, 1, 6).Draw(t, "pattern")
		path := rapid.SliceOfN(name, 1, 7).Draw(t, "path")
		text := strings.Join(pattern, "/")
		if rapid.Bool().Draw(t, "rooted") {
			pattern, text = append([]string{"/"}, pattern...), "/"+text
		}
		p, err := files.NewPatterns([]string{text}, false)
		if err != nil {
			t.Fatal(err)
		}
		full := append([]string{"/"}, path...)
		got, below := p.MatchChild(files.NewPath("/" + strings.Join(path, "/")))
		if want := slowMatch(pattern, full); got != want {
			t.Fatalf("%q on %q: %v, want %v", text, full, got, want)
		}
		// Where nothing below may match, nothing does.
		for n := 2; n < len(full) && got; n++ {
			if _, may := p.MatchChild(files.NewPath("/" + strings.Join(full[1:n], "/"))); !may {
				t.Fatalf("%q: below %q nothing may match, but %q does", text, full[:n], full)
			}
		}
		if got && !below && !strings.Contains(text, "**") {
			t.Fatalf("%q matches %q, but nothing below it", text, full)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("/a/**/b*", "/a/x/bc", true)
	f.Add("!**/[a", "a//b", false)
	f.Fuzz(func(t *testing.T, pattern, path string, fold bool) {
		p, err := files.NewPatterns([]string{"*", pattern}, fold)
		if err != nil {
			errorIs(t, err, kassett.Invalid)
			return
		}
		matched, below := p.MatchChild(files.NewPath(path))
		if pattern == "" || pattern[0] != '!' {
			if !matched && path != "/" && path != "" || !below {
				t.Errorf("%q: * alone matches", path)
			}
		}
	})
}

// TestExcludesAsRestic excludes from one tree with many lists and compares what
// is left with what restic would save.
func TestExcludesAsRestic(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1: restic is not installed")
		}
		t.Fatal("restic is not installed: make deps")
	}
	tree, repo := tempDir(t), tempDir(t)
	for _, dir := range []string{"a/b/c", "a/x/b", "home/ann/.cache/deep", "cache", "tagged/sub", "Ä/b", "node_modules/m", "top"} {
		must(t, os.MkdirAll(filepath.Join(tree, dir), 0o755))
	}
	for _, file := range []string{
		"a/f.go", "a/b/f.go", "a/b/c/F.GO", "a/b/c/keep.txt", "a/x/b/c", "a/x/b/keep.txt", "home/ann/doc.pdf", "home/ann/.cache/x", "home/ann/.cache/deep/y",
		"cache/big", "tagged/f", "tagged/sub/g", "tagged/.nobackup", "Ä/b/ä.txt", "node_modules/m/index.js", "top/a", "top/ab", "top/[x]", "f.go", "x.txt",
	} {
		write(t, filepath.Join(tree, file), "text")
	}
	write(t, filepath.Join(tree, "cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55 and more")
	write(t, filepath.Join(tree, "top/CACHEDIR.TAG"), "not the signature")
	write(t, filepath.Join(tree, "a/x/large"), strings.Repeat("x", 5000))
	t.Chdir(tree)
	restic := func(args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), "restic", append([]string{"-r", repo, "--no-cache", "--json"}, args...)...)
		cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=test")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("restic %q: %v", args, err)
		}
		return out
	}
	restic("init")
	for _, c := range []struct {
		flags string // as typed
		o     files.Options
	}{
		{"--exclude *.go --exclude /nothing", files.Options{Exclude: []string{"*.go", "/nothing"}}},
		{"--exclude */b --exclude " + tree + "/home/*/.cache", files.Options{Exclude: []string{"*/b", tree + "/home/*/.cache"}}},
		{"--exclude a/**/c --exclude **/deep", files.Options{Exclude: []string{"a/**/c", "**/deep"}}},
		{"--exclude *.txt --exclude !keep.txt --exclude top/[!b]*", files.Options{Exclude: []string{"*.txt", "!keep.txt", "top/[!b]*"}}},
		{"--exclude " + tree + "/a/* --exclude !" + tree + "/a/b", files.Options{Exclude: []string{tree + "/a/*", "!" + tree + "/a/b"}}},
		{"--exclude * --exclude !a", files.Options{Exclude: []string{"*", "!a"}}},
		{"--iexclude *.Go --iexclude ä", files.Options{ExcludeFold: []string{"*.Go", "ä"}}},
		{"--iexclude *.GO --exclude !f.go --exclude top", files.Options{ExcludeFold: []string{"*.GO"}, Exclude: []string{"!f.go", "top"}}},
		{"--exclude-caches --exclude-if-present .nobackup", files.Options{ExcludeCaches: true, ExcludeIfPresent: []string{".nobackup"}}},
		{"--exclude-if-present x.txt:te", files.Options{ExcludeIfPresent: []string{"x.txt:te"}}},
		{"--exclude-if-present keep.txt:nope --exclude-larger-than 4999", files.Options{ExcludeIfPresent: []string{"keep.txt:nope"}, ExcludeLarger: 4999}},
		{"--exclude-larger-than 5000 --one-file-system", files.Options{ExcludeLarger: 5000, OneFileSystem: true}},
		{`--exclude top/\[x\] --exclude node_modules/ --exclude ./cache`, files.Options{Exclude: []string{`top/\[x\]`, "node_modules/", "./cache"}}},
	} {
		out := restic(append([]string{"backup", "--dry-run", "-vv", "."}, strings.Fields(c.flags)...)...)
		c.o.Paths = []string{"."}
		if got, want := selected(t, c.o), resticItems(t, out); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", c.flags, got, want)
		}
	}
}

// selected returns the paths of all that a Source shows, folders with a slash.
func selected(t *testing.T, o files.Options) []string {
	t.Helper()
	s := newSource(t, o)
	var all []string
	var walk func(dir string)
	walk = func(dir string) {
		list, err := s.List(t.Context(), dir)
		must(t, err)
		for _, e := range list {
			path := join(dir, e.Name)
			if e.Type == kassett.Dir {
				walk(path)
				path += "/"
			}
			all = append(all, "/"+path)
		}
	}
	walk("")
	slices.Sort(all)
	return all
}

// resticItems reads what a dry run says it would save.
func resticItems(t *testing.T, out []byte) []string {
	t.Helper()
	var all []string
	for scan := bufio.NewScanner(bytes.NewReader(out)); scan.Scan(); {
		var m struct {
			MessageType string `json:"message_type"`
			Item        string `json:"item"`
		}
		must(t, json.Unmarshal(scan.Bytes(), &m))
		if m.MessageType == "verbose_status" && m.Item != "/" && m.Item != "" {
			all = append(all, m.Item)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
