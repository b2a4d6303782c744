package parity

import (
	"bufio"
	"bytes"
	"crypto/md5" //nolint:gosec // the format's checksum; what is stored is proved by SHA-256
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"kassett"
)

// A PAR2 file is a row of packets, in any order, some of them more than once.
// Numbers are little-endian, lengths are multiples of four:
//
//	┌──────────┬──────────┬────────┬──────────┬─────────┬────────┐
//	│ magic 8  │ length 8 │ MD5 16 │ set ID 16│ type 16 │ body … │
//	└──────────┴──────────┴────────┴──────────┴─────────┴────────┘
//	            of all               ╰─ MD5 is of all this ──╯
const (
	magic      = "PAR2\x00PKT"
	headerSize = 64
	sumAt      = 16 // offset of the MD5
	sealedAt   = 32 // offset of what it is taken of
	typeAt     = 48
)

// The types of packet that are used here.
const (
	typeMain     = "PAR 2.0\x00Main\x00\x00\x00\x00"
	typeFile     = "PAR 2.0\x00FileDesc"
	typeSums     = "PAR 2.0\x00IFSC\x00\x00\x00\x00" // of a file's input slices
	typeRecovery = "PAR 2.0\x00RecvSlic"
	typeCreator  = "PAR 2.0\x00Creator\x00"
)

// creator is what a set says of its maker; a multiple of four bytes.
const creator = "Kassett: restic repository files"

// Bounds of what is read. Our own sets stay far below.
const (
	maxSlice  = 64 << 20         // bytes of one slice
	maxPacket = maxSlice + 4<<10 // bytes of one packet
	maxName   = 1 << 10          // bytes of a file's name
	maxWaste  = 1 << 30          // bytes of damaged packets in one file
	sumSize   = md5.Size + 4     // of an input slice: MD5 and CRC-32
	headSize  = 16 << 10         // bytes of a file that its second MD5 is of
	fileFixed = 3*md5.Size + 8   // a file description without the name
	mainFixed = 8 + 4            // a main packet without its list
	minSlice  = 1 << 10          // bytes of the smallest slice that is made
	topSlice  = 8 << 20          // bytes of the largest one
)

type sum [md5.Size]byte

// sliceSum are the checksums of one input slice, with its padding.
type sliceSum struct {
	md5 sum
	crc uint32 // CRC-32 of IEEE 802.3
}

// member is one file of a set.
type member struct {
	kassett.Handle
	id     sum // MD5 of head, size and name
	size   int64
	whole  sum        // MD5 of the file
	head   sum        // MD5 of its first 16 KiB
	slices []sliceSum // nil in an inventory
}

// set is a group of files with common parity.
type set struct {
	id        sum
	sliceSize int
	members   []member // in the order of their slices
	critical  int64    // bytes of packets that were kept
}

// slices returns how many input slices the set has.
func (s *set) slices() (n int) {
	for i := range s.members {
		n += sliceCount(s.members[i].size, s.sliceSize)
	}
	return n
}

// sliceCount returns how many slices a file of size bytes has.
func sliceCount(size int64, slice int) int { return int((size + int64(slice) - 1) / int64(slice)) }

// identify fills in the file ID.
func (m *member) identify() {
	b := make([]byte, 0, 128)
	b = append(b, m.head[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.size)) //nolint:gosec // not negative
	m.id = md5.Sum(append(b, fileName(m.Handle)...))        //nolint:gosec // the format's
}

// compareSums orders file IDs as the format does: as little-endian numbers.
func compareSums(a, b sum) int {
	for i := len(a) - 1; i > 0; i-- {
		if a[i] != b[i] {
			return int(a[i]) - int(b[i])
		}
	}
	return int(a[0]) - int(b[0])
}

// fileName returns where a folder holds the file, as restic lays it out.
func fileName(h kassett.Handle) string {
	if h.Kind != kassett.PackFile {
		return h.String()
	}
	id := h.ID.String()
	return "data/" + id[:2] + "/" + id
}

// fileHandle is the inverse of fileName.
func fileHandle(name string) (h kassett.Handle, ok bool) {
	if name == kassett.ConfigFile.String() {
		return kassett.Handle{Kind: kassett.ConfigFile}, true
	}
	for _, k := range []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile} {
		if len(name) < 64 {
			break
		}
		id, err := kassett.ParseID(name[len(name)-64:])
		if h = (kassett.Handle{Kind: k, ID: id}); err == nil && fileName(h) == name {
			return h, true
		}
	}
	return kassett.Handle{}, false
}

// appendPacket appends a packet, sealed by its MD5.
func appendPacket(dst []byte, id sum, kind string, body ...[]byte) []byte {
	start, length := len(dst), headerSize
	for _, part := range body {
		length += len(part)
	}
	dst = append(dst, magic...)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(length))
	dst = append(dst, make([]byte, md5.Size)...)
	dst = append(dst, id[:]...)
	dst = append(dst, kind...)
	for _, part := range body {
		dst = append(dst, part...)
	}
	total := md5.Sum(dst[start+sealedAt:]) //nolint:gosec // the format's
	copy(dst[start+sumAt:], total[:])
	return dst
}

