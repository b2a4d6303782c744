package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"kassett"
)

// CopyStats is what a copy did in one target, or would do.
type CopyStats struct {
	Blobs   uint64 `json:"blobs"`         // copied, those of whole packs among them
	Bytes   uint64 `json:"bytes"`         // of them, as they were sealed in the source
	Skipped uint64 `json:"skipped"`       // blobs of the set that were there already
	Packs   uint64 `json:"packs"`         // moved whole
	Found   uint64 `json:"packs_resumed"` // of them, stored by an earlier copy that was cut
}

// CopyTarget is one of the repositories that a copy goes to.
type CopyTarget struct {
	Repo *Repository
	// Held ends when the lock on Repo is lost; nil stands for the context of
	// the copy.
	Held  context.Context //nolint:containedctx // each target's lock ends by itself
	Stats CopyStats       // what the copy did there
	// Err says why nothing more goes there; nil while all is well. A target
	// that comes with one is passed over.
	Err error
}

// CopyOptions say how [CopyBlobs] works. The zero value is good.
type CopyOptions struct {
	Progress *kassett.Progress
	// Verify reads all that was written back from the target, and compares it.
	Verify bool
	// DryRun counts what would be copied, and writes nothing.
	DryRun bool
	// Patience is how long one of several targets may take for one pack before
	// it is given up, so that the others go on; 0 is half an hour.
	Patience time.Duration
}

const (
	// copyPatience lets 16 MiB pass eight at a time at 80 KB/s.
	copyPatience = 30 * time.Minute
	// copyIndexAge bounds what a copy that is killed has to send again: packs
	// that no index file names are only found again when they were moved whole.
	copyIndexAge = 2 * time.Minute
	// copyMemory bounds the packs that are held whole, in bytes: five of usual
	// length, or one that is longer.
	copyMemory = 5 * defaultPackSize
	// maxWhole is the longest pack that is held whole, in bytes: those that
	// restic makes have up to 128 MiB. Longer ones are taken apart.
	maxWhole = 144 << 20
	// copyBatch is how many packs are looked up at once, so that their blobs
	// take little memory.
	copyBatch = 256
	// maxFaults is how many damaged blobs are named one by one.
	maxFaults = 10
)

// CopyBlobs copies the blobs of set, which belongs to src, to all targets in one
// pass, and makes them durable there. Packs are read one after another, each
// once, and what was read is written to the targets side by side.
//
// A target that is a replica of src gets packs as they are, when most of a pack
// is wanted: their bytes are compared with their name, and their header with the
// index. Blobs of other packs are opened and hashed, and go into new packs;
// where the master key is another one they are sealed anew, but not compressed
// again. What is damaged in one pack is taken from another.
//
// What goes wrong with one target is noted in its Err and does not stop the
// others. The error says what is wrong with src, or that ctx has ended. A blob
// that cannot be had is a [kassett.Corrupt] error that names it, or a
// [kassett.NotFound] error when no index file does; the rest is copied all the
// same. The set that is returned has the blobs that could be had. What a copy
// that was cut has stored is skipped by the next one.
//
// The caller holds a lock on all of them and has loaded their indexes.
func CopyBlobs(ctx context.Context, src *Repository, set *BlobSet, targets []*CopyTarget, o CopyOptions) (*BlobSet, error) {
	c := &copying{
		src: src, set: set, o: o, planned: src.NewBlobSet(), had: src.NewBlobSet(),
		memory: semaphore.NewWeighted(copyMemory), spare: make(chan []byte, copyMemory/defaultPackSize),
	}
	if err := c.start(ctx, targets); err != nil {
		return c.had, err
	}
	o.Progress.Enter("copy blobs")
	err := c.expect(ctx)
	if err == nil {
		err = c.packs(ctx)
	}
	return c.had, c.end(ctx, err)
}

// copying is one copy at work.
type copying struct {
	src     *Repository
	set     *BlobSet
	o       CopyOptions
	ends    []*copyEnd
	planned *BlobSet // blobs of set that are in a pack that was looked at
	had     *BlobSet // blobs of set that could be read
	memory  *semaphore.Weighted
	spare   chan []byte // memory for packs that is not in use

	mu     sync.Mutex // guards what follows
	faults []error    // the first of those that could not
	lost   int
}

// start begins the work at every target.
func (c *copying) start(ctx context.Context, targets []*CopyTarget) error {
	for _, t := range targets {
		if t.Err != nil {
			continue
		}
		replica, err := t.Repo.ReplicaOf(c.src)
		if err != nil {
			t.Err = err
			continue
		}
		e := newCopyEnd(ctx, t, replica, c.o)
		if len(targets) > 1 {
			e.patience = cmp.Or(c.o.Patience, copyPatience)
		}
		c.ends = append(c.ends, e)
	}
	return context.Cause(ctx)
}

// live reports whether a target is left.
func (c *copying) live() bool { return slices.ContainsFunc(c.ends, (*copyEnd).live) }

// end makes durable what was copied, and says how the copy went.
func (c *copying) end(ctx context.Context, err error) error {
	var g errgroup.Group
	for _, e := range c.ends {
		g.Go(func() error {
			e.finish(ctx, err == nil)
			return nil
		})
	}
	_ = g.Wait() // each notes its own
	if err != nil || !c.live() && len(c.faults) == 0 {
		return err
	}
	if more := c.lost - len(c.faults); more > 0 {
		c.faults = append(c.faults, fmt.Errorf("and %d more blobs", more))
	}
	return cmp.Or(errors.Join(c.faults...), c.set.Err(), c.planned.Err(), c.had.Err())
}

