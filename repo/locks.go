package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"kassett"
)

// LockInfo describes a lock file.
type LockInfo struct {
	ID         kassett.ID
	Time       time.Time // when it was written; holders write it anew every 5 minutes
	Exclusive  bool
	Host, User string
	PID        int
	UID, GID   uint32
	Stale      bool // its maker is gone, by proof or by the rule of restic
	Dead       bool // by proof

	adds, brief bool         // see lockFile
	honours     []kassett.ID // see lockFile
}

// loadLock reads one lock file.
func (r *Repository) loadLock(ctx context.Context, id kassett.ID) (LockInfo, error) {
	plain, err := r.LoadUnpacked(ctx, kassett.LockFile, id)
	if err != nil {
		return LockInfo{}, err
	}
	f, err := decodeLock(plain)
	if err != nil {
		return LockInfo{}, damagedFile(kassett.Handle{Kind: kassett.LockFile, ID: id}, err)
	}
	state := f.fate(thisHolder())
	return LockInfo{
		ID: id, Time: f.Time, Exclusive: f.Exclusive, Host: f.Hostname, User: f.Username,
		PID: f.PID, UID: f.UID, GID: f.GID, Dead: state == dead,
		Stale: state == dead || state == unsure && f.stale(time.Now(), thisHost(), os.Getpid()),
		adds:  f.Adds, brief: f.Brief, honours: f.Honours,
	}, nil
}

// eachLock calls fn for every lock file with what could be read of it. Files
// without content are passed over: they are what an interrupted write leaves on
// storage that is not atomic. So are those that are gone when they are read.
func (r *Repository) eachLock(ctx context.Context, fn func(kassett.ID, LockInfo, error) error) error {
	for file, err := range r.List(ctx, kassett.LockFile) {
		if err != nil {
			return err
		}
		if file.Size == 0 {
			continue
		}
		info, err := r.loadLock(ctx, file.ID)
		if kassett.KindOf(err) == kassett.NotFound {
			continue
		}
		if err := fn(file.ID, info, err); err != nil {
			return err
		}
	}
	return nil
}

// conflict returns a [kassett.Locked] error when a lock but our own forbids
// ours. A lock that cannot be read may be one: it is read again a few times. One
// whose holder is proved to be gone is removed: after a kill or a power cut the
// next night's work must not wait for a person.
func (l *Lock) conflict(ctx context.Context, own kassett.ID) error {
	agreed := map[kassett.ID]bool{own: true}
	for try, delay := 1, lockRetryFirst; ; try, delay = try+1, 2*delay {
		var unread error
		err := l.repo.eachLock(ctx, func(id kassett.ID, info LockInfo, err error) error {
			switch {
			case agreed[id]:
			case err != nil:
				unread = cmp.Or(unread, err)
			case info.Dead && l.clear(ctx, info):
			case l.goesWith(info):
				agreed[id] = true
			default:
				return info.refuse()
			}
			return nil
		})
		if err != nil || unread == nil {
			return err
		}
		if kind := kassett.KindOf(unread); try == lockReads || kind == kassett.Denied || kind == kassett.Interrupted {
			return &kassett.Error{
				Op: "lock repository", Kind: kind, Err: fmt.Errorf("a lock that is there cannot be read: %w", unread),
				Hint: "make sure that nobody uses the repository, then run `kassett unlock --remove-all`",
			}
		}
		if err := sleep(ctx, delay); err != nil {
			return err
		}
	}
}

// goesWith reports whether ours may stand beside another lock. A list that the
// other one does not honour is not swept.
func (l *Lock) goesWith(other LockInfo) bool {
	switch {
	case other.Exclusive || l.mode == Exclusive:
		return false
	case l.mode == Forgetting:
		return other.adds
	case l.mode == Sweeping:
		lists := slices.DeleteFunc(slices.Clone(l.lists), func(id kassett.ID) bool { return !slices.Contains(other.honours, id) })
		if !other.adds || len(lists) == 0 {
			return false
		}
		l.lists = lists
	}
	return true
}

// clear removes the lock of a dead holder and reports whether it is gone.
func (l *Lock) clear(ctx context.Context, info LockInfo) bool {
	err := l.repo.storage.Delete(ctx, kassett.Handle{Kind: kassett.LockFile, ID: info.ID})
	if err != nil {
		return kassett.KindOf(err) == kassett.NotFound // someone else was faster
	}
	if l.cleared != nil {
		l.cleared(info)
	} else {
		l.repo.warn(fmt.Errorf("removed lock %s of process %d on %s, which is gone", info.ID.Short(), info.PID, info.Host))
	}
	return true
}

// refuse says who holds the repository.
func (info LockInfo) refuse() error {
	how, hint := "", "wait until it has ended, or let --retry-lock wait; if you are sure that it does not run any more, `kassett unlock --remove-all`"
	if info.Exclusive {
		how = "exclusively "
	}
	if info.Stale {
		hint = "its process is gone: run `kassett unlock`"
	}
	age := time.Since(info.Time).Round(time.Second)
	return &kassett.Error{Op: "lock repository", Kind: kassett.Locked, Hint: hint, Err: &heldError{info, how, age}}
}

// heldError says who holds the repository.
type heldError struct {
	LockInfo
	how string
	age time.Duration
}

func (e *heldError) Error() string {
	return fmt.Sprintf("held %sby %s, last seen %s, %s ago (lock %s)", e.how, e.Holder(), e.Time.Format(time.RFC3339), e.age, e.ID.Short())
}

// same reports whether it is the same holder, perhaps with a lock written anew.
func (e *heldError) same(other *heldError) bool { return e.Holder() == other.Holder() }

// Holder says for people who holds the lock.
func (info LockInfo) Holder() string {
	return fmt.Sprintf("%s on %s (process %d)", cmp.Or(info.User, "someone"), cmp.Or(info.Host, "an unknown host"), info.PID)
}

// Locks returns the locks there are, oldest first. Those that cannot be read
// are named in the error, beside the others.
func (r *Repository) Locks(ctx context.Context) ([]LockInfo, error) {
	var all []LockInfo
	var unread []error
	err := r.eachLock(ctx, func(_ kassett.ID, info LockInfo, err error) error {
		if err != nil {
			unread = append(unread, err)
		} else {
			all = append(all, info)
		}
		return context.Cause(ctx)
	})
	slices.SortFunc(all, func(a, b LockInfo) int { return cmp.Or(a.Time.Compare(b.Time), a.ID.Compare(b.ID)) })
	return all, errors.Join(append(unread, err)...)
}

// RemoveLocks removes the stale locks, or all of them, those that cannot be read
// too. It returns how many it removed, also beside an error. Removing the lock
// of someone who still works lets others remove what he relies on.
func (r *Repository) RemoveLocks(ctx context.Context, all bool) (removed int, err error) {
	var doomed []kassett.ID
	if all {
		for file, err := range r.List(ctx, kassett.LockFile) {
			if err != nil {
				return 0, err
			}
			doomed = append(doomed, file.ID)
		}
	} else if err := r.eachLock(ctx, func(id kassett.ID, info LockInfo, err error) error {
		if err == nil && info.Stale {
			doomed = append(doomed, id)
		}
		return context.Cause(ctx)
	}); err != nil {
		return 0, err
	}
	for _, id := range doomed {
		err := r.storage.Delete(ctx, kassett.Handle{Kind: kassett.LockFile, ID: id})
		if kassett.KindOf(err) == kassett.NotFound {
			continue
		}
		if err != nil {
			return removed, fmt.Errorf("remove lock %s: %w", id.Short(), err)
		}
		removed++
	}
	return removed, nil
}
