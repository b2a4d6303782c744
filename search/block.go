package search

import (
	"bytes"
	"encoding/binary"
	"time"

	"kassett"
)

// Bounds of a block, before it is compressed.
const (
	blockNames   = 4096     // names in a block
	blockBytes   = 96 << 10 // bytes of names after which a block ends
	maxComponent = 4 << 10  // bytes of one name; longer ones are left out
	maxFolder    = 32 << 10 // bytes of a folder's key
	maxEvents    = 1 << 20  // of one name
)

// separator divides the names of a folder's key. It sorts before every other
// byte, so that the order of keys is that of a walk: a folder, then all below
// it, then its next sibling.
const separator = 0

// state is what a version of a file is told by: whatever else changes makes no
// new version.
type state struct {
	kind byte // index in entryTypes; 0: it is not there
	size uint64
	time int64    // nanoseconds since 1970, of the last change
	hash [16]byte // of the content; of a folder, of its tree. Files use eight bytes
}

// entryTypes are the types of entry by their number in the index.
var entryTypes = [...]kassett.EntryType{
	1: kassett.File, 2: kassett.Dir, 3: kassett.Symlink, 4: kassett.Device, 5: kassett.CharDevice, 6: kassett.Fifo, 7: kassett.Socket,
}

const (
	kindFile = 1
	kindDir  = 2
)

// event says what a name is from one snapshot on.
type event struct {
	seq uint32 // number of the snapshot in its line
	state
}

// entry is one name in one folder, and what became of it.
type entry struct {
	folder []byte // key
	name   []byte
	folded []byte  // as it is compared, when that is more than lower case of ASCII
	events []event // by seq, ascending
}

// compareEntries orders as a walk would.
func compareEntries(a, b *entry) int {
	if c := bytes.Compare(a.folder, b.folder); c != 0 {
		return c
	}
	return bytes.Compare(a.name, b.name)
}

// blockBuilder makes the two pieces of a block: the names, which are searched,
// and the events, which are only looked at for what was found.
type blockBuilder struct {
	names, events []byte
	folder        []byte // of the last entry
	countAt       int    // where the number of its names stands, four bytes
	inFolder      uint32
	n             int
	lastTime      int64
}

func (b *blockBuilder) full() bool { return b.n >= blockNames || len(b.names) >= blockBytes }

func (b *blockBuilder) reset() {
	b.names, b.events, b.folder = b.names[:0], b.events[:0], b.folder[:0]
	b.inFolder, b.n, b.lastTime = 0, 0, 0
}

func (b *blockBuilder) add(e *entry) {
	if b.n == 0 || !bytes.Equal(b.folder, e.folder) {
		b.endFolder()
		b.names = binary.AppendUvarint(b.names, uint64(len(e.folder)))
		b.names = append(b.names, e.folder...)
		b.countAt = len(b.names)
		b.names = append(b.names, 0, 0, 0, 0)
		b.folder, b.inFolder = append(b.folder[:0], e.folder...), 0
	}
	// Twice the length, and one more when the folded form follows.
	if e.folded == nil {
		b.names = append(binary.AppendUvarint(b.names, uint64(len(e.name))*2), e.name...)
	} else {
		b.names = append(binary.AppendUvarint(b.names, uint64(len(e.name))*2+1), e.name...)
		b.names = append(binary.AppendUvarint(b.names, uint64(len(e.folded))), e.folded...)
	}
	b.inFolder++
	b.n++
	b.events = binary.AppendUvarint(b.events, uint64(len(e.events)))
	seq := uint32(0)
	for _, v := range e.events {
		b.events = binary.AppendUvarint(b.events, uint64(v.seq-seq))
		seq = v.seq
		b.events = append(b.events, v.kind)
		if v.kind == 0 {
			continue
		}
		b.events = binary.AppendVarint(b.events, v.time-b.lastTime)
		b.lastTime = v.time
		if v.kind == kindDir {
			b.events = append(b.events, v.hash[:]...)
		} else {
			b.events = binary.AppendUvarint(b.events, v.size)
			b.events = append(b.events, v.hash[:8]...)
		}
	}
}

func (b *blockBuilder) endFolder() {
	if b.n > 0 {
		binary.LittleEndian.PutUint32(b.names[b.countAt:], b.inFolder)
	}
}

// block is one block, opened.
type block struct {
	entries []entry // without events until readEvents
	names   []byte  // their memory
}

// readNames takes the names apart. count is how many there must be.
func readNames(names []byte, count int) (*block, error) {
	if count < 0 || count > len(names) {
		return nil, damagedf("%d names in %d bytes", count, len(names))
	}
	b := &block{entries: make([]entry, 0, count), names: names}
	r := byteReader{b: names}
	for len(r.b) > 0 {
		folder := r.bytes(maxFolder)
		n := r.uint32()
		for range n {
			if r.bad || len(b.entries) == count {
				return nil, damagedf("its names are not whole")
			}
			e := entry{folder: folder}
			length := r.uvarint()
			if e.name = r.take(int(min(length/2, maxPiece))); length%2 == 1 { //nolint:gosec // bounded
				e.folded = r.bytes(maxPiece)
			}
			b.entries = append(b.entries, e)
		}
		if r.bad {
			break
		}
	}
	if r.bad || len(b.entries) != count {
		return nil, damagedf("it has %d names, want %d", len(b.entries), count)
	}
	return b, nil
}

// readEvents gives the entries their events.
func (b *block) readEvents(events []byte) error {
	r := byteReader{b: events}
	last := int64(0)
	var slab []event
	for i := range b.entries {
		n := r.uvarint()
		if n == 0 || n > maxEvents || n > uint64(len(r.b)) {
			return damagedf("a name with %d events", n)
		}
		if uint64(len(slab)) < n {
			slab = make([]event, max(n, uint64(len(b.entries)-i)))
		}
		all, seq := slab[:n:n], uint32(0)
		slab = slab[n:]
		for j := range all {
			v := &all[j]
			seq += uint32(r.uvarint()) //nolint:gosec // sealed by us
			v.seq = seq
			if v.kind = r.byte(); v.kind == 0 {
				continue
			}
			v.time = last + r.varint()
			last = v.time
			if v.kind == kindDir {
				copy(v.hash[:], r.take(16))
			} else {
				v.size = r.uvarint()
				copy(v.hash[:8], r.take(8))
			}
		}
		b.entries[i].events = all
	}
	if r.bad || len(r.b) > 0 {
		return damagedf("its events are not whole")
	}
	return nil
}

// byteReader reads numbers and strings; bad says that there were not enough
// bytes.
type byteReader struct {
	b   []byte
	bad bool
}

func (r *byteReader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *byteReader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *byteReader) uint32() uint32 {
	if p := r.take(4); p != nil {
		return binary.LittleEndian.Uint32(p)
	}
	return 0
}

func (r *byteReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *byteReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads a string of at most limit bytes.
func (r *byteReader) bytes(limit uint64) []byte {
	n := r.uvarint()
	if n > limit {
		r.bad, r.b = true, nil
		return nil
	}
	return r.take(int(n)) //nolint:gosec // bounded
}

// when returns the time of a state.
func (s *state) when() time.Time { return time.Unix(0, s.time) }
