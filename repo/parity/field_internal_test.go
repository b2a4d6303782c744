package parity

import (
	"crypto/md5"
	"testing"
)

func BenchmarkSums(b *testing.B) {
	f := newField()
	const rows, size = 16, 1 << 20
	s := newSums(f, rows, size)
	slice := make([]byte, size)
	for i := range slice {
		slice[i] = byte(i * 7 >> 3)
	}
	co := make([]uint16, rows)
	for i := range co {
		co[i] = f.pow(f.exp[77], uint32(i))
	}
	b.SetBytes(size)
	for b.Loop() {
		s.add(slice, co)
	}
}

func BenchmarkMD5(b *testing.B) {
	slice := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	for b.Loop() {
		md5.Sum(slice)
	}
}
