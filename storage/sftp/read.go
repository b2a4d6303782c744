package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"kassett"
	"kassett/storage"
)

// Get implements [kassett.Storage].
func (s *Storage) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	return s.open(ctx, s.file(h), h.String(), off, n)
}

// GetBeside implements [kassett.Beside].
func (s *Storage) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	if !kassett.ValidBeside(name) {
		return nil, badName("read file", name)
	}
	return s.open(ctx, s.beside(name), name, 0, -1)
}

func (s *Storage) open(ctx context.Context, name, what string, off, n int64) (io.ReadCloser, error) {
	const op = "read file"
	if off < 0 {
		return nil, &kassett.Error{Op: op, What: what, Kind: kassett.Invalid, Err: fmt.Errorf("offset %d", off)}
	}
	if err := ctx.Err(); err != nil {
		return nil, fault(op, what, err)
	}
	c, err := s.pool.take(ctx)
	if err != nil {
		return nil, fault(op, what, err)
	}
	r := &stream{s: s, c: c, what: what, ctx: ctx, off: off, left: n}
	err = c.do(ctx, func() (err error) {
		if r.f, err = c.client.Open(name); err != nil || n >= 0 {
			return err
		}
		fi, err := r.f.Stat()
		if err == nil {
			r.left = max(fi.Size()-off, 0)
		}
		return err
	})
	if err != nil {
		if r.f != nil {
			_ = r.f.Close()
		}
		s.pool.give(c)
		return nil, fault(op, what, err)
	}
	return r, nil
}

// A stream asks for the next parts of a file before they are wanted, so that
// the line is never idle while its caller works.
const (
	partSize = largePacket
	maxAhead = 8
)

// stream reads a range of a file. Parts of it come side by side.
type stream struct {
	s    *Storage
	c    *conn
	f    *sftp.File
	what string

	ctx  context.Context //nolint:containedctx // of the Get, whose stream this is
	off  int64           // of the next part that is asked for
	left int64           // bytes that are not asked for yet

	ahead []chan part // asked for, in order
	now   part        // what is being given
	given int         // bytes of it
	all   sync.WaitGroup
	once  sync.Once
}

// part is what one fetch read, and the error that follows it.
type part struct {
	buf *[partSize]byte
	n   int
	err error
}

// partBuffers holds what parts are read into.
var partBuffers = sync.Pool{New: func() any { return new([partSize]byte) }}

// Read implements [io.Reader].
func (r *stream) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, fault("read file", r.what, err)
	}
	if len(p) == 0 {
		return 0, nil
	}
	for r.given == r.now.n {
		if r.now.err != nil {
			return 0, r.now.err
		}
		r.recycle(r.now)
		r.ask()
		if r.given, r.now = 0, (part{err: io.EOF}); len(r.ahead) > 0 {
			r.now = <-r.ahead[0]
			r.ahead = r.ahead[1:]
		}
	}
	n := copy(p, r.now.buf[r.given:r.now.n])
	r.given += n
	return n, nil
}

// recycle gives the memory of a part back.
func (r *stream) recycle(p part) {
	if p.buf != nil {
		partBuffers.Put(p.buf)
	}
}

// ask sends for as much as may be on the way.
func (r *stream) ask() {
	for len(r.ahead) < maxAhead && r.left > 0 {
		size := min(r.left, partSize)
		off, answer := r.off, make(chan part, 1)
		r.off, r.left = r.off+size, r.left-size
		r.ahead = append(r.ahead, answer)
		r.all.Go(func() { answer <- r.fetch(off, size) })
	}
}

// fetch reads one part.
func (r *stream) fetch(off, size int64) part {
	buf, _ := partBuffers.Get().(*[partSize]byte) // always one
	n := 0
	err := r.c.do(r.ctx, func() (err error) {
		n, err = r.f.ReadAt(buf[:size], off)
		return err
	})
	switch {
	case err == nil:
	case errors.Is(err, io.EOF) && n < int(size):
		err = io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		err = nil
	default:
		err = fault("read file", r.what, err)
	}
	return part{buf, n, err}
}

// Close implements [io.Closer]. What is still on the way is waited for in the
// background, at the longest until the storage is closed.
func (r *stream) Close() error {
	r.once.Do(func() {
		last, ahead := r.now, r.ahead
		r.left, r.given, r.now, r.ahead = 0, 0, part{err: os.ErrClosed}, nil
		r.s.closing.Go(func() {
			r.recycle(last)
			for _, got := range ahead {
				r.recycle(<-got)
			}
			r.all.Wait()
			_ = r.c.do(context.WithoutCancel(r.ctx), r.f.Close) // it was only read
			r.s.pool.give(r.c)
		})
	})
	return nil
}

// Stat implements [kassett.Storage].
func (s *Storage) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	in := kassett.Info{Handle: h}
	err := s.with(ctx, func(c *conn) error {
		fi, err := c.client.Stat(s.file(h))
		if err == nil && !fi.Mode().IsRegular() {
			err = fs.ErrNotExist
		}
		if err == nil {
			in.Size = fi.Size()
		}
		return err
	})
	if err != nil {
		return kassett.Info{}, fault("find file", h.String(), err)
	}
	return in, nil
}

// List implements [kassett.Storage]. Packs come folder by folder, in order of
// the folders; the next few are read while one is given. A lock of no bytes is
// passed over, as restic does: it is the rest of a crash.
func (s *Storage) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		if k == kassett.ConfigFile {
			in, err := s.Stat(ctx, kassett.Handle{Kind: k})
			if err == nil || kassett.KindOf(err) != kassett.NotFound {
				yield(in, err)
			}
			return
		}
		for f, err := range s.files(ctx, k) {
			if err != nil {
				yield(kassett.Info{}, fault("list files", k.String(), err))
				return
			}
			h, ok := storage.ParseName(k, f.folder, f.Name())
			if !ok || k == kassett.LockFile && f.Size() == 0 {
				continue
			}
			if !yield(kassett.Info{Handle: h, Size: f.Size()}, nil) {
				return
			}
		}
	}
}

