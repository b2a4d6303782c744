package snapshot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

// clinic makes a folder with one of everything that a tree can describe.
func clinic(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "clinic")
	rnd := rand.NewChaCha8([32]byte{7})
	file := func(name string, b []byte) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	random := func(n int) []byte {
		b := make([]byte, n)
		_, _ = rnd.Read(b)
		return b
	}
	for i := range 40 {
		file(fmt.Sprintf("notes/2026-%02d/note %d.txt", i%12, i), random(i*997))
	}
	file("empty", nil)
	file("names/a \"quoted\" <b>&\\\t\n.txt", []byte("x"))
	file("names/\xff\xfe not text", []byte("y"))
	file("names/Łódź 北京 Ærø \u2028", []byte("z"))
	file("images/least", random(512<<10))
	file("images/least+1", random(512<<10+1))
	file("images/scan", random(9<<20))
	file("images/zeros", make([]byte, 3<<20+17))
	file("images/mixed", append(append(random(700<<10), make([]byte, 4<<20)...), random(1<<20)...))
	if f, err := os.Create(filepath.Join(dir, "images/sparse")); err != nil {
		t.Fatal(err)
	} else {
		_, err1 := f.WriteAt([]byte("begin"), 3<<20)
		err2 := f.Truncate(20<<20 + 5)
		if err := errors.Join(err1, err2, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.Mkdir(filepath.Join(dir, "nobody here"), 0o2770))
	must(t, os.Link(filepath.Join(dir, "empty"), filepath.Join(dir, "also empty")))
	must(t, os.Symlink("/etc/../etc/<motd>", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, unix.Setxattr(filepath.Join(dir, "empty"), "user.note", []byte("a\x00b"), 0))
	must(t, os.Chtimes(filepath.Join(dir, "images/scan"), time.Time{}, time.Date(1969, 7, 20, 20, 17, 40, 5000, time.UTC)))
	return dir
}

func fileSource(t testing.TB, dir string) *files.Source {
	t.Helper()
	s, err := files.New(files.Options{Paths: []string{dir}})
	must(t, err)
	return s
}

// youngest returns the youngest snapshot, as another process sees it.
func youngest(t testing.TB, dir string) (*repo.Repository, *snapshot.Snapshot) {
	t.Helper()
	r := reopen(t, dir)
	sn, _, err := snapshot.Find(t.Context(), r, snapshot.Filter{}, "latest")
	must(t, err)
	return r, sn
}

func TestTreesAreThoseOfRestic(t *testing.T) {
	t.Parallel()
	dir := clinic(t)
	_, store := newRepo(t)
	restic(t, store, "backup", dir)
	r, theirs := youngest(t, store)
	// A second full backup by us, into the same repository.
	ours := backUp(t, r, fileSource(t, dir), snapshot.BackupOptions{Level: snapshot.Full})
	if ours.Summary.DataBlobs != 0 {
		t.Errorf("%d data blobs are not those of restic", ours.Summary.DataBlobs)
	}
	want, got := nodes(t, r, theirs.Tree), nodes(t, r, ours.Tree)
	if len(want) != len(got) {
		t.Errorf("%d nodes, restic has %d", len(got), len(want))
	}
	// A restic from 0.17 on, asked by its feature flag, makes the same bytes of
	// folders without links and pipes.
	at := strings.TrimPrefix(dir, "/")
	for _, name := range []string{"/images", "/names", "/notes"} {
		if want[at+"/images/scan"].DeviceID == 0 && want[at+name].Subtree != got[at+name].Subtree {
			t.Errorf("tree of %s is %s, restic's is %s", name, got[at+name].Subtree, want[at+name].Subtree)
		}
	}
	for path, w := range want {
		if !strings.HasPrefix("/"+path+"/", dir+"/") {
			continue // a folder above, where others may write meanwhile
		}
		g := got[path]
		if g == nil {
			t.Errorf("%s is missing", path)
			continue
		}
		// Without that flag restic notes the device of every node, we that of
		// hard links only. The trees below differ by the same.
		g.DeviceID, w.DeviceID = 0, 0
		g.Subtree, w.Subtree = kassett.ID{}, kassett.ID{}
		wantJSON, err := w.AppendJSON(nil)
		must(t, err)
		gotJSON, err := g.AppendJSON(nil)
		must(t, err)
		if !bytes.Equal(gotJSON, wantJSON) {
			t.Errorf("%s:\n got %s\nwant %s", path, gotJSON, wantJSON)
		}
	}
	restic(t, store, "check", "--read-data")
}

// TestResticsTreesEncodeAgain proves the codec on the bytes that restic made.
func TestResticsTreesEncodeAgain(t *testing.T) {
	t.Parallel()
	_, store := newRepo(t)
	restic(t, store, "backup", clinic(t))
	r, sn := youngest(t, store)
	trees := []kassett.ID{sn.Tree}
	for _, n := range nodes(t, r, sn.Tree) {
		if n.Type == kassett.Dir {
			trees = append(trees, n.Subtree)
		}
	}
	for _, id := range trees {
		tree, err := snapshot.LoadTree(t.Context(), r, id)
		must(t, err)
		b, err := tree.Encode()
		must(t, err)
		if kassett.Hash(b) != id {
			t.Errorf("tree %s encodes to other bytes:\n%s", id.Short(), b)
		}
	}
	if len(trees) < 10 {
		t.Errorf("only %d trees were looked at", len(trees))
	}
}

func TestResticRestoresWhatWeWrote(t *testing.T) {
	t.Parallel()
	dir := clinic(t)
	r, store := newRepo(t)
	sn := backUp(t, r, fileSource(t, dir), snapshot.BackupOptions{
		Host: "ward7", User: "nurse", Paths: []string{dir}, Tags: []string{"a", "b"}, Version: "kassett test",
	})
	restic(t, store, "check", "--read-data")
	target := t.TempDir()
	restic(t, store, "restore", sn.ID.String(), "--target", target)
	again := backUp(t, r, fileSource(t, filepath.Join(target, dir)), snapshot.BackupOptions{DryRun: true, Level: snapshot.Full})
	if again.Summary.DataBlobs != 0 || again.Summary.TotalFilesProcessed != sn.Summary.TotalFilesProcessed {
		t.Errorf("restored %+v\nfrom %+v", again.Summary, sn.Summary)
	}
	var listed []struct {
		Hostname, Username string
		Paths, Tags        []string
		Tree               string
	}
	must(t, json.Unmarshal([]byte(restic(t, store, "snapshots", "--json")), &listed))
	if len(listed) != 1 || listed[0].Tree != sn.Tree.String() || listed[0].Hostname != "ward7" || listed[0].Username != "nurse" ||
		strings.Join(listed[0].Tags, ",") != "a,b" || strings.Join(listed[0].Paths, ",") != dir {
		t.Errorf("restic lists %+v", listed)
	}
	list := restic(t, store, "ls", sn.ID.String())
	for _, name := range []string{"/images/scan", "/nobody here", "/link", "/pipe"} {
		if !strings.Contains(list, dir+name+"\n") {
			t.Errorf("restic does not list %s", name)
		}
	}
}

// TestEachGoesOnFromTheOther: neither reads a file again that the other saved.
func TestEachGoesOnFromTheOther(t *testing.T) {
	t.Parallel()
	dir := clinic(t)
	_, store := newRepo(t)
	restic(t, store, "backup", "--host", "ward7", dir)

	r, theirs := youngest(t, store)
	src := &countingSource{Source: fileSource(t, dir)}
	sn := backUp(t, r, src, snapshot.BackupOptions{Host: "ward7", Paths: []string{dir}})
	if sn.Parent == nil || *sn.Parent != theirs.ID {
		t.Fatalf("parent is %v, want %s", sn.Parent, theirs.ID)
	}
	if src.opened.Load() != 0 || sn.Summary.FilesUnmodified != theirsFiles(t, r, theirs) {
		t.Errorf("opened %d files: %+v", src.opened.Load(), sn.Summary)
	}

	must(t, os.WriteFile(filepath.Join(dir, "notes/new"), []byte("new"), 0o600))
	out := restic(t, store, "backup", "--json", "--host", "ward7", dir)
	var summary struct {
		FilesNew        int `json:"files_new"`
		FilesChanged    int `json:"files_changed"`
		FilesUnmodified int `json:"files_unmodified"`
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &summary))
	if summary.FilesNew != 1 || summary.FilesChanged != 0 || summary.FilesUnmodified != int(sn.Summary.TotalFilesProcessed) {
		t.Errorf("restic went on with %+v after %+v", summary, sn.Summary)
	}
	restic(t, store, "check", "--read-data")
}

func theirsFiles(t testing.TB, r *repo.Repository, sn *snapshot.Snapshot) (n uint64) {
	for _, node := range nodes(t, r, sn.Tree) {
		if node.Type == kassett.File {
			n++
		}
	}
	return n
}
