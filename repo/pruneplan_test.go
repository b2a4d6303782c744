package repo

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kassett"
)

// planCase is a made-up repository: which blobs rest in which packs.
type planCase struct {
	packs  []storedPack
	places map[BlobHandle][]pruneRecord
	used   map[BlobHandle]bool
}

func newPlanCase() *planCase {
	return &planCase{places: map[BlobHandle][]pruneRecord{}, used: map[BlobHandle]bool{}}
}

// number gives the records their numbers and returns how many there are.
func (c *planCase) number() (n int) {
	for _, h := range c.handles() {
		for i := range c.places[h] {
			c.places[h][i].n = uint32(n)
			n++
		}
	}
	return n
}

func (c *planCase) handles() []BlobHandle {
	return slices.SortedFunc(maps.Keys(c.places), func(a, b BlobHandle) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Type, b.Type))
	})
}

func (c *planCase) all(yield func([]pruneRecord, bool) bool) {
	for _, h := range c.handles() {
		if !yield(c.places[h], c.used[h]) {
			return
		}
	}
}

func testID(n uint32) (id kassett.ID) {
	binary.BigEndian.PutUint32(id[:], n)
	return id
}

// drawPlanCase draws packs with blobs out of a small number, so that many rest
// in several packs; some packs are missing, cut, not indexed, mixed or raw.
func drawPlanCase(t *rapid.T) *planCase {
	c := newPlanCase()
	blobs := rapid.IntRange(1, 60).Draw(t, "blobs")
	handle := func(n int) BlobHandle { return BlobHandle{Type: BlobType(n % 2), ID: testID(uint32(n / 2))} }
	for n := range blobs + 1 {
		c.used[handle(n)] = rapid.Bool().Draw(t, "used")
	}
	for i := range uint32(rapid.IntRange(1, 30).Draw(t, "packs")) {
		size := int64(packOverhead)
		var offset uint32
		kind := rapid.SampledFrom([]string{"data", "data", "data", "trees", "mixed"}).Draw(t, "kind")
		for range rapid.IntRange(1, 8).Draw(t, "blobs in pack") {
			n := rapid.IntRange(0, blobs-1).Draw(t, "blob")
			switch kind {
			case "data":
				n &^= 1
			case "trees":
				n |= 1
			}
			b := Blob{BlobHandle: handle(n), Offset: offset, Length: uint32(100 + n*1000)}
			if rapid.Bool().Draw(t, "compressed") {
				b.Plain = b.Length * 2
			}
			offset += b.Length
			size += int64(b.Length) + int64(entrySize(b))
			c.places[b.BlobHandle] = append(c.places[b.BlobHandle], pruneRecord{pack: i, Blob: b})
		}
		switch rapid.IntRange(0, 20).Draw(t, "pack is") {
		case 0:
			size = missingPack
		case 1:
			size--
		}
		c.packs = append(c.packs, storedPack{id: testID(i), size: size})
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "strays") {
		c.packs = append(c.packs, storedPack{id: testID(uint32(1000 + i)), size: 77})
	}
	return c
}

func drawLimits(t *rapid.T) pruneLimits {
	return pruneLimits{
		unused: rapid.SampledFrom([]Unused{
			{}, {kind: unusedPercent}, {kind: unusedPercent, percent: 50}, {kind: unusedBytes, bytes: 9000}, {kind: unusedUnlimited},
		}).Draw(t, "unused"),
		repack:    rapid.SampledFrom([]uint64{1 << 62, 1 << 62, 1 << 62, 0, 50000}).Draw(t, "repack"),
		small:     rapid.SampledFrom([]uint64{1, 1, 1, 0, 20000}).Draw(t, "small"),
		rawTrees:  rapid.IntRange(0, 3).Draw(t, "raw trees") == 0,
		rawData:   rapid.IntRange(0, 3).Draw(t, "raw data") == 0,
		treesOnly: rapid.IntRange(0, 9).Draw(t, "trees only") == 0,
	}
}

