package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

// writerEnv makes the test binary a process that stores files until it is
// killed, in the folder that it names.
const writerEnv = "KASSETT_TEST_WRITER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		fmt.Fprintln(os.Stderr, writeForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func create(t *testing.T) *local.Storage {
	t.Helper()
	s, err := local.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s kassett.Storage, k kassett.FileKind, b []byte) kassett.Handle {
	t.Helper()
	h := kassett.Handle{Kind: k}
	if k != kassett.ConfigFile {
		h.ID = kassett.Hash(b)
	}
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestStorage(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) kassett.Storage { return create(t) })
}

// TestCreateAndOpen holds both to what they accept and refuse.
func TestCreateAndOpen(t *testing.T) {
	t.Parallel()
	file := func(names ...string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			for _, n := range names {
				p := filepath.Join(dir, n)
				if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, c := range []struct {
		name         string
		make         func(*testing.T, string)
		create, open kassett.Kind // Other: no error
	}{
		{"nothing there", func(t *testing.T, dir string) { _ = os.Remove(dir) }, kassett.Other, kassett.NotFound},
		{"empty folder", file(), kassett.Other, kassett.NotFound},
		{"fresh file system", func(t *testing.T, dir string) { _ = os.Mkdir(filepath.Join(dir, "lost+found"), 0o700) }, kassett.Other, kassett.NotFound},
		{"stopped in the middle of Create", func(t *testing.T, dir string) { _ = os.MkdirAll(filepath.Join(dir, "data", "00"), 0o700) }, kassett.Other, kassett.NotFound},
		{"a repository", file("config", "keys/x"), kassett.Exists, kassett.Other},
		{"config lost", file("keys/x"), kassett.Exists, kassett.Corrupt},
		{"config lost, snapshots left", file("snapshots/x"), kassett.Exists, kassett.NotFound},
		{"someone's folder", file("letter.txt"), kassett.Exists, kassett.NotFound},
		{"a file", func(t *testing.T, dir string) { _ = os.Remove(dir); file(filepath.Base(dir))(t, filepath.Dir(dir)) }, kassett.Exists, kassett.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "r")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.make(t, dir)
			_, err := local.Open(dir)
			wantKind(t, "Open", err, c.open)
			_, err = local.Create(dir)
			wantKind(t, "Create", err, c.create)
		})
	}
}

func wantKind(t *testing.T, what string, err error, k kassett.Kind) {
	t.Helper()
	switch {
	case k == kassett.Other && err != nil:
		t.Errorf("%s: %v", what, err)
	case k != kassett.Other && (kassett.KindOf(err) != k || kassett.HintOf(err) == ""):
		t.Errorf("%s = %v (kind %q, hint %q); want kind %q and a hint", what, err, kassett.KindOf(err), kassett.HintOf(err), k)
	}
}

// TestModes checks restic's rule of who may read what.
func TestModes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		return // permissions there are not of this kind
	}
	for config, want := range map[fs.FileMode]fs.FileMode{0o400: 0o400, 0o600: 0o400, 0o440: 0o440, 0o640: 0o440} {
		s := create(t)
		mode := func(path string) fs.FileMode {
			fi, err := os.Stat(filepath.Join(s.Path(), path))
			if err != nil {
				t.Fatal(err)
			}
			return fi.Mode().Perm()
		}
		put(t, s, kassett.ConfigFile, []byte("c"))
		if m := mode("config"); m != 0o400 {
			t.Errorf("a new config has mode %o", m)
		}
		if m := mode("data/a0"); m != 0o700 {
			t.Errorf("a new folder has mode %o", m)
		}
		if err := os.Chmod(filepath.Join(s.Path(), "config"), config); err != nil {
			t.Fatal(err)
		}
		s, err := local.Open(s.Path())
		if err != nil {
			t.Fatal(err)
		}
		h := put(t, s, kassett.IndexFile, []byte("i"))
		if m := mode("index/" + h.ID.String()); m != want {
			t.Errorf("config %o: a new file has mode %o, want %o", config, m, want)
		}
	}
}

// TestForeignFiles plants what people and other programs leave in a folder.
func TestForeignFiles(t *testing.T) {
	t.Parallel()
	s := create(t)
	put(t, s, kassett.ConfigFile, []byte("c"))
	h := put(t, s, kassett.PackFile, []byte("pack"))
	id := h.ID.String()
	other := kassett.Hash([]byte("other")).String()
	plant := []string{
		"data/" + other, // not in its folder
		"data/" + id[:2] + "/" + id + "-tmp-123",
		"data/" + id[:2] + "/.DS_Store",
		"data/" + id[:2] + "/" + strings.ToUpper(id),
		"data/" + id[:2] + "/" + id[:63],
		"data/" + flip(other[:2]) + "/" + other, // in another's
		"index/index.tmp", "snapshots/notes.txt", "Thumbs.db",
		"keys/" + other + "/deep",
		"kassett/a-tmp-77", "kassett/UPPER",
	}
	for _, p := range plant {
		p = filepath.Join(s.Path(), filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("foreign"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Path(), "locks", other), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, k := range []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.KeyFile, kassett.LockFile, kassett.SnapshotFile} {
		for in, err := range s.List(t.Context(), k) {
			if err != nil || in.Handle != h {
				t.Errorf("List(%s) gives %v, %v", k, in, err)
			}
		}
	}
	for in, err := range s.ListBeside(t.Context(), "") {
		t.Errorf("ListBeside gives %v, %v", in, err)
	}

	// Young leftovers stay, old ones go; nothing else does.
	if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("Sweep of young leftovers = %d, %v", n, err)
	}
	if n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 3 || err != nil {
		t.Errorf("Sweep = %d, %v; want the temporary pack, the one beside, and the empty lock", n, err)
	}
	for _, p := range plant {
		_, err := os.Stat(filepath.Join(s.Path(), filepath.FromSlash(p)))
		if gone := err != nil; gone != strings.Contains(p, "-tmp-") {
			t.Errorf("%s is gone: %v", p, gone)
		}
	}
}

