package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"kassett"
)

// Options say what a [Source] shows. Only Paths is needed.
type Options struct {
	Paths []string // the targets, as the user typed them; relative ones start at the working folder

	Exclude          []string // patterns as of [NewPatterns]
	ExcludeFold      []string // the same, upper and lower case alike (--iexclude)
	ExcludeCaches    bool     // leave out the content of folders with a valid CACHEDIR.TAG
	ExcludeIfPresent []string // NAME or NAME:HEADER: leave out the content of folders with such a file
	ExcludeLarger    int64    // bytes; files above are left out; 0 is no limit
	OneFileSystem    bool     // leave out what is mounted below a target, but not the mount point itself

	WithAtime bool        // report access times; otherwise they equal the modification times
	Cut       kassett.Cut // of every file's content

	// Warn, when not nil, is told what is worth knowing and lost nothing: an
	// exclusion file with a wrong header. It is called from many goroutines.
	Warn func(path string, err error)
}

// Source is a [kassett.Source] for the files of this machine. The state it
// shows is the present one: Freeze and Thaw do nothing to the file system, so
// a file that changes while it is read is reported by its content's Changed.
type Source struct {
	root  *root
	paths []string // absolute

	skip   selection
	atime  bool
	cut    kassett.Cut
	owners owners
	open   handles
}

var _ kassett.Source = (*Source)(nil)

// New returns a Source for o.Paths. Targets that do not exist are entries with
// an error later on; when none exists the error here has the kind
// [kassett.NotFound]. A malformed pattern is an [kassett.Invalid] error.
func New(o Options) (*Source, error) {
	if len(o.Paths) == 0 {
		return nil, &kassett.Error{
			Op: "back up files", Kind: kassett.Invalid, Err: errors.New("no files or folders named"),
			Hint: "name at least one file or folder",
		}
	}
	s := &Source{atime: o.WithAtime, cut: o.Cut}
	var err error
	if s.root, err = newRoot(o.Paths); err != nil {
		return nil, err
	}
	if s.paths, err = absolute(o.Paths); err != nil {
		return nil, err
	}
	if s.skip, err = newSelection(o, s.paths); err != nil {
		return nil, err
	}
	s.open.init(sourceHandles)
	if err := takeRights(); err != nil && o.Warn != nil {
		o.Warn("", err)
	}
	return s, nil
}

// sourceHandles is how many folders a Source keeps open, at most: enough for
// the deepest usual tree, times the workers, and far below any limit on open
// files.
const sourceHandles = 128

// absolute returns the absolute, cleaned form of each path, in the order of
// their bytes and without repetition.
func absolute(paths []string) ([]string, error) {
	all := make([]string, 0, len(paths))
	for _, p := range paths {
		a, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("make %s absolute: %w", p, err)
		}
		all = append(all, a)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// AbsPaths returns the targets as a snapshot lists them: absolute, cleaned and
// sorted. The caller owns the slice.
func (s *Source) AbsPaths() []string { return slices.Clone(s.paths) }

// Freeze implements [kassett.Source].
func (s *Source) Freeze(ctx context.Context) error { return ctx.Err() }

// Thaw implements [kassett.Source]: it closes the folders that are open.
func (s *Source) Thaw(context.Context) error {
	s.open.close()
	return nil
}

// List implements [kassett.Source]. A child that vanished since the folder was
// read, or that cannot be asked for its metadata, is an entry with Err.
func (s *Source) List(ctx context.Context, dir string) ([]kassett.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at, err := s.root.find(dir)
	if err != nil {
		return nil, err
	}
	var list []kassett.Entry
	if at.real() {
		if list, err = s.listFolder(dir, at); err != nil {
			return nil, err
		}
	}
	if at.rest == "" {
		if list, err = s.addTargets(list, at.n); err != nil {
			return nil, err
		}
	}
	for i := range list {
		s.dress(&list[i])
	}
	return list, nil
}

// listFolder lists one folder of the file system, without what is excluded.
// Targets in it are there whatever the patterns say.
func (s *Source) listFolder(dir string, at place) ([]kassett.Entry, error) {
	h, err := s.open.get(dir, s.openFolder)
	if err != nil {
		return nil, err
	}
	defer s.open.put(h)
	abs := at.abs()
	skip, err := s.skip.folder(abs, h.dir)
	if err != nil {
		return nil, err
	}
	isTarget := func(name string) bool { return at.rest == "" && at.n.kids[name] != nil }
	list, err := h.dir.list(func(name string) bool { return isTarget(name) || !skip.name(name) })
	if err != nil {
		return nil, fmt.Errorf("list folder %s: %w", abs, err)
	}
	return slices.DeleteFunc(list, func(e kassett.Entry) bool {
		return !isTarget(e.Name) && skip.entry(&e)
	}), nil
}

// addTargets adds the targets, and the folders that lead to targets, below n
// that a listing of the real folder did not bring.
func (s *Source) addTargets(list []kassett.Entry, n *node) ([]kassett.Entry, error) {
	had := len(list)
	for name, kid := range n.kids {
		_, ok := slices.BinarySearchFunc(list[:had], name, func(e kassett.Entry, name string) int {
			return strings.Compare(e.Name, name)
		})
		if ok {
			continue
		}
		e := kid.stat()
		e.Name = name
		if kid.path != "" && !kid.explicit {
			out, err := s.skipsMember(kid, e)
			if err != nil {
				return nil, err
			}
			if out {
				continue
			}
		}
		list = append(list, e)
	}
	if len(list) > had {
		slices.SortFunc(list, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) })
	}
	return list, nil
}

