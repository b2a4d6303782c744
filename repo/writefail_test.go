package repo_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// initStored makes a repository on st.
func initStored(t testing.TB, st kassett.Storage, o repo.Options) *repo.Repository {
	t.Helper()
	r, err := repo.Init(context.Background(), st, []byte(password), repo.InitOptions{Scrypt: quick, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// openStored opens the repository on st and loads its index.
func openStored(t testing.TB, st kassett.Storage) *repo.Repository {
	t.Helper()
	r, err := repo.Open(context.Background(), st, []byte(password), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.LoadIndex(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// mustBeWhole holds a repository to naming only what it can read.
func mustBeWhole(t testing.TB, r *repo.Repository) (blobs int) {
	t.Helper()
	err := r.ByPack(func(pack kassett.ID, indexed []repo.Blob) error {
		header, err := r.PackHeader(context.Background(), pack, -1)
		if err != nil {
			return err
		}
		if !slices.Equal(header, indexed) {
			return fmt.Errorf("pack %s: the index has %d blobs, the pack %d", pack, len(indexed), len(header))
		}
		blobs += len(indexed)
		return r.LoadBlobs(context.Background(), pack, indexed, func(_ repo.Blob, _ []byte, err error) error { return err })
	})
	if err != nil {
		t.Error(err)
	}
	return blobs
}

func TestSaveOnce(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := initStored(t, st, repo.Options{PackSize: 64 << 10, Connections: 3})
	all := contents(2, 400)
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	var fresh atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, b := range all {
				saved, err := w.Save(t.Context(), repo.DataBlob, b)
				if err != nil {
					t.Error(err)
					return
				}
				if saved.ID != kassett.Hash(b) || saved.New != (saved.Stored > 0) {
					t.Errorf("Saved %+v", saved)
				}
				if saved.New {
					fresh.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	distinct := make(map[kassett.ID]bool)
	for _, b := range all {
		distinct[kassett.Hash(b)] = true
	}
	if int(fresh.Load()) != len(distinct) {
		t.Errorf("%d blobs were new, want %d", fresh.Load(), len(distinct))
	}
	again := openStored(t, st)
	if n := mustBeWhole(t, again); n != len(distinct) {
		t.Errorf("%d blobs are stored, want %d", n, len(distinct))
	}
	mustLoad(t, again, repo.DataBlob, all)

	// The same bytes as a tree are another blob; a second writer and a second
	// Flush store nothing again.
	if saved, err := w.Save(t.Context(), repo.TreeBlob, all[1]); err != nil || !saved.New {
		t.Errorf("Save as tree: %+v, %v", saved, err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	w = again.NewWriter(t.Context(), repo.WriterOptions{})
	for _, b := range all {
		if saved, err := w.Save(t.Context(), repo.DataBlob, b); err != nil || saved.New {
			t.Fatalf("Save again: %+v, %v", saved, err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestSmallBackup holds a small backup to one pack of data and one of trees.
func TestSmallBackup(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := initStored(t, st, repo.Options{})
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	all := contents(8, 40)
	for i, b := range all {
		if _, err := w.Save(t.Context(), repo.BlobType(i%2), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	packs := 0
	for _, err := range st.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Fatal(err)
		}
		packs++
	}
	if packs != 2 {
		t.Errorf("%d packs, want 2", packs)
	}
	if n := mustBeWhole(t, openStored(t, st)); n != len(all) {
		t.Errorf("%d blobs, want %d", n, len(all))
	}
}

func TestPackSizes(t *testing.T) {
	t.Parallel()
	const size = 256 << 10
	st := storagetest.NewMemory()
	r := initStored(t, st, repo.Options{PackSize: size, Compression: repo.CompressOff})
	all := contents(3, 500)
	long := storagetest.Random(9, 3*size)
	saveAll(t, r, repo.DataBlob, append(all, long))
	saveAll(t, r, repo.TreeBlob, all[:50])
	small, packs := 0, 0
	for info, err := range st.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Fatal(err)
		}
		packs++
		header, err := r.PackHeader(t.Context(), info.ID, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(header, func(b repo.Blob) bool { return b.Type != header[0].Type }) {
			t.Errorf("pack %s mixes data and trees", info.ID)
		}
		switch {
		case info.Size > size && len(header) > 1:
			t.Errorf("pack %s of %d blobs has %d bytes, at most %d were asked for", info.ID, len(header), info.Size, size)
		case info.Size < size/2:
			small++
		}
	}
	// Which open pack a blob meets is chance, and one that it does not fit into
	// may have to go as it is.
	if small > packs/4 {
		t.Errorf("%d of %d packs are less than half full", small, packs)
	}
	mustLoad(t, openStored(t, st), repo.DataBlob, append(all, long))
}

// TestWriterFailsEverywhere fails each storage operation of a backup in turn.
// Whatever fails, what the index names is there, the writer says the error from
// then on, and the blobs can be stored by the next one.
func TestWriterFailsEverywhere(t *testing.T) {
	t.Parallel()
	all := contents(4, 120)
	for _, after := range []bool{false, true} {
		for n := 1; ; n++ {
			inner := storagetest.NewMemory()
			initStored(t, inner, repo.Options{})
			st := storagetest.NewFailing(inner, func() func(storagetest.Call) *storagetest.Fault {
				var puts atomic.Int64
				return func(c storagetest.Call) *storagetest.Fault {
					if c.Op != storagetest.Put || puts.Add(1) != int64(n) {
						return nil
					}
					return &storagetest.Fault{Err: storagetest.ErrInjected, After: after}
				}
			}())
			r, err := repo.Open(t.Context(), st, []byte(password), repo.Options{PackSize: 64 << 10, Connections: 2})
			if err != nil {
				t.Fatal(err)
			}
			w := r.NewWriter(t.Context(), repo.WriterOptions{})
			for _, b := range all {
				if _, err = w.Save(t.Context(), repo.DataBlob, b); err != nil {
					break
				}
			}
			flushed := w.Flush(t.Context())
			if err != nil && !errors.Is(flushed, storagetest.ErrInjected) {
				t.Errorf("put %d: Save failed with %v, Flush then says %v", n, err, flushed)
			}
			if flushed != nil {
				if _, err := w.Save(t.Context(), repo.DataBlob, []byte("more")); !errors.Is(err, storagetest.ErrInjected) {
					t.Errorf("put %d: Save after the failure: %v", n, err)
				}
			}
			w.Abort()
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			again := openStored(t, inner)
			mustBeWhole(t, again)
			saveAll(t, again, repo.DataBlob, all)
			mustLoad(t, again, repo.DataBlob, all)
			if flushed == nil {
				if n < 5 {
					t.Errorf("only %d puts were made to fail", n-1)
				}
				break
			}
		}
	}
}

// TestAbortKeeps holds Abort to indexing what is durable, and to dropping the
// rest.
func TestAbortKeeps(t *testing.T) {
	t.Parallel()
	locked := &kassett.Error{Op: "refresh lock", Kind: kassett.Locked}
	for _, c := range []struct {
		name  string
		cause error
		kept  bool
	}{
		{"interrupted", context.Canceled, true},
		{"lock lost", locked, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := storagetest.NewTracing(storagetest.NewMemory())
			r := initStored(t, st, repo.Options{PackSize: 32 << 10, Connections: 1})
			ctx, cancel := context.WithCancelCause(t.Context())
			w := r.NewWriter(ctx, repo.WriterOptions{})
			all := contents(5, 100)
			for _, b := range all {
				if _, err := w.Save(ctx, repo.DataBlob, b); err != nil {
					t.Fatal(err)
				}
			}
			cancel(c.cause)
			if _, err := w.Save(ctx, repo.DataBlob, []byte("too late")); !errors.Is(err, c.cause) {
				t.Errorf("Save after the end: %v", err)
			}
			w.Abort()
			w.Abort() // twice does no harm
			n := mustBeWhole(t, openStored(t, st))
			if n > 0 != c.kept || n == len(all) {
				t.Errorf("%d of %d blobs are indexed", n, len(all))
			}
		})
	}
}

// TestFlushDurableOrder holds writing to packs before the index files that name
// them.
func TestFlushDurableOrder(t *testing.T) {
	t.Parallel()
	// Every put takes until the next one begins, if it can.
	inner := storagetest.NewMemory()
	initStored(t, inner, repo.Options{})
	for n := 1; ; n++ {
		st := storagetest.NewCrashing(inner, n)
		r, err := repo.Open(t.Context(), st, []byte(password), repo.Options{PackSize: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		w := r.NewWriter(t.Context(), repo.WriterOptions{})
		for _, b := range contents(6, 60) {
			if _, err := w.Save(t.Context(), repo.DataBlob, b); err != nil {
				break
			}
		}
		_ = w.Flush(t.Context())
		w.Abort()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if !st.Crashed() {
			return
		}
		for name, survivor := range st.Survivors() {
			t.Run(fmt.Sprintf("%d %s", n, name), func(t *testing.T) { mustBeWhole(t, openStored(t, survivor)) })
		}
	}
}

func TestSaveSealed(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := initStored(t, st, repo.Options{})
	all := contents(7, 20)
	saveAll(t, r, repo.DataBlob, all)
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	for _, plain := range all {
		h := repo.BlobHandle{ID: kassett.Hash(plain)}
		l, ok := r.Find(h)
		if !ok {
			t.Fatal("unknown")
		}
		rc, err := st.Get(t.Context(), kassett.Handle{Kind: kassett.PackFile, ID: l.Pack}, int64(l.Offset), int64(l.Length))
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		bad := slices.Clone(sealed)
		bad[len(bad)/2] ^= 1
		if err := w.SaveSealed(t.Context(), l.Blob, bad); kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("SaveSealed of damaged bytes: %v", err)
		}
		wrong := l.Blob
		wrong.ID[0] ^= 1
		if err := w.SaveSealed(t.Context(), wrong, sealed); err == nil {
			t.Error("SaveSealed took a blob under a false ID")
		}
		if err := w.SaveSealed(t.Context(), l.Blob, sealed); err != nil {
			t.Error(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, plain := range all {
		if places := r.Lookup(repo.BlobHandle{ID: kassett.Hash(plain)}); len(places) != 2 {
			t.Errorf("%d places, want 2", len(places))
		}
	}
	mustBeWhole(t, openStored(t, st))
}
