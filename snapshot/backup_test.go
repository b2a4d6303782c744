package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/restic/chunker"
	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// contentOf reads a file of a snapshot back.
func contentOf(t testing.TB, r *repo.Repository, n *snapshot.Node) []byte {
	t.Helper()
	var all []byte
	for _, id := range n.Content {
		b, err := r.LoadBlob(t.Context(), repo.BlobHandle{Type: repo.DataBlob, ID: id}, nil)
		must(t, err)
		all = append(all, b...)
	}
	return all
}

// agree fails unless the tree holds exactly what src holds.
func agree(t testing.TB, r *repo.Repository, tree kassett.ID, src *treeSource) {
	t.Helper()
	got := nodes(t, r, tree)
	if len(got) != len(src.entries) {
		t.Fatalf("%d nodes, want %d", len(got), len(src.entries))
	}
	for path, e := range src.entries {
		n := got[path]
		if n == nil {
			t.Fatalf("%s is missing", path)
		}
		x := src.extra[path]
		want := &snapshot.Node{Entry: e, Content: n.Content, Subtree: n.Subtree}
		want.LinkTarget, want.Xattrs, want.Generic = x.LinkTarget, x.Xattrs, x.Generic
		if !n.Equal(want) {
			t.Fatalf("%s:\n got %+v\nwant %+v", path, n, want)
		}
		if (n.Content != nil) != (e.Type == kassett.File) || n.Subtree.IsZero() != (e.Type != kassett.Dir) {
			t.Fatalf("%s: content %v, subtree %s", path, n.Content, n.Subtree)
		}
		if e.Type == kassett.File && !bytes.Equal(contentOf(t, r, n), src.content[path]) {
			t.Fatalf("%s: other content", path)
		}
	}
}

// anySource makes a source with a few folders of anything.
var anySource = rapid.Custom(func(t *rapid.T) *treeSource {
	src := newTreeSource()
	name := rapid.Map(anyText, func(s string) string { return strings.NewReplacer("/", "_", "\x00", "_").Replace(s) }).
		Filter(func(s string) bool { return s != "" && s != "." && s != ".." })
	dirs := []string{""}
	for range rapid.IntRange(1, 12).Draw(t, "entries") {
		dir := rapid.SampledFrom(dirs).Draw(t, "dir")
		path := strings.TrimPrefix(dir+"/"+name.Draw(t, "name"), "/")
		if _, ok := src.entries[path]; ok {
			continue
		}
		e := anyNode.Draw(t, "entry").Entry
		e.Type = rapid.SampledFrom([]kassett.EntryType{kassett.File, kassett.File, kassett.Dir, kassett.Symlink, kassett.Fifo, kassett.CharDevice}).Draw(t, "type")
		e.Mode &= fs.ModePerm | fs.ModeType | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		e.User, e.Group, e.Size = "nurse", "ward7", 0
		for _, at := range []*time.Time{&e.ModTime, &e.AccessTime, &e.ChangeTime} {
			if _, zone := at.Zone(); zone%60 != 0 || at.Year() < 0 || at.Year() > 9999 {
				*at = day // the format has no room for it
			}
		}
		if e.Type == kassett.Dir || e.Links == 1 {
			e.DeviceID = 0
		}
		x := kassett.Entry{}
		for _, a := range e.Xattrs {
			x.Xattrs = append(x.Xattrs, kassett.Xattr{Name: strings.ToValidUTF8(a.Name, ""), Value: a.Value})
		}
		e.LinkTarget, e.Xattrs, e.Generic = "", nil, nil
		switch e.Type {
		case kassett.Symlink:
			x.LinkTarget = anyText.Draw(t, "target")
		case kassett.Dir:
			dirs = append(dirs, path)
		case kassett.File:
			b := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "content")
			if n := rapid.SampledFrom([]int{0, 0, 0, 4096, 8192, 70000, 600 << 10}).Draw(t, "more"); n > 0 {
				b = append(b, testBytes(uint64(n), n)...)
			}
			src.content[path], e.Size = b, uint64(len(b))
			e.Cut = rapid.SampledFrom([]kassett.Cut{{}, {Kind: kassett.CutWhole}, {Kind: kassett.CutPage, Page: 4096}}).Draw(t, "cut")
		}
		e.Name = path[strings.LastIndexByte(path, '/')+1:]
		src.entries[path], src.extra[path] = e, x
	}
	return src
})

func testBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = rnd.Read(b)
	return b
}

// TestAnySourceIsSavedWhole backs up anything, changes something, and backs up
// again: each time the trees say what the source says, and a backup that
// compares makes the same trees as one that reads all.
func TestAnySourceIsSavedWhole(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	rapid.Check(t, func(rt *rapid.T) {
		src := anySource.Draw(rt, "source")
		if len(src.entries) == 0 {
			return
		}
		host := fmt.Sprintf("host-%d", rapid.Uint64().Draw(rt, "host"))
		o := snapshot.BackupOptions{Host: host, Paths: []string{"/"}}
		first := backUp(t, r, src, o)
		agree(t, r, first.Tree, src)
		other := anySource.Draw(rt, "other")
		for path, e := range other.entries { // new things at the top, old files touched
			if e.Type != kassett.Dir && !strings.Contains(path, "/") {
				if old, ok := src.entries[path]; !ok || old.Type != kassett.Dir {
					e.ChangeTime = e.ChangeTime.Add(time.Second)
					src.entries[path], src.extra[path], src.content[path] = e, other.extra[path], other.content[path]
				}
			}
		}
		o.Time = first.Time.Add(time.Second)
		second := backUp(t, r, src, o)
		agree(t, r, second.Tree, src)
		o.Level = snapshot.Full
		full := backUp(t, r, src, o)
		if full.Tree != second.Tree {
			t.Fatalf("comparing made tree %s, reading all made %s", second.Tree, full.Tree)
		}
		if src.frozen.Load() != 0 {
			t.Fatal("the source is still frozen")
		}
	})
}

func TestUnchangedFilesAreNotOpened(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	for i := range 20 {
		src.add(fmt.Sprintf("a/%d/file", i), testBytes(uint64(i), 1000))
	}
	src.add("b/big", testBytes(1, 3<<20))
	src.extra["b/big"] = kassett.Entry{Xattrs: []kassett.Xattr{{Name: "user.x", Value: []byte("1")}}}
	o := snapshot.BackupOptions{Host: "h"}
	first := backUp(t, r, src, o)
	if s := first.Summary; s.FilesNew != 21 || s.DirsNew != 22 || s.TotalBytesProcessed != 20*1000+3<<20 || s.DataAdded < s.TotalBytesProcessed {
		t.Errorf("first: %+v", s)
	}

	src.opened.Store(0)
	src.filled.Store(0)
	second := backUp(t, r, src, o)
	if src.opened.Load() != 0 || src.filled.Load() != 0 {
		t.Errorf("%d files opened, %d entries completed", src.opened.Load(), src.filled.Load())
	}
	if s := second.Summary; second.Tree != first.Tree || s.FilesUnmodified != 21 || s.DirsUnmodified != 22 ||
		s.TreeBlobs+s.DataBlobs+s.DataAdded != 0 || s.TotalBytesProcessed != first.Summary.TotalBytesProcessed {
		t.Errorf("second: tree %s, was %s: %+v", second.Tree, first.Tree, s)
	}

	src.touch("a/7/file")
	third := backUp(t, r, src, o)
	if s := third.Summary; s.FilesChanged != 1 || s.FilesUnmodified != 20 || s.DirsChanged != 2 || s.DirsUnmodified != 20 || src.opened.Load() != 1 {
		t.Errorf("third: %d opened: %+v", src.opened.Load(), s)
	}
	agree(t, r, third.Tree, src)
}

