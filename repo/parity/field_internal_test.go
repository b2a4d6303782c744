package parity

import (
	"crypto/md5" //nolint:gosec // the format's
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

// BenchmarkSums is the arithmetic of a whole set: sixteen products for each
// word of a slice.
func BenchmarkSums(b *testing.B) {
	f := newField()
	const size = 1 << 20
	s := newSums(f, wholeFile, size)
	slice := make([]byte, size)
	for i := range slice {
		slice[i] = byte(i * 7 >> 3)
	}
	row := make([]uint16, wholeFile)
	for i := range row {
		row[i] = f.pow(f.exp[77], uint32(i)) //nolint:gosec // small
	}
	b.SetBytes(size)
	for b.Loop() {
		s.add(slice, row)
	}
}

func BenchmarkMD5(b *testing.B) {
	slice := make([]byte, 1<<20)
	b.SetBytes(int64(len(slice)))
	for b.Loop() {
		md5.Sum(slice) //nolint:gosec // the format's
	}
}

// BenchmarkEncode makes a set of eight packs, all of it: read, prove, sum up,
// write. Run it with -cpu 1,2.
func BenchmarkEncode(b *testing.B) {
	m := storagetest.NewMemory()
	var files []kassett.Info
	for i := range 8 {
		pack := make([]byte, 16<<20)
		for j := range pack {
			pack[j] = byte(j*j>>9) ^ byte(i*j)
		}
		h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(pack)}
		if err := m.Put(b.Context(), h, kassett.BytesBody(pack, h.ID)); err != nil {
			b.Fatal(err)
		}
		files = append(files, kassett.Info{Handle: h, Size: int64(len(pack))})
	}
	k, err := New(m, Options{Overhead: DefaultOverhead})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(8 * 16 << 20)
	for b.Loop() {
		e, err := k.encode(b.Context(), files)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.body(); err != nil {
			b.Fatal(err)
		}
	}
}
