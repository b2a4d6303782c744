package repo

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"kassett"
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
const keepBuffers = 16 << 20

var buffersPool = sync.Pool{New: func() any { return new(buffers) }}

func takeBuffers() *buffers {
	b, _ := buffersPool.Get().(*buffers) // always one: see New
	return b
}

func (b *buffers) giveBack() {
	if cap(b.sealed)+cap(b.frame)+cap(b.plain) <= 3*keepBuffers {
		buffersPool.Put(b)
	}
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
func (r *Repository) openBlob(dst []byte, b Blob, sealed []byte, scratch *buffers) ([]byte, error) {
	start := len(dst)
	var err error
	if b.Plain == 0 {
		dst, err = r.key.open(dst, sealed)
	} else if err = r.codec.start(r.options.Compression); err == nil {
		if scratch.frame, err = r.key.open(scratch.frame[:0], sealed); err == nil {
			dst, err = r.codec.decompress(dst, scratch.frame, int(b.Plain))
		}
	}
	if err != nil {
		return dst, err
	}
	if sum := kassett.Hash(dst[start:]); sum != b.ID {
		return dst, fmt.Errorf("the content has the hash %s", sum)
	}
	return dst, nil
}

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
		if err := r.table.broken(); err != nil {
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

// loadPlace reads one blob from one place.
func (r *Repository) loadPlace(ctx context.Context, p Location, dst []byte, scratch *buffers) (plain []byte, err error) {
	rc, err := r.storage.Get(ctx, kassett.Handle{Kind: kassett.PackFile, ID: p.Pack}, int64(p.Offset), int64(p.Length))
	if err != nil {
		return nil, readFailed(p.BlobHandle, p.Pack, err)
	}
	scratch.sealed, err = readSealed(rc, scratch.sealed, int64(p.Length))
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, readFailed(p.BlobHandle, p.Pack, err)
	}
	if plain, err = r.openBlob(dst, p.Blob, scratch.sealed, scratch); err != nil {
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
	slices.SortFunc(blobs, func(a, b Blob) int { return cmp.Compare(a.Offset, b.Offset) })
	l := spanLoader{r: r, pack: pack, fn: fn, scratch: takeBuffers()}
	defer l.scratch.giveBack()
	for len(blobs) > 0 {
		n := spanLength(blobs)
		done, err := l.span(ctx, blobs[:n])
		if err != nil {
			return err
		}
		blobs = blobs[done:]
	}
	return nil
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

// spanLoader is one call of LoadBlobs.
type spanLoader struct {
	r       *Repository
	pack    kassett.ID
	fn      func(Blob, []byte, error) error
	scratch *buffers
	lost    error // the pack is gone or ends here: ask other packs at once
}

// span fetches neighbouring blobs with one request and returns how many of them
// it has given to fn. It gives at least one.
func (l *spanLoader) span(ctx context.Context, blobs []Blob) (done int, err error) {
	last := blobs[len(blobs)-1]
	at := int64(blobs[0].Offset)
	var rc io.ReadCloser
	if err = l.lost; err == nil {
		rc, err = l.r.storage.Get(ctx, kassett.Handle{Kind: kassett.PackFile, ID: l.pack}, at, int64(last.Offset)+int64(last.Length)-at)
	}
	if err != nil {
		return 1, l.elsewhere(ctx, blobs[0], err)
	}
	defer func() { _ = rc.Close() }() // what came has been checked
	in := l.scratch.readAhead(rc)
	defer in.Reset(nil)
	for i, b := range blobs {
		_, err := in.Discard(int(int64(b.Offset) - at))
		if err == nil {
			l.scratch.sealed, err = readSealed(in, l.scratch.sealed, int64(b.Length))
		}
		if err != nil {
			// The stream is lost; what follows gets a new one.
			return i + 1, l.elsewhere(ctx, b, err)
		}
		at = int64(b.Offset) + int64(b.Length)
		l.scratch.plain, err = l.r.openBlob(l.scratch.plain[:0], b, l.scratch.sealed, l.scratch)
		if err != nil {
			err = l.other(ctx, b, damagedBlob(b.BlobHandle, l.pack, err))
		} else {
			err = l.fn(b, l.scratch.plain, nil)
		}
		if err != nil {
			return i + 1, err
		}
	}
	return len(blobs), nil
}

// elsewhere handles a blob that could not be read from the pack.
func (l *spanLoader) elsewhere(ctx context.Context, b Blob, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || kassett.KindOf(err) == kassett.NotFound {
		l.lost = err
	}
	return l.other(ctx, b, readFailed(b.BlobHandle, l.pack, err))
}

// other gives fn the blob from another pack, or from this one at a second look,
// or the error.
func (l *spanLoader) other(ctx context.Context, b Blob, err error) error {
	places := l.r.Lookup(b.BlobHandle)
	if l.lost != nil {
		places = slices.DeleteFunc(places, func(p Location) bool { return p.Pack == l.pack })
	}
	if len(places) == 0 {
		return l.fn(b, nil, err)
	}
	plain, otherErr := l.r.loadFrom(ctx, b.BlobHandle, places, l.scratch.plain)
	if otherErr != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return l.fn(b, nil, errors.Join(err, otherErr))
	}
	l.scratch.plain = plain
	return l.fn(b, plain, nil)
}