// found is a regular file, and the last part of the name of its folder.
type found struct {
	fs.FileInfo
	folder string
}

// foldersAhead is how many folders are read before they are wanted.
const foldersAhead = 4

// files yields every regular file in the folders of a kind, whatever its name.
// A folder that is not there holds nothing, unless all of the repository is
// gone: an unmounted disk must not look like a repository without snapshots.
func (s *Storage) files(ctx context.Context, k kassett.FileKind) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		dirs := []string{s.at(k.String())}
		if k == kassett.PackFile {
			dirs = dirs[:0]
			for i := range 256 {
				dirs = append(dirs, s.at("data", fmt.Sprintf("%02x", i)))
			}
		}
		type answer struct {
			files []fs.FileInfo
			err   error
		}
		ctx, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		defer all.Wait()
		defer stop()
		var ahead []chan answer
		for i, dir := range dirs {
			for len(ahead) < foldersAhead && i+len(ahead) < len(dirs) {
				next, got := dirs[i+len(ahead)], make(chan answer, 1)
				ahead = append(ahead, got)
				all.Go(func() {
					files, err := s.folder(ctx, next)
					got <- answer{files, err}
				})
			}
			got := <-ahead[0]
			ahead = ahead[1:]
			if got.err != nil {
				yield(found{}, got.err)
				return
			}
			for _, fi := range got.files {
				if !yield(found{fi, path.Base(dir)}, nil) {
					return
				}
			}
		}
	}
}

// folder returns the regular files of a folder, and what symbolic links to
// files point to.
func (s *Storage) folder(ctx context.Context, dir string) (files []fs.FileInfo, err error) {
	err = s.with(ctx, func(c *conn) error {
		entries, err := c.client.ReadDirContext(ctx, dir)
		if errors.Is(err, fs.ErrNotExist) {
			return s.checkThere(c)
		} else if err != nil {
			return err
		}
		for _, fi := range entries {
			if fi.Mode()&fs.ModeSymlink != 0 {
				if fi, err = c.client.Stat(path.Join(dir, fi.Name())); errors.Is(err, fs.ErrNotExist) {
					continue
				} else if err != nil {
					return err
				}
			}
			if fi.Mode().IsRegular() {
				files = append(files, fi)
			}
		}
		return nil
	})
	return files, err
}

// ListBeside implements [kassett.Beside].
func (s *Storage) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	return func(yield func(kassett.BesideInfo, error) bool) {
		below := strings.TrimSuffix(folder, "/") + "/"
		for f, err := range s.besides(ctx) {
			switch {
			case err != nil:
				yield(kassett.BesideInfo{}, fault("list files", storage.BesideFolder, err))
				return
			case !kassett.ValidBeside(f.folder) || below != "/" && !strings.HasPrefix(f.folder, below):
			case !yield(kassett.BesideInfo{Name: f.folder, Size: f.Size()}, nil):
				return
			}
		}
	}
}

// maxDepth bounds how deep folders beside the repository are followed.
const maxDepth = 32

// besides yields every regular file beside the repository; its folder is its
// whole slash-separated name.
func (s *Storage) besides(ctx context.Context) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		for todo := []string{""}; len(todo) > 0; {
			dir := todo[0]
			todo = todo[1:]
			var entries []fs.FileInfo
			err := s.with(ctx, func(c *conn) (err error) {
				entries, err = c.client.ReadDirContext(ctx, s.beside(dir))
				if errors.Is(err, fs.ErrNotExist) {
					err = s.checkThere(c)
				}
				return err
			})
			if err != nil {
				yield(found{}, err)
				return
			}
			for _, fi := range entries {
				name := path.Join(dir, fi.Name())
				switch {
				case fi.IsDir() && strings.Count(name, "/") < maxDepth:
					todo = append(todo, name)
				case fi.Mode().IsRegular() && !yield(found{fi, name}, nil):
					return
				}
			}
		}
	}
}

// Sweep implements [kassett.Sweeper]: it removes temporary files, restic's
// too, and locks of no bytes, that were last written before the given time by
// the server's clock.
func (s *Storage) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	const op = "remove leftovers"
	drop := func(name string, fi fs.FileInfo) error {
		if !fi.ModTime().Before(before) {
			return nil
		}
		err := s.remove(ctx, name, false)
		if err == nil {
			removed++
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, k := range storage.Folders() {
		for f, err := range s.files(ctx, k) {
			if err == nil && (storage.IsTemp(f.Name()) || k == kassett.LockFile && f.Size() == 0) {
				dir := s.at(k.String())
				if k == kassett.PackFile {
					dir = path.Join(dir, f.folder)
				}
				err = drop(path.Join(dir, f.Name()), f)
			}
			if err != nil {
				return removed, fault(op, k.String(), err)
			}
		}
	}
	top, err := s.folder(ctx, s.root)
	for _, fi := range top {
		if err == nil && storage.IsTemp(fi.Name()) {
			err = drop(s.at(fi.Name()), fi)
		}
	}
	if err != nil {
		return removed, fault(op, s.root, err)
	}
	for f, err := range s.besides(ctx) {
		if err == nil && strings.Contains(path.Base(f.folder), storage.TempMark) {
			err = drop(s.beside(f.folder), f)
		}
		if err != nil {
			return removed, fault(op, storage.BesideFolder, err)
		}
	}
	return removed, nil
}
