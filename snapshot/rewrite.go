package snapshot

import (
	"context"
	"errors"
	"time"

	"kassett"
	"kassett/repo"
)

// RewriteOptions say what [Rewrite] changes.
type RewriteOptions struct {
	Select  Select // what stays; nil keeps everything
	Host    string // new host; "" keeps the old
	Time    time.Time
	Summary bool // count files and bytes where the snapshot has no summary
	Forget  bool // remove the old snapshots; otherwise the new ones are tagged "rewrite"
	DryRun  bool

	Progress *kassett.Progress
	Removed  func(path string) // told what is left out; may be nil
	Done     func(Replaced)    // told what was written; may be nil
}

// Rewrite writes the snapshots anew without what o.Select does not select. All
// that is untouched stays as it is, byte for byte. With o.Forget, guarded
// snapshots are refused with a [kassett.Held] error and left as they are. The
// caller has loaded the index and holds a lock, with o.Forget an exclusive one.
func Rewrite(ctx context.Context, r *repo.Repository, list []*Snapshot, o RewriteOptions) error {
	return errors.ErrUnsupported
}
