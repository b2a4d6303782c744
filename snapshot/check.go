package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// CheckOptions chooses what [Check] looks at.
type CheckOptions struct {
	// Snapshots limits the check; nil checks all there are.
	Snapshots []*Snapshot
	Progress  *kassett.Progress
}

// Check walks every tree of the snapshots once and tells report, one call at a
// time, what is missing, damaged or makes no sense, by snapshot and path. It
// returns the blobs that are in use, as far as they could be found.
//
// The caller holds a lock and has loaded the index. When there was something
// to report the error is of the kind [kassett.Corrupt].
func Check(ctx context.Context, r *repo.Repository, o CheckOptions, report func(repo.Finding)) (*repo.BlobSet, error) {
	return nil, errors.ErrUnsupported
}
