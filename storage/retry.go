package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"kassett"
)

// DefaultRetry is how long a storage that cannot be reached is waited for when
// nothing is said: a person at a terminal would not wait longer.
const DefaultRetry = 15 * time.Minute

// The first pause between two tries, and the longest. A pause grows by half each
// time, and is up to a third longer or shorter by chance, so that many clients
// do not come back at once.
const (
	firstPause   = 500 * time.Millisecond
	longestPause = time.Minute
)

// Outage is what is told about a storage that cannot be reached.
type Outage struct {
	Since time.Time     // when the first call failed
	Next  time.Duration // until the next try; 0 says that the storage answers again
	Until time.Time     // when calls give up
	Err   error         // why the last try failed; nil when it answers again
}

// Retries repeat calls while a storage cannot be reached. One Retries may serve
// several storages at the same place. It is safe for many goroutines.
type Retries struct {
	patience, first time.Duration
	tell            func(Outage)

	mu     sync.Mutex
	out    Outage    // Since is zero while the storage answers
	pauses int       // in this outage
	again  time.Time // when calls that wait try again
}

// NewRetries returns Retries that wait up to patience from the first failure on;
// 0 never repeats a call. tell is called before each pause, for all calls that
// wait together, and once the storage answers again; it may be nil.
func NewRetries(patience time.Duration, tell func(Outage)) *Retries {
	if tell == nil {
		tell = func(Outage) {}
	}
	return &Retries{patience: patience, first: firstPause, tell: tell}
}

// Do calls try until it succeeds, fails for a reason that waiting does not mend,
// or patience or ctx ends; it returns try's last error. uncertain is true for
// try when an earlier one may have done its work without our knowing.
func (r *Retries) Do(ctx context.Context, try func(uncertain bool) error) error {
	for tries := 0; ; tries++ {
		begun := time.Now()
		err := try(tries > 0)
		if err == nil || !transient(err) {
			r.answered(begun)
			return err
		}
		if ctx.Err() == nil && r.wait(ctx, begun, err) {
			continue
		}
		if ended := ctx.Err(); ended != nil {
			return &kassett.Error{Op: "wait for storage", Kind: kassett.KindOf(ended), Err: fmt.Errorf("%w; before: %w", ended, err)}
		}
		return err
	}
}

// transient reports whether waiting may mend err.
func transient(err error) bool {
	switch k := kassett.KindOf(err); k {
	case kassett.Offline:
		return true
	case kassett.Other:
		_, network := errors.AsType[net.Error](err)
		return network || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) ||
			errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNREFUSED)
	default:
		return false
	}
}

// answered notes that the storage answered a call that began then.
func (r *Retries) answered(begun time.Time) {
	r.mu.Lock()
	over := !r.out.Since.IsZero() && begun.After(r.out.Since)
	out := Outage{Since: r.out.Since, Until: r.out.Until}
	told := r.pauses > 0
	if over {
		r.out, r.pauses, r.again = Outage{}, 0, time.Time{}
	}
	r.mu.Unlock()
	if over && told {
		r.tell(out)
	}
}

