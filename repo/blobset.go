package repo

// BlobSet is a set of blobs.
type BlobSet struct{}

// NewBlobSet returns an empty set.
func (r *Repository) NewBlobSet() *BlobSet { return &BlobSet{} }

// Add adds a blob.
func (s *BlobSet) Add(h BlobHandle) (added bool) { return false }

// Has reports whether a blob is in the set.
func (s *BlobSet) Has(h BlobHandle) bool { return false }

// Delete takes a blob out.
func (s *BlobSet) Delete(h BlobHandle) {}

// Len returns the number of blobs.
func (s *BlobSet) Len() int { return 0 }

// Err returns why the set cannot be trusted any more, or nil.
func (s *BlobSet) Err() error { return nil }
