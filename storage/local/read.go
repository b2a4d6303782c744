package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kassett"
)

// Get implements [kassett.Storage].
func (s *Storage) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	return open(ctx, s.file(h), h.String(), off, n)
}

// GetBeside implements [kassett.Beside].
func (s *Storage) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	if !kassett.ValidBeside(name) {
		return nil, badName("read file", name)
	}
	return open(ctx, s.beside(name), name, 0, -1)
}

func open(ctx context.Context, path, what string, off, n int64) (io.ReadCloser, error) {
	const op = "read file"
	if err := ctx.Err(); err != nil {
		return nil, fault(op, what, err)
	}
	if off < 0 {
		return nil, &kassett.Error{Op: op, What: what, Kind: kassett.Invalid, Err: fmt.Errorf("offset %d", off)}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fault(op, what, err)
	}
	return &stream{f: f, alive: ctx.Err, what: what, off: off, left: n}, nil
}

// stream reads a part of a file straight into its caller's buffer.
type stream struct {
	f     *os.File
	alive func() error // of the context of the Get
	what  string
	off   int64
	left  int64 // bytes; less than 0: to the end
}

func (r *stream) Read(p []byte) (int, error) {
	if err := r.alive(); err != nil {
		return 0, fault("read file", r.what, err)
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if r.left > 0 && int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.f.ReadAt(p, r.off)
	r.off += int64(n)
	if r.left > 0 {
		r.left -= int64(n)
	}
	switch {
	case err == io.EOF && r.left > 0:
		return n, io.ErrUnexpectedEOF
	case err == nil || err == io.EOF:
		return n, err
	}
	return n, fault("read file", r.what, err)
}

// Close implements [io.Closer].
func (r *stream) Close() error { return r.f.Close() }

// Stat implements [kassett.Storage].
func (s *Storage) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	const op = "find file"
	if err := ctx.Err(); err != nil {
		return kassett.Info{}, fault(op, h.String(), err)
	}
	fi, err := os.Stat(s.file(h))
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return kassett.Info{}, fault(op, h.String(), err)
	}
	return s.info(h, fi), nil
}

