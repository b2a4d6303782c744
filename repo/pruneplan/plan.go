// Package pruneplan decides what a prune does with each pack of a repository:
// which go, and which are worth writing anew without what nobody needs in them.
// It touches nothing, and knows packs and blobs by their numbers only.
package pruneplan

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
)

// Fate is what a prune does with a pack.
type Fate uint8

// The fates. All packs but those to keep leave the repository.
const (
	Keep   Fate = iota
	Repack      // its chosen blobs move to a new pack, then it goes
	Remove      // nothing in it is needed
	Forget      // nothing in it is needed, and it is not there anyway
	Stray       // no index file names it
)

// Missing is the size of a pack that the index names and the storage does not
// have.
const Missing = -1

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
	fate        Fate
}

// packHolds tells what kinds of blobs a pack has.
type packHolds uint8

const (
	holdsData packHolds = 1 << iota
	holdsTrees
	holdsRaw // blobs that are not compressed
)

func (h packHolds) mixed() bool { return h&holdsData != 0 && h&holdsTrees != 0 }

// Record is one place of a blob.
type Record struct {
	Pack   uint32 // number of the pack
	N      uint32 // number among all records
	Length uint32 // bytes, sealed
	Header uint8  // bytes in the pack's header
	Tree   bool   // it is no data
	Raw    bool   // it is not compressed
}

func (r *Record) holds() packHolds {
	h := holdsData
	if r.Tree {
		h = holdsTrees
	}
	if r.Raw {
		h |= holdsRaw
	}
	return h
}

// Records yields the places of one blob after another, and whether it is used.
// Each time they come in the same order, with the same N. The slice is valid
// until the next one.
type Records = iter.Seq2[[]Record, bool]

// Packs are the packs of the index and of the storage, by number.
type Packs struct {
	Sizes    []int64 // bytes in the storage, or Missing
	Overhead uint64  // bytes of each beside blobs and their headers
	// Doomed are those that doomed lists name already; nil for none. Nothing
	// that is needed is left in them, so that they go when the lists are swept.
	Doomed Bitmap
}

// Plan is what becomes of each pack and each record. Its cost is a few passes
// over the records and 64 bytes a pack.
type Plan struct {
	Found uint64 // distinct used blobs among the records
	Stats Stats

	packs Packs
	sums  []packSum // by number of the pack
	keep  Bitmap    // by record: this copy of a used blob stays
	stay  Bitmap    // by pack: see Stay; nil for none
}

// Fate returns what becomes of a pack.
func (p *Plan) Fate(pack int) Fate { return p.sums[pack].fate }

// Indexed returns how many bytes a pack must have, as the index says; 0 when no
// index file names it.
func (p *Plan) Indexed(pack int) uint64 { return p.sums[pack].indexed }

// Moved returns how many blobs are moved out of a pack.
func (p *Plan) Moved(pack int) int {
	if s := &p.sums[pack]; s.fate == Repack {
		return int(s.used)
	}
	return 0
}

// Kept reports whether a record is the copy of a used blob that stays, or is
// moved.
func (p *Plan) Kept(record uint32) bool { return p.keep.Has(record) }

// Bitmap is one bit for each of many numbers.
type Bitmap []uint64

// NewBitmap returns one for numbers below n.
func NewBitmap(n int) Bitmap { return make(Bitmap, (n+63)/64) }

// Set makes the bit of i one.
func (b Bitmap) Set(i uint32) { b[i/64] |= 1 << (i % 64) }

// Has reports whether the bit of i is one.
func (b Bitmap) Has(i uint32) bool { return b[i/64]>>(i%64)&1 != 0 }

func (b Bitmap) clear(i uint32) { b[i/64] &^= 1 << (i % 64) }

// Count returns how many bits are one.
func (b Bitmap) Count() (n int) {
	for _, word := range b {
		n += bits.OnesCount64(word)
	}
	return n
}

// New weighs every pack and chooses the copy of each used blob that stays. n is
// the number of records.
func New(packs Packs, n int, records Records) *Plan {
	p := &Plan{packs: packs, sums: make([]packSum, len(packs.Sizes)), keep: NewBitmap(n)}
	p.count(records)
	p.choose(records)
	return p
}

