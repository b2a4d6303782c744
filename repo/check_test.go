package repo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// damages is what a medium does to a file.
var damages = map[string]func([]byte) []byte{
	"first byte flipped":  func(b []byte) []byte { b[0] ^= 1; return b },
	"middle byte flipped": func(b []byte) []byte { b[len(b)/2] ^= 0x80; return b },
	"last byte flipped":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	"last byte missing":   func(b []byte) []byte { return b[:len(b)-1] },
	"a byte missing":      func(b []byte) []byte { return append(b[:9:9], b[10:]...) },
	"a byte more":         func(b []byte) []byte { return append(b, 0) },
	"half":                func(b []byte) []byte { return b[:len(b)/2] },
	"ten bytes":           func(b []byte) []byte { return b[:10] },
	"empty":               func([]byte) []byte { return []byte{} },
	"all zero":            func(b []byte) []byte { clear(b); return b },
}

// Every kind of file with every kind of damage: check names the file and says
// what to do, and whoever needs the file gets an error of kind damaged that
// names it. Nothing is changed.
func TestDamageIsNamed(t *testing.T) {
	t.Parallel()
	kinds := []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile}
	for _, k := range kinds {
		for name, damage := range damages {
			t.Run(k.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				r, m := storyRepo(t, few)
				mustBackUp(t, r, manyFiles(1, 20)...)
				if _, err := r.AddKey(ctx, []byte("another"), "u", "h"); err != nil {
					t.Fatal(err)
				}
				hs := m.Handles(k)
				h := hs[len(hs)-1]
				if k == kassett.KeyFile && h.ID == r.KeyID() {
					h = hs[0]
				}
				r = storyOpen(t, m, few)
				if k != kassett.IndexFile {
					if err := r.LoadIndex(ctx, nil); err != nil {
						t.Fatal(err)
					}
				}
				m.Damage(h, damage)
				before := m.Clone()
				wantNamed(t, r, h)
				if k != kassett.KeyFile { // a key is not needed once open
					err := r.LoadIndex(ctx, nil)
					if err == nil {
						_, err = readAll(ctx, r)
					}
					if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(fmt.Sprint(err), h.ID.String()) {
						// A pack's header is needed by nobody but repairs.
						if k != kassett.PackFile || err != nil {
							t.Errorf("reading it: %v", err)
						}
					}
				}
				wantUnchanged(t, before, m)
			})
		}
	}
}

// wantNamed runs a check and wants it to name h and a next action.
func wantNamed(t *testing.T, r *repo.Repository, h kassett.Handle) {
	t.Helper()
	found, err := check(context.Background(), r)
	if kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("check: %v, want damage", err)
	}
	named := false
	for _, f := range found {
		if f.Hint == "" {
			t.Errorf("%s: %v, without a hint", f.What, f.Err)
		}
		named = named || strings.Contains(f.What, h.ID.String()) && f.Kind == repo.Damage && f.Err != nil
	}
	if !named {
		t.Errorf("%s is not named in %v", h, found)
	}
}

func wantUnchanged(t *testing.T, before, after *storagetest.Memory) {
	t.Helper()
	for _, k := range []kassett.FileKind{kassett.ConfigFile, kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile} {
		a, b := before.Handles(k), after.Handles(k)
		if !slices.Equal(a, b) {
			t.Errorf("%s: %d files before, %d after", k, len(a), len(b))
		}
		for _, h := range b {
			if !bytes.Equal(before.Bytes(h), after.Bytes(h)) {
				t.Errorf("%s was changed", h)
			}
		}
	}
}