// List implements [kassett.Storage]. Packs come folder by folder. A lock of no
// bytes is passed over, as restic does: it is the rest of a crash.
func (s *Storage) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		if k == kassett.ConfigFile {
			h := kassett.Handle{Kind: k}
			if in, err := s.Stat(ctx, h); err == nil {
				yield(in, nil)
			} else if kassett.KindOf(err) != kassett.NotFound {
				yield(kassett.Info{}, err)
			}
			return
		}
		for f, err := range s.files(ctx, k) {
			if err != nil {
				yield(kassett.Info{}, fault("list files", k.String(), err))
				return
			}
			id, err := kassett.ParseID(f.Name())
			if err != nil || k == kassett.PackFile && f.folder != f.Name()[:2] || k == kassett.LockFile && f.Size() == 0 {
				continue
			}
			if !yield(s.info(kassett.Handle{Kind: k, ID: id}, f), nil) {
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

// files yields every regular file in the folders of a kind, whatever its name.
// A folder that is not there holds nothing, unless all of the repository is
// gone: an unmounted disk must not look like a repository without snapshots.
func (s *Storage) files(ctx context.Context, k kassett.FileKind) iter.Seq2[found, error] {
	return func(yield func(found, error) bool) {
		dirs := []string{filepath.Join(s.root, k.String())}
		if k == kassett.PackFile {
			dirs = dirs[:0]
			for i := range 256 {
				dirs = append(dirs, filepath.Join(s.root, "data", fmt.Sprintf("%02x", i)))
			}
		}
		for _, dir := range dirs {
			if err := ctx.Err(); err != nil {
				yield(found{}, err)
				return
			}
			for fi, err := range readFolder(dir) {
				if errors.Is(err, fs.ErrNotExist) {
					if err = s.checkThere(); err == nil {
						break
					}
				}
				if err != nil {
					yield(found{}, err)
					return
				}
				if !yield(found{fi, filepath.Base(dir)}, nil) {
					return
				}
			}
		}
	}
}

// folderPiece is how many entries of a folder are in memory at once.
const folderPiece = 4096

// readFolder yields the regular files of a folder, and what symbolic links to
// files point to. Files that go away meanwhile are left out. After an error it
// ends.
func readFolder(dir string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		d, err := os.Open(dir)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = d.Close() }() // it was only read
		for {
			entries, err := d.ReadDir(folderPiece)
			for _, e := range entries {
				if fi, infoErr := fileOf(dir, e); (fi != nil || infoErr != nil) && (!yield(fi, infoErr) || infoErr != nil) {
					return
				}
			}
			if err == io.EOF {
				return
			} else if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// fileOf returns nothing for what is no regular file, nor leads to one.
func fileOf(dir string, e fs.DirEntry) (fs.FileInfo, error) {
	if e.IsDir() {
		return nil, nil
	}
	fi, err := e.Info()
	if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		fi, err = os.Stat(filepath.Join(dir, e.Name()))
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular():
		return nil, nil
	}
	return fi, nil
}

// ListBeside implements [kassett.Beside].
func (s *Storage) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	return func(yield func(kassett.BesideInfo, error) bool) {
		below := strings.TrimSuffix(folder, "/") + "/"
		for name, fi := range s.besides(ctx) {
			switch {
			case fi.err != nil:
				yield(kassett.BesideInfo{}, fault("list files", besideName, fi.err))
				return
			case !kassett.ValidBeside(name) || below != "/" && !strings.HasPrefix(name, below):
			case !yield(kassett.BesideInfo{Name: name, Size: fi.Size()}, nil):
				return
			}
		}
	}
}

// besideFile is a file below the prefix, or the error that ends the listing.
type besideFile struct {
	fs.FileInfo
	err error
}

// besides yields every regular file beside the repository by its
// slash-separated name, whatever that is.
func (s *Storage) besides(ctx context.Context) iter.Seq2[string, besideFile] {
	return func(yield func(string, besideFile) bool) {
		top := filepath.Join(s.root, besideName)
		err := filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if errors.Is(err, fs.ErrNotExist) {
				return s.checkThere()
			}
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			name, err := filepath.Rel(top, path)
			if err != nil {
				return err
			}
			if !yield(filepath.ToSlash(name), besideFile{FileInfo: fi}) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", besideFile{err: err})
		}
	}
}

// Sweep implements [kassett.Sweeper]: it removes temporary files, restic's
// too, and locks of no bytes, that were last written before the given time. A
// day ago is a good choice: no write takes so long, and no clock is so wrong.
func (s *Storage) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	const op = "remove leftovers"
	drop := func(path string, fi fs.FileInfo, left bool) error {
		if !left || !fi.ModTime().Before(before) {
			return nil
		}
		err := s.fs.Remove(path)
		if err == nil {
			removed++
		} else if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, k := range kindFolders {
		for f, err := range s.files(ctx, k) {
			if err != nil {
				return removed, fault(op, k.String(), err)
			}
			dir := filepath.Join(s.root, k.String())
			if k == kassett.PackFile {
				dir = filepath.Join(dir, f.folder)
			}
			left := isTemp(f.Name()) || k == kassett.LockFile && f.Size() == 0
			if err := drop(filepath.Join(dir, f.Name()), f, left); err != nil {
				return removed, fault(op, k.String(), err)
			}
		}
	}
	for fi, err := range readFolder(s.root) {
		if err != nil {
			return removed, fault(op, s.root, err)
		}
		if err := drop(filepath.Join(s.root, fi.Name()), fi, strings.HasPrefix(fi.Name(), configName+tempMark)); err != nil {
			return removed, fault(op, s.root, err)
		}
	}
	for name, fi := range s.besides(ctx) {
		if fi.err != nil {
			return removed, fault(op, besideName, fi.err)
		}
		if err := drop(s.beside(name), fi, strings.Contains(filepath.Base(name), tempMark)); err != nil {
			return removed, fault(op, besideName, err)
		}
	}
	return removed, nil
}

// isTemp reports whether name is that of a file of a repository being written.
func isTemp(name string) bool {
	id, _, ok := strings.Cut(name, tempMark)
	if !ok {
		return false
	}
	_, err := kassett.ParseID(id)
	return err == nil
}
