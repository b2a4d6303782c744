package parity

import (
	"bytes"
	"context"
	"io"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

// encodeFor returns the file of a set over a few small files.
func encodeFor(tb testing.TB) (*encoded, []byte) {
	tb.Helper()
	m := storagetest.NewMemory()
	var files []kassett.Info
	for i := range 3 {
		b := bytes.Repeat([]byte{byte(i), 7, byte(i * i)}, 700+i)
		h := kassett.Handle{Kind: kassett.IndexFile, ID: kassett.Hash(b)}
		if err := m.Put(context.Background(), h, kassett.BytesBody(b, h.ID)); err != nil {
			tb.Fatal(err)
		}
		files = append(files, kassett.Info{Handle: h, Size: int64(len(b))})
	}
	k, err := New(m, Options{Overhead: DefaultOverhead})
	if err != nil {
		tb.Fatal(err)
	}
	e, err := k.encode(context.Background(), files)
	if err != nil {
		tb.Fatal(err)
	}
	rc, err := e.open()
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err != nil {
		tb.Fatal(err)
	}
	return e, b
}

// FuzzReadSet reads any bytes as the file of a set. Whatever is accepted is
// within the bounds, and describes itself again.
func FuzzReadSet(f *testing.F) {
	e, b := encodeFor(f)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add(append([]byte(magic), b...))
	f.Fuzz(func(t *testing.T, b []byte) {
		in := newPacketReader(bytes.NewReader(b))
		for {
			p, err := in.next()
			if err != nil {
				break
			}
			s, err := readSet(bytes.NewReader(b), p.set)
			if err != nil {
				if kassett.KindOf(err) != kassett.Corrupt {
					t.Fatalf("%v", err)
				}
				continue
			}
			if n := s.slices(); n == 0 || n > maxSlices || s.sliceSize > maxSlice {
				t.Fatalf("%d slices of %d", n, s.sliceSize)
			}
			again, err := readSet(bytes.NewReader(s.appendCritical(nil)), s.id)
			if err != nil || len(again.members) != len(s.members) {
				t.Fatalf("again: %v", err)
			}
		}
		if s, err := readSet(bytes.NewReader(b), e.id); err == nil && len(s.members) != 3 {
			t.Fatal("the set is another one")
		}
	})
}

// TestReadSetAnywhere cuts a file at every byte: the set is found as long as
// one of its descriptions is whole.
func TestReadSetAnywhere(t *testing.T) {
	t.Parallel()
	e, b := encodeFor(t)
	critical := len(e.appendCritical(nil))
	for i := 0; i <= len(b); i += 17 {
		_, err := readSet(bytes.NewReader(b[i:]), e.id)
		if whole := i <= len(b)-critical; (err == nil) != whole {
			t.Fatalf("from %d of %d: %v", i, len(b), err)
		}
		_, err = readSet(bytes.NewReader(b[:i]), e.id)
		creatorSize := headerSize + len(creator)
		if whole := i >= critical-creatorSize; (err == nil) != whole {
			t.Fatalf("to %d of %d: %v", i, len(b), err)
		}
	}
}

// TestField holds the arithmetic to its laws and the sums to the arithmetic.
func TestField(t *testing.T) {
	t.Parallel()
	f := newField()
	for a := 1; a <= order; a += 251 {
		x := uint16(a)
		if f.mul(x, f.inv(x)) != 1 || f.mul(x, 2) != double(x) || f.pow(x, 3) != f.mul(x, f.mul(x, x)) || f.pow(x, 0) != 1 {
			t.Fatalf("at %d", a)
		}
	}
	c := f.constants(maxSlices)
	seen := make(map[uint16]bool, len(c))
	for _, v := range c {
		seen[v] = true
	}
	if len(seen) != maxSlices || c[0] != 2 || c[1] != 4 || c[2] != 16 {
		t.Errorf("%d constants, %d", len(seen), c[:3])
	}
	s := newSums(f, 5, 32)
	slice := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11} // shorter, and odd
	row := []uint16{1, 2, 0, 777, 65535}
	s.add(slice, row)
	s.add(slice, []uint16{0, 0, 0, 1, 0})
	for i, by := range row {
		have := make([]byte, 32)
		s.row(have, i)
		for w := range 16 {
			var v uint16
			if 2*w < len(slice) {
				v = uint16(slice[2*w])
			}
			if 2*w+1 < len(slice) {
				v |= uint16(slice[2*w+1]) << 8
			}
			want := f.mul(v, by)
			if i == 3 {
				want ^= v
			}
			if got := uint16(have[2*w]) | uint16(have[2*w+1])<<8; got != want {
				t.Fatalf("row %d word %d: %d, want %d", i, w, got, want)
			}
		}
	}
}

func double(x uint16) uint16 {
	v := int(x) << 1
	if v > order {
		v ^= generator
	}
	return uint16(v)
}
