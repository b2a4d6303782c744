package local

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"kassett"
)

// Stage implements [kassett.Stager]. The temporary file has a name like all
// others, but for the ID, which is a random one.
func (s *Storage) Stage(ctx context.Context, k kassett.FileKind) (kassett.Staged, error) {
	const op = "write file"
	if err := ctx.Err(); err != nil {
		return nil, fault(op, k.String(), err)
	}
	h := kassett.Handle{Kind: k}
	_, _ = rand.Read(h.ID[:]) // never fails: it ends the program instead
	temp, err := s.create(s.file(h))
	if err != nil {
		return nil, fault(op, k.String(), err)
	}
	return &staged{storage: s, temp: temp, kind: k}, nil
}

// staged is a temporary file that is written in pieces.
type staged struct {
	storage *Storage
	temp    tempFile
	kind    kassett.FileKind
	closed  bool
}

// Write implements [kassett.Staged].
func (f *staged) Write(b []byte) (int, error) {
	n, err := f.temp.Write(b)
	return n, fault("write file", f.kind.String(), err)
}

// Commit implements [kassett.Staged].
func (f *staged) Commit(ctx context.Context, h kassett.Handle) error {
	err := ctx.Err()
	if err == nil {
		err = f.temp.Seal(f.storage.modes.file)
	}
	err = errors.Join(err, f.close())
	if err != nil {
		return fault("write file", h.String(), errors.Join(err, f.storage.drop(f.temp.Name())))
	}
	name := f.storage.file(h)
	if dir := filepath.Dir(name); dir != filepath.Dir(f.temp.Name()) {
		if _, statErr := os.Lstat(dir); errors.Is(statErr, fs.ErrNotExist) {
			err = f.storage.ensureFolder(dir)
		}
	}
	if err != nil {
		return fault("write file", h.String(), errors.Join(err, f.storage.drop(f.temp.Name())))
	}
	return fault("write file", h.String(), f.storage.publish(f.temp.Name(), name))
}

// Abort implements [kassett.Staged].
func (f *staged) Abort() error {
	return fault("remove file", f.kind.String(), errors.Join(f.close(), f.storage.drop(f.temp.Name())))
}

func (f *staged) close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	return f.temp.Close()
}
