package blobtable

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync/atomic"

	"kassett"
)

// A run is an immutable file of sorted, fixed-width records: one for each place
// of each blob that some index files name. It is made of pages, each with a tag
// that only the master key can make: docs/formats/blob-table.md.
//
//	page 0: header | index file IDs | packs | records, by blob ID and type
const (
	pageSize = 4096
	tagSize  = 16
	pageData = pageSize - tagSize

	indexWidth  = 32     // ID
	packWidth   = 32 + 4 // ID ‖ number of the index file that names it
	recordWidth = 32 + 4*4

	indexesPerPage = pageData / indexWidth
	packsPerPage   = pageData / packWidth
	recordsPerPage = pageData / recordWidth

	runIDSize = 32
	runHeader = 16 + runIDSize + 3*8
)

// runMagic names the format and its version.
const runMagic = "kassett blobs 1\n"

// treeBit of a record's pack number says that the blob is a tree.
const treeBit = 1 << 31

// record is one place of one blob.
type record struct {
	id                    kassett.ID
	pack                  uint32 // number of the pack in its run, and treeBit
	offset, length, plain uint32
}

func (r *record) handle() BlobHandle {
	return BlobHandle{Type: BlobType(r.pack >> 31), ID: r.id}
}

func (r *record) blob() Blob { return Blob{r.handle(), r.offset, r.length, r.plain} }

// compare orders records by ID, type and pack.
func (r *record) compare(o *record) int {
	if c := bytes.Compare(r.id[:], o.id[:]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(r.pack, o.pack), cmp.Compare(r.offset, o.offset))
}

func (r *record) put(b []byte) {
	copy(b, r.id[:])
	binary.LittleEndian.PutUint32(b[32:], r.pack)
	binary.LittleEndian.PutUint32(b[36:], r.offset)
	binary.LittleEndian.PutUint32(b[40:], r.length)
	binary.LittleEndian.PutUint32(b[44:], r.plain)
}

func getRecord(b []byte) record {
	_ = b[recordWidth-1]
	return record{
		kassett.ID(b[:32]), binary.LittleEndian.Uint32(b[32:]),
		binary.LittleEndian.Uint32(b[36:]), binary.LittleEndian.Uint32(b[40:]), binary.LittleEndian.Uint32(b[44:]),
	}
}

// run is an open run. Its methods are safe for many goroutines. Every method
// that reads pages may find that the file is not what was written; it returns a
// [badRunError] then, and the run must be made anew.
type run struct {
	path string
	data []byte // the mapped file
	// unmap gives data back.
	unmap func() error
	tags  cipher.AEAD
	// checked has a bit for each page whose tag has been seen to fit.
	checked []atomic.Uint32

	indexes   []kassett.ID // index files the run covers
	packs     uint64
	records   uint64
	packPage  uint64 // first page of the packs
	firstPage uint64 // first page of the records

	users   atomic.Int32 // the table, iterators, sets
	retired atomic.Bool  // the file goes with the last user
}

// badRunError says that a run cannot be trusted.
type badRunError struct {
	run *run
	err error
}

func (e *badRunError) Error() string { return fmt.Sprintf("blob table file %s: %v", e.run.path, e.err) }
func (e *badRunError) Unwrap() error { return e.err }

var errPage = errors.New("a page is not what was written")

// runTags makes, of the secret of the table, the key that tags the pages of one
// run. The tag is a GMAC
// (NIST SP 800-38D); the nonce is the number of the page.
func runTags(key []byte, id []byte) (cipher.AEAD, error) {
	k, err := hkdf.Key(sha256.New, key, id, "kassett blob table", 32)
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

func pageNonce(page uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 4, 12), page)
}

func pages(n uint64, perPage uint64) uint64 { return (n + perPage - 1) / perPage }

