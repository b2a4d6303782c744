//go:build linux

package main

import (
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == launchWord {
		os.Exit(launch(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// TestMeasure checks that a command's memory is its own and not ours, and that
// its failure is told with what it said.
func TestMeasure(t *testing.T) {
	t.Parallel()
	ours := bytes.Repeat([]byte{1}, 200<<20)
	s, err := measure(exec.CommandContext(t.Context(), "/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"))
	if err != nil || s.rss <= 0 || s.rss > 60<<20 || s.cpu() <= 0 || s.wall < s.cpu()/2 {
		t.Errorf("measure = %v, %v", s, err)
	}
	runtime.KeepAlive(ours)
	_, err = measure(exec.CommandContext(t.Context(), "/bin/sh", "-c", "echo no room left >&2; exit 6"))
	if err == nil || !strings.Contains(err.Error(), "no room left") || !strings.Contains(err.Error(), "status 6") {
		t.Errorf("a command that fails gives %v", err)
	}
}

// read returns the content of every file below dir, by its path.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		all[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCorpora checks that the data are the same wherever they are generated,
// that a change is of the size it should be, and that they compress as real
// data of their kind do.
func TestCorpora(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]struct {
		scale         float64
		files         int
		changed       [2]int     // files that a change touches or adds, from and to
		compressAbout [2]float64 // how many times smaller gzip makes it, from and to
	}{
		"docs": {0.002, 200, [2]int{2, 2}, [2]float64{2.5, 7}},
		"pacs": {0.001, 2, [2]int{1, 2}, [2]float64{1.05, 1.6}},
		"db":   {0.002, 18, [2]int{3, 18}, [2]float64{4, 9}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var made [2]map[string]string
			for i := range made {
				c := corpusAt(t.TempDir(), name, corpora[name], want.scale)
				if err := c.generate(); err != nil {
					t.Fatal(err)
				}
				before := read(t, c.dir)
				if len(before) != want.files {
					t.Errorf("%d files, want %d", len(before), want.files)
				}
				if f := factor(t, before); f < want.compressAbout[0] || f > want.compressAbout[1] {
					t.Errorf("it compresses %.1f times, want about %v", f, want.compressAbout)
				}
				if err := c.change(uint64(i + 1)); err != nil {
					t.Fatal(err)
				}
				after, touched := read(t, c.dir), 0
				for path, b := range after {
					if before[path] != b {
						touched++
					}
				}
				if touched < want.changed[0] || touched > want.changed[1] {
					t.Errorf("a change touches %d files, want %v", touched, want.changed)
				}
				made[i] = before
			}
			for path, b := range made[0] {
				if made[1][path] != b {
					t.Errorf("%s is another the second time", path)
				}
			}
		})
	}
}

func factor(t *testing.T, files map[string]string) float64 {
	t.Helper()
	plain, packed := 0, 0
	for _, b := range files {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write([]byte(b)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		plain, packed = plain+len(b), packed+out.Len()
	}
	return float64(plain) / float64(packed)
}

// TestCompareTrees breaks a restored tree in each way that must be noticed.
func TestCompareTrees(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_800_000_000, 123_456_789)
	build := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		for _, err := range []error{
			os.Mkdir(filepath.Join(dir, "d"), 0o750),
			os.WriteFile(filepath.Join(dir, "d", "f"), []byte(strings.Repeat("content", 100_000)), 0o640),
			os.Symlink("there", filepath.Join(dir, "l")),
			os.Chtimes(filepath.Join(dir, "d", "f"), at, at),
			os.Chtimes(filepath.Join(dir, "d"), at, at),
			os.Chtimes(dir, at, at),
			lutimes(filepath.Join(dir, "l"), at),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	for name, damage := range map[string]func(dir string) error{
		"": func(string) error { return nil },
		"a byte": func(dir string) error {
			b := []byte(strings.Repeat("content", 100_000))
			b[400_000]++
			if err := os.WriteFile(filepath.Join(dir, "d", "f"), b, 0); err != nil {
				return err
			}
			return os.Chtimes(filepath.Join(dir, "d", "f"), at, at)
		},
		"a length": func(dir string) error {
			if err := os.Truncate(filepath.Join(dir, "d", "f"), 699_999); err != nil {
				return err
			}
			return os.Chtimes(filepath.Join(dir, "d", "f"), at, at)
		},
		"a time": func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "d"), at, at.Add(time.Nanosecond))
		},
		"a mode": func(dir string) error { return os.Chmod(filepath.Join(dir, "d", "f"), 0o600) },
		"a file": func(dir string) error { return os.Remove(filepath.Join(dir, "d", "f")) },
		"one more": func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "more"), nil, 0o600); err != nil {
				return err
			}
			return os.Chtimes(dir, at, at)
		},
		"a link": func(dir string) error {
			l := filepath.Join(dir, "l")
			if err := os.Remove(l); err != nil {
				return err
			}
			if err := os.Symlink("other", l); err != nil {
				return err
			}
			if err := lutimes(l, at); err != nil {
				return err
			}
			return os.Chtimes(dir, at, at)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, got := build(t), build(t)
			if err := damage(got); err != nil {
				t.Fatal(err)
			}
			if err := compareTrees(want, got); (err == nil) != (name == "") {
				t.Errorf("compareTrees = %v", err)
			}
		})
	}
}

// lutimes sets the times of a symbolic link itself.
func lutimes(path string, at time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(at.UnixNano()), unix.NsecToTimespec(at.UnixNano())}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// TestTable checks medians and ratios.
func TestTable(t *testing.T) {
	t.Parallel()
	r := &report{tools: []*tool{{name: "kassett"}, {name: "restic"}, {name: "borg"}}}
	r.begin("docs", total{files: 3, bytes: 5 << 20})
	for tool, walls := range map[string][]int{"kassett": {9, 1, 2}, "restic": {4, 8, 1}, "borg": {7, 3}} {
		for _, w := range walls {
			r.add(sample{corpus: "docs", phase: restore, tool: tool, wall: time.Duration(w) * time.Second})
		}
	}
	for _, row := range r.rows("docs") {
		if row[0] == restore && row[1] == "wall s" {
			if got, want := strings.Join(row[2:], " "), "2.00 4.00 5.00 0.50 0.40 0.50"; got != want {
				t.Errorf("the row is %s, want %s", got, want)
			}
			return
		}
	}
	t.Error("no row of the restore")
}
