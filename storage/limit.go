package storage

import (
	"context"
	"io"

	"golang.org/x/time/rate"

	"kassett"
)

// Rates are how fast bytes may go, over all calls together.
type Rates struct {
	Upload, Download int64 // bytes a second; 0 for no limit
}

// Limit returns a storage that holds what is stored on inner, and what is read
// from it, to rates. Bytes flow in small pieces, so that other traffic on the
// line does not wait for long. Without any limit it returns inner.
func Limit(inner kassett.Storage, r Rates) kassett.Storage {
	if r.Upload <= 0 && r.Download <= 0 {
		return inner
	}
	up, down := newPace(r.Upload), newPace(r.Download)
	return &streams{
		inner: inner, pace: up,
		body: func(ctx context.Context, rc io.ReadCloser) io.ReadCloser { return paced(ctx, rc, up) },
		get:  func(ctx context.Context, rc io.ReadCloser) io.ReadCloser { return paced(ctx, rc, down) },
	}
}

// The pieces in which bytes flow are those of a tenth of a second, but at least
// as large as a packet and at most as large as a buffer.
const (
	leastPiece = 2 << 10
	mostPiece  = 256 << 10
)

func newPace(bytesPerSecond int64) *rate.Limiter {
	if bytesPerSecond <= 0 {
		return nil
	}
	piece := min(max(bytesPerSecond/10, leastPiece), mostPiece)
	return rate.NewLimiter(rate.Limit(bytesPerSecond), int(piece))
}

func paced(ctx context.Context, rc io.ReadCloser, pace *rate.Limiter) io.ReadCloser {
	if pace == nil {
		return rc
	}
	return &pacedReader{ReadCloser: rc, ctx: ctx, pace: pace}
}

type pacedReader struct {
	io.ReadCloser
	ctx  context.Context //nolint:containedctx // of the call, whose stream this is
	pace *rate.Limiter
}

// Read implements [io.Reader].
func (r *pacedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p[:min(len(p), r.pace.Burst())])
	if n > 0 {
		if late := r.pace.WaitN(r.ctx, n); late != nil && r.ctx.Err() != nil {
			return 0, r.ctx.Err()
		}
	}
	return n, err
}