// openRun maps a run file and reads its header and the list of index files.
func openRun(path string, key []byte) (r *run, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r = &run{path: path}
	r.users.Store(1)
	head := make([]byte, pageSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, &badRunError{r, noEOF(err)}
	}
	if string(head[:len(runMagic)]) != runMagic {
		return nil, &badRunError{r, errors.New("it is of another version, or no blob table")}
	}
	rest := head[len(runMagic):]
	if r.tags, err = runTags(key, rest[:runIDSize]); err != nil {
		return nil, err
	}
	if _, err := r.tags.Open(nil, pageNonce(0), head[pageData:], head[:pageData]); err != nil {
		return nil, &badRunError{r, errPage}
	}
	rest = rest[runIDSize:]
	var indexes uint64
	indexes, r.packs, r.records = binary.LittleEndian.Uint64(rest), binary.LittleEndian.Uint64(rest[8:]), binary.LittleEndian.Uint64(rest[16:])
	r.packPage = 1 + pages(indexes, indexesPerPage)
	r.firstPage = r.packPage + pages(r.packs, packsPerPage)
	total := r.firstPage + pages(r.records, recordsPerPage)
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case uint64(info.Size()) != total*pageSize:
		return nil, &badRunError{r, fmt.Errorf("it has %d bytes, want %d", info.Size(), total*pageSize)}
	}
	if r.data, r.unmap, err = mapFile(f, int64(total*pageSize)); err != nil {
		return nil, err
	}
	r.checked = make([]atomic.Uint32, total/32+1)
	if err := r.readIndexes(indexes); err != nil {
		return nil, errors.Join(err, r.unmap())
	}
	return r, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readIndexes reads the list of covered index files. Its length was tagged.
func (r *run) readIndexes(n uint64) (err error) {
	defer r.guard(debug.SetPanicOnFault(true), &err)
	r.indexes = make([]kassett.ID, 0, n)
	for i := range n {
		p, err := r.page(1 + i/indexesPerPage)
		if err != nil {
			return err
		}
		r.indexes = append(r.indexes, kassett.ID(p[i%indexesPerPage*indexWidth:][:indexWidth]))
	}
	return nil
}

// guard makes the fault of a page that cannot be read, because the file was cut
// or the disk is failing, into an error. It is used as
//
//	defer r.guard(debug.SetPanicOnFault(true), &err)
//
// in the function that touches pages, since faults come in its goroutine.
func (r *run) guard(before bool, err *error) {
	debug.SetPanicOnFault(before)
	switch f := recover().(type) {
	case nil:
	case interface {
		error
		Addr() uintptr
	}:
		*err = &badRunError{r, f}
	default:
		panic(f)
	}
}

// page returns the content of a page whose tag fits.
func (r *run) page(n uint64) ([]byte, error) {
	p := r.data[n*pageSize:][:pageSize:pageSize]
	bit := uint32(1) << (n % 32)
	if r.checked[n/32].Load()&bit == 0 {
		if _, err := r.tags.Open(nil, pageNonce(n), p[pageData:], p[:pageData]); err != nil {
			return nil, &badRunError{r, errPage}
		}
		r.checked[n/32].Or(bit)
	}
	return p[:pageData], nil
}

// at returns the record at a position.
func (r *run) at(pos uint64) (record, error) {
	p, err := r.page(r.firstPage + pos/recordsPerPage)
	if err != nil {
		return record{}, err
	}
	return getRecord(p[pos%recordsPerPage*recordWidth:]), nil
}

// packAt returns a pack's ID and the number of the index file that names it.
func (r *run) packAt(n uint32) (kassett.ID, uint32, error) {
	n &^= treeBit
	if uint64(n) >= r.packs {
		return kassett.ID{}, 0, &badRunError{r, errPage}
	}
	p, err := r.page(r.packPage + uint64(n)/packsPerPage)
	if err != nil {
		return kassett.ID{}, 0, err
	}
	p = p[n%packsPerPage*packWidth:]
	return kassett.ID(p[:32]), binary.LittleEndian.Uint32(p[32:]), nil
}