// wait waits until a call that began then and failed may try again, and reports
// whether it may.
func (r *Retries) wait(ctx context.Context, begun time.Time, err error) bool {
	now := time.Now()
	r.mu.Lock()
	if r.out.Since.IsZero() {
		r.out = Outage{Since: now, Until: now.Add(r.patience)}
	}
	if !now.Before(r.out.Until) {
		r.mu.Unlock()
		return false
	}
	var news *Outage
	if !begun.Before(r.again) { // the others wait with the first that failed
		pause := r.pauseFor(r.pauses)
		r.again = now.Add(min(pause, r.out.Until.Sub(now)))
		r.pauses++
		r.out.Next, r.out.Err = r.again.Sub(now), err
		out := r.out
		news = &out
	}
	pause := r.again.Sub(now)
	r.mu.Unlock()
	if news != nil {
		r.tell(*news)
	}
	if pause <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pauseFor returns the n-th pause, from 0.
func (r *Retries) pauseFor(n int) time.Duration {
	p := r.first
	for range n {
		if p = p * 3 / 2; p >= longestPause {
			p = longestPause
			break
		}
	}
	return p*2/3 + rand.N(p*2/3+1) //nolint:gosec // no secret
}

// Retry returns a storage whose calls are repeated while inner cannot be
// reached. A call that may have done its work although its answer was lost is
// not reported as done twice: a Put that then finds its file there is a success
// if that is the file, and a Delete that finds none is one too. A stream that
// breaks goes on from where it was; a listing that breaks goes on without
// giving a file twice, see [listAgain].
func Retry(inner kassett.Storage, r *Retries) kassett.Storage {
	return &retrying{inner: inner, r: r}
}

type retrying struct {
	inner kassett.Storage
	r     *Retries
}

var (
	_ kassett.Wrapper = (*retrying)(nil)
	_ kassett.Beside  = (*retrying)(nil)
	_ kassett.Sweeper = (*retrying)(nil)
)

// Unwrap implements [kassett.Wrapper].
func (s *retrying) Unwrap() kassett.Storage { return s.inner }

// maxCompare is the size up to which a file that is found there already is read
// to see whether it is the one that was to be stored, in bytes. Of a larger one
// the size has to do: its name is the hash of its content, and storages show no
// half files.
const maxCompare = 1 << 20

// Put implements [kassett.Storage].
func (s *retrying) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return s.r.Do(ctx, func(uncertain bool) error {
		err := s.inner.Put(ctx, h, body)
		if !uncertain || kassett.KindOf(err) != kassett.Exists {
			return err
		}
		in, statErr := s.inner.Stat(ctx, h)
		if statErr != nil {
			return statErr
		}
		return same(h.String(), in.Size, body, func() (io.ReadCloser, error) { return s.inner.Get(ctx, h, 0, -1) })
	})
}

