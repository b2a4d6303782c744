package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"kassett"
)

// DefaultCache is how large a cache grows when nothing is said, in bytes: the
// trees of some millions of files.
const DefaultCache = 2 << 30

const (
	// maxCached is the size up to which a file is kept, in bytes.
	maxCached = 32 << 20
	// wantWhole is from how many bytes on a read of a pack fetches all of it; a
	// smaller one does when it is not the first of this pack: who looks at one
	// folder does not wait for a whole pack.
	wantWhole = 256 << 10
	// maxTouched bounds how many packs that were read once are remembered.
	maxTouched = 64 << 10
	// tempAge is after how long what an interrupted write left is removed.
	tempAge = time.Hour
)

// Cache returns a storage that keeps what is read often in a folder of this
// machine: snapshot files, and packs of which trees are read ([kassett.OfTrees]).
// Index files it does not keep: the table of blobs is what they hold. The folder
// belongs to one repository, may be used by several processes at once, may be
// removed at any time, and grows to limit bytes, 0 meaning [DefaultCache]; what
// was not used for longest goes first.
//
// Every file is named by the hash of its content and compared with it before it
// is first used, so what is damaged, cut or planted in the folder is removed and
// fetched anew. What the storage itself gives wrong is not kept. Whatever fails
// with the cache is passed over: the storage is asked instead.
func Cache(inner kassett.Storage, dir string, limit int64) kassett.Storage {
	if limit <= 0 {
		limit = DefaultCache
	}
	return &caching{
		Storage: inner, dir: dir, limit: limit,
		checked: map[kassett.Handle]bool{}, touched: map[kassett.ID]bool{}, flying: map[kassett.Handle]chan struct{}{},
	}
}

type caching struct {
	kassett.Storage
	dir   string
	limit int64

	mu      sync.Mutex
	checked map[kassett.Handle]bool          // compared with its name by this process
	touched map[kassett.ID]bool              // packs that were read once
	flying  map[kassett.Handle]chan struct{} // being fetched; closed at the end
	size    int64                            // of the folder, when known
	known   bool
}

var _ kassett.Wrapper = (*caching)(nil)

// Unwrap implements [kassett.Wrapper].
func (c *caching) Unwrap() kassett.Storage { return c.Storage }

// Get implements [kassett.Storage].
func (c *caching) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	pack := h.Kind == kassett.PackFile && kassett.AreTrees(ctx)
	if !pack && h.Kind != kassett.SnapshotFile || off < 0 {
		return c.Storage.Get(ctx, h, off, n)
	}
	if err := ctx.Err(); err != nil {
		return c.Storage.Get(ctx, h, off, n) // it says so in its own words
	}
	for range 2 {
		if rc := c.open(h, off, n); rc != nil {
			return rc, nil
		}
		if pack && n < wantWhole && !c.again(h.ID) {
			break
		}
		mine, wait := c.begin(h)
		if mine {
			b, err := c.fetch(ctx, h)
			c.end(h)
			if b == nil || err != nil {
				break // the storage tells its own story
			}
			return rangeOf(b, off, n), nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.Storage.Get(ctx, h, off, n)
}

// Delete implements [kassett.Storage].
func (c *caching) Delete(ctx context.Context, h kassett.Handle) error {
	if h.Kind == kassett.SnapshotFile || h.Kind == kassett.PackFile {
		_ = os.Remove(c.path(h)) // most often it is not there
	}
	return c.Storage.Delete(ctx, h)
}

func (c *caching) path(h kassett.Handle) string {
	name := h.ID.String()
	return filepath.Join(c.dir, h.Kind.String(), name[:2], name)
}

// again reports whether a pack was touched before.
func (c *caching) again(id kassett.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.touched[id] {
		return true
	}
	if len(c.touched) >= maxTouched {
		clear(c.touched)
	}
	c.touched[id] = true
	return false
}

// begin says that the caller is to fetch h, or gives what ends when somebody
// else has.
func (c *caching) begin(h kassett.Handle) (mine bool, wait <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ch := c.flying[h]; ch != nil {
		return false, ch
	}
	c.flying[h] = make(chan struct{})
	return true, nil
}

func (c *caching) end(h kassett.Handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.flying[h])
	delete(c.flying, h)
}

