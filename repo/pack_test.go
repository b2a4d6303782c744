package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

var testPassword = []byte("correct horse")

// memoryRepo makes a repository in memory whose table rests in cache, or in a
// temporary folder when that is "".
func memoryRepo(t testing.TB, st kassett.Storage, cache string) *Repository {
	t.Helper()
	o := InitOptions{Scrypt: Scrypt{N: 16, R: 1, P: 1}, Options: Options{CacheDir: cache}}
	r, err := Init(context.Background(), st, testPassword, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

var (
	idA = kassett.Hash([]byte("a"))
	idB = kassett.Hash([]byte("b"))
	idC = kassett.Hash([]byte("c"))
)

// testBlob describes a blob in one line.
func testBlob(t BlobType, id kassett.ID, offset, length, plain uint32) Blob {
	return Blob{BlobHandle: BlobHandle{Type: t, ID: id}, Offset: offset, Length: length, Plain: plain}
}

// fourKinds has one blob of each type of header entry.
var fourKinds = []Blob{
	testBlob(DataBlob, idA, 0, 33, 0),
	testBlob(TreeBlob, idB, 33, 0x01020304, 0),
	testBlob(DataBlob, idC, 33+0x01020304, 50, 0x0a0b0c0d),
	testBlob(TreeBlob, idA, 83+0x01020304, 64, 65),
}

func TestHeaderGolden(t *testing.T) {
	t.Parallel()
	// By the table of "Pack Format" in restic's design document.
	want := "00" + "21000000" + idA.String() +
		"01" + "04030201" + idB.String() +
		"02" + "32000000" + "0d0c0b0a" + idC.String() +
		"03" + "40000000" + "41000000" + idA.String()
	plain := appendHeader(nil, fourKinds)
	if got := hex.EncodeToString(plain); got != want {
		t.Errorf("header\n%s\nwant\n%s", got, want)
	}
	size := 0
	for _, b := range fourKinds {
		size += entrySize(b)
	}
	if size != len(plain) {
		t.Errorf("entrySize says %d bytes in all, the header has %d", size, len(plain))
	}
	back, err := decodeHeader(plain, 83+0x01020304+64)
	if err != nil || len(back) != len(fourKinds) {
		t.Fatalf("decodeHeader: %v, %v", back, err)
	}
	for i := range back {
		if back[i] != fourKinds[i] {
			t.Errorf("blob %d: %v, want %v", i, back[i], fourKinds[i])
		}
	}
}

func TestHeaderRefused(t *testing.T) {
	t.Parallel()
	good := appendHeader(nil, fourKinds[:1])
	edit := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	for _, c := range []struct {
		name  string
		plain []byte
		body  int64
		want  string
	}{
		{"empty", nil, 0, "without blobs"},
		{"cut entry", good[:36], 33, "cut off"},
		{"compressed entry cut to the length of a raw one", edit(0, 2), 33, "cut off"},
		{"unknown type", edit(0, 4), 33, "unknown type 4"},
		{"blob longer than the pack", good, 32, "after the 32 bytes"},
		{"gap before the header", good, 34, "33 bytes in a pack that has 34"},
		{"blob too short for its seal", edit(1, 31), 31, "at least 32"},
		{"largest length", edit(1, 255, 255, 255, 255), 33, "after the 33 bytes"},
		{"zero id", edit(5, make([]byte, 32)...), 33, "zero"},
		{"compressed to nothing", append([]byte{2, 33, 0, 0, 0, 0, 0, 0, 0}, idA[:]...), 33, "length 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if blobs, err := decodeHeader(c.plain, c.body); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("decodeHeader = %v, %v; want an error with %q", blobs, err, c.want)
			}
		})
	}
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(appendHeader(nil, fourKinds), int64(83+0x01020304+64))
	f.Add(appendHeader(nil, fourKinds[:1]), int64(33))
	f.Fuzz(func(t *testing.T, plain []byte, body int64) {
		blobs, err := decodeHeader(plain, body)
		if err != nil {
			return
		}
		var at int64
		for _, b := range blobs {
			if int64(b.Offset) != at || b.ID.IsZero() {
				t.Fatalf("blob %v, want offset %d", b, at)
			}
			at += int64(b.Length)
		}
		if at != body {
			t.Fatalf("blobs end at %d, the pack at %d", at, body)
		}
		if again := appendHeader(nil, blobs); !bytes.Equal(again, plain) {
			t.Fatalf("encoded again:\n%x\nwas:\n%x", again, plain)
		}
	})
}

