package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

// saved backs a sample up and returns the tree of its folder.
func saved(t *testing.T) (r *repo.Repository, tree kassett.ID, src string) {
	t.Helper()
	src = sampleTree(t)
	must(t, os.Symlink(badTarget, filepath.Join(src, "link to odd name")))
	r, _ = newRepo(t)
	sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}})
	tree, err := snapshot.Folder(t.Context(), r, sn.Tree, src)
	must(t, err)
	return r, tree, src
}

func TestRestoreOverwrites(t *testing.T) {
	t.Parallel()
	r, tree, src := saved(t)
	flip := func(path string) {
		b, err := os.ReadFile(path)
		must(t, err)
		st, err := os.Stat(path)
		must(t, err)
		b[0] ^= 1
		must(t, os.WriteFile(path, b, 0o600))
		must(t, os.Chtimes(path, time.Time{}, st.ModTime()))
	}
	tests := []struct {
		rule      snapshot.Overwrite
		same      []string // afterwards as in the source
		different []string
	}{
		{snapshot.OverwriteAlways, []string{"a/one", "a/none", "a/b/large", "a/b/zeros"}, nil},
		{snapshot.OverwriteIfChanged, []string{"a/none", "a/b/zeros", "a/b/large"}, []string{"a/one"}},
		{snapshot.OverwriteIfNewer, []string{"a/none", "a/b/zeros"}, []string{"a/one", "a/b/large"}},
		{snapshot.OverwriteNever, []string{"a/b/zeros"}, []string{"a/one", "a/none", "a/b/large"}},
	}
	for _, tt := range tests {
		t.Run(tt.rule.String(), func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "to")
			restoreTo(t, r, tree, to, snapshot.RestoreOptions{})
			// One byte, but neither size nor time; an older file; a younger one; none.
			flip(filepath.Join(to, "a/one"))
			must(t, os.WriteFile(filepath.Join(to, "a/none"), []byte("old"), 0o600))
			must(t, os.Chtimes(filepath.Join(to, "a/none"), time.Time{}, time.Unix(1, 0)))
			must(t, os.WriteFile(filepath.Join(to, "a/b/large"), pseudoRandom(5<<20+3, 1), 0o600))
			must(t, os.Chtimes(filepath.Join(to, "a/b/large"), time.Time{}, time.Now().Add(time.Hour)))
			must(t, os.Remove(filepath.Join(to, "a/b/zeros")))
			restoreTo(t, r, tree, to, snapshot.RestoreOptions{Overwrite: tt.rule})
			for _, name := range slices.Concat(tt.same, tt.different) {
				got, err := os.ReadFile(filepath.Join(to, name))
				must(t, err)
				want, err := os.ReadFile(filepath.Join(src, name))
				must(t, err)
				if same := bytes.Equal(got, want); same != slices.Contains(tt.same, name) {
					t.Errorf("%s: the same content is %v", name, same)
				}
			}
			if tt.rule == snapshot.OverwriteAlways {
				wantSame(t, to, src)
			}
		})
	}
}

func TestRestoreAgainWritesNothing(t *testing.T) {
	t.Parallel()
	r, tree, src := saved(t)
	to := filepath.Join(t.TempDir(), "to")
	first := restoreTo(t, r, tree, to, snapshot.RestoreOptions{})
	again := restoreTo(t, r, tree, to, snapshot.RestoreOptions{})
	if again.Written != 0 || again.Files != 0 || again.Unchanged != first.Files {
		t.Errorf("first %+v\nagain %+v", first, again)
	}
	wantSame(t, to, src)
}

func TestRestoreDryRun(t *testing.T) {
	t.Parallel()
	r, tree, _ := saved(t)
	to := filepath.Join(t.TempDir(), "to")
	dry := restoreTo(t, r, tree, to, snapshot.RestoreOptions{DryRun: true, Delete: true})
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("a dry run made the target (%v)", err)
	}
	wet := restoreTo(t, r, tree, to, snapshot.RestoreOptions{})
	dry.Written = wet.Written
	if dry != wet {
		t.Errorf("dry %+v\nwet %+v", dry, wet)
	}
}

