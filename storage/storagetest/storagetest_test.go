package storagetest_test

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage/storagetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) kassett.Storage { return storagetest.NewMemory() })
}

func TestWrappers(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func() kassett.Storage{
		"Tracing": func() kassett.Storage { return storagetest.NewTracing(storagetest.NewMemory()) },
		"Failing": func() kassett.Storage {
			return storagetest.NewFailing(storagetest.NewMemory(), storagetest.FailNth(0, false))
		},
		"Crashing": func() kassett.Storage { return storagetest.NewCrashing(storagetest.NewMemory(), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(*testing.T) kassett.Storage { return wrap() })
		})
	}
}

// note returns a body and the handle of a file with this content.
func note(k kassett.FileKind, content string) (kassett.Handle, kassett.Body) {
	b := []byte(content)
	return kassett.Handle{Kind: k, ID: kassett.Hash(b)}, kassett.BytesBody(b, kassett.Hash(b))
}

// TestCrashing cuts the power at each change of a small work, and holds the
// states found afterwards to what the seam promises, and no more than that.
func TestCrashing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	start := storagetest.NewMemory()
	oldPack, oldPackBody := note(kassett.PackFile, "old pack")
	oldIndex, oldIndexBody := note(kassett.IndexFile, "old index")
	newPack, newPackBody := note(kassett.PackFile, "new pack")
	newIndex, newIndexBody := note(kassett.IndexFile, "new index")
	for h, b := range map[kassett.Handle]kassett.Body{oldPack: oldPackBody, oldIndex: oldIndexBody} {
		if err := start.Put(ctx, h, b); err != nil {
			t.Fatal(err)
		}
	}
	all := []kassett.Handle{oldPack, oldIndex, newPack, newIndex}
	work := func(s kassett.Storage) error {
		return errors.Join(s.Put(ctx, newPack, newPackBody), s.Put(ctx, newIndex, newIndexBody),
			s.Delete(ctx, oldIndex), s.Delete(ctx, oldPack))
	}
	// Which of all may be there: "1" yes, "0" no, as sets of strings.
	want := []map[string]bool{
		1: {"1100": true, "1110": true},
		2: {"1110": true, "1111": true},
		3: {"1111": true, "1011": true},
		4: {"1011": true, "0011": true},
		5: {"0011": true, "1011": true}, // not cut: the deletion of a pack may not last
	}
	for n := 1; n <= 5; n++ {
		c := storagetest.NewCrashing(start, n)
		err := work(c)
		if c.Crashed() != (n < 5) || errors.Is(err, storagetest.ErrCrashed) != (n < 5) {
			t.Fatalf("change %d: crashed %v, error %v", n, c.Crashed(), err)
		}
		if len(c.Log()) != min(n, 4) {
			t.Errorf("change %d: the log is %v", n, c.Log())
		}
		if _, err := c.Stat(ctx, oldPack); c.Crashed() && !errors.Is(err, storagetest.ErrCrashed) {
			t.Errorf("change %d: Stat after the crash = %v", n, err)
		}
		seen := map[string]bool{}
		for name, m := range c.Survivors() {
			state := ""
			for _, h := range all {
				if m.Bytes(h) != nil {
					state += "1"
				} else {
					state += "0"
				}
			}
			if !want[n][state] {
				t.Errorf("%s: %s", name, state)
			}
			seen[state] = true
		}
		if len(seen) != len(want[n]) {
			t.Errorf("change %d: seen %v, want %v", n, seen, want[n])
		}
	}
	if len(start.Handles(kassett.PackFile)) != 1 {
		t.Error("the start was changed")
	}
}

// TestCrashingManyAtOnce cuts the power while eight puts are on their way.
func TestCrashingManyAtOnce(t *testing.T) {
	t.Parallel()
	c := storagetest.NewCrashing(storagetest.NewMemory(), 8)
	var wg sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(8)
	for i := range 8 {
		wg.Go(func() {
			h, body := note(kassett.PackFile, strings.Repeat("x", i))
			open := body.Open
			body.Open = func() (io.ReadCloser, error) {
				begun.Done()
				begun.Wait() // all have begun, so the power is cut
				return open()
			}
			if err := c.Put(t.Context(), h, body); !errors.Is(err, storagetest.ErrCrashed) {
				t.Errorf("Put = %v", err)
			}
		})
	}
	wg.Wait()
	counts := map[int]int{}
	for _, m := range c.Survivors() {
		kept := len(m.Handles(kassett.PackFile))
		counts[kept]++
		if torn, err := m.Sweep(t.Context(), time.Now()); err != nil || torn != 8-kept {
			t.Errorf("Sweep = %d, %v; want what was lost, %d", torn, err, 8-kept)
		}
	}
	if counts[0] != 1 || counts[1] != 8 || counts[7] != 8 || counts[8] != 1 {
		t.Errorf("states by number of files kept: %v", counts)
	}
}

