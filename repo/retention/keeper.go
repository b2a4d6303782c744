package retention

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// spotChecks is how many hints are compared with the storage before an
// extension: enough to notice within some days that hints and storage have
// nothing to do with each other any more, at a cost that does not grow.
const spotChecks = 4

// maxNamed is how many of many files an error names.
const maxNamed = 20

// Options say where a [Keeper] works.
type Options struct {
	Storage kassett.Retainer
	// Load returns what Save kept last, [kassett.NotFound] when there is
	// nothing. What somebody changed meanwhile must be an error: a wrong
	// hint loses the promise. Save may keep nothing.
	Load func() ([]byte, error)
	Save func([]byte) error
	// Pass is asked before each change; its error ends the work.
	Pass    func(ctx context.Context) error
	Workers int // calls of the storage side by side, at least 1
	// Warn is told of hints that are not believed.
	Warn func(error)
}

// Keeper knows and extends what a storage retains. It is safe for many
// goroutines.
type Keeper struct {
	o      Options
	policy kassett.Retention

	mu    sync.Mutex // guards what follows
	read  bool       // the file of hints
	hints hints
}

// New returns a keeper that knows nothing yet.
func New(o Options) *Keeper { return &Keeper{o: o, policy: o.Storage.Retention()} }

// Clock returns the storage's time.
func (k *Keeper) Clock(ctx context.Context) (time.Time, error) {
	now, err := k.o.Storage.Clock(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the clock of the storage: %w", err)
	}
	return now, nil
}

// Stored notes a file that was stored at a time of the storage, or later.
func (k *Keeper) Stored(n kassett.StoredName, at time.Time) {
	k.note(fileHint(n), at.Add(k.policy.Span()).Unix())
}

func (k *Keeper) hint(key hintKey) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hints.get(key)
}

func (k *Keeper) note(key hintKey, until int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hints.note(key, until)
}

// readHints takes in the file of hints, once.
func (k *Keeper) readHints() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read {
		return
	}
	k.read = true
	if err := k.load(); err != nil {
		k.o.Warn(fmt.Errorf("the storage is asked again what it retains: %w", err))
	}
}

// load takes in the file of hints. The caller holds k.mu.
func (k *Keeper) load() error {
	b, err := k.o.Load()
	if kassett.KindOf(err) == kassett.NotFound {
		return nil
	} else if err != nil {
		return err
	}
	return k.hints.take(b)
}

// save keeps what is known, together with what other programs have kept
// meanwhile.
func (k *Keeper) save(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.load() // a file that is damaged by now is replaced
	if err := k.o.Save(k.hints.file(now.Unix())); err != nil {
		k.o.Warn(fmt.Errorf("keep what the storage retains in the cache: %w", err))
	}
}

// Held returns those of the files of a kind that the storage retains beyond now,
// and until when. Hints are believed: one that is wrong puts off what could be
// done.
func (k *Keeper) Held(ctx context.Context, kind kassett.FileKind, ids []kassett.ID) (map[kassett.ID]time.Time, error) {
	now, err := k.Clock(ctx)
	if err != nil {
		return nil, err
	}
	k.readHints()
	var mu sync.Mutex
	held := make(map[kassett.ID]time.Time)
	return held, k.each(ctx, len(ids), func(ctx context.Context, i int) error {
		n := kassett.StoredName{Handle: kassett.Handle{Kind: kind, ID: ids[i]}}
		until := time.Unix(k.hint(fileHint(n)), 0)
		if !until.After(now) {
			var err error
			until, err = k.o.Storage.RetainedUntil(ctx, n)
			if kassett.KindOf(err) == kassett.NotFound {
				return nil
			} else if err != nil {
				return fmt.Errorf("find what the storage retains: %w", err)
			}
			k.note(fileHint(n), until.Unix())
		}
		if until.After(now) {
			mu.Lock()
			defer mu.Unlock()
			held[ids[i]] = until
		}
		return nil
	})
}

// each calls fn for the numbers below n, side by side.
func (k *Keeper) each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, k.o.Workers))
	for i := range n {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return fn(gctx, i) })
	}
	return cmp.Or(g.Wait(), context.Cause(ctx))
}

// Begin starts an extension, from now on by the storage's clock.
func (k *Keeper) Begin(ctx context.Context, p *kassett.Progress) (*Extension, error) {
	now, err := k.Clock(ctx)
	if err != nil {
		return nil, err
	}
	k.readHints()
	if err := k.spotCheck(ctx, now); err != nil {
		return nil, err
	}
	return &Extension{
		k: k, progress: p, now: now, promise: now.Add(k.policy.Period),
		least: now.Add(k.policy.Period + k.policy.Slack/2), until: now.Add(k.policy.Span()),
	}, nil
}

