package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// FindingKind says how bad a [Finding] is.
type FindingKind string

// The kinds of finding. Damage and Missing make a check fail; the others are
// for information.
const (
	Damage   FindingKind = "damage"   // stored bytes are not what was written
	Missing  FindingKind = "missing"  // something that is named is not there
	Leftover FindingKind = "leftover" // harmless rest of work that was broken off
	Hint     FindingKind = "hint"     // harmless, but could be better
)

// Finding is one thing that a check or a repair has to say.
type Finding struct {
	Kind FindingKind
	What string // the thing, with its ID: "pack 3fa9…", "data blob 77e1… in pack 3fa9…"
	Err  error  // what is wrong with it
	Hint string // what the operator should do next; may be empty
}

// CheckOptions chooses how deep a check goes.
type CheckOptions struct {
	// ReadData says whose packs' bytes are read. The zero Subset reads none.
	ReadData Subset
	Progress *kassett.Progress
}

// Check compares what the index files, keys, snapshots, records and packs of
// the repository say of themselves and of each other, and reads the packs of
// o.ReadData from the first byte to the last. It tells report everything it
// finds, one call at a time, and goes on. The blob table on this machine is
// not believed but compared with the index files, if it was loaded. What trees
// mean is not looked at.
//
// The caller holds a lock; a shared one is enough. When something is damaged
// or missing the error is of the kind [kassett.Corrupt]; another error says
// why the check did not come to its end. Memory grows with the number of packs,
// by 64 bytes for each, not with that of blobs.
func (r *Repository) Check(ctx context.Context, o CheckOptions, report func(Finding)) error {
	c := &checker{r: r, o: o, tell: report}
	var err error
	if c.survey, err = r.surveyIndex(ctx, o.Progress, c.badIndex, c.packGone); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{c.packFiles, c.compareTable, c.otherFiles, c.readData} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.verdict()
}

func (c *checker) verdict() error {
	if c.bad == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "check repository", Kind: kassett.Corrupt, Err: fmt.Errorf("%d things are damaged or missing", c.bad),
		Hint: "copy the repository as it is to a safe place, then do what is said for each of them",
	}
}

// checker is one check at work.
type checker struct {
	*survey
	r *Repository
	o CheckOptions

	tellMu   sync.Mutex // guards what follows
	tell     func(Finding)
	bad      int          // findings of damage
	headless []storedPack // packs whose header cannot be read
}

func (c *checker) report(f Finding) {
	c.tellMu.Lock()
	defer c.tellMu.Unlock()
	if f.Kind == Damage || f.Kind == Missing {
		c.bad++
		c.o.Progress.Problem()
	}
	c.tell(f)
}

// failed turns an error about one thing into a finding, unless it is about
// everything: then it is returned. hint is what to do next; "" = as err says.
func (c *checker) failed(ctx context.Context, what string, err error, hint string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if k := kassett.KindOf(err); k == kassett.Offline || k == kassett.Interrupted {
		return err
	}
	f := Finding{Kind: Damage, What: what, Err: err, Hint: cmp.Or(hint, kassett.HintOf(err))}
	if kassett.KindOf(err) == kassett.NotFound {
		f.Kind = Missing
	}
	c.report(f)
	return nil
}

// side runs fn for every item, as many at once as storage and processors can
// take, and returns the first error.
func side[T any](ctx context.Context, r *Repository, items []T, fn func(context.Context, T) error) error {
	nothing := func() struct{} { return struct{}{} }
	return sideWith(ctx, r, items, nothing, func(ctx context.Context, _ struct{}, item T) error { return fn(ctx, item) })
}

