package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"kassett"
	"kassett/repo/pruneplan"
)

// PruneOptions says how much a prune may leave and how much it may move. The
// zero PruneOptions are restic's defaults.
type PruneOptions struct {
	MaxUnused          Unused // how much garbage may stay in kept packs
	MaxRepackSize      int64  // bytes of packs to rewrite at most; 0 = no limit, negative = none
	RepackSmall        int64  // bytes: smaller packs are rewritten; 0 = chosen from the packs there are
	RepackUncompressed bool   // rewrite packs with uncompressed blobs
	RepackTreesOnly    bool   // leave packs of data alone (restic's --repack-cacheable-only)
	DryRun             bool   // plan only
	Progress           *kassett.Progress
}

// PruneStats is what a prune did, or in a dry run would do. Its JSON has
// restic's names.
type PruneStats struct {
	MessageType string `json:"message_type"` // left to who prints it
	pruneplan.Stats
	Held Held `json:"held,omitzero"` // of the packs to remove
}

// Prune removes what no blob of used needs: whole packs where nothing in them
// is used, and the unused parts of others, by moving what is used into new
// packs, as far as the options ask. Blobs are moved as they are sealed; each is
// opened and hashed before it is stored again.
//
// The caller holds an exclusive lock, has loaded the index under it, and has put
// every blob of every snapshot into used, which is of no use afterwards. When a
// used blob is nowhere, or a pack that is needed is missing or has not the size
// the index says, nothing is changed and the error is [kassett.Corrupt].
//
// New packs are durable before index files name them, those are before old ones
// are removed, and those before packs are. Whatever is in the way of that, at
// any moment, leaves a repository that has all that is used; the next prune does
// the rest.
//
// [Repository.Mark] and [Marking.Sweep] do the same beside writers.
func (r *Repository) Prune(ctx context.Context, used *BlobSet, o PruneOptions) (PruneStats, error) {
	p, err := r.planPrune(ctx, used, nil, o)
	if err != nil {
		return PruneStats{}, err
	}
	stats := PruneStats{Stats: p.plan.Stats}
	if o.DryRun {
		return stats, nil
	}
	if err := p.nobodyElse(ctx); err != nil {
		return PruneStats{}, err
	}
	if err := p.repack(ctx); err != nil {
		return stats, err
	}
	s := &sweep{r: r, doomed: p.doomed(), used: used, notes: p.notes, progress: o.Progress}
	err = s.run(ctx)
	stats.Held = s.stats.Held
	if err != nil {
		return stats, err
	}
	return stats, r.LoadIndex(ctx, o.Progress)
}

// nobodyElse makes sure that the index is still the one that was planned with.
func (p *pruning) nobodyElse(ctx context.Context) error {
	ids, err := p.r.readIndexes(ctx, p.notes, p.o.Progress)
	if err != nil || p.r.table.Covers(ids) {
		return err
	}
	return &kassett.Error{
		Op: "prune", Kind: kassett.Locked, Err: errors.New("the index was changed meanwhile, nothing was removed"),
		Hint: "see that no other program writes to the repository, run `kassett check`, and then prune again",
	}
}

func (r *Repository) pruneLimits(o PruneOptions) (pruneplan.Limits, error) {
	bad := func(err, hint string) (pruneplan.Limits, error) {
		return pruneplan.Limits{}, &kassett.Error{Op: "prune", Kind: kassett.Invalid, Err: errors.New(err), Hint: hint}
	}
	packSize := int64(cmp.Or(r.options.PackSize, defaultPackSize))
	v2 := r.Config().Version >= 2
	switch {
	case o.RepackSmall < 0 || o.RepackSmall > packSize:
		return bad(fmt.Sprintf("packs below %d bytes are to be rewritten, and new ones have %d", o.RepackSmall, packSize),
			"choose a larger pack size, or a smaller limit")
	case o.RepackUncompressed && !v2:
		return bad("a repository of version 1 has no compression", "run `kassett migrate upgrade_repo_v2` first")
	case o.RepackUncompressed && r.options.Compression == CompressOff:
		return bad("uncompressed blobs are to be rewritten, and compression is off", "leave one of both away")
	}
	l := pruneplan.Limits{
		Unused: o.MaxUnused.limit, Repack: math.MaxUint64, Small: uint64(o.RepackSmall),
		RawTrees: v2, RawData: o.RepackUncompressed, TreesOnly: o.RepackTreesOnly,
	}
	switch {
	case o.MaxRepackSize < 0:
		l.Repack = 0
	case o.MaxRepackSize > 0:
		l.Repack = uint64(o.MaxRepackSize)
	}
	return l, nil
}

// pruning is one prune at work.
type pruning struct {
	r     *Repository
	o     PruneOptions
	plan  *pruneplan.Plan
	table *prunedTable
	notes indexNotes
	// marked are the packs that doomed lists name already, ascending.
	marked []kassett.ID
}