func TestFailing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h, body := note(kassett.PackFile, "a pack of some length")
	other, otherBody := note(kassett.IndexFile, "an index")

	t.Run("before", func(t *testing.T) {
		t.Parallel()
		m := storagetest.NewMemory()
		s := storagetest.NewFailing(m, storagetest.FailNth(1, false))
		if err := s.Put(ctx, h, body); !errors.Is(err, storagetest.ErrInjected) || m.Bytes(h) != nil {
			t.Errorf("Put = %v, and the file is there: %v", err, m.Bytes(h) != nil)
		}
		if err := s.Put(ctx, h, body); err != nil {
			t.Error(err)
		}
	})
	t.Run("after", func(t *testing.T) {
		t.Parallel()
		m := storagetest.NewMemory()
		s := storagetest.NewFailing(m, func(storagetest.Call) *storagetest.Fault {
			return &storagetest.Fault{Err: storagetest.ErrInjected, After: true}
		})
		if err := s.Put(ctx, h, body); !errors.Is(err, storagetest.ErrInjected) || m.Bytes(h) == nil {
			t.Errorf("Put = %v, and the file is there: %v", err, m.Bytes(h) != nil)
		}
		r, err := s.Get(ctx, h, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(r); !errors.Is(err, storagetest.ErrInjected) || len(b) != len("a pack of some length")/2 {
			t.Errorf("the stream gives %d bytes, %v", len(b), err)
		}
		if err := m.Put(ctx, other, otherBody); err != nil {
			t.Fatal(err)
		}
		err = nil
		for _, e := range s.List(ctx, kassett.IndexFile) {
			err = e
		}
		if !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("List ends with %v", err)
		}
	})
	t.Run("disk full", func(t *testing.T) {
		t.Parallel()
		m := storagetest.NewMemory()
		s := storagetest.NewFailing(m, storagetest.DiskFull(2))
		if err := s.Put(ctx, h, body); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := s.Put(ctx, other, otherBody); kassett.KindOf(err) != kassett.Full {
				t.Errorf("Put = %v", err)
			}
		}
		if err := s.Delete(ctx, h); err != nil {
			t.Errorf("Delete on a full disk: %v", err)
		}
	})
	t.Run("read-only", func(t *testing.T) {
		t.Parallel()
		m := storagetest.NewMemory()
		if err := m.Put(ctx, h, body); err != nil {
			t.Fatal(err)
		}
		s := storagetest.NewFailing(m, storagetest.ReadOnly())
		for _, err := range []error{s.Put(ctx, other, otherBody), s.Delete(ctx, h), s.PutBeside(ctx, "a", body)} {
			if kassett.KindOf(err) != kassett.Denied {
				t.Errorf("a change = %v", err)
			}
		}
		if _, err := s.Stat(ctx, h); err != nil {
			t.Error(err)
		}
	})
	t.Run("one kind", func(t *testing.T) {
		t.Parallel()
		s := storagetest.NewFailing(storagetest.NewMemory(), storagetest.FailKind(storagetest.Put, kassett.IndexFile, storagetest.ErrInjected))
		if err := errors.Join(s.Put(ctx, h, body), s.PutBeside(ctx, "index", body)); err != nil {
			t.Error(err)
		}
		if err := s.Put(ctx, other, otherBody); !errors.Is(err, storagetest.ErrInjected) {
			t.Errorf("Put = %v", err)
		}
	})
}

func TestTracing(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s := storagetest.NewTracing(storagetest.NewMemory())
	h, body := note(kassett.PackFile, "pack")
	_ = s.Put(ctx, h, body)
	_ = s.PutBeside(ctx, "a/b", body)
	_, _ = s.Get(ctx, h, 1, 2)
	_ = s.Delete(ctx, h)
	got := []string{}
	for _, c := range s.Calls() {
		got = append(got, c.String())
	}
	want := []string{"1 put " + h.String(), "2 put kassett/a/b", "3 get " + h.String(), "4 delete " + h.String()}
	if !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	if c := s.Calls(storagetest.Get); len(c) != 1 || c[0].Off != 1 || c[0].Len != 2 {
		t.Errorf("gets %+v", c)
	}
	s.Reset()
	if n := len(s.Calls()); n != 0 {
		t.Errorf("%d calls after Reset", n)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	storagetest.RunLocked(t, func(*testing.T) (storagetest.LockedStorage, storagetest.Hostile) {
		s := storagetest.NewLocked(kassett.Retention{Mode: kassett.Compliance, Period: time.Hour, Slack: time.Hour}, time.Now)
		return s, func(_ *testing.T, n kassett.StoredName, b []byte) { s.Overwrite(n, b) }
	})
}
