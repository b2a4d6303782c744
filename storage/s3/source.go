package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"kassett"
	"kassett/storage"
)

// source reads a body for requests. The last byte is handed on only when all are
// known to be right, so that no server ever has a whole body that is wrong.
// After close nothing is read any more: HTTP may still hold the body of a
// request that was answered early.
type source struct {
	body   kassett.Body
	stream io.ReadCloser // the body, checked
	memory io.ReadSeeker // the same when it rests in memory, else nil
	alive  func() error  // of the context of the Put

	mu    sync.Mutex
	read  int64
	begun int   // how often it was read from the start
	err   error // why reading has failed
}

func openSource(ctx context.Context, body kassett.Body) (*source, error) {
	r, err := body.Open()
	if err != nil {
		return nil, fmt.Errorf("open what is to be stored: %w", err)
	}
	opened := body
	opened.Open = func() (io.ReadCloser, error) { return r, nil }
	f := &source{body: body, alive: ctx.Err}
	if f.stream, err = storage.OpenBody(ctx, opened); err != nil {
		return nil, err
	}
	if m, ok := r.(interface {
		io.ReadSeeker
		Len() int
	}); ok {
		f.memory = m
	} else if body.Size == 0 { // no request would read it
		if err := f.end(); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return f, nil
}

// reader returns what a request reads. It can seek when the body can be sent
// again.
func (f *source) reader() io.Reader {
	if f.memory != nil {
		return seeker{f}
	}
	return f
}

// Read implements [io.Reader].
func (f *source) Read(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = f.alive() // of a put that was stopped, no whole body is handed on
	}
	left := f.body.Size - f.read
	switch {
	case f.err != nil:
		return 0, f.err
	case f.memory != nil:
		return f.memory.Read(p)
	case left == 0:
		return 0, io.EOF
	case left > 1:
		n, err = f.stream.Read(p[:min(int64(len(p)), left-1)])
	case len(p) > 0:
		if _, err = io.ReadFull(f.stream, p[:1]); err == nil {
			n, err = 1, f.end()
		}
	}
	f.begun = 1
	f.read += int64(n)
	if err != nil {
		n, f.err = 0, err
	}
	return n, err
}

// end makes sure that the stream is at its end.
func (f *source) end() error {
	_, err := io.ReadFull(f.stream, make([]byte, 1)) // a byte too many is an error of the stream's own
	if err == io.EOF {
		return nil
	}
	return err
}

// failure returns why the body could not be read, or nil.
func (f *source) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// intact reports whether the body can be sent again and is still what it was.
func (f *source) intact() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.memory == nil {
		return false
	}
	sum := sha256.New()
	_, err := f.memory.Seek(0, io.SeekStart)
	if err == nil {
		_, err = io.Copy(sum, f.memory)
	}
	return err == nil && kassett.ID(sum.Sum(nil)) == f.body.Sum
}

// attempts returns how often the body was read from the start.
func (f *source) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.begun
}

var errSourceClosed = errors.New("the request is over")

func (f *source) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = errSourceClosed
	return f.stream.Close()
}

// seeker is a source that can be read again.
type seeker struct{ *source }

// Seek implements [io.Seeker]; to the start, that is where a request begins.
func (s seeker) Seek(offset int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.begun++
	return s.memory.Seek(offset, whence)
}