func TestRestoreSelects(t *testing.T) {
	t.Parallel()
	r, tree, _ := saved(t)
	to := filepath.Join(t.TempDir(), "to")
	restoreTo(t, r, tree, to, snapshot.RestoreOptions{Select: func(path string, _ *snapshot.Node) (bool, bool) {
		return path == "/a/b/large", strings.HasPrefix("/a/b/large", path)
	}})
	got := facts(t, to)
	if len(got) != 3 || got["a/b/large"] == "" {
		t.Errorf("restored %v", got)
	}
}

func TestRestoreDeletes(t *testing.T) {
	t.Parallel()
	r, tree, src := saved(t)
	to := filepath.Join(t.TempDir(), "to")
	restoreTo(t, r, tree, to, snapshot.RestoreOptions{})
	must(t, os.MkdirAll(filepath.Join(to, "a/too much/deep"), 0o700))
	must(t, os.WriteFile(filepath.Join(to, "a/too much/deep/file"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(to, "stays"), nil, 0o600))
	must(t, os.Remove(filepath.Join(to, "a/one")))
	must(t, os.MkdirAll(filepath.Join(to, "a/one/in the way"), 0o700))
	must(t, os.Remove(filepath.Join(to, "a/link")))
	must(t, os.MkdirAll(filepath.Join(to, "a/link/in the way"), 0o700))
	stats := restoreTo(t, r, tree, to, snapshot.RestoreOptions{Delete: true, Select: func(path string, _ *snapshot.Node) (bool, bool) {
		return path != "/stays", true
	}})
	if stats.Deleted != 1 {
		t.Errorf("deleted %d, want 1", stats.Deleted)
	}
	must(t, os.Remove(filepath.Join(to, "stays")))
	wantSame(t, to, src)
}

// cutTarget ends the restore after some writes, as a person or a full disk does.
type cutTarget struct {
	kassett.Target
	kassett.Readable
	left atomic.Int64
	cut  func() error
}

func (c *cutTarget) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.TargetFile, error) {
	f, err := c.Target.Open(ctx, path, e)
	return cutFile{f, c}, err
}

type cutFile struct {
	kassett.TargetFile
	c *cutTarget
}

func (f cutFile) WriteAt(b []byte, off int64) (int, error) {
	if f.c.left.Add(-1) < 0 {
		return 0, f.c.cut()
	}
	return f.TargetFile.WriteAt(b, off)
}

func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	r, tree, src := saved(t)
	for _, writes := range []int64{0, 1, 5, 9} {
		t.Run(fmt.Sprintf("after %d writes", writes), func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "to")
			under, err := files.NewTarget(to, files.TargetOptions{})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			target := &cutTarget{Target: under, Readable: under, cut: func() error { cancel(); return ctx.Err() }}
			target.left.Store(writes)
			first, err := snapshot.Restore(ctx, r, tree, target, snapshot.RestoreOptions{})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("cut restore: %v", err)
			}
			must(t, under.Close())
			wantNoHalfFiles(t, to, src)
			all := restoreTo(t, r, tree, filepath.Join(t.TempDir(), "other"), snapshot.RestoreOptions{})
			again := restoreTo(t, r, tree, to, snapshot.RestoreOptions{Verify: true})
			wantSame(t, to, src)
			const unfinished = 1 << 20 // blobs of which a part was written
			if first.Written+again.Written > all.Written+unfinished {
				t.Errorf("wrote %d before the cut and %d after, of %d", first.Written, again.Written, all.Written)
			}
		})
	}
}

