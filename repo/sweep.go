package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"kassett"
	"kassett/repo/pruneplan"
)

// Marking is a prune beside writers, between its mark and its sweep.
type Marking struct {
	// Stats is what the prune does, when no pack is spared.
	Stats PruneStats

	r        *Repository
	notes    indexNotes
	progress *kassett.Progress
}

// Mark plans as [Repository.Prune] does, moves what is used out of packs that
// shall go, and names those packs in a doomed list, beside writers of all kinds.
// [Marking.Sweep] removes them, and what earlier lists name.
//
// The caller holds a Shared lock, has under it listed the snapshots, then loaded
// the index, and has put every blob of every snapshot into used. The storage has
// to be a [kassett.Beside].
func (r *Repository) Mark(ctx context.Context, used *BlobSet, o PruneOptions) (*Marking, error) {
	lists, err := r.soundLists(ctx)
	if err != nil {
		return nil, err
	}
	p, err := r.planPrune(ctx, used, packsOf(lists), o)
	if err != nil {
		return nil, err
	}
	m := &Marking{Stats: PruneStats{Stats: p.plan.Stats}, r: r, notes: p.notes, progress: o.Progress}
	if len(p.doomed()) > 0 {
		if err := r.mayRemove(ctx); err != nil {
			return nil, err
		}
	}
	// All must be readable before anything is changed.
	if _, err := r.readIndexes(ctx, m.notes, o.Progress); err != nil {
		return nil, err
	}
	if err := p.repack(ctx); err != nil {
		return nil, err
	}
	if _, err := r.readIndexes(ctx, m.notes, o.Progress); err != nil {
		return nil, err
	}
	packs := slices.DeleteFunc(p.doomed(), func(id kassett.ID) bool { return contains(p.marked, id) })
	if len(packs) == 0 {
		return m, nil
	}
	o.Progress.Enter("mark packs")
	_, err = r.writeDoomed(ctx, packs)
	return m, err
}

// mayRemove finds out whether the storage lets us remove anything, before packs
// are copied in vain: it writes a list of nothing, and removes it.
func (r *Repository) mayRemove(ctx context.Context) error {
	name, err := r.writeDoomed(ctx, []kassett.ID{})
	if err == nil {
		err = r.removeDoomed(ctx, name)
	}
	if kassett.KindOf(err) == kassett.Denied {
		return &kassett.Error{
			Op: "prune", Kind: kassett.Denied, Err: err,
			Hint: "prune where files may be removed: on the machine that holds the storage, or with a key or a client that may",
		}
	}
	return err
}

// soundLists returns the doomed lists. Those that are damaged are named and
// removed: nobody honours them.
func (r *Repository) soundLists(ctx context.Context) ([]doomedList, error) {
	lists, bad, err := r.doomedLists(ctx)
	if err != nil {
		return nil, err
	}
	for name, err := range bad {
		r.warn(err)
		if kassett.KindOf(err) != kassett.Corrupt {
			continue // a newer version wrote it
		}
		if err := r.removeDoomed(ctx, name); err != nil {
			return nil, err
		}
	}
	return lists, nil
}

// SweepStats is what a sweep did.
type SweepStats struct {
	Lists  int // doomed lists that are done with
	Packs  int // that were removed
	Spared int // packs that are needed after all
	Held   Held
}

// DoomedLists returns the doomed lists there are: what [Repository.Mark] has
// named and [Marking.Sweep] has yet to remove.
func (r *Repository) DoomedLists(ctx context.Context) ([]kassett.ID, error) {
	lists, _, err := r.doomedLists(ctx)
	ids := make([]kassett.ID, len(lists))
	for i, l := range lists {
		ids[i] = l.id
	}
	return ids, err
}

