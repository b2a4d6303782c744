package mount

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"
)

// grace is how long an interrupted reader still waits for what it asked for.
// Programs get signals that mean nothing to their reading, and most take an
// interrupted read for a failed one; on the other hand a storage that hangs must
// not make a process that nobody can stop.
const grace = time.Second

// errDropped is what became of a load that nobody wanted any more.
var errDropped = errors.New("reading ahead was given up")

// cache keeps loaded values, those used last, up to a number of bytes. Whoever
// asks for what is being loaded waits for it instead of loading it again. The
// one value used last is kept whatever its size.
type cache[K comparable, V any] struct {
	mu    sync.Mutex
	limit int64 // bytes
	held  int64
	slots map[K]*slot[K, V]
	used  *list.List // of *slot that are filled, the one used last in front
}

// slot holds one value, or is being filled.
type slot[K comparable, V any] struct {
	key  K
	done chan struct{} // closed when what follows is set
	v    V
	err  error

	size int64
	at   *list.Element // nil while it is being filled
}

func newCache[K comparable, V any](limit int64) *cache[K, V] {
	return &cache[K, V]{limit: limit, slots: map[K]*slot[K, V]{}, used: list.New()}
}

// claim returns the slot of a key, and whether the caller must fill it.
func (c *cache[K, V]) claim(k K) (s *slot[K, V], mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s = c.slots[k]; s != nil {
		if s.at != nil {
			c.used.MoveToFront(s.at)
		}
		return s, false
	}
	s = &slot[K, V]{key: k, done: make(chan struct{})}
	c.slots[k] = s
	return s, true
}

// fill ends what claim began. A failure is told to all who wait, and forgotten:
// the next who asks tries again.
func (c *cache[K, V]) fill(s *slot[K, V], v V, size int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.v, s.err, s.size = v, err, size
	close(s.done)
	if err != nil {
		delete(c.slots, s.key)
		return
	}
	s.at = c.used.PushFront(s)
	for c.held += size; c.held > c.limit && c.used.Len() > 1; {
		old, _ := c.used.Remove(c.used.Back()).(*slot[K, V]) // always one
		c.held -= old.size
		delete(c.slots, old.key)
	}
}

// wait returns a slot's value when it is there.
func (s *slot[K, V]) wait(ctx context.Context) (V, error) {
	select {
	case <-s.done:
		return s.v, s.err
	default:
	}
	select {
	case <-s.done:
		return s.v, s.err
	case <-ctx.Done():
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-s.done:
		return s.v, s.err
	case <-t.C:
		var none V
		return none, context.Cause(ctx)
	}
}
