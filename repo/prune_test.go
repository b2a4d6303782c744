package repo_test

import (
	"context"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
)

// Every second file of a first snapshot goes; prune takes it out of the packs,
// and stock restic agrees about the rest.
func TestPrune(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, dir := newRepo(t, repo.InitOptions{Options: repo.Options{PackSize: 64 << 10}})
	files := manyFiles(1, 200)
	first := mustBackUp(t, r, files...)
	var half [][]byte
	for i := 0; i < len(files); i += 2 {
		half = append(half, files[i])
	}
	mustBackUp(t, r, half...)
	mustForget(t, r, first)

	zero, err := repo.ParseUnused("0%")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := prune(ctx, r, repo.PruneOptions{MaxUnused: zero, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	before := restic(t, dir, "list", "packs", "--no-lock")
	stats, err := prune(ctx, r, repo.PruneOptions{MaxUnused: zero})
	if err != nil {
		t.Fatal(err)
	}
	if plan != stats {
		t.Errorf("the dry run said %+v, the real one %+v", plan, stats)
	}
	if stats.Blobs.Used != 101 || stats.Blobs.Unused != 101 || stats.Blobs.Remaining != 101 || stats.Bytes.RemainingUnused != 0 {
		t.Errorf("figures: %+v", stats)
	}
	if found := wantSound(t, r); len(found) > 0 {
		t.Errorf("after prune, check says %v", found)
	}
	if after := restic(t, dir, "list", "packs", "--no-lock"); after == before {
		t.Error("no pack has changed")
	}
	restic(t, dir, "check", "--read-data")
	if out := restic(t, dir, "prune", "--max-unused", "0"); !strings.Contains(out, "to delete:             0 blobs") {
		t.Errorf("restic finds something to prune:\n%s", out)
	}
	again, err := prune(ctx, reopen(t, dir, repo.Options{}), repo.PruneOptions{MaxUnused: zero})
	if err != nil || again.Packs.RemoveTotal+again.Packs.Repack > 0 {
		t.Errorf("a second prune does %+v, %v", again, err)
	}
}

// After stock restic has pruned, our table notices.
func TestPruneByRestic(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{Options: repo.Options{CacheDir: t.TempDir()}})
	first := mustBackUp(t, r, manyFiles(1, 50)...)
	mustBackUp(t, r, manyFiles(31, 50)...)
	restic(t, dir, "forget", "--prune", "--max-unused", "0", first.String())
	if found := wantSound(t, r); len(found) > 0 {
		t.Errorf("check says %v", found)
	}
	if r.Has(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(manyFiles(1, 1)[0])}) {
		t.Error("a blob that was pruned is still known")
	}
}
