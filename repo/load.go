package repo

import (
	"context"

	"kassett"
)

// LoadBlob returns the plaintext of a blob.
func (r *Repository) LoadBlob(ctx context.Context, h BlobHandle, buf []byte) ([]byte, error) {
	return nil, errSoon
}

// LoadBlobs reads many blobs of one pack.
func (r *Repository) LoadBlobs(ctx context.Context, pack kassett.ID, blobs []Blob, fn func(b Blob, plain []byte, err error) error) error {
	return errSoon
}

// PackHeader reads what a pack says it holds.
func (r *Repository) PackHeader(ctx context.Context, pack kassett.ID, size int64) ([]Blob, error) {
	return nil, errSoon
}
