package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"kassett"
)

// errPackTaken says that a whole pack cannot be put in its place.
var errPackTaken = errors.New("the storage has something else under the name of this pack, its blobs go into a new one")

// savePack stores a pack that is sealed with this repository's master key as it
// is, and notes all its blobs for the index. The caller has compared the bytes
// with the ID, and its header with blobs. A pack that is stored already, but in
// no index file, is what a copy that was cut has left behind: it is read back and
// used. sent reports whether it had to be stored. An error that is errPackTaken
// does not fail the writer.
func (w *Writer) savePack(p indexedPack, whole []byte) (sent bool, err error) {
	if err := w.failure(); err != nil {
		return false, err
	}
	h := kassett.Handle{Kind: kassett.PackFile, ID: p.id}
	began := w.began()
	// Asked first: sending it costs more than asking.
	_, err = w.r.storage.Stat(w.ctx, h)
	there := err == nil
	if kassett.KindOf(err) == kassett.NotFound {
		body := kassett.BytesBody(whole, p.id)
		body.Hot = len(p.blobs) > 0 && p.blobs[0].Type == TreeBlob
		err = w.r.put(w.ctx, h, body)
		there = kassett.KindOf(err) == kassett.Exists // someone else copies it too
		sent = err == nil
	}
	if err != nil && !there {
		return false, w.fail(err)
	}
	switch {
	case there:
		err = w.r.verifyStored(w.ctx, h, int64(len(whole)))
		if k := kassett.KindOf(err); k == kassett.Corrupt || k == kassett.Denied {
			w.r.warn(fmt.Errorf("%w: %w", errPackTaken, err))
			return false, errPackTaken
		}
	case w.verify:
		err = w.readBack(h, int64(len(whole)))
	}
	if err != nil {
		return false, w.fail(err)
	}
	if sent {
		w.progress.Stored(int64(len(whole)))
	} else {
		began = time.Time{} // who knows when it was
	}
	w.r.retained.stored(p.id, began)
	for _, b := range p.blobs {
		w.claimed.add(b.BlobHandle)
	}
	if err := w.addToIndex(p); err != nil {
		return false, w.fail(err)
	}
	return sent, nil
}

// readBack is verifyStored for what was just written. Storage that does not give
// it back now, such as one that must be thawed first, is named once, and trusted.
func (w *Writer) readBack(h kassett.Handle, size int64) error {
	err := w.r.verifyStored(w.ctx, h, size)
	if kassett.KindOf(err) == kassett.Denied {
		w.unread.Do(func() {
			w.r.warn(&kassett.Error{
				Op: "read back", What: h.String(), Kind: kassett.Denied, Err: err,
				Hint: "what was written is trusted until the next check --read-data",
			})
		})
		return nil
	}
	return err
}

// verifyStored reads a file of size bytes back from the storage and compares its
// hash with its name.
func (r *Repository) verifyStored(ctx context.Context, h kassett.Handle, size int64) error {
	differs := func(err error) error {
		return &kassett.Error{
			Op: "read back", What: h.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "the storage does not give back what was written: test it and the way to it, then run the command again",
		}
	}
	rc, err := r.storage.Get(ctx, h, 0, -1)
	if err != nil {
		return fmt.Errorf("read back %s: %w", h, err)
	}
	scratch := takeBuffers()
	defer scratch.giveBack()
	in := scratch.readAhead(io.LimitReader(rc, size+1))
	defer in.Reset(nil)
	sum := sha256.New()
	n, err := io.Copy(sum, in)
	if err = errors.Join(err, rc.Close()); err != nil {
		return fmt.Errorf("read back %s: %w", h, err)
	}
	if n != size {
		return differs(fmt.Errorf("it has %d bytes there, want %d", n, size))
	}
	if id := kassett.ID(sum.Sum(nil)); id != h.ID {
		return differs(fmt.Errorf("its bytes have the hash %s there", id))
	}
	return nil
}
