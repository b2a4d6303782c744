package repo

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"

	"kassett"
)

// An index file says which blobs are where in which packs (restic's design
// document, "Indexing"). Any number of index files may exist; their union
// counts. Here one is written when it has this many blobs, or bytes of JSON, or
// is this old.
const (
	indexBlobs = 50_000
	indexBytes = 8 << 20
	indexAge   = 10 * time.Minute
)

// indexHead and indexTail are around the packs of an index file.
const (
	indexHead = `{"packs":[`
	indexTail = `]}`
)

// appendPackJSON appends one element of "packs", as restic writes it.
func appendPackJSON(dst []byte, pack kassett.ID, blobs []Blob) []byte {
	dst = append(dst, `{"id":"`...)
	dst = hex.AppendEncode(dst, pack[:])
	dst = append(dst, `","blobs":[`...)
	for i, b := range blobs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"id":"`...)
		dst = hex.AppendEncode(dst, b.ID[:])
		dst = append(dst, `","type":"`...)
		dst = append(dst, b.Type.String()...)
		dst = append(dst, `","offset":`...)
		dst = strconv.AppendUint(dst, uint64(b.Offset), 10)
		dst = append(dst, `,"length":`...)
		dst = strconv.AppendUint(dst, uint64(b.Length), 10)
		if b.Plain != 0 {
			dst = append(dst, `,"uncompressed_length":`...)
			dst = strconv.AppendUint(dst, uint64(b.Plain), 10)
		}
		dst = append(dst, '}')
	}
	return append(dst, `]}`...)
}

// indexBuilder gathers packs for one index file. Its zero value is empty.
type indexBuilder struct {
	json  []byte
	packs []indexedPack
	blobs int
	since time.Time     // when the first pack came
	age   time.Duration // that it may reach; 0 = indexAge
}

// indexedPack is a pack with its blobs, by offset.
type indexedPack struct {
	id    kassett.ID
	blobs []Blob
}

func (b *indexBuilder) add(p indexedPack) {
	if len(b.packs) == 0 {
		b.json = append(b.json, indexHead...)
		b.since = time.Now()
	} else {
		b.json = append(b.json, ',')
	}
	b.json = appendPackJSON(b.json, p.id, p.blobs)
	b.packs = append(b.packs, p)
	b.blobs += len(p.blobs)
}

// all yields the packs with their blobs.
func (b *indexBuilder) all() iter.Seq2[kassett.ID, []Blob] {
	return func(yield func(kassett.ID, []Blob) bool) {
		for _, p := range b.packs {
			if !yield(p.id, p.blobs) {
				return
			}
		}
	}
}

// full reports whether the file should be written before n more blobs come.
func (b *indexBuilder) full(n int) bool {
	const blobJSON = 170 // bytes, about
	return len(b.packs) > 0 && (b.blobs+n > indexBlobs || len(b.json)+n*blobJSON > indexBytes || time.Since(b.since) >= cmp.Or(b.age, indexAge))
}

// bytes returns the JSON of the file. Nothing may be added afterwards.
func (b *indexBuilder) bytes() []byte {
	b.json = append(b.json, indexTail...)
	return b.json
}

// indexContent is what an index file says. Its memory is used again by the
// next decode.
type indexContent struct {
	packs []packSpan
	blobs []Blob
}

// packSpan is a pack and how many of the blobs are its own.
type packSpan struct {
	id    kassett.ID
	count int
}

// all yields the packs with their blobs.
func (c *indexContent) all() iter.Seq2[kassett.ID, []Blob] {
	return func(yield func(kassett.ID, []Blob) bool) {
		rest := c.blobs
		for _, p := range c.packs {
			if !yield(p.id, rest[:p.count]) {
				return
			}
			rest = rest[p.count:]
		}
	}
}

// decode reads the JSON of an index file. What restic writes goes a fast way;
// any other JSON of the same meaning is taken too. Unknown fields, and
// "supersedes" that nobody acts on any more, are passed over. Values that no
// writer can have meant are an error, a pack that is named twice among them.
func (c *indexContent) decode(data []byte) error {
	if !c.scan(data) {
		if err := c.parse(data); err != nil {
			return err
		}
	}
	seen := make(map[kassett.ID]struct{}, len(c.packs))
	for id, blobs := range c.all() {
		if _, twice := seen[id]; twice {
			return fmt.Errorf("pack %s is named twice", id)
		}
		if id.IsZero() {
			return errors.New("a pack ID is zero")
		}
		seen[id] = struct{}{}
		for _, b := range blobs {
			if err := checkBlob(b); err != nil {
				return fmt.Errorf("blob %s in pack %s: %w", b.ID, id, err)
			}
		}
	}
	return nil
}