func TestWhatCountsAsChanged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change      func(*kassett.Entry)
		o           snapshot.BackupOptions
		read, fills int64
	}{
		"nothing":        {func(*kassett.Entry) {}, snapshot.BackupOptions{}, 0, 0},
		"mtime":          {func(e *kassett.Entry) { e.ModTime = e.ModTime.Add(1) }, snapshot.BackupOptions{}, 1, 1},
		"ctime":          {func(e *kassett.Entry) { e.ChangeTime = e.ChangeTime.Add(1) }, snapshot.BackupOptions{}, 1, 1},
		"ctime ignored":  {func(e *kassett.Entry) { e.ChangeTime = e.ChangeTime.Add(1) }, snapshot.BackupOptions{Ignore: snapshot.Ignore{IgnoreCtime: true}}, 0, 1},
		"inode":          {func(e *kassett.Entry) { e.Inode++ }, snapshot.BackupOptions{}, 1, 1},
		"inode ignored":  {func(e *kassett.Entry) { e.Inode++ }, snapshot.BackupOptions{Ignore: snapshot.Ignore{IgnoreInode: true}}, 0, 1},
		"mode, no ctime": {func(e *kassett.Entry) { e.Mode = 0o600 }, snapshot.BackupOptions{}, 0, 0},
		"cut":            {func(e *kassett.Entry) { e.Cut.Kind = kassett.CutWhole }, snapshot.BackupOptions{}, 1, 1},
		"size":           {func(e *kassett.Entry) { e.Size++ }, snapshot.BackupOptions{}, 1, 1},
		"full":           {func(*kassett.Entry) {}, snapshot.BackupOptions{Level: snapshot.Full}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := memoryRepo(t)
			src := newTreeSource()
			src.add("file", []byte("content"))
			backUp(t, r, src, snapshot.BackupOptions{})
			src.opened.Store(0)
			src.filled.Store(0)
			e := src.entries["file"]
			c.change(&e)
			src.entries["file"] = e
			if e.Size == 8 {
				src.content["file"] = []byte("content!")
			}
			sn := backUp(t, r, src, c.o)
			if src.opened.Load() != c.read || src.filled.Load() != c.fills {
				t.Errorf("%d opened, want %d; %d completed, want %d", src.opened.Load(), c.read, src.filled.Load(), c.fills)
			}
			agree(t, r, sn.Tree, src)
		})
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	src.add("good/file", []byte("good"))
	src.add("bad/unreadable", []byte("x"))
	src.broken["bad/unreadable"] = errGone
	src.add("bad/vanished", []byte("x"))
	src.broken["bad/vanished"] = &fs.PathError{Op: "open", Path: "vanished", Err: fs.ErrNotExist}
	src.add("bad/torn", []byte("torn"))
	src.torn["bad/torn"] = true
	src.add("bad/grew", []byte("123456"))
	src.entries["bad/grew"] = func(e kassett.Entry) kassett.Entry { e.Size = 3; return e }(src.entries["bad/grew"])
	src.add("bad/shrank", testBytes(1, 1<<20))
	src.entries["bad/shrank"] = func(e kassett.Entry) kassett.Entry { e.Size = 2 << 20; return e }(src.entries["bad/shrank"])
	src.add("bad/closed/inside", []byte("x"))
	src.broken["bad/closed"] = fs.ErrPermission
	src.put("bad/unknown", kassett.Entry{Type: "irregular"})
	src.put("bad/socket", kassett.Entry{Type: kassett.Socket})
	src.put("bad/stat", kassett.Entry{Type: kassett.File, Err: errGone})
	src.add("bad/xattr", []byte("x"))
	src.extra["bad/xattr"] = kassett.Entry{Err: errGone}
	src.put("bad/link", kassett.Entry{Type: kassett.Symlink})
	src.extra["bad/link"] = kassett.Entry{Err: errGone}
	src.put("bad/pipe", kassett.Entry{Type: kassett.Fifo})
	src.extra["bad/pipe"] = kassett.Entry{Err: fs.ErrNotExist}
	src.extra["bad/vanished"] = kassett.Entry{Err: fs.ErrNotExist}

	var n named
	o := n.options(snapshot.BackupOptions{Host: "h"})
	sn, err := snapshot.Backup(t.Context(), r, src, o)
	if kassett.KindOf(err) != kassett.Incomplete || kassett.HintOf(err) == "" || sn == nil {
		t.Fatalf("error %v, snapshot %v", err, sn)
	}
	for path, want := range map[string]string{
		"bad/unreadable": "does not answer", "bad/vanished": "vanished", "bad/torn": "changed", "bad/grew": "6 were saved",
		"bad/shrank": "1048576 were saved", "bad/closed": "permission", "bad/unknown": "irregular", "bad/stat": "does not answer", "bad/xattr": "metadata",
		"bad/link": "metadata", "bad/pipe": "vanished",
	} {
		if !strings.Contains(n.warned[path], want) {
			t.Errorf("%s was named with %q, want %q", path, n.warned[path], want)
		}
		delete(n.warned, path)
	}
	if len(n.warned) != 0 {
		t.Errorf("also named: %v", n.warned)
	}
	got := nodes(t, r, sn.Tree)
	var paths []string
	for p := range got {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	if want := "bad bad/grew bad/shrank bad/torn bad/xattr good good/file"; strings.Join(paths, " ") != want {
		t.Errorf("saved %s, want %s", paths, want)
	}
	if got["bad/grew"].Size != 6 || string(contentOf(t, r, got["bad/grew"])) != "123456" || got["bad/shrank"].Size != 1<<20 {
		t.Error("a file that changed was not saved as read")
	}
	if stored, err := snapshot.Load(t.Context(), r, sn.ID); err != nil || stored.Complete() || !slices.Contains(stored.Tags, snapshot.TagIncomplete) {
		t.Errorf("stored %+v, error %v", stored, err)
	}

	// The next run reads what was missing, and is whole.
	clear(src.broken)
	clear(src.torn)
	for _, p := range []string{"bad/unknown", "bad/socket", "bad/stat", "bad/link", "bad/pipe"} {
		delete(src.entries, p)
	}
	clear(src.extra)
	src.entries["bad/grew"] = func(e kassett.Entry) kassett.Entry { e.Size = 6; return e }(src.entries["bad/grew"])
	src.entries["bad/shrank"] = func(e kassett.Entry) kassett.Entry { e.Size = 1 << 20; return e }(src.entries["bad/shrank"])
	next := backUp(t, r, src, snapshot.BackupOptions{Host: "h"})
	agree(t, r, next.Tree, src)
	if !next.Complete() {
		t.Error("the next one is marked incomplete")
	}
}

