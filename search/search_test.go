package search_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/search"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tb is a test or a run of a property.
type tb interface {
	rapid.TB
	Cleanup(fn func())
}

// world is a repository, and what its snapshots hold.
type world struct {
	t         tb
	st        *storagetest.Memory
	cache     string
	r         *repo.Repository
	snapshots []*snapshot.Snapshot
	held      map[kassett.ID]map[string]*snapshot.Node // files and folders by path
	now       time.Time
}

const password = "correct horse"

func newWorld(t tb, cache string) *world {
	t.Helper()
	w := &world{
		t: t, st: storagetest.NewMemory(), cache: cache, held: make(map[kassett.ID]map[string]*snapshot.Node),
		now: time.Date(2024, 1, 1, 2, 0, 0, 0, time.UTC),
	}
	r, err := repo.Init(context.Background(), w.st, []byte(password), repo.InitOptions{
		Options: repo.Options{CacheDir: cache}, Scrypt: repo.Scrypt{N: 1 << 10, R: 1, P: 1},
	})
	w.must(err)
	w.r = r
	t.Cleanup(func() { _ = r.Close() })
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// files is the content of a snapshot: files by path, folders follow from them.
type files map[string]*snapshot.Node

func file(size uint64, seconds int64, content byte) *snapshot.Node {
	n := &snapshot.Node{Entry: kassett.Entry{Type: kassett.File, Size: size, ModTime: time.Unix(seconds, 5).UTC()}}
	n.Content = []kassett.ID{{content}}
	return n
}

// backup stores a snapshot.
func (w *world) backup(host string, all files) {
	w.t.Helper()
	held := make(map[string]*snapshot.Node)
	ctx := context.Background()
	out := w.r.NewWriter(ctx, repo.WriterOptions{})
	var build func(dir string, names []string) kassett.ID
	build = func(dir string, names []string) kassett.ID {
		subs := make(map[string][]string)
		var nodes []*snapshot.Node
		for _, p := range names {
			first, rest, deeper := strings.Cut(strings.TrimPrefix(p, dir+"/"), "/")
			if deeper && rest != "" {
				subs[first] = append(subs[first], p)
				continue
			}
			n := *all[p]
			n.Name = first
			nodes = append(nodes, &n)
		}
		for name, below := range subs {
			at := dir + "/" + name
			n := &snapshot.Node{Entry: kassett.Entry{Name: name, Type: kassett.Dir, Mode: fs.ModeDir, ModTime: time.Unix(77, 0).UTC()}}
			n.Subtree = build(at, below)
			nodes = append(nodes, n)
		}
		sortNodes(nodes)
		for _, n := range nodes {
			held[dir+"/"+n.Name] = n
		}
		b, err := (&snapshot.Tree{Nodes: nodes}).Encode()
		w.must(err)
		saved, err := out.Save(ctx, repo.TreeBlob, bytes.Clone(b))
		w.must(err)
		return saved.ID
	}
	var names []string
	for p := range all {
		names = append(names, p)
	}
	w.now = w.now.Add(time.Hour)
	sn := &snapshot.Snapshot{Time: w.now, Hostname: host, Paths: []string{"/"}, Tree: build("", names)}
	w.must(out.Flush(ctx))
	_, err := snapshot.Save(ctx, w.r, sn)
	w.must(err)
	w.snapshots = append(w.snapshots, sn)
	w.held[sn.ID] = held
}

func sortNodes(nodes []*snapshot.Node) {
	slices.SortFunc(nodes, func(a, b *snapshot.Node) int { return strings.Compare(a.Name, b.Name) })
}

// version and result are what is compared with the brute force.
type version struct {
	Type    kassett.EntryType
	Size    uint64
	Time    time.Time
	Content string
	First   kassett.ID
	Last    kassett.ID
	N       int
}

type result struct {
	Path, Host string
	Versions   []version
}

// brute walks all that the snapshots hold.
func (w *world) brute(is func(path string) bool) (all []result) {
	at := make(map[string]*result)
	for _, sn := range w.snapshots {
		for p, n := range w.held[sn.ID] {
			if !is(p) {
				continue
			}
			res := at[sn.Hostname+p]
			if res == nil {
				res = &result{Path: p, Host: sn.Hostname}
				at[sn.Hostname+p] = res
			}
			v := version{Type: n.Type, Size: n.Size, Time: n.ModTime.Local(), First: sn.ID, Last: sn.ID, N: 1}
			if n.Type == kassett.File {
				v.Content = fmt.Sprintf("%x", n.Content[0][:8])
			}
			i := slices.IndexFunc(res.Versions, func(o version) bool {
				return o.Type == v.Type && o.Size == v.Size && o.Time.Equal(v.Time) && o.Content == v.Content
			})
			if i < 0 {
				res.Versions = append(res.Versions, v)
			} else {
				res.Versions[i].Last = sn.ID
				res.Versions[i].N++
			}
		}
	}
	for _, r := range at {
		all = append(all, *r)
	}
	sortResults(all)
	return all
}

func sortResults(all []result) {
	slices.SortFunc(all, func(a, b result) int {
		if c := strings.Compare(a.Host, b.Host); c != 0 {
			return c
		}
		return strings.Compare(a.Path, b.Path)
	})
}

func (w *world) open() *search.Index {
	w.t.Helper()
	ix, err := search.Open(w.r, search.Options{Warn: func(err error) { w.t.Log("warning:", err) }})
	w.must(err)
	return ix
}

// found updates the index and searches.
func (w *world) found(ix *search.Index, text string) (all []result) {
	w.t.Helper()
	w.must(ix.Update(context.Background(), w.snapshots))
	w.must(ix.Search(context.Background(), w.snapshots, text, func(r *search.Result) bool {
		all = append(all, plain(r))
		return true
	}))
	sortResults(all)
	return all
}

func plain(r *search.Result) result {
	p := result{Path: r.Path, Host: r.Host}
	for _, v := range r.Versions {
		p.Versions = append(p.Versions, version{v.Type, v.Size, v.ModTime, v.Content, v.First.ID, v.Last.ID, v.Snapshots})
	}
	return p
}

// folded is the brute force's own idea of case and accents.
func folded(s string) string {
	return norm.NFC.String(cases.Fold().String(norm.NFD.String(s)))
}

// holds says what a search for text finds.
func holds(text string) func(string) bool {
	text = strings.TrimRight(folded(text), "/")
	return func(p string) bool {
		dir, name := path.Split(folded(p))
		i := strings.LastIndexByte(text, '/')
		if i < 0 {
			return strings.Contains(name, text)
		}
		return strings.HasPrefix(name, text[i+1:]) && strings.HasSuffix(strings.TrimSuffix(dir, "/"), text[:i])
	}
}

func (w *world) compare(have, want []result, what string) {
	w.t.Helper()
	if d := cmp.Diff(want, have); d != "" {
		w.t.Fatalf("%s (-want +have):\n%s", what, d)
	}
}

// TestEqualsWalk makes, forgets and changes snapshots of two sources at random,
// and compares every answer with a walk of all of them.
func TestEqualsWalk(t *testing.T) {
	t.Parallel()
	base, runs := t.TempDir(), 0
	names := []string{"a", "B", "ab", "Journal", "journal.pdf", "Ærø", "Å", "A\u030a", "北京", "北", "x y", "b\xff", "ZZ.JPG", "straße", "STRASSE"}
	rapid.Check(t, func(t *rapid.T) {
		runs++
		w := newWorld(t, filepath.Join(base, strconv.Itoa(runs)))
		ix := w.open()
		name := rapid.SampledFrom(names)
		now := map[string]files{"one": {}, "two": {}}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			host := rapid.SampledFrom([]string{"one", "one", "one", "two"}).Draw(t, "host")
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				p := ""
				for range rapid.IntRange(1, 4).Draw(t, "depth") {
					p += "/" + name.Draw(t, "name")
				}
				change(now[host], p, rapid.IntRange(0, 3).Draw(t, "how"), int64(rapid.IntRange(0, 2).Draw(t, "time")))
			}
			w.backup(host, now[host])
			if rapid.IntRange(0, 3).Draw(t, "look") == 0 {
				w.must(ix.Update(context.Background(), w.snapshots))
			}
			if len(w.snapshots) > 1 && rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				i := rapid.IntRange(0, len(w.snapshots)-1).Draw(t, "which")
				w.must(w.r.Delete(context.Background(), kassett.SnapshotFile, w.snapshots[i].ID))
				w.snapshots = slices.Delete(w.snapshots, i, i+1)
			}
			if rapid.IntRange(0, 4).Draw(t, "reopen") == 0 {
				w.must(ix.Close())
				ix = w.open()
			}
		}
		text := rapid.SampledFrom([]string{"a", "J", "jour", "NAL.", "ærø", "å", "北", "北京", "/a", "a/b", "b/journal", "zz", "\xff", "ss", "ß", "nothing", "a/", "/"}).Draw(t, "text")
		if text == "/" {
			w.must(ix.Update(context.Background(), w.snapshots))
		} else {
			w.compare(w.found(ix, text), w.brute(holds(text)), text)
		}
		for _, all := range w.held {
			for p := range all {
				var have []result
				w.must(ix.History(context.Background(), w.snapshots, p, func(r *search.Result) bool {
					have = append(have, plain(r))
					return true
				}))
				w.compare(have, w.brute(func(o string) bool { return o == p }), p)
			}
		}
		w.must(ix.Close())
	})
}

