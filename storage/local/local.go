// Package local keeps a repository in a folder of a file system, in restic's
// default layout, so that restic reads and writes the same folder:
//
//	config
//	data/00/ … data/ff/<64 hex digits>
//	index/  keys/  locks/  snapshots/<64 hex digits>
//	kassett/…                    files beside the repository
//
// A file is written under a temporary name in the folder it will rest in,
// flushed to the medium, given its name without ever replacing another, and
// the folder is flushed. A name that can be seen therefore always holds the
// whole file. What an interrupted write leaves is named <name>-tmp-<digits>,
// is shown by no listing, and goes with [Storage.Sweep].
//
// File systems without permissions (FAT, some network shares) and without
// flushing of folders are taken as they are. Nothing here is locked between
// processes: that is the repository's part.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/storage"
)

// Storage is a repository's folder. It implements [kassett.Storage],
// [kassett.Beside], [kassett.Stager], [kassett.Sweeper] and [kassett.Parallel],
// holds no file open between calls but those that are staged,
// and is safe for many goroutines.
type Storage struct {
	root   string // absolute
	modes  modes
	fs     fileSystem
	medium storage.Medium
	served bool // filled by a server only: times of files are the server's
}

var (
	_ kassett.Storage  = (*Storage)(nil)
	_ kassett.Beside   = (*Storage)(nil)
	_ kassett.Stager   = (*Storage)(nil)
	_ kassett.Sweeper  = (*Storage)(nil)
	_ kassett.Parallel = (*Storage)(nil)
)

const (
	configName = "config"
	besideName = "kassett"
	tempMark   = "-tmp-" // restic's temporary files have it too
)

// kindFolders are the kinds of file that have a folder.
var kindFolders = [...]kassett.FileKind{
	kassett.PackFile, kassett.IndexFile, kassett.KeyFile, kassett.LockFile, kassett.SnapshotFile,
}

// mediumFiles are what an empty medium holds just after it was formatted.
var mediumFiles = []string{"lost+found", "System Volume Information", "$RECYCLE.BIN"}

// modes are the permissions of what is made, by restic's rule: the group may
// read and add when it may read the config file, else only the owner.
type modes struct{ dir, file fs.FileMode }

func modesFor(config fs.FileMode) modes {
	if config&0o040 != 0 {
		return modes{dir: 0o770, file: 0o440}
	}
	return modes{dir: 0o700, file: 0o400}
}

// Create makes the folders of a repository in path, and path itself when it is
// not there. It does not write a config file: until one is stored, [Open] does
// not accept the folder and Create may be called again. A folder that holds
// anything else, or a repository, is an [kassett.Exists] error.
func Create(path string) (*Storage, error) {
	const op = "create repository"
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fault(op, path, err)
	}
	if err := checkEmpty(root); err != nil {
		return nil, err
	}
	s := &Storage{root: root, modes: modesFor(0), fs: disk{}}
	folders := []string{root}
	for _, k := range kindFolders {
		folders = append(folders, filepath.Join(root, k.String()))
	}
	for i := range 256 {
		folders = append(folders, filepath.Join(root, "data", fmt.Sprintf("%02x", i)))
	}
	var parents []string
	for _, dir := range folders {
		made, err := s.makeFolder(dir)
		if err != nil {
			return nil, fault(op, path, err)
		}
		parents = append(parents, made...)
	}
	slices.Sort(parents)
	for _, dir := range slices.Compact(parents) {
		if err := s.fs.SyncDir(dir); err != nil {
			return nil, fault(op, path, err)
		}
	}
	s.medium = storage.MediumOf(root)
	return s, nil
}

// checkEmpty refuses a folder that holds more than an unfinished Create left.
func checkEmpty(root string) error {
	const op = "create repository"
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if fi, statErr := os.Stat(root); statErr == nil && !fi.IsDir() {
		return &kassett.Error{
			Op: op, What: root, Kind: kassett.Exists, Err: errors.New("there is a file of this name"),
			Hint: "give the path of a folder that is empty or not there yet",
		}
	} else if err != nil {
		return fault(op, root, err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case name == configName:
			return &kassett.Error{
				Op: op, What: root, Kind: kassett.Exists, Err: errors.New("a repository is there"),
				Hint: "use it as it is, or give another folder",
			}
		case slices.Contains(mediumFiles, name) || name == besideName || strings.HasPrefix(name, configName+tempMark):
		case name == "data" || name == "index" || name == "locks":
		case name == "keys" || name == "snapshots":
			if old, err := os.ReadDir(filepath.Join(root, name)); err != nil {
				return fault(op, root, err)
			} else if len(old) > 0 {
				return &kassett.Error{
					Op: op, What: root, Kind: kassett.Exists,
					Err:  fmt.Errorf("it holds %s of a repository whose config file is gone", name),
					Hint: "bring the file config back from a copy of this repository, or give another folder",
				}
			}
		default:
			return &kassett.Error{
				Op: op, What: root, Kind: kassett.Exists,
				Err:  fmt.Errorf("the folder is not empty: it holds %q", name),
				Hint: "give the path of a folder that is empty or not there yet",
			}
		}
	}
	return nil
}