// Sweep removes the packs that the doomed lists of the lock name, but for those
// that a blob of used needs, and the lists. The exclusive lock ends, and a shared
// one takes its place, as soon as the index does not name the packs any more.
//
// The lock is of the mode [Sweeping]. After it was taken the caller has listed
// the snapshots, then loaded the index, and has put every blob of every snapshot
// into used. When a used blob is nowhere nothing is changed and the error is
// [ErrLostBlobs]. See docs/formats/doomed.md.
func (m *Marking) Sweep(ctx context.Context, lock *Lock, used *BlobSet) (SweepStats, error) {
	lists, _, err := m.r.doomedLists(ctx)
	if err != nil {
		return SweepStats{}, err
	}
	lists = slices.DeleteFunc(lists, func(l doomedList) bool { return !slices.Contains(lock.Lists(), l.id) })
	s := &sweep{r: m.r, lock: lock, doomed: packsOf(lists), used: used, notes: m.notes, progress: m.progress}
	if err := s.run(ctx); err != nil {
		return s.stats, err
	}
	s.stats.Lists = len(lists)
	for _, l := range lists {
		if err := m.r.removeDoomed(ctx, doomedName(l.id)); err != nil {
			return s.stats, err
		}
	}
	return s.stats, nil
}

// ErrLostBlobs says that blobs which snapshots need are in no pack that the
// index names.
var ErrLostBlobs = errors.New("blobs that snapshots need are in no pack that the index names; nothing was removed")

// lostBlobs returns an error unless all of used was found in the index.
func lostBlobs(used *BlobSet, found uint64) error {
	lost := uint64(used.Len()) - found
	if lost == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "prune", Kind: kassett.Corrupt, Err: fmt.Errorf("%d %w", lost, ErrLostBlobs),
		Hint: "run `kassett check`, then `kassett repair index`",
	}
}

// sweep is one sweep at work.
type sweep struct {
	r        *Repository
	lock     *Lock        // nil when it stays as it is
	doomed   []kassett.ID // ascending
	used     *BlobSet
	notes    indexNotes
	progress *kassett.Progress

	indexed pruneplan.Bitmap         // by doomed: the index names it
	spared  pruneplan.Bitmap         // by doomed: it stays
	blocked map[kassett.ID]time.Time // packs that retained index files name
	stats   SweepStats
}

func (s *sweep) run(ctx context.Context) error {
	if err := s.spare(ctx); err != nil {
		return err
	}
	files, err := s.findIndexes(ctx)
	if err != nil {
		return err
	}
	s.progress.Enter("write index")
	s.progress.Expect(int64(len(files)), 0)
	rewrite := s.replaceRetained
	if s.r.retained == nil {
		rewrite = func(ctx context.Context, files []kassett.ID) error {
			return s.r.rewriteIndex(ctx, files, s.goes, s.progress)
		}
	}
	if err := rewrite(ctx, files); err != nil {
		return err
	}
	if s.lock != nil {
		s.lock.Share()
	}
	return s.remove(ctx)
}

// find returns the position of a pack among the doomed.
func (s *sweep) find(pack kassett.ID) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(s.doomed, pack, kassett.ID.Compare)
	return uint32(i), ok
}

// goes reports whether a pack leaves the index.
func (s *sweep) goes(pack kassett.ID) bool {
	i, ok := s.find(pack)
	return ok && !s.spared.Has(i)
}

// spare finds doomed packs that are needed, so that each used blob keeps a place.
func (s *sweep) spare(ctx context.Context) error {
	s.progress.Enter("look what is needed")
	s.indexed, s.spared = pruneplan.NewBitmap(len(s.doomed)), pruneplan.NewBitmap(len(s.doomed))
	var (
		last  BlobHandle
		n     uint64
		found uint64
		at    []uint32 // doomed packs that hold the last blob
		safe  bool     // it rests in another one too
		some  [][]uint32
	)
	judge := func() {
		if n == 0 || !s.used.Has(last) {
			return
		}
		found++
		switch {
		case safe:
		case len(at) == 1:
			s.spared.Set(at[0])
		default:
			some = append(some, slices.Clone(at))
		}
	}
	err := s.r.table.Each(func(l Location) bool {
		if n == 0 || l.BlobHandle != last {
			judge()
			last, at, safe = l.BlobHandle, at[:0], false
		}
		n++
		if i, ok := s.find(l.Pack); ok {
			s.indexed.Set(i)
			at = append(at, i)
		} else {
			safe = true
		}
		return n%1024 != 0 || ctx.Err() == nil
	})
	judge()
	if err := errors.Join(err, s.used.Err(), context.Cause(ctx)); err != nil {
		return fmt.Errorf("look what is needed: %w", err)
	}
	for _, at := range some { // of several, one is enough
		if !slices.ContainsFunc(at, s.spared.Has) {
			s.spared.Set(at[0])
		}
	}
	s.stats.Spared = s.spared.Count()
	return lostBlobs(s.used, found)
}

