package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo/seal"
)

// pack copies from one pack.
func (c *copying) pack(ctx context.Context, p copiedPack) error {
	if !c.live() {
		return nil
	}
	if len(p.whole) > 0 {
		done, err := c.wholePack(ctx, p)
		if done || err != nil {
			return err
		}
		p.whole = nil // it is damaged: what of it is good goes blob by blob
	}
	scratch := takeBuffers()
	defer scratch.giveBack()
	return c.src.scanPack(ctx, storedPack{p.id, math.MaxInt64}, p.want, func(b Blob, sealed []byte, err error) error {
		defer c.o.Progress.Done(1, int64(b.Length))
		return c.blob(ctx, p, readBlob{b, sealed, err}, scratch)
	})
}

// wholePack reads a pack whole and gives it to the targets, side by side. It
// returns false when the pack is not what its name and the index say.
func (c *copying) wholePack(ctx context.Context, p copiedPack) (done bool, err error) {
	size := wholeSize(p.all)
	share := min(size, copyMemory)
	if err := c.memory.Acquire(ctx, share); err != nil {
		return false, context.Cause(ctx)
	}
	defer c.memory.Release(share)
	whole := c.takeMemory(int(size))
	defer c.giveMemory(whole)
	err = c.readWhole(ctx, p, whole)
	if kassett.KindOf(err) == kassett.Corrupt && ctx.Err() == nil {
		err = c.readWhole(ctx, p, whole) // a fault of the way may be gone
	}
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case kassett.KindOf(err) == kassett.Corrupt:
		c.src.warn(fmt.Errorf("its good parts are copied one by one: %w", err))
		return false, nil
	case err != nil:
		return false, err
	}
	var bytes int64
	for _, b := range p.want {
		c.had.Add(b.BlobHandle)
		bytes += int64(b.Length)
	}
	var g errgroup.Group
	for _, e := range c.ends {
		g.Go(func() error {
			if slices.Contains(p.whole, e) && e.takePack(p, whole) {
				return nil
			}
			return c.apart(ctx, e, p, whole)
		})
	}
	err = g.Wait()
	c.o.Progress.Done(int64(len(p.want)), bytes)
	return true, err
}

// takeMemory returns memory for a whole pack. The copy keeps its own: what the
// collector took from a pool would have to be made again and again.
func (c *copying) takeMemory(size int) []byte {
	select {
	case b := <-c.spare:
		if cap(b) >= size {
			return b[:size]
		}
	default:
	}
	return make([]byte, size, max(size, defaultPackSize))
}

func (c *copying) giveMemory(b []byte) {
	if cap(b) > 2*defaultPackSize {
		return // keep no memory for the rare giant
	}
	select {
	case c.spare <- b:
	default:
	}
}

// readWhole reads a pack and compares it with its name and the index.
func (c *copying) readWhole(ctx context.Context, p copiedPack, whole []byte) (err error) {
	corrupt := func(err error) error {
		return &kassett.Error{
			Op: "copy pack", What: p.id.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "run `kassett check --read-data` on the source, then `kassett repair packs " + p.id.String() + "`",
		}
	}
	rc, err := c.src.storage.Get(ctx, kassett.Handle{Kind: kassett.PackFile, ID: p.id}, 0, -1)
	if kassett.KindOf(err) == kassett.NotFound {
		return corrupt(err)
	}
	if err != nil {
		return fmt.Errorf("read pack %s: %w", p.id, err)
	}
	defer func() { _ = rc.Close() }() // what came is compared
	if _, err := io.ReadFull(rc, whole); packEnds(err) {
		return corrupt(errors.New("it is shorter than the index says"))
	} else if err != nil {
		return fmt.Errorf("read pack %s: %w", p.id, err)
	}
	if sum := kassett.Hash(whole); sum != p.id {
		return corrupt(fmt.Errorf("its bytes have the hash %s", sum))
	}
	blobs, err := c.src.openHeader(whole)
	if err == nil && !slices.Equal(blobs, p.all) {
		err = errors.New("its header and the index disagree about what is in it")
	}
	if err != nil {
		return corrupt(err)
	}
	return nil
}

// openHeader reads the header of a pack that is in memory.
func (r *Repository) openHeader(whole []byte) ([]Blob, error) {
	end := len(whole) - packFooter
	length := int64(binary.LittleEndian.Uint32(whole[end:]))
	if length < Overhead+entryRaw || length > maxHeader || length > int64(end) {
		return nil, fmt.Errorf("the header cannot have %d bytes in a pack of %d", length, len(whole))
	}
	plain, err := r.key.Open(nil, whole[int64(end)-length:end])
	if err != nil {
		return nil, err
	}
	return decodeHeader(plain, int64(end)-length)
}

// apart gives a target the blobs of a pack that is in memory, one by one.
func (c *copying) apart(ctx context.Context, e *copyEnd, p copiedPack, whole []byte) error {
	scratch := takeBuffers()
	defer scratch.giveBack()
	for _, b := range p.want {
		if !e.live() || e.Repo.Has(b.BlobHandle) {
			continue
		}
		got, ok, err := c.open(ctx, readBlob{b, whole[b.Offset:][:b.Length], nil}, scratch)
		if err != nil {
			return err
		}
		if !ok {
			c.had.Delete(b.BlobHandle)
			continue
		}
		e.takeBlob(got, scratch)
	}
	return nil
}

// readBlob is a blob that was read from a pack of the source, or the reason why
// it could not be.
type readBlob struct {
	Blob
	sealed []byte
	err    error
}

// blob gives one blob to the targets that do not get its pack whole.
func (c *copying) blob(ctx context.Context, p copiedPack, b readBlob, scratch *buffers) error {
	got, ok, err := c.open(ctx, b, scratch)
	if err != nil || !ok {
		return err
	}
	c.had.Add(b.BlobHandle)
	for _, e := range c.ends {
		if !slices.Contains(p.whole, e) {
			e.takeBlob(got, scratch)
		}
	}
	if !c.live() {
		return errNoTarget
	}
	return nil
}

// open opens a blob and compares it with its ID. One that is damaged is taken
// from another pack; what cannot be had at all is noted, and ok is false.
func (c *copying) open(ctx context.Context, b readBlob, scratch *buffers) (got copiedBlob, ok bool, err error) {
	got = copiedBlob{Blob: b.Blob, sealed: b.sealed}
	if err = b.err; err == nil {
		scratch.plain, err = c.src.openBlob(scratch.plain[:0], b.Blob, seal.Pieces{b.sealed}, scratch)
	}
	if err == nil {
		got.frame, got.plain = scratch.frame, scratch.plain
		return got, true, nil
	}
	// LoadBlob tries every place, and says what is wrong with each.
	plain, err := c.src.LoadBlob(ctx, b.BlobHandle, scratch.plain)
	switch kind := kassett.KindOf(err); {
	case err == nil:
		scratch.plain = plain
		got.plain, got.sealed, got.Plain = plain, nil, 0
		return got, true, nil
	case ctx.Err() != nil:
		return got, false, context.Cause(ctx)
	case kind == kassett.Corrupt || kind == kassett.NotFound:
		c.lose(err)
		return got, false, nil
	}
	return got, false, err
}
