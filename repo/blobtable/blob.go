// Package blobtable knows which blob of a repository rests where: a table of
// hundreds of millions of entries that takes next to nothing of the Go heap.
//
// The table is a cache of the repository's index files, in sorted files of
// fixed-width records that are mapped into memory. It never gives a wrong answer
// because of what rests in the cache: every page carries a tag under a key of
// the repository, and what is missing or does not fit is made anew. The format
// is described in docs/formats/blob-table.md.
//
// It may import the root package only.
package blobtable

import "kassett"

// BlobType says what a blob holds. Its values are those of a pack's header.
type BlobType uint8

// The two types of blob. They never share a pack.
const (
	DataBlob BlobType = iota
	TreeBlob
)

// String returns the word that index files use.
func (t BlobType) String() string {
	if t == TreeBlob {
		return "tree"
	}
	return "data"
}

// BlobHandle names a blob. The same bytes as data and as tree are two blobs.
type BlobHandle struct {
	Type BlobType
	ID   kassett.ID // SHA-256 of the plaintext
}

// Blob describes one blob in a pack.
type Blob struct {
	BlobHandle
	Offset uint32 // bytes from the start of the pack
	Length uint32 // bytes, sealed
	// Plain is the length of the plaintext if the blob is compressed, else 0.
	Plain uint32
}

// Size returns the length of the plaintext in bytes.
func (b Blob) Size() uint32 {
	if b.Plain != 0 {
		return b.Plain
	}
	if b.Length < Overhead {
		return 0
	}
	return b.Length - Overhead
}

// Location is where a blob rests.
type Location struct {
	Pack kassett.ID
	Blob
}

// Overhead is what sealing adds: 16 bytes IV in front, 16 bytes MAC behind.
const Overhead = 32