// mainBody is the body of the main packet, of which the set's ID is the MD5.
func (s *set) mainBody() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(s.sliceSize)) //nolint:gosec // not negative
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.members))) //nolint:gosec // at most maxSlices
	for i := range s.members {
		b = append(b, s.members[i].id[:]...)
	}
	return b
}

// appendCritical appends all packets but the recovery slices.
func (s *set) appendCritical(dst []byte) []byte {
	dst = appendPacket(dst, s.id, typeMain, s.mainBody())
	for i := range s.members {
		m := &s.members[i]
		name := []byte(fileName(m.Handle))
		fixed := append(append(append([]byte{}, m.id[:]...), m.whole[:]...), m.head[:]...)
		fixed = binary.LittleEndian.AppendUint64(fixed, uint64(m.size)) //nolint:gosec // not negative
		dst = appendPacket(dst, s.id, typeFile, fixed, name, make([]byte, -len(name)&3))
		sums := append([]byte{}, m.id[:]...)
		for _, one := range m.slices {
			sums = binary.LittleEndian.AppendUint32(append(sums, one.md5[:]...), one.crc)
		}
		dst = appendPacket(dst, s.id, typeSums, sums)
	}
	return appendPacket(dst, s.id, typeCreator, []byte(creator))
}

// appendRecovery appends the packet of one recovery slice.
func (s *set) appendRecovery(dst []byte, exponent uint32, slice []byte) []byte {
	return appendPacket(dst, s.id, typeRecovery, binary.LittleEndian.AppendUint32(nil, exponent), slice)
}

// packet is one packet whose MD5 was right.
type packet struct {
	set  sum
	kind string
	body []byte // until the next packet is read
}

// A packetReader finds the packets in a file, whatever is between them. It
// keeps one packet in memory.
type packetReader struct {
	in  *bufio.Reader
	buf []byte
	bad int64 // bytes in packets that were damaged
	gap int64 // bytes between packets
}

// clean reports whether there was nothing but whole packets.
func (p *packetReader) clean() bool { return p.bad == 0 && p.gap == 0 }

func newPacketReader(r io.Reader) *packetReader {
	return &packetReader{in: bufio.NewReaderSize(r, 64<<10)}
}

// errBad is that a file holds more damaged packets than are worth reading.
var errBad = &kassett.Error{Kind: kassett.Corrupt, Err: errors.New("hardly a packet in it is whole")}

// next returns the next whole packet, or io.EOF.
func (p *packetReader) next() (packet, error) {
	for {
		head, err := p.in.Peek(headerSize)
		if err != nil {
			p.gap += int64(len(head)) // less than a header is nothing
			return packet{}, err
		}
		if string(head[:len(magic)]) != magic {
			// The magic can only begin at its first letter.
			skip := bytes.IndexByte(head[1:], magic[0]) + 1
			if skip == 0 {
				skip = len(head)
			}
			_, _ = p.in.Discard(skip) // they were just seen
			p.gap += int64(skip)
			continue
		}
		if got, ok, err := p.take(binary.LittleEndian.Uint64(head[len(magic):])); ok || err != nil {
			return got, err
		}
		if p.bad += int64(len(p.buf)); p.bad > maxWaste {
			return packet{}, errBad
		}
		p.buf = nil
	}
}

// take reads a packet whose magic is next. When it is not whole, all but the
// magic is read again as what stands between packets.
func (p *packetReader) take(length uint64) (got packet, ok bool, err error) {
	if length < headerSize || length > maxPacket || length%4 != 0 {
		p.buf = nil
		p.gap += int64(len(magic))
		_, err := p.in.Discard(len(magic))
		return packet{}, false, err
	}
	// The length is believed as far as bytes follow.
	b := bytes.NewBuffer(p.buf[:0])
	_, err = io.CopyN(b, p.in, int64(length)) //nolint:gosec // bounded above
	p.buf = b.Bytes()
	if err != nil && !errors.Is(err, io.EOF) {
		return packet{}, false, err
	}
	if err == nil && md5.Sum(p.buf[sealedAt:]) == sum(p.buf[sumAt:sealedAt]) { //nolint:gosec // the format's
		return packet{set: sum(p.buf[sealedAt:typeAt]), kind: string(p.buf[typeAt:headerSize]), body: p.buf[headerSize:]}, true, nil
	}
	p.in = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(p.buf[len(magic):]), p.in), 64<<10)
	return packet{}, false, nil
}

// collector puts the critical packets of one set together.
type collector struct {
	want  sum // the set
	main  []sum
	slice int
	files map[sum]member
	sums  map[sum][]sliceSum
	have  int // so many of main, from the first on, are in files and sums
	bytes int64
}