// packOf stores a pack by hand: blobs of the given lengths, sealed, and tail
// changed by edit.
func packOf(t *testing.T, r *Repository, st kassett.Storage, lengths []int, edit func(pack []byte) []byte) kassett.Info {
	t.Helper()
	var pack []byte
	var blobs []Blob
	for i, n := range lengths {
		plain := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, n)[:n]
		blobs = append(blobs, testBlob(DataBlob, kassett.Hash(plain), uint32(len(pack)), uint32(n+Overhead), 0))
		pack = r.key.Seal(pack, plain)
	}
	before := len(pack)
	pack = r.key.Seal(pack, appendHeader(nil, blobs))
	n := len(pack) - before
	pack = append(pack, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
	if edit != nil {
		pack = edit(pack)
	}
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(pack)}
	if err := st.Put(context.Background(), h, kassett.BytesBody(pack, h.ID)); err != nil {
		t.Fatal(err)
	}
	return kassett.Info{Handle: h, Size: int64(len(pack))}
}

func TestPackHeader(t *testing.T) {
	t.Parallel()
	st := storagetest.NewTracing(storagetest.NewMemory())
	r := memoryRepo(t, st, "")
	for _, c := range []struct {
		name   string
		blobs  int
		length int
		gets   int
	}{
		{"one blob", 1, 1000, 1},
		{"empty blob", 1, 0, 1},
		{"header of the guessed length", 800, 10, 1},
		{"longer header", 2000, 10, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			lengths := make([]int, c.blobs)
			for i := range lengths {
				lengths[i] = c.length
			}
			info := packOf(t, r, st, lengths, nil)
			for _, size := range []int64{info.Size, -1} {
				before := len(st.Calls(storagetest.Get))
				blobs, err := r.PackHeader(t.Context(), info.ID, size)
				if err != nil || len(blobs) != c.blobs {
					t.Fatalf("PackHeader: %d blobs, %v", len(blobs), err)
				}
				if gets := len(st.Calls(storagetest.Get)) - before; gets != c.gets {
					t.Errorf("%d reads, want %d", gets, c.gets)
				}
			}
		})
	}
}

func TestPackHeaderDamaged(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, "")
	footer := func(n uint32) func([]byte) []byte {
		return func(p []byte) []byte {
			return append(p[:len(p)-4], byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
		}
	}
	for _, c := range []struct {
		name string
		edit func([]byte) []byte
	}{
		{"nothing in it", func([]byte) []byte { return nil }},
		{"three bytes", func(p []byte) []byte { return p[:3] }},
		{"last byte missing", func(p []byte) []byte { return p[:len(p)-1] }},
		{"last half missing", func(p []byte) []byte { return p[:len(p)/2] }},
		{"first byte missing", func(p []byte) []byte { return p[1:] }},
		{"a byte more", func(p []byte) []byte { return append(p, 0) }},
		{"a bit of the header", func(p []byte) []byte { p[len(p)-30] ^= 1; return p }},
		{"header length 0", footer(0)},
		{"header length 1", footer(1)},
		{"header longer than the pack", footer(1 << 20)},
		{"header length over the bound", footer(maxHeader + 1)},
		{"largest header length", footer(1<<32 - 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			info := packOf(t, r, st, []int{1000, 3000}, c.edit)
			blobs, err := r.PackHeader(t.Context(), info.ID, info.Size)
			if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(err.Error(), info.ID.String()) {
				t.Errorf("PackHeader = %v, %v; want a Corrupt error that names the pack", blobs, err)
			}
			if kassett.HintOf(err) == "" {
				t.Error("no hint")
			}
		})
	}
	t.Run("shorter than said", func(t *testing.T) {
		info := packOf(t, r, st, []int{99}, nil)
		if _, err := r.PackHeader(t.Context(), info.ID, info.Size+7); kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("PackHeader: %v, want Corrupt", err)
		}
	})
	t.Run("gone", func(t *testing.T) {
		if _, err := r.PackHeader(t.Context(), idA, -1); kassett.KindOf(err) != kassett.NotFound {
			t.Errorf("PackHeader: %v, want NotFound", err)
		}
	})
}
