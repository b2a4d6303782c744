package repo_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

// storyRepo makes a repository in memory.
func storyRepo(t testing.TB, o repo.Options) (*repo.Repository, *storagetest.Memory) {
	t.Helper()
	m := storagetest.NewMemory()
	o.KeyCost = quick
	r, err := repo.Init(context.Background(), m, []byte(password), repo.InitOptions{Options: o})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, r)
	return r, m
}

// storyOpen opens a repository on a storage without loading its index.
func storyOpen(t testing.TB, st kassett.Storage, o repo.Options) *repo.Repository {
	t.Helper()
	r, err := repo.Open(context.Background(), st, []byte(password), o)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, r)
	return r
}

func closeLater(t testing.TB, r *repo.Repository) {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// onDisk writes what is in memory to a folder, for stock restic.
func onDisk(t testing.TB, m *storagetest.Memory) string {
	t.Helper()
	dir := t.TempDir() + "/repo"
	st, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []kassett.FileKind{kassett.ConfigFile, kassett.KeyFile, kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile} {
		for _, h := range m.Handles(k) {
			b := m.Bytes(h)
			if err := st.Put(context.Background(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func remove(t testing.TB, st kassett.Storage, h kassett.Handle) {
	t.Helper()
	if err := st.Delete(context.Background(), h); err != nil {
		t.Fatal(err)
	}
}

// Whatever happens to the index, it is made again from the packs.
func TestRepairIndex(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, m *storagetest.Memory){
		"all gone": func(t *testing.T, m *storagetest.Memory) {
			for _, h := range m.Handles(kassett.IndexFile) {
				remove(t, m, h)
			}
		},
		"one gone": func(t *testing.T, m *storagetest.Memory) { remove(t, m, m.Handles(kassett.IndexFile)[0]) },
		"one flipped": func(t *testing.T, m *storagetest.Memory) {
			m.Damage(m.Handles(kassett.IndexFile)[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		},
		"one empty": func(t *testing.T, m *storagetest.Memory) {
			m.Damage(m.Handles(kassett.IndexFile)[0], func([]byte) []byte { return []byte{} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			r, m := storyRepo(t, repo.Options{PackSize: 32 << 10})
			mustBackUp(t, r, manyFiles(1, 50)...)
			mustBackUp(t, r, manyFiles(30, 50)...)
			damage(t, m)
			r = storyOpen(t, m, repo.Options{})
			stats, err := r.RepairIndex(ctx, repo.RepairOptions{}, func(repo.Finding) {})
			if err != nil || stats.PacksAdded == 0 {
				t.Fatalf("%+v, %v", stats, err)
			}
			if found := wantSound(t, r); len(found) > 0 {
				t.Errorf("check says %v", found)
			}
			restic(t, onDisk(t, m), "check", "--read-data")
			again, err := r.RepairIndex(ctx, repo.RepairOptions{ReadAllPacks: true}, func(f repo.Finding) { t.Error(f) })
			if err != nil || again.IndexFiles != 0 {
				t.Errorf("a second repair does %+v, %v", again, err)
			}
		})
	}
}

// A pack that is gone leaves the index; one with a damaged header stays in it.
func TestRepairIndexOfDamagedPacks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, m := storyRepo(t, repo.Options{PackSize: 32 << 10})
	mustBackUp(t, r, manyFiles(1, 80)...)
	packs := m.Handles(kassett.PackFile)
	gone, headless := packs[0], packs[1]
	remove(t, m, gone)
	m.Damage(headless, func(b []byte) []byte { b[len(b)-10] ^= 1; return b })

	var named []string
	_, err := r.RepairIndex(ctx, repo.RepairOptions{ReadAllPacks: true}, func(f repo.Finding) { named = append(named, f.What) })
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []kassett.Handle{gone, headless} {
		if !strings.Contains(fmt.Sprint(named), h.ID.String()) {
			t.Errorf("pack %s is not named in %v", h.ID, named)
		}
	}
	left := false
	for l := range r.Blobs() {
		left = left || l.Pack == headless.ID
		if l.Pack == gone.ID {
			t.Fatalf("the index still names %s", gone.ID)
		}
	}
	if !left {
		t.Error("the blobs of the pack without header are not in the index any more")
	}
}

// What can be read of a damaged pack is moved, what cannot is named, and the
// damaged bytes are kept.
func TestRepairPacks(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		damage func([]byte) []byte
		lost   int // blobs; -1 = some
	}{
		"flipped header":  {func(b []byte) []byte { b[len(b)-10] ^= 1; return b }, 0},
		"flipped length":  {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, 0},
		"longer":          {func(b []byte) []byte { return append(b, 1, 2, 3) }, 0},
		"header cut":      {func(b []byte) []byte { return b[:len(b)-40] }, 0},
		"flipped blob":    {func(b []byte) []byte { b[20] ^= 1; return b }, 1},
		"half of it":      {func(b []byte) []byte { return b[:len(b)/2] }, -1},
		"a byte too few":  {func(b []byte) []byte { return append(b[:100:100], b[101:]...) }, -1},
		"nothing":         {func([]byte) []byte { return []byte{} }, -1},
		"zeros in middle": {func(b []byte) []byte { clear(b[len(b)/3 : len(b)/2]); return b }, -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			r, m := storyRepo(t, repo.Options{PackSize: 32 << 10})
			files := manyFiles(1, 60)
			mustBackUp(t, r, files...)
			victim := dataPack(t, r)
			m.Damage(victim, tc.damage)
			bytes := m.Bytes(victim)

			found, err := check(ctx, r)
			if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(fmt.Sprint(found), victim.ID.String()) {
				t.Fatalf("check before: %v, %v", err, found)
			}
			var lost []repo.Finding
			stats, err := r.RepairPacks(ctx, []kassett.ID{victim.ID}, repo.RepairOptions{}, func(f repo.Finding) { lost = append(lost, f) })
			if tc.lost == 0 && err != nil || tc.lost != 0 && kassett.KindOf(err) != kassett.Incomplete {
				t.Fatalf("repair: %+v, %v", stats, err)
			}
			if stats.Lost != len(lost) || tc.lost >= 0 && stats.Lost != tc.lost || tc.lost < 0 && stats.Lost == 0 {
				t.Errorf("%d blobs lost, %d named, want %d", stats.Lost, len(lost), tc.lost)
			}
			if _, err := m.Stat(ctx, victim); kassett.KindOf(err) != kassett.NotFound {
				t.Errorf("the damaged pack: %v, want it gone", err)
			}
			if len(bytes) > 0 {
				wantBeside(t, m, "salvage/"+victim.ID.String(), string(bytes))
			}
			if _, err := check(ctx, r); err != nil {
				t.Errorf("check after: %v", err)
			}
			mustBackUp(t, r, files...) // stores again what was lost
			wantSound(t, r)
		})
	}
}

// dataPack returns a pack with several blobs of data.
func dataPack(t testing.TB, r *repo.Repository) kassett.Handle {
	t.Helper()
	var found kassett.ID
	err := r.ByPack(func(id kassett.ID, blobs []repo.Blob) error {
		if len(blobs) > 2 && blobs[0].Type == repo.DataBlob {
			found = id
		}
		return nil
	})
	if err != nil || found.IsZero() {
		t.Fatalf("no pack with several blobs: %v", err)
	}
	return kassett.Handle{Kind: kassett.PackFile, ID: found}
}

func wantBeside(t testing.TB, m *storagetest.Memory, prefix, want string) {
	t.Helper()
	for info, err := range m.ListBeside(context.Background(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(info.Name, prefix) && info.Size == int64(len(want)) {
			return
		}
	}
	t.Errorf("no file %s… of %d bytes beside the repository", prefix, len(want))
}
