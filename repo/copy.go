package repo

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"

	"kassett"
)

// CopyStats is what a copy did.
type CopyStats struct {
	Blobs   uint64 `json:"blobs"`   // copied
	Bytes   uint64 `json:"bytes"`   // of them, as they were sealed in the source
	Skipped uint64 `json:"skipped"` // blobs of the set that were there already
}

// CopyBlobs copies the blobs of set, which belongs to src, to dst, and makes
// them durable there. Packs are read one after another, each once. A blob is
// opened and hashed, then sealed with the other master key; one that is
// compressed is not compressed again. What is damaged in one pack is taken from
// another. A blob that cannot be had is a [kassett.Corrupt] error, and one that
// src does not know a [kassett.NotFound] error; both name it, and what was
// copied before stays and is skipped by the next copy.
//
// The caller holds a lock on both and has loaded both indexes.
func CopyBlobs(ctx context.Context, src, dst *Repository, set *BlobSet, p *kassett.Progress) (CopyStats, error) {
	c := &copying{src: src, dst: dst, set: set, progress: p, done: src.NewBlobSet()}
	p.Enter("copy blobs")
	if err := c.expect(ctx); err != nil {
		return CopyStats{}, err
	}
	c.w = dst.NewWriter(ctx, WriterOptions{Progress: p})
	err := c.packs(ctx)
	if err == nil {
		err = c.w.Flush(ctx)
	}
	if err != nil {
		c.w.Abort()
	}
	return CopyStats{Blobs: c.blobs.Load(), Bytes: c.bytes.Load(), Skipped: c.skipped}, err
}

// copying is one copy at work.
type copying struct {
	src, dst *Repository
	set      *BlobSet
	done     *BlobSet // blobs of set that are on their way, or there
	w        *Writer
	progress *kassett.Progress

	blobs, bytes atomic.Uint64
	skipped      uint64
}

// expect tells the progress how much there is to copy.
func (c *copying) expect(ctx context.Context) error {
	var last BlobHandle
	var blobs, bytes int64
	err := c.src.table.Each(func(l Location) bool {
		if l.BlobHandle != last && c.set.Has(l.BlobHandle) && !c.dst.Has(l.BlobHandle) {
			blobs++
			bytes += int64(l.Length)
		}
		last = l.BlobHandle
		return ctx.Err() == nil
	})
	c.progress.Expect(blobs, bytes)
	return cmp.Or(context.Cause(ctx), err)
}

// copiedPack is a pack of the source and what is wanted of it.
type copiedPack struct {
	id    kassett.ID
	blobs []Blob
}

// copyBatch is how many packs are looked up at once, so that their blobs take
// little memory.
const copyBatch = 256

// packs goes through the packs of the source.
func (c *copying) packs(ctx context.Context) error {
	var batch []copiedPack
	flush := func() error {
		err := side(ctx, c.src, batch, c.pack)
		batch = batch[:0]
		return err
	}
	err := c.src.ByPack(func(id kassett.ID, blobs []Blob) error {
		if want := c.wanted(blobs); len(want) > 0 {
			batch = append(batch, copiedPack{id, want})
		}
		if len(batch) == copyBatch {
			return flush()
		}
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	if err := cmp.Or(c.set.Err(), c.done.Err()); err != nil {
		return err
	}
	if missing := c.set.Len() - c.done.Len(); missing > 0 {
		return &kassett.Error{
			Op: "copy", Kind: kassett.NotFound, Err: fmt.Errorf("%d blobs are in no pack that the index of the source names", missing),
			Hint: "run `kassett check` on the source",
		}
	}
	return nil
}

// wanted returns those of a pack's blobs that are to be copied.
func (c *copying) wanted(blobs []Blob) []Blob {
	var want []Blob
	for _, b := range blobs {
		if !c.set.Has(b.BlobHandle) || !c.done.Add(b.BlobHandle) {
			continue
		}
		if c.dst.Has(b.BlobHandle) {
			c.skipped++
			continue
		}
		want = append(want, b)
	}
	return want
}

// pack copies from one pack.
func (c *copying) pack(ctx context.Context, p copiedPack) error {
	info, err := c.src.storage.Stat(ctx, kassett.Handle{Kind: kassett.PackFile, ID: p.id})
	if err != nil && kassett.KindOf(err) != kassett.NotFound {
		return fmt.Errorf("copy from pack %s: %w", p.id, err)
	}
	scratch := takeBuffers()
	defer scratch.giveBack()
	return c.src.scanPack(ctx, storedPack{p.id, info.Size}, p.blobs, func(b Blob, sealed []byte, err error) error {
		defer c.progress.Done(1, int64(b.Length))
		if err == nil {
			scratch.plain, err = c.src.openBlob(scratch.plain[:0], b, sealed, scratch)
		}
		if err != nil {
			// LoadBlob tries every place, and says what is wrong with each.
			if scratch.plain, err = c.src.LoadBlob(ctx, b.BlobHandle, scratch.plain); err != nil {
				return err
			}
			b.Plain = 0
		}
		c.blobs.Add(1)
		c.bytes.Add(uint64(b.Length))
		if b.Plain != 0 && c.dst.Config().Version >= 2 {
			scratch.sealed = c.dst.key.seal(scratch.sealed[:0], scratch.frame)
			return c.w.SaveSealed(ctx, b, scratch.sealed)
		}
		_, err = c.w.Save(ctx, b.Type, scratch.plain)
		return err
	})
}
