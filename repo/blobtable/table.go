package blobtable

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// Runs are merged when this many have about the same size, so that a record is
// written again only when its run has grown fourfold; a lookup asks a few runs.
const (
	runsPerLevel = 4
	levelBase    = 8192 // records of the lowest level
)

// batchRecords is how many records are gathered in memory for one run: 24 MiB.
const batchRecords = 512 << 10

// maxMends bounds how often broken runs are made anew in one go. More than once
// or twice means that the cache rests on a failing disk.
const maxMends = 8

const (
	runSuffix  = ".run"
	tempMaxAge = 24 * time.Hour // of files that a crash left behind
)

// Options say where a table rests and what it is made from.
type Options struct {
	// Dir is the folder for its files; processes may share it. When it is ""
	// or cannot be written to, a private temporary one is used and removed.
	Dir string
	// Key is a secret of the repository: without it nobody can make files
	// that are believed.
	Key []byte
	// Load reads an index file: its packs with their blobs. It is called by
	// up to Workers goroutines at once, and may be called in the middle of a
	// lookup. A [kassett.Corrupt] error leaves the index file out.
	Load    func(ctx context.Context, index kassett.ID) (iter.Seq2[kassett.ID, []Blob], error)
	Workers int
	// Warn is told of files that are made anew. It may be nil, and is called
	// from many goroutines.
	Warn func(error)
}

// Table is the known blobs: which blob is where in which pack, according to the
// index files. Its methods are safe for many goroutines.
//
// A broken or missing file is made anew from the index files it covered, at
// once, also in the middle of a lookup. When that fails Err says why, and blobs
// count as unknown.
type Table struct {
	options Options

	change sync.Mutex // held while runs are made; guards what follows
	dir    string     // where runs are written; "" until the first
	own    bool       // dir is private and removed by Close
	want   map[kassett.ID]struct{}
	// condemned are broken runs that stay until their content is loaded
	// again.
	condemned []*run

	mu     sync.RWMutex // guards what follows; never held while runs are made
	runs   []*run       // the largest first
	pinned []*run       // by sets, until Close
	err    error
}

// New returns an empty table. It touches no file before the first Update or Add.
func New(o Options) *Table { return &Table{options: o} }

// Update makes the table cover exactly these index files: it loads those that
// are new, and forgets what is gone. Index files that are damaged are named in a
// [kassett.Corrupt] error; all others have been loaded even then.
func (t *Table) Update(ctx context.Context, indexes []kassett.ID, p *kassett.Progress) error {
	t.change.Lock()
	defer t.change.Unlock()
	t.want = make(map[kassett.ID]struct{}, len(indexes))
	for _, id := range indexes {
		t.want[id] = struct{}{}
	}
	return t.update(ctx, p)
}

// update makes the runs cover exactly the wanted index files. The caller
// holds t.change.
func (t *Table) update(ctx context.Context, p *kassett.Progress) error {
	if err := t.openCache(); err != nil {
		return err
	}
	for range maxMends {
		damaged := t.loadMissing(ctx, p)
		if damaged != nil && kassett.KindOf(damaged) != kassett.Corrupt {
			return damaged
		}
		t.swapRuns(t.condemned, nil)
		t.condemned = nil
		err := t.tidyRuns()
		var bad *badRunError
		if !errors.As(err, &bad) {
			return errors.Join(damaged, t.setErr(err))
		}
		t.condemn(bad)
	}
	return t.setErr(errors.New("the blob table's files break as fast as they are made; its disk is failing"))
}

// Covers reports whether the table is made of exactly these index files, each
// named once.
func (t *Table) Covers(indexes []kassett.ID) bool {
	t.change.Lock()
	defer t.change.Unlock()
	return len(indexes) == len(t.want) &&
		!slices.ContainsFunc(indexes, func(id kassett.ID) bool { _, is := t.want[id]; return !is })
}

// setErr notes why the table cannot be trusted, or that it can.
func (t *Table) setErr(err error) error {
	t.mu.Lock()
	t.err = err
	t.mu.Unlock()
	return err
}

// Err returns why the table cannot be trusted, or nil.
func (t *Table) Err() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.err
}

func (t *Table) warn(err error) {
	if t.options.Warn != nil {
		t.options.Warn(err)
	}
}

// openCache finds the folder for runs and opens those that rest in it.
func (t *Table) openCache() error {
	if t.dir != "" {
		return nil
	}
	if dir := t.options.Dir; dir != "" {
		err := os.MkdirAll(dir, 0o700)
		if err == nil {
			t.dir = dir
			return t.openRuns()
		}
		t.warn(fmt.Errorf("use the cache: %w; the blob table is made anew in a temporary folder", err))
	}
	dir, err := os.MkdirTemp("", "kassett-blobs-*")
	if err != nil {
		return &kassett.Error{
			Op: "make the blob table", Kind: kassett.KindOf(err), Err: err,
			Hint: "give a cache folder that can be written to, or set TMPDIR to one",
		}
	}
	t.dir, t.own = dir, true
	return nil
}

