package parity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"kassett"
)

// errDamaged is that a file is not what its name, or an earlier look, says.
var errDamaged = &kassett.Error{Kind: kassett.Corrupt, Err: errors.New("its bytes do not have the hash that is its name")}

// damagedError is a file that cannot be protected as it is.
type damagedError struct {
	kassett.Handle
	err error
}

func (d *damagedError) Error() string { return fmt.Sprintf("read %s: %v", d.Handle, d.err) }
func (d *damagedError) Unwrap() error { return d.err }

// layout is how a group of files is cut: the size of a slice, and how many
// recovery slices there are.
func layout(files []kassett.Info) (slice, rows int) {
	slice = minSlice
	for _, f := range files {
		slice = max(slice, int(min((f.Size+wholeFile-1)/wholeFile, topSlice)))
	}
	slice = (slice + 3) &^ 3
	n := 0
	for _, f := range files {
		n += sliceCount(f.Size, slice)
	}
	return slice, min(wholeFile, n)
}

// wholeFile is into how many slices the largest file of a group is cut, and how
// many recovery slices a set has: so that one whole file can be lost, or so many
// places be damaged anywhere in the group.
const wholeFile = 16

// encoded is a set with its recovery slices, ready to be written.
type encoded struct {
	set
	sums *sums
}

// encode reads the files and makes a set of them. Every file is proved to be
// what its name says; one that is not is a *damagedError.
func (k *Keeper) encode(ctx context.Context, files []kassett.Info) (*encoded, error) {
	slice, rows := layout(files)
	e := &encoded{set: set{sliceSize: slice, members: make([]member, len(files))}}
	for i, f := range files {
		m := &e.members[i]
		m.Handle, m.size = f.Handle, f.Size
		var err error
		if m.head, err = k.headOf(ctx, f); err != nil {
			return nil, &damagedError{f.Handle, err}
		}
		m.identify()
	}
	slices.SortFunc(e.members, func(a, b member) int { return compareSums(a.id, b.id) })
	e.id = md5sum(e.mainBody())

	e.sums = newSums(k.field, rows, slice)
	h, at, n := newHashes(), 0, 0
	for i := range e.members {
		n += sliceCount(e.members[i].size, slice)
	}
	constants := k.field.constants(n)
	row := make([]uint16, rows)
	for i := range e.members {
		m := &e.members[i]
		h.reset()
		m.slices = make([]sliceSum, 0, sliceCount(m.size, slice))
		err := readSlices(ctx, k.storage, m, slice, func(p piece) error {
			if p.err != nil {
				return p.err
			}
			b := p.b
			for e := range row {
				row[e] = k.field.pow(constants[at], uint32(e)) //nolint:gosec // small
			}
			m.slices = append(m.slices, h.add(b, slice, func() { e.sums.add(b, row) }))
			at++
			k.options.Progress.Done(0, int64(len(b)))
			return context.Cause(ctx)
		})
		if err == nil && (h.n != m.size || h.headSum() != m.head || m.Kind != kassett.ConfigFile && kassett.ID(h.sha.Sum(nil)) != m.ID) {
			err = errDamaged
		}
		if err != nil && ctx.Err() == nil {
			return nil, &damagedError{m.Handle, err}
		}
		if err != nil {
			return nil, err
		}
		copy(m.whole[:], h.whole.Sum(nil))
	}
	return e, nil
}

// headOf returns the MD5 of the first 16 KiB of a file.
func (k *Keeper) headOf(ctx context.Context, f kassett.Info) (s sum, err error) {
	rc, err := k.storage.Get(ctx, f.Handle, 0, min(f.Size, headSize))
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	b, err := io.ReadAll(rc)
	return md5sum(b), err
}

// The file of a set is its description, the recovery slices, and the description
// once more, so that one place of damage cannot take both. It is made piece by
// piece, and twice: for its hash and for the storage.

// size returns the bytes of the file.
func (e *encoded) size() int64 {
	critical := int64(len(e.appendCritical(nil)))
	return 2*critical + int64(e.sums.rows)*int64(headerSize+4+e.sliceSize)
}

// open returns a reader of the file.
func (e *encoded) open() (io.ReadCloser, error) { return &encodedReader{e: e}, nil }

// body returns the file to be stored.
func (e *encoded) body() (kassett.Body, error) {
	h := sha256.New()
	n, err := io.Copy(h, &encodedReader{e: e})
	if err == nil && n != e.size() {
		err = fmt.Errorf("%d bytes were made, want %d", n, e.size())
	}
	return kassett.Body{Size: n, Sum: kassett.ID(h.Sum(nil)), Open: e.open}, err
}

// encodedReader makes the file of a set.
type encodedReader struct {
	e          *encoded
	part       int // 0: description; then recovery slices; last: description
	buf, slice []byte
	rest       []byte
}

func (r *encodedReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		e := r.e
		switch {
		case r.part == 0 || r.part == e.sums.rows+1:
			r.buf = e.appendCritical(r.buf[:0])
		case r.part <= e.sums.rows:
			r.slice = slices.Grow(r.slice[:0], e.sliceSize)[:e.sliceSize]
			e.sums.row(r.slice, r.part-1)
			r.buf = e.appendRecovery(r.buf[:0], uint32(r.part-1), r.slice) //nolint:gosec // small
		default:
			return 0, io.EOF
		}
		r.rest = r.buf
		r.part++
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *encodedReader) Close() error { return nil }