func flip(hex string) string {
	if hex == "00" {
		return "01"
	}
	return "00"
}

// TestFolderGone: a folder of the layout that is missing holds nothing and is
// made again; a repository that is missing is an error, never an empty one.
func TestFolderGone(t *testing.T) {
	t.Parallel()
	s := create(t)
	put(t, s, kassett.ConfigFile, []byte("c"))
	for _, dir := range []string{"locks", "data"} {
		if err := os.RemoveAll(filepath.Join(s.Path(), dir)); err != nil {
			t.Fatal(err)
		}
	}
	for in, err := range s.List(t.Context(), kassett.LockFile) {
		t.Errorf("List gives %v, %v", in, err)
	}
	put(t, s, kassett.LockFile, []byte("lock"))
	put(t, s, kassett.PackFile, []byte("pack"))

	if err := os.Rename(s.Path(), s.Path()+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.Path(), 0o700); err != nil { // as an empty mount point
		t.Fatal(err)
	}
	var err error
	for _, e := range s.List(t.Context(), kassett.SnapshotFile) {
		err = e
	}
	wantKind(t, "List of a repository that is gone", err, kassett.NotFound)
	b := []byte("more")
	err = s.Put(t.Context(), kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}, kassett.BytesBody(b, kassett.Hash(b)))
	wantKind(t, "Put into a repository that is gone", err, kassett.NotFound)
	if left, _ := os.ReadDir(s.Path()); len(left) != 0 {
		t.Errorf("it wrote into the empty mount point: %v", left)
	}
}

// TestReadOnlyFiles: files without write permission are deleted all the same.
func TestDeleteReadOnly(t *testing.T) {
	t.Parallel()
	s := create(t)
	h := put(t, s, kassett.PackFile, []byte("pack"))
	if err := os.Chmod(filepath.Join(s.Path(), "data", h.ID.String()[:2], h.ID.String()), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), h); err != nil {
		t.Error(err)
	}
}

// TestKill kills a process that stores files, as hard as can be, again and
// again. What it reported as stored is there; what can be seen is whole.
func TestKill(t *testing.T) {
	t.Parallel()
	killRounds(t, 6)
}

// TestNightlyKill is TestKill two hundred times.
func TestNightlyKill(t *testing.T) {
	if os.Getenv("KASSETT_NIGHTLY") == "" {
		t.Skip("KASSETT_NIGHTLY is not set: TestKill does six rounds of it")
	}
	killRounds(t, 200)
}

func killRounds(t *testing.T, rounds int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := create(t)
	stored := map[string]bool{}
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), writerEnv+"="+s.Path())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n <= 3+round*5%17 && lines.Scan(); n++ {
			stored[lines.Text()] = true
		}
		time.Sleep(time.Duration(round*137%1000) * 10 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			stored[lines.Text()] = true
		}
		_ = cmd.Wait() // killed
		if errs.Len() > 0 {
			t.Fatalf("the writer failed: %s", errs.String())
		}
	}
	seen := 0
	for in, err := range s.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Get(t.Context(), in.Handle, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || kassett.Hash(b) != in.ID {
			t.Errorf("%s is visible and not whole: %d bytes, %v", in.Handle, len(b), err)
		}
		if stored[in.ID.String()] {
			seen++
		}
	}
	if seen != len(stored) || seen == 0 {
		t.Errorf("%d of %d files that were reported as stored are there", seen, len(stored))
	}
	if _, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(s.Path(), "data", "*", "*-tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("Sweep left %v, %v", left, err)
	}
}

// writeForever stores files and prints the name of each once it is stored.
func writeForever(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte("c"), 0o600); err != nil {
		return err
	}
	s, err := local.Open(dir)
	if err != nil {
		return err
	}
	for i := uint64(time.Now().UnixNano()); ; i++ {
		b := storagetest.Random(i, 200_000)
		h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
		body := kassett.Body{Size: int64(len(b)), Sum: h.ID, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil // not seen to be in memory: many writes
		}}
		if err := s.Put(context.Background(), h, body); err != nil {
			return err
		}
		fmt.Println(h.ID)
	}
}

// TestServed: who fills a folder for others knows when it received what, and so
// does everyone who opens it later; nobody else claims to.
func TestServed(t *testing.T) {
	t.Parallel()
	s := create(t)
	put(t, s, kassett.ConfigFile, []byte("config"))
	h := put(t, s, kassett.SnapshotFile, storagetest.Random(1, 100))
	at := time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC)
	if err := os.Chtimes(filepath.Join(s.Path(), "snapshots", h.ID.String()), at, at); err != nil {
		t.Fatal(err)
	}
	received := func(s kassett.Storage) (at [2]time.Time) {
		t.Helper()
		in, err := s.Stat(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		at[0] = in.Received
		for in, err := range s.List(t.Context(), kassett.SnapshotFile) {
			if err != nil {
				t.Fatal(err)
			}
			at[1] = in.Received
		}
		return at
	}
	if got := received(s); got != [2]time.Time{} {
		t.Errorf("a folder that anyone may write to tells when it received files: %v", got)
	}
	if err := errors.Join(s.MarkServed(t.Context()), s.MarkServed(t.Context())); err != nil {
		t.Fatal(err)
	}
	again, err := local.Open(s.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*local.Storage{s, again} {
		if got := received(s); !got[0].Equal(at) || !got[1].Equal(at) {
			t.Errorf("received at %v, want %v", got, at)
		}
	}
}
