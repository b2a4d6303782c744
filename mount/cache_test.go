package mount

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestCacheBounds: what was not used for the longest time goes first, and the
// newest stays even if it is too large.
func TestCacheBounds(t *testing.T) {
	t.Parallel()
	c := newCache[int, string](10)
	put := func(k int, size int64) {
		s, mine := c.claim(k)
		if mine {
			c.fill(s, "", size, nil)
		}
	}
	has := func(k int) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.slots[k] != nil
	}
	put(1, 4)
	put(2, 4)
	put(1, 4) // used again
	put(3, 4)
	if !has(1) || has(2) || !has(3) || c.held != 8 {
		t.Errorf("1 %v 2 %v 3 %v, %d bytes; want 1 and 3", has(1), has(2), has(3), c.held)
	}
	put(4, 100)
	if has(1) || has(3) || !has(4) || c.held != 100 {
		t.Errorf("beside a large one others stay: %d bytes", c.held)
	}
	put(5, 1)
	if has(4) || !has(5) || c.held != 1 || c.used.Len() != len(c.slots) {
		t.Errorf("the large one stays: %d bytes", c.held)
	}
}

// TestCacheLoadsOnce: all who ask for one thing get what one of them loads; what
// failed is tried again.
func TestCacheLoadsOnce(t *testing.T) {
	t.Parallel()
	c := newCache[int, int](10)
	s, mine := c.claim(1)
	if !mine {
		t.Fatal("the first to ask is to load")
	}
	var g sync.WaitGroup
	for range 10 {
		same, mine := c.claim(1)
		if mine || same != s {
			t.Error("another is to load as well")
		}
		g.Go(func() {
			if v, err := same.wait(t.Context()); v != 7 || err != nil {
				t.Errorf("got %d, %v", v, err)
			}
		})
	}
	c.fill(s, 7, 1, nil)
	g.Wait()

	bad, _ := c.claim(2)
	fault := errors.New("damaged")
	c.fill(bad, 0, 0, fault)
	if _, err := bad.wait(t.Context()); !errors.Is(err, fault) {
		t.Errorf("a failed load gives %v", err)
	}
	if _, mine := c.claim(2); !mine {
		t.Error("a failed load is remembered")
	}
}

// TestWaitEnds: a reader that was stopped gets away from a load that hangs, but
// not from one that comes soon.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	c := newCache[int, int](10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, _ := c.claim(1)
	if _, err := s.wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a load that hangs: %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := s.wait(ctx)
		got <- err
	}()
	c.fill(s, 1, 1, nil)
	if err := <-got; err != nil {
		t.Errorf("a load that comes: %v", err)
	}
}
