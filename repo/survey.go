package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"

	"kassett"
)

// survey is what all index files together say of the packs, without the blob
// table of this machine. Its memory grows with the number of packs, by 64 bytes
// for each.
type survey struct {
	seed  maphash.Seed
	files []kassett.ID // all index files
	packs []storedPack // as listed, ordered by ID
	named []namedPack  // same positions

	mu     sync.Mutex              // guards what follows, and entries of named
	sound  []kassett.ID            // index files that can be read
	absent map[kassett.ID]struct{} // packs that are named and not there
}

// namedPack is what the index files say of one pack.
type namedPack struct {
	bytes  uint64 // that it must have; 0 when no index file names it
	digest uint64 // sum of those of its blobs
	blobs  uint32
	files  uint8 // index files that name it, at most 255
	state  packState
}

// packState is what is odd about a pack.
type packState uint8

const (
	packGeometry packState = 1 << iota // blobs overlap or leave gaps
	packDisputed                       // index files disagree
	packMixed                          // data and trees
)

// surveyIndex reads all index files. It calls bad with one that cannot be read,
// which ends the survey if that fails, and gone with each pack that is named and
// not there; both from many goroutines.
func (r *Repository) surveyIndex(
	ctx context.Context, p *kassett.Progress,
	bad func(ctx context.Context, index kassett.ID, err error) error, gone func(index, pack kassett.ID, blobs int),
) (*survey, error) {
	s := &survey{seed: maphash.MakeSeed(), absent: make(map[kassett.ID]struct{})}
	// Index files are listed before packs: another host may be storing both
	// now, and whatever an index file names was there before it.
	var err error
	if s.files, err = r.listIDs(ctx, kassett.IndexFile); err != nil {
		return nil, err
	}
	if s.packs, err = r.listPacks(ctx); err != nil {
		return nil, err
	}
	s.named = make([]namedPack, len(s.packs))
	p.Enter("read index")
	p.Expect(int64(len(s.files)), 0)
	return s, side(ctx, r, s.files, func(ctx context.Context, id kassett.ID) error {
		defer p.Done(1, 0)
		c, err := r.readIndex(ctx, id)
		if err != nil {
			return bad(ctx, id, err)
		}
		for pack, blobs := range c.all() {
			if !s.add(pack, blobs) {
				gone(id, pack, len(blobs))
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sound = append(s.sound, id)
		return nil
	})
}

// add takes down what an index file says of a pack. It returns false at the
// first one that names an absent pack.
func (s *survey) add(pack kassett.ID, blobs []Blob) bool {
	now := describe(s.seed, blobs)
	i, there := findPack(s.packs, pack)
	s.mu.Lock()
	defer s.mu.Unlock()
	if there {
		s.named[i].merge(now)
		return true
	}
	_, known := s.absent[pack]
	s.absent[pack] = struct{}{}
	return known
}

// merge adds what one more index file says.
func (n *namedPack) merge(now namedPack) {
	if n.files > 0 {
		now.state |= n.state
		if n.digest != now.digest {
			now.state |= packDisputed
		}
		now.files = n.files
	}
	now.files = max(now.files, now.files+1) // stays at 255
	*n = now
}

// describe sums up what is said of one pack. It sorts blobs by offset.
func describe(seed maphash.Seed, blobs []Blob) (p namedPack) {
	byOffset := func(a, b Blob) int { return cmp.Compare(a.Offset, b.Offset) }
	if !slices.IsSortedFunc(blobs, byOffset) {
		slices.SortFunc(blobs, byOffset)
	}
	end := uint64(0)
	p.bytes = packOverhead
	for _, b := range blobs {
		p.digest += digest(seed, b)
		if uint64(b.Offset) != end {
			p.state |= packGeometry
		}
		if b.Type != blobs[0].Type {
			p.state |= packMixed
		}
		end = uint64(b.Offset) + uint64(b.Length)
		p.bytes += uint64(b.Length) + uint64(entrySize(b))
	}
	p.blobs = uint32(len(blobs))
	return p
}

// digest returns a number for one blob of a pack. The sum of those of all its
// blobs, in any order, stands for what is said of the pack.
func digest(seed maphash.Seed, b Blob) uint64 {
	var entry [1 + 3*4 + 32]byte
	entry[0] = byte(b.Type)
	binary.LittleEndian.PutUint32(entry[1:], b.Offset)
	binary.LittleEndian.PutUint32(entry[5:], b.Length)
	binary.LittleEndian.PutUint32(entry[9:], b.Plain)
	copy(entry[13:], b.ID[:])
	return maphash.Bytes(seed, entry[:])
}

// eachIndexed calls fn for each pack that an index file names, with its blobs,
// valid during fn only.
func (r *Repository) eachIndexed(ctx context.Context, index kassett.ID, fn func(pack kassett.ID, blobs []Blob) error) error {
	c, err := r.readIndex(ctx, index)
	if err != nil {
		return err
	}
	for pack, blobs := range c.all() {
		if err := fn(pack, blobs); err != nil {
			return err
		}
	}
	return nil
}

// listIDs returns the names of all files of a kind, ordered.
func (r *Repository) listIDs(ctx context.Context, k kassett.FileKind) ([]kassett.ID, error) {
	var ids []kassett.ID
	for info, err := range r.List(ctx, k) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, info.ID)
	}
	slices.SortFunc(ids, kassett.ID.Compare)
	return ids, nil
}

// listPacks returns the packs of the storage, ordered by ID.
func (r *Repository) listPacks(ctx context.Context) ([]storedPack, error) {
	var packs []storedPack
	for info, err := range r.List(ctx, kassett.PackFile) {
		if err != nil {
			return nil, err
		}
		packs = append(packs, storedPack{info.ID, info.Size})
	}
	slices.SortFunc(packs, func(a, b storedPack) int { return a.id.Compare(b.id) })
	return packs, nil
}
