package repo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// copyTo copies blobs to one target.
func copyTo(ctx context.Context, src, dst *repo.Repository, set *repo.BlobSet) (repo.CopyStats, error) {
	to := &repo.CopyTarget{Repo: dst}
	_, err := repo.CopyBlobs(ctx, src, set, []*repo.CopyTarget{to}, repo.CopyOptions{Verify: true})
	return to.Stats, errors.Join(to.Err, err)
}

func TestCopyBlobs(t *testing.T) {
	t.Parallel()
	for _, version := range []uint{1, 2} {
		t.Run(fmt.Sprintf("to version %d", version), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			src, _ := storyRepo(t, few)
			mustBackUp(t, src, manyFiles(1, 50)...)
			used, err := readAll(ctx, src)
			if err != nil {
				t.Fatal(err)
			}
			dst, dir := newRepo(t, repo.InitOptions{Version: version})
			mustBackUp(t, dst, manyFiles(1, 10)...)
			stats, err := copyTo(ctx, src, dst, used)
			if err != nil || stats.Blobs != 41 || stats.Skipped != 10 {
				t.Fatalf("%+v, %v; want 41 blobs copied and 10 skipped", stats, err)
			}
			if err := copySnapshots(ctx, src, dst); err != nil {
				t.Fatal(err)
			}
			wantSound(t, reopen(t, dir, repo.Options{}))
			restic(t, dir, "check", "--read-data")
			again, err := copyTo(ctx, src, dst, used)
			if err != nil || again.Blobs != 0 || again.Skipped != 51 {
				t.Errorf("a second copy: %+v, %v", again, err)
			}
		})
	}
}

// What is damaged in the source does not get into the copy: the copy ends with
// an error that names it, unless another pack has it.
func TestCopyOfDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 50)...)
	used, err := readAll(ctx, src)
	if err != nil {
		t.Fatal(err)
	}
	h := dataPack(t, src)
	m.Damage(h, func(b []byte) []byte { b[100] ^= 1; return b })
	dst, _ := storyRepo(t, few)
	_, err = copyTo(ctx, src, dst, used)
	if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(fmt.Sprint(err), h.ID.String()) {
		t.Errorf("copy: %v, want damage in %s", err, h.ID)
	}
	second := storyOpen(t, m, few)
	mustBackUp(t, second, manyFiles(1, 50)...)
	if err := src.LoadIndex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := copyTo(ctx, src, dst, used); err != nil {
		t.Errorf("copy with a second place: %v", err)
	}
	if err := copySnapshots(ctx, src, dst); err != nil {
		t.Fatal(err)
	}
	wantSound(t, dst)
}

// The source is read pack by pack, once.
func TestCopyReadsPacksOnce(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 50)...)
	tracing := storagetest.NewTracing(m)
	src = storyOpen(t, tracing, few)
	if err := src.LoadIndex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	used := src.NewBlobSet()
	for l := range src.Blobs() {
		used.Add(l.BlobHandle)
	}
	dst, _ := storyRepo(t, few)
	tracing.Reset()
	if _, err := copyTo(ctx, src, dst, used); err != nil {
		t.Fatal(err)
	}
	reads := map[kassett.Handle]int{}
	for _, c := range tracing.Calls(storagetest.Get) {
		reads[c.Handle]++
	}
	if len(reads) != len(m.Handles(kassett.PackFile)) {
		t.Errorf("%d files read, there are %d packs", len(reads), len(m.Handles(kassett.PackFile)))
	}
	for h, n := range reads {
		if n != 1 {
			t.Errorf("%s was read %d times", h, n)
		}
	}
}
