package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/pkg/sftp"

	"kassett"
	"kassett/storage"
)

// Put implements [kassett.Storage].
func (s *Storage) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return fault("write file", h.String(), s.store(ctx, s.file(h), body))
}

// PutBeside implements [kassett.Beside].
func (s *Storage) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	if !kassett.ValidBeside(name) {
		return badName("write file", name)
	}
	return fault("write file", name, s.store(ctx, s.beside(name), body))
}

func badName(op, name string) error {
	return &kassett.Error{
		Op: op, What: fmt.Sprintf("%.80q", name), Kind: kassett.Invalid,
		Err: errors.New("not a name for a file beside a repository"),
	}
}

// store writes body under name: temporary file, flush, name, flush.
func (s *Storage) store(ctx context.Context, name string, body kassett.Body) error {
	temp := name + storage.TempMark + rand.Text()[:12]
	made := false
	err := s.with(ctx, func(c *conn) error {
		if _, err := c.client.Lstat(name); err == nil {
			return fs.ErrExist // before anything is sent; publish looks again
		}
		f, err := s.create(c, temp)
		if err != nil {
			return s.full(c, body.Size, err)
		}
		made = true
		if err := s.fill(ctx, c, f, body); err != nil {
			return s.full(c, body.Size, err)
		}
		if err := s.publish(c, temp, name); err != nil {
			return err
		}
		made = false
		return s.syncFolder(c, path.Dir(name))
	})
	if made {
		s.drop(ctx, temp)
	}
	return err
}

// drop removes what a failed write left, when the server can be reached at
// once; else Sweep does later.
func (s *Storage) drop(ctx context.Context, temp string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	_ = s.with(ctx, func(c *conn) error { return c.client.Remove(temp) })
}

// create opens a temporary file. A missing folder is made, but only below a
// repository that is there: when a disk of the server is unmounted in the
// middle of a backup, the rest must not land in the empty mount point.
func (s *Storage) create(c *conn, temp string) (*sftp.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := c.client.OpenFile(temp, flags)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := s.checkThere(c); err != nil {
		return nil, err
	}
	dir := path.Dir(temp)
	if err := s.makeFolder(c, dir); err != nil {
		return nil, err
	}
	if err := s.syncFolder(c, path.Dir(dir)); err != nil {
		return nil, err
	}
	return c.client.OpenFile(temp, flags)
}

// checkThere returns an error when the repository is gone altogether: neither
// its config is there nor, as after [Create], its first folder.
func (s *Storage) checkThere(c *conn) error {
	_, err := c.client.Stat(s.at(configName))
	if err == nil {
		return nil
	}
	if _, err := c.client.Stat(s.at("data")); err == nil {
		return nil
	}
	return &kassett.Error{
		Op: "find repository", What: s.root, Kind: kassett.NotFound, Err: err,
		Hint: "the folder was there before: check that the disk of the server is still mounted",
	}
}

// fill sends body, checks it, and makes it durable. It closes f.
func (s *Storage) fill(ctx context.Context, c *conn, f *sftp.File, body kassett.Body) (err error) {
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	r, err := storage.OpenBody(ctx, body)
	if err != nil {
		return err
	}
	_, err = f.ReadFromWithConcurrency(r, c.flight)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := ignoreAnswer(f.Chmod(s.modes.file)); err != nil {
		return err
	}
	err = f.Sync()
	if status, ok := errors.AsType[*sftp.StatusError](err); ok && status.FxCode() == sftp.ErrSSHFxOpUnsupported {
		s.unflushed.Do(func() {
			s.warn(&kassett.Error{
				Op: "store files on SFTP server", Kind: kassett.Other,
				Err:  errors.New("it cannot flush files to its medium (no fsync@openssh.com)"),
				Hint: "after a power cut of the server run check --read-data; OpenSSH 6.5 and later can flush",
			})
		})
		return nil
	}
	return err
}

