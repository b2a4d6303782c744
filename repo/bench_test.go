package repo_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

func benchRepo(b *testing.B, o repo.Options) *repo.Repository {
	b.Helper()
	r, err := repo.Init(context.Background(), storagetest.NewMemory(), []byte(password), repo.InitOptions{Scrypt: quick, Options: o})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	return r
}

func BenchmarkSave(b *testing.B) {
	random := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(random)
	text := []byte(strings.Repeat("The patient was given 500 mg of paracetamol at 08:15 and slept well. ", 1<<20/68+1)[:1<<20])
	words := make([]byte, 0, 1<<20)
	for rng := rand.New(rand.NewPCG(1, 2)); len(words) < 1<<20-16; {
		words = append(words, fmt.Sprintf("%x ", rng.Uint32N(1<<12))...)
	}
	words = words[:cap(words)]
	for _, c := range []struct {
		name  string
		plain []byte
	}{
		{"random", random},
		{"repeating", text},
		{"words", words},
		{"small", words[:4096]},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := benchRepo(b, repo.Options{})
			w := r.NewWriter(context.Background(), repo.WriterOptions{})
			b.SetBytes(int64(len(c.plain)))
			b.ReportAllocs()
			var n uint64
			for b.Loop() {
				n++
				binary.LittleEndian.PutUint64(c.plain, n)
				if _, err := w.Save(context.Background(), repo.DataBlob, c.plain); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Flush(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// fillTable gives a repository an index of n blobs that rest nowhere.
func fillTable(b *testing.B, r *repo.Repository, n int) {
	b.Helper()
	const perPack, perIndex = 100, 50_000
	var out []byte
	for i := 0; i < n; i += perPack {
		if i%perIndex == 0 {
			out = append(out[:0], `{"packs":[`...)
		} else {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, `{"id":"%s","blobs":[`, kassett.Hash(fmt.Append(nil, "pack", i)))
		for j := range perPack {
			if j > 0 {
				out = append(out, ',')
			}
			out = fmt.Appendf(out, `{"id":"%s","type":"data","offset":%d,"length":1000,"uncompressed_length":2000}`, benchID(i+j), j*1000)
		}
		out = append(out, "]}"...)
		if (i+perPack)%perIndex == 0 || i+perPack >= n {
			if _, err := r.SaveUnpacked(context.Background(), kassett.IndexFile, append(out, "]}"...)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func benchID(i int) kassett.ID { return kassett.Hash(binary.LittleEndian.AppendUint64(nil, uint64(i))) }

const benchBlobs = 1_000_000

func BenchmarkLoadIndex(b *testing.B) {
	r := benchRepo(b, repo.Options{})
	fillTable(b, r, benchBlobs)
	b.ReportAllocs()
	for b.Loop() {
		again, err := repo.Open(context.Background(), r.Storage(), []byte(password), repo.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := again.LoadIndex(context.Background(), nil); err != nil {
			b.Fatal(err)
		}
		_ = again.Close()
	}
	b.ReportMetric(float64(benchBlobs*b.N)/b.Elapsed().Seconds(), "blobs/s")
}

func BenchmarkLookup(b *testing.B) {
	r := benchRepo(b, repo.Options{})
	fillTable(b, r, benchBlobs)
	if err := r.LoadIndex(context.Background(), nil); err != nil {
		b.Fatal(err)
	}
	ids := make([]kassett.ID, 1<<16)
	for i := range ids {
		ids[i] = benchID(i * (benchBlobs / len(ids)))
	}
	for _, c := range []struct {
		name string
		flip byte
	}{{"known", 0}, {"unknown", 1}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				id := ids[i%len(ids)]
				id[31] ^= c.flip
				if r.Has(repo.BlobHandle{ID: id}) != (c.flip == 0) {
					b.Fatal("wrong answer")
				}
				i++
			}
		})
	}
	b.Run("set", func(b *testing.B) {
		s := r.NewBlobSet()
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			s.Add(repo.BlobHandle{ID: ids[i%len(ids)]})
			i++
		}
	})
	b.Run("by pack", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			n := 0
			err := r.ByPack(func(_ kassett.ID, blobs []repo.Blob) error { n += len(blobs); return nil })
			if err != nil || n != benchBlobs {
				b.Fatal(n, err)
			}
		}
	})
}
