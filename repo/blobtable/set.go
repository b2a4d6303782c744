package blobtable

import (
	"sync"
	"sync/atomic"
)

// Set is a set of blobs: one bit for each record that the blob table had
// when the set was made, and a map for the few others. Its methods are safe for
// many goroutines. It must not be used after its table is closed.
type Set struct {
	runs []*run
	bits [][]atomic.Uint32 // by run and position
	size atomic.Int64
	err  atomic.Pointer[error]

	mu     sync.RWMutex
	others map[BlobHandle]struct{} // those in none of the runs
}

// NewSet returns an empty set. It takes an eighth of a byte for each record
// of the blob table, and keeps the table's present files mapped until the
// table is closed.
func (t *Table) NewSet() *Set {
	s := &Set{runs: t.pin(), others: make(map[BlobHandle]struct{})}
	t.mu.Lock()
	t.pinned = append(t.pinned, s.runs...)
	t.mu.Unlock()
	for _, one := range s.runs {
		s.bits = append(s.bits, make([]atomic.Uint32, one.records/32+1))
	}
	return s
}

// bit returns the word and the mask that stand for a blob; nil when it is in
// none of the runs.
func (s *Set) bit(h BlobHandle) (*atomic.Uint32, uint32, error) {
	for i, one := range s.runs {
		pos, ok, err := one.find(h)
		if err != nil {
			s.fail(err)
			return nil, 0, err
		}
		if ok {
			return &s.bits[i][pos/32], 1 << (pos % 32), nil
		}
	}
	return nil, 0, nil
}

func (s *Set) fail(err error) { s.err.CompareAndSwap(nil, &err) }

// Add adds a blob and reports whether it was not in the set before.
func (s *Set) Add(h BlobHandle) (added bool) {
	word, mask, err := s.bit(h)
	switch {
	case err != nil:
		return true
	case word != nil:
		added = word.Or(mask)&mask == 0
	default:
		s.mu.Lock()
		_, is := s.others[h]
		s.others[h] = struct{}{}
		s.mu.Unlock()
		added = !is
	}
	if added {
		s.size.Add(1)
	}
	return added
}

// Has reports whether a blob is in the set.
func (s *Set) Has(h BlobHandle) bool {
	word, mask, err := s.bit(h)
	switch {
	case err != nil:
		return true
	case word != nil:
		return word.Load()&mask != 0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, is := s.others[h]
	return is
}

// Delete takes a blob out, if it is in.
func (s *Set) Delete(h BlobHandle) {
	word, mask, err := s.bit(h)
	was := false
	switch {
	case err != nil:
	case word != nil:
		was = word.And(^mask)&mask != 0
	default:
		s.mu.Lock()
		_, was = s.others[h]
		delete(s.others, h)
		s.mu.Unlock()
	}
	if was {
		s.size.Add(-1)
	}
}

// Len returns the number of blobs in the set.
func (s *Set) Len() int { return int(s.size.Load()) }

// Err returns nil unless the files under the set broke while it was in use.
// Then Add and Has have answered true where they could not know, which keeps
// blobs rather than loses them, and whoever deletes by the set must not.
func (s *Set) Err() error {
	if err := s.err.Load(); err != nil {
		return *err
	}
	return nil
}
