package seal

import (
	"bytes"
	"encoding/hex"
	"slices"
	"testing"

	"golang.org/x/crypto/poly1305" //nolint:staticcheck // see seal.go
	"pgregory.net/rapid"

	"kassett"
)

func hexBytes(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors are those of appendix B of "The Poly1305-AES message-authentication
// code" (Bernstein, 2005): a message there is a ciphertext here.
func TestOpenPoly1305AES(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ name, message, r, k, nonce, tag string }{
		{
			"two bytes", "f3f6", "851fc40c3467ac0be05cc20404f3f700", "ec074c835580741701425b623235add6",
			"fb447350c4e868c52ac3275cf9d4327e", "f4c633c3044fc145f84f335cb81953de",
		},
		{
			"empty", "", "a0f3080000f46400d0c7e9076c834403", "75deaa25c09f208e1dc4ce6b5cad3fbf",
			"61ee09218d29b0aaed7e154a2c5509cc", "dd3fab2251f11ac759f0887129cc2ee7",
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			key, err := NewKey(slices.Concat(bytes.Repeat([]byte{1}, 32), hexBytes(t, v.k), hexBytes(t, v.r)))
			if err != nil {
				t.Fatal(err)
			}
			message := hexBytes(t, v.message)
			plain, err := key.Open(nil, slices.Concat(hexBytes(t, v.nonce), message, hexBytes(t, v.tag)))
			if err != nil || len(plain) != len(message) {
				t.Errorf("open: %d bytes, %v", len(plain), err)
			}
		})
	}
}

func TestSealOpen(t *testing.T) {
	t.Parallel()
	key, err := RandomKey()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		before := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "before")
		out := key.Seal(slices.Clone(before), plain)
		if !bytes.HasPrefix(out, before) || len(out) != len(before)+len(plain)+Overhead {
			t.Fatalf("sealed has %d bytes after %d", len(out), len(before))
		}
		sealed := out[len(before):]
		got, err := key.Open(slices.Clone(before), sealed)
		if err != nil || !bytes.Equal(got, slices.Concat(before, plain)) {
			t.Fatalf("open: %x, %v", got, err)
		}
		bad := slices.Clone(sealed)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		bad = bad[:len(bad)-rapid.IntRange(0, 1).Draw(t, "cut")]
		got, err = key.Open(slices.Clone(before), bad)
		if kassett.KindOf(err) != kassett.Corrupt || !bytes.Equal(got, before) {
			t.Fatalf("open changed bytes: %x, %v", got, err)
		}
		inPlace, err := key.Open(sealed[ivSize:ivSize], sealed)
		if err != nil || !bytes.Equal(inPlace, plain) {
			t.Fatalf("open in place: %x, %v", inPlace, err)
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key, err := RandomKey()
	if err != nil {
		t.Fatal(err)
	}
	other, err := RandomKey()
	if err != nil {
		t.Fatal(err)
	}
	// A message whose MAC is right for an IV of zeros.
	text := []byte("ciphertext")
	once := key.onceKey(make([]byte, ivSize))
	var tag [macSize]byte
	poly1305.Sum(&tag, text, &once)
	for name, sealed := range map[string][]byte{
		"nothing":       nil,
		"31 bytes":      make([]byte, Overhead-1),
		"IV of zeros":   slices.Concat(make([]byte, ivSize), text, tag[:]),
		"other key":     other.Seal(nil, text),
		"cut at front":  key.Seal(nil, text)[1:],
		"only overhead": make([]byte, Overhead),
	} {
		if plain, err := key.Open(nil, sealed); kassett.KindOf(err) != kassett.Corrupt || len(plain) != 0 {
			t.Errorf("%s: open gave %q, %v", name, plain, err)
		}
	}
}

func TestSealKeyRefusesZeros(t *testing.T) {
	t.Parallel()
	full := bytes.Repeat([]byte{7}, KeySize)
	for name, part := range map[string][2]int{"encrypt": {0, 32}, "k": {32, 48}, "r": {48, 64}} {
		secret := slices.Clone(full)
		clear(secret[part[0]:part[1]])
		if _, err := NewKey(secret); err == nil {
			t.Errorf("a key with %s all zero is accepted", name)
		}
	}
	for _, n := range []int{0, KeySize - 1, KeySize + 1} {
		if _, err := NewKey(bytes.Repeat([]byte{7}, n)); err == nil {
			t.Errorf("a key of %d bytes is accepted", n)
		}
	}
}

// The hot path must not feed the garbage collector: one small allocation, the
// cipher.Stream, is all that sealing and opening may cost.
func TestSealAllocates(t *testing.T) {
	key, err := RandomKey()
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, 64<<10)
	sealed := make([]byte, 0, len(plain)+Overhead)
	if n := testing.AllocsPerRun(20, func() { sealed = key.Seal(sealed[:0], plain) }); n > 2 {
		t.Errorf("seal allocates %v times", n)
	}
	if n := testing.AllocsPerRun(20, func() { _, _ = key.Open(plain[:0], sealed) }); n > 2 {
		t.Errorf("open allocates %v times", n)
	}
}

func BenchmarkSeal(b *testing.B) {
	key, err := RandomKey()
	if err != nil {
		b.Fatal(err)
	}
	for name, size := range map[string]int{"small": 200, "page": 4 << 10, "chunk": 1 << 20} {
		b.Run(name, func(b *testing.B) {
			plain, sealed := make([]byte, size), make([]byte, 0, size+Overhead)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				sealed = key.Seal(sealed[:0], plain)
			}
		})
	}
}
