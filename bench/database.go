//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
)

// The sizes of PostgreSQL, whose folder this looks like.
const (
	pageSize    = 8 << 10
	segmentSize = 1 << 30

	databaseSize = 2 << 30 // bytes
	databaseSeed = 4
)

// relation is a table or an index of the database.
type relation struct {
	id    int
	share float64 // of the database's size
	page  func(r *rand.Rand, p []byte, number int)
}

var relations = []relation{
	{16401, 0.60, resultPage}, // more than a segment
	{16407, 0.25, notePage},
	{16412, 0.15, indexPage},
}

func generateDatabase(dir string, scale float64) error {
	base := filepath.Join(dir, "base", "16384")
	for _, rel := range relations {
		pages := scaled(int(rel.share*databaseSize)/pageSize, scale, 8)
		const segmentPages = segmentSize / pageSize
		for first := 0; first < pages; first += segmentPages {
			path := filepath.Join(base, fmt.Sprint(rel.id))
			if first > 0 {
				path += fmt.Sprintf(".%d", first/segmentPages)
			}
			if err := writeSegment(path, rel, first, min(segmentPages, pages-first)); err != nil {
				return err
			}
		}
	}
	return writeSmallFiles(dir, scaled(300, scale, 10))
}

// writeSegment writes pages of a relation, a mebibyte at a time.
func writeSegment(path string, rel relation, first, pages int) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const batch = 128
	return each((pages+batch-1)/batch, func(i int) error {
		n := min(batch, pages-i*batch)
		b := make([]byte, n*pageSize)
		for k := range n {
			number := first + i*batch + k
			rel.page(seeded(databaseSeed+uint64(rel.id), number), b[k*pageSize:(k+1)*pageSize], number)
		}
		_, err := f.WriteAt(b, int64(i*batch)*pageSize)
		return err
	})
}

// writeSmallFiles adds the catalogues, states and settings around the data.
func writeSmallFiles(dir string, n int) error {
	for i := range n {
		r := seeded(databaseSeed, i)
		b := make([]byte, pageSize*r.IntN(9)) // some are empty
		for p := 0; p < len(b); p += pageSize {
			indexPage(r, b[p:p+pageSize], i*100+p/pageSize)
		}
		if err := writeFile(filepath.Join(dir, "base", "1", fmt.Sprint(1200+i)), b); err != nil {
			return err
		}
	}
	control := make([]byte, pageSize)
	fillRandom(seeded(databaseSeed, -1), control[:296])
	for name, b := range map[string][]byte{
		"PG_VERSION": []byte("17\n"), "global/pg_control": control, "pg_xact/0000": make([]byte, 256<<10),
		"postgresql.conf": []byte("shared_buffers = 128MB\nwal_level = replica\n"), "pg_notify/0000": make([]byte, pageSize),
	} {
		if err := writeFile(filepath.Join(dir, name), b); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "pg_tblspc"), 0o700); err != nil {
		return err
	}
	return os.Symlink("/srv/tablespace/16390", filepath.Join(dir, "pg_tblspc", "16390"))
}

// page lays out items as PostgreSQL's bufpage.h does: header, line pointers,
// free room, tuples from the end.
type page struct {
	b            []byte
	lower, upper int
}

const pageHeader = 24

func newPage(r *rand.Rand, b []byte, number, special int) *page {
	binary.LittleEndian.PutUint64(b, 0x1_0000_0000+uint64(number)*8192+r.Uint64()%8192&^7) // log position
	binary.LittleEndian.PutUint16(b[18:], pageSize|4)                                      // size and layout version
	return &page{b: b, lower: pageHeader, upper: pageSize - special}
}

// add places a tuple, or returns false when the page is full.
func (p *page) add(tuple []byte) bool {
	size := (len(tuple) + 7) &^ 7
	if p.upper-size < p.lower+4+64 {
		binary.LittleEndian.PutUint16(p.b[12:], uint16(p.lower))
		binary.LittleEndian.PutUint16(p.b[14:], uint16(p.upper))
		return false
	}
	p.upper -= size
	copy(p.b[p.upper:], tuple)
	binary.LittleEndian.PutUint32(p.b[p.lower:], uint32(p.upper)|1<<15|uint32(len(tuple))<<17)
	p.lower += 4
	return true
}

// heapTuple returns the header of a row: htup_details.h.
func heapTuple(r *rand.Rand, number, item, columns int) []byte {
	t := make([]byte, 24, 256)
	binary.LittleEndian.PutUint32(t, uint32(7000+number/40+r.IntN(2))) // the transaction that wrote it
	binary.LittleEndian.PutUint32(t[12:], uint32(number))
	binary.LittleEndian.PutUint16(t[16:], uint16(item))
	binary.LittleEndian.PutUint16(t[18:], uint16(columns))
	binary.LittleEndian.PutUint16(t[20:], 0x0902)
	t[22] = 24
	return t
}

