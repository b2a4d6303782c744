package blobtable

import (
	"bufio"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"kassett"
)

// packRef is a pack of a run.
type packRef struct {
	id    kassett.ID
	index uint32 // number of the index file that names it
}

// batch is the content of index files on its way into a run.
type batch struct {
	indexes []kassett.ID
	packs   []packRef
	records []record
}

// add takes the content of one index file.
func (b *batch) add(index kassett.ID, packs iter.Seq2[kassett.ID, []Blob]) {
	number := uint32(len(b.indexes))
	b.indexes = append(b.indexes, index)
	for id, blobs := range packs {
		pack := uint32(len(b.packs))
		b.packs = append(b.packs, packRef{id, number})
		b.records = slices.Grow(b.records, len(blobs))
		for _, bl := range blobs {
			b.records = append(b.records, record{bl.ID, pack | uint32(bl.Type)<<31, bl.Offset, bl.Length, bl.Plain})
		}
	}
}

func (b *batch) reset() {
	b.indexes, b.packs, b.records = b.indexes[:0], b.packs[:0], b.records[:0]
}

// write makes a run of the batch, in dir.
func (b *batch) write(dir string, key []byte) (*run, error) {
	slices.SortFunc(b.records, func(x, y record) int { return x.compare(&y) })
	w, err := newRunWriter(dir, key)
	if err != nil {
		return nil, err
	}
	for _, id := range b.indexes {
		w.index(id)
	}
	for _, p := range b.packs {
		w.pack(p)
	}
	for i := range b.records {
		w.record(&b.records[i])
	}
	return w.finish()
}

// runWriter writes a run file: first all index files, then all packs, then all
// records in their order. It keeps the first error for finish.
type runWriter struct {
	key  []byte
	dir  string
	file *os.File
	out  *bufio.Writer
	tags cipher.AEAD
	id   [runIDSize]byte
	err  error

	page    [pageSize]byte
	used    int    // bytes of page
	number  uint64 // of page
	width   int    // of the section being written
	indexes uint64
	packs   uint64
	records uint64
}

func newRunWriter(dir string, key []byte) (*runWriter, error) {
	w := &runWriter{key: key, dir: dir, number: 1, width: indexWidth}
	_, _ = rand.Read(w.id[:]) // never fails: it ends the program instead
	var err error
	if w.tags, err = runTags(key, w.id[:]); err != nil {
		return nil, err
	}
	if w.file, err = os.CreateTemp(dir, "*.tmp"); err != nil {
		return nil, err
	}
	w.out = bufio.NewWriterSize(w.file, 256<<10)
	_, w.err = w.out.Write(w.page[:]) // the header comes last
	return w, nil
}

func (w *runWriter) index(id kassett.ID) {
	copy(w.slot(indexWidth), id[:])
	w.indexes++
}

func (w *runWriter) pack(p packRef) {
	b := w.slot(packWidth)
	copy(b, p.id[:])
	binary.LittleEndian.PutUint32(b[32:], p.index)
	w.packs++
}

func (w *runWriter) record(r *record) {
	r.put(w.slot(recordWidth))
	w.records++
}

// slot returns room for the next entry. Another width begins a new section.
func (w *runWriter) slot(width int) []byte {
	if w.used+width > pageData || w.width != width {
		w.endPage()
		w.width = width
	}
	w.used += width
	return w.page[w.used-width : w.used]
}

// endPage writes the page, if there is anything in it.
func (w *runWriter) endPage() {
	if w.used == 0 {
		return
	}
	clear(w.page[w.used:])
	w.tags.Seal(w.page[:pageData], pageNonce(w.number), nil, w.page[:pageData])
	if w.err == nil {
		_, w.err = w.out.Write(w.page[:])
	}
	w.number++
	w.used = 0
}

// finish writes the header, gives the file its name and opens it.
func (w *runWriter) finish() (*run, error) {
	w.endPage()
	head := append(w.page[:0], runMagic...)
	head = append(head, w.id[:]...)
	head = binary.LittleEndian.AppendUint64(head, w.indexes)
	head = binary.LittleEndian.AppendUint64(head, w.packs)
	head = binary.LittleEndian.AppendUint64(head, w.records)
	clear(w.page[len(head):])
	w.tags.Seal(w.page[:pageData], pageNonce(0), nil, w.page[:pageData])
	if w.err == nil {
		w.err = w.out.Flush()
	}
	if w.err == nil {
		_, w.err = w.file.WriteAt(w.page[:], 0)
	}
	// Not flushed to disk: after a power cut the tags tell, and the run is
	// made anew.
	temp := w.file.Name()
	w.err = errors.Join(w.err, w.file.Close())
	name := filepath.Join(w.dir, hex.EncodeToString(w.id[:16])+runSuffix)
	if w.err == nil {
		w.err = os.Rename(temp, name)
	}
	if w.err != nil {
		return nil, errors.Join(w.err, os.Remove(temp))
	}
	return openRun(name, w.key)
}