// change adds, changes or removes a file; what is in its way goes.
func change(all files, p string, how int, at int64) {
	for o := range all {
		if o == p || strings.HasPrefix(o, p+"/") || strings.HasPrefix(p, o+"/") {
			delete(all, o)
		}
	}
	if how > 0 {
		all[p] = file(uint64(how), at, byte(how))
	}
}

// many is a snapshot of some size.
func many(n int) files {
	all := make(files, n)
	for i := range n {
		all[fmt.Sprintf("/srv/%03d/patient %d/Scan_%05d.dcm", i/100, i/10, i)] = file(uint64(i), int64(i), byte(i))
	}
	return all
}

// TestDamage damages every file of the index in turn.
func TestDamage(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]func(b []byte) []byte{
		"bit":   func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"cut":   func(b []byte) []byte { return b[:len(b)*2/3] },
		"empty": func([]byte) []byte { return nil },
		"other": func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, t.TempDir())
			all := many(3000)
			w.backup("h", all)
			for i := range 3 {
				all[fmt.Sprintf("/srv/000/new %d", i)] = file(1, 2, 3)
				w.backup("h", all)
			}
			ix := w.open()
			want := w.found(ix, "patient 17")
			w.must(ix.Close())
			if len(want) == 0 {
				t.Fatal("nothing found")
			}
			dir := w.r.CacheDir("search")
			for i := range 4 {
				list, err := os.ReadDir(dir) // each time others
				w.must(err)
				e := list[len(list)-1-i%len(list)] // the manifest is the last
				file := filepath.Join(dir, e.Name())
				was, err := os.ReadFile(file)
				w.must(err)
				w.must(os.WriteFile(file, how(bytes.Clone(was)), 0o600))
				ix := w.open()
				w.must(ix.Update(t.Context(), w.snapshots))
				err = ix.Search(t.Context(), w.snapshots, "patient 17", func(*search.Result) bool { return true })
				if err != nil && kassett.KindOf(err) != kassett.Corrupt {
					t.Fatalf("%s: %v", e.Name(), err)
				}
				w.compare(w.found(ix, "patient 17"), want, e.Name())
				w.must(ix.Close())
			}
		})
	}
}

