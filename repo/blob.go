package repo

import (
	"errors"
	"fmt"

	"kassett/repo/blobtable"
	"kassett/repo/seal"
)

// BlobType says what a blob holds.
type BlobType = blobtable.BlobType

// BlobHandle names a blob. The same bytes as data and as tree are two blobs.
type BlobHandle = blobtable.BlobHandle

// Blob describes one blob in a pack.
type Blob = blobtable.Blob

// Location is where a blob rests.
type Location = blobtable.Location

// BlobSet is a set of blobs: a bit for each blob that the repository knew when
// the set was made, and a map for others.
type BlobSet = blobtable.Set

// The two types of blob. They never share a pack.
const (
	DataBlob = blobtable.DataBlob
	TreeBlob = blobtable.TreeBlob
)

// Overhead is what sealing adds: 16 bytes IV in front, 16 bytes MAC behind.
const Overhead = seal.Overhead

// checkBlob reports what no writer of the format can have meant.
func checkBlob(b Blob) error {
	switch {
	case b.ID.IsZero():
		return errors.New("the blob ID is zero")
	case b.Length < Overhead:
		return fmt.Errorf("sealed length %d, at least %d are needed", b.Length, Overhead)
	case b.Plain != 0 && b.Length == Overhead:
		return fmt.Errorf("%d bytes, compressed to nothing", b.Plain)
	case uint64(b.Offset)+uint64(b.Length) > 1<<32-1:
		return fmt.Errorf("offset %d and length %d pass the 4 GiB a pack may have", b.Offset, b.Length)
	}
	return nil
}