// publish gives a written file its name, unless that is taken.
func (s *Storage) publish(c *conn, temp, name string) error {
	_, linked := c.client.HasExtension("hardlink@openssh.com")
	if linked && !s.unlinked.Load() {
		err := c.client.Link(temp, name)
		if err == nil {
			return ignoreAnswer(c.client.Remove(temp)) // else Sweep does
		}
		if !isAnswer(err) {
			return err
		}
		// The protocol has one word for all that fails: look.
		if _, err := c.client.Lstat(name); err == nil {
			return fs.ErrExist
		}
	}
	// A rename of version 3 does not replace, says the draft; not every server
	// has read it.
	if _, err := c.client.Lstat(name); err == nil {
		return fs.ErrExist
	}
	err := c.client.Rename(temp, name)
	if err == nil {
		s.unlinked.Store(true)
		return nil
	}
	if _, statErr := c.client.Lstat(name); statErr == nil && isAnswer(err) {
		return fs.ErrExist
	}
	return err
}

// syncFolder flushes a folder, so that the names in it outlive a power cut.
// OpenSSH opens a folder as it opens a file and flushes it likewise; a server
// that does not is left alone.
func (s *Storage) syncFolder(c *conn, dir string) error {
	c.mu.Lock()
	f, known := c.folders[dir]
	c.mu.Unlock()
	if !known {
		var err error
		if f, err = c.client.Open(dir); err != nil {
			f = nil
			if !isAnswer(err) {
				return err
			}
		}
		c.mu.Lock()
		if old, raced := c.folders[dir]; raced && f != nil {
			spare := f // two calls have opened it: one is enough
			defer func() { _ = spare.Close() }()
			f = old
		} else {
			c.folders[dir] = f
		}
		c.mu.Unlock()
	}
	if f == nil {
		return nil
	}
	return ignoreAnswer(f.Sync())
}

// full says that the file system of the server is full where that is why a
// write failed: the protocol has no word for it.
func (s *Storage) full(c *conn, size int64, err error) error {
	status, ok := errors.AsType[*sftp.StatusError](err)
	if !ok || status.FxCode() != sftp.ErrSSHFxFailure {
		return err
	}
	if _, can := c.client.HasExtension("statvfs@openssh.com"); !can {
		return err
	}
	fsys, statErr := c.client.StatVFS(s.root)
	if statErr != nil || fsys.Bavail*fsys.Frsize > uint64(max(size, 0)) && (fsys.Favail > 0 || fsys.Files == 0) {
		return err
	}
	return &kassett.Error{
		Op: "write file", What: s.root, Kind: kassett.Full, Err: err,
		Hint: "free room on the file system of the server, or raise the quota, and run it again: nothing half-written can be seen",
	}
}

// Delete implements [kassett.Storage].
func (s *Storage) Delete(ctx context.Context, h kassett.Handle) error {
	durable := h.Kind != kassett.PackFile && h.Kind != kassett.LockFile
	return fault("delete file", h.String(), s.remove(ctx, s.file(h), durable))
}

// DeleteBeside implements [kassett.Beside]. The removal is durable when it
// returns.
func (s *Storage) DeleteBeside(ctx context.Context, name string) error {
	if !kassett.ValidBeside(name) {
		return badName("delete file", name)
	}
	return fault("delete file", name, s.remove(ctx, s.beside(name), true))
}

func (s *Storage) remove(ctx context.Context, name string, durable bool) error {
	return s.with(ctx, func(c *conn) error {
		err := c.client.Remove(name)
		if err != nil && isAnswer(err) && !errors.Is(err, fs.ErrNotExist) {
			fi, statErr := c.client.Lstat(name)
			switch {
			case errors.Is(statErr, fs.ErrNotExist) || statErr == nil && fi.IsDir():
				err = fs.ErrNotExist
			case statErr == nil: // Windows keeps files that are read-only
				if c.client.Chmod(name, 0o600) == nil {
					err = c.client.Remove(name)
				}
			}
		}
		if err == nil && durable {
			err = s.syncFolder(c, path.Dir(name))
		}
		return err
	})
}
