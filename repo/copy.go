package repo

import (
	"context"
	"errors"

	"kassett"
)

// CopyStats is what a copy did.
type CopyStats struct {
	Blobs   uint64 `json:"blobs"`   // copied
	Bytes   uint64 `json:"bytes"`   // of them, as sealed
	Skipped uint64 `json:"skipped"` // blobs that were there already
}

// CopyBlobs copies the blobs of set, which belongs to src, to dst.
func CopyBlobs(ctx context.Context, src, dst *Repository, set *BlobSet, p *kassett.Progress) (CopyStats, error) {
	return CopyStats{}, errors.ErrUnsupported
}