// indexNames is what is remembered of an index file.
type indexNames struct {
	packs []kassett.ID
	blobs int
}

// indexNotes are those of index files that were read before, so that the
// exclusive lock need not last for reading them again.
type indexNotes map[kassett.ID]indexNames

// readIndexes reads the index files that are there and not noted. All of them
// must be readable.
func (r *Repository) readIndexes(ctx context.Context, notes indexNotes, p *kassett.Progress) ([]kassett.ID, error) {
	ids, err := r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return nil, err
	}
	fresh := slices.DeleteFunc(slices.Clone(ids), func(id kassett.ID) bool { _, is := notes[id]; return is })
	p.Enter("read index")
	p.Expect(int64(len(fresh)), 0)
	var mu sync.Mutex // guards notes
	return ids, side(ctx, r, fresh, func(ctx context.Context, id kassett.ID) error {
		defer p.Done(1, 0)
		c, err := r.readIndex(ctx, id)
		if err != nil {
			return err
		}
		n := indexNames{blobs: len(c.blobs), packs: make([]kassett.ID, len(c.packs))}
		for i := range c.packs {
			n.packs[i] = c.packs[i].id
		}
		mu.Lock()
		defer mu.Unlock()
		notes[id] = n
		return nil
	})
}

// findIndexes returns the index files to replace: all that name packs that go,
// and when there are any, the small ones with them.
func (s *sweep) findIndexes(ctx context.Context) ([]kassett.ID, error) {
	ids, err := s.r.readIndexes(ctx, s.notes, s.progress)
	if err != nil {
		return nil, err
	}
	var touched, small []kassett.ID
	for _, id := range ids {
		switch n := s.notes[id]; {
		case slices.ContainsFunc(n.packs, s.goes):
			touched = append(touched, id)
		case n.blobs < smallIndex:
			small = append(small, id)
		}
	}
	if len(touched) == 0 {
		return nil, nil
	}
	return append(touched, small...), nil
}

// sweepAge is how old a half-written file must be to be no one's any more.
const sweepAge = 24 * time.Hour

// remove deletes packs: those the index does not name any more, and last those
// that it did not name from the start, since they were not seen by anything else
// that would have found a mistake.
func (s *sweep) remove(ctx context.Context) error {
	var old, stray []kassett.ID
	for i, pack := range s.doomed {
		switch {
		case s.spared.Has(uint32(i)):
		case s.indexed.Has(uint32(i)):
			old = append(old, pack)
		default:
			stray = append(stray, pack)
		}
	}
	s.progress.Enter("remove packs")
	s.progress.Expect(int64(len(old)+len(stray)), 0)
	for _, packs := range [][]kassett.ID{old, stray} {
		packs, err := s.putOff(ctx, packs)
		if err != nil {
			return err
		}
		if err := s.r.deleteAll(ctx, kassett.PackFile, packs, s.progress); err != nil {
			return err
		}
		s.stats.Packs += len(packs)
	}
	if t, ok := kassett.As[kassett.Sweeper](s.r.storage); ok {
		if _, err := t.Sweep(ctx, time.Now().Add(-sweepAge)); err != nil {
			s.r.warn(fmt.Errorf("remove what broken-off writes have left: %w", err))
		}
	}
	return context.Cause(ctx)
}
