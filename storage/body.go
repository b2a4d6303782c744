package storage

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"sync"

	"kassett"
)

// inMemory is a reader over bytes in memory, as that of a [kassett.BytesBody].
type inMemory interface {
	io.Reader
	io.WriterTo
	Len() int
}

// OpenBody opens body for storing. What is read is checked on the way: the
// stream ends with a [kassett.Corrupt] error instead of io.EOF when it is not of
// body.Size or not of body.Sum, and with the context's error when ctx ends.
// The sum of a [kassett.BytesBody] is believed, since its owner took it from
// the same memory a moment ago.
func OpenBody(ctx context.Context, body kassett.Body) (io.ReadCloser, error) {
	r, err := body.Open()
	if err != nil {
		return nil, fmt.Errorf("open what is to be stored: %w", err)
	}
	c := &checkedBody{r: r, alive: ctx.Err, body: body}
	if m, ok := r.(inMemory); !ok {
		c.sum = sha256.New()
	} else if int64(m.Len()) != body.Size {
		_ = r.Close() // there is nothing to lose
		return nil, wrongBody("%d bytes instead of %d", m.Len(), body.Size)
	}
	return c, nil
}

type checkedBody struct {
	r     io.ReadCloser
	alive func() error // of the context
	body  kassett.Body
	sum   hash.Hash // nil when the sum is believed
	size  int64
}

// Read implements [io.Reader].
func (c *checkedBody) Read(p []byte) (int, error) {
	if err := c.alive(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.size += int64(n)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	switch {
	case c.size > c.body.Size:
		return 0, wrongBody("more than %d bytes", c.body.Size)
	case err == io.EOF && c.size < c.body.Size:
		return n, wrongBody("%d bytes instead of %d", c.size, c.body.Size)
	case err == io.EOF && c.sum != nil:
		if got := kassett.ID(c.sum.Sum(nil)); got != c.body.Sum {
			return n, wrongBody("SHA-256 %s instead of %s", got, c.body.Sum)
		}
	case err != nil && err != io.EOF:
		return n, fmt.Errorf("read what is to be stored: %w", err)
	}
	return n, err
}

// copyBuffers holds what bodies are copied through.
var copyBuffers = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// WriteTo implements [io.WriterTo]: what rests in memory is one write.
func (c *checkedBody) WriteTo(w io.Writer) (n int64, err error) {
	if err := c.alive(); err != nil {
		return 0, err
	}
	if m, ok := c.r.(inMemory); ok {
		n, err = m.WriteTo(w)
		c.size += n
		return n, err
	}
	buf, _ := copyBuffers.Get().(*[256 << 10]byte) // always one
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{c}, buf[:])
}

// Close implements [io.Closer].
func (c *checkedBody) Close() error { return c.r.Close() }

func wrongBody(format string, args ...any) error {
	return &kassett.Error{
		Op: "check what is to be stored", Kind: kassett.Corrupt, Err: fmt.Errorf(format, args...),
		Hint: "the bytes changed between two readings: test the memory of this machine, and what they were read from",
	}
}
