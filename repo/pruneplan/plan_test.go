package pruneplan

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// What a pack has beside blobs, and the entries of its header, in these tests.
const (
	overhead  = 36
	entryRaw  = 37
	entryZstd = 41
)

// blob names one.
type blob struct {
	n    int
	tree bool
}

// planCase is a made-up repository: which blobs rest in which packs.
type planCase struct {
	packs  []int64
	places map[blob][]Record
	used   map[blob]bool
}

func newPlanCase() *planCase {
	return &planCase{places: map[blob][]Record{}, used: map[blob]bool{}}
}

// number gives the records their numbers and returns how many there are.
func (c *planCase) number() (n int) {
	for _, h := range c.handles() {
		for i := range c.places[h] {
			c.places[h][i].N = uint32(n)
			n++
		}
	}
	return n
}

func (c *planCase) handles() []blob {
	return slices.SortedFunc(maps.Keys(c.places), func(a, b blob) int {
		return cmp.Compare(a.n, b.n)
	})
}

func (c *planCase) all(yield func([]Record, bool) bool) {
	for _, h := range c.handles() {
		if !yield(c.places[h], c.used[h]) {
			return
		}
	}
}

func (c *planCase) plan() *Plan {
	return New(Packs{Sizes: c.packs, Overhead: overhead}, c.number(), c.all)
}

// drawPlanCase draws packs with blobs out of a small number, so that many rest
// in several packs; some packs are missing, cut, not indexed, mixed or raw.
func drawPlanCase(t *rapid.T) *planCase {
	c := newPlanCase()
	blobs := rapid.IntRange(1, 60).Draw(t, "blobs")
	handle := func(n int) blob { return blob{n, n%2 == 1} }
	for n := range blobs + 1 {
		c.used[handle(n)] = rapid.Bool().Draw(t, "used")
	}
	for i := range uint32(rapid.IntRange(1, 30).Draw(t, "packs")) {
		size := int64(overhead)
		kind := rapid.SampledFrom([]string{"data", "data", "data", "trees", "mixed"}).Draw(t, "kind")
		for range rapid.IntRange(1, 8).Draw(t, "blobs in pack") {
			n := rapid.IntRange(0, blobs-1).Draw(t, "blob")
			switch kind {
			case "data":
				n &^= 1
			case "trees":
				n |= 1
			}
			r := Record{Pack: i, Length: uint32(100 + n*1000), Header: entryRaw, Tree: n%2 == 1, Raw: true}
			if rapid.Bool().Draw(t, "compressed") {
				r.Header, r.Raw = entryZstd, false
			}
			size += int64(r.Length) + int64(r.Header)
			c.places[handle(n)] = append(c.places[handle(n)], r)
		}
		switch rapid.IntRange(0, 20).Draw(t, "pack is") {
		case 0:
			size = Missing
		case 1:
			size--
		}
		c.packs = append(c.packs, size)
	}
	for range rapid.IntRange(0, 2).Draw(t, "strays") {
		c.packs = append(c.packs, 77)
	}
	return c
}

func drawLimits(t *rapid.T) Limits {
	return Limits{
		Unused: rapid.SampledFrom([]func(uint64) uint64{
			func(uint64) uint64 { return 0 }, func(used uint64) uint64 { return used / 19 }, func(used uint64) uint64 { return used },
			func(uint64) uint64 { return 9000 }, func(uint64) uint64 { return 1 << 62 },
		}).Draw(t, "unused"),
		Repack:    rapid.SampledFrom([]uint64{1 << 62, 1 << 62, 1 << 62, 0, 50000}).Draw(t, "repack"),
		Small:     rapid.SampledFrom([]uint64{1, 1, 1, 0, 20000}).Draw(t, "small"),
		RawTrees:  rapid.IntRange(0, 3).Draw(t, "raw trees") == 0,
		RawData:   rapid.IntRange(0, 3).Draw(t, "raw data") == 0,
		TreesOnly: rapid.IntRange(0, 9).Draw(t, "trees only") == 0,
	}
}

// Whatever a repository looks like: a plan keeps exactly one copy of every used
// blob, in a pack that stays or is rewritten and is there as the index says,
// or it names the packs in its way; and it leaves no more garbage than allowed.
func TestPlanKeepsEveryUsedBlob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c, l := drawPlanCase(t), drawLimits(t)
		p := c.plan()

		wanted, lost := 0, false
		for places, used := range c.all {
			if used {
				wanted++
				lost = lost || !slices.ContainsFunc(places, func(rec Record) bool { return p.sound(rec.Pack) })
			}
		}
		if broken := slices.Collect(p.Broken()); len(broken) > 0 != lost {
			t.Fatalf("packs in the way: %v, used blobs without a sound copy: %v", broken, lost)
		}
		if lost {
			return
		}
		p.Decide(l, c.all)
		checkPlan(t, c, p, wanted)
		checkLeft(t, c, p, l)
	})
}