// same returns nil if a stored file is body.
func same(what string, size int64, body kassett.Body, open func() (io.ReadCloser, error)) error {
	other := func(format string, args ...any) error {
		return &kassett.Error{
			Op: "write file", What: what, Kind: kassett.Corrupt, Err: fmt.Errorf("what is there now "+format, args...),
			Hint: "the answer to the first try was lost, and what is there is not what was sent: run check, and look into the storage's own log",
		}
	}
	if size >= 0 && size != body.Size {
		return other("has %d bytes instead of %d", size, body.Size)
	}
	if body.Size > maxCompare {
		return nil
	}
	r, err := open()
	if err != nil {
		return err
	}
	b, err := io.ReadAll(io.LimitReader(r, maxCompare+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	if got := kassett.Hash(b); got != body.Sum {
		return other("has the SHA-256 %s instead of %s", got, body.Sum)
	}
	return nil
}

// Get implements [kassett.Storage].
func (s *retrying) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	open := func(off, n int64) (io.ReadCloser, error) { return s.inner.Get(ctx, h, off, n) }
	size := func() (int64, error) {
		in, err := s.inner.Stat(ctx, h)
		return in.Size, err
	}
	return s.stream(&resumed{ctx: ctx, r: s.r, off: off, left: n, open: open, size: size})
}

func (s *retrying) stream(r *resumed) (io.ReadCloser, error) {
	err := s.r.Do(r.ctx, func(bool) (err error) {
		r.now, err = r.open(r.off, r.left)
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// resumed is a stream that goes on after it broke.
type resumed struct {
	ctx  context.Context //nolint:containedctx // of the Get, whose stream this is
	r    *Retries
	off  int64
	left int64 // less than 0: to the end
	open func(off, n int64) (io.ReadCloser, error)
	size func() (int64, error) // of the file; nil when it cannot be asked
	now  io.ReadCloser
	torn bool  // now is broken
	err  error // what every later Read gives
}

// Read implements [io.Reader].
func (r *resumed) Read(p []byte) (n int, err error) {
	if r.err != nil {
		return 0, r.err
	}
	r.err = r.r.Do(r.ctx, func(bool) error {
		if r.torn {
			again, err := r.open(r.off, r.left)
			if err != nil {
				return err
			}
			_ = r.now.Close() // it is broken
			r.now, r.torn = again, false
		}
		n, err = r.now.Read(p)
		r.off += int64(n)
		if r.left > 0 {
			r.left = max(r.left-int64(n), 0)
		}
		if errors.Is(err, io.ErrUnexpectedEOF) && !transient(err) {
			err = r.cut(err)
		}
		if err == nil || !transient(err) {
			return err
		}
		if r.torn = true; n > 0 {
			return nil // give that; the next Read goes on
		}
		return err
	})
	return n, r.err
}

// cut tells a stream that ended early because the file ends there from one
// that broke.
func (r *resumed) cut(err error) error {
	if r.size == nil {
		return err
	}
	if size, statErr := r.size(); statErr != nil || size < r.off+max(r.left, 1) {
		return err
	}
	return &kassett.Error{Op: "read file", Kind: kassett.Offline, Err: err}
}

// Close implements [io.Closer].
func (r *resumed) Close() error { return r.now.Close() }

// Stat implements [kassett.Storage].
func (s *retrying) Stat(ctx context.Context, h kassett.Handle) (in kassett.Info, err error) {
	err = s.r.Do(ctx, func(bool) (err error) {
		in, err = s.inner.Stat(ctx, h)
		return err
	})
	return in, err
}

// Delete implements [kassett.Storage].
func (s *retrying) Delete(ctx context.Context, h kassett.Handle) error {
	return s.r.Do(ctx, func(uncertain bool) error { return gone(uncertain, s.inner.Delete(ctx, h)) })
}

// gone takes a file that is not there for deleted if an earlier try may have
// done that.
func gone(uncertain bool, err error) error {
	if uncertain && kassett.KindOf(err) == kassett.NotFound {
		return nil
	}
	return err
}

// List implements [kassett.Storage].
func (s *retrying) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return listAgain(ctx, s.r, func() iter.Seq2[kassett.Info, error] { return s.inner.List(ctx, k) },
		func(in kassett.Info) (kassett.ID, byte) { return in.ID, in.ID[0] })
}

// beside returns the ability of a storage that is wrapped.
func beside(inner kassett.Storage) (kassett.Beside, error) {
	if b, ok := kassett.As[kassett.Beside](inner); ok {
		return b, nil
	}
	return nil, &kassett.Error{Op: "use storage", Kind: kassett.Invalid, Err: errors.New("it keeps no files beside a repository")}
}

// PutBeside implements [kassett.Beside].
func (s *retrying) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	b, err := beside(s.inner)
	if err != nil {
		return err
	}
	return s.r.Do(ctx, func(uncertain bool) error {
		err := b.PutBeside(ctx, name, body)
		if !uncertain || kassett.KindOf(err) != kassett.Exists {
			return err
		}
		size := int64(-1)
		for in, err := range b.ListBeside(ctx, name[:len(name)-len(base(name))]) {
			if err != nil {
				return err
			}
			if in.Name == name {
				size = in.Size
			}
		}
		return same(name, size, body, func() (io.ReadCloser, error) { return b.GetBeside(ctx, name) })
	})
}

// GetBeside implements [kassett.Beside]. A stream that breaks begins anew and
// passes over what was given, since such files are read whole.
func (s *retrying) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	b, err := beside(s.inner)
	if err != nil {
		return nil, err
	}
	open := func(off, _ int64) (io.ReadCloser, error) {
		r, err := b.GetBeside(ctx, name)
		if err == nil && off > 0 {
			if _, err = io.CopyN(io.Discard, r, off); err != nil {
				_ = r.Close() // it is broken
			}
		}
		return r, err
	}
	return s.stream(&resumed{ctx: ctx, r: s.r, left: -1, open: open})
}

// ListBeside implements [kassett.Beside].
func (s *retrying) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	b, err := beside(s.inner)
	if err != nil {
		return func(yield func(kassett.BesideInfo, error) bool) { yield(kassett.BesideInfo{}, err) }
	}
	return listAgain(ctx, s.r, func() iter.Seq2[kassett.BesideInfo, error] { return b.ListBeside(ctx, folder) },
		func(in kassett.BesideInfo) (string, byte) { return in.Name, 0 })
}

// DeleteBeside implements [kassett.Beside].
func (s *retrying) DeleteBeside(ctx context.Context, name string) error {
	b, err := beside(s.inner)
	if err != nil {
		return err
	}
	return s.r.Do(ctx, func(uncertain bool) error { return gone(uncertain, b.DeleteBeside(ctx, name)) })
}

// Sweep implements [kassett.Sweeper].
func (s *retrying) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	sw, ok := kassett.As[kassett.Sweeper](s.inner)
	if !ok {
		return 0, nil
	}
	err = s.r.Do(ctx, func(bool) error {
		n, err := sw.Sweep(ctx, before)
		removed += n
		return err
	})
	return removed, err
}
