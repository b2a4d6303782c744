package storage_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage"
	"kassett/storage/storagetest"
)

// below is what a cache stands on: a storage, what it was asked, a folder.
type below struct {
	*storagetest.Memory
	tr  *storagetest.Tracing
	dir string
}

// cached returns a storage with a cache.
func cached(t *testing.T, limit int64) (kassett.Storage, below) {
	t.Helper()
	m := storagetest.NewMemory()
	b := below{m, storagetest.NewTracing(m), filepath.Join(t.TempDir(), "cache")}
	return storage.Cache(b.tr, b.dir, limit), b
}

func store(t *testing.T, m kassett.Storage, k kassett.FileKind, b []byte) kassett.Handle {
	t.Helper()
	h := kassett.Handle{Kind: k, ID: kassett.Hash(b)}
	if err := m.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	return h
}

func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			all = append(all, p)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

// TestCacheKeepsThePromises runs the suite of storages over a cache.
func TestCacheKeepsThePromises(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) kassett.Storage {
		return storage.Cache(storagetest.NewMemory(), t.TempDir(), 0)
	})
}

// TestCacheSaves counts what the storage is asked.
func TestCacheSaves(t *testing.T) {
	t.Parallel()
	s, m := cached(t, 0)
	trees := kassett.OfTrees(t.Context())
	b := storagetest.Random(1, 1<<20)
	pack, snapshot := store(t, m, kassett.PackFile, b), store(t, m, kassett.SnapshotFile, b[:500])
	index := store(t, m, kassett.IndexFile, b[:600])
	for i := range 20 {
		off, n := int64(i*1000), int64(300+i)
		if got, err := read(s.Get(trees, pack, off, n)); err != nil || !bytes.Equal(got, b[off:off+n]) {
			t.Fatalf("Get = %d bytes, %v", len(got), err)
		}
		if got, err := read(s.Get(t.Context(), snapshot, 0, -1)); err != nil || !bytes.Equal(got, b[:500]) {
			t.Fatalf("Get of a snapshot = %d bytes, %v", len(got), err)
		}
	}
	if n := len(m.tr.Calls(storagetest.Get)); n != 3 { // one small read, the pack, the snapshot
		t.Errorf("the storage was asked %d times, want 3", n)
	}
	if n := len(files(t, m.dir)); n != 2 {
		t.Errorf("%d files are kept, want 2", n)
	}
	m.tr.Reset()
	for range 3 { // data and index files go past the cache
		for _, h := range []kassett.Handle{pack, index} {
			if _, err := read(s.Get(t.Context(), h, 0, 100)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(m.tr.Calls(storagetest.Get)); n != 6 {
		t.Errorf("the storage was asked %d times, want 6", n)
	}
	// Another process finds what this one left.
	m.tr.Reset()
	if got, err := read(storage.Cache(m.tr, m.dir, 0).Get(trees, pack, 5, 10)); err != nil || !bytes.Equal(got, b[5:15]) {
		t.Errorf("Get = %d bytes, %v", len(got), err)
	}
	if n := len(m.tr.Calls(storagetest.Get)); n != 0 {
		t.Errorf("the storage was asked %d times, want never", n)
	}
	if err := s.Delete(t.Context(), snapshot); err != nil {
		t.Fatal(err)
	}
	if _, err := read(s.Get(t.Context(), snapshot, 0, -1)); kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("a snapshot that was deleted: %v", err)
	}
}

// TestCacheDamage spoils what is kept in every way: nothing of it is believed.
func TestCacheDamage(t *testing.T) {
	t.Parallel()
	b := storagetest.Random(1, 300_000)
	for name, spoil := range map[string]func(p string) error{
		"a flipped bit": func(p string) error {
			c := bytes.Clone(b)
			c[1000] ^= 1
			return os.WriteFile(p, c, 0o600)
		},
		"cut":     func(p string) error { return os.Truncate(p, 1000) },
		"empty":   func(p string) error { return os.Truncate(p, 0) },
		"longer":  func(p string) error { return os.WriteFile(p, append(bytes.Clone(b), 1), 0o600) },
		"planted": func(p string) error { return os.WriteFile(p, storagetest.Random(2, 300_000), 0o600) },
		"gone":    os.Remove,
		"a folder": func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		},
		"no folder at all": func(p string) error { return os.RemoveAll(filepath.Dir(filepath.Dir(p))) },
	} {
		s, m := cached(t, 0)
		h := store(t, m, kassett.SnapshotFile, b)
		if _, err := read(s.Get(t.Context(), h, 0, -1)); err != nil {
			t.Fatal(err)
		}
		kept := files(t, m.dir)
		if len(kept) != 1 {
			t.Fatalf("%d files are kept, want 1", len(kept))
		}
		if err := spoil(kept[0]); err != nil {
			t.Fatal(err)
		}
		got, err := read(storage.Cache(m.tr, m.dir, 0).Get(t.Context(), h, 10, 5000)) // as another process
		if err != nil || !bytes.Equal(got, b[10:5010]) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestCacheKeepsNoDamage checks that what the storage gives wrong is given as it
// is, so that the damage is named, and not kept.
func TestCacheKeepsNoDamage(t *testing.T) {
	t.Parallel()
	s, m := cached(t, 0)
	b := storagetest.Random(1, 5000)
	h := store(t, m, kassett.SnapshotFile, b)
	m.Damage(h, func(b []byte) []byte { b[7] ^= 1; return b })
	got, err := read(s.Get(t.Context(), h, 0, -1))
	if err != nil || kassett.Hash(got) == h.ID || len(files(t, m.dir)) != 0 {
		t.Errorf("%d bytes, %v, %d files kept", len(got), err, len(files(t, m.dir)))
	}
}

// TestCacheIsBounded checks that what was used last stays.
func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	s, m := cached(t, 100_000)
	var all []kassett.Handle
	for i := range 30 {
		h := store(t, m, kassett.SnapshotFile, storagetest.Random(uint64(i), 10_000))
		all = append(all, h)
		if _, err := read(s.Get(t.Context(), h, 0, -1)); err != nil {
			t.Fatal(err)
		}
		for _, p := range files(t, m.dir) { // each is older than the next, as on a slow day
			fi, err := os.Stat(p)
			if err != nil {
				t.Fatal(err)
			}
			at := fi.ModTime().Add(-time.Minute)
			if err := os.Chtimes(p, at, at); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(files(t, m.dir)); n > 10 {
			t.Fatalf("%d files of 10 kB are kept in 100 kB", n)
		}
	}
	m.tr.Reset()
	if _, err := read(s.Get(t.Context(), all[29], 0, -1)); err != nil || len(m.tr.Calls()) != 0 {
		t.Errorf("the last one is not kept: %v", err)
	}
	if _, err := read(s.Get(t.Context(), all[0], 0, -1)); err != nil || len(m.tr.Calls()) == 0 {
		t.Errorf("the first one is still kept: %v", err)
	}
}

// TestCacheSideBySide lets many read the same few files through two caches in
// one folder, too small for all of them.
func TestCacheSideBySide(t *testing.T) {
	t.Parallel()
	one, m := cached(t, 60_000)
	two := storage.Cache(m.tr, m.dir, 60_000)
	trees := kassett.OfTrees(t.Context())
	var content [10][]byte
	var packs [10]kassett.Handle
	for i := range packs {
		content[i] = storagetest.Random(uint64(i), 10_000)
		packs[i] = store(t, m, kassett.PackFile, content[i])
	}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 200 {
				s, k := one, (i*7+w)%len(packs)
				if w%2 == 0 {
					s = two
				}
				if got, err := read(s.Get(trees, packs[k], int64(i), 100)); err != nil || !bytes.Equal(got, content[k][i:i+100]) {
					t.Errorf("Get = %d bytes, %v", len(got), err)
				}
			}
		})
	}
	all.Wait()
}

// TestCacheThatCannotWrite checks that a cache that does not work is no fault.
func TestCacheThatCannotWrite(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := storagetest.Random(1, 500)
	h := store(t, m, kassett.SnapshotFile, b)
	if got, err := read(storage.Cache(m, filepath.Join(file, "below"), 0).Get(t.Context(), h, 0, -1)); err != nil || !bytes.Equal(got, b) {
		t.Errorf("Get = %d bytes, %v", len(got), err)
	}
}
