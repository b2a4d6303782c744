package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"kassett"
)

// Op is a kind of call on a storage.
type Op uint8

// The calls of [kassett.Storage]. Those of [kassett.Beside] are told by
// [Call.Beside].
const (
	Put Op = iota + 1
	Get
	Stat
	List
	Delete
	Sweep
)

// String returns the name of the call in lower case.
func (o Op) String() string {
	return [...]string{"none", "put", "get", "stat", "list", "delete", "sweep"}[o]
}

// Changes reports whether the call may change what is stored.
func (o Op) Changes() bool { return o == Put || o == Delete || o == Sweep }

// Call is one call on a storage. Parts that do not apply are zero.
type Call struct {
	N        int // counts the calls on this storage, from 1
	Op       Op
	Handle   kassett.Handle // of a list only its Kind
	Beside   string         // name or folder beside the repository
	IsBeside bool           // whether it is a call of [kassett.Beside]
	Off, Len int64          // of a get, as asked for
	Size     int64          // of a put, bytes
}

// String returns the call as "3 put index/2cf2…".
func (c Call) String() string {
	what := c.Handle.String()
	switch {
	case c.IsBeside:
		what = "kassett/" + c.Beside
	case c.Op == List:
		what = c.Handle.Kind.String()
	case c.Op == Sweep:
		what = ""
	}
	return fmt.Sprintf("%d %s %s", c.N, c.Op, what)
}

// around is what a wrapper does with a call: it decides whether do runs, and
// what its caller is told. For Get and List do only asks whether to begin.
type around func(c Call, do func() error) error

// wrapped sends every call through one function.
type wrapped struct {
	inner  kassett.Storage
	around around

	mu sync.Mutex
	n  int
}

var (
	_ kassett.Wrapper = (*wrapped)(nil)
	_ kassett.Beside  = (*wrapped)(nil)
	_ kassett.Sweeper = (*wrapped)(nil)
)

func (w *wrapped) call(c Call, do func() error) error {
	w.mu.Lock()
	w.n++
	c.N = w.n
	w.mu.Unlock()
	return w.around(c, do)
}

// Unwrap implements [kassett.Wrapper].
func (w *wrapped) Unwrap() kassett.Storage { return w.inner }

// beside returns the inner storage's ability.
func (w *wrapped) beside() (kassett.Beside, error) {
	if b, ok := kassett.As[kassett.Beside](w.inner); ok {
		return b, nil
	}
	return nil, &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it keeps no files beside a repository")}
}

// Put implements [kassett.Storage].
func (w *wrapped) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return w.call(Call{Op: Put, Handle: h, Size: body.Size}, func() error { return w.inner.Put(ctx, h, body) })
}

// Stage implements [kassett.Stager]. What is written goes through; the commit is
// a put.
func (w *wrapped) Stage(ctx context.Context, k kassett.FileKind) (kassett.Staged, error) {
	s, ok := kassett.As[kassett.Stager](w.inner)
	if !ok {
		return nil, &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it takes no files in pieces")}
	}
	inner, err := s.Stage(ctx, k)
	return &wrappedStaged{Staged: inner, around: w}, err
}

type wrappedStaged struct {
	kassett.Staged
	around *wrapped
	size   int64
}

// Write implements [kassett.Staged].
func (s *wrappedStaged) Write(b []byte) (int, error) {
	n, err := s.Staged.Write(b)
	s.size += int64(n)
	return n, err
}

// Commit implements [kassett.Staged].
func (s *wrappedStaged) Commit(ctx context.Context, h kassett.Handle) error {
	return s.around.call(Call{Op: Put, Handle: h, Size: s.size}, func() error { return s.Staged.Commit(ctx, h) })
}

// Get implements [kassett.Storage].
func (w *wrapped) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	var r io.ReadCloser
	err := w.call(Call{Op: Get, Handle: h, Off: off, Len: n}, func() (err error) {
		r, err = w.inner.Get(ctx, h, off, n)
		return err
	})
	return broken(r, err)
}

// broken gives the first half of a stream that was begun, and then the error.
func broken(r io.ReadCloser, err error) (io.ReadCloser, error) {
	if err == nil || r == nil {
		return r, err
	}
	b, readErr := io.ReadAll(r)
	if err := errors.Join(readErr, r.Close()); err != nil {
		return nil, err
	}
	return &stream{alive: func() error { return nil }, rest: b[:len(b)/2], end: err}, nil
}