func TestHostileNamesAreNotSaved(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := listSource{{Name: "a"}, {Name: "b/c"}, {Name: ".."}, {Name: "."}, {Name: ""}, {Name: "x\x00"}, {Name: "twice"}, {Name: "twice"}}
	var n named
	sn, err := snapshot.Backup(t.Context(), r, src, n.options(snapshot.BackupOptions{}))
	if kassett.KindOf(err) != kassett.Incomplete || len(n.warned) != 6 {
		t.Fatalf("error %v, named %v", err, n.warned)
	}
	if got := nodes(t, r, sn.Tree); len(got) != 2 || got["a"] == nil || got["twice"] == nil {
		t.Errorf("saved %v", got)
	}
}

// listSource is one folder of fifos, in the order and with the names given.
type listSource []kassett.Entry

func (s listSource) Freeze(context.Context) error                       { return nil }
func (s listSource) Thaw(context.Context) error                         { return nil }
func (s listSource) Fill(context.Context, string, *kassett.Entry) error { return nil }
func (s listSource) Open(context.Context, string, *kassett.Entry) (kassett.Content, error) {
	return nil, errGone
}

func (s listSource) List(context.Context, string) ([]kassett.Entry, error) {
	list := slices.Clone(s)
	for i := range list {
		list[i].Type = kassett.Fifo
	}
	return list, nil
}