// Whatever a repository looks like: a plan keeps exactly one copy of every used
// blob, in a pack that stays or is rewritten and is there as the index says,
// or it names the packs in its way; and it leaves no more garbage than allowed.
func TestPlanPruneKeepsEveryUsedBlob(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c, l := drawPlanCase(t), drawLimits(t)
		p := weighPacks(c.packs, c.number(), nil, c.all)

		wanted, lost := 0, false
		for places, used := range c.all {
			if used {
				wanted++
				lost = lost || !slices.ContainsFunc(places, func(rec pruneRecord) bool { return p.sound(rec.pack) })
			}
		}
		if broken := slices.Collect(p.broken()); len(broken) > 0 != lost {
			t.Fatalf("packs in the way: %v, used blobs without a sound copy: %v", broken, lost)
		}
		if lost {
			return
		}
		p.decide(l, c.all)
		checkPlan(t, c, p, wanted)
		checkLeft(t, c, p, l)
	})
}

func checkPlan(t *rapid.T, c *planCase, p *prunePlan, wanted int) {
	t.Helper()
	kept := 0
	for places, used := range c.all {
		copies := 0
		for _, rec := range places {
			if !p.keep.has(rec.n) {
				continue
			}
			copies++
			if f := p.sums[rec.pack].fate; f != fateKeep && f != fateRepack || !p.sound(rec.pack) {
				t.Fatalf("blob %v is kept in pack %d of fate %d, sound %v", rec.ID, rec.pack, f, p.sound(rec.pack))
			}
		}
		if used != (copies == 1) || copies > 1 {
			t.Fatalf("%d copies of blob %v are kept, used is %v", copies, places[0].BlobHandle, used)
		}
		kept += copies
	}
	if kept != wanted || p.found != uint64(wanted) {
		t.Fatalf("%d blobs kept, %d counted, %d used", kept, p.found, wanted)
	}
}

// checkLeft compares the figures with what is left when the plan is done.
func checkLeft(t *rapid.T, c *planCase, p *prunePlan, l pruneLimits) {
	t.Helper()
	var blobs, bytes, garbage uint64
	for places := range c.all {
		for _, rec := range places {
			keep, f := p.keep.has(rec.n), p.sums[rec.pack].fate
			if f != fateKeep && (f != fateRepack || !keep) {
				continue
			}
			blobs++
			bytes += uint64(rec.Length)
			if !keep {
				garbage += uint64(rec.Length)
			}
		}
	}
	s := p.stats
	if s.Blobs.Remaining != blobs || s.Bytes.Remaining != bytes || s.Bytes.RemainingUnused != garbage {
		t.Fatalf("remaining %d blobs, %d bytes, %d unused; figures say %+v", blobs, bytes, garbage, s)
	}
	if limit := l.unused.limit(s.Bytes.Used); l.repack == 1<<62 && !l.treesOnly && garbage > limit {
		t.Fatalf("%d unused bytes stay, %d allowed", garbage, limit)
	}
	if s.Bytes.Repack > l.repack {
		t.Fatalf("%d bytes to repack, %d allowed", s.Bytes.Repack, l.repack)
	}
}

// A prune that was broken off after it had stored its new packs: they are kept
// and the old ones, with all their garbage, go.
func TestPlanPruneAfterInterruption(t *testing.T) {
	t.Parallel()
	blob := func(n uint32) Blob {
		return Blob{BlobHandle: BlobHandle{ID: testID(n)}, Offset: n * 1000, Length: 1000, Plain: 5000}
	}
	c := newPlanCase()
	c.packs = []storedPack{
		{testID(1), int64(packOverhead) + 10*(1000+41)},
		{testID(2), int64(packOverhead) + 4*(1000+41)},
	}
	for n := range uint32(10) {
		b := blob(n)
		c.places[b.BlobHandle] = append(c.places[b.BlobHandle], pruneRecord{pack: 0, Blob: b})
		if n < 4 {
			c.used[b.BlobHandle] = true
			c.places[b.BlobHandle] = append(c.places[b.BlobHandle], pruneRecord{pack: 1, Blob: b})
		}
	}
	p := weighPacks(c.packs, c.number(), nil, c.all)
	p.decide(pruneLimits{repack: 1 << 62}, c.all)
	if p.sums[0].fate != fateRemove || p.sums[1].fate != fateKeep {
		t.Errorf("fates %d and %d, want remove and keep", p.sums[0].fate, p.sums[1].fate)
	}
}
