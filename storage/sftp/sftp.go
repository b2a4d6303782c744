// Package sftp keeps a repository in a folder of an SFTP server, in restic's
// default layout, so that restic reads and writes the same folder.
//
// It speaks version 3 of the protocol (draft-ietf-secsh-filexfer-02) with
// OpenSSH's extensions (PROTOCOL in its sources), over sessions that a
// [DialFunc] starts: the user's own ssh program, or [Native].
//
// A file is written under a temporary name in the folder it will rest in,
// flushed (fsync@openssh.com), given its name by a hard link, which never
// replaces another file (hardlink@openssh.com), and the folder is flushed. A
// server without these extensions is taken as it is, and named once through
// [Options.Warn]: there a power cut may leave a damaged file, and two writers
// of the same name may both believe that they were first. What an interrupted
// write leaves is named <name>-tmp-<digits>, is shown by no listing, and goes
// with [Storage.Sweep].
//
// Where a connection breaks while the server works on a put, the file may be
// there although the call failed.
package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"sync/atomic"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/storage"
)

// DefaultConnections is how many connections a storage uses at most when
// nothing is said, as restic does.
const DefaultConnections = 5

// Options say how a server is used.
type Options struct {
	Dial        DialFunc
	Connections int             // at most side by side; 0 means DefaultConnections
	Warn        func(err error) // told once what the server lacks; may be nil
}

// Storage is a repository's folder on a server. It implements
// [kassett.Storage], [kassett.Beside], [kassett.Sweeper] and
// [kassett.Parallel], connects again after a connection broke, and is safe for
// many goroutines. Close it at the end.
type Storage struct {
	root  string
	pool  *pool
	modes modes
	warn  func(error)

	closing   sync.WaitGroup // streams whose last answers are still coming
	unflushed sync.Once      // the server cannot flush: said
	unlinked  atomic.Bool    // the server, or its file system, knows no hard links
}

var (
	_ kassett.Storage  = (*Storage)(nil)
	_ kassett.Beside   = (*Storage)(nil)
	_ kassett.Sweeper  = (*Storage)(nil)
	_ kassett.Parallel = (*Storage)(nil)
	_ io.Closer        = (*Storage)(nil)
)

const configName = "config"

// modes are the permissions of what is made, by restic's rule: the group may
// read and add when it may read the config file, else only the owner.
type modes struct{ dir, file fs.FileMode }

func modesFor(config fs.FileMode) modes {
	if config&0o040 != 0 {
		return modes{dir: 0o770, file: 0o440}
	}
	return modes{dir: 0o700, file: 0o400}
}