// open returns a range of a file that is kept, or nil.
func (c *caching) open(h kassett.Handle, off, n int64) io.ReadCloser {
	name := c.path(h)
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	fi, err := f.Stat()
	if err == nil {
		err = c.check(h, f)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(name) // another process may have done that
		return nil
	}
	now := time.Now()
	if now.Sub(fi.ModTime()) > time.Minute {
		_ = os.Chtimes(name, now, now) // used: it goes last
	}
	rest := max(fi.Size()-off, 0)
	return &cachedRange{SectionReader: io.NewSectionReader(f, off, length(rest, n)), Closer: f, short: n > rest}
}

// length returns how many bytes of what is left are asked for.
func length(rest, n int64) int64 {
	if n < 0 {
		return rest
	}
	return min(rest, n)
}

// check compares a file that is kept with its name, once in this process.
func (c *caching) check(h kassett.Handle, f *os.File) error {
	c.mu.Lock()
	done := c.checked[h]
	c.mu.Unlock()
	if done {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, maxCached+1)); err != nil {
		return err
	}
	if kassett.ID(sum.Sum(nil)) != h.ID {
		return errors.New("it is not what its name says")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checked[h] = true
	return nil
}

// cachedRange is a range of a file that is kept.
type cachedRange struct {
	*io.SectionReader
	io.Closer
	short bool // the file ends before the range
}

// Read implements [io.Reader].
func (r *cachedRange) Read(p []byte) (int, error) {
	n, err := r.SectionReader.Read(p)
	if err == io.EOF && r.short {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// rangeOf returns a range of a file in memory.
func rangeOf(b []byte, off, n int64) io.ReadCloser {
	rest := max(int64(len(b))-off, 0)
	r := io.NewSectionReader(bytes.NewReader(b), off, length(rest, n))
	return &cachedRange{SectionReader: r, Closer: io.NopCloser(nil), short: n > rest}
}

// fetch reads a file whole and keeps it. It returns nothing for one that is too
// large or not what its name says.
func (c *caching) fetch(ctx context.Context, h kassett.Handle) ([]byte, error) {
	rc, err := c.Storage.Get(ctx, h, 0, -1)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(rc, maxCached+1))
	if err := errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	if len(b) > maxCached || kassett.Hash(b) != h.ID {
		return nil, nil
	}
	if err := c.keep(h, b); err == nil {
		c.mu.Lock()
		c.checked[h] = true
		c.mu.Unlock()
	}
	return b, nil
}

// keep writes a file under a temporary name first, so that no other process
// sees half of it.
func (c *caching) keep(h kassett.Handle, b []byte) error {
	name := c.path(h)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	temp := name + TempMark + rand.Text()[:12]
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size += int64(len(b)); c.known && c.size <= c.limit {
		return nil
	}
	size, err := c.evict()
	c.size, c.known = size, err == nil
	return err
}

// evict measures the folder and, when it is too large, removes what was not
// used for longest until a fifth is free. It returns the size that is left.
func (c *caching) evict() (size int64, err error) {
	type file struct {
		name string
		size int64
		used time.Time
	}
	var all []file
	err = filepath.WalkDir(c.dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return ignoreGone(err)
		}
		fi, err := e.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if IsTemp(e.Name()) && time.Since(fi.ModTime()) > tempAge {
			return ignoreGone(os.Remove(name))
		}
		all = append(all, file{name, fi.Size(), fi.ModTime()})
		size += fi.Size()
		return nil
	})
	if err != nil || size <= c.limit {
		return size, err
	}
	slices.SortFunc(all, func(a, b file) int { return a.used.Compare(b.used) })
	for _, f := range all {
		if size <= c.limit/5*4 {
			break
		}
		if err := ignoreGone(os.Remove(f.name)); err != nil {
			return size, fmt.Errorf("make room in the cache: %w", err)
		}
		size -= f.size
	}
	return size, nil
}

// ignoreGone is for files that another process may have removed.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
