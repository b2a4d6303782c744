package repo

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"sync"
	"time"

	"kassett"
	"kassett/repo/seal"
)

// defaultPackSize is how long packs are unless the options say otherwise, in
// bytes: they are put together in memory.
const defaultPackSize = 16 << 20

// openData is how many data packs are filled side by side. Blobs go to one of
// them at random, so that whoever sees a pack's blob lengths does not see the
// order of the chunks of a file, from which the secret chunker polynomial could
// be found (Alexeev et al., "Chunking Attacks on File Backup Services using
// Content-Defined Chunking", eprint 2025/532). restic does the same.
const openData = 2

// abortTime bounds how long an aborted writer tries to index what is durable.
const abortTime = time.Minute

// WriterOptions say how a [Writer] works. The zero value is good.
type WriterOptions struct {
	Progress *kassett.Progress // told what has been stored; may be nil
	// Verify reads every pack and index file back from the storage after it was
	// written, and compares its hash.
	Verify bool
	// IndexAge is how old packs get, at most, before an index file names them,
	// as long as more come; 0 is ten minutes.
	IndexAge time.Duration
}

// Saved is what became of one blob.
type Saved struct {
	ID     kassett.ID
	New    bool   // it was not in the repository before
	Stored uint32 // bytes it takes, sealed; 0 when it was known
}

// Writer stores blobs: it seals them into packs in memory, stores packs that
// are full, and then the index files that name them. Its methods are safe for
// many goroutines, but nothing may be saved while Flush or Abort runs. After an
// error it stays failed. It ends with a Flush that succeeded, or with Abort.
type Writer struct {
	r        *Repository
	progress *kassett.Progress
	verify   bool
	unread   sync.Once       // names that what was written cannot be read back
	ctx      context.Context //nolint:containedctx // of the senders; ends with the caller's, or at the first error
	cancel   context.CancelCauseFunc

	claimed claims
	began   func() time.Time   // the storage's time before the first pack was stored
	slots   [openData + 1]slot // the last one is for trees
	fresh   chan struct{}      // one for each pack that may be opened
	senders chan struct{}      // one for each pack that may be sent at once
	stager  kassett.Stager     // nil when packs are put whole
	scratch chan *buffers      // not in use
	memory  chan []byte        // of segments, not in use

	mu       sync.Mutex // guards what follows
	left     sync.Cond  // a pack has left inFlight
	inFlight packSet    // that are not yet durable and indexed
	err      error      // the first
	index    indexBuilder
}

// packSet is a set of packs.
type packSet map[*openPack]struct{}

func (s packSet) has(p *openPack) bool { _, is := s[p]; return is }

// slot is a place for an open pack.
type slot struct {
	mu   sync.Mutex
	pack *openPack // nil when there is none
}

