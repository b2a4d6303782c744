package repo

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kassett"
	"kassett/repo/seal"
)

func hintList(n int) []hint {
	all := make([]hint, n)
	for i := range all {
		all[i] = hint{hintKey{hintKind(1 + i%3), kassett.Hash([]byte{byte(i), byte(i >> 8)})}, int64(1_800_000_000 + i)}
	}
	slices.SortFunc(all, func(a, b hint) int { return a.compare(b.hintKey) })
	return all
}

func TestHintsRoundTrip(t *testing.T) {
	t.Parallel()
	key := fixedKey(t)
	for _, n := range []int{0, 1, 1000} {
		all := hintList(n)
		back, err := decodeHints(encodeHints(all, key), key)
		if err != nil || !slices.Equal(back, all) {
			t.Errorf("%d hints come back as %d, %v", n, len(back), err)
		}
	}
}

// A hint that is believed and wrong loses the guarantee, so nobody without the
// master key can make one, and no bit can rot unseen.
func TestHintsTampered(t *testing.T) {
	t.Parallel()
	key := fixedKey(t)
	other, err := seal.RandomKey()
	if err != nil {
		t.Fatal(err)
	}
	good := encodeHints(hintList(40), key)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := decodeHints(bad, key); kassett.KindOf(err) != kassett.Corrupt {
			t.Fatalf("a flipped bit in byte %d: %v", i, err)
		}
	}
	for n := range len(good) {
		if _, err := decodeHints(good[:n], key); kassett.KindOf(err) != kassett.Corrupt {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	if _, err := decodeHints(encodeHints(hintList(40), other), key); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("hints of another key: %v", err)
	}
}

// The layout that docs/formats/retention-hints.md describes.
func TestHintsGolden(t *testing.T) {
	t.Parallel()
	const file = "6b6173736574742072657461696e310a" + // magic
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" + // salt
		"0200000000000000" + // hints
		"01" + "1111111111111111111111111111111111111111111111111111111111111111" + "80ed746b00000000" +
		"ff" + "2222222222222222222222222222222222222222222222222222222222222222" + "003f766b00000000"
	key := fixedKey(t)
	body, err := hex.DecodeString(file)
	if err != nil {
		t.Fatal(err)
	}
	all, err := decodeHints(hintTag(body, body[len(hintMagic):][:hintSalt], key).Sum(body), key)
	want := []hint{
		{hintKey{hintKind(kassett.PackFile), kassett.ID(bytes.Repeat([]byte{0x11}, 32))}, 0x6b74ed80},
		{hintKey{treeHint, kassett.ID(bytes.Repeat([]byte{0x22}, 32))}, 0x6b763f00},
	}
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("decodeHints = %v, %v; want %v", all, err, want)
	}
}

// Two programs with one cache lose nothing, and what has ended is dropped.
func TestHintsSave(t *testing.T) {
	t.Parallel()
	key, path := fixedKey(t), filepath.Join(t.TempDir(), "new", "retained")
	at := func(i byte) hintKey { return hintKey{hintKind(kassett.PackFile), kassett.Hash([]byte{i})} }
	var a, b, c hints
	a.note(at(1), 100)
	a.note(at(2), 300)
	b.note(at(2), 200)
	b.note(at(3), 400)
	for _, h := range []*hints{&a, &b} {
		if err := h.save(path, key, 150); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.read(path, key); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 0, 300, 400} {
		if got := c.get(at(byte(i))); got != want {
			t.Errorf("hint %d is %d, want %d", i, got, want)
		}
	}
	if err := os.WriteFile(path, []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := new(hints).read(path, key); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("a damaged file: %v", err)
	}
	if err := c.save(path, key, 150); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func FuzzDecodeHints(f *testing.F) {
	key := fixedKey(f)
	f.Add(encodeHints(nil, key), false)
	f.Add(encodeHints(hintList(3), key)[:hintHeader+3*hintWidth], true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign && len(b) >= hintHeader { // what a tag does not catch
			b = hintTag(b, b[len(hintMagic):][:hintSalt], key).Sum(b)
		}
		all, err := decodeHints(b, key)
		if err == nil && len(all)*hintWidth > len(b) {
			t.Errorf("%d hints from %d bytes", len(all), len(b))
		}
	})
}
