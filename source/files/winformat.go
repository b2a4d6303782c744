package files

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"kassett"
)

// This file holds what is known about Windows that needs no Windows: names,
// paths, times, and the bytes its calls take and give. It is tested everywhere.

// The attributes of Windows that restic keeps beside a node
// (internal/data/node_windows.go).
const (
	attrCreated    = "windows.creation_time"       // {"LowDateTime":…,"HighDateTime":…}, a FILETIME
	attrFileAttrs  = "windows.file_attributes"     // a number
	attrDescriptor = "windows.security_descriptor" // base64 of a self-relative descriptor
)

// winAttrs is what Windows keeps about a file beyond its times and content.
type winAttrs struct {
	created    *filetime
	attributes *uint32
	descriptor []byte
}

// filetime is a time of Windows, in the shape restic stores.
type filetime struct{ LowDateTime, HighDateTime uint32 }

// ticks returns the time in units of 100 ns since 1601.
func (f filetime) ticks() int64 { return int64(f.HighDateTime)<<32 | int64(f.LowDateTime) }

func filetimeOf(ticks int64) filetime {
	return filetime{LowDateTime: uint32(ticks), HighDateTime: uint32(ticks >> 32)} //nolint:gosec // the two halves
}

// unixTicks is 1970 in units of 100 ns since 1601.
const unixTicks = 116444736000000000

func timeOfTicks(ticks int64) time.Time {
	ticks -= unixTicks
	return time.Unix(ticks/1e7, ticks%1e7*100)
}

func ticksOfTime(t time.Time) int64 {
	return t.Unix()*1e7 + int64(t.Nanosecond())/100 + unixTicks
}

// encode returns a as the generic attributes of an entry.
func (a winAttrs) encode() (map[string]json.RawMessage, error) {
	all := map[string]json.RawMessage{}
	add := func(key string, v any) error {
		b, err := json.Marshal(v)
		all[key] = b
		return err
	}
	var errs []error
	if a.created != nil {
		errs = append(errs, add(attrCreated, a.created))
	}
	if a.attributes != nil {
		errs = append(errs, add(attrFileAttrs, a.attributes))
	}
	if a.descriptor != nil {
		errs = append(errs, add(attrDescriptor, a.descriptor))
	}
	return all, errors.Join(errs...)
}

// decodeAttrs reads the generic attributes of an entry. Others than those of
// Windows are passed over; a malformed one is an error, the rest are read.
func decodeAttrs(all map[string]json.RawMessage) (a winAttrs, err error) {
	var errs []error
	read := func(key string, to any) (ok bool) {
		raw, ok := all[key]
		if !ok {
			return false
		}
		if err := json.Unmarshal(raw, to); err != nil {
			errs = append(errs, fmt.Errorf("read attribute %s: %w", key, err))
			return false
		}
		return true
	}
	var created filetime
	if read(attrCreated, &created) {
		a.created = &created
	}
	var attributes uint32
	if read(attrFileAttrs, &attributes) {
		a.attributes = &attributes
	}
	if read(attrDescriptor, &a.descriptor) {
		if err := checkDescriptor(a.descriptor); err != nil {
			a.descriptor = nil
			errs = append(errs, fmt.Errorf("read attribute %s: %w", attrDescriptor, err))
		}
	}
	return a, errors.Join(errs...)
}

// checkDescriptor refuses a security descriptor that a call of the system
// could not take without reading beyond its end ([MS-DTYP] 2.4.6):
// revision (1 byte), padding (1), control (2), then the offsets of owner,
// group, SACL and DACL (4 each).
func checkDescriptor(b []byte) error {
	const head, selfRelative = 20, 0x8000
	if len(b) < head || b[0] != 1 || binary.LittleEndian.Uint16(b[2:])&selfRelative == 0 {
		return errors.New("not a self-relative security descriptor")
	}
	for i, what := range []string{"owner", "group", "SACL", "DACL"} {
		off := uint64(binary.LittleEndian.Uint32(b[4+4*i:]))
		if off == 0 {
			continue
		}
		if off < head || off+8 > uint64(len(b)) {
			return fmt.Errorf("%s of the security descriptor is outside it", what)
		}
		size := 8 + 4*uint64(b[off+1]) // of a SID: its number of sub-authorities counts
		if i >= 2 {
			size = uint64(binary.LittleEndian.Uint16(b[off+2:])) // of an access list
		}
		if off+size > uint64(len(b)) {
			return fmt.Errorf("%s of the security descriptor goes beyond its end", what)
		}
	}
	return nil
}

// File attributes ([MS-FSCC] 2.6).
const (
	winReadOnly   = 0x1
	winDirectory  = 0x10
	winSparse     = 0x200
	winReparse    = 0x400
	winCompressed = 0x800
	winEncrypted  = 0x4000
)

// Reparse tags ([MS-FSCC] 2.1.2.1).
const (
	tagMountPoint = 0xA0000003
	tagSymlink    = 0xA000000C
	tagSocket     = 0x80000023
	tagSurrogate  = 0x20000000 // this bit: it stands for something with another name
)

