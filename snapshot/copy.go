package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// CopyOptions say how [Copy] reports.
type CopyOptions struct {
	Progress *kassett.Progress
	// Done, if not nil, is told of each snapshot: its copy, and whether that was
	// there already.
	Done func(from, to *Snapshot, there bool)
}

// Copy copies snapshots, with all they need, from one repository to another.
// Copies keep time, host, paths and tags, and name what they are copies of;
// those that are there already are passed over. The caller has loaded both
// indexes and holds a shared lock of both.
func Copy(ctx context.Context, src, dst *repo.Repository, list []*Snapshot, o CopyOptions) (repo.CopyStats, error) {
	return repo.CopyStats{}, errors.ErrUnsupported
}