// count sums up what the index says of each pack.
func (p *Plan) count(records Records) {
	for group, used := range records {
		for i := range group {
			rec := &group[i]
			s := &p.sums[rec.Pack]
			if s.indexed == 0 {
				s.indexed = p.packs.Overhead
			}
			s.indexed += uint64(rec.Length) + uint64(rec.Header)
			s.holds |= rec.holds()
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
func (p *Plan) sound(i uint32) bool {
	return p.packs.Sizes[i] >= 0 && uint64(p.packs.Sizes[i]) == p.sums[i].indexed
}

// isDoomed reports whether a doomed list names a pack already.
func (p *Plan) isDoomed(i uint32) bool { return p.packs.Doomed != nil && p.packs.Doomed.Has(i) }

// ranks orders the packs by how good it is to keep blobs in them that rest
// elsewhere too: sound ones first that are not doomed, then those with the
// smallest share of garbage, so that the packs an interrupted prune has written
// win over their origin, then those that have to stay anyway, then the larger.
// One order for all blobs empties the same packs, which can then be deleted
// whole.
func (p *Plan) ranks() []uint32 {
	order := make([]uint32, len(p.packs.Sizes))
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
func (p *Plan) choose(records Records) {
	ranks := p.ranks()
	blobs, bytes := &p.Stats.Blobs, &p.Stats.Bytes
	for group, used := range records {
		best := -1
		if used {
			best = bestCopy(group, ranks)
			p.keep.Set(group[best].N)
			p.Found++
		}
		for i := range group {
			rec := &group[i]
			s, n := &p.sums[rec.Pack], uint64(rec.Length)
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

func bestCopy(group []Record, ranks []uint32) int {
	best := 0
	for i := range group {
		if ranks[group[i].Pack] < ranks[group[best].Pack] {
			best = i
		}
	}
	return best
}

// Broken yields the packs that hold chosen blobs and are not what the index
// says. While there is one, nothing may be changed: no copy of those blobs is
// known to be good.
func (p *Plan) Broken() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range p.sums {
			if p.sums[i].used > 0 && !p.sound(uint32(i)) && !yield(i) {
				return
			}
		}
	}
}

// Limits say how much a plan may leave and move.
type Limits struct {
	Unused    func(used uint64) uint64 // bytes of garbage that may stay, by those that are used
	Repack    uint64                   // bytes of packs to rewrite at most
	Small     uint64                   // bytes; smaller packs are rewritten; 0 = chosen
	RawTrees  bool                     // rewrite packs with uncompressed trees
	RawData   bool                     // and those with uncompressed data
	TreesOnly bool                     // leave packs of data alone
}

// Of restic's prune: packs are small below four fifths of the third percentile
// of all packs or of 4 MiB, and rewritten for that alone if there are ten.
const (
	smallPercentile = 3
	smallAtLeast    = 4 << 20 // bytes
	smallNumber     = 10
)

// smallPack returns the size in bytes below which a pack is small.
func (p *Plan) smallPack(l Limits) uint64 {
	if l.Small > 0 {
		return l.Small
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

// Decide gives every pack its fate and completes the figures. It is called
// once, when no pack is broken.
func (p *Plan) Decide(l Limits, records Records) {
	small := p.smallPack(l)
	var candidates, smalls []uint32
	for i := range p.sums {
		s := &p.sums[i]
		s.fate = p.firstFate(i, l)
		switch {
		case s.fate != Repack:
		case s.unused > 0 || s.holds.mixed() || p.mustCompress(s, l) || p.isDoomed(uint32(i)):
			candidates = append(candidates, uint32(i))
		case s.indexed < small:
			smalls = append(smalls, uint32(i))
		default:
			s.fate = Keep
		}
	}
	if len(smalls) >= smallNumber {
		candidates = append(candidates, smalls...)
	} else {
		for _, i := range smalls {
			p.sums[i].fate = Keep
		}
	}
	p.repack(candidates, small, l)
	if p.Stats.Packs.Repack > 0 && p.Stats.Blobs.Duplicate > 0 {
		p.settle(records)
	}
	p.total()
}

// firstFate decides about the packs that are not worth weighing; the others it
// calls Repack for now.
func (p *Plan) firstFate(i int, l Limits) Fate {
	s, packs := &p.sums[i], &p.Stats.Packs
	switch {
	case s.indexed == 0:
		packs.Unreferenced++
		p.Stats.Bytes.Unreferenced += uint64(p.packs.Sizes[i])
		return Stray
	case s.used == 0:
		p.Stats.Blobs.Remove += uint64(s.unused)
		p.Stats.Bytes.Remove += s.unusedBytes
		if p.packs.Sizes[i] == Missing {
			return Forget
		}
		packs.Unused++
		packs.Remove++
		return Remove
	case s.unused == 0:
		packs.Used++
	default:
		packs.PartlyUsed++
	}
	if l.TreesOnly && s.holds&holdsTrees == 0 || p.stay != nil && p.stay.Has(uint32(i)) {
		return Keep
	}
	return Repack
}

// mustCompress reports whether a pack is rewritten for its uncompressed blobs.
func (p *Plan) mustCompress(s *packSum, l Limits) bool {
	return s.holds&holdsRaw != 0 && (l.RawData || l.RawTrees && s.holds == holdsTrees|holdsRaw)
}

// repack chooses among the candidates, the most worthwhile first: those with
// trees, then small ones, then those with the largest share of unused bytes.
func (p *Plan) repack(candidates []uint32, small uint64, l Limits) {
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
	blobs, bytes, packs := &p.Stats.Blobs, &p.Stats.Bytes, &p.Stats.Packs
	enough := l.Unused(bytes.Used)
	for _, i := range candidates {
		s := &p.sums[i]
		left := bytes.Duplicate + bytes.Unused - bytes.Remove - bytes.RepackRemove
		need := s.holds&holdsTrees != 0 || p.mustCompress(s, l) || s.indexed < small || p.isDoomed(i)
		if bytes.Repack+s.indexed > l.Repack || left <= enough && !need {
			s.fate = Keep
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
func (p *Plan) total() {
	for i := range p.sums {
		if s := &p.sums[i]; s.fate == Keep {
			p.Stats.Packs.Keep++
			if s.holds&holdsRaw != 0 {
				p.Stats.Bytes.Uncompressed += s.indexed
			}
		}
	}
	blobs, bytes, packs := &p.Stats.Blobs, &p.Stats.Bytes, &p.Stats.Packs
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
func (p *Plan) settle(records Records) {
	for group, used := range records {
		if len(group) == 1 || !used {
			continue
		}
		moved, stays := -1, -1
		for i, rec := range group {
			switch {
			case p.keep.Has(rec.N) && p.sums[rec.Pack].fate == Repack:
				moved = i
			case p.sums[rec.Pack].fate == Keep && p.sound(rec.Pack) && !p.isDoomed(rec.Pack):
				stays = i
			}
		}
		if moved < 0 || stays < 0 {
			continue
		}
		p.keep.clear(group[moved].N)
		p.keep.Set(group[stays].N)
		s := &p.sums[group[moved].Pack]
		s.used--
		s.usedBytes -= uint64(group[moved].Length)
		p.Stats.Blobs.RepackRemove++
		p.Stats.Bytes.RepackRemove += uint64(group[moved].Length)
	}
}

// Halves returns the packs that would be rewritten though at least half of what
// is in them is needed. It is for those who ask, before Decide, whether they are
// worth it.
func (p *Plan) Halves(l Limits) (packs []int) {
	small := p.smallPack(l)
	for i := range p.sums {
		s := &p.sums[i]
		if s.used > 0 && s.usedBytes >= s.unusedBytes && (s.unused > 0 || s.indexed < small || s.holds.mixed() || p.mustCompress(s, l)) {
			packs = append(packs, i)
		}
	}
	return packs
}

// Stay makes Decide leave these packs as they are, if anything in them is used.
func (p *Plan) Stay(packs Bitmap) { p.stay = packs }