// dirInfo is one record of a folder's listing.
type dirInfo struct {
	name                      string
	created, access, modified int64 // ticks
	changed                   int64 // ticks; 0 where the file system does not know
	size                      int64
	attributes, tag           uint32
}

// appendDirInfos reads what GetFileInformationByHandleEx wrote for
// FileIdBothDirectoryInfo ([MS-FSCC] 2.4.17).
func appendDirInfos(all []dirInfo, buf []byte) ([]dirInfo, error) {
	const head = 104
	for {
		if len(buf) < head {
			return all, errors.New("the system's listing is cut off")
		}
		num := func(at int) int64 { return int64(binary.LittleEndian.Uint64(buf[at:])) } //nolint:gosec // as it is
		next := binary.LittleEndian.Uint32(buf)
		length := binary.LittleEndian.Uint32(buf[60:])
		if uint64(head)+uint64(length) > uint64(len(buf)) || uint64(next) > uint64(len(buf)) {
			return all, errors.New("the system's listing is cut off")
		}
		d := dirInfo{
			name:    decodeUTF16(buf[head : head+length]),
			created: num(8), access: num(16), modified: num(24), changed: num(32), size: num(40),
			attributes: binary.LittleEndian.Uint32(buf[56:]),
		}
		if d.attributes&winReparse != 0 {
			d.tag = binary.LittleEndian.Uint32(buf[64:])
		}
		if d.name != "." && d.name != ".." {
			all = append(all, d)
		}
		if next == 0 {
			return all, nil
		}
		buf = buf[next:]
	}
}

// entry describes d as restic does: no owners, no numbers of files or links,
// and a mode that only tells what is read-only. The time of change is the true
// one where the file system has it, so that a program that sets the time of
// modification back is noticed.
func (d dirInfo) entry() kassett.Entry {
	e := kassett.Entry{
		Name: d.name, Type: kassett.File, Mode: 0o666,
		ModTime: timeOfTicks(d.modified), AccessTime: timeOfTicks(d.access), ChangeTime: timeOfTicks(d.modified),
	}
	if d.changed > 0 {
		e.ChangeTime = timeOfTicks(d.changed)
	}
	if d.attributes&winReadOnly != 0 {
		e.Mode = 0o444
	}
	switch {
	case d.tag == tagSymlink || d.tag == tagMountPoint:
		e.Type, e.Mode = kassett.Symlink, e.Mode|fs.ModeSymlink
	case d.tag == tagSocket:
		e.Type, e.Mode = kassett.Socket, e.Mode|fs.ModeSocket
	case d.tag&tagSurrogate != 0:
		e.Err = fmt.Errorf("a reparse point of kind %#x stands for something else and cannot be saved: %w", d.tag, fs.ErrInvalid)
	case d.attributes&winDirectory != 0:
		e.Type, e.Mode = kassett.Dir, e.Mode|fs.ModeDir|0o111
	default:
		e.Size = uint64(max(d.size, 0))
	}
	return e
}

// decodeUTF16 returns a name of Windows. Halves of surrogate pairs, which
// Windows allows, are kept as the three bytes UTF-8 would have for them (WTF-8).
func decodeUTF16(b []byte) string {
	out := make([]byte, 0, len(b))
	for i := 0; i+1 < len(b); i += 2 {
		r := rune(binary.LittleEndian.Uint16(b[i:]))
		if utf16.IsSurrogate(r) {
			if i+3 < len(b) {
				if pair := utf16.DecodeRune(r, rune(binary.LittleEndian.Uint16(b[i+2:]))); pair != utf8.RuneError {
					out = utf8.AppendRune(out, pair)
					i += 2
					continue
				}
			}
			out = append(out, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
			continue
		}
		out = utf8.AppendRune(out, r)
	}
	return string(out)
}

// encodeUTF16 is the opposite of [decodeUTF16]. It fails on bytes that are not
// WTF-8, because two such names could become one.
func encodeUTF16(name string) ([]byte, error) {
	out := make([]byte, 0, 2*len(name))
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if r == utf8.RuneError && n == 1 {
			if i+2 >= len(name) || name[i] != 0xed || name[i+1]&0xe0 != 0xa0 || name[i+2]&0xc0 != 0x80 {
				return nil, fmt.Errorf("%q is not UTF-8, and Windows has only such names: %w", name, fs.ErrInvalid)
			}
			r, n = 0xd000|rune(name[i+1]&0x3f)<<6|rune(name[i+2]&0x3f), 3
			out = binary.LittleEndian.AppendUint16(out, uint16(r)) //nolint:gosec // 16 bits by making
		} else {
			for _, u := range utf16.AppendRune(nil, r) {
				out = binary.LittleEndian.AppendUint16(out, u)
			}
		}
		i += n
	}
	return out, nil
}

