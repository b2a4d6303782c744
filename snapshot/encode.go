package snapshot

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"kassett"
)

// AppendJSON appends the node as it stands in a tree, byte for byte as
// encoding/json writes restic's struct: the same order of fields, the same
// fields left out, the same escapes, names quoted as in Go before they are
// quoted as JSON. It fails for a time zone or a generic attribute that has no
// JSON.
func (n *Node) AppendJSON(b []byte) ([]byte, error) {
	b = append(b, `{"name":`...)
	b = appendName(b, n.Name)
	b = append(b, `,"type":`...)
	b = appendString(b, string(n.Type))
	b = appendUint(b, `,"mode":`, uint64(n.Mode))
	b, err := n.appendTimes(b)
	if err != nil {
		return nil, err
	}
	b = append(b, `,"uid":`...)
	b = strconv.AppendUint(b, uint64(n.UID), 10)
	b = append(b, `,"gid":`...)
	b = strconv.AppendUint(b, uint64(n.GID), 10)
	b = appendText(b, `,"user":`, n.User)
	b = appendText(b, `,"group":`, n.Group)
	b = appendUint(b, `,"inode":`, n.Inode)
	b = appendUint(b, `,"device_id":`, n.DeviceID)
	b = appendUint(b, `,"size":`, n.Size)
	b = appendUint(b, `,"links":`, n.Links)
	if n.LinkTarget != "" {
		b = append(b, `,"linktarget":`...)
		b = appendString(b, n.LinkTarget)
		if !utf8.ValidString(n.LinkTarget) {
			b = append(b, `,"linktarget_raw":"`...)
			b = base64.StdEncoding.AppendEncode(b, []byte(n.LinkTarget))
			b = append(b, '"')
		}
	}
	b = appendXattrs(b, n.Xattrs)
	if b, err = appendGeneric(b, n.Generic); err != nil {
		return nil, err
	}
	b = appendUint(b, `,"device":`, n.Device)
	b = append(b, `,"content":`...)
	b = appendIDs(b, n.Content)
	if !n.Subtree.IsZero() {
		b = append(b, `,"subtree":"`...)
		b = hex.AppendEncode(b, n.Subtree[:])
		b = append(b, '"')
	}
	b = appendText(b, `,"error":`, n.Error)
	return append(b, '}'), nil
}

// appendTimes appends the three times. The access time is mostly the time of
// modification, and then its text is copied.
func (n *Node) appendTimes(b []byte) ([]byte, error) {
	b = append(b, `,"mtime":"`...)
	from := len(b)
	b, err := appendTime(b, n.ModTime)
	if err != nil {
		return nil, fmt.Errorf("mtime: %w", err)
	}
	mtime := b[from:]
	b = append(b, `","atime":"`...)
	if n.AccessTime.Equal(n.ModTime) && n.AccessTime.Location() == n.ModTime.Location() {
		b = append(b, mtime...)
	} else if b, err = appendTime(b, n.AccessTime); err != nil {
		return nil, fmt.Errorf("atime: %w", err)
	}
	b = append(b, `","ctime":"`...)
	if b, err = appendTime(b, n.ChangeTime); err != nil {
		return nil, fmt.Errorf("ctime: %w", err)
	}
	return append(b, '"'), nil
}

// appendTime appends t in RFC 3339 with nanoseconds. A year that does not fit
// is brought to the nearest that does, the rest of the date kept, as restic
// does.
func appendTime(b []byte, t time.Time) ([]byte, error) {
	if y := t.Year(); y < 0 {
		t = t.AddDate(-y, 0, 0)
	} else if y > 9999 {
		t = t.AddDate(9999-y, 0, 0)
	}
	if _, offset := t.Zone(); offset <= -24*3600 || offset >= 24*3600 {
		return nil, errors.New("time zone is a day or more away from UTC")
	}
	return t.AppendFormat(b, time.RFC3339Nano), nil
}

// appendUint appends a number and its key, or nothing for zero.
func appendUint(b []byte, key string, v uint64) []byte {
	if v == 0 {
		return b
	}
	return strconv.AppendUint(append(b, key...), v, 10)
}

// appendText appends a string and its key, or nothing for the empty string.
func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, key...), s)
}

func appendXattrs(b []byte, xattrs []kassett.Xattr) []byte {
	if len(xattrs) == 0 {
		return b
	}
	b = append(b, `,"extended_attributes":`...)
	open := byte('[')
	for _, x := range xattrs {
		b = append(b, open)
		open = ','
		b = append(b, `{"name":`...)
		b = appendString(b, x.Name)
		b = append(b, `,"value":`...)
		if x.Value == nil {
			b = append(b, "null}"...)
			continue
		}
		b = append(b, '"')
		b = base64.StdEncoding.AppendEncode(b, x.Value)
		b = append(b, '"', '}')
	}
	return append(b, ']')
}

// appendGeneric appends the attributes of other systems in order of their keys.
// Their values are JSON already; encoding/json checks and compacts them.
func appendGeneric(b []byte, generic map[string]json.RawMessage) ([]byte, error) {
	if len(generic) == 0 {
		return b, nil
	}
	b = append(b, `,"generic_attributes":`...)
	open := byte('{')
	for _, key := range slices.Sorted(maps.Keys(generic)) {
		b = append(b, open)
		open = ','
		b = appendString(b, key)
		b = append(b, ':')
		v, err := json.Marshal(generic[key])
		if err != nil {
			return nil, fmt.Errorf("generic attribute %.80q: %w", key, err)
		}
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

func appendIDs(b []byte, ids []kassett.ID) []byte {
	if ids == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = hex.AppendEncode(b, ids[i][:])
		b = append(b, '"')
	}
	return append(b, ']')
}

// appendName appends a node's name: quoted as a Go string without the quotes,
// so that bytes which are not UTF-8 survive, and that as a JSON string.
func appendName(b []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i]; c >= utf8.RuneSelf || !plain[c] || c == 0x7f {
			q := strconv.Quote(name)
			return appendString(b, q[1:len(q)-1])
		}
	}
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"')
}

// plain holds the ASCII characters that encoding/json does not escape.
var plain = func() (t [utf8.RuneSelf]bool) {
	for c := range t {
		switch c {
		case '"', '\\', '<', '>', '&':
		default:
			t[c] = c >= ' '
		}
	}
	return t
}()

// appendString appends s as a JSON string with the escapes of encoding/json:
// those JSON asks for, '<', '>' and '&' for HTML, the two line separators that
// JavaScript does not take, and U+FFFD for what is not UTF-8.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if plain[c] {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '\\', '"':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, '\\', 'b')
			case '\f':
				b = append(b, '\\', 'f')
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
			}
			i++
			start = i
			continue
		}
		c, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && size == 1:
			b = append(b, s[start:i]...)
			b = append(b, `\ufffd`...)
			start = i + size
		case c == '\u2028' || c == '\u2029':
			b = append(b, s[start:i]...)
			b = append(b, `\u202`...)
			b = append(b, digits[c&15])
			start = i + size
		}
		i += size
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
