package repo

import "sync"

// BlobSet is a set of blobs.
type BlobSet struct {
	mu sync.Mutex
	m  map[BlobHandle]struct{}
}

// NewBlobSet returns an empty set.
func (r *Repository) NewBlobSet() *BlobSet { return &BlobSet{m: make(map[BlobHandle]struct{})} }

// Add adds a blob.
func (s *BlobSet) Add(h BlobHandle) (added bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.m[h]
	s.m[h] = struct{}{}
	return !ok
}

// Has reports whether a blob is in the set.
func (s *BlobSet) Has(h BlobHandle) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.m[h]
	return ok
}

// Delete takes a blob out.
func (s *BlobSet) Delete(h BlobHandle) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.m, h)
}

// Len returns the number of blobs.
func (s *BlobSet) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.m)
}

// Err returns why the set cannot be trusted any more, or nil.
func (s *BlobSet) Err() error { return nil }