func newCollector(want sum) *collector {
	return &collector{want: want, files: make(map[sum]member), sums: make(map[sum][]sliceSum)}
}

// maxCritical bounds the memory that one set's description takes.
const maxCritical = 32 << 20

// add takes a packet. Those of other sets, of unknown types and without sense
// are passed over: their MD5 proves nothing but that they are as they were made.
func (c *collector) add(p packet) {
	if p.set != c.want || c.bytes > maxCritical {
		return
	}
	switch {
	case p.kind == typeMain && c.main == nil:
		c.addMain(p.body)
	case p.kind == typeFile && len(p.body) > fileFixed && len(p.body) <= fileFixed+maxName:
		c.addFile(p.body)
	case p.kind == typeSums && len(p.body) >= md5.Size && (len(p.body)-md5.Size)%sumSize == 0:
		c.addSums(p.body)
	}
}

func (c *collector) addMain(b []byte) {
	if sum(md5.Sum(b)) != c.want || len(b) < mainFixed || (len(b)-mainFixed)%md5.Size != 0 { //nolint:gosec // the format's
		return
	}
	size, n := binary.LittleEndian.Uint64(b), int(binary.LittleEndian.Uint32(b[8:]))
	ids := (len(b) - mainFixed) / md5.Size
	if size == 0 || size > maxSlice || size%4 != 0 || n > ids || n > maxSlices || n == 0 {
		return
	}
	c.slice = int(size) //nolint:gosec // bounded
	c.main = make([]sum, n)
	for i := range c.main {
		c.main[i] = sum(b[mainFixed+i*md5.Size:])
	}
	c.bytes += int64(len(b))
}

func (c *collector) addFile(b []byte) {
	id := sum(b)
	if _, known := c.files[id]; known {
		return
	}
	h, ok := fileHandle(string(bytes.TrimRight(b[fileFixed:], "\x00")))
	size := binary.LittleEndian.Uint64(b[3*md5.Size:])
	if !ok || size > maxSlice*maxSlices {
		return
	}
	m := member{Handle: h, size: int64(size), whole: sum(b[md5.Size:]), head: sum(b[2*md5.Size:])} //nolint:gosec // bounded
	if m.identify(); m.id == id {
		c.files[id] = m
		c.bytes += int64(len(b))
	}
}

func (c *collector) addSums(b []byte) {
	id := sum(b)
	if _, known := c.sums[id]; known {
		return
	}
	c.bytes += int64(len(b))
	b = b[md5.Size:]
	all := make([]sliceSum, len(b)/sumSize)
	for i := range all {
		one := b[i*sumSize:]
		all[i] = sliceSum{sum(one), binary.LittleEndian.Uint32(one[md5.Size:])}
	}
	c.sums[id] = all
}

// complete reports whether every packet that the set needs was seen.
func (c *collector) complete() bool {
	for c.have < len(c.main) {
		_, file := c.files[c.main[c.have]]
		if _, sums := c.sums[c.main[c.have]]; !file || !sums {
			return false
		}
		c.have++
	}
	return c.main != nil
}

// set returns the set that is complete, or nil when it makes no sense.
func (c *collector) set() *set {
	s := &set{id: c.want, sliceSize: c.slice, members: make([]member, len(c.main)), critical: c.bytes}
	total := 0
	for i, id := range c.main {
		m, ok := c.files[id]
		if m.slices = c.sums[id]; !ok || len(m.slices) != sliceCount(m.size, s.sliceSize) || m.size == 0 {
			return nil
		}
		if i > 0 && compareSums(c.main[i-1], id) >= 0 {
			return nil // the same file twice, or not in the format's order
		}
		if total += len(m.slices); total > maxSlices {
			return nil
		}
		s.members[i] = m
	}
	return s
}

// readSet reads the description of the set id from its file, as far as needed.
// What is not the set's is passed over.
func readSet(r io.Reader, id sum) (*set, error) {
	in, c := newPacketReader(r), newCollector(id)
	for {
		p, err := in.next()
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		if err == nil {
			c.add(p)
			if !c.complete() {
				continue
			}
			if s := c.set(); s != nil {
				return s, nil
			}
		}
		return nil, &kassett.Error{Kind: kassett.Corrupt, Err: errors.New("the description of its files is not whole")}
	}
}

// recovery returns exponent and slice of a recovery packet of s.
func (s *set) recovery(p packet) (exponent uint32, slice []byte, ok bool) {
	if p.set != s.id || p.kind != typeRecovery || len(p.body) != 4+s.sliceSize {
		return 0, nil, false
	}
	return binary.LittleEndian.Uint32(p.body), p.body[4:], true
}

// setName returns the name of a set's file beside the repository.
func setName(id sum) string { return fmt.Sprintf("%s/%x%s", folder, id[:], suffix) }
