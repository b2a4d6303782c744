package storage

import (
	"context"
	"io"

	"kassett"
)

// Bound returns a storage that lets n calls run side by side at most: one where
// a head has to move between two of them. A call holds its place while the
// storage works, not while its caller does: between two reads of a stream, and
// while a body that is to be stored is being read, the place is free. So no
// call waits for itself, whatever is done within another. A listing takes no
// place.
func Bound(inner kassett.Storage, n int) kassett.Storage {
	n = max(n, 1)
	places := make(chan struct{}, n)
	enter := func(ctx context.Context) (func(), error) {
		select {
		case places <- struct{}{}:
			return func() { <-places }, nil
		default:
		}
		select {
		case places <- struct{}{}:
			return func() { <-places }, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	aside := func(do func()) {
		<-places // this call's own, or as good
		defer func() { places <- struct{}{} }()
		do()
	}
	return bound{&streams{
		inner: inner, enter: enter, aside: aside,
		get: func(ctx context.Context, rc io.ReadCloser) io.ReadCloser {
			return &boundStream{rc: rc, ctx: ctx, enter: enter}
		},
		body: func(ctx context.Context, rc io.ReadCloser) io.ReadCloser {
			if _, memory := rc.(inMemory); memory {
				return rc // it waits for nothing
			}
			return &boundBody{rc: rc, aside: aside}
		},
	}, n}
}

// bound is a storage with so many places.
type bound struct {
	*streams
	n int
}

var _ kassett.Parallel = bound{}

// Connections implements [kassett.Parallel].
func (b bound) Connections() int { return b.n }

// boundStream takes a place for each read.
type boundStream struct {
	rc    io.ReadCloser
	ctx   context.Context //nolint:containedctx // of the Get, whose stream this is
	enter func(ctx context.Context) (func(), error)
}

// Read implements [io.Reader].
func (r *boundStream) Read(p []byte) (int, error) {
	leave, err := r.enter(r.ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	return r.rc.Read(p)
}

// Close implements [io.Closer].
func (r *boundStream) Close() error { return r.rc.Close() }

// boundBody gives the place of its Put back while it is read.
type boundBody struct {
	rc    io.ReadCloser
	aside func(do func())
}

// Read implements [io.Reader].
func (r *boundBody) Read(p []byte) (n int, err error) {
	r.aside(func() { n, err = r.rc.Read(p) })
	return n, err
}

// Close implements [io.Closer].
func (r *boundBody) Close() error { return r.rc.Close() }
