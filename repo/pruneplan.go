package repo

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"

	"kassett"
)

// fate is what a prune does with a pack.
type fate uint8

const (
	fateKeep   fate = iota
	fateRepack      // its chosen blobs move to a new pack, then it goes
	fateRemove      // nothing in it is needed
	fateForget      // nothing in it is needed, and it is not there anyway
	fateStray       // no index file names it
)

// missingPack is the size of a pack that the index names and the storage does
// not have.
const missingPack = -1

// packSum is what a prune knows of one pack. A repository has millions of
// them, so they rest in one slice.
type packSum struct {
	indexed     uint64 // bytes the pack must have, as the index says; 0 when none names it
	garbage     uint64 // bytes of blobs that nothing needs
	doubled     uint64 // bytes of needed blobs that rest elsewhere too
	usedBytes   uint64 // of the blobs chosen to stay
	unusedBytes uint64 // of all others
	used        uint32 // blobs
	unused      uint32
	holds       packHolds
	fate        fate
}

// packHolds tells what kinds of blobs a pack has.
type packHolds uint8

const (
	holdsData packHolds = 1 << iota
	holdsTrees
	holdsRaw // blobs that are not compressed
)

func (h packHolds) mixed() bool { return h&holdsData != 0 && h&holdsTrees != 0 }

// pruneRecord is one place of a blob, as the planning needs it.
type pruneRecord struct {
	pack uint32 // position in prunePlan.packs
	n    uint32 // position among all records
	Blob
}

// pruneRecords yields the places of one blob after another, and whether it is
// used. Each time they come in the same order, with the same n. The slice is
// valid until the next one.
type pruneRecords = iter.Seq2[[]pruneRecord, bool]

// prunePlan decides what becomes of each pack and each record. It touches
// nothing; cost is a few passes over the records and 64 bytes a pack.
type prunePlan struct {
	packs  []storedPack // of the index and of the storage, ordered by ID
	doomed []kassett.ID // see weighPacks
	sums   []packSum    // same positions as packs
	keep   bitmap       // by record: this copy of a used blob stays
	found  uint64       // distinct used blobs among the records
	stay   bitmap       // by pack: the storage retains it, and it is not worth a copy; nil for none
	stats  PruneStats
}

// bitmap is one bit for each record of the table.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitmap) clear(i uint32)    { b[i/64] &^= 1 << (i % 64) }
func (b bitmap) has(i uint32) bool { return b[i/64]>>(i%64)&1 != 0 }

func (b bitmap) count() (n int) {
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// weighPacks plans for every pack. n is the number of records, doomed are the
// packs that doomed lists name already, ascending.
func weighPacks(packs []storedPack, n int, doomed []kassett.ID, records pruneRecords) *prunePlan {
	p := &prunePlan{packs: packs, sums: make([]packSum, len(packs)), keep: newBitmap(n), doomed: doomed}
	p.count(records)
	p.choose(records)
	return p
}

// count sums up what the index says of each pack.
func (p *prunePlan) count(records pruneRecords) {
	for group, used := range records {
		for i := range group {
			rec := &group[i]
			s := &p.sums[rec.pack]
			if s.indexed == 0 {
				s.indexed = packOverhead
			}
			s.indexed += uint64(rec.Length) + uint64(entrySize(rec.Blob))
			s.holds |= holdsData << rec.Type
			if rec.Plain == 0 {
				s.holds |= holdsRaw
			}
			switch {
			case !used:
				s.garbage += uint64(rec.Length)
			case len(group) > 1:
				s.doubled += uint64(rec.Length)
			}
		}
	}
}

// sound reports whether the pack at i is there as the index describes it.
func (p *prunePlan) sound(i uint32) bool {
	return p.packs[i].size >= 0 && uint64(p.packs[i].size) == p.sums[i].indexed
}

// isDoomed reports whether a doomed list names the pack at i. Nothing is left in
// it that is needed, so that it goes when the list is swept.
func (p *prunePlan) isDoomed(i uint32) bool { return contains(p.doomed, p.packs[i].id) }

// ranks orders the packs by how good it is to keep blobs in them that rest
// elsewhere too: sound ones first that are not doomed, then those with the
// smallest share of garbage, so that the packs an interrupted prune has written
// win over their origin, then those that have to stay anyway, then the larger.
// One order for all blobs empties the same packs, which can then be deleted
// whole.
func (p *prunePlan) ranks() []uint32 {
	order := make([]uint32, len(p.packs))
	for i := range order {
		order[i] = uint32(i)
	}
	broken := func(i uint32) int {
		switch {
		case !p.sound(i):
			return 2
		case p.isDoomed(i):
			return 1
		}
		return 0
	}
	slices.SortFunc(order, func(a, b uint32) int {
		x, y := &p.sums[a], &p.sums[b]
		return cmp.Or(
			cmp.Compare(broken(a), broken(b)),
			cmp.Compare(x.garbage*y.indexed, y.garbage*x.indexed), // both below 4 GiB
			cmp.Compare(x.doubled*y.indexed, y.doubled*x.indexed),
			cmp.Compare(y.indexed, x.indexed),
			cmp.Compare(a, b),
		)
	})
	ranks := make([]uint32, len(order))
	for rank, i := range order {
		ranks[i] = uint32(rank)
	}
	return ranks
}

// choose picks the one copy of each used blob that stays.
func (p *prunePlan) choose(records pruneRecords) {
	ranks := p.ranks()
	blobs, bytes := &p.stats.Blobs, &p.stats.Bytes
	for group, used := range records {
		best := -1
		if used {
			best = bestCopy(group, ranks)
			p.keep.set(group[best].n)
			p.found++
		}
		for i := range group {
			rec := &group[i]
			s, n := &p.sums[rec.pack], uint64(rec.Length)
			switch {
			case i == best:
				s.used++
				s.usedBytes += n
				blobs.Used++
				bytes.Used += n
				continue
			case best >= 0:
				blobs.Duplicate++
				bytes.Duplicate += n
			default:
				blobs.Unused++
				bytes.Unused += n
			}
			s.unused++
			s.unusedBytes += n
		}
	}
}

func bestCopy(group []pruneRecord, ranks []uint32) int {
	best := 0
	for i := range group {
		if ranks[group[i].pack] < ranks[group[best].pack] {
			best = i
		}
	}
	return best
}

// broken yields the packs that hold chosen blobs and are not what the index
// says. While there is one, nothing may be changed: no copy of those blobs is
// known to be good.
func (p *prunePlan) broken() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range p.sums {
			if p.sums[i].used > 0 && !p.sound(uint32(i)) && !yield(i) {
				return
			}
		}
	}
}

