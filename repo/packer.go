package repo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"kassett"
	"kassett/repo/seal"
)

// maxSenders bounds the packs that are sent at once, and with them the memory.
const maxSenders = 8

// maxPackBlobs bounds the blobs of one pack, so that its entry fits into one
// index file of usual size.
const maxPackBlobs = indexBlobs / 2

// maxBlobPlain is the longest plaintext of a blob, in bytes: a sealed blob and
// its pack stay below the 4 GiB that the format can say.
const maxBlobPlain = maxPlain

// segmentSize is how much memory a pack takes at a time, in bytes.
const segmentSize = 256 << 10

// freeSegments is how many segments a writer keeps that are not in use.
const freeSegments = 32

// stageFrom is how many bytes of a pack stay in memory before it begins to be
// written where the storage takes files in pieces: so that two small packs can
// still become one.
const stageFrom = 2 << 20

// segment is a piece of a pack.
type segment struct {
	buf    []byte // as long as what was placed; its capacity is fixed
	users  int    // goroutines that seal into it
	closed bool   // nothing is placed any more
}

// openPack is a pack being filled. Its slot's mutex guards the first three.
type openPack struct {
	used   int // bytes placed
	blobs  []Blob
	header int // bytes of entries

	limit int // bytes, of all
	// users are the goroutines that seal into it, and the slot. Whoever takes
	// it to 0 finishes the pack.
	users atomic.Int32

	mu       sync.Mutex // guards what follows
	segments []*segment // in order; those before them have been written
	writing  bool       // a goroutine is at it
	written  int        // bytes
	staged   kassett.Staged
	sum      hash.Hash // of what was written
}

// room is a place in a pack for one sealed blob.
type room struct {
	pack     *openPack
	segments []*segment
	sealed   seal.Pieces // of the segments, together as long as the blob
}

// fits reports whether one more blob leaves the pack within its limit.
func (p *openPack) fits(b Blob) bool {
	return p.used+int(b.Length)+p.header+entrySize(b)+packOverhead <= p.limit && len(p.blobs) < maxPackBlobs
}

// reserve finds room for a sealed blob. The caller fills it, then calls leave.
func (w *Writer) reserve(ctx context.Context, b Blob) (room, error) {
	if err := w.failure(); err != nil {
		return room{}, err
	}
	if least := int(b.Length) + entrySize(b) + packOverhead; least > w.packSize() {
		// It has a pack of its own, which nothing joins.
		p, err := w.newPack(ctx, least)
		if err != nil {
			return room{}, err
		}
		return w.place(p, b), nil
	}
	slots := w.slotsFor(b.Type)
	first := rand.IntN(len(slots))
	opened := &slots[first] // the one that gets a new pack
	for i := range slots {
		s := &slots[(first+i)%len(slots)]
		s.mu.Lock()
		if s.pack != nil && s.pack.fits(b) {
			defer s.mu.Unlock()
			s.pack.users.Add(1)
			return w.place(s.pack, b), nil
		}
		empty := s.pack == nil
		s.mu.Unlock()
		if empty {
			opened = s
			break
		}
	}
	s := opened
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pack != nil && !s.pack.fits(b) {
		w.release(s.pack)
		s.pack = nil
	}
	if s.pack == nil {
		p, err := w.newPack(ctx, w.packSize())
		if err != nil {
			return room{}, err
		}
		s.pack = p
	}
	s.pack.users.Add(1)
	return w.place(s.pack, b), nil
}

