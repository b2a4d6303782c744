package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kassett"
)

// root is the tree of a Source above and at its targets.
type root struct{ top node }

// node is a target, or a folder on the way to one.
type node struct {
	path     string // where it is, cleaned but relative if so typed; "" when only what is below was asked for
	abs      string // path made absolute, for patterns
	meta     string // where the metadata of a folder on the way comes from
	base     string // what the first name of a target is looked up from; tells ../a from a
	explicit bool   // typed by the user, so no pattern excludes it
	below    bool   // below another target, and reached through it
	kids     map[string]*node
}

// place is one path of a Source: something below, at, or above a target.
type place struct {
	n    *node
	rest string // the path below n
}

func (p place) real() bool     { return p.n.path != "" }
func (p place) isTarget() bool { return p.rest == "" && !p.n.below }

func (p place) abs() string {
	if p.rest == "" {
		return p.n.abs
	}
	return filepath.Join(p.n.abs, filepath.FromSlash(p.rest))
}

// newRoot builds the tree of the given targets. The arrangement is restic's
// (internal/archiver/tree.go): a target without a name of its own, such as
// "." or "/", stands for the things in it; the first of two targets whose
// first names are equal but mean different things keeps the name, the next
// gets "-1" appended.
func newRoot(paths []string) (*root, error) {
	r := &root{}
	found := false
	seen := map[string]bool{}
	add := func(path string, explicit bool) error {
		if seen[path] {
			return nil
		}
		seen[path] = true
		return r.add(path, explicit)
	}
	for _, p := range paths {
		if p == "" {
			return nil, &kassett.Error{Op: "back up files", Kind: kassett.Invalid, Err: errors.New("an empty name is not a file"), Hint: "name a file or a folder"}
		}
		p = cleanTarget(p)
		if _, err := os.Lstat(p); err == nil {
			found = true
		}
		if len(components(p)) > 0 {
			if err := add(p, true); err != nil {
				return nil, err
			}
			continue
		}
		names, err := readNames(p)
		if err != nil {
			return nil, fmt.Errorf("list folder %s: %w", p, err)
		}
		for _, name := range names {
			if err := add(filepath.Join(p, name), false); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, &kassett.Error{
			Op: "back up files", What: strings.Join(paths, ", "), Kind: kassett.NotFound,
			Err: fs.ErrNotExist, Hint: "check the names; none of them exists on this machine",
		}
	}
	r.top.unroll()
	return r, nil
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}

// add puts one target into the tree.
func (r *root) add(path string, explicit bool) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("make %s absolute: %w", path, err)
	}
	names := components(path)
	base := lookupBase(path)
	at := &r.top
	way := base // the folder that the names so far lead to
	for i, name := range names {
		key := name
		if i == 0 {
			key = at.free(name, base)
		}
		if i > 0 || !isVolume(path) {
			way = filepath.Join(way, name)
		}
		kid := at.kids[key]
		if kid == nil {
			kid = &node{meta: way}
			if i == 0 {
				kid.base = base
			}
			if at.kids == nil {
				at.kids = map[string]*node{}
			}
			at.kids[key] = kid
		}
		at = kid
	}
	at.path, at.abs, at.explicit = path, abs, explicit
	return nil
}

// free returns the name under which the first name of a target that is looked
// up from base belongs.
func (n *node) free(name, base string) string {
	key := name
	for i := 1; ; i++ {
		kid := n.kids[key]
		if kid == nil || kid.base == base {
			return key
		}
		key = fmt.Sprintf("%s-%d", name, i)
	}
}

// unroll makes everything below a target part of what is read: in
// "backup /home /home/ann/x" the folder ann is read whole.
func (n *node) unroll() {
	for name, kid := range n.kids {
		if kid.below = n.path != ""; kid.below && kid.path == "" {
			kid.path, kid.abs = filepath.Join(n.path, name), filepath.Join(n.abs, name)
		}
		kid.unroll()
	}
}

// find returns the place of a path.
func (r *root) find(path string) (place, error) {
	at := &r.top
	rest := path
	for name := range strings.SplitSeq(path, "/") {
		if path != "" && (name == "" || name == "." || name == "..") {
			return place{}, fmt.Errorf("find %q: %w", path, fs.ErrInvalid)
		}
	}
	for rest != "" {
		name, next, _ := strings.Cut(rest, "/")
		kid := at.kids[name]
		if kid == nil {
			break
		}
		at, rest = kid, next
	}
	if rest != "" && at.path == "" {
		return place{}, fmt.Errorf("find %q: %w", path, fs.ErrNotExist)
	}
	return place{at, rest}, nil
}

// stat describes a node. A folder on the way to a target may be a symbolic
// link, a target is never followed.
func (n *node) stat() kassett.Entry {
	if n.path != "" {
		return statPath(n.path, false)
	}
	e := statPath(n.meta, true)
	if e.Err == nil && e.Type != kassett.Dir {
		e = kassett.Entry{Err: fmt.Errorf("%s is not a folder: %w", n.meta, fs.ErrInvalid)}
	}
	if e.Err != nil {
		e.Err = fmt.Errorf("reach %s: %w", strings.Join(n.targets(), ", "), e.Err)
	}
	return e
}

// targets returns what the user asked for at and below n, sorted.
func (n *node) targets() []string {
	if n.explicit {
		return []string{n.path}
	}
	var all []string
	for _, kid := range n.kids {
		all = append(all, kid.targets()...)
	}
	slices.Sort(all)
	return all
}

// components returns the names of a cleaned target, as restic puts them into a
// snapshot: C:\x is C and x, ..\x is x.
func components(path string) []string {
	volume := filepath.VolumeName(path)
	rest := filepath.ToSlash(path[len(volume):])
	var names []string
	if volume != "" {
		names = append(names, strings.TrimSuffix(volume, ":"))
	}
	for name := range strings.SplitSeq(rest, "/") {
		if name != "" && name != "." && name != ".." {
			names = append(names, name)
		}
	}
	return names
}

func isVolume(path string) bool { return filepath.VolumeName(path) != "" }

// lookupBase returns the folder that the first name of a cleaned target is in.
func lookupBase(path string) string {
	if filepath.IsAbs(path) {
		return filepath.VolumeName(path) + string(filepath.Separator)
	}
	base := "."
	for name := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		if name != ".." {
			break
		}
		base = filepath.Join(base, name)
	}
	return base
}

// cleanTarget cleans a path as typed. A volume alone means all that is on it.
func cleanTarget(path string) string {
	if volume := filepath.VolumeName(path); volume != "" && volume == path {
		return volume + string(filepath.Separator)
	}
	return filepath.Clean(path)
}
