package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"kassett"
	"kassett/storage/storagetest"
)

// model is what the table must say, kept in plain maps.
type model map[kassett.ID][]indexedPack // by index file

func (m model) places() map[BlobHandle][]Location {
	all := make(map[BlobHandle][]Location)
	for _, packs := range m {
		for _, p := range packs {
			for _, b := range p.blobs {
				all[b.BlobHandle] = append(all[b.BlobHandle], Location{p.id, b})
			}
		}
	}
	for h := range all {
		all[h] = compactPlaces(all[h])
	}
	return all
}

// putIndex stores an index file.
func putIndex(t testing.TB, r *Repository, packs []indexedPack) kassett.ID {
	t.Helper()
	var b indexBuilder
	for _, p := range packs {
		b.add(p)
	}
	id, err := r.SaveUnpacked(context.Background(), kassett.IndexFile, b.bytes())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// numberedID is an ID like a hash, of a number.
func numberedID(n int) kassett.ID { return kassett.Hash(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// somePacks makes packs with numbered blobs.
func somePacks(firstPack, packs, firstBlob, blobs int) (all []indexedPack) {
	for i := range packs {
		p := indexedPack{id: numberedID(-1 - firstPack - i)}
		at := uint32(0)
		for j := range blobs {
			n := firstBlob + i*blobs + j
			b := Blob{BlobHandle{BlobType(n % 2), numberedID(n / 2)}, at, uint32(40 + n%1000), uint32(n % 3)}
			at += b.Length
			p.blobs = append(p.blobs, b)
		}
		all = append(all, p)
	}
	return all
}

// compareTable holds every way of asking the table against the model.
func compareTable(t require, r *Repository, m model) {
	t.Helper()
	places := m.places()
	for h, want := range places {
		if got := r.Lookup(h); !slices.Equal(got, want) {
			t.Fatalf("Lookup(%v) = %v, want %v", h, got, want)
		}
		if l, ok := r.Find(h); !ok || !slices.Contains(want, l) {
			t.Fatalf("Find(%v) = %v, %v; want one of %v", h, l, ok, want)
		}
		if size, ok := r.BlobSize(h); !ok || !slices.ContainsFunc(want, func(l Location) bool { return l.Size() == size }) {
			t.Fatalf("BlobSize(%v) = %d, %v", h, size, ok)
		}
		other := BlobHandle{h.Type ^ 1, h.ID}
		if _, is := places[other]; r.Has(other) != is {
			t.Fatalf("Has(%v) = %v", other, !is)
		}
		h.ID[31] ^= 1
		if _, is := places[h]; !is && (r.Has(h) || r.Lookup(h) != nil) {
			t.Fatalf("a blob that nobody has stored is known: %v", h)
		}
	}
	var all []Location
	for _, l := range places {
		all = append(all, l...)
	}
	slices.SortFunc(all, func(a, b Location) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Type, b.Type), a.Pack.Compare(b.Pack), cmp.Compare(a.Offset, b.Offset))
	})
	var got []Location
	if err := r.eachPlace(func(l Location) bool { got = append(got, l); return true }); err != nil || !slices.Equal(got, all) {
		t.Fatalf("eachPlace gave %d places, want %d; %v", len(got), len(all), err)
	}
	slices.SortFunc(all, func(a, b Location) int {
		return cmp.Or(a.Pack.Compare(b.Pack), cmp.Compare(a.Offset, b.Offset), a.ID.Compare(b.ID), cmp.Compare(a.Type, b.Type))
	})
	got = got[:0]
	err := r.ByPack(func(pack kassett.ID, blobs []Blob) error {
		for _, b := range blobs {
			got = append(got, Location{pack, b})
		}
		return nil
	})
	if err != nil || !slices.Equal(got, all) {
		t.Fatalf("ByPack gave %d places, want %d; %v", len(got), len(all), err)
	}
}

