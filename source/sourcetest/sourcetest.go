// Package sourcetest is the suite that every [kassett.Source] passes.
//
// It walks the source as a backup does, from many goroutines, and checks what
// the engine relies on: the order of names, types that agree with modes, sizes
// that agree with contents, holes that are zeros, errors that are entries, and
// Freeze and Thaw in pairs.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"kassett"
)

// Setup is a source made for one test.
type Setup struct {
	Source kassett.Source
	Files  map[string]string // paths of files that must be there, and their content
	Broken []string          // paths that must be listed as entries with an error
	Absent []string          // paths that must not be listed

	// Change, when not nil, changes the content of the file at path while it
	// is being read, in a way that Changed must notice.
	Change func(t *testing.T, path string)
}

// Run runs the suite. It calls setup once for each of its tests.
func Run(t *testing.T, setup func(t *testing.T) Setup) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Setup)
	}{
		{"Walk", testWalk},
		{"Contents", testContents},
		{"Holes", testHoles},
		{"Changed", testChanged},
		{"ManyAtOnce", testManyAtOnce},
		{"BadPaths", testBadPaths},
		{"Cancelled", testCancelled},
		{"FreezeAgain", testFreezeAgain},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, setup(t))
		})
	}
}

// freeze freezes s until the test ends.
func freeze(t *testing.T, s kassett.Source) {
	t.Helper()
	if err := s.Freeze(t.Context()); err != nil {
		t.Fatalf("freeze: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Thaw(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("thaw: %v", err)
		}
	})
}

// walk calls fn for everything in s.
func walk(t *testing.T, s kassett.Source, dir string, fn func(path string, e *kassett.Entry)) {
	t.Helper()
	list, err := s.List(t.Context(), dir)
	if err != nil {
		t.Errorf("list %q: %v", dir, err)
		return
	}
	if !slices.IsSortedFunc(list, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("list %q: not in the order of the bytes of names", dir)
	}
	for i := range list {
		e := &list[i]
		if i > 0 && list[i-1].Name == e.Name {
			t.Errorf("list %q: %q twice", dir, e.Name)
		}
		path := strings.TrimPrefix(dir+"/"+e.Name, "/")
		fn(path, e)
		if e.Err == nil && e.Type == kassett.Dir {
			walk(t, s, path, fn)
		}
	}
}

func testWalk(t *testing.T, c Setup) {
	freeze(t, c.Source)
	seen := map[string]kassett.Entry{}
	walk(t, c.Source, "", func(path string, e *kassett.Entry) {
		seen[path] = *e
		checkEntry(t, path, e)
	})
	for path := range c.Files {
		if e, ok := seen[path]; !ok || e.Type != kassett.File || e.Err != nil {
			t.Errorf("%q: listed %v as %q, error %v; want a file", path, ok, e.Type, e.Err)
		}
	}
	for _, path := range c.Broken {
		if e, ok := seen[path]; !ok || e.Err == nil {
			t.Errorf("%q: listed %v, no error; want an entry with an error", path, ok)
		}
	}
	for _, path := range c.Absent {
		if _, ok := seen[path]; ok {
			t.Errorf("%q: listed, but should be left out", path)
		}
	}
}

// modeOf is what the type bits of an entry's mode must be.
var modeOf = map[kassett.EntryType]fs.FileMode{
	kassett.File: 0, kassett.Dir: fs.ModeDir, kassett.Symlink: fs.ModeSymlink, kassett.Fifo: fs.ModeNamedPipe,
	kassett.Device: fs.ModeDevice, kassett.CharDevice: fs.ModeDevice | fs.ModeCharDevice, kassett.Socket: fs.ModeSocket,
}

// kept are the bits of a mode that the format stores.
const kept = fs.ModePerm | fs.ModeType | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func checkEntry(t *testing.T, path string, e *kassett.Entry) {
	t.Helper()
	if e.Name == "" || e.Name == "." || e.Name == ".." || strings.ContainsAny(e.Name, "/\x00") {
		t.Errorf("%q: not one name", path)
	}
	if e.Err != nil {
		return
	}
	want, ok := modeOf[e.Type]
	if !ok || e.Mode.Type() != want || e.Mode&^kept != 0 {
		t.Errorf("%q: type %q with mode %v", path, e.Type, e.Mode)
	}
	if e.Type != kassett.File && e.Size != 0 {
		t.Errorf("%q: %q of %d bytes", path, e.Type, e.Size)
	}
	if e.ModTime.IsZero() || e.AccessTime.IsZero() {
		t.Errorf("%q: no times", path)
	}
	if e.DeviceID != 0 && (e.Links < 2 || e.Type == kassett.Dir) {
		t.Errorf("%q: a file system, but %d links", path, e.Links)
	}
}

func closeContent(t *testing.T, f io.Closer) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// read returns the content of the file at path and whether it changed.
func read(t *testing.T, s kassett.Source, path string, e *kassett.Entry) (data []byte, changed bool, err error) {
	t.Helper()
	c, err := s.Open(t.Context(), path, e)
	if err != nil {
		return nil, false, err
	}
	data, err = io.ReadAll(c)
	if err == nil {
		changed, err = c.Changed()
	}
	return data, changed, errors.Join(err, c.Close())
}

