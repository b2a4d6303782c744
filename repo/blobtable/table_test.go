package blobtable

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"kassett"
)

// testPack is a pack of an index file.
type testPack struct {
	id    kassett.ID
	blobs []Blob
}

// shelf is the index files of a repository, and what the table must say of them,
// kept in plain maps. It is safe for many goroutines.
type shelf struct {
	mu    sync.Mutex
	files map[kassett.ID][]testPack
	reads int
	away  error // why nothing can be read
	made  int
}

// put adds an index file.
func (s *shelf) put(packs []testPack) kassett.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made++
	id := kassett.Hash(fmt.Append(nil, "index", s.made))
	if s.files == nil {
		s.files = make(map[kassett.ID][]testPack)
	}
	s.files[id] = packs
	return id
}

func (s *shelf) ids() []kassett.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.files), kassett.ID.Compare)
}

// load is what the table reads index files with.
func (s *shelf) load(_ context.Context, id kassett.ID) (iter.Seq2[kassett.ID, []Blob], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	packs, ok := s.files[id]
	switch {
	case s.away != nil:
		return nil, s.away
	case !ok:
		return nil, &kassett.Error{Op: "read index", What: id.String(), Kind: kassett.NotFound}
	}
	return all(packs), nil
}

func all(packs []testPack) iter.Seq2[kassett.ID, []Blob] {
	return func(yield func(kassett.ID, []Blob) bool) {
		for _, p := range packs {
			if !yield(p.id, p.blobs) {
				return
			}
		}
	}
}

// open opens the table of the shelf in a cache.
func (s *shelf) open(cache string) *Table {
	return New(Options{Dir: cache, Key: idA[:], Load: s.load, Workers: 3})
}

// table opens the table of the shelf for one test.
func (s *shelf) table(t testing.TB, cache string) *Table {
	t.Helper()
	table := s.open(cache)
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	})
	return table
}