// TestLost removes the index, or keeps none.
func TestLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	w.backup("h", many(500))
	ix := w.open()
	want := w.found(ix, "scan_0012")
	if len(want) != 10 {
		t.Fatalf("%d found", len(want))
	}
	w.must(os.RemoveAll(w.r.CacheDir("search")))
	w.must(os.MkdirAll(w.r.CacheDir("search"), 0o700))
	w.compare(w.found(w.open(), "scan_0012"), want, "after it was removed")

	bare, err := repo.Open(t.Context(), w.st, []byte(password), repo.Options{})
	w.must(err)
	defer func() { _ = bare.Close() }()
	w.r = bare
	ix = w.open()
	w.compare(w.found(ix, "SCAN_0012"), want, "without a cache")
	w.must(ix.Close())
}

// TestSealed looks for names in the files of the index.
func TestSealed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	w.backup("secret-host", many(200))
	ix := w.open()
	w.found(ix, "x")
	dir := w.r.CacheDir("search")
	list, err := os.ReadDir(dir)
	w.must(err)
	for _, e := range list {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		w.must(err)
		if info, err := e.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
		}
		for _, s := range []string{"patient", "Scan", "secret-host", w.snapshots[0].ID.String()} {
			if bytes.Contains(b, []byte(s)) {
				t.Errorf("%s holds %q", e.Name(), s)
			}
		}
	}
}

