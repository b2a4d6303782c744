package mount_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kassett"
	"kassett/mount"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
	"kassett/storage/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "correct horse"

// newRepo makes a repository in a folder. wrap, if not nil, is put around its
// storage.
func newRepo(t testing.TB, wrap func(kassett.Storage) kassett.Storage) (*repo.Repository, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	var st kassett.Storage
	st, err := local.Create(dir)
	must(t, err)
	if wrap != nil {
		st = wrap(st)
	}
	r, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{Scrypt: repo.Scrypt{N: 16, R: 1, P: 1}})
	must(t, err)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	must(t, r.LoadIndex(t.Context(), nil))
	return r, dir
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// backup makes a snapshot of a folder, in which what is in it is at the top.
func backup(t testing.TB, r *repo.Repository, dir string, o snapshot.BackupOptions, cut kassett.Cut) *snapshot.Snapshot {
	t.Helper()
	src, err := files.New(files.Options{Paths: []string{dir}, Cut: cut})
	must(t, err)
	o.Paths = src.AbsPaths()
	if o.Host == "" {
		o.Host = "his"
	}
	sn, err := snapshot.Backup(t.Context(), r, src, o)
	must(t, err)
	must(t, r.LoadIndex(t.Context(), nil))
	return sn
}

// blob is the content of a hand-made file, or a hand-made folder.
type blob struct {
	node  snapshot.Node
	data  [][]byte
	under []blob
}

// save stores hand-made nodes as a tree, in the order given.
func save(t testing.TB, w *repo.Writer, nodes []blob) kassett.ID {
	t.Helper()
	tree := []byte(`{"nodes":[`)
	for i, b := range nodes {
		n := b.node
		switch n.Type {
		case kassett.Dir:
			n.Subtree = save(t, w, b.under)
		case kassett.File:
			n.Content = []kassett.ID{}
			for _, d := range b.data {
				saved, err := w.Save(t.Context(), repo.DataBlob, d)
				must(t, err)
				n.Content = append(n.Content, saved.ID)
				if b.node.Size == 0 {
					n.Size += uint64(len(d))
				}
			}
		}
		if i > 0 {
			tree = append(tree, ',')
		}
		var err error
		tree, err = n.AppendJSON(tree)
		must(t, err)
	}
	saved, err := w.Save(t.Context(), repo.TreeBlob, append(tree, "]}\n"...))
	must(t, err)
	return saved.ID
}

// handmade makes a snapshot of hand-made nodes.
func handmade(t testing.TB, r *repo.Repository, nodes ...blob) {
	t.Helper()
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	tree := save(t, w, nodes)
	must(t, w.Flush(t.Context()))
	sn := &snapshot.Snapshot{Time: day, Hostname: "his", Paths: []string{"/"}, Tree: tree}
	_, err := snapshot.Save(t.Context(), r, sn)
	must(t, err)
	must(t, r.LoadIndex(t.Context(), nil))
}

var day = time.Date(2026, 3, 29, 1, 59, 59, 123456789, time.UTC)

// entry is a node with the usual metadata.
func entry(name string, typ kassett.EntryType) snapshot.Node {
	n := snapshot.Node{}
	n.Name, n.Type, n.Mode, n.Links = name, typ, 0o644, 1
	if typ == kassett.Dir {
		n.Mode = fs.ModeDir | 0o755
	}
	n.ModTime, n.AccessTime, n.ChangeTime = day, day, day
	return n
}

// noise returns bytes that cannot be compressed, the same for the same seed.
func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

// told gathers what a view has to say.
type told struct {
	mu      sync.Mutex
	warned  []string
	errs    []error
	noticed []string
}

func (w *told) options(o mount.Options) mount.Options {
	o.Warn = func(where string, err error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.warned, w.errs = append(w.warned, where), append(w.errs, err)
	}
	o.Notice = func(text string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.noticed = append(w.noticed, text)
	}
	return o
}

func (w *told) look() (warned []string, errs []error, noticed []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.warned, w.errs, w.noticed
}

// quiet fails the test if anything was said.
func (w *told) quiet(t testing.TB) {
	t.Helper()
	if warned, errs, _ := w.look(); len(warned) > 0 {
		t.Errorf("warned of %q: %v", warned, errors.Join(errs...))
	}
}

// view opens the view of a repository, with a list of snapshots that is always
// new.
func view(t testing.TB, r *repo.Repository, w *told, o mount.Options) *mount.View {
	t.Helper()
	if o.Refresh == 0 {
		o.Refresh = time.Nanosecond
	}
	v, err := mount.NewView(context.WithoutCancel(t.Context()), r, w.options(o))
	must(t, err)
	t.Cleanup(v.Close)
	return v
}

// write makes a file and the folders above it.
func write(t testing.TB, path string, b []byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, b, 0o644))
}

// flip turns a bit of a file over.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	must(t, os.Chmod(path, 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 1
	_, err = f.WriteAt(b[:], at)
	must(t, errors.Join(err, f.Close()))
}
