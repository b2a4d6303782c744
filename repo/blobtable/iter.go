package blobtable

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"kassett"
)

// pin returns the runs of this moment, each with one user more.
func (t *Table) pin() []*run {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, run := range t.runs {
		run.users.Add(1)
	}
	return t.runs
}

func (t *Table) unpin(runs []*run) {
	for _, run := range runs {
		t.warnRelease(run)
	}
}

// Each yields every place of every blob, each once, in the order of blob IDs;
// data comes before a tree of the same ID, then pack and offset decide. What is
// added meanwhile may be left out. An error says that not all have come.
func (t *Table) Each(yield func(Location) bool) error {
	s := placeStream{yield: yield}
	for range maxMends {
		runs := t.pin()
		err := s.read(runs)
		t.unpin(runs)
		if err == nil || !t.mend(err) {
			return err
		}
	}
	return t.Err()
}

// placeStream yields places by handle. When a run breaks it goes on behind the
// last handle it has given.
type placeStream struct {
	yield   func(Location) bool
	last    BlobHandle
	started bool // last is set
	group   []Location
}

func (s *placeStream) read(runs []*run) error {
	cursors := make([]*cursor, len(runs))
	for i, one := range runs {
		cursors[i] = &cursor{run: one}
		if !s.started {
			continue
		}
		pos, _, err := one.find(s.last)
		if err != nil {
			return err
		}
		cursors[i].pos = pos
	}
	s.group = s.group[:0]
	stopped := false
	var broken error
	err := mergeCursors(cursors, func(c *cursor) bool {
		h := c.rec.handle()
		if s.started && h == s.last {
			return true
		}
		if len(s.group) > 0 && s.group[0].BlobHandle != h && !s.flush() {
			stopped = true
			return false
		}
		var l Location
		if l, broken = c.location(); broken != nil {
			return false
		}
		s.group = append(s.group, l)
		return true
	})
	if err = errors.Join(err, broken); err == nil && !stopped && len(s.group) > 0 {
		s.flush()
	}
	return err
}

// flush yields the places of one blob.
func (s *placeStream) flush() bool {
	s.last, s.started = s.group[0].BlobHandle, true
	for _, l := range compactPlaces(s.group) {
		if !s.yield(l) {
			return false
		}
	}
	s.group = s.group[:0]
	return true
}

// location returns the cursor's record as a place.
func (c *cursor) location() (l Location, err error) {
	defer c.run.guard(debug.SetPanicOnFault(true), &err)
	pack, _, err := c.run.packAt(c.rec.pack)
	return Location{pack, c.rec.blob()}, err
}

// packGroup is how many records ByPack holds the positions of, unless one pack
// has more: 128 MiB. The table is read once for each such group.
const packGroup = 16 << 20

// ByPack calls fn for every pack that the table knows, in the order of pack IDs,
// with its blobs by offset, valid during fn only. It takes about 24 bytes of
// memory for each pack, and 8 for each blob up to 128 MiB. An error of fn ends
// it and is returned.
func (t *Table) ByPack(fn func(pack kassett.ID, blobs []Blob) error) error {
	s := packStream{fn: fn}
	for range maxMends {
		runs := t.pin()
		err := s.read(runs)
		t.unpin(runs)
		if s.failed != nil {
			return s.failed
		}
		if err == nil || !t.mend(err) {
			return err
		}
	}
	return t.Err()
}

// packStream yields packs by ID. When a run breaks it goes on behind the last
// pack it has given.
type packStream struct {
	fn     func(kassett.ID, []Blob) error
	failed error // what fn returned

	last    kassett.ID
	started bool // last is set

	runs   []*run
	order  []packPlace // of all packs of all runs, by ID
	ranks  [][]uint32  // by run and pack number: which of the distinct packs
	counts []uint32    // by rank: records
}

// packPlace is where a pack's entry is.
type packPlace struct {
	prefix uint64 // first bytes of the ID
	run, n uint32
}

