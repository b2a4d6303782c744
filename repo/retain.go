package repo

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

	"kassett"
	"kassett/repo/record"
)

// spotChecks is how many hints are compared with the storage before a snapshot
// is written: enough to notice within some days that hints and storage have
// nothing to do with each other any more, at a cost that does not grow.
const spotChecks = 4

// Needs says what snapshots that are about to be written need.
type Needs struct {
	Trees []kassett.ID // their roots
	// Bases are the roots of snapshots whose content they may have taken
	// over as it is. When Saved is set, everything else was given to a
	// [Writer] of this Repository.
	Bases []kassett.ID
	Saved bool
	// Used finds all blobs of the trees. It is called when Bases and Saved
	// do not tell enough.
	Used func(ctx context.Context) (*BlobSet, error)
	// Snapshots are such that take the place of one that is not written,
	// since nothing changed.
	Snapshots []kassett.ID
	Progress  *kassett.Progress
}

// Retain makes the storage retain whatever snapshots need, at least for the
// period of its [kassett.Retention] from now on, by the clock of the storage:
// packs, index files, keys, config and records. It is called before the
// snapshots are written, which the storage retains itself. Storage that retains
// nothing is left alone.
//
// Its cost follows what was written and reused, but for once in half of the
// slack, when the trees are read to find all packs they need. A file that is not
// there, or not what it should be, is named in a [kassett.Corrupt] error, after
// all others have been retained.
func (r *Repository) Retain(ctx context.Context, n Needs) error {
	if r.retained == nil {
		return nil
	}
	return r.retained.retain(ctx, n)
}

// retained is what a Repository on storage that retains files knows of that.
type retained struct {
	r       *Repository
	storage kassett.Retainer
	policy  kassett.Retention

	work sync.Mutex // held while the storage is asked

	mu      sync.Mutex // guards what follows
	read    bool       // the file of hints
	hints   hints
	touched map[kassett.ID]struct{} // packs that snapshots to come may need
}

// newRetained returns nil for storage that retains nothing.
func newRetained(r *Repository) *retained {
	st, ok := kassett.As[kassett.Retainer](r.storage)
	if !ok || !st.Retention().On() {
		return nil
	}
	return &retained{r: r, storage: st, policy: st.Retention(), touched: make(map[kassett.ID]struct{})}
}

// reuse notes that a snapshot to come may need a blob that is stored already.
func (k *retained) reuse(h BlobHandle) {
	if k == nil {
		return
	}
	l, ok := k.r.table.Find(h)
	if doomed := k.doomed(); ok && contains(doomed, l.Pack) {
		places := k.r.table.Lookup(h)
		if i := slices.IndexFunc(places, func(l Location) bool { return !contains(doomed, l.Pack) }); i >= 0 {
			l = places[i]
		}
	}
	if ok {
		k.mu.Lock()
		k.touched[l.Pack] = struct{}{}
		k.mu.Unlock()
	}
}

// doomed returns the packs that a prune is going to remove, ordered: what rests
// elsewhere too must be retained there.
func (k *retained) doomed() []kassett.ID {
	if packs := k.r.doomed.packs.Load(); packs != nil {
		return *packs
	}
	return nil
}

// began returns the storage's time before the first pack of a writer is stored.
// When it cannot be had, the packs are asked about later.
func (k *retained) began(ctx context.Context) time.Time {
	if k == nil {
		return time.Time{}
	}
	now, err := k.storage.Clock(ctx)
	if err != nil {
		return time.Time{}
	}
	return now
}

// stored notes a pack that was stored after began.
func (k *retained) stored(pack kassett.ID, began time.Time) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.touched[pack] = struct{}{}
	if !began.IsZero() {
		k.hints.note(hintKey{hintKind(kassett.PackFile), pack}, began.Add(k.policy.Span()).Unix())
	}
}

// readHints takes in the file of hints, once.
func (k *retained) readHints() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.read {
		return
	}
	k.read = true
	if err := k.hints.read(k.r); err != nil {
		k.r.warn(fmt.Errorf("the storage is asked again what it retains: %w", err))
	}
}