// planPrune looks at everything and changes nothing. marked are the packs that
// doomed lists name already, ascending.
func (r *Repository) planPrune(ctx context.Context, used *BlobSet, marked []kassett.ID, o PruneOptions) (*pruning, error) {
	limits, err := r.pruneLimits(o)
	if err != nil {
		return nil, err
	}
	o.Progress.Enter("plan")
	p := &pruning{r: r, o: o, marked: marked, notes: make(indexNotes)}
	return p, p.makePlan(ctx, used, limits)
}

func (p *pruning) makePlan(ctx context.Context, used *BlobSet, l pruneplan.Limits) error {
	packs, err := p.r.listPacks(ctx)
	if err != nil {
		return err
	}
	table, n, err := p.r.readTable(packs, used)
	if err = errors.Join(err, used.Err(), context.Cause(ctx)); err != nil {
		return fmt.Errorf("plan prune: %w", err)
	}
	p.table = table
	p.plan = pruneplan.New(table.numbered(p.marked), n, table.records)
	if table.err != nil {
		return table.err
	}
	if err := lostBlobs(used, p.plan.Found); err != nil {
		return err
	}
	if err := p.brokenPacks(); err != nil {
		return err
	}
	if err := p.keepHeld(ctx, l); err != nil {
		return err
	}
	p.plan.Decide(l, table.records)
	return errors.Join(table.err, context.Cause(ctx))
}

// prunedTable gives the planning what it needs of the blob table, in which every
// place of a blob has a number: its turn.
type prunedTable struct {
	r     *Repository
	packs []storedPack     // of the storage and of the table, ordered by ID
	used  pruneplan.Bitmap // by the number of a blob's first place
	err   error            // why a pass over the table came to no end
}

// readTable goes through the table once, and returns the number of places.
func (r *Repository) readTable(stored []storedPack, used *BlobSet) (t *prunedTable, n int, err error) {
	t = &prunedTable{r: r}
	absent := make(map[kassett.ID]struct{})
	var last BlobHandle
	err = r.table.Each(func(l Location) bool {
		if n%64 == 0 {
			t.used = append(t.used, 0)
		}
		if (n == 0 || l.BlobHandle != last) && used.Has(l.BlobHandle) {
			t.used.Set(uint32(n))
		}
		if _, ok := findPack(stored, l.Pack); !ok {
			absent[l.Pack] = struct{}{}
		}
		last = l.BlobHandle
		n++
		return n <= math.MaxUint32
	})
	if n > math.MaxUint32 {
		err = &kassett.Error{Op: "prune", Kind: kassett.Invalid, Err: fmt.Errorf("%d blobs and more cannot be planned for", n)}
	}
	t.packs = stored
	for id := range absent {
		t.packs = append(t.packs, storedPack{id, pruneplan.Missing})
	}
	slices.SortFunc(t.packs, func(a, b storedPack) int { return a.id.Compare(b.id) })
	return t, n, err
}

// numbered returns the packs as the planning knows them. marked are those that
// doomed lists name.
func (t *prunedTable) numbered(marked []kassett.ID) pruneplan.Packs {
	p := pruneplan.Packs{Sizes: make([]int64, len(t.packs)), Overhead: packOverhead, Doomed: pruneplan.NewBitmap(len(t.packs))}
	for i, pack := range t.packs {
		p.Sizes[i] = pack.size
		if contains(marked, pack.id) {
			p.Doomed.Set(uint32(i))
		}
	}
	return p
}

// each calls fn for every place of every blob with the numbers of its pack and
// of itself, until fn returns false. Packs that were written since readTable are
// passed over.
func (t *prunedTable) each(fn func(pack, n uint32, l Location) bool) {
	n := uint32(0)
	err := t.r.table.Each(func(l Location) bool {
		i, ok := findPack(t.packs, l.Pack)
		if !ok {
			return true
		}
		n++
		return fn(uint32(i), n-1, l)
	})
	t.err = errors.Join(t.err, err)
}

// records are the places of each blob: see [pruneplan.Records].
func (t *prunedTable) records(yield func([]pruneplan.Record, bool) bool) {
	var group []pruneplan.Record
	var last BlobHandle
	flush := func() bool {
		return len(group) == 0 || yield(group, t.used.Has(group[0].N))
	}
	stopped := false
	t.each(func(pack, n uint32, l Location) bool {
		if l.BlobHandle != last {
			stopped = !flush()
			group, last = group[:0], l.BlobHandle
		}
		group = append(group, pruneplan.Record{
			Pack: pack, N: n, Length: l.Length, Header: uint8(entrySize(l.Blob)), Tree: l.Type == TreeBlob, Raw: l.Plain == 0,
		})
		return !stopped
	})
	if !stopped {
		flush()
	}
}

// maxNamed is how many of many things an error names.
const maxNamed = 20

