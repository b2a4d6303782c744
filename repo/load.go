package repo

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"

	"kassett"
	"kassett/repo/seal"
)

// maxGap is how many bytes that nobody asked for are read between two blobs, in
// order to save a second request: at 100 MB/s they take 5 ms, which is what a
// request to a near object store costs.
const maxGap = 512 << 10

// readAhead is how much of a pack one read asks for, in bytes, so that small
// blobs do not cost a call each.
const readAhead = 1 << 20

// readStep is how much is read of a blob before its claimed length is trusted
// with more memory.
const readStep = 16 << 20

// buffers are the scratch memory of one goroutine that reads or verifies blobs.
type buffers struct {
	sealed []byte // as stored
	frame  []byte // opened, maybe compressed
	plain  []byte // decompressed
	ahead  *bufio.Reader
}

// keepBuffers is how large, in bytes, a buffer may be to be used again.
const keepBuffers = 2 << 20

var buffersPool = sync.Pool{New: func() any { return new(buffers) }}

func takeBuffers() *buffers {
	b, _ := buffersPool.Get().(*buffers) // always one: see New
	return b
}

func (b *buffers) giveBack() {
	if !b.large() {
		buffersPool.Put(b)
	}
}

// large reports whether they have grown over what is worth keeping.
func (b *buffers) large() bool {
	return cap(b.sealed)+cap(b.frame)+cap(b.plain) > 3*keepBuffers
}

// readAhead returns a buffered reader of rd.
func (b *buffers) readAhead(rd io.Reader) *bufio.Reader {
	if b.ahead == nil {
		b.ahead = bufio.NewReaderSize(nil, readAhead)
	}
	b.ahead.Reset(rd)
	return b.ahead
}

// openBlob appends the plaintext of a sealed blob to dst, which may be nil, and
// checks it: the seal, the length, the hash.
func (r *Repository) openBlob(dst []byte, b Blob, sealed seal.Pieces, scratch *buffers) ([]byte, error) {
	start := len(dst)
	var err error
	if b.Plain == 0 {
		dst, err = r.key.OpenFrom(dst, sealed)
	} else if err = r.codec.start(r.options.Compression); err == nil {
		if scratch.frame, err = r.key.OpenFrom(scratch.frame[:0], sealed); err == nil {
			dst, err = r.codec.decompress(dst, scratch.frame, int(b.Plain))
		}
	}
	if err != nil {
		return dst, err
	}
	if sum := kassett.Hash(dst[start:]); sum != b.ID {
		return dst, otherContent(sum)
	}
	return dst, nil
}

// hashStep is how much of a blob is decrypted at once where nobody wants the
// plaintext, in bytes: it stays in the processor's cache.
const hashStep = 64 << 10

// verifyBlob checks a sealed blob as openBlob does.
func (r *Repository) verifyBlob(b Blob, sealed seal.Pieces, scratch *buffers) (err error) {
	if b.Plain != 0 {
		scratch.plain, err = r.openBlob(scratch.plain[:0], b, sealed, scratch)
		return err
	}
	scratch.plain = slices.Grow(scratch.plain[:0], hashStep)
	sum, err := r.key.Hash(sealed, scratch.plain[:hashStep])
	if err == nil && sum != b.ID {
		err = otherContent(sum)
	}
	return err
}

func otherContent(sum kassett.ID) error { return fmt.Errorf("the content has the hash %s", sum) }

// damagedBlob is the error for a blob that is not what it was.
func damagedBlob(h BlobHandle, pack kassett.ID, err error) error {
	return &kassett.Error{
		Op: "read", What: fmt.Sprintf("%s blob %s in pack %s", h.Type, h.ID, pack), Kind: kassett.Corrupt, Err: err,
		Hint: "run `kassett check --read-data`, then `kassett repair packs " + pack.String() + "`, or put the pack back from a copy of the repository",
	}
}

// readFailed tells damage, which only another copy mends, from trouble on the
// way.
func readFailed(h BlobHandle, pack kassett.ID, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return damagedBlob(h, pack, errors.New("the pack is shorter than the index says"))
	}
	if kassett.KindOf(err) == kassett.NotFound {
		return damagedBlob(h, pack, fmt.Errorf("the pack is gone: %w", err))
	}
	return fmt.Errorf("read %s blob %s in pack %s: %w", h.Type, h.ID, pack, err)
}

