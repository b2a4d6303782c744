package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"kassett"
)

// The times of restic's locks. All writers of a repository must have the same.
const (
	lockRefresh = 5 * time.Minute                 // a holder writes its lock anew
	lockAbort   = 22*time.Minute + 30*time.Second // a holder that could not, stops
	lockStale   = 30 * time.Minute                // others may take the holder for dead
	lockSettle  = 200 * time.Millisecond          // between writing a lock and looking for others
)

// Times of our own.
const (
	lockPoll       = time.Second     // how often a holder looks at the clock: timers stand still while a machine sleeps
	lockAgain      = time.Minute     // between attempts to refresh, and the longest that one takes
	cleanupTime    = time.Minute     // the longest that tidying up after cancellation takes
	lockRetryFirst = 5 * time.Second // between attempts to lock, doubling
	lockRetryMost  = time.Minute
	lockReads      = 4               // attempts to read a lock that cannot be read
	lockBrief      = 2 * time.Minute // how long a lock that is held for seconds is waited for, whoever waits
)

// LockMode is how a repository is locked.
type LockMode uint8

// The modes. To stock restic the first two are its shared locks, of which any
// number go together, and the others its exclusive ones, which go with no other.
const (
	// Shared is for whoever relies on what is there.
	Shared LockMode = iota
	// Adding is Shared for a careful writer. It refers in what it writes only
	// to blobs that it stored itself, or for which [Repository.Has] was asked
	// after the lock was taken and the index was loaded. Then Has does not know
	// what doomed lists name, and Forgetting and Sweeping go on beside it.
	Adding
	// Exclusive is for whoever removes or replaces.
	Exclusive
	// Forgetting is Exclusive towards all but Adding, held for seconds: for
	// removing snapshots.
	Forgetting
	// Sweeping is Exclusive towards all but Adding locks that honour the lists
	// to be swept, held for seconds: for [Marking.Sweep].
	Sweeping
)

func (m LockMode) exclusive() bool { return m >= Exclusive }

// LockOptions say how a lock is taken.
type LockOptions struct {
	// Retry is for how long to try again while someone else holds the
	// repository; 0 = not at all.
	Retry time.Duration
	// NoLock takes no lock at all: for reading storage that cannot be
	// written. Whoever removes files meanwhile makes such a reader fail.
	NoLock bool
	// Waiting is told who holds the repository, each time that it is another
	// one that is waited for. When nil, Options.Warn is, once.
	Waiting func(LockInfo)
	// Lists are the doomed lists to be swept, for the mode Sweeping. One that
	// not all holders honour is left out; when none is left it is waited for.
	Lists []kassett.ID
	// Cleared is told of every lock that was removed on the way because its
	// holder is proved to be gone: killed, or cut off from power. When nil,
	// Options.Warn is.
	Cleared func(LockInfo)
}

// Lock is a lock that is held. A goroutine of its own refreshes it.
type Lock struct {
	repo     *Repository
	mode     LockMode
	cleared  func(LockInfo)
	lists    []kassett.ID // to be swept, which all other holders honour
	cancel   context.CancelCauseFunc
	unshield func()
	shares   chan chan struct{} // asks the keeper to make the lock a shared one
	done     chan struct{}      // closed when the keeper has ended; what follows is the keeper's until then

	file lockFile
	id   kassett.ID
	rest []kassett.ID // own lock files that could not be removed, or may not exist
	lost error

	once sync.Once
	err  error
}

// Lock locks the repository against stock restic and other Kassetts. The
// returned context ends when the lock is given back, and with a cause of kind
// [kassett.Locked] when it is lost: everything done under the lock uses it. If
// someone else holds the repository the error is [kassett.Locked] and says who.
func (r *Repository) Lock(ctx context.Context, mode LockMode, o LockOptions) (*Lock, context.Context, error) {
	l := &Lock{
		repo: r, mode: mode, cleared: o.Cleared,
		unshield: func() {}, shares: make(chan chan struct{}), done: make(chan struct{}),
	}
	if o.NoLock {
		close(l.done)
		held, cancel := context.WithCancelCause(ctx)
		l.cancel = cancel
		return l, held, nil
	}
	if err := l.acquireWithin(ctx, o); err != nil {
		return nil, ctx, err
	}
	held, cancel := context.WithCancelCause(ctx)
	l.cancel = cancel
	go l.keep(held)
	return l, held, nil
}