// openRuns opens the runs of the cache, the largest first. One that covers what
// a larger one covers is what a crash in the middle of a merge left behind.
func (t *Table) openRuns() error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return fmt.Errorf("read the cache: %w", err)
	}
	var runs []*run
	for _, e := range entries {
		path := filepath.Join(t.dir, e.Name())
		if !strings.HasSuffix(e.Name(), runSuffix) {
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tempMaxAge {
				_ = os.Remove(path) // another day if not today
			}
			continue
		}
		run, err := openRun(path, t.options.Key)
		switch {
		case err == nil:
			runs = append(runs, run)
		case !errors.Is(err, os.ErrNotExist):
			t.warn(fmt.Errorf("read the cache, the file is made anew: %w", err))
			_ = os.Remove(path) // not opened next time either
		}
	}
	slices.SortFunc(runs, bySize)
	covered := make(map[kassett.ID]struct{})
	for _, run := range runs {
		doubled := slices.ContainsFunc(run.indexes, func(id kassett.ID) bool { _, is := covered[id]; return is })
		if doubled {
			run.retired.Store(true)
			t.warnRelease(run)
			continue
		}
		for _, id := range run.indexes {
			covered[id] = struct{}{}
		}
		t.swapRuns(nil, run)
	}
	return nil
}

func bySize(a, b *run) int { return cmp.Compare(b.records, a.records) }

func (t *Table) warnRelease(run *run) {
	if err := run.release(); err != nil {
		t.warn(fmt.Errorf("close a blob table file: %w", err))
	}
}

// covered returns the index files that sound runs cover.
func (t *Table) covered() map[kassett.ID]struct{} {
	all := make(map[kassett.ID]struct{})
	for _, run := range t.runs {
		if slices.Contains(t.condemned, run) {
			continue
		}
		for _, id := range run.indexes {
			all[id] = struct{}{}
		}
	}
	return all
}