// place takes the next room of a pack. The caller has made sure that it fits,
// and counts as a user.
func (w *Writer) place(p *openPack, b Blob) room {
	b.Offset = uint32(p.used)
	p.blobs = append(p.blobs, b)
	p.used += int(b.Length)
	p.header += entrySize(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	r := room{pack: p}
	for n := int(b.Length); n > 0; {
		s := w.last(p)
		at := len(s.buf)
		s.buf = s.buf[:min(at+n, cap(s.buf))]
		s.closed = len(s.buf) == cap(s.buf)
		s.users++
		n -= len(s.buf) - at
		r.segments = append(r.segments, s)
		r.sealed = append(r.sealed, s.buf[at:])
	}
	return r
}

// last returns the segment that has room.
func (w *Writer) last(p *openPack) *segment {
	if n := len(p.segments); n > 0 && !p.segments[n-1].closed {
		return p.segments[n-1]
	}
	s := &segment{}
	select {
	case s.buf = <-w.memory:
	default:
		s.buf = make([]byte, 0, segmentSize)
	}
	p.segments = append(p.segments, s)
	return s
}

// free gives the memory of a segment back.
func (w *Writer) free(s *segment) {
	if cap(s.buf) == segmentSize { // else it is a header
		select {
		case w.memory <- s.buf[:0]:
		default:
		}
	}
	s.buf = nil
}

// leave ends the use of a room that is filled, or whose blob has failed the
// writer, and then of its pack.
func (w *Writer) leave(r room) {
	p := r.pack
	p.mu.Lock()
	for _, s := range r.segments {
		s.users--
	}
	p.mu.Unlock()
	if w.stager != nil {
		if err := w.write(p, stageFrom); err != nil {
			_ = w.fail(err)
		}
	}
	w.release(p)
}

// write writes the segments that are complete, in order, while more than keep
// bytes of the pack are in memory, unless another goroutine is at it.
func (w *Writer) write(p *openPack, keep int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.writing && len(p.segments) > 0 {
		s := p.segments[0]
		if s.users > 0 || !s.closed || p.waiting() <= keep || w.ctx.Err() != nil {
			return nil
		}
		p.writing = true
		p.mu.Unlock()
		err := w.append(p, s.buf)
		p.mu.Lock()
		p.writing = false
		if err != nil {
			return err
		}
		p.written += len(s.buf)
		p.segments[0] = nil
		p.segments = p.segments[1:]
		w.free(s)
	}
	return nil
}

// waiting returns how many bytes of a pack are in memory, or more than any limit
// when it has begun to be written.
func (p *openPack) waiting() (n int) {
	if p.written > 0 {
		return math.MaxInt
	}
	for _, s := range p.segments {
		n += len(s.buf)
	}
	return n
}

// append writes one piece of a pack. Only one goroutine does at a time.
func (w *Writer) append(p *openPack, b []byte) (err error) {
	if p.staged == nil {
		if p.staged, err = w.r.stage(w.ctx, w.stager); err != nil {
			return err
		}
		p.sum = sha256.New()
	}
	p.sum.Write(b)
	if _, err := p.staged.Write(b); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}

// newPack opens a pack of at most the given length, with one user. It waits
// while too many are on their way.
func (w *Writer) newPack(ctx context.Context, limit int) (*openPack, error) {
	select {
	case <-w.fresh:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-w.ctx.Done():
		return nil, w.failure()
	}
	p := &openPack{limit: limit}
	p.users.Store(1)
	w.mu.Lock()
	w.inFlight[p] = struct{}{}
	w.mu.Unlock()
	return p, nil
}

func (w *Writer) packSize() int {
	if n := w.r.options.PackSize; n > 0 {
		return n
	}
	return defaultPackSize
}

// release ends one use of a pack. The last one sends it.
func (w *Writer) release(p *openPack) {
	if p.users.Add(-1) == 0 {
		go w.send(p)
	}
}

// closePacks takes the open packs out of their slots. Data packs that fit into
// one become one, so that a small backup does not leave two small packs.
func (w *Writer) closePacks() {
	w.joinPacks(&w.slots[0], &w.slots[1])
	for i := range w.slots {
		s := &w.slots[i]
		s.mu.Lock()
		if s.pack != nil {
			w.release(s.pack)
			s.pack = nil
		}
		s.mu.Unlock()
	}
}

// joinPacks moves the blobs of the second slot into the pack of the first, if
// there is room for them and none has been written. Nothing is being sealed in
// either.
func (w *Writer) joinPacks(into, from *slot) {
	into.mu.Lock()
	defer into.mu.Unlock()
	from.mu.Lock()
	defer from.mu.Unlock()
	a, b := into.pack, from.pack
	if a == nil || b == nil || a.users.Load() > 1 || b.users.Load() > 1 || b.written > 0 ||
		a.used+b.used+a.header+b.header+packOverhead > a.limit || len(a.blobs)+len(b.blobs) > maxPackBlobs {
		return
	}
	for _, s := range b.segments {
		s.closed = true
	}
	for _, s := range a.segments {
		s.closed = true
	}
	for _, blob := range b.blobs {
		blob.Offset += uint32(a.used)
		a.blobs = append(a.blobs, blob)
	}
	a.segments = append(a.segments, b.segments...)
	a.used += b.used
	a.header += b.header
	b.segments, from.pack = nil, nil
	w.drop(b)
}

// drop ends a pack: it was sent, or is not needed any more.
func (w *Writer) drop(p *openPack) {
	for _, s := range p.segments {
		w.free(s)
	}
	if p.staged != nil {
		if err := p.staged.Abort(); err != nil {
			w.r.warn(fmt.Errorf("remove a pack that was not finished: %w", err))
		}
	}
	w.fresh <- struct{}{}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.inFlight, p)
	w.left.Broadcast()
}