// Hold runs work under a lock: the context it gets ends when the lock is lost.
// An error of kind [kassett.Locked] may say that, even when work had none:
// someone may have removed what it relied on.
func (r *Repository) Hold(ctx context.Context, mode LockMode, o LockOptions, work func(context.Context, *Lock) error) error {
	l, held, err := r.Lock(ctx, mode, o)
	if err != nil {
		return err
	}
	err = work(held, l)
	if err != nil && held.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w (then: %w)", context.Cause(held), err) // that is the reason
	}
	switch failed := l.Unlock(); {
	case kassett.KindOf(failed) == kassett.Locked:
		err = errors.Join(err, failed)
	case failed != nil:
		r.warn(failed)
	}
	return err
}

// acquireWithin tries to acquire the lock for as long as the options say.
func (l *Lock) acquireWithin(ctx context.Context, o LockOptions) error {
	start := time.Now()
	var last *heldError
	for wait := lockRetryFirst; ; wait = min(2*wait, lockRetryMost) {
		l.lists = slices.Clone(o.Lists)
		err := l.acquire(ctx)
		if err == nil {
			return nil
		}
		var by *heldError
		if !errors.As(err, &by) {
			return err
		}
		limit := o.Retry
		if by.brief {
			limit, wait = max(limit, lockBrief), lockPoll
		}
		left := limit - time.Since(start)
		switch {
		case left <= 0:
			return err
		case by.brief:
		case o.Waiting != nil && (last == nil || !last.same(by)):
			o.Waiting(by.LockInfo)
		case o.Waiting == nil && last == nil:
			l.repo.warn(err)
		}
		if !by.brief {
			last = by
		}
		// Two that met must not meet again and again.
		if err := sleep(ctx, min(left, wait+rand.N(wait/4))); err != nil {
			return err
		}
	}
}

// Share makes an exclusive lock a shared one, so that those go on who wait for
// it. If that cannot be done now it is when the lock is next refreshed.
func (l *Lock) Share() {
	done := make(chan struct{})
	select {
	case l.shares <- done:
		<-done
	case <-l.done:
	}
}

// Lists returns the doomed lists that may be swept under a lock of the mode
// [Sweeping]: those of its options that every other holder honours.
func (l *Lock) Lists() []kassett.ID { return l.lists }

// acquire looks for other locks, writes one, waits, and looks again. Whoever
// comes at the same moment sees ours, or we see theirs.
func (l *Lock) acquire(ctx context.Context) (err error) {
	l.file = newLockFile(l.mode)
	if l.mode == Adding {
		// Before the lock is there: what it says to honour is honoured by then.
		if l.file.Honours, err = l.repo.honour(ctx); err != nil {
			return err
		}
	}
	if err := l.conflict(ctx, kassett.ID{}); err != nil {
		return err
	}
	// A stock restic that asks whether we live sends SIGHUP.
	unshield := shield()
	id, err := l.write(ctx)
	if err == nil {
		if err = sleep(ctx, lockSettle); err == nil {
			err = l.conflict(ctx, id)
		}
	}
	if err != nil {
		unshield()
		l.rest = append(l.rest, id)
		return errors.Join(err, l.giveBack())
	}
	l.id, l.unshield = id, unshield
	return nil
}

