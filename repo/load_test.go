package repo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"kassett"
	"kassett/storage/storagetest"
)

// plainOf is the content that packOf gives the blob i.
func plainOf(i, n int) []byte { return bytes.Repeat([]byte{byte(i), byte(i >> 8)}, n)[:n] }

// indexPack reads the header of a good pack and puts it into the index under
// the ID of another, which may be damaged.
func indexPack(t *testing.T, r *Repository, good, named kassett.Info) []Blob {
	t.Helper()
	blobs, err := r.PackHeader(t.Context(), good.ID, good.Size)
	if err != nil {
		t.Fatal(err)
	}
	putIndex(t, r, []indexedPack{{named.ID, blobs}})
	return blobs
}

type loaded struct {
	blob  Blob
	plain []byte
	err   error
}

func loadAll(t *testing.T, r *Repository, pack kassett.ID, blobs []Blob) (all []loaded) {
	t.Helper()
	err := r.LoadBlobs(t.Context(), pack, slices.Clone(blobs), func(b Blob, plain []byte, err error) error {
		all = append(all, loaded{b, bytes.Clone(plain), err})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestLoadBlobsSpans holds LoadBlobs to few requests, to the order of offsets,
// and to giving each blob once.
func TestLoadBlobsSpans(t *testing.T) {
	t.Parallel()
	st := storagetest.NewTracing(storagetest.NewMemory())
	r := memoryRepo(t, st, "")
	lengths := []int{10, 0, 100_000, 300_000, 300_000, 20, 900_000, 5, 3 << 20, 7}
	info := packOf(t, r, st, lengths, nil)
	all := indexPack(t, r, info, info)
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		want []int // blobs asked for, in any order
		gets int
	}{
		{"none", nil, 0},
		{"all", []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 1},
		{"over a short gap", []int{0, 3}, 1},
		{"over a long gap", []int{5, 7}, 2},
		{"three spans", []int{9, 7, 5, 0}, 4},
		{"one twice", []int{3, 3}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var ask []Blob
			for _, i := range c.want {
				ask = append(ask, all[i])
			}
			before := len(st.Calls(storagetest.Get))
			got := loadAll(t, r, info.ID, ask)
			if n := len(st.Calls(storagetest.Get)) - before; n != c.gets {
				t.Errorf("%d requests, want %d", n, c.gets)
			}
			slices.Sort(c.want)
			if len(got) != len(c.want) {
				t.Fatalf("%d blobs, want %d", len(got), len(c.want))
			}
			for n, i := range c.want {
				if got[n].err != nil || got[n].blob != all[i] || !bytes.Equal(got[n].plain, plainOf(i, lengths[i])) {
					t.Errorf("blob %d: %v, %d bytes, %v", i, got[n].blob, len(got[n].plain), got[n].err)
				}
			}
		})
	}
	t.Run("fn fails", func(t *testing.T) {
		stop := errors.New("stop")
		n := 0
		err := r.LoadBlobs(t.Context(), info.ID, slices.Clone(all), func(Blob, []byte, error) error {
			if n++; n == 3 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) || n != 3 {
			t.Errorf("%d calls, %v", n, err)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := r.LoadBlobs(ctx, info.ID, slices.Clone(all), func(_ Blob, _ []byte, err error) error { return err })
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// TestLoadDamaged damages one pack in every way: the damaged blobs are named,
// the others come, and where another pack has them nobody notices.
func TestLoadDamaged(t *testing.T) {
	t.Parallel()
	lengths := []int{1000, 2000, 3000, 4000}
	for _, c := range []struct {
		name string
		edit func([]byte) []byte
		lost []int // blobs
	}{
		{"a bit of the second", func(p []byte) []byte { p[1032+500] ^= 4; return p }, []int{1}},
		{"the first byte", func(p []byte) []byte { p[0] ^= 1; return p }, []int{0}},
		{"the seal of the last", func(p []byte) []byte { p[10_000+4*Overhead-1] ^= 1; return p }, []int{3}},
		{"cut within the third", func(p []byte) []byte { return p[:5000] }, []int{2, 3}},
		{"cut behind the first", func(p []byte) []byte { return p[:1032] }, []int{1, 2, 3}},
		{"empty", func([]byte) []byte { return nil }, []int{0, 1, 2, 3}},
		{"a byte more in front", func(p []byte) []byte { return slices.Insert(p, 0, 0) }, []int{0, 1, 2, 3}},
		{"two blobs exchanged", func(p []byte) []byte {
			return slices.Concat(p[1032:1032+2032], p[:1032], p[1032+2032:])
		}, []int{0, 1}},
		{"gone", nil, []int{0, 1, 2, 3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			st := storagetest.NewMemory()
			r := memoryRepo(t, st, "")
			good := packOf(t, r, st, lengths, nil)
			bad := kassett.Info{Handle: kassett.Handle{Kind: kassett.PackFile, ID: idA}}
			if c.edit != nil {
				bad = packOf(t, r, st, lengths, c.edit)
			}
			blobs := indexPack(t, r, good, bad)
			if err := r.LoadIndex(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			check := func(i int, plain []byte, err error, lost bool) {
				t.Helper()
				switch {
				case !lost:
					if err != nil || !bytes.Equal(plain, plainOf(i, lengths[i])) {
						t.Errorf("blob %d: %d bytes, %v", i, len(plain), err)
					}
				case kassett.KindOf(err) != kassett.Corrupt || kassett.HintOf(err) == "" ||
					!strings.Contains(err.Error(), blobs[i].ID.String()) || !strings.Contains(err.Error(), bad.ID.String()):
					t.Errorf("blob %d: %v; want a Corrupt error with a hint that names blob and pack", i, err)
				}
			}
			for i, l := range loadAll(t, r, bad.ID, blobs) {
				check(i, l.plain, l.err, slices.Contains(c.lost, i))
			}
			for i, b := range blobs {
				plain, err := r.LoadBlob(t.Context(), b.BlobHandle, nil)
				check(i, plain, err, slices.Contains(c.lost, i))
			}
			// Now the good pack is known too.
			indexPack(t, r, good, good)
			if err := r.LoadIndex(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			for i, l := range loadAll(t, r, bad.ID, blobs) {
				check(i, l.plain, l.err, false)
			}
			for i, b := range blobs {
				plain, err := r.LoadBlob(t.Context(), b.BlobHandle, nil)
				check(i, plain, err, false)
			}
		})
	}
}

func TestLoadUnknown(t *testing.T) {
	t.Parallel()
	r := memoryRepo(t, storagetest.NewMemory(), "")
	_, err := r.LoadBlob(t.Context(), BlobHandle{ID: idA}, nil)
	if kassett.KindOf(err) != kassett.NotFound || kassett.HintOf(err) == "" {
		t.Errorf("LoadBlob: %v, want NotFound with a hint", err)
	}
}

// TestLoadSecondLook reads a blob that came wrong over the way once.
func TestLoadSecondLook(t *testing.T) {
	t.Parallel()
	lost := 0
	st := storagetest.NewFailing(storagetest.NewMemory(), func(c storagetest.Call) *storagetest.Fault {
		if c.Op == storagetest.Get && c.Handle.Kind == kassett.PackFile && lost > 0 {
			lost--
			return &storagetest.Fault{Err: errors.New("connection reset"), After: true}
		}
		return nil
	})
	r := memoryRepo(t, st, "")
	info := packOf(t, r, st, []int{1000, 2000}, nil)
	blobs := indexPack(t, r, info, info)
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	lost = 1
	for i, l := range loadAll(t, r, info.ID, blobs) {
		if l.err != nil || !bytes.Equal(l.plain, plainOf(i, 1000*(i+1))) {
			t.Errorf("blob %d: %d bytes, %v", i, len(l.plain), l.err)
		}
	}
}

// TestLoadBuffer holds LoadBlob to the memory it was given.
func TestLoadBuffer(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, "")
	info := packOf(t, r, st, []int{1000}, nil)
	b := indexPack(t, r, info, info)[0]
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 7, 4096)
	got, err := r.LoadBlob(t.Context(), b.BlobHandle, buf)
	if err != nil || len(got) != 1000 || &got[0] != &buf[0] {
		t.Errorf("%d bytes, in other memory: %v; %v", len(got), len(got) > 0 && &got[0] != &buf[0], err)
	}
}

// frameOf compresses as another program may.
func frameOf(t testing.TB, plain []byte, o ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, o...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(plain, nil)
}

// streamOf compresses without the length in the frame.
func streamOf(t testing.TB, plain []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	e, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // in pieces: a single one would be given a length
		n := min(len(plain), 10_000)
		if _, err := e.Write(plain[:n]); err != nil {
			t.Fatal(err)
		}
		if err := e.Flush(); err != nil {
			t.Fatal(err)
		}
		plain = plain[n:]
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	var c codec
	if err := c.start(CompressAuto); err != nil {
		t.Fatal(err)
	}
	defer c.close()
	plain := bytes.Repeat([]byte("blood pressure 120/80 "), 5000)
	zeros := make([]byte, 100<<20)
	for _, f := range []struct {
		name  string
		frame []byte
		want  int
		ok    bool
	}{
		{"ours", frameOf(t, plain), len(plain), true},
		{"other level", frameOf(t, plain, zstd.WithEncoderLevel(zstd.SpeedBestCompression)), len(plain), true},
		{"checksum", frameOf(t, plain, zstd.WithEncoderCRC(true)), len(plain), true},
		{"large window", frameOf(t, plain, zstd.WithWindowSize(32<<20)), len(plain), true},
		{"no length in the frame", streamOf(t, plain), len(plain), true},
		{"two frames", append(frameOf(t, plain[:10]), frameOf(t, plain[10:])...), len(plain), true},
		{"a byte more than said", frameOf(t, plain), len(plain) - 1, false},
		{"a byte less than said", frameOf(t, plain), len(plain) + 1, false},
		{"a byte more than said, no length in the frame", streamOf(t, plain), len(plain) - 1, false},
		{"a byte less than said, no length in the frame", streamOf(t, plain), len(plain) + 1, false},
		{"bomb", frameOf(t, zeros), 1000, false},
		{"bomb without a length in the frame", streamOf(t, zeros[:10<<20]), 1000, false},
		{"says more than it can hold", frameOf(t, plain[:1]), 2 << 30, false},
		{"says more than is allowed", frameOf(t, zeros), maxPlain + 1, false},
		{"cut", frameOf(t, plain)[:50], len(plain), false},
		{"no frame", plain, len(plain), false},
		{"empty", nil, 10, false},
	} {
		t.Run(f.name, func(t *testing.T) {
			const before = "before"
			dst := make([]byte, len(before), 64)
			copy(dst, before)
			got, err := c.decompress(dst, f.frame, f.want)
			if !f.ok {
				if kassett.KindOf(err) != kassett.Corrupt {
					t.Errorf("%d bytes, %v; want a Corrupt error", len(got), err)
				}
				return
			}
			if err != nil || string(got[:len(before)]) != before || !bytes.Equal(got[len(before):], plain) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestIncompressible(t *testing.T) {
	t.Parallel()
	random := storagetest.Random(1, 1<<20)
	half := slices.Clone(random)
	clear(half[len(half)/2:])
	for _, c := range []struct {
		name string
		b    []byte
		want bool
	}{
		{"random", random, true},
		{"random, short", random[:1000], false},
		{"text", bytes.Repeat([]byte("temperature 37.2 "), 10_000), false},
		{"zeros", make([]byte, 1<<20), false},
		{"half random", half, false},
	} {
		if got := incompressible(c.b); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSaveVerifies gives the writer a compressor that cannot be undone: Save must
// notice, and nothing may be stored.
func TestSaveVerifies(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, "")
	if err := r.codec.start(CompressAuto); err != nil {
		t.Fatal(err)
	}
	dict := hex.AppendEncode(nil, storagetest.Random(5, 16<<10))
	bad, err := zstd.NewWriter(nil, zstd.WithEncoderDictRaw(7, dict))
	if err != nil {
		t.Fatal(err)
	}
	r.codec.data = bad
	w := r.NewWriter(t.Context(), WriterOptions{})
	_, err = w.Save(t.Context(), DataBlob, slices.Concat(dict, dict)[1000:40_000])
	if kassett.KindOf(err) != kassett.Corrupt || kassett.HintOf(err) == "" {
		t.Errorf("Save: %v, want Corrupt with a hint", err)
	}
	if flushed := w.Flush(t.Context()); !errors.Is(flushed, err) {
		t.Errorf("Flush: %v, want what Save said", flushed)
	}
	w.Abort()
	for info, err := range st.List(t.Context(), kassett.PackFile) {
		t.Errorf("pack %s was stored; %v", info.ID, err)
	}
}