// wantNoHalfFiles checks that what has its final name has its content.
func wantNoHalfFiles(t *testing.T, to, src string) {
	t.Helper()
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".kassett-part") {
			return err
		}
		rel, err := filepath.Rel(to, path)
		must(t, err)
		got, err := os.ReadFile(path)
		must(t, err)
		want, err := os.ReadFile(filepath.Join(src, rel))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s has its name, but not its content", rel)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestRestoreToFullDisk(t *testing.T) {
	t.Parallel()
	r, tree, _ := saved(t)
	under, err := files.NewTarget(filepath.Join(t.TempDir(), "to"), files.TargetOptions{})
	must(t, err)
	target := &cutTarget{Target: under, Readable: under, cut: func() error {
		return &kassett.Error{Op: "write", Kind: kassett.Full, Err: syscall.ENOSPC}
	}}
	target.left.Store(3)
	_, err = snapshot.Restore(t.Context(), r, tree, target, snapshot.RestoreOptions{})
	if kassett.KindOf(err) != kassett.Full || !strings.Contains(kassett.HintOf(err), "room") {
		t.Errorf("got %v, hint %q", err, kassett.HintOf(err))
	}
	must(t, under.Close())
}

// TestRestoreDamaged flips one byte in each data pack in turn.
func TestRestoreDamaged(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	r, dir := newRepo(t)
	sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}})
	n, err := snapshot.Locate(t.Context(), r, sn.Tree, filepath.Join(src, "a/b/large"))
	must(t, err)
	loc, ok := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: n.Content[1]})
	if !ok {
		t.Fatal("a blob is not in the index")
	}
	pack := filepath.Join(dir, "data", loc.Pack.String()[:2], loc.Pack.String())
	b, err := os.ReadFile(pack)
	must(t, err)
	b[loc.Offset+20] ^= 1
	must(t, os.Chmod(pack, 0o600))
	must(t, os.WriteFile(pack, b, 0o600))

	tree, err := snapshot.Folder(t.Context(), r, sn.Tree, src)
	must(t, err)
	to := filepath.Join(t.TempDir(), "to")
	var bad []string
	stats, err := tryRestore(t.Context(), r, tree, to, snapshot.RestoreOptions{Verify: true, Warn: func(path string, err error) {
		bad = append(bad, path)
	}})
	if kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("got %v, want a Corrupt error", err)
	}
	slices.Sort(bad)
	// The first name by path, and the two links to it.
	if want := []string{"/a/b/c/second name", "/a/b/large", "/z third name"}; !slices.Equal(bad, want) || stats.Problems != 3 {
		t.Errorf("named %q, want %q", bad, want)
	}
	wantNoHalfFiles(t, to, src)
	got, want := facts(t, to), facts(t, src)
	for _, name := range []string{"a/one", "a/b/sparse", "a/b/zeros", "a/fifo", "a/link"} {
		if got[name] != want[name] {
			t.Errorf("%s: got %s, want %s", name, got[name], want[name])
		}
	}
	for _, name := range []string{"a/b/large", "z third name"} {
		if got[name] != "" {
			t.Errorf("%s is there: %s", name, got[name])
		}
	}
}

