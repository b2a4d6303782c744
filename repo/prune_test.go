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

// After a migration from version 1, trees are compressed by the next prune, and
// data when it is asked for.
func TestPruneCompresses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, dir := newRepo(t, repo.InitOptions{Version: 1})
	var files [][]byte
	for i := range 20 {
		files = append(files, []byte(strings.Repeat(string(rune('a'+i))+" patient record ", 1000)))
	}
	mustBackUp(t, r, files...)
	if _, err := prune(ctx, r, repo.PruneOptions{RepackUncompressed: true}); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("compressing version 1: %v, want an error of kind invalid", err)
	}
	if err := r.Migrate(ctx, repo.UpgradeV2); err != nil {
		t.Fatal(err)
	}
	raw := func() (trees, data int) {
		for l := range r.Blobs() {
			if l.Plain == 0 && l.Type == repo.TreeBlob {
				trees++
			} else if l.Plain == 0 {
				data++
			}
		}
		return trees, data
	}
	if _, err := prune(ctx, r, repo.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	if trees, data := raw(); trees != 0 || data != 20 {
		t.Errorf("after prune %d trees and %d data blobs are uncompressed, want 0 and 20", trees, data)
	}
	stats, err := prune(ctx, r, repo.PruneOptions{RepackUncompressed: true})
	if err != nil || stats.Packs.Repack == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if trees, data := raw(); trees != 0 || data != 0 {
		t.Errorf("%d trees and %d data blobs are uncompressed still", trees, data)
	}
	wantSound(t, r)
	restic(t, dir, "check", "--read-data")
}

// A prune that may not rewrite anything still removes what is wholly unused.
func TestPruneLimits(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, _ := storyRepo(t, few)
	gone := mustBackUp(t, r, manyFiles(1, 60)...)
	mustBackUp(t, r, manyFiles(1, 6)...)
	mustForget(t, r, gone)
	stats, err := prune(ctx, r, repo.PruneOptions{MaxRepackSize: -1})
	if err != nil || stats.Packs.Repack != 0 || stats.Packs.Remove == 0 || stats.Packs.PartlyUsed == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	wantSound(t, r)
	if _, err := prune(ctx, r, repo.PruneOptions{RepackSmall: 1 << 40}); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("packs below 1 TiB: %v, want an error of kind invalid", err)
	}
	if _, err := prune(ctx, r, repo.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := prune(canceled, r, repo.PruneOptions{}); kassett.KindOf(err) != kassett.Interrupted {
		t.Errorf("a canceled prune: %v", err)
	}
}