func (k *retained) hint(key hintKey) int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hints.get(key)
}

func (k *retained) note(key hintKey, until int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hints.note(key, until)
}

// retain does what [Repository.Retain] says.
func (k *retained) retain(ctx context.Context, n Needs) error {
	k.work.Lock()
	defer k.work.Unlock()
	now, err := k.storage.Clock(ctx)
	if err != nil {
		return fmt.Errorf("read the clock of the storage: %w", err)
	}
	k.readHints()
	if err := k.spotCheck(ctx, now); err != nil {
		return err
	}
	e := &extension{
		k: k, progress: n.Progress, promise: now.Add(k.policy.Period),
		least: now.Add(k.policy.Period + k.policy.Slack/2), until: now.Add(k.policy.Span()),
	}
	reached, err := k.packs(ctx, n, e)
	if err != nil {
		return err
	}
	names, err := k.frame(ctx, n)
	if err != nil {
		return err
	}
	if err := e.retain(ctx, names); err != nil {
		return err
	}
	if e.failed == 0 {
		for _, t := range n.Trees {
			k.note(hintKey{treeHint, t}, reached)
		}
	}
	k.mu.Lock()
	err = k.hints.save(k.r, now.Unix())
	k.mu.Unlock()
	if err != nil {
		k.r.warn(fmt.Errorf("keep what the storage retains in the cache: %w", err))
	}
	return e.trouble()
}

// packs retains the packs that the trees need, and returns until when all of
// them are retained then, in Unix seconds.
func (k *retained) packs(ctx context.Context, n Needs, e *extension) (int64, error) {
	known, all := k.treesUntil(n.Trees, e.promise)
	if !all && n.Saved {
		known, all = k.treesUntil(n.Bases, e.promise)
	}
	packs := k.takeTouched()
	if !all {
		known = math.MaxInt64
		var err error
		if packs, err = k.walk(ctx, n); err != nil {
			return 0, err
		}
	}
	n.Progress.Enter("extend object lock")
	names := make([]kassett.StoredName, len(packs))
	for i, id := range packs {
		names[i] = kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: id}}
	}
	if err := e.retain(ctx, names); err != nil {
		return 0, err
	}
	known = min(known, e.reached)
	if known == math.MaxInt64 { // an empty folder has a tree, so there is a pack
		known = 0
	}
	return known, nil
}

// treesUntil returns until when everything below all of the trees is retained,
// and whether that is long enough.
func (k *retained) treesUntil(trees []kassett.ID, promise time.Time) (until int64, enough bool) {
	until = math.MaxInt64
	for _, t := range trees {
		until = min(until, k.hint(hintKey{treeHint, t}))
	}
	return until, until >= promise.Unix()
}

// takeTouched returns the packs that were stored and reused.
func (k *retained) takeTouched() []kassett.ID {
	k.mu.Lock()
	defer k.mu.Unlock()
	packs := make([]kassett.ID, 0, len(k.touched))
	for id := range k.touched {
		packs = append(packs, id)
	}
	return packs
}

// walk returns the packs of all blobs of the trees.
func (k *retained) walk(ctx context.Context, n Needs) ([]kassett.ID, error) {
	used, err := n.Used(ctx)
	if err != nil {
		return nil, fmt.Errorf("find the packs to retain: %w", err)
	}
	packs := make(map[kassett.ID]struct{})
	doomed := k.doomed()
	var last Location // of a blob for which there is no better place so far
	done := BlobHandle{}
	for l := range k.r.Blobs() {
		if last.BlobHandle != l.BlobHandle && !last.Pack.IsZero() {
			packs[last.Pack], last = struct{}{}, Location{}
		}
		switch {
		case l.BlobHandle == done || !used.Has(l.BlobHandle):
		case contains(doomed, l.Pack):
			last = l
		default:
			packs[l.Pack], done, last = struct{}{}, l.BlobHandle, Location{}
		}
	}
	if !last.Pack.IsZero() {
		packs[last.Pack] = struct{}{}
	}
	if err := cmp.Or(used.Err(), k.r.table.Err(), context.Cause(ctx)); err != nil {
		return nil, fmt.Errorf("find the packs to retain: %w", err)
	}
	all := make([]kassett.ID, 0, len(packs))
	for id := range packs {
		all = append(all, id)
	}
	return all, nil
}