// readSealed reads n bytes into buf[:0], taking memory only as they come.
func readSealed(rd io.Reader, buf []byte, n int64) ([]byte, error) {
	buf = buf[:0]
	for n > 0 {
		step := int(min(n, readStep))
		buf = slices.Grow(buf, step)
		got, err := io.ReadFull(rd, buf[len(buf):len(buf)+step])
		buf = buf[:len(buf)+got]
		if err != nil {
			return buf, err
		}
		n -= int64(step)
	}
	return buf, nil
}

// LoadBlob returns the plaintext of a blob in buf[:0], or in new memory when
// that is too short. It is opened, decompressed and hashed again. Where the
// blob rests in several packs, all are tried before the error is returned:
// [kassett.Corrupt] when none of them has it as it was, [kassett.NotFound] when
// no index file names it.
func (r *Repository) LoadBlob(ctx context.Context, h BlobHandle, buf []byte) ([]byte, error) {
	return r.loadFrom(ctx, h, r.Lookup(h), buf)
}

func (r *Repository) loadFrom(ctx context.Context, h BlobHandle, places []Location, buf []byte) ([]byte, error) {
	if len(places) == 0 {
		if err := r.table.Err(); err != nil {
			return nil, err
		}
		return nil, &kassett.Error{
			Op: "read", What: fmt.Sprintf("%s blob %s", h.Type, h.ID), Kind: kassett.NotFound,
			Err:  errors.New("no index file names it"),
			Hint: "run `kassett check`, then `kassett repair index`",
		}
	}
	scratch := takeBuffers()
	defer scratch.giveBack()
	var failed error
	for _, p := range places {
		plain, err := r.loadPlace(ctx, p, buf[:0], scratch)
		if err == nil {
			return plain, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		failed = errors.Join(failed, err)
	}
	return nil, failed
}

// forType says to a cache what is read.
func forType(ctx context.Context, t BlobType) context.Context {
	if t == TreeBlob {
		return kassett.OfTrees(ctx)
	}
	return ctx
}

// loadPlace reads one blob from one place.
func (r *Repository) loadPlace(ctx context.Context, p Location, dst []byte, scratch *buffers) (plain []byte, err error) {
	rc, err := r.storage.Get(forType(ctx, p.Type), kassett.Handle{Kind: kassett.PackFile, ID: p.Pack}, int64(p.Offset), int64(p.Length))
	if err != nil {
		return nil, readFailed(p.BlobHandle, p.Pack, err)
	}
	scratch.sealed, err = readSealed(rc, scratch.sealed, int64(p.Length))
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, readFailed(p.BlobHandle, p.Pack, err)
	}
	if plain, err = r.openBlob(dst, p.Blob, seal.Pieces{scratch.sealed}, scratch); err != nil {
		return nil, damagedBlob(p.BlobHandle, p.Pack, err)
	}
	return plain, nil
}