func (s *packStream) read(runs []*run) error {
	s.runs = runs
	if err := s.rank(); err != nil {
		return err
	}
	if err := s.scan(func(rank uint32, _ uint64) { s.counts[rank]++ }); err != nil {
		return err
	}
	for from := 0; from < len(s.counts); {
		to, total := from, 0
		for to < len(s.counts) && (to == from || total+int(s.counts[to]) <= packGroup) {
			total += int(s.counts[to])
			to++
		}
		if err := s.give(uint32(from), uint32(to), total); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// rank sorts the packs and numbers those that are yet to be given.
func (s *packStream) rank() error {
	s.order, s.ranks, s.counts = nil, nil, nil
	for i, one := range s.runs {
		s.ranks = append(s.ranks, make([]uint32, one.packs))
		for n := range s.ranks[i] {
			id, err := s.packID(uint32(i), uint32(n))
			if err != nil {
				return err
			}
			s.ranks[i][n] = dropped
			if !s.started || s.last.Compare(id) < 0 {
				s.order = append(s.order, packPlace{binary.BigEndian.Uint64(id[:]), uint32(i), uint32(n)})
			}
		}
	}
	var broken error
	compare := func(a, b packPlace) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		x, err1 := s.packID(a.run, a.n)
		y, err2 := s.packID(b.run, b.n)
		broken = cmp.Or(broken, err1, err2)
		return x.Compare(y)
	}
	slices.SortFunc(s.order, compare)
	distinct := s.order[:0]
	for i, p := range s.order {
		if i == 0 || compare(distinct[len(distinct)-1], p) != 0 {
			distinct = append(distinct, p)
		}
		s.ranks[p.run][p.n] = uint32(len(distinct) - 1)
	}
	s.order = distinct
	s.counts = make([]uint32, len(distinct))
	return broken
}

func (s *packStream) packID(run, n uint32) (id kassett.ID, err error) {
	defer s.runs[run].guard(debug.SetPanicOnFault(true), &err)
	id, _, err = s.runs[run].packAt(n)
	return id, err
}

// runShift is where the number of the run begins in a position of a record.
const runShift = 40

// scan calls fn with the rank and the position of every record of a ranked pack.
func (s *packStream) scan(fn func(rank uint32, at uint64)) error {
	for i, one := range s.runs {
		c := cursor{run: one}
		for {
			ok, err := c.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			n := c.rec.pack &^ treeBit
			if uint64(n) >= one.packs {
				return &badRunError{one, errPage}
			}
			if rank := s.ranks[i][n]; rank != dropped {
				fn(rank, uint64(i)<<runShift|(c.pos-1))
			}
		}
	}
	return nil
}

// give calls fn for the packs of ranks from ≤ rank < to, which have total
// records.
func (s *packStream) give(from, to uint32, total int) error {
	places := make([]uint64, total)
	next := make([]int, to-from) // where the next place of a pack goes
	for i, at := 0, 0; i < len(next); i++ {
		next[i] = at
		at += int(s.counts[from+uint32(i)])
	}
	err := s.scan(func(rank uint32, at uint64) {
		if rank >= from && rank < to {
			places[next[rank-from]] = at
			next[rank-from]++
		}
	})
	if err != nil {
		return err
	}
	var blobs []Blob
	for rank := from; rank < to; rank++ {
		n := int(s.counts[rank])
		if blobs, err = s.blobs(blobs[:0], places[:n]); err != nil {
			return err
		}
		places = places[n:]
		p := s.order[rank]
		id, err := s.packID(p.run, p.n)
		if err != nil {
			return err
		}
		s.last, s.started = id, true
		if s.failed = s.fn(id, blobs); s.failed != nil {
			return s.failed
		}
	}
	return nil
}

// blobs appends the blobs at the given positions, by offset and each once.
func (s *packStream) blobs(dst []Blob, places []uint64) ([]Blob, error) {
	for _, at := range places {
		c := cursor{run: s.runs[at>>runShift], pos: at & (1<<runShift - 1)}
		ok, err := c.next()
		if err != nil {
			return dst, err
		}
		if !ok {
			return dst, fmt.Errorf("position %d is behind the end of the blob table", at)
		}
		dst = append(dst, c.rec.blob())
	}
	slices.SortFunc(dst, func(a, b Blob) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), a.ID.Compare(b.ID), cmp.Compare(a.Type, b.Type))
	})
	return slices.Compact(dst), nil
}