// require is what rapid.T and testing.T share.
type require interface {
	Helper()
	Fatalf(format string, args ...any)
}

func TestTableProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cache, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // one for each try of rapid
		if err != nil {
			t.Fatal(err)
		}
		st := storagetest.NewMemory()
		r, err := Init(context.Background(), st, testPassword, InitOptions{Scrypt: Scrypt{N: 16, R: 1, P: 1}, Options: Options{CacheDir: cache}})
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		m := model{}
		packs := func() []indexedPack {
			// Few numbers, so that blobs and packs come again.
			return somePacks(rapid.IntRange(0, 20).Draw(rt, "pack"), rapid.IntRange(0, 5).Draw(rt, "packs"),
				rapid.IntRange(0, 300).Draw(rt, "blob"), rapid.IntRange(1, 60).Draw(rt, "blobs"))
		}
		some := func() kassett.ID {
			ids := slices.SortedFunc(keysOf(m), kassett.ID.Compare)
			if len(ids) == 0 {
				rt.Skip("no index file")
			}
			return rapid.SampledFrom(ids).Draw(rt, "index")
		}
		load := func() {
			if err := r.LoadIndex(context.Background(), nil); err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"written by another": func(rt *rapid.T) {
				if p := packs(); len(p) > 0 {
					m[putIndex(t, r, p)] = p
					load()
				}
			},
			"written by us": func(rt *rapid.T) {
				p := packs()
				if len(p) == 0 {
					rt.Skip("nothing")
				}
				id := putIndex(t, r, p)
				if err := r.addIndex(context.Background(), id, p); err != nil {
					rt.Fatal(err)
				}
				m[id] = p
			},
			"removed": func(rt *rapid.T) {
				id := some()
				if err := r.Delete(context.Background(), kassett.IndexFile, id); err != nil {
					rt.Fatal(err)
				}
				delete(m, id)
				load()
			},
			"opened again": func(rt *rapid.T) {
				if err := r.Close(); err != nil {
					rt.Fatal(err)
				}
				if r, err = Open(context.Background(), st, testPassword, Options{CacheDir: cache}); err != nil {
					rt.Fatal(err)
				}
				load()
			},
			"a cache file removed": func(rt *rapid.T) {
				files := runFiles(t, cache)
				if len(files) == 0 {
					rt.Skip("no file")
				}
				if err := os.Remove(rapid.SampledFrom(files).Draw(rt, "file")); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) { compareTable(rt, r, m) },
		})
	})
}

func keysOf(m model) func(func(kassett.ID) bool) {
	return func(yield func(kassett.ID) bool) {
		for id := range m {
			if !yield(id) {
				return
			}
		}
	}
}