// update brings a table up to date.
func (s *shelf) update(t require, table *Table) {
	t.Helper()
	if err := table.Update(context.Background(), s.ids(), nil); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func (s *shelf) places() map[BlobHandle][]Location {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[BlobHandle][]Location)
	for _, packs := range s.files {
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

var (
	idA = kassett.Hash([]byte("a"))
	idC = kassett.Hash([]byte("c"))
)

// numberedID is an ID like a hash, of a number.
func numberedID(n int) kassett.ID { return kassett.Hash(binary.BigEndian.AppendUint64(nil, uint64(n))) }

// somePacks makes packs with numbered blobs.
func somePacks(firstPack, packs, firstBlob, blobs int) (all []testPack) {
	for i := range packs {
		p := testPack{id: numberedID(-1 - firstPack - i)}
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

// compare holds every way of asking the table against the model.
func compare(t require, r *Table, m *shelf) {
	t.Helper()
	places := m.places()
	for h, want := range places {
		if got := r.Lookup(h); !slices.Equal(got, want) {
			t.Fatalf("Lookup(%v) = %v, want %v", h, got, want)
		}
		if l, ok := r.Find(h); !ok || !slices.Contains(want, l) {
			t.Fatalf("Find(%v) = %v, %v; want one of %v", h, l, ok, want)
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
	if err := r.Each(func(l Location) bool { got = append(got, l); return true }); err != nil || !slices.Equal(got, all) {
		t.Fatalf("Each gave %d places, want %d; %v", len(got), len(all), err)
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

func TestProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		cache, err := os.MkdirTemp(t.TempDir(), "") //nolint:usetesting // one for each try of rapid
		if err != nil {
			t.Fatal(err)
		}
		m := &shelf{}
		r := m.open(cache)
		defer func() { _ = r.Close() }()
		packs := func() []testPack {
			// Few numbers, so that blobs and packs come again.
			return somePacks(rapid.IntRange(0, 20).Draw(rt, "pack"), rapid.IntRange(0, 5).Draw(rt, "packs"),
				rapid.IntRange(0, 300).Draw(rt, "blob"), rapid.IntRange(1, 60).Draw(rt, "blobs"))
		}
		rt.Repeat(map[string]func(*rapid.T){
			"written by another": func(rt *rapid.T) {
				m.put(packs())
				m.update(rt, r)
			},
			"written by us": func(rt *rapid.T) {
				p := packs()
				if err := r.Add(context.Background(), m.put(p), all(p)); err != nil {
					rt.Fatal(err)
				}
			},
			"removed": func(rt *rapid.T) {
				if len(m.files) == 0 {
					rt.Skip("no index file")
				}
				delete(m.files, rapid.SampledFrom(m.ids()).Draw(rt, "index"))
				m.update(rt, r)
			},
			"opened again": func(rt *rapid.T) {
				if err := r.Close(); err != nil {
					rt.Fatal(err)
				}
				r = m.open(cache)
				m.update(rt, r)
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
			"": func(rt *rapid.T) { compare(rt, r, m) },
		})
	})
}

func runFiles(t testing.TB, cache string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*"+runSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestWarm holds an open of a warm cache to reading new index files only.
func TestWarm(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	m := &shelf{}
	for i := range 10 {
		m.put(somePacks(10*i, 10, 1000*i, 100))
	}
	for i, want := range []int{10, 0, 1} {
		if i == 2 {
			m.put(somePacks(500, 1, 0, 3))
		}
		m.reads = 0
		r := m.open(cache)
		m.update(t, r)
		if m.reads != want {
			t.Errorf("open %d read %d index files, want %d", i, m.reads, want)
		}
		compare(t, r, m)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGrowth holds the table to few runs, and to writing each record a few
// times only, however many index files come one by one.
func TestGrowth(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	m := &shelf{}
	r := m.table(t, cache)
	const files, perFile = 100, 1000
	var written int64
	seen := make(map[string]bool)
	for i := range files {
		p := somePacks(i, 1, i*perFile, perFile)
		if err := r.Add(t.Context(), m.put(p), all(p)); err != nil {
			t.Fatal(err)
		}
		for _, f := range runFiles(t, cache) {
			if info, err := os.Stat(f); err == nil && !seen[f] {
				seen[f] = true
				written += info.Size()
			}
		}
	}
	if n := len(r.runs); n > 3*runsPerLevel {
		t.Errorf("%d runs", n)
	}
	if n := len(runFiles(t, cache)); n != len(r.runs) {
		t.Errorf("%d files for %d runs", n, len(r.runs))
	}
	if once := int64(files * perFile * recordWidth); written > 6*once {
		t.Errorf("wrote %d bytes for %d bytes of records", written, once)
	}
	compare(t, r, m)
}

// TestChosenIDs looks up IDs that nobody would get by hashing.
func TestChosenIDs(t *testing.T) {
	t.Parallel()
	m := &shelf{}
	r := m.table(t, "")
	for i := range 3 {
		p := testPack{id: numberedID(-1 - i)}
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
		m.put([]testPack{p})
	}
	m.update(t, r)
	compare(t, r, m)
}

// TestDamagedAtRest changes one place of a cache file at a time, of every
// kind, and opens it: the table must say the same as ever.
func TestDamagedAtRest(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	m := &shelf{}
	m.put(somePacks(0, 150, 0, 4))
	m.update(t, m.table(t, cache))
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
		again := m.open(cache)
		again.options.Warn = func(error) { warned++ }
		m.update(t, again)
		compare(t, again, m)
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
	m := &shelf{}
	m.put(somePacks(0, 150, 7, 4))
	r := m.table(t, cache)
	r.options.Key = idC[:]
	m.update(t, r)
	b, err := os.ReadFile(runFiles(t, cache)[0])
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCutWhileMapped cuts the cache files under an open table, which makes
// every touch of a lost page a fault.
func TestCutWhileMapped(t *testing.T) {
	t.Parallel()
	for _, keep := range []int64{0, pageSize, 3 * pageSize} {
		t.Run(fmt.Sprint(keep), func(t *testing.T) {
			t.Parallel()
			cache := t.TempDir()
			m := &shelf{}
			m.put(somePacks(0, 30, 0, 100))
			r := m.table(t, cache)
			m.update(t, r)
			cut := func() {
				for _, f := range runFiles(t, cache) {
					if err := os.Truncate(f, keep); err != nil {
						t.Skip("this system does not cut files that are in use:", err)
					}
				}
			}
			set := r.NewSet()
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
			compare(t, r, m)
			cut()
			n := 0
			if err := r.Each(func(Location) bool {
				if n++; n == 100 {
					cut()
				}
				return true
			}); err != nil || n != 3000 {
				t.Errorf("Each gave %d places, want 3000; %v", n, err)
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

// TestCannotMend breaks the cache while the storage is away: blobs count as
// unknown then, and the table says why, until it can be made anew.
func TestCannotMend(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	m := &shelf{}
	p := somePacks(0, 3, 0, 10)
	m.put(p)
	r := m.table(t, cache)
	m.update(t, r)
	flipByte(t, runFiles(t, cache)[0], 3*pageSize+5)
	m.away = errors.New("cable pulled")
	if r.Has(p[0].blobs[0].BlobHandle) {
		t.Error("a blob is known by a page that does not match its tag")
	}
	if err := r.Err(); !errors.Is(err, m.away) {
		t.Errorf("Err: %v", err)
	}
	if err := r.Each(func(Location) bool { return true }); err == nil {
		t.Error("Each says that it gave all")
	}
	if err := r.ByPack(func(kassett.ID, []Blob) error { return nil }); err == nil {
		t.Error("ByPack says that it gave all")
	}
	m.away = nil
	m.update(t, r)
	compare(t, r, m)
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

// TestShared lets several tables load, add and merge in one cache at the same
// time.
func TestShared(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	m := &shelf{}
	for i := range 8 {
		m.put(somePacks(i, 1, 100*i, 100))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				r := m.open(cache)
				if err := r.Update(t.Context(), m.ids(), nil); err != nil {
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
	r := m.table(t, cache)
	m.update(t, r)
	compare(t, r, m)
}

// TestDamagedIndex holds Update to loading all other index files.
func TestDamagedIndex(t *testing.T) {
	t.Parallel()
	m := &shelf{}
	m.put(somePacks(0, 3, 0, 10))
	r := m.table(t, "")
	load := r.options.Load
	bad := []kassett.ID{numberedID(1), numberedID(2)}
	r.options.Load = func(ctx context.Context, id kassett.ID) (iter.Seq2[kassett.ID, []Blob], error) {
		if slices.Contains(bad, id) {
			return nil, &kassett.Error{Op: "read index", What: id.String(), Kind: kassett.Corrupt}
		}
		return load(ctx, id)
	}
	err := r.Update(t.Context(), append(m.ids(), bad...), nil)
	for _, id := range bad {
		if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%v is not a Corrupt error that names index file %s", err, id)
		}
	}
	compare(t, r, m)
}

// TestUnwritableCache holds the table to working without its cache.
func TestUnwritableCache(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &shelf{}
	m.put(somePacks(0, 3, 0, 10))
	r := m.table(t, filepath.Join(file, "below"))
	warned := 0
	r.options.Warn = func(error) { warned++ }
	m.update(t, r)
	if warned == 0 {
		t.Error("nobody was told")
	}
	compare(t, r, m)
	dir := r.dir
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder is still there: %v", err)
	}
}

// FuzzRun opens run files with anything in the place of pages: a lookup gives
// the right answer or an error.
func FuzzRun(f *testing.F) {
	dir := f.TempDir()
	key := idA[:]
	packs := somePacks(0, 20, 0, 20)
	var b batch
	b.add(idC, all(packs))
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