// A check that does not read data finds what is missing or has the wrong length.
func TestCheckStructure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		damage func(t *testing.T, m *storagetest.Memory, pack kassett.Handle)
		kind   repo.FindingKind
		hint   string
	}{
		"pack gone": {func(t *testing.T, m *storagetest.Memory, h kassett.Handle) { remove(t, m, h) }, repo.Missing, "repair index"},
		"pack cut": {func(_ *testing.T, m *storagetest.Memory, h kassett.Handle) {
			m.Damage(h, func(b []byte) []byte { return b[:len(b)-1] })
		}, repo.Damage, "repair packs"},
		"index gone": {func(t *testing.T, m *storagetest.Memory, _ kassett.Handle) {
			for _, h := range m.Handles(kassett.IndexFile) {
				remove(t, m, h)
			}
		}, repo.Leftover, "repair index"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, m := storyRepo(t, few)
			mustBackUp(t, r, manyFiles(1, 20)...)
			h := dataPack(t, r)
			tc.damage(t, m, h)
			var found []repo.Finding
			err := storyOpen(t, m, few).Check(context.Background(), repo.CheckOptions{}, func(f repo.Finding) { found = append(found, f) })
			if kassett.KindOf(err) != kassett.Corrupt {
				t.Errorf("check: %v, want damage", err)
			}
			i := slices.IndexFunc(found, func(f repo.Finding) bool { return f.What == "pack "+h.ID.String() })
			if i < 0 || found[i].Kind != tc.kind || !strings.Contains(found[i].Hint, tc.hint) {
				t.Errorf("found %+v", found)
			}
		})
	}
}

// What a faulty way damages is good when read again: a hint, not damage.
func TestCheckReadsTwice(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, m := storyRepo(t, few)
	mustBackUp(t, r, manyFiles(1, 20)...)
	h := dataPack(t, r)
	once := false
	flaky := storagetest.NewFailing(m, func(c storagetest.Call) *storagetest.Fault {
		if c.Op == storagetest.Get && c.Handle == h && !once {
			once = true
			return &storagetest.Fault{Err: errors.New("a bad cable")}
		}
		return nil
	})
	found, err := check(ctx, storyOpen(t, flaky, repo.Options{Connections: 1}))
	if err != nil || len(found) != 1 || found[0].Kind != repo.Hint || !strings.Contains(found[0].What, h.ID.String()) {
		t.Errorf("%v, %+v", err, found)
	}
}

// Prune refuses, and changes nothing, when it cannot be sure.
func TestPruneRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		damage func(t *testing.T, m *storagetest.Memory, pack kassett.Handle)
		kind   kassett.Kind
		names  bool // the pack
	}{
		"a needed pack is gone": {func(t *testing.T, m *storagetest.Memory, h kassett.Handle) { remove(t, m, h) }, kassett.Corrupt, true},
		"a needed pack is cut": {func(_ *testing.T, m *storagetest.Memory, h kassett.Handle) {
			m.Damage(h, func(b []byte) []byte { return b[:len(b)-1] })
		}, kassett.Corrupt, true},
		"a blob to be moved is damaged": {func(_ *testing.T, m *storagetest.Memory, h kassett.Handle) {
			m.Damage(h, func(b []byte) []byte { clear(b[:len(b)-500]); return b })
		}, kassett.Corrupt, true},
		"an index file is damaged": {func(_ *testing.T, m *storagetest.Memory, _ kassett.Handle) {
			m.Damage(m.Handles(kassett.IndexFile)[0], func(b []byte) []byte { return b[1:] })
		}, kassett.Corrupt, false},
		"an index file is gone": {func(t *testing.T, m *storagetest.Memory, _ kassett.Handle) {
			remove(t, m, m.Handles(kassett.IndexFile)[0])
		}, kassett.Locked, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			r, m := storyRepo(t, repo.Options{PackSize: 1 << 20, KeyCost: quick})
			files := manyFiles(1, 20)
			gone := mustBackUp(t, r, files...)
			mustBackUp(t, r, files[:10]...)
			mustForget(t, r, gone)
			used, err := readAll(ctx, r)
			if err != nil {
				t.Fatal(err)
			}
			h := dataPack(t, r)
			tc.damage(t, m, h)
			before := m.Clone()
			zero, _ := repo.ParseUnused("0")
			_, err = r.Prune(ctx, used, repo.PruneOptions{MaxUnused: zero})
			if kassett.KindOf(err) != tc.kind || kassett.HintOf(err) == "" {
				t.Errorf("prune: %v, hint %q", err, kassett.HintOf(err))
			}
			if tc.names && !strings.Contains(fmt.Sprint(err), h.ID.String()) {
				t.Errorf("pack %s is not named: %v", h.ID, err)
			}
			wantUnchanged(t, before, m)
		})
	}
}