// brokenPacks names the needed packs that are not what the index says.
func (p *pruning) brokenPacks() error {
	var faults []error
	n, cut := 0, false
	for i := range p.plan.Broken() {
		if n++; n > maxNamed {
			continue
		}
		pack := p.table.packs[i]
		if pack.size == pruneplan.Missing {
			faults = append(faults, fmt.Errorf("pack %s is missing", pack.id))
			continue
		}
		cut = true
		faults = append(faults, fmt.Errorf("pack %s has %d bytes, the index says %d", pack.id, pack.size, p.plan.Indexed(i)))
	}
	if n == 0 {
		return nil
	}
	if n > maxNamed {
		faults = append(faults, fmt.Errorf("and %d more", n-maxNamed))
	}
	hint := "put the packs back from a copy of the repository; if there is none, run `kassett repair index` and `kassett repair snapshots`"
	if cut {
		hint = "run `kassett check`: it says for each pack which repair it needs"
	}
	return &kassett.Error{
		Op: "prune", Kind: kassett.Corrupt, Hint: hint,
		Err: fmt.Errorf("%d packs that snapshots need are not as they should be, nothing was changed: %w", n, errors.Join(faults...)),
	}
}

// doomed returns the packs that shall go, ordered.
func (p *pruning) doomed() (packs []kassett.ID) {
	for i, pack := range p.table.packs {
		if p.plan.Fate(i) != pruneplan.Keep {
			packs = append(packs, pack.id)
		}
	}
	return packs
}

// repackBatch is how many blobs are moved between two looks at the blob table,
// about: each takes 48 bytes of memory.
const repackBatch = 1 << 20

// repack moves the blobs that stay out of packs that do not.
func (p *pruning) repack(ctx context.Context) error {
	packs := p.plan.Stats.Packs.Repack
	if packs == 0 {
		return nil
	}
	p.o.Progress.Enter("rewrite packs")
	p.o.Progress.Expect(int64(packs), int64(p.plan.Stats.Bytes.Repack))
	w := p.r.NewWriter(ctx, WriterOptions{Progress: p.o.Progress})
	err := p.repackBatches(ctx, w)
	if err == nil {
		err = w.Flush(ctx)
	}
	if err != nil {
		w.Abort()
	}
	return err
}

func (p *pruning) repackBatches(ctx context.Context, w *Writer) error {
	for from := 0; from < len(p.table.packs); {
		to, n := from, 0
		for ; to < len(p.table.packs) && n < repackBatch; to++ {
			n += p.plan.Moved(to)
		}
		packs := p.batch(from, to, n)
		if p.table.err != nil {
			return p.table.err
		}
		ids := make([]kassett.ID, len(packs))
		for i, m := range packs {
			ids[i] = p.table.packs[m.pack].id
		}
		if err := p.r.Thaw(ctx, ids, p.o.Progress); err != nil {
			return err
		}
		err := side(ctx, p.r, packs, func(ctx context.Context, m movedPack) error { return p.move(ctx, w, m) })
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}

// movedPack is a pack and what is moved out of it.
type movedPack struct {
	pack  int
	blobs []Blob
}

// batch returns the packs from, up to, to that are rewritten, with their n blobs
// that stay.
func (p *pruning) batch(from, to, n int) []movedPack {
	blobs := make([]Blob, n)
	var moved []movedPack
	at := make([]int, to-from) // in moved, by pack
	for i := from; i < to; i++ {
		if p.plan.Fate(i) == pruneplan.Repack {
			at[i-from] = len(moved)
			used := p.plan.Moved(i)
			moved = append(moved, movedPack{i, blobs[:0:used]})
			blobs = blobs[used:]
		}
	}
	p.table.each(func(number, n uint32, l Location) bool {
		pack := int(number)
		if pack >= from && pack < to && p.plan.Fate(pack) == pruneplan.Repack && p.plan.Kept(n) {
			m := &moved[at[pack-from]]
			m.blobs = append(m.blobs, l.Blob)
		}
		return true
	})
	return moved
}

// move stores the blobs of one pack again.
func (p *pruning) move(ctx context.Context, w *Writer, m movedPack) error {
	pack, read := p.table.packs[m.pack], int64(0)
	v2 := p.r.Config().Version >= 2
	err := p.r.scanPack(ctx, pack, m.blobs, func(b Blob, sealed []byte, err error) error {
		read += int64(b.Length)
		p.o.Progress.Done(0, int64(b.Length))
		raw := v2 && b.Plain == 0 && (b.Type == TreeBlob || p.o.RepackUncompressed)
		if err == nil && !raw {
			err = w.SaveSealed(ctx, b, sealed)
			if kassett.KindOf(err) != kassett.Corrupt {
				return err
			}
		}
		return p.moveContent(ctx, w, b, err)
	})
	p.o.Progress.Done(1, int64(p.plan.Indexed(m.pack))-read)
	return err
}

// moveContent stores a blob again from its content: to compress it, or because
// it is damaged in this pack, from wherever else it is.
func (p *pruning) moveContent(ctx context.Context, w *Writer, b Blob, fault error) error {
	plain, err := p.r.LoadBlob(ctx, b.BlobHandle, nil)
	if err != nil {
		return fmt.Errorf("move blob, nothing was removed: %w", cmp.Or(err, fault))
	}
	_, err = w.SaveAgain(ctx, b.Type, plain)
	return err
}
