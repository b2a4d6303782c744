package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// Used returns the blobs that the trees, and all that is below them, are made
// of. A tree that cannot be read is an error: what it uses is not known.
func Used(ctx context.Context, r *repo.Repository, trees []kassett.ID, p *kassett.Progress) (*repo.BlobSet, error) {
	return nil, errors.ErrUnsupported
}