// A blob that is damaged where it is moved from is taken from another pack.
func TestPruneUsesOtherCopies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, m := storyRepo(t, repo.Options{PackSize: 1 << 20, KeyCost: quick})
	files := manyFiles(1, 20)
	gone := mustBackUp(t, r, files...)
	second := storyOpen(t, m, few) // knows of no blobs, and stores them again
	mustBackUp(t, second, files[:10]...)
	mustForget(t, r, gone)
	h := dataPack(t, r)
	m.Damage(h, func(b []byte) []byte { clear(b[:len(b)-1000]); return b })
	zero, _ := repo.ParseUnused("0")
	stats, err := prune(ctx, r, repo.PruneOptions{MaxUnused: zero})
	if err != nil || stats.Blobs.Duplicate == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if found := wantSound(t, r); len(found) > 0 {
		t.Errorf("check says %v", found)
	}
}

// indexOf writes an index file by hand.
func indexOf(t *testing.T, r *repo.Repository, pack kassett.ID, blobs []repo.Blob) {
	t.Helper()
	var b strings.Builder
	for i, blob := range blobs {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"%s","type":"%s","offset":%d,"length":%d`, blob.ID, blob.Type, blob.Offset, blob.Length)
		if blob.Plain > 0 {
			fmt.Fprintf(&b, `,"uncompressed_length":%d`, blob.Plain)
		}
		b.WriteByte('}')
	}
	plain := fmt.Sprintf(`{"packs":[{"id":"%s","blobs":[%s]}]}`, pack, &b)
	if _, err := r.SaveUnpacked(context.Background(), kassett.IndexFile, []byte(plain)); err != nil {
		t.Fatal(err)
	}
}

// An index that lies about a pack is found out, and mended from the pack.
func TestWrongIndex(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		lie  func([]repo.Blob) []repo.Blob
		keep bool // the right index file too
		want string
	}{
		"the same twice":      {func(b []repo.Blob) []repo.Blob { return b }, true, "several index files"},
		"half of it":          {func(b []repo.Blob) []repo.Blob { return b[:len(b)/2] }, false, "the index says"},
		"half, beside all":    {func(b []repo.Blob) []repo.Blob { return b[:len(b)/2] }, true, "disagree"},
		"two swapped":         {func(b []repo.Blob) []repo.Blob { b[0].ID, b[1].ID = b[1].ID, b[0].ID; return b }, false, "its header and the index disagree"},
		"swapped, beside all": {func(b []repo.Blob) []repo.Blob { b[0].ID, b[1].ID = b[1].ID, b[0].ID; return b }, true, "disagree"},
		"a gap":               {func(b []repo.Blob) []repo.Blob { b[1].Offset++; return b }, false, "gaps"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			r, m := storyRepo(t, few)
			mustBackUp(t, r, manyFiles(1, 20)...)
			h := dataPack(t, r)
			var right []repo.Blob
			old := m.Handles(kassett.IndexFile)
			err := r.ByPack(func(id kassett.ID, blobs []repo.Blob) error {
				if id == h.ID {
					right = slices.Clone(blobs)
				} else if !tc.keep {
					indexOf(t, r, id, blobs)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			indexOf(t, r, h.ID, tc.lie(right))
			if !tc.keep {
				for _, h := range old {
					remove(t, m, h)
				}
			}
			r = storyOpen(t, m, few)
			if err := r.LoadIndex(ctx, nil); err != nil {
				t.Fatal(err)
			}
			found, _ := check(ctx, r)
			if !strings.Contains(fmt.Sprint(found), tc.want) {
				t.Errorf("check says %v", found)
			}
			if _, err := r.RepairIndex(ctx, repo.RepairOptions{ReadAllPacks: true}, ignore); err != nil {
				t.Fatal(err)
			}
			if found := wantSound(t, r); len(found) > 0 {
				t.Errorf("after repair, check says %v", found)
			}
		})
	}
}

// A blob table that names what no index file does is not believed.
func TestCheckDoubtsTheTable(t *testing.T) {
	t.Parallel()
	r, m := storyRepo(t, few)
	mustBackUp(t, r, manyFiles(1, 20)...)
	for _, h := range m.Handles(kassett.IndexFile) {
		remove(t, m, h)
	}
	found, err := check(context.Background(), r)
	if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(fmt.Sprint(found), "blob table") {
		t.Errorf("%v, %v", err, found)
	}
}

// Copies of blobs in several packs are counted.
func TestCheckCountsCopies(t *testing.T) {
	t.Parallel()
	r, m := storyRepo(t, few)
	mustBackUp(t, r, manyFiles(1, 20)...)
	mustBackUp(t, storyOpen(t, m, few), manyFiles(1, 20)...)
	if found := wantSound(t, r); len(found) != 1 || !strings.Contains(fmt.Sprint(found), "21 further copies") {
		t.Errorf("check says %v", found)
	}
}

// meanwhile returns a storage on m, and a function after whose call work happens
// just before the next op on a kind of file. done says whether it has.
func meanwhile(m *storagetest.Memory, op storagetest.Op, k kassett.FileKind, work func()) (st kassett.Storage, arm func(), done func() bool) {
	var armed, happened atomic.Bool
	st = storagetest.NewFailing(m, func(c storagetest.Call) *storagetest.Fault {
		if c.Op == op && c.Handle.Kind == k && !c.IsBeside && armed.CompareAndSwap(true, false) {
			work()
			happened.Store(true)
		}
		return nil
	})
	return st, func() { armed.Store(true) }, happened.Load
}

// A backup by another host while a check runs is no damage, whenever it ends.
func TestCheckDuringBackup(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]struct {
		op   storagetest.Op
		kind kassett.FileKind
	}{
		"index is listed":      {storagetest.List, kassett.IndexFile},
		"index is read":        {storagetest.Get, kassett.IndexFile},
		"packs are listed":     {storagetest.List, kassett.PackFile},
		"a pack is read":       {storagetest.Get, kassett.PackFile},
		"keys are listed":      {storagetest.List, kassett.KeyFile},
		"snapshots are listed": {storagetest.List, kassett.SnapshotFile},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			other, m := storyRepo(t, few)
			mustBackUp(t, other, manyFiles(1, 20)...)
			st, arm, done := meanwhile(m, at.op, at.kind, func() {
				if _, err := backUp(ctx, other, manyFiles(30, 20)...); err != nil {
					t.Error(err)
				}
			})
			r := storyOpen(t, st, few)
			if err := r.LoadIndex(ctx, nil); err != nil {
				t.Fatal(err)
			}
			arm()
			if found, err := check(ctx, r); err != nil {
				t.Errorf("%v: %v", err, found)
			}
			if !done() {
				t.Error("the backup has not happened: this tests nothing")
			}
		})
	}
}

// Someone who ignores locks and writes while a prune plans: it stops before it
// changes anything.
func TestPruneDuringBackup(t *testing.T) {
	t.Parallel()
	for name, at := range map[string]kassett.FileKind{"packs are listed": kassett.PackFile, "index is listed": kassett.IndexFile} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			m := twoSnapshots(t)
			other := storyOpen(t, m, few)
			if err := other.LoadIndex(ctx, nil); err != nil {
				t.Fatal(err)
			}
			var before *storagetest.Memory
			st, arm, _ := meanwhile(m, storagetest.List, at, func() {
				if _, err := backUp(ctx, other, manyFiles(300, 20)...); err != nil {
					t.Error(err)
				}
				before = m.Clone()
			})
			r := storyOpen(t, st, few)
			if err := r.LoadIndex(ctx, nil); err != nil {
				t.Fatal(err)
			}
			used, err := readAll(ctx, r)
			if err != nil {
				t.Fatal(err)
			}
			arm()
			if _, err := r.Prune(ctx, used, repo.PruneOptions{}); kassett.KindOf(err) != kassett.Locked {
				t.Errorf("prune: %v, want an error of kind locked", err)
			}
			wantUnchanged(t, before, m)
			wantSound(t, other)
		})
	}
}