func testContents(t *testing.T, c Setup) {
	freeze(t, c.Source)
	walk(t, c.Source, "", func(path string, e *kassett.Entry) {
		if e.Err != nil {
			return
		}
		if err := c.Source.Fill(t.Context(), path, e); err != nil {
			t.Errorf("fill %q: %v", path, err)
		}
		first := *e
		if err := c.Source.Fill(t.Context(), path, e); err != nil || len(first.Xattrs) != len(e.Xattrs) {
			t.Errorf("fill %q twice: %d, then %d attributes, error %v", path, len(first.Xattrs), len(e.Xattrs), err)
		}
		if e.Type == kassett.Symlink && e.LinkTarget == "" {
			t.Errorf("%q: a link to nothing", path)
		}
		if e.Type != kassett.File {
			return
		}
		data, changed, err := read(t, c.Source, path, e)
		if err != nil || changed || uint64(len(data)) != e.Size {
			t.Errorf("read %q: %d bytes of %d, changed %v, error %v", path, len(data), e.Size, changed, err)
		}
		if want, ok := c.Files[path]; ok && want != string(data) {
			t.Errorf("read %q: %.40q, want %.40q", path, data, want)
		}
	})
}

func testHoles(t *testing.T, c Setup) {
	freeze(t, c.Source)
	walk(t, c.Source, "", func(path string, e *kassett.Entry) {
		if e.Err != nil || e.Type != kassett.File {
			return
		}
		all, _, err := read(t, c.Source, path, e)
		if err != nil {
			t.Errorf("read %q: %v", path, err)
			return
		}
		f, err := c.Source.Open(t.Context(), path, e)
		if err != nil {
			t.Errorf("open %q: %v", path, err)
			return
		}
		defer closeContent(t, f)
		if holes, ok := f.(kassett.Holes); ok {
			checkHoles(t, path, f, holes, all)
		}
	})
}

// checkHoles reads only the data of a file and compares it with all of it.
func checkHoles(t *testing.T, path string, f io.Reader, holes kassett.Holes, all []byte) {
	t.Helper()
	size := int64(len(all))
	got := make([]byte, size)
	for at := int64(0); at < size; {
		data, err := holes.NextData(at)
		if err != nil || data < at {
			t.Errorf("%q: data after %d is at %d, error %v", path, at, data, err)
			return
		}
		if err := holes.Skip(data - at); err != nil {
			t.Errorf("%q: skip to %d: %v", path, data, err)
			return
		}
		if at = data; at >= size {
			break
		}
		n, err := f.Read(got[at:min(at+4096, size)])
		if at += int64(n); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("read %q at %d: %v", path, at, err)
			return
		}
	}
	if !bytes.Equal(got, all) {
		t.Errorf("%q: reading only its data gives something else", path)
	}
}

func testChanged(t *testing.T, c Setup) {
	if c.Change == nil {
		return
	}
	freeze(t, c.Source)
	done := false
	walk(t, c.Source, "", func(path string, e *kassett.Entry) {
		if _, ok := c.Files[path]; !ok || done {
			return
		}
		done = true
		f, err := c.Source.Open(t.Context(), path, e)
		if err != nil {
			t.Fatal(err)
		}
		defer closeContent(t, f)
		c.Change(t, path)
		if _, err := io.Copy(io.Discard, f); err != nil {
			t.Errorf("read %q while it changes: %v", path, err)
		}
		if changed, err := f.Changed(); !changed || err != nil {
			t.Errorf("%q: changed %v, error %v, after a change", path, changed, err)
		}
	})
	if !done {
		t.Error("no file to change")
	}
}

func testManyAtOnce(t *testing.T, c Setup) {
	freeze(t, c.Source)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			walk(t, c.Source, "", func(path string, e *kassett.Entry) {
				if e.Err != nil {
					return
				}
				if err := c.Source.Fill(t.Context(), path, e); err != nil {
					t.Errorf("fill %q: %v", path, err)
				}
				if e.Type == kassett.File {
					if _, _, err := read(t, c.Source, path, e); err != nil {
						t.Errorf("read %q: %v", path, err)
					}
				}
			})
		})
	}
	wg.Wait()
}

func testBadPaths(t *testing.T, c Setup) {
	freeze(t, c.Source)
	for _, path := range []string{"/", "..", "../x", ".", "no such thing here", "a//b", "a/../b"} {
		if list, err := c.Source.List(t.Context(), path); err == nil {
			t.Errorf("list %q: %d entries and no error", path, len(list))
		}
		e := kassett.Entry{Type: kassett.File}
		if f, err := c.Source.Open(t.Context(), path, &e); err == nil {
			t.Errorf("open %q: no error", path)
			_ = f.Close()
		}
	}
	if _, err := c.Source.List(t.Context(), "no such thing here"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list what is not there: %v, want fs.ErrNotExist", err)
	}
}

func testCancelled(t *testing.T, c Setup) {
	freeze(t, c.Source)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Source.List(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("list after the end: %v", err)
	}
}

func testFreezeAgain(t *testing.T, c Setup) {
	for range 2 {
		if err := c.Source.Freeze(t.Context()); err != nil {
			t.Fatalf("freeze: %v", err)
		}
		if _, err := c.Source.List(t.Context(), ""); err != nil {
			t.Errorf("list: %v", err)
		}
		if err := c.Source.Thaw(t.Context()); err != nil {
			t.Fatalf("thaw: %v", err)
		}
	}
}