// Stat implements [kassett.Storage].
func (w *wrapped) Stat(ctx context.Context, h kassett.Handle) (in kassett.Info, err error) {
	err = w.call(Call{Op: Stat, Handle: h}, func() (err error) {
		in, err = w.inner.Stat(ctx, h)
		return err
	})
	return in, err
}

// List implements [kassett.Storage].
func (w *wrapped) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	c := Call{Op: List, Handle: kassett.Handle{Kind: k}}
	return listing(w, c, func() iter.Seq2[kassett.Info, error] { return w.inner.List(ctx, k) })
}

// listing gives what begin yields, or the first half of it and then the error
// of the call.
func listing[T any](w *wrapped, c Call, begin func() iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var items []T
		begun := false
		err := w.call(c, func() error {
			begun = true
			for in, err := range begin() {
				if err != nil {
					return err
				}
				items = append(items, in)
			}
			return nil
		})
		if err != nil && begun {
			items = items[:len(items)/2]
		}
		for _, in := range items {
			if !yield(in, nil) {
				return
			}
		}
		if err != nil {
			yield(*new(T), err)
		}
	}
}

// Delete implements [kassett.Storage].
func (w *wrapped) Delete(ctx context.Context, h kassett.Handle) error {
	return w.call(Call{Op: Delete, Handle: h}, func() error { return w.inner.Delete(ctx, h) })
}

// PutBeside implements [kassett.Beside].
func (w *wrapped) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	b, err := w.beside()
	if err != nil {
		return err
	}
	c := Call{Op: Put, Beside: name, IsBeside: true, Size: body.Size}
	return w.call(c, func() error { return b.PutBeside(ctx, name, body) })
}

// GetBeside implements [kassett.Beside].
func (w *wrapped) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	b, err := w.beside()
	if err != nil {
		return nil, err
	}
	var r io.ReadCloser
	err = w.call(Call{Op: Get, Beside: name, IsBeside: true, Len: -1}, func() (err error) {
		r, err = b.GetBeside(ctx, name)
		return err
	})
	return broken(r, err)
}

// ListBeside implements [kassett.Beside].
func (w *wrapped) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	b, err := w.beside()
	if err != nil {
		return func(yield func(kassett.BesideInfo, error) bool) { yield(kassett.BesideInfo{}, err) }
	}
	c := Call{Op: List, Beside: folder, IsBeside: true}
	return listing(w, c, func() iter.Seq2[kassett.BesideInfo, error] { return b.ListBeside(ctx, folder) })
}

// DeleteBeside implements [kassett.Beside].
func (w *wrapped) DeleteBeside(ctx context.Context, name string) error {
	b, err := w.beside()
	if err != nil {
		return err
	}
	return w.call(Call{Op: Delete, Beside: name, IsBeside: true}, func() error { return b.DeleteBeside(ctx, name) })
}

// Sweep implements [kassett.Sweeper]. A storage that leaves nothing behind has
// nothing to remove.
func (w *wrapped) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	s, ok := kassett.As[kassett.Sweeper](w.inner)
	if !ok {
		return 0, nil
	}
	err = w.call(Call{Op: Sweep}, func() (err error) {
		removed, err = s.Sweep(ctx, before)
		return err
	})
	return removed, err
}

// Tracing is a storage that remembers every call on the one below it.
type Tracing struct {
	wrapped
	mu    sync.Mutex
	calls []Call
}

// NewTracing returns a storage that passes every call on to inner.
func NewTracing(inner kassett.Storage) *Tracing {
	t := &Tracing{}
	t.wrapped = wrapped{inner: inner, around: func(c Call, do func() error) error {
		t.mu.Lock()
		t.calls = append(t.calls, c)
		t.mu.Unlock()
		return do()
	}}
	return t
}

// Calls returns the calls so far that are one of ops, or all of them when none
// is given, in the order in which they began.
func (t *Tracing) Calls(ops ...Op) []Call {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(t.calls), func(c Call) bool {
		return len(ops) > 0 && !slices.Contains(ops, c.Op)
	})
}

// Reset forgets the calls so far.
func (t *Tracing) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calls = nil
}
