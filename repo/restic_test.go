package repo_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
)

// TestOursReadsRestics lets stock restic write in every way it has, and reads
// every blob: the index agrees with the packs, and each blob with its ID.
func TestOursReadsRestics(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	for i, b := range contents(11, 60) {
		if err := os.WriteFile(filepath.Join(src, string(rune('a'+i%26))+strings.Repeat("x", i/26)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name         string
		init, backup []string
	}{
		{"version 1", []string{"--repository-version", "1"}, nil},
		{"version 2", nil, nil},
		{"not compressed", nil, []string{"--compression", "off"}},
		{"compressed most", nil, []string{"--compression", "max"}},
		{"small packs", nil, []string{"--pack-size", "4"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "repo")
			restic(t, dir, append([]string{"init"}, c.init...)...)
			restic(t, dir, append([]string{"backup", src}, c.backup...)...)
			r := reopen(t, dir, repo.Options{})
			n := mustBeWhole(t, r)
			listed := strings.Fields(strings.TrimSpace(restic(t, dir, "list", "blobs")))
			var ours []string
			for l := range r.Blobs() {
				ours = append(ours, l.ID.String())
			}
			theirs := slices.DeleteFunc(listed, func(s string) bool { return s == "data" || s == "tree" })
			slices.Sort(theirs)
			if !slices.Equal(ours, theirs) || n != len(ours) {
				t.Errorf("%d blobs in the table, %d in packs, restic lists %d", len(ours), n, len(theirs))
			}
		})
	}
}

// TestByTurns lets stock restic and us write into one repository by turns.
func TestByTurns(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "repo")
	restic(t, dir, "init")
	src := t.TempDir()
	cache := t.TempDir()
	for i := range 2 {
		all := contents(uint64(20+i), 20)
		whole := slices.Concat(all...)[:100_000] // shorter than any chunk of a longer file
		if err := os.WriteFile(filepath.Join(src, "file"), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		restic(t, dir, "backup", src)
		r := reopen(t, dir, repo.Options{CacheDir: cache})
		if !r.Has(repo.BlobHandle{ID: kassett.Hash(whole)}) {
			t.Error("what restic has just written is unknown")
		}
		saveAll(t, r, repo.DataBlob, all)
		mustBeWhole(t, r)
	}
	restic(t, dir, "check", "--read-data")
	// restic rewrites the index and removes our packs, which no snapshot uses.
	restic(t, dir, "prune", "--max-unused", "0")
	r := reopen(t, dir, repo.Options{CacheDir: cache})
	if r.Has(repo.BlobHandle{ID: kassett.Hash(contents(21, 20)[3])}) {
		t.Error("what restic has pruned is still known")
	}
	mustBeWhole(t, r)
	if _, err := r.LoadBlob(context.Background(), repo.BlobHandle{ID: kassett.Hash([]byte("never"))}, nil); kassett.KindOf(err) != kassett.NotFound {
		t.Error(err)
	}
}
