package snapshot

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"kassett"
)

// DecodeTree reads the bytes of a tree blob: keys in any order, unknown ones,
// fields left out. Nodes that are out of order, or a name that is there twice,
// are an [ErrOrder]; then the tree comes together with the error, so that a
// repair can take what is there. Times keep their offset from UTC.
func DecodeTree(b []byte) (*Tree, error) {
	var (
		t       Tree
		slab    []Node
		ordered error
	)
	for r := newNodeReader(b); ; {
		if len(slab) == 0 {
			slab = make([]Node, min(64, max(1, r.remaining()/minNodeJSON)))
		}
		ok, err := r.next(&slab[0])
		if err != nil {
			return nil, err
		}
		if !ok {
			return &t, ordered
		}
		n := &slab[0]
		if i := len(t.Nodes); i > 0 && n.Name <= t.Nodes[i-1].Name && ordered == nil {
			ordered = fmt.Errorf("node %q after %q: %w", n.Name, t.Nodes[i-1].Name, ErrOrder)
		}
		t.Nodes = append(t.Nodes, n)
		slab = slab[1:]
	}
}

// minNodeJSON is about the shortest that a node can be, in bytes.
const minNodeJSON = 180

// nodeReader decodes the nodes of a tree one by one. It knows the form that
// every writer of the format gives a tree; when it meets anything else, be it
// legal JSON or not, encoding/json reads the whole tree instead.
type nodeReader struct {
	b     []byte
	pos   int
	count int // nodes given so far

	slow  []*nodeJSON // the nodes as encoding/json read them, once it did
	isOdd bool        // slow counts

	ids         []kassett.ID // room for the content of the next nodes
	zone        *time.Location
	offset      int // seconds east of UTC of zone
	user, group string
}

func newNodeReader(b []byte) *nodeReader { return &nodeReader{b: b} }

// remaining returns the bytes still to be read.
func (r *nodeReader) remaining() int { return len(r.b) - r.pos }

// next decodes the next node into n, which it overwrites, or returns false
// after the last one.
func (r *nodeReader) next(n *Node) (bool, error) {
	if !r.isOdd {
		more, ok := r.fast(n)
		if ok {
			return more, nil
		}
		var t treeJSON
		if err := json.Unmarshal(r.b, &t); err != nil {
			return false, err
		}
		r.slow, r.isOdd = t.Nodes, true
	}
	if r.count >= len(r.slow) {
		return false, nil
	}
	j := r.slow[r.count]
	r.slow[r.count] = nil
	r.count++
	if j == nil {
		j = &nodeJSON{}
	}
	return true, j.node(n)
}

// fast is next for the usual form; ok is false when the tree has another.
func (r *nodeReader) fast(n *Node) (more, ok bool) {
	if r.pos == 0 {
		if !r.skip(`{"nodes":[`) {
			return false, false
		}
		if r.peek() == ']' {
			return false, r.atEnd()
		}
	} else if r.peek() != ',' {
		return false, r.atEnd()
	} else {
		r.pos++
	}
	*n = Node{}
	if !r.node(n) {
		return false, false
	}
	r.count++
	return true, true
}

// atEnd reports whether only the end of the tree is left, and stays before it.
func (r *nodeReader) atEnd() bool {
	rest := string(r.b[r.pos:min(len(r.b), r.pos+4)])
	return rest == "]}\n" || rest == "]}"
}

// peek returns the next byte, or 0 at the end.
func (r *nodeReader) peek() byte {
	if r.pos < len(r.b) {
		return r.b[r.pos]
	}
	return 0
}

// skip passes over s if it comes next.
func (r *nodeReader) skip(s string) bool {
	if len(r.b)-r.pos < len(s) || string(r.b[r.pos:r.pos+len(s)]) != s {
		return false
	}
	r.pos += len(s)
	return true
}

// node decodes an object. A key that comes twice is left to encoding/json, as
// is one that it may take for a field by folding its case.
func (r *nodeReader) node(n *Node) bool {
	if !r.skip("{") {
		return false
	}
	var seen uint32
	for {
		key, ok := r.plainString()
		if !ok || !r.skip(":") {
			return false
		}
		bit, ok := r.field(n, key)
		if !ok || seen&bit != 0 {
			return false
		}
		seen |= bit
		switch r.peek() {
		case ',':
			r.pos++
		case '}':
			r.pos++
			return true
		default:
			return false
		}
	}
}

