package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"kassett"
	"kassett/repo"
)

// blobBuffers lends memory for one blob.
var blobBuffers = sync.Pool{New: func() any { return new([]byte) }}

// matches reads the place of a blob and reports whether it is there. It returns
// what it read in buf.
func matches(r io.ReaderAt, at int64, size uint32, id kassett.ID, buf *[]byte) bool {
	*buf = slices.Grow((*buf)[:0], int(size))[:size]
	n, err := r.ReadAt(*buf, at)
	return n == int(size) && (err == nil || errors.Is(err, io.EOF)) && kassett.Hash(*buf) == id
}

// compare finds out what of a file's content is there already: in the file in
// its place, and in the part that an interrupted restore left.
func (w *work) compare(ctx context.Context, i int) error {
	f := &w.files[i]
	if w.show == nil || f.there == nil && (!f.stale || len(f.node.Content) < 2 || w.o.DryRun) {
		return nil
	}
	buf := blobBuffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // only these are put
	defer blobBuffers.Put(buf)
	var old kassett.ReaderAtCloser
	if f.there != nil {
		var err error
		if old, err = w.show.Read(ctx, f.path); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			old = nil // unreadable is as good as different
		}
	}
	if old != nil {
		defer func() { _ = old.Close() }() // only read
		if f.there.Size == f.node.Size && w.equal(ctx, old, f.node, buf) {
			w.states[i].done = true
			return w.right(ctx, f)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(f.node.Content) < 2 || w.o.DryRun {
		return nil
	}
	return w.salvage(ctx, i, old, buf)
}

// equal reports whether a file has exactly the content of a node.
func (w *work) equal(ctx context.Context, r io.ReaderAt, n *Node, buf *[]byte) bool {
	at := int64(0)
	for _, id := range n.Content {
		size, ok := w.r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		if !ok || ctx.Err() != nil || !matches(r, at, size, id, buf) {
			return false
		}
		at += int64(size)
	}
	return uint64(at) == n.Size //nolint:gosec // a sum of sizes
}

// right gives a file whose content is right its metadata.
func (w *work) right(ctx context.Context, f *planFile) error {
	return w.finishFile(ctx, planEntry{path: f.path, node: f.node})
}

// salvage opens the part of a file and makes use of what it holds, and of what
// the file in its place holds.
func (w *work) salvage(ctx context.Context, i int, old io.ReaderAt, buf *[]byte) error {
	f, st := &w.files[i], &w.states[i]
	if !w.sound(f.node) {
		return nil // plan names the file
	}
	part, err := w.open.acquire(ctx, f)
	if err != nil {
		return w.failFile(ctx, i, err)
	}
	defer w.open.release(part)
	st.dirty = holds(part)
	if !st.dirty && old == nil {
		return nil
	}
	st.have = make([]bool, len(f.node.Content))
	at := int64(0)
	for k, id := range f.node.Content {
		size, _ := w.r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case st.dirty && matches(part, at, size, id, buf):
			st.have[k] = true
		case old != nil && matches(old, at, size, id, buf):
			if err := w.writeAt(part, st.dirty, *buf, at); err != nil {
				return w.failFile(ctx, i, err)
			}
			st.have[k] = true
		}
		if st.have[k] {
			w.o.Progress.Done(0, int64(size))
		}
		at += int64(size)
	}
	return nil
}

// sound reports whether all blobs of a file are there and make up its size.
func (w *work) sound(n *Node) bool {
	sum := uint64(0)
	for _, id := range n.Content {
		size, ok := w.r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		if !ok {
			return false
		}
		sum += uint64(size)
	}
	return sum == n.Size
}

// verify reads a restored file back.
func (w *work) verify(ctx context.Context, i int) error {
	f, st := &w.files[i], &w.states[i]
	if st.done || st.failed.Load() {
		return nil
	}
	r, err := w.show.Read(ctx, f.path)
	if err != nil {
		return w.failFile(ctx, i, fmt.Errorf("verify: %w", err))
	}
	defer func() { _ = r.Close() }()   // only read
	buf := blobBuffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // only these are put
	defer blobBuffers.Put(buf)
	same := w.equal(ctx, r, f.node, buf)
	if same {
		var more [1]byte
		n, _ := r.ReadAt(more[:], int64(f.node.Size)) //nolint:gosec // was read so far
		same = n == 0
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !same {
		return w.failFile(ctx, i, &kassett.Error{
			Op: "verify", Kind: kassett.Incomplete, Err: errors.New("what was read back is not what was written"),
			Hint: "the target's disk or memory may be failing: restore to another",
		})
	}
	w.mu.Lock()
	w.stats.Verified++
	w.mu.Unlock()
	return nil
}
