package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"kassett"
	"kassett/storage"
)

// Put implements [kassett.Storage]. It believes the sum of a
// [kassett.BytesBody], whose owner took it from the same memory a moment ago,
// and hashes every other body while it writes.
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

// Delete implements [kassett.Storage]. The removal of an index, a snapshot, a
// key or the config is durable when it returns, since what follows builds on
// it; that of a pack or a lock is not waited for.
func (s *Storage) Delete(ctx context.Context, h kassett.Handle) error {
	const op = "delete file"
	if err := ctx.Err(); err != nil {
		return fault(op, h.String(), err)
	}
	name := s.file(h)
	err := s.fs.Remove(name)
	if err == nil && h.Kind != kassett.PackFile && h.Kind != kassett.LockFile {
		err = s.fs.SyncDir(filepath.Dir(name))
	}
	return fault(op, h.String(), err)
}

// DeleteBeside implements [kassett.Beside]. The removal is durable when it
// returns.
func (s *Storage) DeleteBeside(ctx context.Context, name string) error {
	const op = "delete file"
	if !kassett.ValidBeside(name) {
		return badName(op, name)
	}
	if err := ctx.Err(); err != nil {
		return fault(op, name, err)
	}
	path := s.beside(name)
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return fault(op, name, fs.ErrNotExist)
	}
	err := s.fs.Remove(path)
	if err == nil {
		err = s.fs.SyncDir(filepath.Dir(path))
	}
	return fault(op, name, err)
}

func badName(op, name string) error {
	return &kassett.Error{
		Op: op, What: fmt.Sprintf("%.80q", name), Kind: kassett.Invalid,
		Err: errors.New("not a name for a file beside a repository"),
	}
}

// store writes body under name: temporary file, flush, name, flush.
func (s *Storage) store(ctx context.Context, name string, body kassett.Body) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Lstat(name); err == nil {
		return fs.ErrExist // before anything is written; Publish looks again
	}
	temp, err := s.create(name)
	if err != nil {
		return err
	}
	if err := s.fill(ctx, temp, body); err != nil {
		return errors.Join(err, s.drop(temp.Name()))
	}
	return s.publish(temp.Name(), name)
}

// publish gives a temporary file, which is durable, its name, durably.
func (s *Storage) publish(temp, name string) error {
	if err := s.fs.Publish(temp, name); err != nil {
		return errors.Join(err, s.drop(temp))
	}
	if err := s.fs.SyncDir(filepath.Dir(name)); err != nil {
		// It can be seen, but may not outlive a power cut: take it back.
		return errors.Join(err, s.drop(name))
	}
	return nil
}

// drop removes what a failed write left. A file that is not there is fine.
func (s *Storage) drop(name string) error {
	if err := s.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what was written: %w", err)
	}
	return nil
}

// create opens a temporary file beside name. A missing folder is made, but
// only below a repository that is there: when a disk is unmounted in the
// middle of a backup, the rest must not land in the empty mount point.
func (s *Storage) create(name string) (tempFile, error) {
	dir, prefix := filepath.Dir(name), filepath.Base(name)+tempMark
	temp, err := s.fs.CreateTemp(dir, prefix)
	if !errors.Is(err, fs.ErrNotExist) {
		return temp, err
	}
	if err := s.ensureFolder(dir); err != nil {
		return nil, err
	}
	return s.fs.CreateTemp(dir, prefix)
}

// ensureFolder makes dir, durably, unless it is there.
func (s *Storage) ensureFolder(dir string) error {
	if err := s.checkThere(); err != nil {
		return err
	}
	parents, err := s.makeFolder(dir)
	if err != nil {
		return err
	}
	for _, p := range parents {
		if err := s.fs.SyncDir(p); err != nil {
			return err
		}
	}
	return nil
}

// checkThere returns an error when the repository is gone altogether: neither
// its config is there nor, as after [Create], its first folder.
func (s *Storage) checkThere() error {
	_, err := os.Stat(filepath.Join(s.root, configName))
	if err == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(s.root, kassett.PackFile.String())); err == nil {
		return nil
	}
	return &kassett.Error{
		Op: "find repository", What: s.root, Kind: kassett.NotFound, Err: err,
		Hint: "the folder was there before: check that the disk is still mounted",
	}
}

// fill writes body, checks it, and makes it durable. It closes temp.
func (s *Storage) fill(ctx context.Context, temp tempFile, body kassett.Body) (err error) {
	defer func() {
		// Close before the rename: some network file systems report a full
		// disk here, and Windows renames no open file.
		if closeErr := temp.Close(); err == nil {
			err = closeErr
		}
	}()
	r, err := storage.OpenBody(ctx, body)
	if err != nil {
		return err
	}
	_, err = io.Copy(temp, r)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return temp.Seal(s.modes.file)
}
