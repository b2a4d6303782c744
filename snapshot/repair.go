package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// RepairOptions say how [RepairSnapshots] works.
type RepairOptions struct {
	Forget bool // remove the damaged snapshots afterwards
	DryRun bool

	Progress *kassett.Progress
	Lost     func(path string, err error) // told what is lost; may be nil
	Done     func(Replaced)               // told what was written; may be nil
}

// RepairSnapshots writes snapshots whose trees or blobs are missing anew with
// what is left of them, tagged "repaired". The caller has loaded the index and
// holds an exclusive lock.
func RepairSnapshots(ctx context.Context, r *repo.Repository, list []*Snapshot, o RepairOptions) error {
	return errors.ErrUnsupported
}