// TestSideBySide has several processes search while snapshots come.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	all := many(300)
	for i := range 8 {
		all[fmt.Sprintf("/new/%d", i)] = file(1, 2, 3)
		w.backup("h", all)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := 1 + i; n <= 8; n++ {
				ix, err := search.Open(w.r, search.Options{})
				if err == nil {
					err = ix.Update(t.Context(), w.snapshots[:n])
				}
				found := 0
				if err == nil {
					err = ix.Search(t.Context(), w.snapshots[:n], "scan", func(*search.Result) bool { found++; return true })
				}
				if kassett.KindOf(err) == kassett.Corrupt {
					continue // another one has made it anew beneath us, as it has fewer snapshots
				}
				if err != nil || found != 300 {
					t.Errorf("%d found, %v", found, err)
				}
			}
		})
	}
	wg.Wait()
	w.compare(w.found(w.open(), "new"), w.brute(holds("new")), "afterwards")
}

// TestUnchanged counts what a further snapshot costs to index.
func TestUnchanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	all := many(5000)
	w.backup("h", all)
	ix := w.open()
	w.found(ix, "x")
	all["/srv/000/patient 3/new"] = file(1, 2, 3)
	w.backup("h", all)
	trace := storagetest.NewTracing(w.st)
	r, err := repo.Open(t.Context(), trace, []byte(password), repo.Options{CacheDir: w.cache})
	w.must(err)
	defer func() { _ = r.Close() }()
	w.r = r
	w.must(r.LoadIndex(t.Context(), nil))
	trace.Reset()
	w.compare(w.found(w.open(), "new"), w.brute(holds("new")), "new")
	packs := 0
	for _, c := range trace.Calls(storagetest.Get) {
		if c.Handle.Kind == kassett.PackFile {
			packs++
		}
	}
	if packs > 5 { // the root, srv, 000, patient 3
		t.Errorf("%d reads of packs", packs)
	}
}

// TestHostile indexes trees that no source gives.
func TestHostile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, t.TempDir())
	ctx := t.Context()
	out := w.r.NewWriter(ctx, repo.WriterOptions{})
	save := func(nodes ...string) kassett.ID {
		b := []byte(`{"nodes":[` + strings.Join(nodes, ",") + "]}\n")
		saved, err := out.Save(ctx, repo.TreeBlob, b)
		w.must(err)
		return saved.ID
	}
	node := func(name, kind string, sub kassett.ID) string {
		tree := ""
		if kind == "dir" {
			tree = fmt.Sprintf(`,"subtree":%q`, sub)
		}
		return fmt.Sprintf(`{"name":%q,"type":%q,"mtime":"9999-01-01T00:00:00Z","size":18446744073709551615%s,"content":null}`, name, kind, tree)
	}
	deep := save(node("end", "file", kassett.ID{}))
	for range 40 {
		deep = save(node(strings.Repeat("d", 1000), "dir", deep))
	}
	root := save(node(".", "dir", deep), node("../../etc/passwd", "file", kassett.ID{}), node("a/b", "file", kassett.ID{}),
		node("deep", "dir", deep), node("gone", "dir", kassett.ID{9}), node(strings.Repeat("n", 5000), "file", kassett.ID{}),
		node("odd", "whiteout", kassett.ID{}))
	w.must(out.Flush(ctx))
	sn := &snapshot.Snapshot{Time: w.now, Hostname: "h", Paths: []string{"/"}, Tree: root}
	_, err := snapshot.Save(ctx, w.r, sn)
	w.must(err)
	lost := &snapshot.Snapshot{Time: w.now, Hostname: "h", Paths: []string{"/"}, Tree: kassett.ID{8}}
	w.snapshots = append(w.snapshots, sn, lost)
	ix := w.open()
	var paths []string
	for _, r := range append(append(w.found(ix, "o"), w.found(ix, "passwd")...), w.found(ix, "nnn")...) {
		paths = append(paths, r.Path)
	}
	if !slices.Equal(paths, []string{"/gone", "/odd"}) {
		t.Errorf("%q", paths)
	}
}