// halveEvery is how often a step of a search halves instead of guessing the
// position from the ID. IDs are hashes, so guesses are good, unless someone
// chose the IDs.
const halveEvery = 4

// find returns the position of the first record of a blob.
func (r *run) find(h BlobHandle) (pos uint64, ok bool, err error) {
	defer r.guard(debug.SetPanicOnFault(true), &err)
	key := binary.BigEndian.Uint64(h.ID[:])
	// The first record not below h is at lo, or at hi, or between them.
	lo, hi := uint64(0), r.records
	loKey, hiKey := uint64(0), ^uint64(0)
	for try := 0; lo < hi; try++ {
		guess := lo + (hi-lo)/2
		if try%halveEvery != halveEvery-1 && hiKey > loKey {
			guess = lo + uint64(float64(hi-lo)*(float64(key-loKey)/float64(hiKey-loKey)))
			guess = min(guess, hi-1)
		}
		n := guess / recordsPerPage
		p, err := r.page(r.firstPage + n)
		if err != nil {
			return 0, false, err
		}
		first := n * recordsPerPage
		count := min(recordsPerPage, r.records-first)
		switch i := searchPage(p[:count*recordWidth], key, h); i {
		case 0: // h is not above the first record of the page
			hi, hiKey = first, binary.BigEndian.Uint64(p)
			if hi > lo {
				continue
			}
			return first, handleAt(p, 0) == h, nil
		case count: // h is above all
			lo, loKey = first+count, binary.BigEndian.Uint64(p[(count-1)*recordWidth:])
		default:
			return first + i, handleAt(p, i) == h, nil
		}
	}
	if lo == r.records {
		return 0, false, nil
	}
	rec, err := r.at(lo)
	return lo, err == nil && rec.handle() == h, err
}

// handleAt returns the handle of the record i of a page.
func handleAt(p []byte, i uint64) BlobHandle {
	p = p[i*recordWidth:][:recordWidth]
	return BlobHandle{Type: BlobType(p[35] >> 7), ID: kassett.ID(p[:32])}
}

// searchPage returns the index of the first record in p that is not below h,
// whose ID begins with key.
func searchPage(p []byte, key uint64, h BlobHandle) uint64 {
	lo, hi := 0, len(p)/recordWidth
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		rec := p[mid*recordWidth:][:recordWidth]
		var below bool
		if k := binary.BigEndian.Uint64(rec); k != key {
			below = k < key
		} else if c := bytes.Compare(rec[8:32], h.ID[8:]); c != 0 {
			below = c < 0
		} else {
			below = BlobType(rec[35]>>7) < h.Type
		}
		if below {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return uint64(lo)
}

// places appends all places of a blob.
func (r *run) places(all []Location, h BlobHandle) (_ []Location, err error) {
	pos, ok, err := r.find(h)
	if !ok || err != nil {
		return all, err
	}
	defer r.guard(debug.SetPanicOnFault(true), &err)
	for ; pos < r.records; pos++ {
		rec, err := r.at(pos)
		if err != nil || rec.handle() != h {
			return all, err
		}
		pack, _, err := r.packAt(rec.pack)
		if err != nil {
			return all, err
		}
		all = append(all, Location{pack, rec.blob()})
	}
	return all, nil
}

// first returns the first place of a blob.
func (r *run) first(h BlobHandle) (l Location, ok bool, err error) {
	pos, ok, err := r.find(h)
	if !ok || err != nil {
		return Location{}, false, err
	}
	defer r.guard(debug.SetPanicOnFault(true), &err)
	rec, err := r.at(pos)
	if err != nil {
		return Location{}, false, err
	}
	pack, _, err := r.packAt(rec.pack)
	return Location{pack, rec.blob()}, err == nil, err
}

// release ends one use. The last one unmaps the run, and removes the file if it
// is retired.
func (r *run) release() error {
	if r.users.Add(-1) > 0 {
		return nil
	}
	err := r.unmap()
	if r.retired.Load() {
		if e := os.Remove(r.path); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
