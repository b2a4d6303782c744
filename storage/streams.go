package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"golang.org/x/time/rate"

	"kassett"
)

// streams wraps every stream of a storage, to and fro, and may put something
// round every other call.
type streams struct {
	inner kassett.Storage
	body  func(ctx context.Context, rc io.ReadCloser) io.ReadCloser // of what is stored
	get   func(ctx context.Context, rc io.ReadCloser) io.ReadCloser // of what is read
	// enter waits for the right to call inner, and returns what gives it back;
	// nil lets every call pass.
	enter func(ctx context.Context) (leave func(), err error)
	// pace holds what is written in pieces to a rate; nil does not.
	pace *rate.Limiter
	// aside runs do, in which inner does not work, within a call; nil runs it.
	aside func(do func())
}

var (
	_ kassett.Wrapper = (*streams)(nil)
	_ kassett.Beside  = (*streams)(nil)
	_ kassett.Sweeper = (*streams)(nil)
	_ kassett.Stager  = (*streams)(nil)
)

// Unwrap implements [kassett.Wrapper].
func (s *streams) Unwrap() kassett.Storage { return s.inner }

// call runs one call on inner.
func (s *streams) call(ctx context.Context, do func() error) error {
	if s.enter == nil {
		return do()
	}
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return do()
}

// wrapBody wraps the readers of a body.
func (s *streams) wrapBody(ctx context.Context, b kassett.Body) kassett.Body {
	open := b.Open
	b.Open = func() (io.ReadCloser, error) {
		rc, err := s.openBody(open)
		if err != nil {
			return nil, err
		}
		return s.body(ctx, rc), nil
	}
	return b
}

func (s *streams) openBody(open func() (io.ReadCloser, error)) (rc io.ReadCloser, err error) {
	if s.aside == nil {
		return open()
	}
	s.aside(func() { rc, err = open() })
	return rc, err
}

// Put implements [kassett.Storage].
func (s *streams) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return s.call(ctx, func() error { return s.inner.Put(ctx, h, s.wrapBody(ctx, body)) })
}

func (s *streams) open(ctx context.Context, open func() (io.ReadCloser, error)) (rc io.ReadCloser, err error) {
	err = s.call(ctx, func() (err error) {
		rc, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.get(ctx, rc), nil
}

// Get implements [kassett.Storage].
func (s *streams) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	return s.open(ctx, func() (io.ReadCloser, error) { return s.inner.Get(ctx, h, off, n) })
}

// Stat implements [kassett.Storage].
func (s *streams) Stat(ctx context.Context, h kassett.Handle) (in kassett.Info, err error) {
	err = s.call(ctx, func() (err error) {
		in, err = s.inner.Stat(ctx, h)
		return err
	})
	return in, err
}

// List implements [kassett.Storage].
func (s *streams) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return s.inner.List(ctx, k)
}

// Delete implements [kassett.Storage].
func (s *streams) Delete(ctx context.Context, h kassett.Handle) error {
	return s.call(ctx, func() error { return s.inner.Delete(ctx, h) })
}

// PutBeside implements [kassett.Beside].
func (s *streams) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	b, err := beside(s.inner)
	if err != nil {
		return err
	}
	return s.call(ctx, func() error { return b.PutBeside(ctx, name, s.wrapBody(ctx, body)) })
}

// GetBeside implements [kassett.Beside].
func (s *streams) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	b, err := beside(s.inner)
	if err != nil {
		return nil, err
	}
	return s.open(ctx, func() (io.ReadCloser, error) { return b.GetBeside(ctx, name) })
}

// ListBeside implements [kassett.Beside].
func (s *streams) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	b, err := beside(s.inner)
	if err != nil {
		return func(yield func(kassett.BesideInfo, error) bool) { yield(kassett.BesideInfo{}, err) }
	}
	return b.ListBeside(ctx, folder)
}

// DeleteBeside implements [kassett.Beside].
func (s *streams) DeleteBeside(ctx context.Context, name string) error {
	b, err := beside(s.inner)
	if err != nil {
		return err
	}
	return s.call(ctx, func() error { return b.DeleteBeside(ctx, name) })
}

// Sweep implements [kassett.Sweeper].
func (s *streams) Sweep(ctx context.Context, before time.Time) (int, error) {
	if sw, ok := kassett.As[kassett.Sweeper](s.inner); ok {
		return sw.Sweep(ctx, before)
	}
	return 0, nil
}

// Stage implements [kassett.Stager]. What is written passes in pieces, each of
// which is a call.
func (s *streams) Stage(ctx context.Context, k kassett.FileKind) (kassett.Staged, error) {
	st, ok := kassett.As[kassett.Stager](s.inner)
	if !ok {
		return nil, &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it takes no file in pieces")}
	}
	var f kassett.Staged
	err := s.call(ctx, func() (err error) {
		f, err = st.Stage(ctx, k)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &stagedStream{Staged: f, s: s, ctx: ctx}, nil
}

type stagedStream struct {
	kassett.Staged
	s   *streams
	ctx context.Context //nolint:containedctx // of the Stage, whose file this is
}

// Write implements [io.Writer].
func (f *stagedStream) Write(p []byte) (n int, err error) {
	if f.s.pace != nil {
		for rest := p; len(rest) > 0; {
			piece := rest[:min(len(rest), f.s.pace.Burst())]
			rest = rest[len(piece):]
			if late := f.s.pace.WaitN(f.ctx, len(piece)); late != nil && f.ctx.Err() != nil {
				return 0, f.ctx.Err()
			}
		}
	}
	err = f.s.call(f.ctx, func() (err error) {
		n, err = f.Staged.Write(p)
		return err
	})
	return n, err
}

// Commit implements [kassett.Staged].
func (f *stagedStream) Commit(ctx context.Context, h kassett.Handle) error {
	return f.s.call(ctx, func() error { return f.Staged.Commit(ctx, h) })
}
