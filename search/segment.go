package search

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
)

// A segment is a file of entries in order, never changed:
//
//	┌───────────────────────┬────────────────────────────────┬───────────┬────────────┐
//	│ magic 16 ‖ salt 32    │ names, events of each block    │ directory │ trailer 16 │
//	│                       │ filters after every 64 blocks  │           │            │
//	└───────────────────────┴────────────────────────────────┴───────────┴────────────┘
//
// Each piece is compressed and sealed by itself, with a number of its own: block
// i has 4i for its names and 4i+1 for its events, the filters of a group of
// blocks 4i+2, i being the group's number; the directory has the highest of all.
const (
	segmentMagic   = "kassett search 1"
	segmentSuffix  = ".segment"
	headSize       = len(segmentMagic) + saltSize
	trailerSize    = 16
	filterGroup    = 64
	directoryPiece = ^uint64(0)
)

// blockInfo is what the directory says of a block.
type blockInfo struct {
	offset        int64
	names, events uint32 // bytes, sealed
	count         uint32
	filter        uint32 // bytes
	first         entry  // without events
}

// groupInfo is where the filters of a group of blocks are.
type groupInfo struct {
	offset int64
	length uint32
}

// segmentWriter writes a segment.
type segmentWriter struct {
	f       *os.File
	name    string // final
	sealer  *sealer
	off     int64
	block   blockBuilder
	filter  filterBuilder
	first   entry
	blocks  []blockInfo
	groups  []groupInfo
	filters []byte // of the group at work
	buf     []byte
	lower   []byte
	count   int64
}

// createSegment begins a segment in dir.
func createSegment(dir string, key keyFunc) (*segmentWriter, error) {
	f, err := os.CreateTemp(dir, "new-*"+tempSuffix)
	if err != nil {
		return nil, err
	}
	salt := newSalt()
	w := &segmentWriter{f: f, name: filepath.Join(dir, fmt.Sprintf("%x%s", salt[:16], segmentSuffix))}
	if w.sealer, err = newSealer(key, salt); err != nil {
		return nil, errors.Join(err, w.abort())
	}
	return w, w.write(append([]byte(segmentMagic), salt...))
}

func (w *segmentWriter) write(b []byte) error {
	n, err := w.f.Write(b)
	w.off += int64(n)
	return err
}

// add appends an entry, which comes after all before it, with its folded form if
// it has one. It keeps nothing of it.
func (w *segmentWriter) add(e *entry) error {
	if w.block.n == 0 {
		w.first = entry{folder: bytes.Clone(e.folder), name: bytes.Clone(e.name)}
	}
	if w.block.n == 0 || !bytes.Equal(w.block.folder, e.folder) {
		// For texts with slashes.
		w.filter.add(fold(nil, e.folder[bytes.LastIndexByte(e.folder, separator)+1:]))
	}
	w.lower = lower(w.lower[:0], e.name)
	folded := w.lower
	if e.folded != nil {
		folded = e.folded
	}
	w.block.add(e)
	w.filter.add(folded)
	w.count++
	if w.block.full() {
		return w.endBlock()
	}
	return nil
}

func (w *segmentWriter) endBlock() error {
	if w.block.n == 0 {
		return nil
	}
	w.block.endFolder()
	at, piece := w.off, uint64(len(w.blocks))*4
	w.buf = w.sealer.seal(w.buf[:0], w.block.names, piece)
	names := len(w.buf)
	w.buf = w.sealer.seal(w.buf, w.block.events, piece+1)
	if err := w.write(w.buf); err != nil {
		return err
	}
	filter := w.filter.finish()
	w.filters = append(w.filters, filter...)
	w.blocks = append(w.blocks, blockInfo{
		offset: at, names: uint32(names), events: uint32(len(w.buf) - names), //nolint:gosec // bounded by the size of a block
		count: uint32(w.block.n), filter: uint32(len(filter)), first: w.first, //nolint:gosec // bounded by the size of a block
	})
	w.block.reset()
	if len(w.blocks)%filterGroup == 0 {
		return w.endGroup()
	}
	return nil
}

func (w *segmentWriter) endGroup() error {
	if len(w.filters) == 0 {
		return nil
	}
	at := w.off
	w.buf = w.sealer.seal(w.buf[:0], w.filters, uint64(len(w.groups))*4+2)
	w.groups = append(w.groups, groupInfo{at, uint32(len(w.buf))}) //nolint:gosec // bounded by the size of filters
	w.filters = w.filters[:0]
	return w.write(w.buf)
}