func TestSourceFailures(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	if sn, err := snapshot.Backup(t.Context(), r, listSource{}, snapshot.BackupOptions{}); sn != nil || kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("an empty source: %v, %v", sn, err)
	}
	src := newTreeSource()
	src.broken[""] = errGone
	if sn, err := snapshot.Backup(t.Context(), r, src, snapshot.BackupOptions{}); sn != nil || !errors.Is(err, errGone) {
		t.Errorf("a source that cannot be listed: %v, %v", sn, err)
	}
	if list, err := snapshot.List(t.Context(), r, snapshot.Filter{}); len(list) != 0 || err != nil {
		t.Errorf("there are snapshots: %v, %v", list, err)
	}
}

func TestCutsAndTheirTags(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	b := testBytes(3, 9<<20+1234)
	copy(b[1<<20:5<<20], make([]byte, 4<<20))
	page := kassett.Cut{Kind: kassett.CutPage, Page: 32 << 10}
	for _, c := range []struct {
		cut  kassett.Cut
		tags string
		cuts func() []int
	}{
		{kassett.Cut{}, "", func() (sizes []int) {
			c := chunker.New(bytes.NewReader(b), r.Config().ChunkerPolynomial)
			for {
				chunk, err := c.Next(nil)
				if errors.Is(err, io.EOF) {
					return sizes
				}
				sizes = append(sizes, int(chunk.Length))
			}
		}},
		{kassett.Cut{Kind: kassett.CutWhole}, "kassett:cut=whole", func() []int { return []int{8 << 20, 1<<20 + 1234} }},
		{page, "kassett:cut=page=32KiB", func() (sizes []int) {
			for range 9 << 20 / (32 << 10) {
				sizes = append(sizes, 32<<10)
			}
			return append(sizes, 1234)
		}},
	} {
		for _, holes := range []bool{false, true} {
			src := newTreeSource()
			src.add("file", b)
			src.add("tail", make([]byte, 8<<20))
			for path, e := range src.entries {
				e.Cut = c.cut
				src.entries[path] = e
			}
			var s kassett.Source = src
			if holes {
				s = holeySource{src}
			}
			sn := backUp(t, r, s, snapshot.BackupOptions{Host: c.cut.String(), Level: snapshot.Full})
			agree(t, r, sn.Tree, src)
			if got := strings.Join(sn.Tags, " "); got != strings.TrimSpace(c.tags+" kassett:level=full") {
				t.Errorf("%s: tags %q", c.cut, got)
			}
			var sizes []int
			for _, id := range nodes(t, r, sn.Tree)["file"].Content {
				n, ok := r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id})
				if !ok {
					t.Fatalf("%s: blob %s is not in the index", c.cut, id)
				}
				sizes = append(sizes, int(n))
			}
			if want := c.cuts(); !slices.Equal(sizes, want) {
				t.Errorf("%s: cut at %v, want %v", c.cut, sizes, want)
			}
			most := int64(len(b)) // the hole in the midst is less than one whole blob
			if c.cut.Kind != kassett.CutWhole {
				most -= 2 << 20
			}
			if read := src.read.Load(); holes && read > most {
				t.Errorf("%s: %d bytes were read, holes and all", c.cut, read)
			}
		}
	}
}