// write stores a lock file with the present time. An ID beside an error says
// that the file may have been stored all the same.
func (l *Lock) write(ctx context.Context) (kassett.ID, error) {
	l.file.Time = time.Now()
	plain, err := json.Marshal(&l.file)
	if err != nil {
		return kassett.ID{}, err
	}
	sealed, err := l.repo.sealUnpacked(kassett.LockFile, plain)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("seal lock: %w", err)
	}
	h := kassett.Handle{Kind: kassett.LockFile, ID: kassett.Hash(sealed)}
	err = l.repo.storage.Put(ctx, h, kassett.BytesBody(sealed, h.ID))
	switch kassett.KindOf(err) {
	case kassett.Denied:
		return kassett.ID{}, &kassett.Error{
			Op: "write lock", Kind: kassett.Denied, Err: err,
			Hint: "make the storage writable; a command that only reads can do without a lock: --no-lock",
		}
	case kassett.Full:
		return kassett.ID{}, fmt.Errorf("write lock: %w", err)
	}
	return h.ID, err
}

// keep refreshes the lock until ctx ends or the lock is lost.
func (l *Lock) keep(ctx context.Context) {
	defer close(l.done)
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	fresh, due := time.Now(), lockRefresh
	for {
		select {
		case <-ctx.Done():
			return
		case done := <-l.shares:
			l.file.Exclusive, l.file.Brief = false, false
			err := l.refresh(ctx, 0)
			close(done)
			if err == nil {
				fresh, due = time.Now(), lockRefresh
				continue
			}
			if ctx.Err() != nil || l.lost != nil {
				return
			}
			l.repo.warn(fmt.Errorf("make the lock a shared one (tried again in some minutes): %w", err))
			continue
		case <-tick.C:
		}
		now := time.Now()
		age := apart(fresh, now)
		if age < due {
			continue
		}
		if age >= lockAbort {
			if !l.rescue(ctx) {
				return
			}
		} else if err := l.refresh(ctx, 0); err != nil {
			if ctx.Err() != nil || l.lost != nil {
				return
			}
			l.repo.warn(fmt.Errorf("refresh lock (tried again in a minute): %w", err))
			due = min(age+lockAgain, lockAbort)
			continue
		}
		fresh, due = now, lockRefresh
	}
}

// apart returns how much time has passed, by the clock that says more: the
// monotonic one stands still in standby, the one on the wall is set. A wall
// clock that was set back counts too: to others our lock is then from the
// future, or was from the past.
func apart(a, b time.Time) time.Duration {
	return max(b.Sub(a), b.Round(0).Sub(a.Round(0)).Abs())
}

// rescue is for a lock that others may have taken for stale: nothing is written
// to the repository until it is sure that it still stands. It reports whether
// it does.
func (l *Lock) rescue(ctx context.Context) bool {
	l.repo.gate.Lock()
	defer l.repo.gate.Unlock()
	err := l.refresh(ctx, lockSettle)
	if err == nil || ctx.Err() != nil {
		return err == nil
	}
	l.lose(fmt.Errorf("it could not be refreshed in time: %w", err))
	return false
}

// lose ends the work under the lock.
func (l *Lock) lose(err error) {
	if l.lost != nil {
		return
	}
	l.lost = &kassett.Error{
		Op: "hold lock", Kind: kassett.Locked, Err: err,
		Hint: "see that the storage can be reached and that nobody runs `unlock --remove-all` meanwhile; then run the command again",
	}
	l.cancel(l.lost)
}

var errLockRemoved = errors.New("someone removed our lock")

// refresh writes the lock anew and then removes the old file. A lock that is
// gone is lost: whoever removed it takes the repository for free. With settle,
// that is asked once more after the new file is there.
func (l *Lock) refresh(ctx context.Context, settle time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, lockAgain)
	defer cancel()
	old := l.id
	if err := l.standing(ctx, old); err != nil {
		return err
	}
	id, err := l.write(ctx)
	if err == nil && settle > 0 {
		if err = sleep(ctx, settle); err == nil {
			err = l.standing(ctx, old)
		}
	}
	if err != nil {
		l.rest = append(l.rest, id)
		return err
	}
	l.id, l.rest = id, append(l.rest, old)
	if err := l.removeRest(ctx); err != nil && ctx.Err() == nil {
		l.repo.warn(fmt.Errorf("remove old lock: %w", err))
	}
	return nil
}

