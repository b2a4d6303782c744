package repo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"kassett"
	"kassett/repo/seal"
)

// maxLocal bounds what is read of a local file, in bytes. The largest are hints of
// retention: 41 bytes a pack.
const maxLocal = 1 << 29

// SaveLocal keeps a small file in the cache of this machine, sealed under a key of
// the repository, so that it survives the process and a power cut. The name is of
// [a-z0-9.-]. Without a cache it is a [kassett.NotFound] error. What is kept here
// may be gone or old when it is loaded: it serves to save work, never to know.
func (r *Repository) SaveLocal(name string, plain []byte) (err error) {
	path, key, err := r.local(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), name+"-tmp-*")
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	_, err = f.Write(key.Seal(nil, plain))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// LoadLocal returns what SaveLocal kept last; a [kassett.NotFound] error when
// there is nothing, and a [kassett.Corrupt] error when it was changed.
func (r *Repository) LoadLocal(name string) ([]byte, error) {
	path, key, err := r.local(name)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxLocal {
		err = &kassett.Error{Kind: kassett.Corrupt, Err: fmt.Errorf("%d bytes are too many", info.Size())}
	}
	var sealed []byte
	if err == nil {
		sealed, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	plain, err := key.Open(nil, sealed)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", name, err)
	}
	return plain, nil
}

// RemoveLocal removes what SaveLocal kept, if anything.
func (r *Repository) RemoveLocal(name string) error {
	path, _, err := r.local(name)
	if err == nil {
		err = os.Remove(path)
	}
	if kassett.KindOf(err) == kassett.NotFound {
		return nil
	}
	return err
}

// local returns where a local file is, and the key that seals it: one for each
// name, so that none can take another's place.
func (r *Repository) local(name string) (string, *seal.Key, error) {
	if r.options.CacheDir == "" {
		return "", nil, &kassett.Error{Op: "keep", What: name, Kind: kassett.NotFound, Err: errors.New("there is no cache")}
	}
	const info = "kassett local file 1 "
	key, err := seal.NewKey(append(r.key.Subkey(info+name, []byte("encrypt")), r.key.Subkey(info+name, []byte("mac"))...))
	return filepath.Join(r.options.CacheDir, r.Config().ID, "local", r.place.Short(), name), key, err
}