func TestAnotherCutIsAnnounced(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	src.add("a", testBytes(1, 100_000))
	src.add("b", testBytes(2, 100_000))
	backUp(t, r, src, snapshot.BackupOptions{})
	for path, e := range src.entries {
		e.Cut = kassett.Cut{Kind: kassett.CutPage, Page: 4096}
		src.entries[path] = e
	}
	var n named
	src.opened.Store(0)
	sn := backUp(t, r, src, n.options(snapshot.BackupOptions{}))
	if src.opened.Load() != 2 || len(n.notices) != 1 || !strings.Contains(n.notices[0], "page=4KiB") {
		t.Errorf("%d files opened, notices %q", src.opened.Load(), n.notices)
	}
	if len(nodes(t, r, sn.Tree)["a"].Content) != 25 {
		t.Error("the old content was used")
	}
	src.opened.Store(0)
	backUp(t, r, src, n.options(snapshot.BackupOptions{}))
	if src.opened.Load() != 0 || len(n.notices) != 0 {
		t.Errorf("again: %d files opened, notices %q", src.opened.Load(), n.notices)
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	src.add("file", []byte("1"))
	at := time.Now().Add(-time.Hour)
	run := func(l snapshot.Level) *snapshot.Snapshot {
		at = at.Add(time.Minute)
		src.touch("file")
		return backUp(t, r, src, snapshot.BackupOptions{Host: "h", Paths: []string{"/p"}, Level: l, Time: at})
	}
	tag := func(s *snapshot.Snapshot, want string) {
		t.Helper()
		if got := strings.Join(s.Tags, " "); got != want {
			t.Errorf("tags %q, want %q", got, want)
		}
	}
	parent := func(s, want *snapshot.Snapshot) {
		t.Helper()
		if want == nil && s.Parent != nil || want != nil && (s.Parent == nil || *s.Parent != want.ID) {
			t.Errorf("parent %v, want %v", s.Parent, want)
		}
	}
	first := run(snapshot.Differential) // nothing to differ from
	tag(first, "kassett:level=full")
	parent(first, nil)
	second := run(0)
	tag(second, "")
	parent(second, first)
	third := run(snapshot.Differential)
	tag(third, "kassett:level=differential")
	parent(third, first)
	full := run(snapshot.Full)
	tag(full, "kassett:level=full")
	parent(full, nil)
	parent(run(snapshot.Incremental), full)
	parent(run(snapshot.Differential), full)
	other := backUp(t, r, src, snapshot.BackupOptions{Host: "h", Paths: []string{"/q"}})
	parent(other, nil)
}

func TestMissingBlobsAreStoredAgain(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	src := newTreeSource()
	src.add("file", testBytes(1, 5000))
	sn := backUp(t, r, src, snapshot.BackupOptions{})
	// The pack of the content is lost, and the index made anew without it.
	loc, ok := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: nodes(t, r, sn.Tree)["file"].Content[0]})
	if !ok {
		t.Fatal("the content is not in the index")
	}
	must(t, r.Delete(t.Context(), kassett.PackFile, loc.Pack))
	restic(t, dir, "rebuild-index")
	r = reopen(t, dir)
	var n named
	again := backUp(t, r, src, n.options(snapshot.BackupOptions{}))
	if len(n.notices) != 1 || !strings.Contains(n.notices[0], "file") {
		t.Errorf("notices %q", n.notices)
	}
	agree(t, r, again.Tree, src)
	restic(t, dir, "check", "--read-data")
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	src.add("a/file", testBytes(1, 3<<20))
	src.add("a/same", testBytes(1, 3<<20))
	sn := backUp(t, r, src, snapshot.BackupOptions{DryRun: true})
	if !sn.ID.IsZero() || sn.Summary.FilesNew != 2 || sn.Summary.DataAdded < 3<<20 || sn.Summary.DataAdded > 4<<20 {
		t.Errorf("%+v", sn.Summary)
	}
	for _, k := range []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile} {
		for info, err := range r.List(t.Context(), k) {
			t.Errorf("there is %v, error %v", info, err)
		}
	}
}