// frame returns what every snapshot needs, packs apart.
func (k *retained) frame(ctx context.Context, n Needs) ([]kassett.StoredName, error) {
	names := []kassett.StoredName{{Handle: kassett.Handle{Kind: kassett.ConfigFile}}}
	add := func(kind kassett.FileKind, ids []kassett.ID) {
		for _, id := range ids {
			names = append(names, kassett.StoredName{Handle: kassett.Handle{Kind: kind, ID: id}})
		}
	}
	superseded, err := k.r.superseded(ctx)
	if err != nil {
		return nil, err
	}
	indexes, err := k.r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return nil, err
	}
	indexes = slices.DeleteFunc(indexes, func(id kassett.ID) bool { _, is := superseded[id]; return is })
	add(kassett.IndexFile, indexes)
	keys, err := k.r.listIDs(ctx, kassett.KeyFile)
	if err != nil {
		return nil, err
	}
	current := k.r.KeyID()
	keys = slices.DeleteFunc(keys, func(id kassett.ID) bool { return id == current })
	add(kassett.KeyFile, append(keys[:min(len(keys), maxKeysRead)], current))
	add(kassett.SnapshotFile, n.Snapshots)
	if beside, ok := kassett.As[kassett.Beside](k.r.storage); ok {
		for info, err := range beside.ListBeside(ctx, record.Folder) {
			if err != nil {
				return nil, fmt.Errorf("list records: %w", err)
			}
			names = append(names, kassett.StoredName{Beside: info.Name})
		}
	}
	return names, nil
}

// spotCheck compares some hints with the storage. When one of them is wrong,
// none is believed.
func (k *retained) spotCheck(ctx context.Context, now time.Time) error {
	for range spotChecks {
		h, ok := k.randomHint(now)
		if !ok {
			return nil
		}
		until, err := k.storage.RetainedUntil(ctx, kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: h.id}})
		switch kind := kassett.KindOf(err); {
		case kind == kassett.NotFound: // pruned, or gone; whoever needs it will tell
			continue
		case err != nil:
			return fmt.Errorf("compare what the storage retains: %w", err)
		case until.Unix() < h.until:
			k.r.warn(fmt.Errorf("pack %s is retained until %s, and was believed to be until %s: the storage is asked about all packs",
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
func (k *retained) randomHint(now time.Time) (hint, bool) {
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

// extension retains files until a time.
type extension struct {
	k                     *retained
	progress              *kassett.Progress
	promise, least, until time.Time

	mu      sync.Mutex // guards what follows
	reached int64      // until when all files are retained, Unix seconds; meaningless when there were none
	faults  []error
	failed  int
}

// retain retains files that are not retained until least.
func (e *extension) retain(ctx context.Context, names []kassett.StoredName) error {
	e.reached = math.MaxInt64
	var due []kassett.StoredName
	for _, n := range names {
		if until := e.k.hint(fileHint(n)); until >= e.least.Unix() {
			e.reached = min(e.reached, until)
		} else {
			due = append(due, n)
		}
	}
	e.progress.Expect(int64(len(due)), 0)
	return side(ctx, e.k.r, due, func(ctx context.Context, n kassett.StoredName) error {
		defer e.progress.Done(1, 0)
		if err := e.k.r.pass(ctx); err != nil {
			return err
		}
		until, err := e.k.storage.Retain(ctx, n, e.least, e.until)
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
		e.reached = min(e.reached, until.Unix())
		e.k.note(fileHint(n), until.Unix())
		return nil
	})
}

// trouble names the files that could not be retained.
func (e *extension) trouble() error {
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