// field decodes the value of one key and returns the key's bit, 0 for an
// unknown one.
func (r *nodeReader) field(n *Node, key []byte) (bit uint32, ok bool) {
	switch string(key) {
	case "name":
		return 1 << 0, r.name(&n.Name)
	case "type":
		return 1 << 1, r.entryType(&n.Type)
	case "mode":
		return 1 << 2, r.number32((*uint32)(&n.Mode))
	case "mtime":
		return 1 << 3, r.time(&n.ModTime)
	case "atime":
		return 1 << 4, r.time(&n.AccessTime)
	case "ctime":
		return 1 << 5, r.time(&n.ChangeTime)
	case "uid":
		return 1 << 6, r.number32(&n.UID)
	case "gid":
		return 1 << 7, r.number32(&n.GID)
	case "user":
		return 1 << 8, r.repeated(&n.User, &r.user)
	case "group":
		return 1 << 9, r.repeated(&n.Group, &r.group)
	case "inode":
		return 1 << 10, r.number(&n.Inode, math.MaxUint64)
	case "device_id":
		return 1 << 11, r.number(&n.DeviceID, math.MaxUint64)
	case "size":
		return 1 << 12, r.number(&n.Size, math.MaxUint64)
	case "links":
		return 1 << 13, r.number(&n.Links, math.MaxUint64)
	case "device":
		return 1 << 14, r.number(&n.Device, math.MaxUint64)
	case "content":
		return 1 << 15, r.content(&n.Content)
	case "subtree":
		return 1 << 16, r.id(&n.Subtree)
	}
	return r.rareField(n, key)
}

// rareField is field for what most nodes do not have.
func (r *nodeReader) rareField(n *Node, key []byte) (bit uint32, ok bool) {
	switch string(key) {
	case "linktarget":
		// The raw target counts, wherever it stands; our writer and restic's
		// put it after this one.
		return 1 << 17, r.text(&n.LinkTarget)
	case "linktarget_raw":
		var raw []byte
		ok = n.LinkTarget != "" && r.base64(&raw) && raw != nil
		n.LinkTarget = string(raw)
		return 1 << 18, ok
	case "extended_attributes":
		return 1 << 19, r.xattrs(&n.Xattrs)
	case "generic_attributes":
		return 1 << 20, r.generic(&n.Generic)
	case "error":
		return 1 << 21, r.text(&n.Error)
	}
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return 0, false
		}
	}
	_, ok = r.value()
	return 0, ok
}

// plainString reads a string without escapes and returns its inside.
func (r *nodeReader) plainString() ([]byte, bool) {
	s, escaped, ok := r.quoted()
	return s, ok && !escaped
}

