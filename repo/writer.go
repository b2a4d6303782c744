package repo

import (
	"context"
	"errors"

	"kassett"
)

// WriterOptions say how a [Writer] works. The zero value is good.
type WriterOptions struct {
	Progress *kassett.Progress // told what has been stored; may be nil
}

// Saved is what became of one blob.
type Saved struct {
	ID     kassett.ID
	New    bool   // it was not in the repository before
	Stored uint32 // bytes it takes, sealed; 0 when it was known
}

// Writer stores blobs.
type Writer struct{}

var errSoon = errors.New("not written yet")

// NewWriter starts a writer.
func (r *Repository) NewWriter(ctx context.Context, o WriterOptions) *Writer { return &Writer{} }

// Save stores a blob.
func (w *Writer) Save(ctx context.Context, t BlobType, plain []byte) (Saved, error) {
	return Saved{}, errSoon
}

// SaveAgain stores a blob even if the repository has it.
func (w *Writer) SaveAgain(ctx context.Context, t BlobType, plain []byte) (Saved, error) {
	return Saved{}, errSoon
}

// SaveSealed stores a blob that is sealed with this repository's master key.
func (w *Writer) SaveSealed(ctx context.Context, b Blob, sealed []byte) error { return errSoon }

// Flush makes all that was saved durable, and then known.
func (w *Writer) Flush(ctx context.Context) error { return errSoon }

// Abort gives up.
func (w *Writer) Abort() {}