// finish completes the segment and returns its name. One without entries is not
// kept, and has no name.
func (w *segmentWriter) finish() (string, error) {
	if w.count == 0 {
		return "", w.abort()
	}
	err := errors.Join(w.endBlock(), w.endGroup())
	if err != nil {
		return "", errors.Join(err, w.abort())
	}
	at := w.off
	dir := w.sealer.seal(nil, w.directory(), directoryPiece)
	trailer := binary.LittleEndian.AppendUint64(nil, uint64(at))                     //nolint:gosec // not negative
	trailer = binary.LittleEndian.AppendUint64(trailer, uint64(len(dir)))            //nolint:gosec // not negative
	if err := errors.Join(w.write(dir), w.write(trailer), w.f.Close()); err != nil { // not flushed: it is a cache, and sealed
		return "", errors.Join(err, os.Remove(w.f.Name()))
	}
	return filepath.Base(w.name), os.Rename(w.f.Name(), w.name)
}

// abort removes what was written.
func (w *segmentWriter) abort() error {
	return errors.Join(w.f.Close(), os.Remove(w.f.Name()))
}

func (w *segmentWriter) directory() []byte {
	b := binary.AppendUvarint(nil, uint64(len(w.blocks)))
	for _, i := range w.blocks {
		b = binary.AppendUvarint(b, uint64(i.offset)) //nolint:gosec // not negative
		for _, n := range []uint32{i.names, i.events, i.count, i.filter} {
			b = binary.AppendUvarint(b, uint64(n))
		}
		for _, s := range [][]byte{i.first.folder, i.first.name} {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
	}
	for _, g := range w.groups {
		b = binary.AppendUvarint(b, uint64(g.offset)) //nolint:gosec // not negative
		b = binary.AppendUvarint(b, uint64(g.length))
	}
	return b
}

// segment is a segment open for reading, by many goroutines.
type segment struct {
	f      *os.File
	sealer *sealer
	blocks []blockInfo
	groups []groupInfo

	mu      sync.Mutex
	filters [][]filter // by group, once read
}

// openSegment opens a segment. One that is not there, or not ours, is a
// [kassett.Corrupt] error.
func openSegment(name string, key keyFunc) (*segment, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, damaged(err)
	}
	if err != nil {
		return nil, err
	}
	s := &segment{f: f}
	if err := s.readHead(key); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

func (s *segment) close() error { return s.f.Close() }

func (s *segment) readHead(key keyFunc) error {
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headSize)
	if info.Size() < int64(headSize+trailerSize) || s.readAt(head, 0) != nil || string(head[:len(segmentMagic)]) != segmentMagic {
		return damagedf("%s is not a segment", filepath.Base(s.f.Name()))
	}
	if s.sealer, err = newSealer(key, head[len(segmentMagic):]); err != nil {
		return err
	}
	trailer := make([]byte, trailerSize)
	if err := s.readAt(trailer, info.Size()-trailerSize); err != nil {
		return err
	}
	at, n := binary.LittleEndian.Uint64(trailer), binary.LittleEndian.Uint64(trailer[8:])
	if size := uint64(info.Size()) - trailerSize; at > size || n != size-at { //nolint:gosec // not negative
		return damagedf("its directory is not where its end says")
	}
	dir, err := s.piece(int64(at), uint32(min(n, maxPiece)), directoryPiece) //nolint:gosec // bounded by the file's size
	if err != nil {
		return err
	}
	return s.readDirectory(dir)
}

func (s *segment) readDirectory(dir []byte) error {
	r := byteReader{b: dir}
	n := r.uvarint()
	if n > uint64(len(dir)) {
		return damagedf("its directory is not whole")
	}
	s.blocks = make([]blockInfo, n)
	for i := range s.blocks {
		b := &s.blocks[i]
		b.offset = int64(r.uvarint()) //nolint:gosec // sealed by us
		for _, v := range []*uint32{&b.names, &b.events, &b.count, &b.filter} {
			*v = uint32(min(r.uvarint(), maxPiece)) //nolint:gosec // bounded
		}
		b.first = entry{folder: r.bytes(maxFolder), name: r.bytes(maxComponent)}
	}
	s.groups = make([]groupInfo, (n+filterGroup-1)/filterGroup)
	for i := range s.groups {
		s.groups[i] = groupInfo{int64(r.uvarint()), uint32(min(r.uvarint(), maxPiece))} //nolint:gosec // bounded
	}
	if r.bad || len(r.b) > 0 {
		return damagedf("its directory is not whole")
	}
	s.filters = make([][]filter, len(s.groups))
	return nil
}

func (s *segment) readAt(b []byte, off int64) error {
	if _, err := s.f.ReadAt(b, off); err != nil {
		if errors.Is(err, io.EOF) {
			return damaged(io.ErrUnexpectedEOF)
		}
		return err
	}
	return nil
}

// piece reads and opens one piece.
func (s *segment) piece(off int64, n uint32, number uint64) ([]byte, error) {
	sealed := make([]byte, n)
	if err := s.readAt(sealed, off); err != nil {
		return nil, err
	}
	return s.sealer.open(nil, sealed, number)
}