// parse reads any JSON.
func (c *indexContent) parse(data []byte) error {
	c.packs, c.blobs = c.packs[:0], c.blobs[:0]
	var file struct {
		Packs []struct {
			ID    kassett.ID `json:"id"`
			Blobs []struct {
				ID     kassett.ID `json:"id"`
				Type   string     `json:"type"`
				Offset uint32     `json:"offset"`
				Length uint32     `json:"length"`
				Plain  uint32     `json:"uncompressed_length"`
			} `json:"blobs"`
		} `json:"packs"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return err
	}
	for _, p := range file.Packs {
		for _, b := range p.Blobs {
			var t BlobType
			switch b.Type {
			case "data":
			case "tree":
				t = TreeBlob
			default:
				return fmt.Errorf("blob %s in pack %s has the unknown type %q", b.ID, p.ID, b.Type)
			}
			c.blobs = append(c.blobs, Blob{
				BlobHandle: BlobHandle{Type: t, ID: b.ID}, Offset: b.Offset, Length: b.Length, Plain: b.Plain,
			})
		}
		c.packs = append(c.packs, packSpan{p.ID, len(p.Blobs)})
	}
	return nil
}

// scan reads JSON without spaces and with the fields in restic's order, and
// reports whether it was such JSON to its end.
func (c *indexContent) scan(data []byte) bool {
	c.packs, c.blobs = c.packs[:0], c.blobs[:0]
	s := indexScanner{data}
	if !s.literal(indexHead) {
		return false
	}
	if s.literal(indexTail) {
		return s.atEnd()
	}
	for {
		var p packSpan
		if !s.literal(`{"id":"`) || !s.hexID(&p.id) || !s.literal(`","blobs":[`) {
			return false
		}
		for first := len(c.blobs); ; {
			var b Blob
			if !s.blob(&b) {
				return false
			}
			c.blobs = append(c.blobs, b)
			if s.literal(",") {
				continue
			}
			p.count = len(c.blobs) - first
			break
		}
		c.packs = append(c.packs, p)
		if !s.literal(`]}`) {
			return false
		}
		if s.literal(",") {
			continue
		}
		return s.literal(indexTail) && s.atEnd()
	}
}

// indexScanner takes tokens off the front of JSON.
type indexScanner struct{ rest []byte }

func (s *indexScanner) blob(b *Blob) bool {
	if !s.literal(`{"id":"`) || !s.hexID(&b.ID) {
		return false
	}
	switch {
	case s.literal(`","type":"data","offset":`):
	case s.literal(`","type":"tree","offset":`):
		b.Type = TreeBlob
	default:
		return false
	}
	if !s.number(&b.Offset) || !s.literal(`,"length":`) || !s.number(&b.Length) {
		return false
	}
	if s.literal(`,"uncompressed_length":`) && !s.number(&b.Plain) {
		return false
	}
	return s.literal("}")
}

func (s *indexScanner) literal(l string) bool {
	if len(s.rest) < len(l) || string(s.rest[:len(l)]) != l {
		return false
	}
	s.rest = s.rest[len(l):]
	return true
}

func (s *indexScanner) hexID(id *kassett.ID) bool {
	if len(s.rest) < 2*len(id) {
		return false
	}
	var bad byte
	for i := range id {
		hi, lo := hexDigit[s.rest[2*i]], hexDigit[s.rest[2*i+1]]
		bad |= hi | lo
		id[i] = hi<<4 | lo
	}
	s.rest = s.rest[2*len(id):]
	return bad < 16
}

// hexDigit is the value of a lower-case hexadecimal digit, or 255.
var hexDigit = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, c := range []byte("0123456789abcdef") {
		t[c] = byte(i)
	}
	return t
}()

// number reads what JSON allows of an integer that fits.
func (s *indexScanner) number(n *uint32) bool {
	var v uint64
	i := 0
	for ; i < len(s.rest) && i < 11 && s.rest[i]-'0' <= 9; i++ {
		v = v*10 + uint64(s.rest[i]-'0')
	}
	if i == 0 || i == 11 || v > 1<<32-1 || i > 1 && s.rest[0] == '0' {
		return false
	}
	*n = uint32(v)
	s.rest = s.rest[i:]
	return true
}

// atEnd reports whether nothing but white space is left.
func (s *indexScanner) atEnd() bool { return len(bytes.TrimLeft(s.rest, " \t\r\n")) == 0 }
