package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// RecoverOptions describe the snapshot that [Recover] makes.
type RecoverOptions struct {
	Host, User string
	Version    string // of the program, as "kassett 1.0"
	Progress   *kassett.Progress
	Warn       func(err error) // told of trees that cannot be read; may be nil
}

// Recover puts every tree that neither another tree nor a snapshot names into
// one new snapshot, tagged "recovered", each as a folder named by the first
// digits of its ID. It returns nil when there is none. The caller has loaded
// the index and holds an exclusive lock.
func Recover(ctx context.Context, r *repo.Repository, o RecoverOptions) (*Snapshot, error) {
	return nil, errors.ErrUnsupported
}