// loadMissing reads the wanted index files that no run covers, several at once.
func (t *Table) loadMissing(ctx context.Context, p *kassett.Progress) error {
	covered := t.covered()
	var missing []kassett.ID
	for id := range t.want {
		if _, is := covered[id]; !is {
			missing = append(missing, id)
		}
	}
	p.Expect(int64(len(missing)), 0)
	var mu sync.Mutex // guards b and damaged
	var b batch
	var damaged error
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, t.options.Workers))
	for _, id := range missing {
		g.Go(func() error {
			packs, err := t.options.Load(ctx, id)
			mu.Lock()
			defer mu.Unlock()
			if kassett.KindOf(err) == kassett.Corrupt {
				damaged = errors.Join(damaged, err)
				return nil
			}
			if err != nil {
				return err
			}
			p.Done(1, 0)
			b.add(id, packs)
			if len(b.records) < batchRecords {
				return nil
			}
			return t.addRun(&b)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := t.addRun(&b); err != nil {
		return err
	}
	return damaged
}

// addRun makes a run of a batch, and empties it.
func (t *Table) addRun(b *batch) error {
	if len(b.indexes) == 0 {
		return nil
	}
	run, err := b.write(t.dir, t.options.Key)
	if err != nil && !t.own {
		t.warn(fmt.Errorf("write the cache: %w; the blob table goes on in a temporary folder", err))
		if t.dir, err = os.MkdirTemp("", "kassett-blobs-*"); err == nil {
			t.own = true
			run, err = b.write(t.dir, t.options.Key)
		}
	}
	if err != nil {
		return tableFailed(err)
	}
	b.reset()
	t.swapRuns(nil, run)
	return nil
}

func tableFailed(err error) error {
	return &kassett.Error{
		Op: "make the blob table", Kind: kassett.KindOf(err), Err: err,
		Hint: "free some room in the cache folder, or set TMPDIR to a folder that has some",
	}
}

// tidyRuns takes what is gone out of the runs, and merges runs of one size.
func (t *Table) tidyRuns() error {
	gone := t.covered()
	maps.DeleteFunc(gone, func(id kassett.ID, _ struct{}) bool { _, wanted := t.want[id]; return wanted })
	for _, one := range slices.Clone(t.runs) {
		if slices.ContainsFunc(one.indexes, func(id kassett.ID) bool { _, is := gone[id]; return is }) {
			if err := t.merge([]*run{one}, gone); err != nil {
				return err
			}
		}
	}
	for {
		levels := make(map[int][]*run)
		var crowded []*run
		for _, one := range t.runs {
			n := bits.Len64(one.records/levelBase) / 2 // a level is four times the one below
			levels[n] = append(levels[n], one)
			if len(levels[n]) >= runsPerLevel {
				crowded = levels[n]
			}
		}
		if crowded == nil {
			return nil
		}
		if err := t.merge(crowded, nil); err != nil {
			return err
		}
	}
}

// merge puts one run in the place of several.
func (t *Table) merge(runs []*run, gone map[kassett.ID]struct{}) error {
	merged, err := mergeRuns(t.dir, t.options.Key, runs, gone)
	var bad *badRunError
	if err != nil && !errors.As(err, &bad) {
		return tableFailed(err)
	}
	if err != nil {
		return err
	}
	t.swapRuns(runs, merged)
	return nil
}

// condemn makes update load the index files of a broken run again. Until
// that is done the run stays, so that no lookup finds a hole in its place.
func (t *Table) condemn(bad *badRunError) {
	t.warn(fmt.Errorf("read the blob table, the file is made anew: %w", bad))
	if slices.Contains(t.runs, bad.run) && !slices.Contains(t.condemned, bad.run) {
		t.condemned = append(t.condemned, bad.run)
	}
}

// swapRuns puts a run, which may be nil, in the place of others.
func (t *Table) swapRuns(old []*run, with *run) {
	t.mu.Lock()
	runs := slices.DeleteFunc(slices.Clone(t.runs), func(x *run) bool { return slices.Contains(old, x) })
	if with != nil {
		runs = append(runs, with)
	}
	slices.SortFunc(runs, bySize)
	t.runs = runs
	t.mu.Unlock()
	for _, x := range old {
		x.retired.Store(true)
		t.warnRelease(x)
	}
}

// Add makes the table know an index file that was just written.
func (t *Table) Add(ctx context.Context, index kassett.ID, packs iter.Seq2[kassett.ID, []Blob]) error {
	t.change.Lock()
	defer t.change.Unlock()
	if err := t.openCache(); err != nil {
		return err
	}
	covered := t.covered()
	if t.want == nil {
		t.want = maps.Clone(covered)
	}
	if _, known := covered[index]; known {
		return nil
	}
	t.want[index] = struct{}{}
	var b batch
	b.add(index, packs)
	if err := t.addRun(&b); err != nil {
		return err
	}
	return t.update(ctx, nil)
}

// mend makes a broken run anew and reports whether it could.
func (t *Table) mend(err error) bool {
	var bad *badRunError
	if !errors.As(err, &bad) {
		return false
	}
	t.change.Lock()
	defer t.change.Unlock()
	if !slices.Contains(t.runs, bad.run) {
		return t.Err() == nil // someone else has
	}
	t.condemn(bad)
	// Lookups have no context: what they ask must be answered, or other work
	// would go on with a table that has a hole.
	if err := t.update(context.Background(), nil); err != nil { //nolint:forbidigo // see above
		_ = t.setErr(fmt.Errorf("make the blob table anew: %w", err))
		return false
	}
	return true
}

// Close gives everything back. Nothing may use the table any more.
func (t *Table) Close() error {
	t.change.Lock()
	defer t.change.Unlock()
	var err error
	for _, run := range slices.Concat(t.pinned, t.runs) {
		if t.own {
			run.retired.Store(true)
		}
		err = errors.Join(err, run.release())
	}
	t.mu.Lock()
	t.runs, t.pinned = nil, nil
	t.mu.Unlock()
	if t.own {
		err = errors.Join(err, os.RemoveAll(t.dir))
	}
	t.dir, t.own, t.want, t.condemned = "", false, nil, nil
	return err
}

// ask calls fn with the runs, the largest first, until it returns true. Broken
// runs are made anew, and fn asked again.
func (t *Table) ask(fn func(*run) (bool, error)) bool {
	for range maxMends {
		found, err := t.each(fn)
		if err == nil || !t.mend(err) {
			return found
		}
	}
	return false
}

func (t *Table) each(fn func(*run) (bool, error)) (bool, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, run := range t.runs {
		if found, err := fn(run); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// Has reports whether a blob is known.
func (t *Table) Has(h BlobHandle) bool {
	return t.ask(func(run *run) (bool, error) {
		_, ok, err := run.find(h)
		return ok, err
	})
}

// Find returns one place of a blob.
func (t *Table) Find(h BlobHandle) (Location, bool) {
	var l Location
	ok := t.ask(func(run *run) (ok bool, err error) {
		l, ok, err = run.first(h)
		return ok, err
	})
	return l, ok
}

// Lookup returns all places of a blob, nil when it is not known.
func (t *Table) Lookup(h BlobHandle) []Location {
	var all []Location
	t.ask(func(run *run) (bool, error) {
		var err error
		all, err = run.places(all, h)
		return false, err
	})
	return compactPlaces(all)
}

// compactPlaces sorts and drops places that are named twice, as by two index
// files that both name a pack, or by an answer that had to be asked for again.
func compactPlaces(all []Location) []Location {
	slices.SortFunc(all, func(a, b Location) int {
		return cmp.Or(a.Pack.Compare(b.Pack), cmp.Compare(a.Offset, b.Offset))
	})
	return slices.Compact(all)
}
