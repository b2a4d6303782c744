package search

import "math/bits"

// A filter tells which blocks cannot hold a text: for each three bytes in a row
// of the folded names of a block two bits are set (B. Bloom, 1970). Eight bits
// are spent on each different three, so that one of them is there by chance in
// one of twenty blocks, and three of them hardly ever.
type filter []byte

const filterBits = 8

// trigrams calls fn for every three bytes in a row.
func trigrams(s []byte, fn func(t uint32)) {
	for i := 0; i+3 <= len(s); i++ {
		fn(uint32(s[i]) | uint32(s[i+1])<<8 | uint32(s[i+2])<<16)
	}
}

// filterBuilder gathers the trigrams of one block.
type filterBuilder struct {
	seen [1 << 24 / 64]uint64
	all  []uint32
}

// add adds a folded name.
func (f *filterBuilder) add(folded []byte) {
	trigrams(folded, func(t uint32) {
		if word, bit := t/64, uint64(1)<<(t%64); f.seen[word]&bit == 0 {
			f.seen[word] |= bit
			f.all = append(f.all, t)
		}
	})
}

// finish returns the filter and begins anew. Its length is a power of two.
func (f *filterBuilder) finish() filter {
	size := 8
	if n := len(f.all) * filterBits / 8; n > size {
		size = 1 << bits.Len(uint(n-1)) //nolint:gosec // not negative
	}
	made := make(filter, size)
	for _, t := range f.all {
		f.seen[t/64] = 0
		a, b := made.places(t)
		made[a/8] |= 1 << (a % 8)
		made[b/8] |= 1 << (b % 8)
	}
	f.all = f.all[:0]
	return made
}

func (f filter) places(t uint32) (a, b uint64) {
	h := uint64(t) * 0x9E3779B97F4A7C15 // the golden ratio spreads neighbours
	mask := uint64(len(f))*8 - 1
	return h >> 40 & mask, h >> 13 & mask
}

// may reports whether a block may hold the folded text.
func (f filter) may(text []byte) bool {
	is := true
	trigrams(text, func(t uint32) {
		a, b := f.places(t)
		is = is && f[a/8]>>(a%8)&1 == 1 && f[b/8]>>(b%8)&1 == 1
	})
	return is
}