// sideWith is side for work that keeps something, such as buffers, from item to
// item; equip makes it for each goroutine.
func sideWith[T, E any](ctx context.Context, r *Repository, items []T, equip func() E, fn func(context.Context, E, T) error) error {
	g, inner := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(len(items), max(r.Connections(), runtime.GOMAXPROCS(0))) {
		g.Go(func() error {
			kit := equip()
			for inner.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(items) {
					return nil
				}
				if err := fn(inner, kit, items[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// badIndex reports an index file that cannot be read.
func (c *checker) badIndex(ctx context.Context, id kassett.ID, err error) error {
	return c.failed(ctx, "index "+id.String(), err, "run `kassett repair index`")
}

// packGone reports a pack that is named and not there.
func (c *checker) packGone(index, pack kassett.ID, blobs int) {
	c.report(Finding{
		Kind: Missing, What: "pack " + pack.String(),
		Err:  fmt.Errorf("it is not in the storage; index file %s names %d blobs in it", index, blobs),
		Hint: "put the file back from a copy of the repository; if there is none, run `kassett repair index` and `kassett repair snapshots`",
	})
}

// packFiles compares what the index files say with what is listed.
func (c *checker) packFiles(ctx context.Context) error {
	c.o.Progress.Enter("compare packs")
	c.o.Progress.Expect(int64(len(c.packs)), 0)
	var mixed, several int
	for i, pack := range c.packs {
		c.o.Progress.Done(1, 0)
		n := &c.named[i]
		if n.state&packMixed != 0 {
			mixed++
		}
		if n.files > 1 {
			several++
		}
		if err := c.packFile(ctx, pack, n); err != nil {
			return err
		}
	}
	if mixed > 0 {
		c.report(Finding{
			Kind: Hint, What: "packs", Err: fmt.Errorf("%d have data and trees mixed, as old versions wrote them", mixed),
			Hint: "`kassett prune` sorts them apart",
		})
	}
	if several > 0 {
		c.report(Finding{
			Kind: Hint, What: "index", Err: fmt.Errorf("%d packs are named by several index files", several),
			Hint: "`kassett repair index` makes it smaller",
		})
	}
	return nil
}

func (c *checker) packFile(ctx context.Context, pack storedPack, n *namedPack) error {
	f := Finding{Kind: Damage, What: "pack " + pack.id.String(), Hint: "run `kassett repair index`"}
	switch {
	case n.files == 0:
		f.Kind, f.Err = Leftover, errors.New("no index file names it")
		f.Hint = "`kassett prune` removes what a broken-off backup has left; when index files were lost, run `kassett repair index` before"
		if len(c.sound) < len(c.files) {
			f.Hint = "run `kassett repair index`: the index file that names it may be a damaged one"
		}
	case n.state&packDisputed != 0:
		f.Err = errors.New("index files disagree about what is in it")
	case uint64(pack.size) != n.bytes:
		f.Err = fmt.Errorf("it has %d bytes, the index says %d", pack.size, n.bytes)
		// Either may be right: a pack whose end is as it should be was not cut.
		if _, err := c.r.PackHeader(ctx, pack.id, pack.size); err != nil {
			f.Err = errors.Join(f.Err, err)
			f.Hint = repairPack(pack.id)
		}
	case n.state&packGeometry != 0:
		f.Err = errors.New("the index says that blobs in it overlap or leave gaps")
	default:
		return nil
	}
	c.report(f)
	return context.Cause(ctx)
}

func repairPack(id kassett.ID) string {
	return "run `kassett repair packs " + id.String() + "`, or put the file back from a copy of the repository"
}

// compareTable compares the blob table of this machine, if it was loaded, with
// the index files.
func (c *checker) compareTable(ctx context.Context) error {
	if len(c.sound) < len(c.files) {
		return nil // the table cannot be complete either
	}
	c.o.Progress.Enter("compare blob table")
	sums := make([]uint64, len(c.packs))
	var last BlobHandle
	places, double, wrong := 0, 0, 0
	err := c.r.table.Each(func(l Location) bool {
		if places++; l.BlobHandle == last {
			double++
		}
		last = l.BlobHandle
		if i, ok := findPack(c.packs, l.Pack); ok {
			sums[i] += digest(c.seed, l.Blob)
		} else if _, ok := c.absent[l.Pack]; !ok {
			wrong++
		}
		return places%(1<<16) != 0 || ctx.Err() == nil
	})
	if err = cmp.Or(context.Cause(ctx), err); err != nil {
		return err
	}
	if places == 0 {
		return nil
	}
	for i := range c.named {
		// What the table does not know may have come while it was compared.
		if n := &c.named[i]; sums[i] != 0 && sums[i] != n.digest && n.state&packDisputed == 0 {
			wrong++
		}
	}
	if wrong > 0 {
		c.report(Finding{
			Kind: Damage, What: "blob table of this machine", Err: fmt.Errorf("for %d packs it is not what the index files say", wrong),
			Hint: "remove the cache folder: it is made again; then check again",
		})
	}
	if double > 0 {
		c.report(Finding{
			Kind: Hint, What: "blobs", Err: fmt.Errorf("%d further copies of blobs in other packs", double),
			Hint: "`kassett prune` removes them",
		})
	}
	return nil
}

// otherFiles opens every key, snapshot and record.
func (c *checker) otherFiles(ctx context.Context) error {
	c.o.Progress.Enter("read keys and snapshots")
	err := c.eachFile(ctx, kassett.KeyFile, func(ctx context.Context, id kassett.ID) error {
		_, err := readKeyFile(ctx, c.r.storage, id)
		return err
	}, "remove it with `kassett key remove %s`")
	if err != nil {
		return err
	}
	var snapshots atomic.Int64
	err = c.eachFile(ctx, kassett.SnapshotFile, func(ctx context.Context, id kassett.ID) error {
		snapshots.Add(1)
		_, err := c.r.LoadUnpacked(ctx, kassett.SnapshotFile, id)
		return err
	}, "if it never was a snapshot of yours, remove the file snapshots/%s in the storage by hand")
	if err != nil {
		return err
	}
	if n := snapshots.Load(); n > 0 && len(c.files) == 0 {
		c.report(Finding{
			Kind: Missing, What: "index", Err: fmt.Errorf("there are %d snapshots and no index file", n),
			Hint: "run `kassett repair index`",
		})
	}
	if _, err := c.r.Records().Standing(ctx); err != nil {
		return c.failed(ctx, "records", err, "")
	}
	return nil
}

// eachFile reports the files of a kind that read fails for. removal says how one
// is removed, with %s for its ID.
func (c *checker) eachFile(ctx context.Context, k kassett.FileKind, read func(context.Context, kassett.ID) error, removal string) error {
	ids, err := c.r.listIDs(ctx, k)
	if err != nil {
		return err
	}
	c.o.Progress.Expect(int64(len(ids)), 0)
	return side(ctx, c.r, ids, func(ctx context.Context, id kassett.ID) error {
		defer c.o.Progress.Done(1, 0)
		if err := read(ctx, id); err != nil {
			return c.failed(ctx, kassett.Handle{Kind: k, ID: id}.String(), err,
				"put the file back from a copy of the repository, or "+fmt.Sprintf(removal, id))
		}
		return nil
	})
}
