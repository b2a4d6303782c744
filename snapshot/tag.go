package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// TagChange says what to do with a snapshot's tags: Set replaces them all (a
// single empty tag leaves none), otherwise Add and then Remove.
type TagChange struct {
	Set, Add, Remove []string
}

// Replaced is one snapshot that was written anew.
type Replaced struct {
	Old kassett.ID `json:"old_snapshot_id"`
	New kassett.ID `json:"new_snapshot_id"` // zero when the old one was removed without another in its place, or in a dry run
}

// Tag changes the tags of the snapshots. Each is saved anew under another ID,
// which done is told, and only then the old file is removed. The caller holds
// an exclusive lock.
func Tag(ctx context.Context, r *repo.Repository, list []*Snapshot, c TagChange, done func(Replaced)) error {
	return errors.ErrUnsupported
}
