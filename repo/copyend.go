package repo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kassett"
)

// copyEnd is a target of a copy at work.
type copyEnd struct {
	*CopyTarget
	replica  bool
	w        *Writer         // nil in a dry run
	ctx      context.Context //nolint:containedctx // ends when the target fails, and with the copy
	cancel   context.CancelCauseFunc
	calls    chan struct{} // one for each whole pack that may be on its way
	patience time.Duration // 0 = without end

	skipped                    uint64
	blobs, bytes, packs, found atomic.Uint64

	mu  sync.Mutex
	err error // the first
}

func newCopyEnd(ctx context.Context, t *CopyTarget, replica bool, o CopyOptions) *copyEnd {
	e := &copyEnd{CopyTarget: t, replica: replica, calls: make(chan struct{}, max(1, t.Repo.Connections()))}
	held := t.Held
	if held == nil {
		held = ctx
	}
	e.ctx, e.cancel = context.WithCancelCause(held)
	if !o.DryRun {
		e.w = t.Repo.NewWriter(e.ctx, WriterOptions{Progress: o.Progress, Verify: o.Verify, IndexAge: copyIndexAge})
	}
	return e
}

// live reports whether the target still takes something.
func (e *copyEnd) live() bool { return e.ctx.Err() == nil }

// fail notes why the target takes nothing more.
func (e *copyEnd) fail(err error) {
	e.mu.Lock()
	if e.err == nil {
		e.err = err
	}
	e.mu.Unlock()
	e.cancel(err)
}

// finish makes durable what was copied, or, when the copy or this target has
// failed, puts at least into the index what is durable.
func (e *copyEnd) finish(ctx context.Context, flush bool) {
	defer e.cancel(context.Canceled)
	if e.w != nil {
		if flush && e.live() && ctx.Err() == nil {
			if err := e.w.Flush(ctx); err != nil && ctx.Err() == nil {
				e.fail(err)
			}
		}
		if !flush || !e.live() || ctx.Err() != nil {
			e.w.Abort()
		}
	}
	e.Stats = CopyStats{
		Blobs: e.blobs.Load(), Bytes: e.bytes.Load(), Skipped: e.skipped, Packs: e.packs.Load(), Found: e.found.Load(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.Err = e.err; e.Err == nil && e.ctx.Err() != nil && ctx.Err() == nil {
		e.Err = context.Cause(e.ctx) // the lock was lost
	}
}

// take runs one step of the work at this target. What goes wrong ends the
// target, as does a step that takes too long while others wait.
func (e *copyEnd) take(step func() error) {
	if !e.live() {
		return
	}
	if e.patience > 0 {
		impatient := time.AfterFunc(e.patience, func() {
			e.fail(&kassett.Error{
				Op: "copy", Kind: kassett.Offline, Err: fmt.Errorf("it took nothing for %s; it was left out so that the others go on", e.patience),
				Hint: "see what is wrong with it, and run the same command again: it goes on where it was",
			})
		})
		defer impatient.Stop()
	}
	if err := step(); err != nil {
		e.fail(err)
	}
}

// count adds to what the target got.
func (e *copyEnd) count(blobs, bytes uint64, whole bool) {
	e.blobs.Add(blobs)
	e.bytes.Add(bytes)
	if whole {
		e.packs.Add(1)
	}
}

// knows reports whether the target's index names a pack of this name, though
// blobs of it are missing, or a prune is about to remove one: half an index is
// lost, or nothing may depend on that pack any more. The name is not free then.
func (e *copyEnd) knows(pack kassett.ID, blobs []Blob) bool {
	if e.Repo.Doomed(pack) {
		return true
	}
	for _, b := range blobs {
		for _, l := range e.Repo.Lookup(b.BlobHandle) {
			if l.Pack == pack {
				return true
			}
		}
	}
	return false
}

// takePack stores a pack whole. It returns false when its blobs must go another
// way.
func (e *copyEnd) takePack(p copiedPack, whole []byte) (taken bool) {
	taken = true
	e.take(func() error {
		select {
		case e.calls <- struct{}{}:
			defer func() { <-e.calls }()
		case <-e.ctx.Done():
			return context.Cause(e.ctx)
		}
		sent, err := e.w.savePack(indexedPack{p.id, p.all}, whole)
		if errors.Is(err, errPackTaken) {
			taken = false
			return nil
		}
		if err != nil {
			return err
		}
		if !sent {
			e.found.Add(1)
		}
		var blobs, bytes uint64
		for _, b := range p.want {
			if !e.Repo.Has(b.BlobHandle) {
				blobs++
				bytes += uint64(b.Length)
			}
		}
		e.count(blobs, bytes, true)
		return nil
	})
	return taken
}

// copiedBlob is a blob as it was read: opened, and, unless it came from
// elsewhere, sealed as in the source.
type copiedBlob struct {
	Blob
	sealed []byte // nil when only the plaintext is there
	frame  []byte // opened, and compressed when Plain is not 0
	plain  []byte
}

// takeBlob stores one blob, unless the target has it.
func (e *copyEnd) takeBlob(b copiedBlob, scratch *buffers) {
	e.take(func() error {
		if e.Repo.Has(b.BlobHandle) {
			return nil
		}
		e.count(1, uint64(b.Length), false)
		switch {
		case b.sealed == nil || b.Plain == 0 && !e.replica || e.Repo.Config().Version < 2 && b.Plain != 0:
			_, err := e.w.Save(e.ctx, b.Type, b.plain)
			return err
		case e.replica:
			return e.w.SaveSealed(e.ctx, b.Blob, b.sealed)
		}
		scratch.sealed = e.Repo.key.Seal(scratch.sealed[:0], b.frame)
		return e.w.SaveSealed(e.ctx, b.Blob, scratch.sealed)
	})
}
