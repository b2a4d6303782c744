package snapshot_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
	"kassett/storage/local"
)

const password = "for tests only"

// restic runs the peer on a repository and returns its output.
func restic(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "restic", append([]string{"-r", dir, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("restic %s: %v\n%s%s", strings.Join(args, " "), err, out, exit.Stderr)
		}
		t.Fatal(err)
	}
	return string(out)
}

// needRestic fails the test without the peer, or skips it when SHORT=1.
func needRestic(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("restic is not installed, and SHORT=1")
		}
		t.Fatal("restic is not installed: run make deps, or set SHORT=1")
	}
}

// emptyRepo is a repository that the peer made, file by file: once, since restic
// takes its time for a key.
var emptyRepo struct {
	once  sync.Once
	files map[string][]byte
}

// resticRepo makes a repository with the peer.
func resticRepo(t *testing.T) string {
	t.Helper()
	needRestic(t)
	emptyRepo.once.Do(func() {
		dir := filepath.Join(t.TempDir(), "first")
		restic(t, dir, "init")
		emptyRepo.files = map[string][]byte{}
		err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			emptyRepo.files[path], err = os.ReadFile(filepath.Join(dir, path))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	dir := filepath.Join(t.TempDir(), "repo")
	for _, folder := range []string{"data", "index", "keys", "locks", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range emptyRepo.files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openRepo opens a repository on disk and loads its index.
func openRepo(t *testing.T, dir string) *repo.Repository {
	t.Helper()
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, []byte(password), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return r
}

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