// NewWriter starts a writer that works until ctx ends. The caller holds a lock
// on the repository and has called [Repository.LoadIndex].
func (r *Repository) NewWriter(ctx context.Context, o WriterOptions) *Writer {
	senders := min(r.Connections(), maxSenders)
	if r.options.Connections == 0 {
		// A pack on its way takes memory, and making packs keeps the cores
		// busy. More of them help a storage that is far away, and whoever
		// has one can say so.
		senders = min(senders, max(1, runtime.GOMAXPROCS(0)/2))
	}
	packs := len(Writer{}.slots) + senders
	w := &Writer{
		r: r, progress: o.Progress, verify: o.Verify, index: indexBuilder{age: o.IndexAge},
		inFlight: make(packSet),
		fresh:    make(chan struct{}, packs),
		senders:  make(chan struct{}, senders),
		scratch:  make(chan *buffers, runtime.GOMAXPROCS(0)+1),
		memory:   make(chan []byte, freeSegments),
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.began = sync.OnceValue(func() time.Time { return r.retained.began(w.ctx) })
	w.left.L = &w.mu
	w.stager, _ = kassett.As[kassett.Stager](r.storage)
	for range packs {
		w.fresh <- struct{}{}
	}
	return w
}

// Save stores a blob unless the repository has it or another goroutine is
// storing it. It returns once the blob is in a pack in memory, where it has been
// opened and hashed again; plain may be used again then. That it is durable is
// said by Flush.
func (w *Writer) Save(ctx context.Context, t BlobType, plain []byte) (Saved, error) {
	h := BlobHandle{Type: t, ID: kassett.Hash(plain)}
	if w.r.Has(h) {
		w.r.retained.reuse(h)
		return Saved{ID: h.ID}, w.failure()
	}
	if !w.claimed.add(h) {
		return Saved{ID: h.ID}, w.failure()
	}
	if err := w.r.table.Err(); err != nil {
		return Saved{}, w.fail(err) // or all would be stored a second time
	}
	return w.store(ctx, h, plain)
}

// SaveAgain stores a blob even if the repository has it already, unless this
// writer has stored it since the last Flush. It is for moving blobs.
func (w *Writer) SaveAgain(ctx context.Context, t BlobType, plain []byte) (Saved, error) {
	h := BlobHandle{Type: t, ID: kassett.Hash(plain)}
	if !w.claimed.add(h) {
		return Saved{ID: h.ID}, w.failure()
	}
	return w.store(ctx, h, plain)
}

// SaveSealed is SaveAgain for a blob that is sealed with this repository's
// master key: b is its handle, and its plaintext length if it is compressed; its
// offset is not looked at. It is opened and hashed before it is taken; damage is
// a [kassett.Corrupt] error that does not fail the writer.
func (w *Writer) SaveSealed(ctx context.Context, b Blob, sealed []byte) error {
	b.Length = uint32(len(sealed))
	if err := checkBlob(b); err != nil {
		return &kassett.Error{Op: "store blob", What: b.ID.String(), Kind: kassett.Corrupt, Err: err}
	}
	scratch := w.takeScratch()
	defer w.giveScratch(scratch)
	if err := w.r.verifyBlob(b, seal.Pieces{sealed}, scratch); err != nil {
		return fmt.Errorf("verify blob %s: %w", b.ID, err)
	}
	if !w.claimed.add(b.BlobHandle) {
		return w.failure()
	}
	room, err := w.reserve(ctx, b)
	if err != nil {
		return w.fail(err)
	}
	room.sealed.Fill(sealed)
	w.leave(room)
	return nil
}

// store seals a claimed blob into a pack.
func (w *Writer) store(ctx context.Context, h BlobHandle, plain []byte) (Saved, error) {
	if len(plain) > maxBlobPlain {
		return Saved{}, w.fail(&kassett.Error{
			Op: "store blob", What: h.ID.String(), Kind: kassett.Invalid,
			Err: fmt.Errorf("%d bytes, the longest blob has %d", len(plain), maxBlobPlain),
		})
	}
	if err := w.r.codec.start(w.r.options.Compression); err != nil {
		return Saved{}, w.fail(err)
	}
	scratch := w.takeScratch()
	defer w.giveScratch(scratch)
	b := Blob{BlobHandle: h}
	body := plain
	if w.r.Config().Version >= 2 {
		var ok bool
		if scratch.frame, ok = w.r.codec.compress(scratch.frame[:0], plain, h.Type); ok {
			body, b.Plain = scratch.frame, uint32(len(plain))
		}
	}
	b.Length = uint32(len(body) + Overhead)
	room, err := w.reserve(ctx, b)
	if err != nil {
		return Saved{}, w.fail(err)
	}
	// Released last: a pack with a blob that failed must not be sent.
	defer w.leave(room)
	w.r.key.SealTo(room.sealed, body)
	if err := w.r.verifyBlob(b, room.sealed, scratch); err != nil {
		return Saved{}, w.fail(&kassett.Error{
			Op: "verify what was sealed", What: h.ID.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "this machine's memory or processor makes errors, or the compression does: test the machine, or try another --compression",
		})
	}
	return Saved{ID: h.ID, New: true, Stored: b.Length}, nil
}

// takeScratch returns memory to work in. Writers keep their own: what the
// collector took from a pool would have to be made again and again, and the
// heap grows with what is made.
func (w *Writer) takeScratch() *buffers {
	select {
	case b := <-w.scratch:
		return b
	default:
		return new(buffers)
	}
}

func (w *Writer) giveScratch(b *buffers) {
	if b.large() {
		return
	}
	select {
	case w.scratch <- b:
	default:
	}
}

// Flush makes all that was saved durable: the packs, and when they are, the
// index files that name them. Then the repository knows the blobs. It may be
// called again after more was saved.
func (w *Writer) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.fail(context.Cause(ctx)) })
	defer stop()
	return w.Checkpoint()
}