// send finishes a pack, stores it, and puts it into the index. It runs in a
// goroutine of its own, which Flush and Abort wait for.
func (w *Writer) send(p *openPack) {
	defer w.drop(p)
	select {
	case w.senders <- struct{}{}:
		defer func() { <-w.senders }()
	case <-w.ctx.Done():
		return
	}
	if w.ctx.Err() != nil {
		return
	}
	id, err := w.put(p)
	if err != nil {
		_ = w.fail(err)
		return
	}
	if err := w.addToIndex(indexedPack{id, p.blobs}); err != nil {
		_ = w.fail(err)
	}
}

// put seals the header, names the pack and stores it.
func (w *Writer) put(p *openPack) (kassett.ID, error) {
	header, err := w.sealHeader(p)
	if err != nil {
		return kassett.ID{}, err
	}
	for _, s := range p.segments {
		s.closed = true
	}
	p.segments = append(p.segments, &segment{buf: header, closed: true})
	h := kassett.Handle{Kind: kassett.PackFile}
	size := int64(p.used + len(header))
	began := w.began()
	if p.staged != nil {
		if err = w.write(p, -1); err == nil {
			err = w.failure()
		}
		if err == nil {
			h.ID = kassett.ID(p.sum.Sum(nil))
			err = w.r.commit(w.ctx, p.staged, h)
		}
		if err == nil {
			p.staged = nil
		}
	} else {
		parts, sum := make([][]byte, len(p.segments)), sha256.New()
		for i, s := range p.segments {
			parts[i] = s.buf
			sum.Write(s.buf)
		}
		h.ID = kassett.ID(sum.Sum(nil))
		body := kassett.PartsBody(parts, h.ID)
		body.Hot = p.blobs[0].Type == TreeBlob
		err = w.r.put(w.ctx, h, body)
	}
	if err != nil {
		return kassett.ID{}, err
	}
	w.r.retained.stored(h.ID, began)
	w.progress.Stored(size)
	if w.verify {
		return h.ID, w.readBack(h, size)
	}
	return h.ID, nil
}

// sealHeader returns the end of a pack: its header, sealed, and how long that is.
func (w *Writer) sealHeader(p *openPack) ([]byte, error) {
	header := appendHeader(make([]byte, 0, p.header), p.blobs)
	sealed := w.r.key.Seal(make([]byte, 0, p.header+Overhead+packFooter), header)
	back, err := w.r.key.Open(header[:0], sealed)
	if err == nil {
		var blobs []Blob
		if blobs, err = decodeHeader(back, int64(p.used)); err == nil && !slices.Equal(blobs, p.blobs) {
			err = errNotSame
		}
	}
	if err != nil {
		return nil, &kassett.Error{
			Op: "verify what was sealed", What: "header of a pack", Kind: kassett.Corrupt, Err: err,
			Hint: "this machine's memory or processor makes errors; test it before it backs up again",
		}
	}
	return binary.LittleEndian.AppendUint32(sealed, uint32(len(sealed))), nil
}

// addToIndex notes a durable pack, and writes an index file when it is time.
func (w *Writer) addToIndex(p indexedPack) error {
	w.mu.Lock()
	var full indexBuilder
	if w.index.full(len(p.blobs)) {
		full, w.index = w.index, indexBuilder{age: w.index.age}
	}
	w.index.add(p)
	w.mu.Unlock()
	return w.saveIndex(w.ctx, full)
}

// writeIndex writes the index file of what is durable and in none yet.
func (w *Writer) writeIndex(ctx context.Context) error {
	w.mu.Lock()
	var rest indexBuilder
	rest, w.index = w.index, indexBuilder{age: w.index.age}
	w.mu.Unlock()
	return w.saveIndex(ctx, rest)
}

func (w *Writer) saveIndex(ctx context.Context, b indexBuilder) error {
	if len(b.packs) == 0 {
		return nil
	}
	id, err := w.r.SaveUnpacked(ctx, kassett.IndexFile, b.bytes())
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if w.verify {
		if _, err := w.r.LoadUnpacked(ctx, kassett.IndexFile, id); err != nil {
			return fmt.Errorf("read back what was written: %w", err)
		}
	}
	if err := w.r.table.Add(ctx, id, b.all()); err != nil {
		return err
	}
	for _, p := range b.packs {
		w.claimed.remove(p.blobs)
	}
	return nil
}
