package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

// latest returns the youngest snapshot and the tree of a folder in it.
func latest(t *testing.T, r *repo.Repository, folder string) (*snapshot.Snapshot, kassett.ID) {
	t.Helper()
	sn, _, err := snapshot.Find(t.Context(), r, snapshot.Filter{}, "latest")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := snapshot.Folder(t.Context(), r, sn.Tree, folder)
	if err != nil {
		t.Fatal(err)
	}
	return sn, tree
}

// restoreTo restores a tree and fails the test when that fails.
func restoreTo(t *testing.T, r *repo.Repository, tree kassett.ID, dir string, o snapshot.RestoreOptions) snapshot.RestoreStats {
	t.Helper()
	stats, err := tryRestore(t.Context(), r, tree, dir, o)
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	return stats
}

func tryRestore(ctx context.Context, r *repo.Repository, tree kassett.ID, dir string, o snapshot.RestoreOptions) (snapshot.RestoreStats, error) {
	target, err := files.NewTarget(dir, files.TargetOptions{})
	if err != nil {
		return snapshot.RestoreStats{}, err
	}
	stats, err := snapshot.Restore(ctx, r, tree, target, o)
	return stats, errors.Join(err, target.Close())
}

// facts describes everything below a folder, one line an entry, so that two
// folders can be compared.
func facts(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		fact := fmt.Sprintf("%o %d:%d %d.%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			first, ok := inodes[st.Ino]
			if !ok {
				first = rel
				inodes[st.Ino] = rel
			}
			fact += fmt.Sprintf(" size %d links %d with %q %s", len(b), st.Nlink, first, kassett.Hash(b).Short())
		case syscall.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fact += " to " + to
		case syscall.S_IFBLK, syscall.S_IFCHR:
			fact += fmt.Sprintf(" device %d", st.Rdev)
		}
		all[rel] = fact + xattrs(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func xattrs(t *testing.T, path string) (s string) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return s
}

// wantSame compares two folders.
func wantSame(t *testing.T, got, want string) {
	t.Helper()
	g, w := facts(t, got), facts(t, want)
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if g[name] != w[name] {
			t.Errorf("%q:\n got %s\nwant %s", name, g[name], w[name])
		}
		delete(g, name)
	}
	for name := range g {
		t.Errorf("%q is there and should not be", name)
	}
}

// sampleTree makes a folder with one of everything.
func sampleTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	must(os.MkdirAll(in("a/b/c"), 0o750))
	must(os.MkdirAll(in("empty"), 0o700))
	must(os.WriteFile(in("a/one"), []byte("one"), 0o640))
	must(os.WriteFile(in("a/copy of one"), []byte("one"), 0o600))
	must(os.WriteFile(in("a/none"), nil, 0o600))
	must(os.WriteFile(in("a/b/bad \xff name\n"), []byte("latin"), 0o444))
	must(os.WriteFile(in("a/b/large"), pseudoRandom(5<<20, 1), 0o600))
	sparse := append(pseudoRandom(1<<20, 2), make([]byte, 6<<20)...)
	must(os.WriteFile(in("a/b/sparse"), append(sparse, "end"...), 0o600))
	must(os.WriteFile(in("a/b/zeros"), make([]byte, 3<<20), 0o600))
	must(os.Link(in("a/b/large"), in("a/b/c/second name")))
	must(os.Link(in("a/b/large"), in("z third name")))
	must(os.Symlink("../nowhere", in("a/link")))
	must(os.Symlink("b", in("a/link to folder")))
	must(syscall.Mkfifo(in("a/fifo"), 0o600))
	must(unix.Setxattr(in("a/one"), "user.note", []byte("x\x00y"), 0))
	must(os.Chmod(in("a/b/c"), 0o700|fs.ModeSetgid))
	must(os.Chtimes(in("a/one"), time.Time{}, time.Unix(1e9, 123456789)))
	must(os.Chtimes(in("a/b"), time.Time{}, time.Unix(1e9+1, 5)))
	must(os.Chtimes(in("a"), time.Time{}, time.Unix(1e9+2, 5)))
	return dir
}

func TestRestoreWhatResticWrote(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	_, dir := newRepo(t)
	restic(t, dir, "backup", src)
	r := reopen(t, dir)
	_, tree := latest(t, r, src)
	to := filepath.Join(t.TempDir(), "to")
	stats := restoreTo(t, r, tree, to, snapshot.RestoreOptions{Verify: true})
	wantSame(t, to, src)
	if want := uint64(7); stats.Files != want || stats.Verified != want {
		t.Errorf("restored %d files and verified %d, want %d", stats.Files, stats.Verified, want)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(to, "a/b/sparse"), &st); err != nil || st.Blocks*512 > 2<<20 {
		t.Errorf("a sparse file of 1 MiB data takes %d bytes (%v)", st.Blocks*512, err)
	}
}