// skipsMember reports whether kid, which stands in for a target such as ".",
// is excluded.
func (s *Source) skipsMember(kid *node, e kassett.Entry) (bool, error) {
	f, err := openFolder(filepath.Dir(kid.path))
	if err != nil {
		return false, err
	}
	defer f.close()
	skip, err := s.skip.folder(filepath.Dir(kid.abs), f)
	if err != nil {
		return false, err
	}
	e.Name = filepath.Base(kid.path)
	return skip.name(e.Name) || skip.entry(&e), nil
}

// dress gives an entry what this Source and not the file system knows.
func (s *Source) dress(e *kassett.Entry) {
	if e.Err != nil {
		return
	}
	e.User, e.Group = s.owners.user(e.UID), s.owners.group(e.GID)
	if !s.atime {
		e.AccessTime = e.ModTime
	}
	if e.Type == kassett.File {
		e.Cut = s.cut
	}
	if e.Links <= 1 || e.Type == kassett.Dir {
		e.DeviceID = 0
	}
}

// Fill implements [kassett.Source]: it reads the link target and the extended
// attributes or, on Windows, the security descriptor.
func (s *Source) Fill(ctx context.Context, path string, e *kassett.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := s.root.find(path)
	if err != nil {
		return err
	}
	if !at.real() {
		return fillPath(at.n.meta, e)
	}
	h, name, err := s.parent(path, at)
	if err != nil {
		return err
	}
	defer s.open.put(h)
	if err := h.dir.fill(name, e); err != nil {
		return fmt.Errorf("read metadata of %s: %w", at.abs(), err)
	}
	return nil
}

// Open implements [kassett.Source]. When the file has changed since e was listed
// or was replaced by another, e is brought up to date, so that metadata and
// content belong together. What is no longer a regular file is an error, and a
// pipe is never waited for.
func (s *Source) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.Content, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at, err := s.root.find(path)
	if err != nil {
		return nil, err
	}
	if !at.real() {
		return nil, fmt.Errorf("open %s: %w", path, fs.ErrInvalid)
	}
	h, name, err := s.parent(path, at)
	if err != nil {
		return nil, err
	}
	defer s.open.put(h)
	c, err := h.dir.open(name, e)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", at.abs(), err)
	}
	cut := e.Cut // may have been decided otherwise
	s.dress(e)
	e.Cut = cut
	return c, nil
}

// parent returns the open folder that holds the thing at path, and its name there.
func (s *Source) parent(path string, at place) (*handle, string, error) {
	if at.isTarget() {
		h, err := s.open.get(targetParent+filepath.Dir(at.n.path), func(string) (folder, error) {
			return openFolder(filepath.Dir(at.n.path))
		})
		return h, filepath.Base(at.n.path), err
	}
	dir, name := split(path)
	h, err := s.open.get(dir, s.openFolder)
	return h, name, err
}

// targetParent begins the cache keys of folders that hold a target but are not
// below one. No path of a Source begins so.
const targetParent = "/"

// openFolder opens the folder at path for the cache of handles.
func (s *Source) openFolder(path string) (folder, error) {
	at, err := s.root.find(path)
	if err != nil {
		return folder{}, err
	}
	h, name, err := s.parent(path, at)
	if err != nil {
		return folder{}, err
	}
	defer s.open.put(h)
	f, err := h.dir.child(name)
	if err != nil {
		return folder{}, fmt.Errorf("open folder %s: %w", at.abs(), err)
	}
	return f, nil
}

// split cuts a path into its folder and its last name.
func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
