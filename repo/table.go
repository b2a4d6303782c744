package repo

import (
	"context"
	"iter"

	"kassett"
)

// LoadIndex brings the blob table up to date with the index files.
func (r *Repository) LoadIndex(ctx context.Context, p *kassett.Progress) error { return errSoon }

// Lookup returns all places of a blob.
func (r *Repository) Lookup(h BlobHandle) []Location { return nil }

// Find returns one place of a blob.
func (r *Repository) Find(h BlobHandle) (Location, bool) { return Location{}, false }

// Has reports whether the repository has a blob.
func (r *Repository) Has(h BlobHandle) bool { return false }

// BlobSize returns the length of a blob's plaintext in bytes.
func (r *Repository) BlobSize(h BlobHandle) (uint32, bool) { return 0, false }

// Blobs yields every record of the table.
func (r *Repository) Blobs() iter.Seq[Location] { return func(func(Location) bool) {} }

// ByPack calls fn for every pack with its blobs by offset.
func (r *Repository) ByPack(fn func(pack kassett.ID, blobs []Blob) error) error { return errSoon }
