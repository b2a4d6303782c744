package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"kassett"
	"kassett/storage"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// away is the error of a storage that cannot be reached.
var away = &kassett.Error{Op: "reach storage", Kind: kassett.Offline, Err: errors.New("made by a test")}

// TestWrappersKeepThePromises runs the suite of storages over each wrapper and
// over all of them together.
func TestWrappersKeepThePromises(t *testing.T) {
	t.Parallel()
	retry := func(s kassett.Storage) kassett.Storage { return storage.Retry(s, storage.NewRetries(time.Minute, nil)) }
	limit := func(s kassett.Storage) kassett.Storage {
		return storage.Limit(s, storage.Rates{Upload: 1 << 30, Download: 1 << 30})
	}
	bound := func(s kassett.Storage) kassett.Storage { return storage.Bound(s, 1) }
	for name, wrap := range map[string]func(kassett.Storage) kassett.Storage{
		"retry": retry, "limit": limit, "bound": bound,
		"all": func(s kassett.Storage) kassett.Storage { return retry(bound(limit(s))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(t *testing.T) kassett.Storage {
				if name != "all" {
					return wrap(storagetest.NewMemory())
				}
				folder, err := local.Create(filepath.Join(t.TempDir(), "repo"))
				if err != nil {
					t.Fatal(err)
				}
				return wrap(folder)
			})
		})
	}
}

// TestRetryHidesOutages holds every call to its promise while one call in three
// fails, before or after its effect.
func TestRetryHidesOutages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		var calls atomic.Uint64
		memory := storagetest.NewMemory()
		flaky := storagetest.NewFailing(memory, func(c storagetest.Call) *storagetest.Fault {
			n := calls.Add(1)
			switch mix(seed^n) % 6 {
			case 0:
				return &storagetest.Fault{Err: away}
			case 1:
				return &storagetest.Fault{Err: away, After: true}
			}
			return nil
		})
		s := storage.Retry(flaky, storage.Quick(time.Minute))
		for i := range 8 {
			b := storagetest.Random(seed+uint64(i), 100+i*3000)
			h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
			if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
				rt.Fatalf("Put: %v", err)
			}
			off, n := int64(i*10), int64(50+i*2000)
			if got, err := read(s.Get(t.Context(), h, off, n)); err != nil || !bytes.Equal(got, b[off:off+n]) {
				rt.Fatalf("Get = %d bytes, %v", len(got), err)
			}
			if got, err := read(s.Get(t.Context(), h, 0, -1)); err != nil || !bytes.Equal(got, b) {
				rt.Fatalf("Get to the end = %d bytes, %v", len(got), err)
			}
			if in, err := s.Stat(t.Context(), h); err != nil || in.Size != int64(len(b)) {
				rt.Fatalf("Stat = %+v, %v", in, err)
			}
		}
		seen := map[kassett.ID]bool{}
		for in, err := range s.List(t.Context(), kassett.PackFile) {
			if err != nil || seen[in.ID] {
				rt.Fatalf("List gives %s twice (%v), %v", in.ID, seen[in.ID], err)
			}
			seen[in.ID] = true
		}
		if len(seen) != 8 {
			rt.Fatalf("List gives %d files, want 8", len(seen))
		}
		for id := range seen {
			if err := s.Delete(t.Context(), kassett.Handle{Kind: kassett.PackFile, ID: id}); err != nil {
				rt.Fatalf("Delete: %v", err)
			}
		}
		if left := memory.Handles(kassett.PackFile); len(left) != 0 {
			rt.Fatalf("%d files are left", len(left))
		}
	})
}

// mix spreads the bits of n (splitmix64).
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

func read(rc io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rc)
	return b, errors.Join(err, rc.Close())
}

// TestRetryLeavesWhatWaitingDoesNotMend checks that other errors come at once.
func TestRetryLeavesWhatWaitingDoesNotMend(t *testing.T) {
	t.Parallel()
	for _, kind := range []kassett.Kind{kassett.NotFound, kassett.Denied, kassett.Full, kassett.Corrupt, kassett.Locked, kassett.Held, kassett.Other} {
		tries := 0
		err := storage.Quick(time.Minute).Do(t.Context(), func(bool) error {
			tries++
			return &kassett.Error{Op: "try", Kind: kind, Err: errors.New("x")}
		})
		if tries != 1 || kassett.KindOf(err) != kind {
			t.Errorf("%s: %d tries, %v", kind, tries, err)
		}
	}
}

// TestRetryPutFindsAnother checks that a put whose answer was lost does not take
// somebody else's file for its own.
func TestRetryPutFindsAnother(t *testing.T) {
	t.Parallel()
	mine, theirs := storagetest.Random(1, 500), storagetest.Random(2, 500)
	for name, there := range map[string][]byte{"other content": theirs, "other size": theirs[:400]} {
		memory := storagetest.NewMemory()
		h := kassett.Handle{Kind: kassett.ConfigFile}
		lost := storagetest.NewFailing(memory, func(c storagetest.Call) *storagetest.Fault {
			if c.N > 1 {
				return nil
			}
			memory.Damage(h, func([]byte) []byte { return there }) // another writer was first
			return &storagetest.Fault{Err: away}
		})
		err := storage.Retry(lost, storage.Quick(time.Minute)).Put(t.Context(), h, kassett.BytesBody(mine, kassett.Hash(mine)))
		if kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("%s: %v; want an error that says it is not ours", name, err)
		}
	}
}

