package storage_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/storage"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

// TestLimit checks that bytes take the time they should, both ways.
func TestLimit(t *testing.T) {
	t.Parallel()
	b := storagetest.Random(1, 300_000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	s := storage.Limit(storagetest.NewMemory(), storage.Rates{Upload: 400_000, Download: 200_000})
	begun := time.Now()
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	up := time.Since(begun)
	begun = time.Now()
	if _, err := read(s.Get(t.Context(), h, 0, -1)); err != nil {
		t.Fatal(err)
	}
	down := time.Since(begun)
	if up < 500*time.Millisecond || down < 1200*time.Millisecond { // a tenth of a second is free
		t.Errorf("up %s, down %s: faster than the limit", up, down)
	}
}

// TestLimitIsSmooth checks that no read gives more than a small piece.
func TestLimitIsSmooth(t *testing.T) {
	t.Parallel()
	b := storagetest.Random(1, 50_000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	m := storagetest.NewMemory()
	if err := m.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	rc, err := storage.Limit(m, storage.Rates{Download: 100_000}).Get(t.Context(), h, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if n, err := rc.Read(make([]byte, 50_000)); err != nil || n > 10_000 {
		t.Errorf("one read gives %d bytes, %v; want a tenth of a second's worth", n, err)
	}
}

// TestLimitInPieces checks that a file that is stored in pieces is held to the
// limit too.
func TestLimitInPieces(t *testing.T) {
	t.Parallel()
	inner, err := local.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	st, ok := kassett.As[kassett.Stager](storage.Bound(storage.Limit(inner, storage.Rates{Upload: 400_000}), 1))
	if !ok {
		t.Fatal("the ability is lost")
	}
	f, err := st.Stage(t.Context(), kassett.PackFile)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := f.Write(storagetest.Random(1, 300_000)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took < 500*time.Millisecond {
		t.Errorf("took %s: faster than the limit", took)
	}
	if err := f.Abort(); err != nil {
		t.Error(err)
	}
}

// busy counts how many calls run side by side.
type busy struct {
	kassett.Storage
	now, most atomic.Int64
}

func (b *busy) work() func() {
	n := b.now.Add(1)
	for {
		m := b.most.Load()
		if n <= m || b.most.CompareAndSwap(m, n) {
			break
		}
	}
	time.Sleep(time.Millisecond)
	return func() { b.now.Add(-1) }
}

func (b *busy) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	defer b.work()()
	rc, err := b.Storage.Get(ctx, h, off, n)
	return busyStream{rc, b}, err
}

type busyStream struct {
	io.ReadCloser
	b *busy
}

func (s busyStream) Read(p []byte) (int, error) {
	defer s.b.work()()
	return s.ReadCloser.Read(p)
}

// TestBound checks that no more calls run than there are places, and that none
// waits for itself: streams within streams, and puts of what is being read.
func TestBound(t *testing.T) {
	t.Parallel()
	inner := &busy{Storage: storagetest.NewMemory()}
	s := storage.Bound(inner, 2)
	b := storagetest.Random(1, 10_000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			rc, err := s.Get(t.Context(), h, 0, -1)
			if err != nil {
				t.Error(err)
				return
			}
			for range 20 { // streams within streams
				if _, err := read(s.Get(t.Context(), h, 5, 10)); err != nil {
					t.Error(err)
				}
			}
			if _, err := read(rc, nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if most := inner.most.Load(); most != 2 {
		t.Errorf("%d calls ran side by side, want 2", most)
	}
	if p, ok := kassett.As[kassett.Parallel](s); ok {
		t.Errorf("the innermost storage has no places, yet %d are claimed", p.Connections())
	}

	// A body that is read from the same storage, with one place.
	one := storage.Bound(inner, 1)
	to := kassett.Handle{Kind: kassett.IndexFile, ID: h.ID}
	body := kassett.Body{Size: int64(len(b)), Sum: h.ID, Open: func() (io.ReadCloser, error) { return one.Get(t.Context(), h, 0, -1) }}
	if err := one.Put(t.Context(), to, body); err != nil {
		t.Fatal(err)
	}
}

// TestMedium asks about what is here: the answer is the machine's own.
func TestMedium(t *testing.T) {
	t.Parallel()
	m := storage.MediumOf(t.TempDir())
	if m.Connections() < 1 || m.String() == "" {
		t.Errorf("%s: %d connections", m, m.Connections())
	}
	if fi, err := os.Stat("/dev/shm"); err == nil && fi.IsDir() {
		if m := storage.MediumOf("/dev/shm"); m != storage.FlashMedium {
			t.Errorf("memory is %s, want flash", m)
		}
	}
	if m := storage.MediumOf(filepath.Join(t.TempDir(), "none")); m != storage.UnknownMedium {
		t.Errorf("a folder that is not there is %s", m)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	id := kassett.Hash([]byte("x"))
	for h, want := range map[kassett.Handle]string{
		{Kind: kassett.ConfigFile}:           "config",
		{Kind: kassett.IndexFile, ID: id}:    "index/" + id.String(),
		{Kind: kassett.PackFile, ID: id}:     "data/" + id.String()[:2] + "/" + id.String(),
		{Kind: kassett.SnapshotFile, ID: id}: "snapshots/" + id.String(),
	} {
		if got := storage.Path(h); got != want {
			t.Errorf("Path(%s) = %s", h, got)
		}
	}
	for name, want := range map[string]bool{
		id.String(): false, id.String() + "-tmp-123": true, id.String() + "-restic-temp-ab": true,
		"config-tmp-1": true, "x-tmp-1": false, "": false, "-tmp-": false,
	} {
		if storage.IsTemp(name) != want {
			t.Errorf("IsTemp(%q) = %v", name, !want)
		}
	}
	if _, ok := storage.ParseName(kassett.PackFile, "00", id.String()); ok {
		t.Error("a pack in a folder that is not its own is accepted")
	}
}