// Open opens the folder of a repository that exists. A path that holds none is
// a [kassett.NotFound] error.
func Open(path string) (*Storage, error) {
	const op = "open repository"
	root, err := filepath.Abs(path)
	if err != nil {
		return nil, fault(op, path, err)
	}
	fi, err := os.Stat(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &kassett.Error{
			Op: op, What: path, Kind: kassett.NotFound, Err: errors.New("no such folder"),
			Hint: "check the path, and that the disk is mounted; init makes a new repository",
		}
	case err != nil:
		return nil, fault(op, path, err)
	case !fi.IsDir():
		return nil, &kassett.Error{
			Op: op, What: path, Kind: kassett.Invalid, Err: errors.New("it is a file"),
			Hint: "give the folder of the repository, the one that holds the file config",
		}
	}
	config, err := os.Stat(filepath.Join(root, configName))
	switch {
	case errors.Is(err, fs.ErrNotExist) && holdsKeys(root):
		return nil, &kassett.Error{
			Op: op, What: path, Kind: kassett.Corrupt, Err: errors.New("it has keys, but its file config is gone"),
			Hint: "bring the file config back: from kassett/config-*, which a migration that was cut short leaves, or from a copy of this repository; with parity make an empty file config there and run `kassett repair parity`",
		}
	case errors.Is(err, fs.ErrNotExist):
		return nil, &kassett.Error{
			Op: op, What: path, Kind: kassett.NotFound, Err: errors.New("no file config in it"),
			Hint: "check the path, and that the disk is mounted; init makes a new repository",
		}
	case err != nil:
		return nil, fault(op, path, err)
	}
	s := &Storage{root: root, modes: modesFor(config.Mode()), fs: disk{}}
	_, err = os.Stat(s.beside(servedName))
	s.served = err == nil
	return s, nil
}

// servedName is the file beside a repository that says that a server fills it,
// and since when: docs/formats/served.md.
const servedName = "served/since"

// MarkServed writes down that from now on a server fills the folder on behalf
// of others, who cannot reach its files. Their modification times are then
// when the server received them, which is told as [kassett.Info.Received] by
// this Storage and by all that open the folder later.
func (s *Storage) MarkServed(ctx context.Context) error {
	if s.served {
		return nil
	}
	since := []byte(time.Now().UTC().Format(time.RFC3339) + "\n")
	err := s.PutBeside(ctx, servedName, kassett.BytesBody(since, kassett.Hash(since)))
	if err != nil && kassett.KindOf(err) != kassett.Exists {
		return err
	}
	s.served = true
	return nil
}

// info describes a file of the repository.
func (s *Storage) info(h kassett.Handle, fi fs.FileInfo) kassett.Info {
	in := kassett.Info{Handle: h, Size: fi.Size()}
	if s.served {
		in.Received = fi.ModTime()
	}
	return in
}

// holdsKeys reports whether a folder has the keys of a repository.
func holdsKeys(root string) bool {
	keys, err := os.ReadDir(filepath.Join(root, kassett.KeyFile.String()))
	return err == nil && len(keys) > 0
}

// Medium returns what the folder rests on.
func (s *Storage) Medium() storage.Medium { return s.medium }

// Connections implements [kassett.Parallel]: one on a disk with heads, several
// elsewhere.
func (s *Storage) Connections() int { return s.medium.Connections() }

// Path returns the absolute path of the repository's folder.
func (s *Storage) Path() string { return s.root }

// file returns where a file of the repository rests.
func (s *Storage) file(h kassett.Handle) string {
	switch h.Kind {
	case kassett.ConfigFile:
		return filepath.Join(s.root, configName)
	case kassett.PackFile:
		name := h.ID.String()
		return filepath.Join(s.root, "data", name[:2], name)
	}
	return filepath.Join(s.root, h.Kind.String(), h.ID.String())
}

// beside returns where a file beside the repository rests.
func (s *Storage) beside(name string) string {
	return filepath.Join(s.root, besideName, filepath.FromSlash(name))
}

// fault wraps an error of the file system with its kind, and with what the
// operator can do about it.
func fault(op, what string, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*kassett.Error](err); known {
		return err
	}
	kind := systemKind(err)
	if kind == kassett.Other {
		kind = kassett.KindOf(err)
	}
	return &kassett.Error{Op: op, What: what, Kind: kind, Err: err, Hint: hints[kind]}
}

// hints are the next actions that follow from the file system's own errors.
var hints = map[kassett.Kind]string{
	kassett.Full:    "free room on the file system of the repository, or raise the quota, and run it again: nothing half-written is left",
	kassett.Denied:  "check that the file system is not mounted read-only, that this user may write in the folder of the repository, and that the server of a network share does not refuse root",
	kassett.Corrupt: "the medium cannot be read here: look into the system's log, copy the repository to another disk, and run check",
	kassett.Offline: "check that the disk is plugged in and mounted, or that the file server answers",
}
