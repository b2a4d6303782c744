package repo

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"kassett"
	"kassett/repo/record"
	"kassett/repo/retention"
)

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
	r      *Repository
	keeper *retention.Keeper
	work   sync.Mutex // held while locks are extended

	mu      sync.Mutex              // guards what follows
	touched map[kassett.ID]struct{} // packs that snapshots to come may need
}

// retainedName is the file of hints among the local ones.
const retainedName = "retained"

// newRetained returns nil for storage that retains nothing.
func newRetained(r *Repository) *retained {
	st, ok := kassett.As[kassett.Retainer](r.storage)
	if !ok || !st.Retention().On() {
		return nil
	}
	return &retained{
		r: r, touched: make(map[kassett.ID]struct{}),
		keeper: retention.New(retention.Options{
			Storage: st, Pass: r.pass, Workers: r.Connections(), Warn: r.warn,
			Load: func() ([]byte, error) { return r.LoadLocal(retainedName) },
			Save: func(b []byte) error {
				if r.options.CacheDir == "" {
					return nil
				}
				return r.SaveLocal(retainedName, b)
			},
		}),
	}
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
	now, err := k.keeper.Clock(ctx)
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
	k.touched[pack] = struct{}{}
	k.mu.Unlock()
	if !began.IsZero() {
		k.keeper.Stored(kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: pack}}, began)
	}
}

// retain does what [Repository.Retain] says.
func (k *retained) retain(ctx context.Context, n Needs) error {
	k.work.Lock()
	defer k.work.Unlock()
	e, err := k.keeper.Begin(ctx, n.Progress)
	if err != nil {
		return err
	}
	reached, err := k.packs(ctx, n, e)
	if err != nil {
		return err
	}
	names, err := k.frame(ctx, n)
	if err != nil {
		return err
	}
	if _, err := e.Retain(ctx, names); err != nil {
		return err
	}
	return e.End(n.Trees, reached)
}

// packs retains the packs that the trees need, and returns until when all of
// them are retained then, in Unix seconds.
func (k *retained) packs(ctx context.Context, n Needs, e *retention.Extension) (int64, error) {
	known, all := e.Trees(n.Trees)
	if !all && n.Saved {
		known, all = e.Trees(n.Bases)
	}
	packs := k.takeTouched()
	if !all {
		known = math.MaxInt64
		var err error
		if packs, err = k.walk(ctx, n); err != nil {
			return 0, err
		}
	}
	names := make([]kassett.StoredName, len(packs))
	for i, id := range packs {
		names[i] = kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: id}}
	}
	reached, err := e.Retain(ctx, names)
	if known = min(known, reached); known == math.MaxInt64 { // an empty folder has a tree, so there is a pack
		known = 0
	}
	return known, err
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
