package snapshot

import (
	"github.com/restic/chunker"

	"kassett"
)

// The content cut's bounds and aim, those of restic's chunker: a chunk has at
// least minCut bytes unless the file ends, at most [kassett.MaxBlob], and ends
// after the first byte at which the low 20 bits of the fingerprint are zero.
const (
	minCut    = chunker.MinSize
	cutWindow = 64
	cutMask   = 1<<20 - 1
)

// cutter finds where restic's chunker would cut. The Rabin fingerprint of a
// position depends on the 64 bytes before it alone, so nothing is kept between
// calls, and several places of a buffer are looked at side by side: one chain
// of table look-ups waits for memory most of the time, four keep the processor
// busy. It is safe for many goroutines.
type cutter struct {
	// mod reduces what the shift by a byte pushes over the degree of the
	// polynomial; out takes away the byte that leaves the window.
	mod, out [256]uint64
}

// cutDegree is the degree of every polynomial of the format.
const cutDegree = 53

// newCutter returns the cutter of a repository's polynomial, whose degree is
// cutDegree.
func newCutter(p chunker.Pol) *cutter {
	c := &cutter{}
	for b := range 256 {
		c.mod[b] = uint64((chunker.Pol(b) << cutDegree).Mod(p)) | uint64(b)<<cutDegree
		h := chunker.Pol(b)
		for range cutWindow {
			h = (h << 8).Mod(p)
		}
		c.out[b] = uint64(h)
	}
	return c
}

// next returns where the chunk that begins with buf ends, or 0 when its end is
// not in buf. The first seen bytes of buf were in an earlier call that
// returned 0.
func (c *cutter) next(buf []byte, seen int) int {
	full := len(buf) >= kassett.MaxBlob
	buf = buf[:min(len(buf), kassett.MaxBlob)]
	const lane = 8 << 10
	p := max(seen+1, minCut) // the first place where a cut may be
	for ; len(buf)-p+1 >= 4*lane; p += 4 * lane {
		if at := c.lanes(buf, p, lane); at > 0 {
			return at
		}
	}
	if p <= len(buf) {
		if at := c.lane(buf, p, len(buf)-p+1); at > 0 {
			return at
		}
	}
	if full {
		return kassett.MaxBlob
	}
	return 0
}

// sum returns the fingerprint of the window that ends before p.
func (c *cutter) sum(buf []byte, p int) uint64 {
	var h uint64
	for _, b := range buf[p-cutWindow : p] {
		h = (h<<8 | uint64(b)) ^ c.mod[uint8(h>>(cutDegree-8))]
	}
	return h
}

// lane looks at n places from p on.
func (c *cutter) lane(buf []byte, p, n int) int {
	h := c.sum(buf, p-1)
	gone := buf[p-1-cutWindow:][:n]
	come := buf[p-1:][:n]
	for i, o := range gone {
		h = h<<8 ^ c.mod[uint8(h>>(cutDegree-8))] ^ c.out[o] ^ uint64(come[i])
		if h&cutMask == 0 {
			return p + i
		}
	}
	return 0
}

// lanes looks at 4n places from p on, in four lanes side by side.
func (c *cutter) lanes(buf []byte, p, n int) int {
	h0, h1 := c.sum(buf, p-1), c.sum(buf, p-1+n)
	h2, h3 := c.sum(buf, p-1+2*n), c.sum(buf, p-1+3*n)
	from := p - 1 - cutWindow
	gone0, come0 := buf[from:][:n], buf[p-1:][:n]
	gone1, come1 := buf[from+n:][:n], buf[p-1+n:][:n]
	gone2, come2 := buf[from+2*n:][:n], buf[p-1+2*n:][:n]
	gone3, come3 := buf[from+3*n:][:n], buf[p-1+3*n:][:n]
	first := 0 // of the later lanes, the earliest cut seen
	for i := range n {
		h0 = h0<<8 ^ c.mod[uint8(h0>>(cutDegree-8))] ^ c.out[gone0[i]] ^ uint64(come0[i])
		h1 = h1<<8 ^ c.mod[uint8(h1>>(cutDegree-8))] ^ c.out[gone1[i]] ^ uint64(come1[i])
		h2 = h2<<8 ^ c.mod[uint8(h2>>(cutDegree-8))] ^ c.out[gone2[i]] ^ uint64(come2[i])
		h3 = h3<<8 ^ c.mod[uint8(h3>>(cutDegree-8))] ^ c.out[gone3[i]] ^ uint64(come3[i])
		if h0&cutMask != 0 && h1&cutMask != 0 && h2&cutMask != 0 && h3&cutMask != 0 {
			continue
		}
		if h0&cutMask == 0 {
			return p + i
		}
		for j, h := range [...]uint64{h1, h2, h3} {
			if at := p + (j+1)*n + i; h&cutMask == 0 && (first == 0 || at < first) {
				first = at
				break
			}
		}
	}
	return first
}