// namesOf returns the names of block i, as they stand in its piece.
func (s *segment) namesOf(i int) ([]byte, error) {
	b := &s.blocks[i]
	return s.piece(b.offset, b.names, uint64(i)*4) //nolint:gosec // not negative
}

// load returns block i, with its events.
func (s *segment) load(i int) (*block, error) {
	names, err := s.namesOf(i)
	if err != nil {
		return nil, err
	}
	info := &s.blocks[i]
	b, err := readNames(names, int(info.count))
	if err != nil {
		return nil, err
	}
	events, err := s.piece(info.offset+int64(info.names), info.events, uint64(i)*4+1) //nolint:gosec // not negative
	if err != nil {
		return nil, err
	}
	return b, b.readEvents(events)
}

// filterOf returns the filter of block i.
func (s *segment) filterOf(i int) (filter, error) {
	g := i / filterGroup
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.filters[g] == nil {
		all, err := s.piece(s.groups[g].offset, s.groups[g].length, uint64(g)*4+2) //nolint:gosec // not negative
		if err != nil {
			return nil, err
		}
		for _, b := range s.blocks[g*filterGroup : min((g+1)*filterGroup, len(s.blocks))] {
			if n := int(b.filter); n > len(all) || n == 0 || n&(n-1) != 0 {
				return nil, damagedf("a filter is not whole")
			}
			s.filters[g] = append(s.filters[g], filter(all[:b.filter]))
			all = all[b.filter:]
		}
	}
	return s.filters[g][i%filterGroup], nil
}

// cursor goes forward through a segment.
type cursor struct {
	s    *segment
	next int // block
	b    *block
	i    int
}

// peek returns the entry at the cursor, nil at the end.
func (c *cursor) peek() (*entry, error) {
	for c.b == nil || c.i >= len(c.b.entries) {
		if c.next >= len(c.s.blocks) {
			return nil, nil //nolint:nilnil // the end
		}
		b, err := c.s.load(c.next)
		if err != nil {
			return nil, err
		}
		c.b, c.i, c.next = b, 0, c.next+1
	}
	return &c.b.entries[c.i], nil
}

// seek goes forward to the first entry that is not before target.
func (c *cursor) seek(target *entry) {
	if c.b != nil {
		rest := c.b.entries[c.i:]
		if n := len(rest); n > 0 && compareEntries(&rest[n-1], target) >= 0 {
			c.i += sort.Search(n, func(i int) bool { return compareEntries(&rest[i], target) >= 0 })
			return
		}
	}
	ahead := c.s.blocks[c.next:]
	n, found := slices.BinarySearchFunc(ahead, target, func(b blockInfo, t *entry) int { return compareEntries(&b.first, t) })
	if !found && n > 0 {
		n-- // it may be in the block that begins before it
	}
	c.next += n
	c.b = nil
	if c.next >= len(c.s.blocks) {
		return
	}
	if e, err := c.peek(); err != nil || e == nil {
		return // comes again with peek
	}
	c.i = sort.Search(len(c.b.entries), func(i int) bool { return compareEntries(&c.b.entries[i], target) >= 0 })
}

// merge goes forward through several segments, the older ones first, as if they
// were one.
type merge struct {
	cursors []cursor
	at      entry // the combined entry
}

func newMerge(segments []*segment) *merge {
	m := &merge{cursors: make([]cursor, len(segments))}
	for i, s := range segments {
		m.cursors[i].s = s
	}
	return m
}

// seek goes forward to the first entry that is not before target.
func (m *merge) seek(target *entry) {
	for i := range m.cursors {
		m.cursors[i].seek(target)
	}
}

// next returns the next entry with the events of all segments, nil at the end.
// It is valid until the next call.
func (m *merge) next() (*entry, error) {
	least, err := m.peek()
	if err != nil || least == nil {
		return nil, err
	}
	m.at = entry{folder: least.folder, name: least.name, folded: least.folded, events: m.at.events[:0]}
	for i := range m.cursors {
		c := &m.cursors[i]
		e, err := c.peek()
		if err != nil {
			return nil, err
		}
		if e != nil && compareEntries(e, &m.at) == 0 {
			m.at.events = append(m.at.events, e.events...)
			c.i++
		}
	}
	return &m.at, nil
}

// peek returns the next entry with the events of one segment, nil at the end.
func (m *merge) peek() (*entry, error) {
	var least *entry
	for i := range m.cursors {
		e, err := m.cursors[i].peek()
		if err != nil {
			return nil, err
		}
		if e != nil && (least == nil || compareEntries(e, least) < 0) {
			least = e
		}
	}
	return least, nil
}
