package repo_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// Every changed, missing or added byte of an unpacked file is found: under its
// own name, and under the name that the changed bytes have.
func TestLoadUnpackedDamaged(t *testing.T) {
	t.Parallel()
	for _, version := range []uint{1, 2} {
		r, st := memoryRepo(t, repo.InitOptions{Version: version})
		for _, k := range []kassett.FileKind{kassett.IndexFile, kassett.SnapshotFile, kassett.LockFile} {
			id, err := r.SaveUnpacked(t.Context(), k, []byte(`{"time":"2026-11-22T03:00:00Z"}`))
			if err != nil {
				t.Fatal(err)
			}
			h := kassett.Handle{Kind: k, ID: id}
			good := slices.Clone(st.Bytes(h))
			for i := range good {
				flipped := slices.Clone(good)
				flipped[i] ^= 0x10
				for _, bad := range [][]byte{flipped, good[:i], slices.Delete(slices.Clone(good), i, i+1), slices.Insert(slices.Clone(good), i, 'x')} {
					st.Damage(h, func([]byte) []byte { return bad })
					_, err := r.LoadUnpacked(t.Context(), k, id)
					wantKind(t, err, kassett.Corrupt, h.String())
					renamed := putRaw(t, st, k, bad)
					_, err = r.LoadUnpacked(t.Context(), k, renamed)
					wantKind(t, err, kassett.Corrupt, renamed.String())
					if err := r.Delete(t.Context(), k, renamed); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		_, err := r.LoadUnpacked(t.Context(), kassett.SnapshotFile, kassett.Hash([]byte("absent")))
		wantKind(t, err, kassett.NotFound)
	}
}

// A fault of the way, not of the file, is read past once.
func TestLoadUnpackedSecondLook(t *testing.T) {
	t.Parallel()
	r, mem := memoryRepo(t, repo.InitOptions{})
	id, err := r.SaveUnpacked(t.Context(), kassett.SnapshotFile, []byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	h := kassett.Handle{Kind: kassett.SnapshotFile, ID: id}
	good := slices.Clone(mem.Bytes(h))
	var reads atomic.Int32
	st := storagetest.NewFailing(mem, func(c storagetest.Call) *storagetest.Fault {
		if c.Op == storagetest.Get && c.Handle == h {
			mem.Damage(h, func([]byte) []byte {
				if reads.Add(1) == 1 {
					return good[:10]
				}
				return good
			})
		}
		return nil
	})
	if b, err := openMemory(t, st, password, repo.Options{}).LoadUnpacked(t.Context(), kassett.SnapshotFile, id); err != nil || string(b) != "{}" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestSaveUnpackedRefuses(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t, repo.InitOptions{})
	for name, plain := range map[string]string{"nothing": "", "no JSON": "hello", "a lock of 2 MiB": "{" + strings.Repeat(" ", 2<<20)} {
		if _, err := r.SaveUnpacked(t.Context(), kassett.LockFile, []byte(plain)); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