// TestRetryGivesUp checks that patience ends, that somebody was told, and that
// later calls are tried once only.
func TestRetryGivesUp(t *testing.T) {
	t.Parallel()
	var told []storage.Outage
	r := storage.NewRetries(1200*time.Millisecond, func(o storage.Outage) { told = append(told, o) })
	tries := 0
	down := func(bool) error { tries++; return away }
	begun := time.Now()
	if err := r.Do(t.Context(), down); !errors.Is(err, away) {
		t.Errorf("Do = %v", err)
	}
	if took := time.Since(begun); tries < 2 || took < time.Second {
		t.Errorf("%d tries in %s", tries, took)
	}
	if len(told) != tries-1 || told[0].Next <= 0 || !errors.Is(told[0].Err, away) || told[0].Until.Sub(told[0].Since) != 1200*time.Millisecond {
		t.Errorf("told %+v", told)
	}
	before := tries
	_ = r.Do(t.Context(), down)
	if tries != before+1 {
		t.Errorf("after patience has ended a call is tried %d times, want once", tries-before)
	}
	if err := r.Do(t.Context(), func(bool) error { return nil }); err != nil {
		t.Error(err)
	}
	if last := told[len(told)-1]; last.Next != 0 || last.Err != nil {
		t.Errorf("the end of the outage was not told: %+v", last)
	}
}

// TestRetryEndsWithItsContext checks that a pause does not outlive its caller.
func TestRetryEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := storage.NewRetries(time.Hour, func(storage.Outage) { cancel() })
	begun := time.Now()
	err := r.Do(ctx, func(bool) error { return away })
	if kassett.KindOf(err) != kassett.Interrupted || time.Since(begun) > time.Minute {
		t.Errorf("Do = %v after %s", err, time.Since(begun))
	}
}

// broken lists names and breaks off after some of them, a different number each
// time.
type broken struct {
	kassett.Storage
	order func(run int) []kassett.Info
	after []int // per run; then it does not break
	run   int
}

func (b *broken) List(context.Context, kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		run := b.run
		b.run++
		for i, in := range b.order(run) {
			if run < len(b.after) && i == b.after[run] {
				yield(kassett.Info{}, away)
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// TestListGoesOn breaks listings of many names, with and without an order.
func TestListGoesOn(t *testing.T) {
	t.Parallel()
	const many = 300_000
	ordered := make([]kassett.Info, many)
	for i := range ordered {
		h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash([]byte{byte(i), byte(i >> 8), byte(i >> 16)})}
		h.ID[0] = byte(i * 256 / many)
		ordered[i] = kassett.Info{Handle: h, Size: int64(i)}
	}
	mixed := func(seed uint64, n int) []kassett.Info {
		all := make([]kassett.Info, n)
		for i := range all {
			all[i] = ordered[(uint64(i)*7919+seed*104729)%uint64(n)]
		}
		return all
	}
	for _, c := range []struct {
		name  string
		order func(run int) []kassett.Info
		after []int
		want  int
		fails bool
	}{
		{"ordered", func(int) []kassett.Info { return ordered }, []int{1, 10_000, 150_000, 299_999}, many, false},
		{"mixed, another order each time", func(run int) []kassett.Info { return mixed(uint64(run), 100_000) }, []int{1, 50_000, 99_000}, 100_000, false},
		{"mixed and too long", func(run int) []kassett.Info { return mixed(uint64(run), many) }, []int{200_000}, 200_000, true},
		{"mixed and long, unbroken", func(run int) []kassett.Info { return mixed(uint64(run), many) }, nil, many, false},
		{"an order that is lost", func(run int) []kassett.Info {
			if run == 0 {
				return ordered
			}
			return mixed(1, many)
		}, []int{150_000}, 150_000, true},
		{"an order that ends late, unbroken", func(int) []kassett.Info {
			return append(append([]kassett.Info{}, ordered[100_000:]...), ordered[:100_000]...)
		}, nil, many, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seen := make(map[kassett.ID]bool, many)
			var failed error
			s := storage.Retry(&broken{order: c.order, after: c.after}, storage.Quick(time.Minute))
			for in, err := range s.List(t.Context(), kassett.PackFile) {
				if err != nil {
					failed = err
					break
				}
				if seen[in.ID] {
					t.Fatalf("%s comes twice", in.ID)
				}
				seen[in.ID] = true
			}
			if (failed != nil) != c.fails || len(seen) < c.want || !c.fails && len(seen) != c.want {
				t.Errorf("%d names, want %d; %v", len(seen), c.want, failed)
			}
		})
	}
}

// TestLongListingIsSmall checks that listing in order takes memory for the names
// of a few folders only.
func TestLongListingIsSmall(t *testing.T) {
	const many = 1_000_000
	s := storage.Retry(&endless{n: many}, storage.Quick(time.Minute))
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n := 0
	for _, err := range s.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == many-1 {
			runtime.GC()
			runtime.ReadMemStats(&now)
		}
	}
	if grown := int64(now.HeapAlloc) - int64(before.HeapAlloc); n != many || grown > 8<<20 {
		t.Errorf("%d names take %d KiB", n, grown>>10)
	}
}

// endless lists n names in order.
type endless struct {
	kassett.Storage
	n int
}

func (e *endless) List(context.Context, kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		for i := range e.n {
			id := kassett.Hash([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
			id[0] = byte(i * 256 / e.n)
			if !yield(kassett.Info{Handle: kassett.Handle{Kind: kassett.PackFile, ID: id}}, nil) {
				return
			}
		}
	}
}
