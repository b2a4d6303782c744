package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"kassett"
	"kassett/repo/seal"
)

// readData reads the packs that the caller has chosen among those that the
// index names.
func (c *checker) readData(ctx context.Context) error {
	var packs []storedPack
	for i, p := range c.packs {
		if c.named[i].files > 0 {
			packs = append(packs, p)
		}
	}
	packs = c.o.ReadData.choose(packs)
	if len(packs) == 0 {
		return nil
	}
	var bytes int64
	for _, p := range packs {
		bytes += p.size
	}
	c.o.Progress.Enter("read packs")
	c.o.Progress.Expect(int64(len(packs)), bytes)
	ids := make([]kassett.ID, len(packs))
	for i := range packs {
		ids[i] = packs[i].id
	}
	if err := c.r.Thaw(ctx, ids, c.o.Progress); err != nil {
		return err
	}
	err := sideWith(ctx, c.r, packs, c.newPackReader, c.readPack)
	if err != nil {
		return err
	}
	return c.readHeadless(ctx)
}

// readPack checks one pack. What was read wrong is read a second time, to tell
// a fault of the way, or of this machine, from one of the pack.
func (c *checker) readPack(ctx context.Context, rd *packReader, p storedPack) error {
	defer c.o.Progress.Done(1, p.size)
	first := rd.check(ctx, p)
	if first == nil {
		return nil
	}
	again := rd.check(ctx, p)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	what := "pack " + p.id.String()
	if again == nil {
		c.report(Finding{
			Kind: Hint, What: what, Err: fmt.Errorf("it was good when it was read a second time; the first time: %w", errors.Join(first...)),
			Hint: "test the memory of this machine, and the way to the storage",
		})
		return nil
	}
	for _, err := range again {
		if err := c.failed(ctx, what, err, cmp.Or(kassett.HintOf(err), repairPack(p.id))); err != nil {
			return err
		}
	}
	if rd.headless {
		c.tellMu.Lock()
		c.headless = append(c.headless, p)
		c.tellMu.Unlock()
	}
	return nil
}

// readHeadless checks the blobs of packs whose header is damaged: where they
// are, only the index says.
func (c *checker) readHeadless(ctx context.Context) error {
	if len(c.headless) == 0 {
		return nil
	}
	want := make(map[kassett.ID]storedPack, len(c.headless))
	for _, p := range c.headless {
		want[p.id] = p
	}
	scratch := takeBuffers()
	defer scratch.giveBack()
	for _, index := range c.sound {
		err := c.r.eachIndexed(ctx, index, func(id kassett.ID, blobs []Blob) error {
			pack, ok := want[id]
			if !ok {
				return nil
			}
			delete(want, id)
			return c.r.scanPack(ctx, pack, blobs, func(b Blob, sealed []byte, err error) error {
				if err == nil {
					err = c.r.verifyBlob(b, seal.Pieces{sealed}, scratch)
				}
				if err == nil {
					return nil
				}
				return c.failed(ctx, "pack "+id.String(), blobFault(b, err), repairPack(id))
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func blobFault(b Blob, err error) error {
	return fmt.Errorf("%s blob %s at %d, %d bytes long: %w", b.Type, b.ID, b.Offset, b.Length, err)
}

// packReader reads packs whole, one after another, in one stream each. It
// keeps its buffers, which grow with the longest blob, not with the packs, and
// is for one goroutine at a time.
type packReader struct {
	c        *checker
	sum      hash.Hash
	scratch  buffers
	headless bool // the header of the last pack cannot be read
}

func (c *checker) newPackReader() *packReader {
	return &packReader{c: c, sum: sha256.New()}
}

// check reads pack p and returns all that is wrong with it: its bytes against
// its name, its header against the index, each blob against its ID.
func (rd *packReader) check(ctx context.Context, p storedPack) (faults []error) {
	rd.headless = false
	blobs, err := rd.c.r.PackHeader(ctx, p.id, p.size)
	if err != nil {
		rd.headless = kassett.KindOf(err) == kassett.Corrupt
		faults, blobs = append(faults, err), nil
	} else if i, ok := findPack(rd.c.packs, p.id); ok {
		said := describe(rd.c.seed, blobs)
		if n := &rd.c.named[i]; said.digest != n.digest && n.state&packDisputed == 0 {
			faults = append(faults, &kassett.Error{
				Kind: kassett.Corrupt, Err: errors.New("its header and the index disagree about what is in it"),
				Hint: "run `kassett repair index --read-all-packs`",
			})
		}
	}
	rc, err := rd.c.r.storage.Get(ctx, kassett.Handle{Kind: kassett.PackFile, ID: p.id}, 0, p.size)
	if err != nil {
		return append(faults, err)
	}
	defer func() {
		if err := rc.Close(); err != nil {
			faults = append(faults, err)
		}
	}()
	in := rd.scratch.readAhead(rc)
	defer in.Reset(nil)
	rd.sum.Reset()
	for _, b := range blobs {
		if rd.scratch.sealed, err = readSealed(in, rd.scratch.sealed, int64(b.Length)); err != nil {
			return append(faults, blobFault(b, err))
		}
		_, _ = rd.sum.Write(rd.scratch.sealed) // never fails
		if err := rd.c.r.verifyBlob(b, seal.Pieces{rd.scratch.sealed}, &rd.scratch); err != nil {
			faults = append(faults, blobFault(b, err))
		}
	}
	if _, err := io.Copy(rd.sum, in); err != nil {
		return append(faults, fmt.Errorf("read to the end: %w", err))
	}
	if id := kassett.ID(rd.sum.Sum(nil)); id != p.id {
		faults = append(faults, &kassett.Error{Kind: kassett.Corrupt, Err: fmt.Errorf("its bytes have the hash %s", id)})
	}
	rd.trim()
	return faults
}

// trim gives back memory that an unusually long blob took.
func (rd *packReader) trim() {
	if rd.scratch.large() {
		rd.scratch = buffers{}
	}
}
