package files_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"kassett"
	"kassett/source/files"
	"kassett/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSource(t *testing.T) {
	t.Parallel()
	sourcetest.Run(t, func(t *testing.T) sourcetest.Setup {
		dir := tempDir(t)
		for _, sub := range []string{"a/b", "skipped", "empty"} {
			must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
		}
		at := snapshotPath(dir)
		want := map[string]string{
			at + "/a/one": "first", at + "/a/b/two": strings.Repeat("second", 50_000), at + "/zero": "",
		}
		for name, text := range want {
			write(t, filepath.Join(dir, strings.TrimPrefix(name, at)), text)
		}
		write(t, filepath.Join(dir, "skipped", "file"), "x")
		write(t, filepath.Join(dir, "a", "file.tmp"), "x")
		f, err := os.Create(filepath.Join(dir, "a", "sparse"))
		must(t, err)
		_, err = f.WriteAt([]byte("data"), 3<<20)
		must(t, errors.Join(err, f.Truncate(4<<20), f.Close()))
		return sourcetest.Setup{
			Source: newSource(t, files.Options{
				Paths: []string{dir, filepath.Join(dir, "absent")}, Exclude: []string{"skipped", "*.tmp"},
			}),
			Files:  want,
			Broken: []string{at + "/absent"},
			Absent: []string{at + "/skipped", at + "/a/file.tmp"},
			Change: func(t *testing.T, path string) {
				write(t, filepath.Join(dir, strings.TrimPrefix(path, at)), "changed")
			},
		}
	})
}

// TestTargets arranges targets as restic does; the snapshots of its own tests
// in internal/archiver/tree_test.go are the model.
func TestTargets(t *testing.T) {
	dir := tempDir(t)
	work := filepath.Join(dir, "work")
	for _, sub := range []string{"work/sub/deep", "work/other", "foo"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	for _, name := range []string{"work/f", "work/sub/g", "work/sub/deep/h", "work/other/i", "foo/j", "work/no.tmp"} {
		write(t, filepath.Join(dir, name), "x")
	}
	must(t, os.Mkdir(filepath.Join(work, "foo"), 0o755))
	write(t, filepath.Join(work, "foo", "k"), "x")
	t.Chdir(work)
	up := snapshotPath(dir)
	parents := func(path string) []string { // of a path, as selected shows them
		var all []string
		for i, c := range path + "/" {
			if c == '/' {
				all = append(all, "/"+path[:i]+"/")
			}
		}
		return all
	}
	for _, c := range []struct {
		name  string
		paths []string
		skip  []string
		want  []string
	}{
		{"dot", []string{"."}, []string{"other"}, []string{"/f", "/foo/", "/foo/k", "/no.tmp", "/sub/", "/sub/deep/", "/sub/deep/h", "/sub/g"}},
		{"relative", []string{"sub"}, nil, []string{"/sub/", "/sub/deep/", "/sub/deep/h", "/sub/g"}},
		{"relative below", []string{"sub/deep/"}, nil, []string{"/sub/", "/sub/deep/", "/sub/deep/h"}},
		{"file", []string{"./sub/g"}, nil, []string{"/sub/", "/sub/g"}},
		{"up", []string{"../foo"}, nil, []string{"/foo/", "/foo/j"}},
		{"same name", []string{"foo", "../foo"}, nil, []string{"/foo-1/", "/foo-1/j", "/foo/", "/foo/k"}},
		{"twice", []string{"sub/g", "sub//g", "./sub/../sub/g"}, nil, []string{"/sub/", "/sub/g"}},
		{"nested", []string{"sub", "sub/deep/h"}, []string{"deep"}, []string{"/sub/", "/sub/deep/", "/sub/deep/h", "/sub/g"}},
		{"typed is never excluded", []string{"no.tmp", "sub"}, []string{"*.tmp", "sub", "g"}, []string{"/no.tmp", "/sub/"}},
		{"absolute", []string{filepath.Join(dir, "foo")}, nil, append(parents(up), "/"+up+"/foo/", "/"+up+"/foo/j")},
	} {
		slices.Sort(c.want)
		if diff := cmp.Diff(c.want, selected(t, files.Options{Paths: c.paths, Exclude: c.skip})); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	s := newSource(t, files.Options{Paths: []string{"sub", "..", "sub/", "."}})
	if diff := cmp.Diff([]string{dir, work, filepath.Join(work, "sub")}, s.AbsPaths()); diff != "" {
		t.Error(diff)
	}
}

func TestMissingTargets(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, filepath.Join(dir, "there"), "x")
	s := newSource(t, files.Options{Paths: []string{filepath.Join(dir, "there"), filepath.Join(dir, "gone", "x"), filepath.Join(dir, "there", "below")}})
	list, err := s.List(t.Context(), snapshotPath(dir))
	must(t, err)
	if len(list) != 2 || list[0].Name != "gone" || !errors.Is(list[0].Err, fs.ErrNotExist) || !strings.Contains(list[0].Err.Error(), filepath.Join("gone", "x")) {
		t.Errorf("listed %+v", list)
	}
	for _, bad := range [][]string{nil, {""}, {filepath.Join(dir, "no"), filepath.Join(dir, "nothing")}} {
		if _, err := files.New(files.Options{Paths: bad}); err == nil || kassett.HintOf(err) == "" {
			t.Errorf("targets %q: error %v", bad, err)
		}
	}
	for _, bad := range []files.Options{{Exclude: []string{"["}}, {ExcludeIfPresent: []string{":x"}}, {ExcludeIfPresent: []string{"a/b"}}} {
		bad.Paths = []string{dir}
		_, err := files.New(bad)
		errorIs(t, err, kassett.Invalid)
	}
}

// TestFolderAbove checks that a folder on the way to a target brings its own
// metadata, also when the way leads over a symbolic link.
func TestFolderAbove(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return // links need a privilege there
	}
	dir := tempDir(t)
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o751))
	write(t, filepath.Join(dir, "real", "f"), "x")
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	s := newSource(t, files.Options{Paths: []string{filepath.Join(dir, "link", "f"), filepath.Join(dir, "link2")}})
	at := snapshotPath(dir)
	list, err := s.List(t.Context(), at)
	must(t, err)
	if list[0].Name != "link" || list[0].Type != kassett.Dir || list[0].Mode.Perm() != 0o751 {
		t.Errorf("above the target: %+v", list[0])
	}
	must(t, s.Fill(t.Context(), at+"/link", &list[0]))
	list, err = s.List(t.Context(), at+"/link")
	must(t, err)
	if len(list) != 1 || list[0].Type != kassett.File {
		t.Errorf("through the link: %+v", list)
	}
}
