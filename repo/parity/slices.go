package parity

import (
	"context"
	"crypto/md5" //nolint:gosec // the format's checksum; what is stored is proved by SHA-256
	"crypto/sha256"
	"hash"
	"hash/crc32"
	"io"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// piece is one slice of a file as it was read; b is nil when it cannot be read.
type piece struct {
	i   int
	b   []byte
	err error
}

// readSlices gives the slices of a stored file to fn, one after another, while
// the next is being read. The last one may be shorter. A slice belongs to fn
// until it returns. A file that is shorter than size ends early, without error;
// the rest of one that is longer is not read. What cannot be read, as on a disk
// with bad places, is given as its error, and reading goes on with the next
// slice unless fn returns one.
func readSlices(ctx context.Context, st kassett.Storage, m *member, size int, fn func(piece) error) error {
	info, err := st.Stat(ctx, m.Handle)
	if err != nil {
		return err
	}
	r := &sliceReader{st: st, h: m.Handle, size: int64(size), end: min(info.Size, m.size)}
	g, ctx := errgroup.WithContext(ctx)
	full, free := make(chan piece), make(chan []byte, 2)
	for range cap(free) {
		free <- make([]byte, min(int64(size), m.size))
	}
	g.Go(func() error {
		defer close(full)
		defer r.close()
		for i := 0; r.at < r.end; i++ {
			p := piece{i: i, b: <-free}
			n, err := r.read(ctx, p.b)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if p.b = p.b[:n]; err != nil {
				p.err = err
			}
			select {
			case full <- p:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	g.Go(func() error {
		for p := range full {
			if err := fn(p); err != nil {
				return err
			}
			free <- p.b[:cap(p.b)]
		}
		return nil
	})
	return g.Wait()
}

// sliceReader reads a file slice by slice in one stream, and in a new one after
// an error.
type sliceReader struct {
	st            kassett.Storage
	h             kassett.Handle
	size, at, end int64
	rc            io.ReadCloser
}

// read reads the next slice. After an error the position is that of the one
// after it.
func (r *sliceReader) read(ctx context.Context, b []byte) (n int, err error) {
	want := min(r.size, r.end-r.at)
	defer func() { r.at += want }()
	if r.rc == nil {
		if r.rc, err = r.st.Get(ctx, r.h, r.at, r.end-r.at); err != nil {
			r.rc = nil
			return 0, err
		}
	}
	if n, err = io.ReadFull(r.rc, b[:want]); err != nil {
		r.close()
	}
	return n, err
}

func (r *sliceReader) close() {
	if r.rc != nil {
		_ = r.rc.Close() // what was read is proved by its hash
		r.rc = nil
	}
}

// hashes are all checksums of one file while it goes by.
type hashes struct {
	sha, whole hash.Hash
	head       [headSize]byte
	n          int64 // bytes so far
}

func newHashes() *hashes {
	return &hashes{sha: sha256.New(), whole: md5.New()} //nolint:gosec // the format's
}

func (h *hashes) reset() {
	h.sha.Reset()
	h.whole.Reset()
	h.n = 0
}

// headSum returns the MD5 of the first 16 KiB.
func (h *hashes) headSum() sum { return md5.Sum(h.head[:min(h.n, headSize)]) } //nolint:gosec // the format's

// add takes the next slice and returns its checksums, with zeros up to size.
// more is work that is done on another core meanwhile.
func (h *hashes) add(slice []byte, size int, more func()) (one sliceSum) {
	var g errgroup.Group
	g.Go(func() error {
		if h.n < headSize {
			copy(h.head[h.n:], slice)
		}
		_, _ = h.whole.Write(slice) // never fails
		_, _ = h.sha.Write(slice)
		return nil
	})
	g.Go(func() error {
		one = sumSlice(slice, size)
		return nil
	})
	if more != nil {
		more()
	}
	_ = g.Wait() // no error
	h.n += int64(len(slice))
	return one
}

func md5sum(b []byte) sum { return md5.Sum(b) } //nolint:gosec // the format's

var zeros [64 << 10]byte

// sumSlice returns the checksums of a slice, with zeros up to size.
func sumSlice(slice []byte, size int) sliceSum {
	whole, crc := md5.New(), crc32.ChecksumIEEE(slice) //nolint:gosec // the format's
	_, _ = whole.Write(slice)                          // never fails
	for n := size - len(slice); n > 0; n -= len(zeros) {
		pad := zeros[:min(n, len(zeros))]
		_, _ = whole.Write(pad)
		crc = crc32.Update(crc, crc32.IEEETable, pad)
	}
	return sliceSum{sum(whole.Sum(nil)), crc}
}