func checkPlan(t *rapid.T, c *planCase, p *Plan, wanted int) {
	t.Helper()
	kept := 0
	for places, used := range c.all {
		copies := 0
		for _, rec := range places {
			if !p.Kept(rec.N) {
				continue
			}
			copies++
			if f := p.Fate(int(rec.Pack)); f != Keep && f != Repack || !p.sound(rec.Pack) {
				t.Fatalf("record %v is kept in pack %d of fate %d, sound %v", rec.N, rec.Pack, f, p.sound(rec.Pack))
			}
		}
		if used != (copies == 1) || copies > 1 {
			t.Fatalf("%d copies of record %v are kept, used is %v", copies, places[0].N, used)
		}
		kept += copies
	}
	if kept != wanted || p.Found != uint64(wanted) {
		t.Fatalf("%d blobs kept, %d counted, %d used", kept, p.Found, wanted)
	}
}

// checkLeft compares the figures with what is left when the plan is done.
func checkLeft(t *rapid.T, c *planCase, p *Plan, l Limits) {
	t.Helper()
	var blobs, bytes, garbage uint64
	for places := range c.all {
		for _, rec := range places {
			keep, f := p.Kept(rec.N), p.Fate(int(rec.Pack))
			if f != Keep && (f != Repack || !keep) {
				continue
			}
			blobs++
			bytes += uint64(rec.Length)
			if !keep {
				garbage += uint64(rec.Length)
			}
		}
	}
	s := p.Stats
	if s.Blobs.Remaining != blobs || s.Bytes.Remaining != bytes || s.Bytes.RemainingUnused != garbage {
		t.Fatalf("remaining %d blobs, %d bytes, %d unused; figures say %+v", blobs, bytes, garbage, s)
	}
	if limit := l.Unused(s.Bytes.Used); l.Repack == 1<<62 && !l.TreesOnly && garbage > limit {
		t.Fatalf("%d unused bytes stay, %d allowed", garbage, limit)
	}
	if s.Bytes.Repack > l.Repack {
		t.Fatalf("%d bytes to repack, %d allowed", s.Bytes.Repack, l.Repack)
	}
}

// A prune that was broken off after it had stored its new packs: they are kept
// and the old ones, with all their garbage, go.
func TestPlanAfterInterruption(t *testing.T) {
	t.Parallel()
	c := newPlanCase()
	c.packs = []int64{overhead + 10*(1000+entryZstd), overhead + 4*(1000+entryZstd)}
	for n := range 10 {
		b := blob{n: n}
		c.places[b] = append(c.places[b], Record{Pack: 0, Length: 1000, Header: entryZstd})
		if n < 4 {
			c.used[b] = true
			c.places[b] = append(c.places[b], Record{Pack: 1, Length: 1000, Header: entryZstd})
		}
	}
	p := c.plan()
	p.Decide(Limits{Unused: func(uint64) uint64 { return 0 }, Repack: 1 << 62}, c.all)
	if p.Fate(0) != Remove || p.Fate(1) != Keep {
		t.Errorf("fates %d and %d, want remove and keep", p.Fate(0), p.Fate(1))
	}
}

// What a doomed list names already keeps nothing that is needed.
func TestPlanEmptiesDoomedPacks(t *testing.T) {
	t.Parallel()
	c := newPlanCase()
	c.packs = []int64{overhead + 2*(1000+entryZstd), overhead + 1000 + entryZstd}
	for n := range 2 {
		b := blob{n: n}
		c.used[b] = true
		c.places[b] = append(c.places[b], Record{Pack: 0, Length: 1000, Header: entryZstd})
	}
	c.places[blob{n: 0}] = append(c.places[blob{n: 0}], Record{Pack: 1, Length: 1000, Header: entryZstd})
	doomed := NewBitmap(2)
	doomed.Set(0)
	p := New(Packs{Sizes: c.packs, Overhead: overhead, Doomed: doomed}, c.number(), c.all)
	p.Decide(Limits{Unused: func(uint64) uint64 { return 1 << 62 }, Repack: 1 << 62, Small: 1}, c.all)
	if p.Fate(0) != Repack || p.Moved(0) != 1 || p.Fate(1) != Keep {
		t.Errorf("fates %d and %d, %d moved; want repack and keep, 1", p.Fate(0), p.Fate(1), p.Moved(0))
	}
}
