package snapshot

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/restic/chunker"

	"kassett"
)

// polynomials of degree 53: restic's own test one, and others it made.
var testPolynomials = []chunker.Pol{0x3DA3358B4DC173, 0x3B4C8F1A6D7E55, 0x29CDE2C6B7D1A3}

// content makes bytes with runs of zeros, of random, and of repeated bytes.
func testContent(seed uint64, n int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, n)
	for len(b) < n {
		run := min(1+rnd.IntN(3<<20), n-len(b))
		switch rnd.IntN(3) {
		case 0:
			b = append(b, make([]byte, run)...)
		case 1:
			for range run {
				b = append(b, byte(rnd.Uint32()))
			}
		default:
			b = append(b, bytes.Repeat([]byte{byte(rnd.Uint32())}, run)...)
		}
	}
	return b
}

func TestCutterCutsAsResticsChunker(t *testing.T) {
	t.Parallel()
	for _, pol := range testPolynomials {
		c := newCutter(pol)
		for seed := range uint64(3) {
			b := testContent(seed, 40<<20)
			ref := chunker.New(bytes.NewReader(b), pol)
			step := []int{1 << 18, 1<<16 + 13, kassett.MaxBlob}[seed]
			for pos := 0; ; {
				want, err := ref.Next(nil)
				if errors.Is(err, io.EOF) {
					if pos != len(b) {
						t.Fatalf("pol %x seed %d: %d bytes left", pol, seed, len(b)-pos)
					}
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got, seen := 0, 0
				for n := step; got == 0; n += step {
					end := min(n, len(b)-pos, kassett.MaxBlob)
					got = c.next(b[pos:pos+end], seen)
					if seen = end; got == 0 && end == len(b)-pos {
						got = end
					}
				}
				if got != int(want.Length) {
					t.Fatalf("pol %x seed %d: cut at %d after %d, want %d", pol, seed, got, pos, want.Length)
				}
				pos += got
			}
		}
	}
}

func TestCutterCutsZerosAtTheLeastSize(t *testing.T) {
	t.Parallel()
	for _, pol := range testPolynomials {
		zeros := make([]byte, 2*minCut)
		if got := newCutter(pol).next(zeros, 0); got != minCut {
			t.Errorf("pol %x: cut at %d, want %d", pol, got, minCut)
		}
	}
}

func BenchmarkCutter(b *testing.B) {
	buf := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(buf)
	b.Run("restic", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		for b.Loop() {
			c := chunker.NewBase(testPolynomials[0])
			for rest := buf; ; {
				n := c.NextSplitPoint(rest)
				if n < 0 {
					break
				}
				rest = rest[n:]
			}
		}
	})
	b.Run("kassett", func(b *testing.B) {
		b.SetBytes(int64(len(buf)))
		c := newCutter(testPolynomials[0])
		for b.Loop() {
			for rest := buf; ; {
				n := c.next(rest, 0)
				if n == 0 {
					break
				}
				rest = rest[n:]
			}
		}
	})
}