// resultPage is full of laboratory results: numbers, codes, a few words.
func resultPage(r *rand.Rand, b []byte, number int) {
	p := newPage(r, b, number, 0)
	patient := r.IntN(200_000)
	for item := 1; ; item++ {
		if item%9 == 0 {
			patient = r.IntN(200_000) // results come in panels
		}
		code := r.IntN(40)
		t := heapTuple(r, number, item, 9)
		t = binary.LittleEndian.AppendUint64(t, uint64(number)*64+uint64(item))
		t = binary.LittleEndian.AppendUint32(t, uint32(patient))
		t = binary.LittleEndian.AppendUint32(t, uint32(1000+code))
		t = binary.LittleEndian.AppendUint64(t, 790_000_000_000_000+uint64(number)*60_000_000+uint64(item/9)*1_000_000)
		t = binary.LittleEndian.AppendUint64(t, math.Float64bits(float64(code)+float64(r.IntN(100))/10))
		t = append(t, []string{"\rmmol/L", "\rmg/dL", "\r10^9/L", "\rU/L"}[code%4]...)
		t = append(t, "\x05F\x09N\x1bLaboratory"...)
		t = append(t, stockPhrases()[code]...)
		if !p.add(t) {
			return
		}
	}
}

// notePage is full of rows with free text.
func notePage(r *rand.Rand, b []byte, number int) {
	p := newPage(r, b, number, 0)
	for item := 1; ; item++ {
		t := heapTuple(r, number, item, 5)
		t = binary.LittleEndian.AppendUint64(t, uint64(number)*16+uint64(item))
		t = binary.LittleEndian.AppendUint32(t, uint32(r.IntN(200_000)))
		for range 3 {
			t = append(t, stockPhrases()[r.IntN(400)]...)
		}
		t = appendWords(t, r, 6)
		if !p.add(t) {
			return
		}
	}
}

// indexPage is a leaf of a B-tree over numbers: nbtree.h.
func indexPage(r *rand.Rand, b []byte, number int) {
	const special, perPage = 16, 300
	p := newPage(r, b, number, special)
	binary.LittleEndian.PutUint32(b[pageSize-special:], uint32(max(0, number-1)))
	binary.LittleEndian.PutUint32(b[pageSize-special+4:], uint32(number+1))
	binary.LittleEndian.PutUint16(b[16:], pageSize-special)
	for i := range perPage {
		var t [16]byte
		row := number*perPage + i
		binary.LittleEndian.PutUint32(t[:], uint32(row/64+r.IntN(3)))
		binary.LittleEndian.PutUint16(t[4:], uint16(1+row%64))
		binary.LittleEndian.PutUint16(t[6:], uint16(len(t)))
		binary.LittleEndian.PutUint64(t[8:], uint64(row))
		if !p.add(t[:]) {
			return
		}
	}
}

// stockPhrases are what people choose from lists.
var stockPhrases = sync.OnceValue(func() [][]byte {
	all := make([][]byte, 400)
	for i := range all {
		r := seeded(databaseSeed, 1_000_000+i)
		all[i] = appendWords([]byte{byte(r.IntN(256))}, r, 3+r.IntN(6))
	}
	return all
})

// changeDatabase rewrites one page of a hundred in each larger file: half of
// them among the newest, half anywhere. A rewritten page has a new log position
// and another row.
func changeDatabase(dir string, seed uint64) error {
	n := 0
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		fi, err := e.Info()
		if err != nil || fi.Size() < 8*pageSize {
			return err
		}
		n++
		return changePages(path, int(fi.Size()/pageSize), seeded(seed+3000, n))
	})
}

func changePages(path string, pages int, r *rand.Rand) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := make([]byte, pageSize)
	for k := range (pages + 99) / 100 {
		at := r.IntN(pages)
		if k%2 == 0 {
			at = pages - 1 - r.IntN(1+pages/20)
		}
		if _, err := f.ReadAt(b, int64(at)*pageSize); err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(b, 0x2_0000_0000+r.Uint64()%(1<<32))
		row := pageHeader + r.IntN(pageSize-512)
		fillRandom(r, b[row:row+16])
		copy(b[row+16:], appendWords(nil, r, 12))
		if _, err := f.WriteAt(b, int64(at)*pageSize); err != nil {
			return err
		}
	}
	return nil
}