// standing reports why our lock file does not stand; if it is gone the lock is
// lost.
func (l *Lock) standing(ctx context.Context, id kassett.ID) error {
	_, err := l.repo.storage.Stat(ctx, kassett.Handle{Kind: kassett.LockFile, ID: id})
	if kassett.KindOf(err) == kassett.NotFound {
		err = errLockRemoved
		l.lose(err)
	}
	return err
}

// removeRest removes lock files of our own that are no longer needed. Those
// that could not be removed are kept for the next time.
func (l *Lock) removeRest(ctx context.Context) error {
	var errs []error
	l.rest = slices.DeleteFunc(l.rest, func(id kassett.ID) bool {
		if id.IsZero() {
			return true
		}
		err := l.repo.storage.Delete(ctx, kassett.Handle{Kind: kassett.LockFile, ID: id})
		if err != nil && kassett.KindOf(err) != kassett.NotFound {
			errs = append(errs, err)
			return false
		}
		return true
	})
	return errors.Join(errs...)
}

// giveBack removes all lock files of our own, also when the work was cancelled.
func (l *Lock) giveBack() error {
	//nolint:forbidigo // giving back must work when every context has ended
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTime)
	defer cancel()
	var err error
	if !l.id.IsZero() && l.lost == nil {
		if err = l.standing(ctx, l.id); errors.Is(err, errLockRemoved) {
			err = l.lost
		}
	}
	l.rest = append(l.rest, l.id)
	if removeErr := l.removeRest(ctx); removeErr != nil {
		err = errors.Join(err, &kassett.Error{
			Op: "remove lock", Kind: kassett.KindOf(removeErr), Err: removeErr,
			Hint: "the lock stays behind; run `kassett unlock` when the storage can be written again",
		})
	}
	return err
}

// Unlock gives the lock back and ends its context; more calls do nothing. It
// works after the context was cancelled. An error of kind [kassett.Locked] says
// that the lock was lost or removed while it was held.
func (l *Lock) Unlock() error {
	l.once.Do(func() {
		l.cancel(context.Canceled)
		<-l.done
		l.err = errors.Join(l.lost, l.giveBack())
		l.unshield()
	})
	return l.err
}

// lockFile is a lock file: JSON with restic's fields.
type lockFile struct {
	Time      time.Time `json:"time"`
	Exclusive bool      `json:"exclusive"`
	Hostname  string    `json:"hostname"`
	Username  string    `json:"username"`
	PID       int       `json:"pid"`
	UID       uint32    `json:"uid,omitempty"`
	GID       uint32    `json:"gid,omitempty"`

	// These are ours alone.
	Holder  *lockHolder  `json:"holder,omitempty"`
	Adds    bool         `json:"adds,omitempty"`    // of a careful writer: see Adding
	Honours []kassett.ID `json:"honours,omitempty"` // doomed lists that its holder treats so
	Brief   bool         `json:"brief,omitempty"`   // held for seconds
}

func newLockFile(mode LockMode) lockFile {
	return lockFile{
		Exclusive: mode.exclusive(), Adds: mode == Adding, Brief: mode > Exclusive, Hostname: thisHost(), Username: thisUser(), PID: os.Getpid(),
		UID: uint32(max(0, os.Getuid())), GID: uint32(max(0, os.Getgid())), // -1 on Windows
		Holder: thisHolder(),
	}
}

// decodeLock reads the plaintext of a lock file.
func decodeLock(plain []byte) (lockFile, error) {
	var f lockFile
	if err := json.Unmarshal(plain, &f); err != nil {
		return lockFile{}, err
	}
	if f.Time.IsZero() {
		return lockFile{}, errors.New("it has no time")
	}
	return f, nil
}

// sleep waits for d, or returns why ctx ended before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