func newStorage(folder string, o Options) *Storage {
	if o.Connections <= 0 {
		o.Connections = DefaultConnections
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	return &Storage{
		root: folder, modes: modesFor(0), warn: o.Warn,
		pool: &pool{dial: o.Dial, limit: o.Connections, turn: make(chan struct{}, 1)},
	}
}

// Open opens a repository's folder that exists. One that is not there, or has
// no config file, is a [kassett.NotFound] error.
func Open(ctx context.Context, folder string, o Options) (*Storage, error) {
	const op = "open repository"
	s := newStorage(folder, o)
	err := s.with(ctx, func(c *conn) error {
		fi, err := c.client.Stat(s.at(configName))
		if err == nil {
			s.modes = modesFor(fi.Mode())
		} else if errors.Is(err, fs.ErrNotExist) {
			err = s.missing(c)
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(fault(op, folder, err), s.Close())
	}
	return s, nil
}

// missing says what is wrong with a folder that has no config file.
func (s *Storage) missing(c *conn) error {
	e := &kassett.Error{
		Op: "open repository", What: s.root, Kind: kassett.NotFound, Err: errors.New("no file config in it"),
		Hint: "check the path: without a slash at its beginning it starts in the user's folder on the server; init makes a new repository",
	}
	if _, err := c.client.Stat(s.root); errors.Is(err, fs.ErrNotExist) {
		e.Err = errors.New("no such folder on the server")
	} else if keys, err := c.client.ReadDir(s.at(kassett.KeyFile.String())); err == nil && len(keys) > 0 {
		e.Kind, e.Err = kassett.Corrupt, errors.New("it has keys, but its file config is gone")
		e.Hint = "bring the file config back from a copy of this repository; with parity make an empty file config there and run `kassett repair parity`"
	}
	return e
}

// Create makes the folders of a repository, and folder itself when it is not
// there. It writes no config file: until one is stored, [Open] does not accept
// the folder and Create may be called again. A folder that holds anything else,
// or a repository, is an [kassett.Exists] error.
func Create(ctx context.Context, folder string, o Options) (*Storage, error) {
	const op = "create repository"
	s := newStorage(folder, o)
	err := s.with(ctx, func(c *conn) error {
		if err := s.checkEmpty(c); err != nil {
			return err
		}
		if err := s.makeFolder(c, s.at("data")); err != nil {
			return err
		}
		var side errgroup.Group
		side.SetLimit(inFlight)
		for _, k := range storage.Folders() {
			if k != kassett.PackFile {
				side.Go(func() error { return s.makeFolder(c, s.at(k.String())) })
			}
		}
		for i := range 256 {
			side.Go(func() error { return s.makeFolder(c, s.at("data", fmt.Sprintf("%02x", i))) })
		}
		if err := side.Wait(); err != nil {
			return err
		}
		for _, dir := range []string{s.at("data"), s.root, path.Dir(s.root)} {
			if err := s.syncFolder(c, dir); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fault(op, folder, err), s.Close())
	}
	return s, nil
}

// checkEmpty refuses a folder that holds more than an unfinished Create left.
func (s *Storage) checkEmpty(c *conn) error {
	there := func(why, hint string) error {
		return &kassett.Error{Op: "create repository", What: s.root, Kind: kassett.Exists, Err: errors.New(why), Hint: hint}
	}
	entries, err := c.client.ReadDir(s.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case configName:
			return there("a repository is there", "use it as it is, or give another folder")
		case "data", "index", "locks", "lost+found", storage.BesideFolder:
		case "keys", "snapshots":
			old, err := c.client.ReadDir(s.at(name))
			if err != nil {
				return err
			}
			if len(old) > 0 {
				return there(fmt.Sprintf("it holds %s of a repository whose config file is gone", name),
					"bring the file config back from a copy of this repository, or give another folder")
			}
		default:
			if !storage.IsTemp(name) {
				return there(fmt.Sprintf("the folder is not empty: it holds %q", name),
					"give the path of a folder that is empty or not there yet")
			}
		}
	}
	return nil
}

// makeFolder makes a folder and those above it. One that is there is left as
// it is.
func (s *Storage) makeFolder(c *conn, dir string) error {
	err := c.client.Mkdir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if parent := path.Dir(dir); parent != dir {
			if err := s.makeFolder(c, parent); err != nil {
				return err
			}
		}
		err = c.client.Mkdir(dir)
	}
	if err != nil {
		// Servers have one word for everything: look whether it is there.
		if fi, statErr := c.client.Stat(dir); statErr == nil && fi.IsDir() {
			return nil
		}
		return err
	}
	return ignoreAnswer(c.client.Chmod(dir, s.modes.dir))
}

// Path returns the repository's folder on the server.
func (s *Storage) Path() string { return s.root }

// Close ends all connections.
func (s *Storage) Close() error {
	s.pool.close()
	s.closing.Wait()
	return nil
}

// Connections implements [kassett.Parallel].
func (s *Storage) Connections() int { return s.pool.limit }

// at returns the path on the server of what is named below the repository.
func (s *Storage) at(parts ...string) string { return path.Join(append([]string{s.root}, parts...)...) }

func (s *Storage) file(h kassett.Handle) string { return s.at(storage.Path(h)) }

func (s *Storage) beside(name string) string { return s.at(storage.BesideFolder, name) }

// with runs requests on a connection.
func (s *Storage) with(ctx context.Context, requests func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := s.pool.take(ctx)
	if err != nil {
		return err
	}
	defer s.pool.give(c)
	return c.do(ctx, func() error { return requests(c) })
}

// isAnswer reports whether err is what the server said, in the words of
// pkg/sftp, and not the end of the connection.
func isAnswer(err error) bool {
	if _, ok := errors.AsType[*sftp.StatusError](err); ok {
		return true
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrExist)
}

// ignoreAnswer is for requests that a server may refuse: only the end of the
// connection is an error.
func ignoreAnswer(err error) error {
	if isAnswer(err) {
		return nil
	}
	return err
}

// fault wraps an error with its kind, and with what the operator can do.
func fault(op, what string, err error) error {
	if err == nil {
		return nil
	}
	if e, known := errors.AsType[*kassett.Error](err); known {
		if e.Kind == kassett.Offline {
			return fmt.Errorf("%s %s: %w", op, what, err)
		}
		return err
	}
	e := &kassett.Error{Op: op, What: what, Kind: kassett.KindOf(err), Err: err}
	switch {
	case e.Kind == kassett.Denied:
		e.Hint = "check on the server that this user may read and write in the folder of the repository"
	case isAnswer(err) && e.Kind == kassett.Other:
		e.Hint = "the server gives no reason: look into its log (on Debian: journalctl -t sftp-server -t sshd), and for room and quota there"
	}
	return e
}