// windowsName refuses a name that Windows cannot have, or that would mean
// something else there: a separator, a stream, a wildcard. Names such as NUL
// and "a." are fine: they are only reserved above the calls used here.
func windowsName(name string) error {
	for i := range len(name) {
		if c := name[i]; c < ' ' || strings.IndexByte(`<>:"/\|?*`, c) >= 0 {
			return fmt.Errorf("%q has the character %q, which Windows does not allow: %w", name, c, fs.ErrInvalid)
		}
	}
	units, err := encodeUTF16(name)
	if err == nil && len(units) > 2*maxName {
		err = fmt.Errorf("%q is longer than %d characters: %w", name, maxName, fs.ErrInvalid)
	}
	return err
}

// longPath returns an absolute path of Windows in the form that may be longer
// than 260 characters and in which every name is taken as it is.
func longPath(abs string) string {
	switch {
	case strings.HasPrefix(abs, `\\?\`), strings.HasPrefix(abs, `\\.\`), strings.HasPrefix(abs, `\??\`):
		return abs
	case strings.HasPrefix(abs, `\\`):
		return `\\?\UNC\` + abs[2:]
	default:
		return `\\?\` + abs
	}
}

// decodeReparse returns where a symbolic link or a junction leads to, from its
// reparse data ([MS-FSCC] 2.1.2.4, 2.1.2.5): tag (4 bytes), length (2),
// reserved (2), then offset and length of the substitute name (2 each) and of
// the name to print (2 each), for links flags (4), and the names.
func decodeReparse(b []byte) (string, error) {
	if len(b) < 16 {
		return "", errors.New("reparse data are cut off")
	}
	names := 16
	relative := false
	switch binary.LittleEndian.Uint32(b) {
	case tagMountPoint:
	case tagSymlink:
		if len(b) < 20 {
			return "", errors.New("reparse data are cut off")
		}
		relative = b[16]&1 != 0
		names = 20
	default:
		return "", errors.New("neither a symbolic link nor a junction")
	}
	from := names + int(binary.LittleEndian.Uint16(b[8:]))
	to := from + int(binary.LittleEndian.Uint16(b[10:]))
	if to > len(b) {
		return "", errors.New("reparse data are cut off")
	}
	target := decodeUTF16(b[from:to])
	if relative {
		return target, nil
	}
	rest, ok := strings.CutPrefix(target, `\??\`)
	switch {
	case !ok:
		return target, nil
	case len(rest) >= 2 && rest[1] == ':':
		return rest, nil
	case strings.HasPrefix(rest, `UNC\`):
		return `\\` + rest[4:], nil
	default: // a volume without a letter
		return `\\?\` + rest, nil
	}
}

// encodeReparse returns the reparse data of a symbolic link or, if so asked, of
// a junction, which must lead to an absolute path.
func encodeReparse(target string, junction bool) ([]byte, error) {
	plain := strings.ReplaceAll(target, "/", `\`)
	absolute := len(plain) >= 2 && plain[1] == ':' || strings.HasPrefix(plain, `\\`)
	if junction && !absolute {
		return nil, fmt.Errorf("a junction cannot lead to %q: %w", target, fs.ErrInvalid)
	}
	full := plain
	if absolute {
		full = `\??\` + strings.TrimPrefix(longPath(plain), `\\?\`)
	}
	substitute, err := encodeUTF16(full)
	if err != nil {
		return nil, err
	}
	display, err := encodeUTF16(plain)
	if err != nil {
		return nil, err
	}
	tag, flags := uint32(tagSymlink), []byte{1, 0, 0, 0}
	if absolute {
		flags[0] = 0
	}
	if junction {
		tag, flags = tagMountPoint, nil
	}
	zero := []byte{0, 0} // junctions need it, links take it
	size := 8 + len(flags) + len(substitute) + len(display) + 2*len(zero)
	if size > 16<<10-8 {
		return nil, fmt.Errorf("a link to %d characters is too long: %w", len(full), fs.ErrInvalid)
	}
	out := binary.LittleEndian.AppendUint32(nil, tag)
	for _, n := range []int{size, 0, 0, len(substitute), len(substitute) + len(zero), len(display)} {
		out = binary.LittleEndian.AppendUint16(out, uint16(n)) //nolint:gosec // below 16 KiB
	}
	for _, part := range [][]byte{flags, substitute, zero, display, zero} {
		out = append(out, part...)
	}
	return out, nil
}

// streamNames reads what GetFileInformationByHandleEx wrote for FileStreamInfo
// ([MS-FSCC] 2.4.43) and returns the named streams, as ":name".
func streamNames(b []byte) []string {
	var names []string
	for len(b) >= 24 {
		next, length := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
		if uint64(length)+24 > uint64(len(b)) {
			break
		}
		name := strings.TrimSuffix(decodeUTF16(b[24:24+length]), ":$DATA")
		if name != ":" && name != "" {
			names = append(names, name)
		}
		if next == 0 || uint64(next) > uint64(len(b)) {
			break
		}
		b = b[next:]
	}
	return names
}
