package snapshot_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// A prune on storage that retains files removes what it may, puts off the rest,
// and stays right: after every prune all snapshots are whole, check finds
// nothing, and in the end nothing is left over.
func TestPruneOfRetained(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 9))
			p, src := newLockedPlace(t), wards()
			var kept []*snapshot.Snapshot
			putOff := 0
			for night := range 60 {
				p.wait(oneDay)
				for range random.IntN(12) {
					path := fmt.Sprintf("ward%d/file%d", random.IntN(6), random.IntN(60))
					src.add(path, storagetest.Random(random.Uint64(), 8000))
					src.touch(path)
				}
				kept = append(kept, p.backUp(src, snapshot.BackupOptions{Time: p.clock()}))
				if night%5 == 4 {
					kept = forgetOldest(t, p, kept)
					putOff += p.prune().Held.Packs
					p.whole(kept)
				}
			}
			if putOff == 0 {
				t.Error("no pack was ever put off: the test proves nothing")
			}
			// The backups end, and so do the locks.
			for range 4 {
				p.wait(month.Span() + oneDay)
				kept = forgetOldest(t, p, kept)
				p.prune()
				p.whole(kept)
			}
			stats := p.prune()
			if stats.Held.Packs != 0 || stats.Packs.Unreferenced != 0 || stats.Packs.Remove != 0 {
				t.Errorf("after all locks have ended a prune still finds %+v", stats.Packs)
			}
			if n := len(p.st.Handles(kassett.IndexFile)); n > 5 {
				t.Errorf("%d index files are left", n)
			}
			for in, err := range p.st.ListBeside(t.Context(), "superseded") {
				t.Errorf("%s is left, %v", in.Name, err)
			}
		})
	}
}

// forgetOldest removes the snapshots that the storage lets go, but for three.
func forgetOldest(t *testing.T, p *lockedPlace, all []*snapshot.Snapshot) (kept []*snapshot.Snapshot) {
	t.Helper()
	p.with(func(r *repo.Repository) {
		for i, sn := range all {
			if i < len(all)-3 {
				err := r.Delete(t.Context(), kassett.SnapshotFile, sn.ID)
				if err == nil {
					continue
				}
				if kassett.KindOf(err) != kassett.Held {
					t.Fatal(err)
				}
			}
			kept = append(kept, sn)
		}
	})
	return kept
}

func (p *lockedPlace) prune() (stats repo.PruneStats) {
	p.t.Helper()
	p.with(func(r *repo.Repository) {
		list, err := snapshot.List(p.t.Context(), r, snapshot.Filter{})
		must(p.t, err)
		var trees []kassett.ID
		for _, sn := range list {
			trees = append(trees, sn.Tree)
		}
		used, err := snapshot.Used(p.t.Context(), r, trees, nil)
		must(p.t, err)
		stats, err = r.Prune(p.t.Context(), used, repo.PruneOptions{})
		must(p.t, err)
	})
	return stats
}

// whole checks that all snapshots can be read, and that check agrees.
func (p *lockedPlace) whole(kept []*snapshot.Snapshot) {
	p.t.Helper()
	p.with(func(r *repo.Repository) {
		list, err := snapshot.List(p.t.Context(), r, snapshot.Filter{})
		must(p.t, err)
		if len(list) != len(kept) {
			p.t.Errorf("%d snapshots are there, want %d", len(list), len(kept))
		}
		there := map[kassett.ID]bool{}
		for _, h := range p.st.Handles(kassett.PackFile) {
			there[h.ID] = true
		}
		for _, sn := range list {
			used, err := snapshot.Used(p.t.Context(), r, []kassett.ID{sn.Tree}, nil)
			must(p.t, err)
			found := r.NewBlobSet()
			for l := range r.Blobs() {
				if used.Has(l.BlobHandle) && there[l.Pack] {
					found.Add(l.BlobHandle)
				}
				if !there[l.Pack] {
					p.t.Errorf("the index names pack %s, which is gone", l.Pack.Short())
				}
			}
			if found.Len() != used.Len() {
				p.t.Errorf("%d blobs of snapshot %s are lost", used.Len()-found.Len(), sn.ID.Short())
			}
		}
		err = r.Check(p.t.Context(), repo.CheckOptions{}, func(f repo.Finding) {
			if f.Kind == repo.Damage {
				p.t.Errorf("check: %+v", f)
			}
		})
		must(p.t, err)
	})
}
