package parity

import "encoding/binary"

// The field of PAR2 is GF(2^16): polynomials over GF(2) modulo generator,
// written as 16-bit words. Addition is exclusive or.
const (
	generator = 0x1100B // x^16 + x^12 + x^3 + x + 1
	order     = 1<<16 - 1
)

// field holds the powers of 2 and their logarithms.
type field struct {
	exp [2 * order]uint16 // twice around, so that sums of logarithms need no modulo
	log [order + 1]uint16 // of 0: unused
}

// newField makes the tables: 384 KiB, in under a millisecond.
func newField() *field {
	f := &field{}
	x := 1
	for i := range order {
		f.exp[i], f.exp[i+order] = uint16(x), uint16(x)
		f.log[x] = uint16(i)
		if x <<= 1; x > order {
			x ^= generator
		}
	}
	return f
}

func (f *field) mul(a, b uint16) uint16 {
	if a == 0 || b == 0 {
		return 0
	}
	return f.exp[int(f.log[a])+int(f.log[b])]
}

// inv returns the inverse of a, which is not 0.
func (f *field) inv(a uint16) uint16 { return f.exp[order-int(f.log[a])] }

// pow returns a to the power of n; a is not 0.
func (f *field) pow(a uint16, n uint32) uint16 {
	return f.exp[uint64(f.log[a])*uint64(n)%order]
}

// maxSlices is how many input slices a set can have: so many of the powers of 2
// generate the whole field.
const maxSlices = 1 << 15

// constants returns the constants of the first n input slices: 2 to the powers
// that have no factor in common with 65535 = 3 * 5 * 17 * 257.
func (f *field) constants(n int) []uint16 {
	all := make([]uint16, 0, n)
	for power := 1; len(all) < n; power++ {
		if power%3 != 0 && power%5 != 0 && power%17 != 0 && power%257 != 0 {
			all = append(all, f.exp[power])
		}
	}
	return all
}

// lanes is how many products fit into one word of the machine.
const lanes = 4

// A sums adds up slices, each times a row of coefficients, into as many sums as
// there are rows. Four sums lie side by side in each 64-bit word, so that two
// look-ups and one addition serve four products: without instructions that Go
// does not speak, one core does several gigabytes of products a second.
type sums struct {
	f    *field
	rows int
	acc  [][]uint64 // by group of four rows, then by 16-bit word of the slice
}

// newSums makes rows sums over slices of size bytes, an even number.
func newSums(f *field, rows, size int) *sums {
	s := &sums{f: f, rows: rows, acc: make([][]uint64, (rows+lanes-1)/lanes)}
	for i := range s.acc {
		s.acc[i] = make([]uint64, size/2)
	}
	return s
}

// products are the products of four coefficients with every low and every high
// byte of a word.
type products [2][256]uint64

// add adds slice times coefficients[row] to each row. A slice that is shorter
// than the sums is one with zeros after it; an odd last byte too.
func (s *sums) add(slice []byte, coefficients []uint16) {
	var t products
	if len(slice)%2 == 1 {
		s.addWords([]byte{slice[len(slice)-1], 0}, coefficients, len(slice)/2, &t)
		slice = slice[:len(slice)-1]
	}
	s.addWords(slice, coefficients, 0, &t)
}

func (s *sums) addWords(words []byte, coefficients []uint16, at int, t *products) {
	for g, acc := range s.acc {
		s.f.fill(t, coefficients[g*lanes:min((g+1)*lanes, s.rows)])
		addProducts(acc[at:], words, t)
	}
}

// fill makes the products of up to four coefficients.
func (f *field) fill(t *products, coefficients []uint16) {
	for half := range t {
		row := &t[half]
		for bit := range 8 {
			var word uint64
			for lane, c := range coefficients {
				word |= uint64(f.mul(c, 1<<(8*half+bit))) << (16 * lane)
			}
			for low := range 1 << bit {
				row[1<<bit|low] = row[low] ^ word
			}
		}
	}
}

// addProducts is the inner loop: eight bytes a turn.
func addProducts(acc []uint64, words []byte, t *products) {
	acc = acc[:len(words)/2]
	low, high := &t[0], &t[1]
	for len(words) >= 8 && len(acc) >= 4 {
		w := binary.LittleEndian.Uint64(words)
		acc[0] ^= low[uint8(w)] ^ high[uint8(w>>8)]
		acc[1] ^= low[uint8(w>>16)] ^ high[uint8(w>>24)]
		acc[2] ^= low[uint8(w>>32)] ^ high[uint8(w>>40)]
		acc[3] ^= low[uint8(w>>48)] ^ high[uint8(w>>56)]
		words, acc = words[8:], acc[4:]
	}
	for i := range acc {
		acc[i] ^= low[words[2*i]] ^ high[words[2*i+1]]
	}
}

// row writes sum i as bytes into dst, as many as fit.
func (s *sums) row(dst []byte, i int) {
	shift := 16 * (i % lanes)
	for w, v := range s.acc[i/lanes][:len(dst)/2] {
		binary.LittleEndian.PutUint16(dst[2*w:], uint16(v>>shift))
	}
}