// LoadBlobs reads many blobs of one pack, near ones with one request, and calls
// fn for each, by offset, from the calling goroutine; blobs itself is sorted by
// offset. plain is checked as [Repository.LoadBlob] does and valid during fn
// only. A blob that is damaged here is looked for in other packs; when that
// fails too, fn gets the error, and the others still come. An error of fn ends
// the work and is returned.
func (r *Repository) LoadBlobs(ctx context.Context, pack kassett.ID, blobs []Blob, fn func(b Blob, plain []byte, err error) error) error {
	scratch := takeBuffers()
	defer scratch.giveBack()
	return r.scanPack(ctx, storedPack{pack, math.MaxInt64}, blobs, func(b Blob, sealed []byte, err error) error {
		if err == nil {
			if scratch.plain, err = r.openBlob(scratch.plain[:0], b, seal.Pieces{sealed}, scratch); err == nil {
				return fn(b, scratch.plain, nil)
			}
			err = damagedBlob(b.BlobHandle, pack, err)
		}
		// From another pack, or from this one at a second look.
		places := r.Lookup(b.BlobHandle)
		if packEnds(err) {
			places = slices.DeleteFunc(places, func(p Location) bool { return p.Pack == pack })
			err = readFailed(b.BlobHandle, pack, err)
		}
		if len(places) == 0 {
			return fn(b, nil, err)
		}
		plain, otherErr := r.loadFrom(ctx, b.BlobHandle, places, scratch.plain)
		switch {
		case otherErr == nil:
			scratch.plain = plain
			return fn(b, plain, nil)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		return fn(b, nil, errors.Join(err, otherErr))
	})
}

// spanLength returns how many of the blobs, at least one, one request fetches.
func spanLength(blobs []Blob) int {
	end := int64(blobs[0].Offset) + int64(blobs[0].Length)
	for i, b := range blobs[1:] {
		if off := int64(b.Offset); off < end || off > end+maxGap {
			return i + 1 // two blobs that overlap cannot come out of one stream
		}
		end = int64(b.Offset) + int64(b.Length)
	}
	return len(blobs)
}

// packEnds reports whether reading failed because the pack has not that many
// bytes, or none at all: a second look does not help.
func packEnds(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || kassett.KindOf(err) == kassett.NotFound
}

// blobFunc takes one blob that was read from a pack, with its bytes as stored,
// valid until it returns, or with the reason why it could not be read.
type blobFunc func(b Blob, sealed []byte, err error) error

// scanPack calls fn, from the calling goroutine, with each of blobs as it is
// stored, in order of their offsets; it sorts them. A read that fails is tried
// once more. scanPack ends early when fn fails, with its error, or when ctx ends.
func (r *Repository) scanPack(ctx context.Context, pack storedPack, blobs []Blob, fn blobFunc) error {
	slices.SortFunc(blobs, func(a, b Blob) int { return cmp.Compare(a.Offset, b.Offset) })
	s := packScan{r: r, pack: pack, fn: fn, scratch: takeBuffers()}
	defer s.scratch.giveBack()
	for failed := false; len(blobs) > 0; {
		done, fault, err := s.span(ctx, blobs[:spanLength(blobs)])
		if err != nil {
			return err
		}
		blobs = blobs[done:]
		switch {
		case fault == nil:
			failed = false
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case failed && done == 0 || packEnds(fault):
			if err := fn(blobs[0], nil, fault); err != nil {
				return err
			}
			blobs, failed = blobs[1:], false
		default:
			failed = true
		}
	}
	return nil
}

// packScan is one call of scanPack.
type packScan struct {
	r       *Repository
	pack    storedPack
	fn      blobFunc
	scratch *buffers
	lost    error // the pack is gone or ends here: do not ask for more of it
}

// span reads blobs with one request. It returns how many it has given to fn,
// what kept it from reading the next one, and fn's error.
func (s *packScan) span(ctx context.Context, blobs []Blob) (done int, fault, err error) {
	last := blobs[len(blobs)-1]
	at, want := int64(blobs[0].Offset), int64(last.Offset)+int64(last.Length)
	end := min(want, s.pack.size)
	if s.lost != nil || at >= end {
		return 0, cmp.Or(s.lost, io.ErrUnexpectedEOF), nil
	}
	failed := func(err error) error {
		if packEnds(err) && end == want {
			s.lost = err
		}
		return err
	}
	rc, err := s.r.storage.Get(forType(ctx, blobs[0].Type), kassett.Handle{Kind: kassett.PackFile, ID: s.pack.id}, at, end-at)
	if err != nil {
		return 0, failed(err), nil
	}
	defer func() { _ = rc.Close() }() // what came is checked by its seals
	in := s.scratch.readAhead(rc)
	defer in.Reset(nil)
	for _, b := range blobs {
		_, err := in.Discard(int(int64(b.Offset) - at))
		if err == nil {
			s.scratch.sealed, err = readSealed(in, s.scratch.sealed, int64(b.Length))
		}
		if err != nil {
			return done, failed(err), nil
		}
		at = int64(b.Offset) + int64(b.Length)
		if err := s.fn(b, s.scratch.sealed, nil); err != nil {
			return done, nil, err
		}
		done++
	}
	return done, nil, nil
}
