package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/local"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "correct horse"

// newRepo makes a repository in a folder that stock restic can open.
func newRepo(t testing.TB) (*repo.Repository, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	// A password cost that takes no time, and a polynomial that is the same in
	// every run.
	r, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{
		Polynomial: 0x3DA3358B4DC173, Scrypt: repo.Scrypt{N: 16, R: 1, P: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, r)
	loadIndex(t, r)
	return r, dir
}

// reopen opens the repository in dir as another process would.
func reopen(t testing.TB, dir string) *repo.Repository {
	t.Helper()
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, []byte(password), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, r)
	loadIndex(t, r)
	return r
}

func closeAfter(t testing.TB, r *repo.Repository) {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

func loadIndex(t testing.TB, r *repo.Repository) {
	t.Helper()
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// restic runs Debian's restic on the repository in dir and returns its stdout.
func restic(t testing.TB, dir string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("restic")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("restic is not installed, and SHORT=1 asks for less")
		}
		t.Fatal("restic is not installed; make deps installs it")
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"-r", dir, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password, "RESTIC_FEATURES=device-id-for-hardlinks")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("restic %s: %v\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	return stdout.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// treeSource is a source in memory: entries by path, and the content of files.
// It counts what is asked of it.
type treeSource struct {
	entries map[string]kassett.Entry
	content map[string][]byte
	broken  map[string]error // by path, what Open or List answer
	torn    map[string]bool  // files that say they changed
	extra   map[string]kassett.Entry

	opened, filled, frozen, read atomic.Int64
}

func newTreeSource() *treeSource {
	return &treeSource{
		entries: map[string]kassett.Entry{}, content: map[string][]byte{},
		broken: map[string]error{}, torn: map[string]bool{}, extra: map[string]kassett.Entry{},
	}
}

var day = time.Date(2026, 3, 29, 1, 59, 59, 123456789, time.FixedZone("", 3600))

// add puts a file or, with nil content, a folder in, and the folders above it.
func (s *treeSource) add(path string, content []byte) {
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		if _, ok := s.entries[dir]; !ok {
			s.put(dir, kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o755})
		}
	}
	if content == nil {
		s.put(path, kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o755})
		return
	}
	s.content[path] = content
	s.put(path, kassett.Entry{Type: kassett.File, Mode: 0o644, Size: uint64(len(content)), Links: 1})
}

// put sets an entry, with a name and times if it has none.
func (s *treeSource) put(path string, e kassett.Entry) {
	e.Name = filepath.Base(path)
	if e.ModTime.IsZero() {
		e.ModTime, e.AccessTime, e.ChangeTime = day, day, day.Add(time.Second)
	}
	s.entries[path] = e
}

// touch gives an entry a younger time, as writing it would.
func (s *treeSource) touch(path string) {
	e := s.entries[path]
	e.ModTime = e.ModTime.Add(time.Hour)
	e.AccessTime, e.ChangeTime = e.ModTime, e.ModTime
	s.entries[path] = e
}

func (s *treeSource) Freeze(context.Context) error { s.frozen.Add(1); return nil }
func (s *treeSource) Thaw(context.Context) error   { s.frozen.Add(-1); return nil }

func (s *treeSource) List(_ context.Context, dir string) ([]kassett.Entry, error) {
	if err := s.broken[dir]; err != nil {
		return nil, err
	}
	var list []kassett.Entry
	for path, e := range s.entries {
		if strings.TrimSuffix(strings.TrimSuffix(path, e.Name), "/") == dir {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (s *treeSource) Fill(_ context.Context, path string, e *kassett.Entry) error {
	s.filled.Add(1)
	x := s.extra[path]
	e.LinkTarget, e.Xattrs, e.Generic = x.LinkTarget, x.Xattrs, maps.Clone(x.Generic)
	return x.Err
}

func (s *treeSource) Open(_ context.Context, path string, _ *kassett.Entry) (kassett.Content, error) {
	s.opened.Add(1)
	if err := s.broken[path]; err != nil {
		return nil, err
	}
	return &treeContent{Reader: bytes.NewReader(s.content[path]), s: s, torn: s.torn[path]}, nil
}

type treeContent struct {
	*bytes.Reader
	s    *treeSource
	torn bool
}

func (c *treeContent) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.s.read.Add(int64(n))
	return n, err
}
func (c *treeContent) Close() error           { return nil }
func (c *treeContent) Changed() (bool, error) { return c.torn, nil }

// holeyContent knows where its zeros are.
type holeyContent struct {
	treeContent
	b []byte
}

func (c *holeyContent) NextData(off int64) (int64, error) {
	for i := off; i < int64(len(c.b)); i++ {
		if c.b[i] != 0 {
			return i, nil
		}
	}
	return int64(len(c.b)), nil
}

func (c *holeyContent) Skip(n int64) error {
	_, err := c.Seek(n, io.SeekCurrent)
	return err
}

// holeySource is a treeSource whose contents know their holes.
type holeySource struct{ *treeSource }

func (s holeySource) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	c, err := s.treeSource.Open(ctx, path, e)
	if err != nil {
		return nil, err
	}
	return &holeyContent{treeContent: *c.(*treeContent), b: s.content[path]}, nil
}

// named collects what Warn and Notice are told.
type named struct {
	mu      sync.Mutex
	warned  map[string]string
	notices []string
}

func (n *named) options(o snapshot.BackupOptions) snapshot.BackupOptions {
	n.warned, n.notices = map[string]string{}, nil
	o.Warn = func(path string, err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.warned[path] = err.Error()
	}
	o.Notice = func(msg string) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.notices = append(n.notices, msg)
	}
	return o
}

// backUp makes a snapshot that must be complete.
func backUp(t testing.TB, r *repo.Repository, src kassett.Source, o snapshot.BackupOptions) *snapshot.Snapshot {
	t.Helper()
	if o.Warn == nil {
		o.Warn = func(path string, err error) { t.Errorf("%s: %v", path, err) }
	}
	sn, err := snapshot.Backup(t.Context(), r, src, o)
	if err != nil {
		t.Fatal(err)
	}
	return sn
}

// nodes returns every node below a tree by its path.
func nodes(t testing.TB, r *repo.Repository, tree kassett.ID) map[string]*snapshot.Node {
	t.Helper()
	all := map[string]*snapshot.Node{}
	var walk func(dir string, id kassett.ID)
	walk = func(dir string, id kassett.ID) {
		tr, err := snapshot.LoadTree(t.Context(), r, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range tr.Nodes {
			path := strings.TrimPrefix(dir+"/"+n.Name, "/")
			all[path] = n
			if n.Type == kassett.Dir {
				walk(path, n.Subtree)
			}
		}
	}
	walk("", tree)
	return all
}

var errGone = errors.New("the disk does not answer")

// countingSource counts how often a file is opened.
type countingSource struct {
	kassett.Source
	opened atomic.Int64
}

func (s *countingSource) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	s.opened.Add(1)
	return s.Source.Open(ctx, path, e)
}

// copyTo copies snapshots to one target.
func copyTo(ctx context.Context, src, dst *repo.Repository, list []*snapshot.Snapshot, o snapshot.CopyOptions) (repo.CopyStats, error) {
	to := &repo.CopyTarget{Repo: dst}
	err := snapshot.Copy(ctx, src, []*repo.CopyTarget{to}, list, o)
	return to.Stats, errors.Join(to.Err, err)
}
