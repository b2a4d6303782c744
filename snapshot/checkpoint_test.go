package snapshot_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// cutSource stops every reader when so many files have been opened, and lets them
// go on only to fail.
type cutSource struct {
	*treeSource
	after   int64
	stopped chan struct{} // closed when the first reader stands
	release chan struct{}
	once    sync.Once

	mu       sync.Mutex
	finished map[string]bool
}

func (s *cutSource) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	if s.opened.Load() >= s.after {
		s.once.Do(func() { close(s.stopped) })
		<-s.release
		return nil, errGone
	}
	c, err := s.treeSource.Open(ctx, path, e)
	return &cutContent{c, s, path}, err
}

type cutContent struct {
	kassett.Content
	s    *cutSource
	path string
}

func (c *cutContent) Close() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.s.finished[c.path] = true
	return c.Content.Close()
}

// cachedRepo makes or opens a repository in memory with a cache.
func cachedRepo(t testing.TB, st kassett.Storage, cache string) *repo.Repository {
	t.Helper()
	o := repo.InitOptions{Polynomial: 0x3DA3358B4DC173, Scrypt: repo.Scrypt{N: 16, R: 1, P: 1}, Options: repo.Options{CacheDir: cache}}
	r, err := repo.Init(context.Background(), st, []byte(password), o)
	if kassett.KindOf(err) == kassett.Exists {
		r, err = repo.Open(context.Background(), st, []byte(password), o.Options)
	}
	if err == nil {
		err = r.LoadIndex(context.Background(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// waitForCheckpoints waits until so many checkpoints were kept in the cache.
func waitForCheckpoints(t testing.TB, cache string, n int) {
	t.Helper()
	var last os.FileInfo
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(time.Millisecond) {
		found, err := filepath.Glob(filepath.Join(cache, "*", "local", "*", "checkpoint-????????????????"))
		if err != nil || len(found) == 0 {
			continue
		}
		info, err := os.Stat(found[0])
		if err != nil || last != nil && os.SameFile(info, last) {
			continue
		}
		if last = info; n == 0 {
			return
		}
		n--
	}
	t.Fatal("no checkpoint was made within a minute")
}

// TestResume cuts backups at any point, as kill -9 does, and goes on in what was
// durable then: what was finished at the checkpoint is not read again, and the
// end is that of a backup that was never cut.
func TestResume(t *testing.T) {
	t.Parallel()
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			resume(t, rand.New(rand.NewPCG(seed, 1)))
		})
	}
}

func resume(t *testing.T, random *rand.Rand) {
	src := newTreeSource()
	total := 0
	for i := range 3 + random.IntN(10) {
		path := fmt.Sprintf("%sf%02d", strings.Repeat("d/", random.IntN(4)), i)
		size := []int{0, 100, 5000, 600 << 10, 3 << 20}[random.IntN(5)]
		src.add(path, testBytes(uint64(i), size))
		total += size
	}
	whole := cachedRepo(t, storagetest.NewMemory(), "")
	defer whole.Close()
	o := snapshot.BackupOptions{Time: day, Host: "h", Paths: []string{"/src"}, Readers: 2, Checkpoint: 2 * time.Millisecond}
	want, err := snapshot.Backup(t.Context(), whole, src, o)
	if err != nil {
		t.Fatal(err)
	}
	src.opened.Store(0)
	src.read.Store(0)

	cache, later := t.TempDir(), t.TempDir()
	m := storagetest.NewMemory()
	cut := &cutSource{
		treeSource: src, after: 1 + random.Int64N(int64(len(src.content))),
		stopped: make(chan struct{}), release: make(chan struct{}), finished: map[string]bool{},
	}
	if random.IntN(2) == 0 {
		first := newTreeSource()
		first.add("d/f00", []byte("another"))
		r := cachedRepo(t, m, cache)
		if _, err := snapshot.Backup(t.Context(), r, first, o); err != nil {
			t.Fatal(err)
		}
		must(t, r.Close())
	}
	var left *storagetest.Memory
	var finished int
	ended := make(chan error)
	r := cachedRepo(t, m, cache)
	go func() {
		_, err := snapshot.Backup(context.Background(), r, cut, o)
		ended <- err
	}()
	select {
	case <-cut.stopped:
		cut.mu.Lock()
		for path := range cut.finished {
			finished += len(src.content[path])
		}
		cut.mu.Unlock()
		// Parts of what was read may still be on their way.
		waitForCheckpoints(t, cache, 2)
		left = m.Clone()
		if err := os.CopyFS(later, os.DirFS(cache)); err != nil {
			t.Fatal(err)
		}
		close(cut.release)
		<-ended
	case err := <-ended: // all files were read before
		must(t, err)
		must(t, r.Close())
		return
	}
	must(t, r.Close())

	src.read.Store(0)
	again := cachedRepo(t, left, later)
	defer again.Close()
	o.Warn = func(path string, err error) { t.Errorf("%s: %v", path, err) }
	sn, err := snapshot.Backup(t.Context(), again, src, o)
	if err != nil || sn.Tree != want.Tree {
		t.Fatalf("resumed: tree %v, %v; want %s", sn, err, want.Tree)
	}
	if read := int(src.read.Load()); read > total-finished {
		t.Errorf("%d bytes were read again, %d of %d had been finished", read, finished, total)
	}
	if found, _ := filepath.Glob(filepath.Join(later, "*", "local", "*", "*")); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	list, err := snapshot.List(t.Context(), again, snapshot.Filter{})
	if err != nil || len(list) < 1 || list[len(list)-1].ID != sn.ID && len(list) == 1 {
		t.Errorf("%d snapshots, %v", len(list), err)
	}
}

// A checkpoint that leads nowhere any more, or that was changed, costs nothing but
// reading again.
func TestUselessCheckpoints(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, file string, m *storagetest.Memory){
		"damaged": func(t *testing.T, file string, _ *storagetest.Memory) {
			b, err := os.ReadFile(file)
			must(t, err)
			b[len(b)/2] ^= 1
			must(t, os.WriteFile(file, b, 0o600))
		},
		"packs gone": func(t *testing.T, _ string, m *storagetest.Memory) {
			for _, k := range []kassett.FileKind{kassett.IndexFile, kassett.PackFile} {
				for _, h := range m.Handles(k) {
					must(t, m.Delete(t.Context(), h))
				}
			}
		},
		"a full backup is asked for": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := newTreeSource()
			for i := range 5 {
				src.add(fmt.Sprintf("d/f%d", i), testBytes(uint64(i), 10000))
			}
			cache, m := t.TempDir(), storagetest.NewMemory()
			o := snapshot.BackupOptions{Time: day, Host: "h", Paths: []string{"/src"}, Readers: 2, Checkpoint: time.Millisecond}
			r := cachedRepo(t, m, cache)
			ctx, stop := context.WithCancel(t.Context())
			var waited atomic.Bool
			_, err := snapshot.Backup(ctx, r, openHook{src, func(path string) {
				if path == "d/f3" && waited.CompareAndSwap(false, true) {
					waitForCheckpoints(t, cache, 2)
					stop()
				}
			}}, o)
			if kassett.KindOf(err) != kassett.Interrupted {
				t.Fatalf("cut: %v", err)
			}
			must(t, r.Close())
			found, err := filepath.Glob(filepath.Join(cache, "*", "local", "*", "checkpoint-*"))
			if err != nil || len(found) == 0 {
				t.Fatal(found, err)
			}
			if spoil == nil {
				o.Level = snapshot.Full
			} else {
				spoil(t, found[0], m)
			}
			src.read.Store(0)
			r = cachedRepo(t, m, cache)
			defer r.Close()
			sn := backUp(t, r, src, o)
			agree(t, r, sn.Tree, src)
			if n := src.read.Load(); n != 50000 {
				t.Errorf("%d bytes were read, want all", n)
			}
		})
	}
}

// openHook calls a function before a file is opened.
type openHook struct {
	kassett.Source
	before func(path string)
}

func (s openHook) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	s.before(path)
	return s.Source.Open(ctx, path, e)
}