func TestSkipUnchanged(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	src := newTreeSource()
	src.add("file", []byte("x"))
	first := backUp(t, r, src, snapshot.BackupOptions{})
	if sn := backUp(t, r, src, snapshot.BackupOptions{SkipUnchanged: true}); sn.ID != first.ID {
		t.Errorf("a new snapshot %s", sn.ID)
	}
	src.touch("file")
	if sn := backUp(t, r, src, snapshot.BackupOptions{SkipUnchanged: true}); sn.ID == first.ID {
		t.Error("no new snapshot of a changed source")
	}
}

// TestInterruptedBackup: nothing is left frozen or half, what was stored stays,
// and the next run is whole.
func TestInterruptedBackup(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	src := newTreeSource()
	for i := range 300 {
		src.add(fmt.Sprintf("%d/file", i), testBytes(uint64(i), 200_000))
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := &stoppingSource{treeSource: src, after: 150, cancel: cancel}
	sn, err := snapshot.Backup(ctx, r, stop, snapshot.BackupOptions{})
	if sn != nil || kassett.KindOf(err) != kassett.Interrupted {
		t.Fatalf("snapshot %v, error %v", sn, err)
	}
	if src.frozen.Load() != 0 {
		t.Error("the source is still frozen")
	}
	r = reopen(t, dir)
	sn = backUp(t, r, src, snapshot.BackupOptions{})
	agree(t, r, sn.Tree, src)
	restic(t, dir, "check", "--read-data")
}

// stoppingSource cancels the backup at the nth file.
type stoppingSource struct {
	*treeSource
	after  int64
	cancel context.CancelFunc
}

func (s *stoppingSource) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	if s.opened.Load() == s.after {
		s.cancel()
	}
	return s.treeSource.Open(ctx, path, e)
}

// TestDeepAndWide: a folder with very many entries, and very many folders in
// each other.
func TestDeepAndWide(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	wide := make(listSource, 100_000)
	for i := range wide {
		wide[i].Name = fmt.Sprintf("%08d", i)
	}
	sn := backUp(t, r, wide, snapshot.BackupOptions{})
	tree, err := snapshot.LoadTree(t.Context(), r, sn.Tree)
	if err != nil || len(tree.Nodes) != len(wide) {
		t.Fatalf("error %v", err)
	}
	src := deepSource(2000)
	sn = backUp(t, r, src, snapshot.BackupOptions{Host: "deep"})
	if got := nodes(t, r, sn.Tree); len(got) != 2000 {
		t.Errorf("%d folders", len(got))
	}
}

// deepSource is so many folders, each in the one before.
type deepSource int

func (s deepSource) Freeze(context.Context) error                       { return nil }
func (s deepSource) Thaw(context.Context) error                         { return nil }
func (s deepSource) Fill(context.Context, string, *kassett.Entry) error { return nil }
func (s deepSource) Open(context.Context, string, *kassett.Entry) (kassett.Content, error) {
	return nil, errGone
}

func (s deepSource) List(_ context.Context, dir string) ([]kassett.Entry, error) {
	if len(strings.Split(filepath.ToSlash(dir), "/")) >= int(s) {
		return nil, nil
	}
	return []kassett.Entry{{Name: "d", Type: kassett.Dir}}, nil
}

// TestStrangeCuts: a source that asks for pages no one can have is served as
// well as can be, and does not stop the backup.
func TestStrangeCuts(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	for _, page := range []uint32{0, 1, 12 << 10, 3 << 20, 1 << 31} {
		src := newTreeSource()
		src.add("file", testBytes(uint64(page), 1<<20+1))
		src.add("large", testBytes(9, 9<<20))
		if page == 1 { // a page of one byte makes as many blobs as there are bytes
			src = newTreeSource()
			src.add("file", []byte("some bytes"))
		}
		for path, e := range src.entries {
			e.Cut = kassett.Cut{Kind: kassett.CutPage, Page: page}
			src.entries[path] = e
		}
		sn := backUp(t, r, src, snapshot.BackupOptions{Level: snapshot.Full})
		agree(t, r, sn.Tree, src)
	}
}
