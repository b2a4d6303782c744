package repo

import (
	"context"
	"errors"
	"time"

	"kassett"
)

// LockMode is how a repository is locked.
type LockMode uint8

// The two modes. Any number of Shared locks go together; an Exclusive one goes
// with no other.
const (
	Shared LockMode = iota
	Exclusive
)

// LockOptions say how a lock is taken.
type LockOptions struct {
	// Retry is for how long to try again while someone else holds the
	// repository; 0 = not at all.
	Retry time.Duration
	// NoLock takes no lock at all: for reading storage that cannot be
	// written. Whoever removes files meanwhile makes such a reader fail.
	NoLock bool
}

// LockInfo describes a lock file.
type LockInfo struct {
	ID         kassett.ID
	Time       time.Time // last refreshed
	Exclusive  bool
	Host, User string
	PID        int
	UID, GID   uint32
	Stale      bool // by the rule of docs/formats/repository.md: its maker is gone
}

// Lock is a lock that is held.
type Lock struct{ cancel context.CancelFunc }

// Lock locks the repository. The returned context ends when the lock is given
// back or lost; everything done under the lock uses it.
func (r *Repository) Lock(ctx context.Context, mode LockMode, o LockOptions) (*Lock, context.Context, error) {
	ctx, cancel := context.WithCancel(ctx)
	return &Lock{cancel}, ctx, nil
}

// Unlock gives the lock back.
func (l *Lock) Unlock() error { l.cancel(); return nil }

// Locks returns the locks there are.
func (r *Repository) Locks(ctx context.Context) ([]LockInfo, error) {
	return nil, errors.ErrUnsupported
}

// RemoveLocks removes the stale locks, or all.
func (r *Repository) RemoveLocks(ctx context.Context, all bool) (removed int, err error) {
	return 0, errors.ErrUnsupported
}