// lose notes a blob that no pack has as it was.
func (c *copying) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost++; c.lost <= maxFaults {
		c.faults = append(c.faults, err)
	}
}

// expect tells the progress how much there is to copy.
func (c *copying) expect(ctx context.Context) error {
	var last BlobHandle
	var blobs, bytes int64
	err := c.src.table.Each(func(l Location) bool {
		lacks := func(e *copyEnd) bool { return !e.Repo.Has(l.BlobHandle) }
		if l.BlobHandle != last && c.set.Has(l.BlobHandle) && slices.ContainsFunc(c.ends, lacks) {
			blobs++
			bytes += int64(l.Length)
		}
		last = l.BlobHandle
		return ctx.Err() == nil
	})
	c.o.Progress.Expect(blobs, bytes)
	return cmp.Or(context.Cause(ctx), err)
}

// errNoTarget ends a copy early: every target has noted its own error.
var errNoTarget = errors.New("no target is left")

// packs goes through the packs of the source.
func (c *copying) packs(ctx context.Context) error {
	var batch []copiedPack
	flush := func() error {
		ids := make([]kassett.ID, len(batch))
		for i := range batch {
			ids[i] = batch[i].id
		}
		err := c.src.Thaw(ctx, ids, c.o.Progress)
		if err == nil {
			err = side(ctx, c.src, batch, c.pack)
		}
		batch = batch[:0]
		return err
	}
	err := c.src.ByPack(func(id kassett.ID, blobs []Blob) error {
		if !c.live() {
			return errNoTarget
		}
		if p := c.plan(id, blobs); len(p.want) > 0 && !c.o.DryRun {
			batch = append(batch, p)
		}
		if len(batch) == copyBatch {
			return flush()
		}
		return context.Cause(ctx)
	})
	if err == nil {
		err = flush()
	}
	if errors.Is(err, errNoTarget) {
		return nil
	}
	if missing := c.set.Len() - c.planned.Len(); err == nil && missing > 0 {
		c.lose(&kassett.Error{
			Op: "copy", Kind: kassett.NotFound, Err: fmt.Errorf("%d blobs are in no pack that the index of the source names", missing),
			Hint: "run `kassett check` on the source",
		})
	}
	return err
}

// copiedPack is a pack of the source and what is wanted of it.
type copiedPack struct {
	id    kassett.ID
	all   []Blob     // by offset; nil when no target gets it whole
	want  []Blob     // those that at least one target lacks
	whole []*copyEnd // the targets that get it whole
}

// plan decides how the blobs of a pack come to the targets. The first pack that
// has a blob is where it is taken from.
func (c *copying) plan(id kassett.ID, blobs []Blob) copiedPack {
	p := copiedPack{id: id}
	var ours []Blob
	for _, b := range blobs {
		if c.set.Has(b.BlobHandle) && c.planned.Add(b.BlobHandle) {
			ours = append(ours, b)
		}
	}
	if len(ours) == 0 {
		return p
	}
	lacking := make(map[BlobHandle]struct{}, len(ours))
	for _, e := range c.ends {
		var count, bytes uint64
		for _, b := range ours {
			if !e.Repo.Has(b.BlobHandle) {
				lacking[b.BlobHandle] = struct{}{}
				count++
				bytes += uint64(b.Length)
			}
		}
		e.skipped += uint64(len(ours)) - count
		whole := e.replica && wholeSize(blobs) > 0 && worthWhole(bytes, blobs) && !e.knows(id, blobs)
		if whole {
			p.whole = append(p.whole, e)
		}
		if c.o.DryRun {
			e.count(count, bytes, whole)
		}
	}
	for _, b := range ours {
		if _, is := lacking[b.BlobHandle]; is {
			p.want = append(p.want, b)
		} else {
			c.had.Add(b.BlobHandle) // of no interest whether src still has it
		}
	}
	if len(p.whole) > 0 {
		p.all = slices.Clone(blobs)
	}
	return p
}

// worthWhole reports whether a pack of these blobs is moved as it is for the sake
// of used bytes in it. What is not used is sent and kept in vain; on the other
// hand nothing has to be opened, and both places have the same file: a third of
// what is wanted is little for that, and more is left to prune.
func worthWhole(used uint64, blobs []Blob) bool {
	last := blobs[len(blobs)-1]
	return used*4 >= (uint64(last.Offset)+uint64(last.Length))*3
}

// wholeSize returns the length, in bytes, of a pack of exactly these blobs, which
// are sorted by offset, or 0 when there is no such pack or it is too long to be
// held in memory.
func wholeSize(blobs []Blob) int64 {
	size, header := int64(0), int64(packOverhead)
	for _, b := range blobs {
		if int64(b.Offset) != size {
			return 0
		}
		size += int64(b.Length)
		header += int64(entrySize(b))
	}
	if size += header; size > maxWhole {
		return 0
	}
	return size
}

// Covers reports whether every blob of sub is in set; both belong to r.
func (r *Repository) Covers(set, sub *BlobSet) bool {
	var last BlobHandle
	left := sub.Len()
	err := r.table.Each(func(l Location) bool {
		if l.BlobHandle != last && sub.Has(l.BlobHandle) && set.Has(l.BlobHandle) {
			left--
		}
		last = l.BlobHandle
		return true
	})
	return err == nil && left == 0
}
