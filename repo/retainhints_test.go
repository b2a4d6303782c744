package repo

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
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
	for _, n := range []int{0, 1, 1000} {
		all := hintList(n)
		back, err := decodeHints(encodeHints(all))
		if err != nil || !slices.Equal(back, all) {
			t.Errorf("%d hints come back as %d, %v", n, len(back), err)
		}
	}
}

// The layout that docs/formats/retention-hints.md describes.
func TestHintsGolden(t *testing.T) {
	t.Parallel()
	const file = "01" + "1111111111111111111111111111111111111111111111111111111111111111" + "80ed746b00000000" +
		"ff" + "2222222222222222222222222222222222222222222222222222222222222222" + "003f766b00000000"
	all := []hint{
		{hintKey{hintKind(kassett.PackFile), [32]byte(slices.Repeat([]byte{0x11}, 32))}, 0x6b74ed80},
		{hintKey{treeHint, [32]byte(slices.Repeat([]byte{0x22}, 32))}, 0x6b763f00},
	}
	if got := hex.EncodeToString(encodeHints(all)); got != file {
		t.Errorf("encodeHints = %s, want %s", got, file)
	}
}

// Two programs with one cache lose nothing, what has ended is dropped, and a
// file that rots or is forged is not believed.
func TestHintsSave(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	r := memoryRepo(t, storagetest.NewMemory(), cache)
	at := func(i byte) hintKey { return hintKey{hintKind(kassett.PackFile), kassett.Hash([]byte{i})} }
	var a, b, c hints
	a.note(at(1), 100)
	a.note(at(2), 300)
	b.note(at(2), 200)
	b.note(at(3), 400)
	for _, h := range []*hints{&a, &b} {
		if err := h.save(r, 150); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.read(r); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{0, 0, 300, 400} {
		if got := c.get(at(byte(i))); got != want {
			t.Errorf("hint %d is %d, want %d", i, got, want)
		}
	}
	files, err := filepath.Glob(filepath.Join(cache, "*", "local", "*", hintName))
	if err != nil || len(files) != 1 {
		t.Fatalf("the cache has %v, %v", files, err)
	}
	good, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		good[i] ^= 1
		if err := os.WriteFile(files[0], good, 0o600); err != nil {
			t.Fatal(err)
		}
		var d hints
		if err := d.read(r); kassett.KindOf(err) != kassett.Corrupt || len(d.base) > 0 {
			t.Fatalf("with a flipped bit in byte %d: %v, %d hints", i, err, len(d.base))
		}
		good[i] ^= 1
	}
	if err := c.save(r, 150); err != nil {
		t.Error(err)
	}
	var e hints
	if err := e.read(r); err != nil || e.get(at(3)) != 400 {
		t.Errorf("a damaged file was not replaced: %v", err)
	}
}

func FuzzDecodeHints(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeHints(hintList(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if all, err := decodeHints(b); err == nil && string(encodeHints(all)) != string(b) {
			t.Errorf("%d hints come back otherwise", len(all))
		}
	})
}