// Checkpoint makes durable what had been saved when it was called: the packs,
// and then the index files that name them. Unlike Flush it may run while others
// go on saving; it leaves packs that are not full.
func (w *Writer) Checkpoint() error {
	w.sendAll()
	if err := w.failure(); err != nil {
		return err
	}
	if err := w.writeIndex(w.ctx); err != nil {
		return w.fail(err)
	}
	return nil
}

// sendAll closes the open packs, and waits until all that were there have been
// sent or dropped.
func (w *Writer) sendAll() {
	// Packs that are opened from now on are not waited for: nobody may fill them.
	w.mu.Lock()
	packs := maps.Clone(w.inFlight)
	w.mu.Unlock()
	w.closePacks()
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := range packs {
		for w.inFlight.has(p) {
			w.left.Wait()
		}
	}
}

// Abort gives up: open packs are dropped, packs on their way are stopped and
// waited for. What is durable already is put into an index file if that can be
// done, so that the next backup need not store it again; not, though, when the
// lock was lost, since someone else may be removing those packs by now.
func (w *Writer) Abort() {
	cause := context.Cause(w.ctx)
	_ = w.fail(context.Canceled)
	w.sendAll()
	if cause != nil && !errors.Is(cause, context.Canceled) && kassett.KindOf(cause) == kassett.Locked {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), abortTime)
	defer cancel()
	if err := w.writeIndex(ctx); err != nil {
		w.r.warn(fmt.Errorf("index what was stored before the end: %w", err))
	}
}

// failure returns the first error, or that of the context.
func (w *Writer) failure() error {
	if w.ctx.Err() == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	return context.Cause(w.ctx)
}

// fail makes err the writer's end, unless there is one already, and returns the
// one that counts.
func (w *Writer) fail(err error) error {
	w.mu.Lock()
	if w.err == nil {
		if w.ctx.Err() != nil {
			err = context.Cause(w.ctx)
		}
		w.err = err
	}
	err = w.err
	w.mu.Unlock()
	w.cancel(err)
	return err
}

// slotsFor returns the slots of which one gets the blob.
func (w *Writer) slotsFor(t BlobType) []slot {
	if t == TreeBlob {
		return w.slots[openData:]
	}
	return w.slots[:openData]
}

// claimShards keeps goroutines from waiting for each other.
const claimShards = 64

// claims are the handles that this writer stores or has stored since the last
// Flush. The zero value is empty.
type claims [claimShards]struct {
	mu      sync.Mutex
	handles map[BlobHandle]struct{}
}

// add reports whether h was not claimed before.
func (c *claims) add(h BlobHandle) bool {
	s := &c[h.ID[0]%claimShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.handles[h]; ok {
		return false
	}
	if s.handles == nil {
		s.handles = make(map[BlobHandle]struct{})
	}
	s.handles[h] = struct{}{}
	return true
}

// remove forgets handles that the blob table knows by now.
func (c *claims) remove(blobs []Blob) {
	for _, b := range blobs {
		s := &c[b.ID[0]%claimShards]
		s.mu.Lock()
		delete(s.handles, b.BlobHandle)
		s.mu.Unlock()
	}
}