// quoted reads a string and returns its inside as it stands, which is UTF-8,
// and whether there are escapes in it.
func (r *nodeReader) quoted() (s []byte, escaped, ok bool) {
	if r.peek() != '"' {
		return nil, false, false
	}
	ascii := true
	for i := r.pos + 1; i < len(r.b); i++ {
		switch c := r.b[i]; {
		case c == '"':
			s = r.b[r.pos+1 : i]
			r.pos = i + 1
			return s, escaped, ascii || utf8.Valid(s)
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return nil, false, false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return nil, false, false
}

// text reads a string.
func (r *nodeReader) text(v *string) bool {
	from := r.pos
	s, escaped, ok := r.quoted()
	switch {
	case !ok:
		return false
	case escaped:
		return json.Unmarshal(r.b[from:r.pos], v) == nil
	}
	*v = string(s)
	return true
}

// repeated is text for what is mostly the same as in the node before.
func (r *nodeReader) repeated(v, last *string) bool {
	from := r.pos
	if s, ok := r.plainString(); ok {
		if string(s) != *last {
			*last = string(s)
		}
		*v = *last
		return true
	}
	r.pos = from
	return r.text(v)
}

// name reads a name, which is quoted as a Go string inside the JSON string.
func (r *nodeReader) name(v *string) bool {
	from := r.pos
	s, escaped, ok := r.quoted()
	if !ok || !escaped {
		// Without a backslash there is nothing that Go could have escaped.
		*v = string(s)
		return ok
	}
	var quoted string
	if json.Unmarshal(r.b[from:r.pos], &quoted) != nil {
		return false
	}
	name, err := strconv.Unquote(`"` + quoted + `"`)
	*v = name
	return err == nil
}

func (r *nodeReader) entryType(v *kassett.EntryType) bool {
	s, ok := r.plainString()
	if !ok {
		return false
	}
	switch string(s) {
	case "file":
		*v = kassett.File
	case "dir":
		*v = kassett.Dir
	case "symlink":
		*v = kassett.Symlink
	default:
		*v = kassett.EntryType(s)
	}
	return true
}

// number reads a whole number up to limit.
func (r *nodeReader) number(v *uint64, limit uint64) bool {
	from := r.pos
	var n uint64
	for ; r.pos < len(r.b) && r.b[r.pos]-'0' < 10; r.pos++ {
		n = n*10 + uint64(r.b[r.pos]-'0')
	}
	digits := r.pos - from
	if digits == 0 || digits > 1 && r.b[from] == '0' {
		return false
	}
	if digits > 19 { // may not fit
		var err error
		if n, err = strconv.ParseUint(string(r.b[from:r.pos]), 10, 64); err != nil {
			return false
		}
	}
	*v = n
	return n <= limit
}

func (r *nodeReader) number32(v *uint32) bool {
	var n uint64
	ok := r.number(&n, math.MaxUint32)
	*v = uint32(n)
	return ok
}

// time reads "2006-01-02T15:04:05.999999999Z" or the same with an offset.
func (r *nodeReader) time(v *time.Time) bool {
	s, ok := r.plainString()
	if !ok || len(s) < len("2006-01-02T15:04:05Z") ||
		s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' {
		return false
	}
	century, ok1 := twoDigits(s[0:], 99)
	year, ok2 := twoDigits(s[2:], 99)
	month, ok3 := twoDigits(s[5:], 12)
	day, ok4 := twoDigits(s[8:], 31)
	hour, ok5 := twoDigits(s[11:], 23)
	minute, ok6 := twoDigits(s[14:], 59)
	second, ok7 := twoDigits(s[17:], 59)
	if ok := ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7; !ok || month == 0 || day == 0 {
		return false
	}
	nanos, s, ok := fraction(s[19:])
	if !ok {
		return false
	}
	offset, ok := zoneOffset(s)
	if !ok {
		return false
	}
	t := time.Date(century*100+year, time.Month(month), day, hour, minute, second-offset, nanos, time.UTC)
	if day > 28 && time.Date(century*100+year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Day() != day {
		return false
	}
	if offset != 0 || string(s) != "Z" {
		if r.zone == nil || r.offset != offset {
			r.zone, r.offset = time.FixedZone("", offset), offset
		}
		t = t.In(r.zone)
	}
	*v = t
	return true
}

// twoDigits reads a number of two digits up to limit.
func twoDigits(s []byte, limit int) (int, bool) {
	a, b := s[0]-'0', s[1]-'0'
	n := int(a)*10 + int(b)
	return n, a < 10 && b < 10 && n <= limit
}

// fraction reads a fraction of a second, if there is one, and returns the rest.
func fraction(s []byte) (nanos int, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '.' {
		return 0, s, true
	}
	i := 1
	for ; i < len(s) && s[i]-'0' < 10; i++ {
		nanos = nanos*10 + int(s[i]-'0')
		if i > 9 {
			return 0, nil, false
		}
	}
	for j := i; j <= 9; j++ {
		nanos *= 10
	}
	return nanos, s[i:], i > 1
}

// zoneOffset reads "Z" or "+01:00", in seconds east of UTC.
func zoneOffset(s []byte) (int, bool) {
	if string(s) == "Z" {
		return 0, true
	}
	if len(s) != len("+01:00") || s[3] != ':' || s[0] != '+' && s[0] != '-' {
		return 0, false
	}
	hours, ok1 := twoDigits(s[1:], 23)
	minutes, ok2 := twoDigits(s[4:], 59)
	offset := (hours*60 + minutes) * 60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, ok1 && ok2
}

// id reads the 64 digits of an ID.
func (r *nodeReader) id(v *kassett.ID) bool {
	const n = 2*len(*v) + 2
	if len(r.b)-r.pos < n || r.b[r.pos] != '"' || r.b[r.pos+n-1] != '"' {
		return false
	}
	s := r.b[r.pos+1 : r.pos+n-1]
	var bad byte
	for i := range v {
		hi, lo := hexValue[s[2*i]], hexValue[s[2*i+1]]
		bad |= hi | lo
		v[i] = hi<<4 | lo&15
	}
	r.pos += n
	return bad < 16
}

// hexValue holds the value of a lower-case hexadecimal digit, 255 for others.
var hexValue = func() (t [256]byte) {
	for c := range t {
		switch {
		case c >= '0' && c <= '9':
			t[c] = byte(c - '0')
		case c >= 'a' && c <= 'f':
			t[c] = byte(c - 'a' + 10)
		default:
			t[c] = 255
		}
	}
	return t
}()

// content reads a list of IDs, or null.
func (r *nodeReader) content(v *[]kassett.ID) bool {
	if r.skip("null") {
		return true
	}
	if !r.skip("[") {
		return false
	}
	if r.skip("]") {
		*v = []kassett.ID{}
		return true
	}
	ids := r.ids[:0]
	for {
		if len(ids) == cap(ids) {
			room := make([]kassett.ID, len(ids), max(2*len(ids), min(128, r.remaining()/66+1)))
			copy(room, ids)
			ids = room
		}
		ids = ids[:len(ids)+1]
		if !r.id(&ids[len(ids)-1]) {
			return false
		}
		if r.skip("]") {
			*v = slices.Clip(ids)
			r.ids = ids[len(ids):]
			return true
		}
		if !r.skip(",") {
			return false
		}
	}
}

// base64 reads bytes, or null as nil.
func (r *nodeReader) base64(v *[]byte) bool {
	if r.skip("null") {
		*v = nil
		return true
	}
	s, ok := r.plainString()
	if !ok {
		return false
	}
	b := make([]byte, base64.StdEncoding.DecodedLen(len(s)))
	n, err := base64.StdEncoding.Decode(b, s)
	*v = b[:n]
	return err == nil
}

func (r *nodeReader) xattrs(v *[]kassett.Xattr) bool {
	if !r.skip("[") {
		return false
	}
	for {
		var x kassett.Xattr
		if !r.skip(`{"name":`) || !r.text(&x.Name) || !r.skip(`,"value":`) || !r.base64(&x.Value) || !r.skip("}") {
			return false
		}
		*v = append(*v, x)
		if r.skip("]") {
			return true
		}
		if !r.skip(",") {
			return false
		}
	}
}

func (r *nodeReader) generic(v *map[string]json.RawMessage) bool {
	if !r.skip("{") {
		return false
	}
	m := map[string]json.RawMessage{}
	for {
		key, ok := r.plainString()
		if !ok || !r.skip(":") {
			return false
		}
		raw, ok := r.value()
		if !ok {
			return false
		}
		m[string(key)] = bytes.Clone(raw)
		if r.skip("}") {
			*v = m
			return true
		}
		if !r.skip(",") {
			return false
		}
	}
}

// value passes over one JSON value of any kind and returns it.
func (r *nodeReader) value() ([]byte, bool) {
	from, depth := r.pos, 0
	for r.pos < len(r.b) {
		switch c := r.b[r.pos]; c {
		case '"':
			if _, _, ok := r.quoted(); !ok {
				return nil, false
			}
			continue
		case '[', '{':
			depth++
		case ']', '}', ',':
			if depth == 0 {
				raw := r.b[from:r.pos]
				// Space around the value is not part of it for encoding/json.
				return raw, json.Valid(raw) && len(bytes.TrimSpace(raw)) == len(raw)
			}
			if c != ',' {
				depth--
			}
		}
		r.pos++
	}
	return nil, false
}