func TestRestoreHostileTrees(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	evil := store(t, r, repo.DataBlob, []byte("evil"))
	inner := treeOf(t, r, fileNode("file", 4, evil))
	outside := t.TempDir()
	tests := []struct {
		name  string
		trees []kassett.ID // restored one after another
	}{
		{"name with slash", []kassett.ID{treeOf(t, r, fileNode("../escape", 4, evil))}},
		{"absolute name", []kassett.ID{treeOf(t, r, fileNode(outside+"/escape", 4, evil))}},
		{"dot dot", []kassett.ID{treeOf(t, r, dirNode("..", inner))}},
		{"dot", []kassett.ID{treeOf(t, r, fileNode(".", 4, evil))}},
		{"no name", []kassett.ID{treeOf(t, r, fileNode("", 4, evil))}},
		{"zero byte", []kassett.ID{treeOf(t, r, fileNode("a\x00b", 4, evil))}},
		{"link and folder of one name", []kassett.ID{treeOf(t, r, linkNode(outside), dirNode("x", inner))}},
		{"link first, folder then", []kassett.ID{treeOf(t, r, linkNode(outside)), treeOf(t, r, dirNode("x", inner))}},
		{"link first, file then", []kassett.ID{treeOf(t, r, linkNode(outside+"/file")), treeOf(t, r, fileNode("x", 4, evil))}},
		{"link above", []kassett.ID{treeOf(t, r, linkNode("..")), treeOf(t, r, dirNode("x", inner))}},
		{"content that is not there", []kassett.ID{treeOf(t, r, fileNode("x", 4, kassett.Hash([]byte("no"))))}},
		{"folder that is not there", []kassett.ID{treeOf(t, r, dirNode("x", kassett.Hash([]byte("no"))))}},
		{"folder without tree", []kassett.ID{treeOf(t, r, dirNode("x", kassett.ID{}))}},
		{"unknown type", []kassett.ID{treeOf(t, r, &snapshot.Node{Entry: kassett.Entry{Name: "x", Type: "irregular"}})}},
		{"not a tree", []kassett.ID{store(t, r, repo.TreeBlob, []byte("{\"nodes\":[{]}"))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			above := t.TempDir()
			var err error
			named := 0
			for _, tree := range tt.trees {
				_, err = tryRestore(t.Context(), r, tree, filepath.Join(above, "to"), snapshot.RestoreOptions{
					Warn: func(string, error) { named++ },
				})
			}
			if len(tt.trees) == 1 && (err == nil || named == 0) {
				t.Errorf("nothing was named (%v)", err)
			}
			if len(tt.trees) > 1 && err != nil {
				t.Errorf("the second restore: %v", err)
			}
			for _, dir := range []string{outside, above} {
				for name := range facts(t, dir) {
					if dir == outside || name != "to" && !strings.HasPrefix(name, "to/") {
						t.Errorf("%s is outside the target", name)
					}
				}
			}
		})
	}
}

// TestRestoreLargeClaims restores a folder of 100,000 entries and a file that
// claims a thousand times what is stored.
func TestRestoreLargeClaims(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	zeros := store(t, r, repo.DataBlob, make([]byte, 4<<20))
	many := make([]kassett.ID, 1000)
	for i := range many {
		many[i] = zeros
	}
	to := t.TempDir()
	restoreTo(t, r, treeOf(t, r, fileNode("bomb", 4000<<20, many...)), to, snapshot.RestoreOptions{})
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(to, "bomb"), &st))
	if st.Size != 4000<<20 || st.Blocks > 64 {
		t.Errorf("a file of %d bytes takes %d blocks", st.Size, st.Blocks)
	}
	entries := make([]*snapshot.Node, 100_000)
	for i := range entries {
		entries[i] = fileNode(fmt.Sprintf("%08d", i), 0)
	}
	stats := restoreTo(t, r, treeOf(t, r, entries...), t.TempDir(), snapshot.RestoreOptions{DryRun: true})
	if stats.Files != 100_000 {
		t.Errorf("%d files", stats.Files)
	}
}

// TestRestoreLinksToItsOwn: a name that the rule leaves alone may hold anything,
// so no other name becomes a link to it.
func TestRestoreLinksToItsOwn(t *testing.T) {
	t.Parallel()
	r, tree, src := saved(t)
	to := filepath.Join(t.TempDir(), "to")
	must(t, os.MkdirAll(filepath.Join(to, "a/b/c"), 0o700))
	must(t, os.WriteFile(filepath.Join(to, "a/b/c/second name"), []byte("mine"), 0o600))
	restoreTo(t, r, tree, to, snapshot.RestoreOptions{Overwrite: snapshot.OverwriteNever})
	want, err := os.ReadFile(filepath.Join(src, "a/b/large"))
	must(t, err)
	for _, name := range []string{"a/b/large", "z third name"} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(to, "a/b/c/second name")); err != nil || string(got) != "mine" {
		t.Errorf("what was there: %q, %v", got, err)
	}
}
