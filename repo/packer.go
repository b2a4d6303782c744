package repo

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"kassett"
)

// maxSenders bounds the packs that are sent at once, and with them the memory.
const maxSenders = 8

// maxPackBlobs bounds the blobs of one pack, so that its entry fits into one
// index file of usual size.
const maxPackBlobs = indexBlobs / 2

// maxBlobPlain is the longest plaintext of a blob, in bytes: a sealed blob and
// its pack stay below the 4 GiB that the format can say.
const maxBlobPlain = maxPlain

// openPack is a pack being filled in memory.
type openPack struct {
	buf    []byte // all of it; blobs fill it from the front
	used   int    // bytes, guarded by the slot's mutex as is blobs
	blobs  []Blob
	header int    // bytes of entries
	lent   []byte // what goes back to the writer's memory: buf, or in its stead
	// users are the goroutines that seal into buf, and the slot. Whoever
	// takes it to 0 sends the pack.
	users atomic.Int32
}

// room is a place in a pack for one sealed blob.
type room struct {
	pack   *openPack
	sealed []byte // as long as the blob
}

// fits reports whether one more blob leaves the pack within its buffer.
func (p *openPack) fits(b Blob) bool {
	return p.used+int(b.Length)+p.header+entrySize(b)+packOverhead <= len(p.buf) && len(p.blobs) < maxPackBlobs
}

// reserve finds room for a sealed blob. The caller fills it, then calls release.
func (w *Writer) reserve(ctx context.Context, b Blob) (room, error) {
	if err := w.failure(); err != nil {
		return room{}, err
	}
	if least := int(b.Length) + entrySize(b) + packOverhead; least > w.packSize() {
		// It has a pack and memory of its own, which nothing joins.
		p, err := w.newPack(ctx, least)
		if err != nil {
			return room{}, err
		}
		return p.place(b), nil
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
			return s.pack.place(b), nil
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
	return s.pack.place(b), nil
}

// place takes the next room of a pack. The caller has made sure that it fits,
// and counts as a user.
func (p *openPack) place(b Blob) room {
	b.Offset = uint32(p.used)
	p.blobs = append(p.blobs, b)
	p.used += int(b.Length)
	p.header += entrySize(b)
	return room{p, p.buf[b.Offset:p.used:p.used]}
}

// newPack opens a pack of the given length, with one user. It waits until
// memory is free.
func (w *Writer) newPack(ctx context.Context, size int) (*openPack, error) {
	p := &openPack{blobs: make([]Blob, 0, 64)}
	select {
	case p.lent = <-w.spare: // rather than a new one
	default:
		select {
		case p.lent = <-w.spare:
		case <-w.fresh:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.ctx.Done():
			return nil, w.failure()
		}
	}
	if p.lent == nil && size <= w.packSize() {
		p.lent = make([]byte, size)
	}
	if p.buf = p.lent; size > len(p.buf) {
		p.buf = make([]byte, size)
	}
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
// there is room for them. Nothing is being sealed in either.
func (w *Writer) joinPacks(into, from *slot) {
	into.mu.Lock()
	defer into.mu.Unlock()
	from.mu.Lock()
	defer from.mu.Unlock()
	a, b := into.pack, from.pack
	if a == nil || b == nil || a.users.Load() > 1 || b.users.Load() > 1 ||
		a.used+b.used+a.header+b.header+packOverhead > len(a.buf) || len(a.blobs)+len(b.blobs) > maxPackBlobs {
		return
	}
	for _, blob := range b.blobs {
		copy(a.place(blob).sealed, b.buf[blob.Offset:][:blob.Length])
	}
	from.pack = nil
	w.drop(b)
}

// drop ends a pack: it was sent, or is not needed any more.
func (w *Writer) drop(p *openPack) {
	if p.lent != nil {
		w.spare <- p.lent
	} else {
		w.fresh <- struct{}{}
	}
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
	header := appendHeader(make([]byte, 0, p.header), p.blobs)
	sealed := w.r.key.seal(p.buf[p.used:p.used:len(p.buf)], header)
	back, err := w.r.key.open(header[:0], sealed)
	if err == nil {
		var blobs []Blob
		if blobs, err = decodeHeader(back, int64(p.used)); err == nil && !slices.Equal(blobs, p.blobs) {
			err = errNotSame
		}
	}
	if err != nil {
		return kassett.ID{}, &kassett.Error{
			Op: "verify what was sealed", What: "header of a pack", Kind: kassett.Corrupt, Err: err,
			Hint: "this machine's memory or processor makes errors; test it before it backs up again",
		}
	}
	end := p.used + len(sealed)
	binary.LittleEndian.PutUint32(p.buf[end:], uint32(len(sealed)))
	whole := p.buf[:end+packFooter]
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(whole)}
	began := w.began()
	body := kassett.BytesBody(whole, h.ID)
	body.Hot = p.blobs[0].Type == TreeBlob
	if err := w.r.put(w.ctx, h, body); err != nil {
		return kassett.ID{}, err
	}
	w.r.retained.stored(h.ID, began)
	w.progress.Stored(int64(len(whole)))
	if w.verify {
		return h.ID, w.r.verifyStored(w.ctx, h, int64(len(whole)))
	}
	return h.ID, nil
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