func runFiles(t testing.TB, cache string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*", "blobs", "*"+runSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTableWarm holds an open of a warm cache to reading no index file.
func TestTableWarm(t *testing.T) {
	t.Parallel()
	st := storagetest.NewTracing(storagetest.NewMemory())
	cache := t.TempDir()
	r := memoryRepo(t, st, cache)
	m := model{}
	for i := range 10 {
		p := somePacks(10*i, 10, 1000*i, 100)
		m[putIndex(t, r, p)] = p
	}
	for i, want := range []int{10, 0, 1} {
		again, err := Open(t.Context(), st, testPassword, Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		if i == 2 {
			p := somePacks(500, 1, 0, 3)
			m[putIndex(t, r, p)] = p
		}
		before := len(indexReads(st))
		if err := again.LoadIndex(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if n := len(indexReads(st)) - before; n != want {
			t.Errorf("load %d read %d index files, want %d", i, n, want)
		}
		compareTable(t, again, m)
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func indexReads(st *storagetest.Tracing) []storagetest.Call {
	return slices.DeleteFunc(st.Calls(storagetest.Get), func(c storagetest.Call) bool { return c.Handle.Kind != kassett.IndexFile })
}

// TestTableGrowth holds the table to few runs, and to writing each record a few
// times only, however many index files come one by one.
func TestTableGrowth(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	r := memoryRepo(t, storagetest.NewMemory(), cache)
	const files, perFile = 100, 1000
	m := model{}
	var written int64
	seen := make(map[string]bool)
	for i := range files {
		p := somePacks(i, 1, i*perFile, perFile)
		id := putIndex(t, r, p)
		m[id] = p
		if err := r.addIndex(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
		for _, f := range runFiles(t, cache) {
			if info, err := os.Stat(f); err == nil && !seen[f] {
				seen[f] = true
				written += info.Size()
			}
		}
	}
	if n := len(r.table.runs); n > 3*runsPerLevel {
		t.Errorf("%d runs", n)
	}
	if n := len(runFiles(t, cache)); n != len(r.table.runs) {
		t.Errorf("%d files for %d runs", n, len(r.table.runs))
	}
	if once := int64(files * perFile * recordWidth); written > 6*once {
		t.Errorf("wrote %d bytes for %d bytes of records", written, once)
	}
	compareTable(t, r, m)
}

// TestTableChosenIDs looks up IDs that nobody would get by hashing.
func TestTableChosenIDs(t *testing.T) {
	t.Parallel()
	r := memoryRepo(t, storagetest.NewMemory(), "")
	m := model{}
	for i := range 3 {
		p := indexedPack{id: numberedID(-1 - i)}
		for n := range 3000 {
			var id kassett.ID
			switch i {
			case 0: // all in the last bytes
				binary.BigEndian.PutUint64(id[24:], uint64(n+1))
			case 1: // ever farther apart
				binary.BigEndian.PutUint64(id[:], 1<<(n%64)+uint64(n))
			case 2: // at the upper end
				binary.BigEndian.PutUint64(id[:], ^uint64(n))
			}
			p.blobs = append(p.blobs, Blob{BlobHandle{DataBlob, id}, uint32(n * 40), 40, 0})
		}
		m[putIndex(t, r, []indexedPack{p})] = []indexedPack{p}
	}
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	compareTable(t, r, m)
}

// TestTableDamagedAtRest changes one place of a cache file at a time, of every
// kind, and opens it: the table must say the same as ever.
func TestTableDamagedAtRest(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, cache)
	p := somePacks(0, 150, 0, 4)
	m := model{putIndex(t, r, p): p}
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	file := runFiles(t, cache)[0]
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	foreign := foreignRun(t)
	rng := rand.New(rand.NewPCG(1, 2))
	damage := map[string]func() []byte{
		"empty":           func() []byte { return nil },
		"one byte":        func() []byte { return good[:1] },
		"half a header":   func() []byte { return good[:pageSize/2] },
		"header alone":    func() []byte { return good[:pageSize] },
		"last page cut":   func() []byte { return good[:len(good)-pageSize] },
		"last byte cut":   func() []byte { return good[:len(good)-1] },
		"a page more":     func() []byte { return append(slices.Clone(good), make([]byte, pageSize)...) },
		"another version": func() []byte { b := slices.Clone(good); b[14] = '2'; return b },
		"another key":     func() []byte { return foreign },
		"all zero":        func() []byte { return make([]byte, len(good)) },
	}
	for page := range len(good) / pageSize {
		for _, at := range []int{0, 47, 60, pageData - 1, pageData, pageSize - 1, rng.IntN(pageSize)} {
			damage[fmt.Sprintf("page %d byte %d", page, at)] = func() []byte {
				b := slices.Clone(good)
				b[page*pageSize+at] ^= 1 << rng.IntN(8)
				return b
			}
		}
		damage[fmt.Sprintf("page %d in the place of the next", page)] = func() []byte {
			b := slices.Clone(good)
			copy(b[(page+1)*pageSize%len(b):], good[page*pageSize:][:pageSize])
			return b
		}
	}
	for name, damaged := range damage {
		for _, f := range runFiles(t, cache) {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(file, damaged(), 0o600); err != nil {
			t.Fatal(err)
		}
		warned := 0
		again, err := Open(t.Context(), st, testPassword, Options{CacheDir: cache, Warn: func(error) { warned++ }})
		if err != nil {
			t.Fatal(err)
		}
		if err := again.LoadIndex(t.Context(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		compareTable(t, again, m)
		if warned == 0 {
			t.Errorf("%s: nobody was told", name)
		}
		if err := again.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// foreignRun returns the run file of another repository.
func foreignRun(t *testing.T) []byte {
	t.Helper()
	cache := t.TempDir()
	r := memoryRepo(t, storagetest.NewMemory(), cache)
	putIndex(t, r, somePacks(0, 150, 7, 4))
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(runFiles(t, cache)[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTableCutWhileMapped cuts the cache files under an open table, which makes
// every touch of a lost page a fault.
func TestTableCutWhileMapped(t *testing.T) {
	t.Parallel()
	for _, keep := range []int64{0, pageSize, 3 * pageSize} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			t.Parallel()
			cache := t.TempDir()
			r := memoryRepo(t, storagetest.NewMemory(), cache)
			p := somePacks(0, 30, 0, 100)
			m := model{putIndex(t, r, p): p}
			if err := r.LoadIndex(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			cut := func() {
				for _, f := range runFiles(t, cache) {
					if err := os.Truncate(f, keep); err != nil {
						t.Skip("this system does not cut files that are in use:", err)
					}
				}
			}
			set := r.NewBlobSet()
			for h := range m.places() {
				set.Add(h)
			}
			cut()
			var wg sync.WaitGroup
			for h := range m.places() {
				wg.Go(func() {
					if !r.Has(h) {
						t.Errorf("%v is unknown after the cut", h)
					}
					if !set.Has(h) {
						t.Errorf("%v has left the set after the cut", h)
					}
				})
			}
			wg.Wait()
			if set.Err() == nil {
				t.Error("the set does not say that its files broke")
			}
			compareTable(t, r, m)
			cut()
			n := 0
			if err := r.eachPlace(func(Location) bool {
				if n++; n == 100 {
					cut()
				}
				return true
			}); err != nil || n != 3000 {
				t.Errorf("eachPlace gave %d places, want 3000; %v", n, err)
			}
			n = 0
			if err := r.ByPack(func(_ kassett.ID, blobs []Blob) error {
				if n += len(blobs); n == 300 {
					cut()
				}
				return nil
			}); err != nil || n != 3000 {
				t.Errorf("ByPack gave %d blobs, want 3000; %v", n, err)
			}
		})
	}
}

// TestTableCannotMend breaks the cache while the storage is away: blobs count as
// unknown then, and whoever reads or writes is told why.
func TestTableCannotMend(t *testing.T) {
	t.Parallel()
	away := false
	errAway := errors.New("cable pulled")
	st := storagetest.NewFailing(storagetest.NewMemory(), func(c storagetest.Call) *storagetest.Fault {
		if away && c.Op == storagetest.Get {
			return &storagetest.Fault{Err: errAway}
		}
		return nil
	})
	cache := t.TempDir()
	r := memoryRepo(t, st, cache)
	p := somePacks(0, 3, 0, 10)
	m := model{putIndex(t, r, p): p}
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	flipByte(t, runFiles(t, cache)[0], 3*pageSize+5)
	away = true
	h := p[0].blobs[0].BlobHandle
	if r.Has(h) {
		t.Error("a blob is known by a page that does not match its tag")
	}
	if _, err := r.LoadBlob(t.Context(), h, nil); !errors.Is(err, errAway) {
		t.Errorf("LoadBlob: %v, want the reason why the table is broken", err)
	}
	w := r.NewWriter(t.Context(), WriterOptions{})
	if _, err := w.Save(t.Context(), DataBlob, []byte("x")); !errors.Is(err, errAway) {
		t.Errorf("Save: %v, want the reason why the table is broken", err)
	}
	w.Abort()
	away = false
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	compareTable(t, r, m)
}

func flipByte(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestTableShared lets several repositories load, write and merge in one cache
// at the same time.
func TestTableShared(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	st := storagetest.NewMemory()
	first := memoryRepo(t, st, cache)
	m := model{}
	for i := range 8 {
		p := somePacks(i, 1, 100*i, 100)
		m[putIndex(t, first, p)] = p
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				r, err := Open(t.Context(), st, testPassword, Options{CacheDir: cache})
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.LoadIndex(t.Context(), nil); err != nil {
					t.Error(err)
				}
				for h := range m.places() {
					if !r.Has(h) {
						t.Errorf("%v is unknown", h)
						break
					}
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := first.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	compareTable(t, first, m)
}

// TestTableNames holds LoadIndex to naming each damaged index file and loading
// the others.
func TestTableNames(t *testing.T) {
	t.Parallel()
	st := storagetest.NewMemory()
	r := memoryRepo(t, st, "")
	p := somePacks(0, 3, 0, 10)
	m := model{putIndex(t, r, p): p}
	bad, err := r.SaveUnpacked(t.Context(), kassett.IndexFile, indexOf(fmt.Sprintf(`{"id":"%s","type":"data","offset":4294967290,"length":40}`, idB)))
	if err != nil {
		t.Fatal(err)
	}
	noJSON := kassett.Hash([]byte("no index"))
	if err := st.Put(t.Context(), kassett.Handle{Kind: kassett.IndexFile, ID: noJSON}, kassett.BytesBody([]byte("no index"), noJSON)); err != nil {
		t.Fatal(err)
	}
	err = r.LoadIndex(t.Context(), nil)
	if kassett.KindOf(err) != kassett.Corrupt || kassett.HintOf(err) == "" {
		t.Fatalf("LoadIndex: %v, want a Corrupt error with a hint", err)
	}
	for _, id := range []kassett.ID{bad, noJSON} {
		if !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%v does not name index file %s", err, id)
		}
	}
	compareTable(t, r, m)
}

// FuzzRun opens run files with anything in the place of pages: a lookup gives
// the right answer or an error.
func FuzzRun(f *testing.F) {
	dir := f.TempDir()
	key, err := newSealKey(slices.Concat(idA[:], idB[:]))
	if err != nil {
		f.Fatal(err)
	}
	packs := somePacks(0, 20, 0, 20)
	var b batch
	b.add(idC, func(yield func(kassett.ID, []Blob) bool) {
		for _, p := range packs {
			if !yield(p.id, p.blobs) {
				return
			}
		}
	})
	r, err := b.write(dir, key)
	if err != nil {
		f.Fatal(err)
	}
	good := slices.Clone(r.data)
	if err := r.release(); err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte("kassett"), uint32(0))
	f.Add(uint32(48), []byte{255, 255, 255, 255, 255, 255, 255, 255}, uint32(0))
	f.Add(uint32(3*pageSize), []byte{1}, uint32(5000))
	f.Fuzz(func(t *testing.T, at uint32, put []byte, cut uint32) {
		bad := slices.Clone(good)
		copy(bad[int(at)%len(bad):], put)
		bad = bad[:len(bad)-int(cut)%len(bad)]
		path := filepath.Join(t.TempDir(), "x"+runSuffix)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := openRun(path, key)
		if err != nil {
			return
		}
		defer func() { _ = r.release() }()
		for _, p := range packs {
			for _, b := range p.blobs {
				got, err := r.places(nil, b.BlobHandle)
				if err == nil && !slices.Equal(got, []Location{{p.id, b}}) {
					t.Fatalf("%v: %v", b, got)
				}
			}
		}
	})
}