// pruneLimits is what [PruneOptions] come to in one repository.
type pruneLimits struct {
	unused    Unused
	repack    uint64 // bytes of packs to rewrite at most
	small     uint64 // bytes; smaller packs are rewritten; 0 = chosen
	rawTrees  bool   // rewrite packs with uncompressed trees
	rawData   bool   // and those with uncompressed data
	treesOnly bool   // leave packs of data alone
}

// Of restic's prune: packs are small below four fifths of the third percentile
// of all packs or of 4 MiB, and rewritten for that alone if there are ten.
const (
	smallPercentile = 3
	smallAtLeast    = 4 << 20 // bytes
	smallNumber     = 10
)

// smallPack returns the size in bytes below which a pack is small.
func (p *prunePlan) smallPack(l pruneLimits) uint64 {
	if l.small > 0 {
		return l.small
	}
	var sizes []uint64
	for i := range p.sums {
		if p.sums[i].indexed > 0 {
			sizes = append(sizes, p.sums[i].indexed)
		}
	}
	if len(sizes) == 0 {
		return 0
	}
	slices.Sort(sizes)
	return max(smallAtLeast, sizes[len(sizes)*smallPercentile/100]) / 5 * 4
}

// decide gives every pack its fate and completes the figures. It is called
// once, when no pack is broken.
func (p *prunePlan) decide(l pruneLimits, records pruneRecords) {
	small := p.smallPack(l)
	var candidates, smalls []uint32
	for i := range p.sums {
		s := &p.sums[i]
		s.fate = p.firstFate(i, l)
		switch {
		case s.fate != fateRepack:
		case s.unused > 0 || s.holds.mixed() || p.mustCompress(s, l) || p.isDoomed(uint32(i)):
			candidates = append(candidates, uint32(i))
		case s.indexed < small:
			smalls = append(smalls, uint32(i))
		default:
			s.fate = fateKeep
		}
	}
	if len(smalls) >= smallNumber {
		candidates = append(candidates, smalls...)
	} else {
		for _, i := range smalls {
			p.sums[i].fate = fateKeep
		}
	}
	p.repack(candidates, small, l)
	if p.stats.Packs.Repack > 0 && p.stats.Blobs.Duplicate > 0 {
		p.settle(records)
	}
	p.total()
}

