package files

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kassett"
)

// descriptor is O:BAG:SYD:(A;;FA;;;WD) as Windows keeps it.
var descriptor = []byte{
	1, 0, 4, 0x80, 20, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0,
	1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0, // BUILTIN\Administrators
	1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0, // SYSTEM
	2, 0, 28, 0, 1, 0, 0, 0, 0, 0, 20, 0, 0xff, 1, 0x1f, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, // everyone, all
}

// TestAttributesAsRestic checks the JSON against what restic 0.17 and later
// write: the shapes of syscall.Filetime, uint32 and []byte.
func TestAttributesAsRestic(t *testing.T) {
	t.Parallel()
	created, attributes := filetimeOf(133500000000000001), uint32(0x2020)
	a := winAttrs{&created, &attributes, descriptor}
	all, err := a.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"windows.creation_time":{"LowDateTime":3984834561,"HighDateTime":31082890},"windows.file_attributes":8224,` +
		`"windows.security_descriptor":"AQAEgBQAAAAkAAAAAAAAADAAAAABAgAAAAAABSAAAAAgAgAAAQEAAAAAAAUSAAAAAgAcAAEAAAAAABQA/wEfAAEBAAAAAAABAAAAAA=="}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	back, err := decodeAttrs(all)
	if err != nil || *back.created != created || *back.attributes != attributes || !bytes.Equal(back.descriptor, descriptor) {
		t.Errorf("read back %+v, error %v", back, err)
	}
}

func TestAttributesFromStrangers(t *testing.T) {
	t.Parallel()
	back, err := decodeAttrs(map[string]json.RawMessage{
		attrCreated: []byte(`"yesterday"`), attrFileAttrs: []byte(`7`), attrDescriptor: []byte(`"AQAEgA=="`), "darwin.flags": []byte(`1`),
	})
	if err == nil || back.created != nil || back.descriptor != nil || back.attributes == nil || *back.attributes != 7 {
		t.Errorf("read %+v, error %v; want what is good, and an error", back, err)
	}
	if back, err := decodeAttrs(nil); err != nil || back.created != nil {
		t.Errorf("read %+v, error %v, from nothing", back, err)
	}
}

// TestDescriptorBounds moves every offset and length of a good descriptor.
func TestDescriptorBounds(t *testing.T) {
	t.Parallel()
	if err := checkDescriptor(descriptor); err != nil {
		t.Error(err)
	}
	for n := range descriptor {
		if checkDescriptor(descriptor[:n]) == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
	for at, bad := range map[int]byte{0: 2, 3: 0, 4: 200, 8: 19, 16: 75, 21: 255, 37: 200, 50: 255, 51: 1} {
		b := bytes.Clone(descriptor)
		b[at] = bad
		if checkDescriptor(b) == nil {
			t.Errorf("byte %d is %d: no error", at, bad)
		}
	}
}

func TestWindowsTimes(t *testing.T) {
	t.Parallel()
	for ticks, want := range map[int64]string{
		0: "1601-01-01T00:00:00Z", unixTicks: "1970-01-01T00:00:00Z", unixTicks - 1: "1969-12-31T23:59:59.9999999Z",
		133500000000000001: "2024-01-17T21:20:00.0000001Z",
	} {
		got := timeOfTicks(ticks).UTC()
		if got.Format(time.RFC3339Nano) != want || ticksOfTime(got) != ticks {
			t.Errorf("%d: %v, back %d; want %s", ticks, got, ticksOfTime(got), want)
		}
		if f := filetimeOf(ticks); f.ticks() != ticks {
			t.Errorf("%d: as halves %d", ticks, f.ticks())
		}
	}
}

func TestUTF16(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.SliceOf(rapid.OneOf(rapid.Uint16(), rapid.Uint16Range(0xd700, 0xe000))).Draw(t, "units")
		var b []byte
		for _, u := range units {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		name := decodeUTF16(b)
		back, err := encodeUTF16(name)
		if err != nil || !bytes.Equal(b, back) {
			t.Fatalf("%x: %q, back %x, error %v", b, name, back, err)
		}
	})
	for _, bad := range []string{"\xff", "a\xed", "\xed\xa0", "\xed\x9f\xff", "\xc3"} {
		if b, err := encodeUTF16(bad); err == nil && !utf8.ValidString(bad) {
			t.Errorf("%q: %x and no error", bad, b)
		}
	}
}

func TestWindowsNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"a": true, "NUL": true, "COM1.txt": true, "a.": true, "a ": true, "患者": true, strings.Repeat("x", 255): true,
		"a:b": false, `a\b`: false, "a?": false, "a*": false, "a<": false, `"`: false, "|": false, "\n": false, "a\xff": false,
		strings.Repeat("x", 256): false, strings.Repeat("患", 255): true,
	} {
		if err := windowsName(name); (err == nil) != ok {
			t.Errorf("%q: error %v", name, err)
		}
	}
	for in, want := range map[string]string{
		`C:\x`: `\\?\C:\x`, `\\srv\share\x`: `\\?\UNC\srv\share\x`, `\\?\C:\x`: `\\?\C:\x`, `\\.\pipe`: `\\.\pipe`,
		`\\?\Volume{1}\x`: `\\?\Volume{1}\x`,
	} {
		if got := longPath(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestReparse(t *testing.T) {
	t.Parallel()
	for _, target := range []string{`C:\a b\c`, `..\x`, `x`, `\\srv\share\d`, `\\?\Volume{11-22}\x`, `患者`} {
		for _, junction := range []bool{false, true} {
			b, err := encodeReparse(target, junction)
			relative := !strings.Contains(target, `:`) && !strings.HasPrefix(target, `\\`)
			if junction && relative {
				if err == nil {
					t.Errorf("junction to %s: no error", target)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", target, err)
				continue
			}
			if back, err := decodeReparse(b); back != target || err != nil {
				t.Errorf("%s: back %s, error %v", target, back, err)
			}
			for n := range b {
				_, _ = decodeReparse(b[:n]) // must not panic
			}
		}
	}
	if _, err := encodeReparse(strings.Repeat("x", 20_000), false); err == nil {
		t.Error("too long a link: no error")
	}
	if b, _ := encodeReparse("a/b", false); !bytes.Contains(b, []byte{'a', 0, '\\', 0, 'b', 0}) {
		t.Errorf("separators are not those of Windows: %q", b)
	}
}

// record makes one record of a listing.
func record(name string, attributes, tag uint32, last bool) []byte {
	units, _ := encodeUTF16(name)
	b := make([]byte, (104+len(units)+7)&^7)
	if !last {
		binary.LittleEndian.PutUint32(b, uint32(len(b)))
	}
	for i, ticks := range []uint64{1, 2, unixTicks, 0, 77} { // the last is the size
		binary.LittleEndian.PutUint64(b[8+8*i:], ticks)
	}
	binary.LittleEndian.PutUint32(b[56:], attributes)
	binary.LittleEndian.PutUint32(b[60:], uint32(len(units)))
	binary.LittleEndian.PutUint32(b[64:], tag)
	copy(b[104:], units)
	return b
}

func TestListing(t *testing.T) {
	t.Parallel()
	var buf []byte
	for _, r := range []struct {
		name       string
		attributes uint32
		tag        uint32
	}{
		{".", winDirectory, 0},
		{"..", winDirectory, 0},
		{"file", 0x20, 9},
		{"read only", winReadOnly, 0},
		{"folder", winDirectory, 0},
		{"junction", winDirectory | winReparse, tagMountPoint},
		{"link", winReparse, tagSymlink},
		{"socket", winReparse, tagSocket},
		{"odd", winReparse, 0xA0001234},
		{"deduplicated", winReparse, 0x80000013},
		{"cloud", winReparse | winDirectory, 0x9000601A},
	} {
		buf = append(buf, record(r.name, r.attributes, r.tag, false)...)
	}
	buf = append(buf, record("last", 0, 0, true)...)
	infos, err := appendDirInfos(nil, buf)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, d := range infos {
		e := d.entry()
		got[e.Name] = string(e.Type) + " " + e.Mode.String()
		if e.Err != nil {
			got[e.Name] = "error"
		}
		if e.Type == kassett.File && e.Err == nil && (e.Size != 77 || !e.ModTime.Equal(time.Unix(0, 0)) || !e.ChangeTime.Equal(e.ModTime)) {
			t.Errorf("%s: %+v", e.Name, e)
		}
	}
	want := map[string]string{
		"file": "file -rw-rw-rw-", "read only": "file -r--r--r--", "folder": "dir drwxrwxrwx", "junction": "symlink Lrw-rw-rw-",
		"link": "symlink Lrw-rw-rw-", "socket": "socket Srw-rw-rw-", "odd": "error", "deduplicated": "file -rw-rw-rw-",
		"cloud": "dir drwxrwxrwx", "last": "file -rw-rw-rw-",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for n := range buf {
		if _, err := appendDirInfos(nil, buf[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
	}
}

func TestStreams(t *testing.T) {
	t.Parallel()
	stream := func(name string, last bool) []byte {
		units, _ := encodeUTF16(name)
		b := make([]byte, (24+len(units)+7)&^7)
		if !last {
			binary.LittleEndian.PutUint32(b, uint32(len(b)))
		}
		binary.LittleEndian.PutUint32(b[4:], uint32(len(units)))
		copy(b[24:], units)
		return b
	}
	buf := bytes.Join([][]byte{stream("::$DATA", false), stream(":hidden:$DATA", false), stream(":two words:$DATA", true)}, nil)
	if diff := cmp.Diff([]string{":hidden", ":two words"}, streamNames(buf)); diff != "" {
		t.Error(diff)
	}
	for n := range buf {
		_ = streamNames(buf[:n]) // must not panic
	}
}

// FuzzWindowsBytes feeds everything that reads bytes of Windows.
func FuzzWindowsBytes(f *testing.F) {
	f.Add(descriptor)
	f.Add(record("x", 0, 0, true))
	b, _ := encodeReparse(`C:\x`, true)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = checkDescriptor(b)
		_ = streamNames(b)
		_, _ = decodeReparse(b)
		infos, _ := appendDirInfos(nil, b)
		for _, d := range infos {
			if e := d.entry(); e.Err == nil && e.Type == kassett.File && e.Mode&fs.ModeType != 0 {
				t.Errorf("%+v", e)
			}
		}
	})
}
