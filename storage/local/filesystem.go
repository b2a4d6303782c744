package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// fileSystem is every operation that changes the folder of a repository. The
// tests put a file system in its place that forgets what was not flushed.
type fileSystem interface {
	// CreateTemp makes a new file in dir, readable by its owner only, whose
	// name is prefix and some digits.
	CreateTemp(dir, prefix string) (tempFile, error)
	// Publish gives a closed file its final name. It never replaces a file:
	// one that is there is an error that is fs.ErrExist.
	Publish(temp, name string) error
	// Mkdir makes one folder.
	Mkdir(name string, perm fs.FileMode) error
	// SyncDir makes the names in a folder durable, where the file system
	// knows how to.
	SyncDir(dir string) error
	// Remove removes a file, also a read-only one.
	Remove(name string) error
}

// tempFile is a file being written.
type tempFile interface {
	io.WriteCloser
	Name() string
	// Seal takes away what mode does not allow, where the file system has
	// permissions, and makes content and permissions durable.
	Seal(mode fs.FileMode) error
}

// disk is the file system of the machine.
type disk struct{}

func (disk) CreateTemp(dir, prefix string) (tempFile, error) {
	f, err := os.CreateTemp(dir, prefix)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

func (disk) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

func (disk) Publish(temp, name string) error { return renameNew(temp, name) }

func (disk) SyncDir(dir string) error {
	err := syncDir(dir)
	if unsupported(err) {
		return nil
	}
	return err
}

func (disk) Remove(name string) error {
	err := os.Remove(name)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(name, 0o600) == nil {
		// Windows and its network shares keep read-only files.
		err = os.Remove(name)
	}
	return err
}

type diskFile struct{ *os.File }

func (f diskFile) Seal(mode fs.FileMode) error {
	if err := sealMode(f.File, mode); err != nil && !unsupported(err) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := f.Sync(); err != nil && !unsupported(err) {
		return err
	}
	return nil
}

// renameChecked is the last resort of file systems that know neither a rename
// that refuses nor hard links. Two processes that store the same name at the
// same moment could both succeed: such files have the same bytes, but for two
// inits of one folder.
func renameChecked(temp, name string) error {
	if _, err := os.Lstat(name); err == nil {
		return &os.LinkError{Op: "rename", Old: temp, New: name, Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(temp, name)
}

// makeFolder makes dir and what is missing above it, and returns the folders
// that hold a new name and need flushing, the outermost first.
func (s *Storage) makeFolder(dir string) (parents []string, err error) {
	err = s.fs.Mkdir(dir, s.modes.dir)
	parent := filepath.Dir(dir)
	switch {
	case err == nil:
		return []string{parent}, nil
	case errors.Is(err, fs.ErrExist):
		if fi, err := os.Stat(dir); err != nil {
			return nil, err
		} else if !fi.IsDir() {
			return nil, fmt.Errorf("%s is in the way: it is no folder", dir)
		}
		return nil, nil
	case !errors.Is(err, fs.ErrNotExist) || parent == dir:
		return nil, err
	}
	if parents, err = s.makeFolder(parent); err != nil {
		return nil, err
	}
	more, err := s.makeFolder(dir)
	return append(parents, more...), err
}
