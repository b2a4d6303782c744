package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

// putIndex stores an index file.
func putIndex(t testing.TB, r *Repository, packs []indexedPack) kassett.ID {
	t.Helper()
	var b indexBuilder
	for _, p := range packs {
		b.add(p)
	}
	id, err := r.SaveUnpacked(context.Background(), kassett.IndexFile, b.bytes())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestLoadIndexNames holds LoadIndex to naming each damaged index file and
// loading the others.
func TestLoadIndexNames(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, "")
	known := BlobHandle{Type: DataBlob, ID: idB}
	putIndex(t, r, []indexedPack{{idA, []Blob{testBlob(DataBlob, idB, 0, 40, 0)}}})
	bad, err := r.SaveUnpacked(t.Context(), kassett.IndexFile, indexOf(fmt.Sprintf(`{"id":"%s","type":"data","offset":4294967290,"length":40}`, idB)))
	if err != nil {
		t.Fatal(err)
	}
	noJSON := kassett.Hash([]byte("no index"))
	if err := st.Put(t.Context(), kassett.Handle{Kind: kassett.IndexFile, ID: noJSON}, kassett.BytesBody([]byte("no index"), noJSON)); err != nil {
		t.Fatal(err)
	}
	err = r.LoadIndex(t.Context(), nil)
	if kassett.KindOf(err) != kassett.Corrupt || kassett.HintOf(err) == "" {
		t.Fatalf("LoadIndex: %v, want a Corrupt error with a hint", err)
	}
	for _, id := range []kassett.ID{bad, noJSON} {
		if !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%v does not name index file %s", err, id)
		}
	}
	if size, ok := r.BlobSize(known); !ok || size != 8 {
		t.Errorf("BlobSize = %d, %v", size, ok)
	}
}

// TestBrokenTable breaks the cache while the storage is away: whoever reads or
// writes is told why, and nothing is stored a second time.
func TestBrokenTable(t *testing.T) {
	t.Parallel()
	away := false
	errAway := errors.New("cable pulled")
	st := storagetest.NewFailing(storagetest.NewMemory(), func(c storagetest.Call) *storagetest.Fault {
		if away && c.Op == storagetest.Get {
			return &storagetest.Fault{Err: errAway}
		}
		return nil
	})
	cache := t.TempDir()
	r := memoryRepo(t, st, cache)
	known := BlobHandle{Type: DataBlob, ID: idB}
	putIndex(t, r, []indexedPack{{idA, []Blob{testBlob(DataBlob, idB, 0, 40, 0)}}})
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(cache, r.Config().ID, "blobs", "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 3*4096+5); err != nil { // in the page of records
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	away = true
	if r.Has(known) {
		t.Error("a blob is known by a page that does not match its tag")
	}
	if _, err := r.LoadBlob(t.Context(), known, nil); !errors.Is(err, errAway) {
		t.Errorf("LoadBlob: %v, want the reason why the table is broken", err)
	}
	w := r.NewWriter(t.Context(), WriterOptions{})
	if _, err := w.Save(t.Context(), DataBlob, []byte("x")); !errors.Is(err, errAway) {
		t.Errorf("Save: %v, want the reason why the table is broken", err)
	}
	w.Abort()
	away = false
	if err := r.LoadIndex(t.Context(), nil); err != nil || !r.Has(known) {
		t.Errorf("the table was not made anew: %v", err)
	}
}