// spotCheck compares some hints with the storage. When one of them is wrong,
// none is believed.
func (k *Keeper) spotCheck(ctx context.Context, now time.Time) error {
	for range spotChecks {
		h, ok := k.randomHint(now)
		if !ok {
			return nil
		}
		until, err := k.o.Storage.RetainedUntil(ctx, kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: h.id}})
		switch kind := kassett.KindOf(err); {
		case kind == kassett.NotFound: // pruned, or gone; whoever needs it will tell
			continue
		case err != nil:
			return fmt.Errorf("compare what the storage retains: %w", err)
		case until.Unix() < h.until:
			k.o.Warn(fmt.Errorf("pack %s is retained until %s, and was believed to be until %s: the storage is asked about all packs",
				h.id, until.UTC().Format(time.RFC3339), time.Unix(h.until, 0).UTC().Format(time.RFC3339)))
			k.mu.Lock()
			k.hints.forget()
			k.mu.Unlock()
			return nil
		}
	}
	return nil
}

// randomHint returns one of the hints about packs that were read from the file.
func (k *Keeper) randomHint(now time.Time) (hint, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	base := k.hints.base
	n, _ := slices.BinarySearchFunc(base, hintKind(kassett.PackFile)+1, func(h hint, kind hintKind) int {
		return cmp.Compare(h.kind, kind)
	})
	if n == 0 {
		return hint{}, false
	}
	h := base[rand.IntN(n)] //nolint:gosec // any will do
	return h, h.kind == hintKind(kassett.PackFile) && h.until >= now.Unix()
}

// Extension retains what snapshots need that are about to be written. It is for
// one goroutine.
type Extension struct {
	k                          *Keeper
	progress                   *kassett.Progress
	now, promise, least, until time.Time

	mu     sync.Mutex // guards what follows
	faults []error
	failed int
}

// Trees returns until when everything below all of the trees is retained, in Unix
// seconds, and whether that is long enough.
func (e *Extension) Trees(trees []kassett.ID) (until int64, enough bool) {
	until = math.MaxInt64
	for _, t := range trees {
		until = min(until, e.k.hint(hintKey{treeHint, t}))
	}
	return until, until >= e.promise.Unix()
}

// Retain retains files long enough that they need not be extended soon again,
// and returns until when all of them are retained, in Unix seconds. A file that
// is not there, or not what it should be, is named by End.
func (e *Extension) Retain(ctx context.Context, names []kassett.StoredName) (reached int64, err error) {
	e.progress.Enter("extend object lock")
	reached = math.MaxInt64
	var due []kassett.StoredName
	for _, n := range names {
		if until := e.k.hint(fileHint(n)); until >= e.least.Unix() {
			reached = min(reached, until)
		} else {
			due = append(due, n)
		}
	}
	e.progress.Expect(int64(len(due)), 0)
	err = e.k.each(ctx, len(due), func(ctx context.Context, i int) error {
		defer e.progress.Done(1, 0)
		if err := e.k.o.Pass(ctx); err != nil {
			return err
		}
		until, err := e.k.o.Storage.Retain(ctx, due[i], e.least, e.until)
		e.mu.Lock()
		defer e.mu.Unlock()
		switch kind := kassett.KindOf(err); {
		case err != nil && ctx.Err() != nil:
			return context.Cause(ctx)
		case kind == kassett.NotFound || kind == kassett.Corrupt:
			if e.failed++; e.failed <= maxNamed {
				e.faults = append(e.faults, err)
			}
			return nil
		case err != nil:
			return fmt.Errorf("extend object lock: %w", err)
		}
		reached = min(reached, until.Unix())
		e.k.note(fileHint(due[i]), until.Unix())
		return nil
	})
	return reached, err
}

// End notes until when everything below the trees is retained, keeps what is
// known, and names the files that could not be retained in a [kassett.Corrupt]
// error.
func (e *Extension) End(trees []kassett.ID, until int64) error {
	if e.failed == 0 {
		for _, t := range trees {
			e.k.note(hintKey{treeHint, t}, until)
		}
	}
	e.k.save(e.now)
	if e.failed == 0 {
		return nil
	}
	if e.failed > maxNamed {
		e.faults = append(e.faults, fmt.Errorf("and %d more", e.failed-maxNamed))
	}
	return &kassett.Error{
		Op: "extend object lock", Kind: kassett.Corrupt, Err: errors.Join(e.faults...),
		Hint: "files of the repository were deleted or replaced: run `kassett repair versions --dry-run`, then `kassett check`",
	}
}