// mergeRuns makes one run of several, without what the index files in gone
// have named. The runs stay as they are. nil is returned when nothing is left.
func mergeRuns(dir string, key []byte, runs []*run, gone map[kassett.ID]struct{}) (_ *run, err error) {
	w, err := newRunWriter(dir, key)
	if err != nil {
		return nil, err
	}
	done := false
	defer func() {
		if !done {
			err = errors.Join(err, w.file.Close(), os.Remove(w.file.Name()))
		}
	}()
	cursors := make([]*cursor, len(runs))
	for i, r := range runs {
		cursors[i] = &cursor{run: r}
		cursors[i].indexes = make([]uint32, len(r.indexes))
		for n, id := range r.indexes {
			cursors[i].indexes[n] = dropped
			if _, is := gone[id]; !is {
				cursors[i].indexes[n] = uint32(w.indexes)
				w.index(id)
			}
		}
	}
	if w.indexes == 0 {
		return nil, nil
	}
	for _, c := range cursors {
		if err := c.movePacks(w); err != nil {
			return nil, err
		}
	}
	if w.packs >= treeBit {
		return nil, fmt.Errorf("%d packs are more than one run can have", w.packs)
	}
	if err := mergeRecords(cursors, w.record); err != nil {
		return nil, err
	}
	done = true
	return w.finish()
}

// dropped is the new number of what is left out of a merge.
const dropped = ^uint32(0)

// cursor reads the records of one run in their order.
type cursor struct {
	run     *run
	pos     uint64
	rec     record
	indexes []uint32 // new numbers of the run's index files; only for a merge
	packs   []uint32 // new numbers of the run's packs; nil = keep
}

// movePacks gives the run's packs new numbers.
func (c *cursor) movePacks(w *runWriter) (err error) {
	defer c.run.guard(debug.SetPanicOnFault(true), &err)
	c.packs = make([]uint32, c.run.packs)
	for n := range c.packs {
		id, index, err := c.run.packAt(uint32(n))
		if err != nil {
			return err
		}
		if uint64(index) >= uint64(len(c.indexes)) {
			return &badRunError{c.run, errPage}
		}
		c.packs[n] = dropped
		if c.indexes[index] != dropped {
			c.packs[n] = uint32(w.packs)
			w.pack(packRef{id, c.indexes[index]})
		}
	}
	return nil
}

// next moves to the next record that is not dropped.
func (c *cursor) next() (ok bool, err error) {
	defer c.run.guard(debug.SetPanicOnFault(true), &err)
	for c.pos < c.run.records {
		if c.rec, err = c.run.at(c.pos); err != nil {
			return false, err
		}
		c.pos++
		if c.packs == nil {
			return true, nil
		}
		n := c.rec.pack &^ treeBit
		if uint64(n) >= uint64(len(c.packs)) {
			return false, &badRunError{c.run, errPage}
		}
		if c.packs[n] != dropped {
			c.rec.pack = c.rec.pack&treeBit | c.packs[n]
			return true, nil
		}
	}
	return false, nil
}

// mergeRecords gives fn the records of all cursors in their order.
func mergeRecords(cursors []*cursor, fn func(*record)) error {
	return mergeCursors(cursors, func(c *cursor) bool {
		fn(&c.rec)
		return true
	})
}

// mergeCursors calls fn with the cursor whose record is next in order, until it
// returns false. A binary heap keeps the least record in front.
func mergeCursors(cursors []*cursor, fn func(*cursor) bool) error {
	var heap []*cursor
	for _, c := range cursors {
		if ok, err := c.next(); err != nil {
			return err
		} else if ok {
			heap = append(heap, c)
		}
	}
	slices.SortFunc(heap, func(a, b *cursor) int { return a.rec.compare(&b.rec) })
	for len(heap) > 0 {
		if !fn(heap[0]) {
			return nil
		}
		ok, err := heap[0].next()
		if err != nil {
			return err
		}
		if !ok {
			heap[0] = heap[len(heap)-1]
			heap = heap[:len(heap)-1]
		}
		for i := 0; ; {
			least := i
			for _, child := range [2]int{2*i + 1, 2*i + 2} {
				if child < len(heap) && heap[child].rec.compare(&heap[least].rec) < 0 {
					least = child
				}
			}
			if least == i {
				break
			}
			heap[i], heap[least] = heap[least], heap[i]
			i = least
		}
	}
	return nil
}