// firstFate decides about the packs that are not worth weighing; the others it
// calls fateRepack for now.
func (p *prunePlan) firstFate(i int, l pruneLimits) fate {
	s, packs := &p.sums[i], &p.stats.Packs
	switch {
	case s.indexed == 0:
		packs.Unreferenced++
		p.stats.Bytes.Unreferenced += uint64(p.packs[i].size)
		return fateStray
	case s.used == 0:
		p.stats.Blobs.Remove += uint64(s.unused)
		p.stats.Bytes.Remove += s.unusedBytes
		if p.packs[i].size == missingPack {
			return fateForget
		}
		packs.Unused++
		packs.Remove++
		return fateRemove
	case s.unused == 0:
		packs.Used++
	default:
		packs.PartlyUsed++
	}
	if l.treesOnly && s.holds&holdsTrees == 0 || p.stay != nil && p.stay.has(uint32(i)) {
		return fateKeep
	}
	return fateRepack
}

// mustCompress reports whether a pack is rewritten for its uncompressed blobs.
func (p *prunePlan) mustCompress(s *packSum, l pruneLimits) bool {
	return s.holds&holdsRaw != 0 && (l.rawData || l.rawTrees && s.holds == holdsTrees|holdsRaw)
}

// repack chooses among the candidates, the most worthwhile first: those with
// trees, then small ones, then those with the largest share of unused bytes.
func (p *prunePlan) repack(candidates []uint32, small uint64, l pruneLimits) {
	first := func(yes bool) int {
		if yes {
			return 0
		}
		return 1
	}
	slices.SortFunc(candidates, func(a, b uint32) int {
		x, y := &p.sums[a], &p.sums[b]
		return cmp.Or(
			cmp.Compare(first(x.holds&holdsTrees != 0), first(y.holds&holdsTrees != 0)),
			cmp.Compare(first(x.indexed < small), first(y.indexed < small)),
			cmp.Compare(y.unusedBytes*x.indexed, x.unusedBytes*y.indexed),
			cmp.Compare(a, b),
		)
	})
	blobs, bytes, packs := &p.stats.Blobs, &p.stats.Bytes, &p.stats.Packs
	enough := l.unused.limit(bytes.Used)
	for _, i := range candidates {
		s := &p.sums[i]
		left := bytes.Duplicate + bytes.Unused - bytes.Remove - bytes.RepackRemove
		need := s.holds&holdsTrees != 0 || p.mustCompress(s, l) || s.indexed < small || p.isDoomed(i)
		if bytes.Repack+s.indexed > l.repack || left <= enough && !need {
			s.fate = fateKeep
			continue
		}
		packs.Repack++
		blobs.Repack += uint64(s.used + s.unused)
		blobs.RepackRemove += uint64(s.unused)
		bytes.Repack += s.indexed
		bytes.RepackRemove += s.unusedBytes
	}
}

// total fills the figures that follow from the others.
func (p *prunePlan) total() {
	for i := range p.sums {
		if s := &p.sums[i]; s.fate == fateKeep {
			p.stats.Packs.Keep++
			if s.holds&holdsRaw != 0 {
				p.stats.Bytes.Uncompressed += s.indexed
			}
		}
	}
	blobs, bytes, packs := &p.stats.Blobs, &p.stats.Bytes, &p.stats.Packs
	blobs.Total = blobs.Used + blobs.Duplicate + blobs.Unused
	blobs.RemoveTotal = blobs.Remove + blobs.RepackRemove
	blobs.Remaining = blobs.Total - blobs.RemoveTotal
	bytes.Total = bytes.Used + bytes.Duplicate + bytes.Unused + bytes.Unreferenced
	bytes.RemoveTotal = bytes.Remove + bytes.RepackRemove + bytes.Unreferenced
	bytes.Remaining = bytes.Total - bytes.RemoveTotal
	bytes.RemainingUnused = bytes.Duplicate + bytes.Unused - bytes.Remove - bytes.RepackRemove
	packs.Total = packs.Used + packs.PartlyUsed + packs.Unused + packs.Unreferenced
	packs.RemoveTotal = packs.Unreferenced + packs.Remove
}

// settle drops the marks of blobs in packs to rewrite that rest in a kept pack
// too, so that they are not moved.
func (p *prunePlan) settle(records pruneRecords) {
	for group, used := range records {
		if len(group) == 1 || !used {
			continue
		}
		moved, stays := -1, -1
		for i, rec := range group {
			switch {
			case p.keep.has(rec.n) && p.sums[rec.pack].fate == fateRepack:
				moved = i
			case p.sums[rec.pack].fate == fateKeep && p.sound(rec.pack) && !p.isDoomed(rec.pack):
				stays = i
			}
		}
		if moved < 0 || stays < 0 {
			continue
		}
		p.keep.clear(group[moved].n)
		p.keep.set(group[stays].n)
		s := &p.sums[group[moved].pack]
		s.used--
		s.usedBytes -= uint64(group[moved].Length)
		p.stats.Blobs.RepackRemove++
		p.stats.Bytes.RepackRemove += uint64(group[moved].Length)
	}
}
