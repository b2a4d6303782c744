package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"kassett"
)

// selection decides what is left out of a backup.
type selection struct {
	sets    []*Patterns
	tags    []tag
	larger  uint64            // bytes; 0 is no limit
	devices map[string]uint64 // absolute path of a target → file system; nil when all may be read
	warn    func(path string, err error)
}

// tag is a file that excludes everything beside it.
type tag struct{ name, header string }

// cacheTag is what marks the cache of a program (https://bford.info/cachedir/).
var cacheTag = tag{"CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55"}

// newSelection prepares the choices of o for targets at these absolute paths.
func newSelection(o Options, paths []string) (selection, error) {
	s := selection{larger: uint64(max(o.ExcludeLarger, 0)), warn: o.Warn}
	for _, set := range []struct {
		list []string
		fold bool
	}{{o.ExcludeFold, true}, {o.Exclude, false}} {
		if len(set.list) == 0 {
			continue
		}
		p, err := NewPatterns(set.list, set.fold)
		if err != nil {
			return s, err
		}
		s.sets = append(s.sets, p)
	}
	if o.ExcludeCaches {
		s.tags = append(s.tags, cacheTag)
	}
	for _, spec := range o.ExcludeIfPresent {
		name, header, _ := strings.Cut(spec, ":")
		if name == "" || strings.ContainsAny(name, `/`+string(filepath.Separator)) {
			return s, &kassett.Error{
				Op: "read exclude-if-present", What: fmt.Sprintf("%q", spec), Kind: kassett.Invalid,
				Err: errors.New("not the name of a file"), Hint: "use NAME or NAME:HEADER, without a folder",
			}
		}
		s.tags = append(s.tags, tag{name, header})
	}
	if o.OneFileSystem {
		s.devices = map[string]uint64{}
		for _, path := range paths {
			if e := statPath(path, false); e.Err == nil {
				s.devices[path] = e.DeviceID
			}
		}
	}
	return s, nil
}

// skip is a selection applied to one folder.
type skip struct {
	sel     *selection
	path    Path
	only    []string // of the tags in this folder: each excludes all names but its own
	device  uint64   // the file system that may be read here
	foreign bool     // this folder is on another one
}

// folder prepares the decisions about what is in the folder f, which is at abs.
func (s *selection) folder(abs string, f folder) (*skip, error) {
	k := &skip{sel: s}
	if len(s.sets) > 0 {
		k.path = folderPath(abs)
	}
	for _, t := range s.tags {
		present, err := t.in(f)
		if err != nil {
			s.tell(filepath.Join(abs, t.name), err)
		}
		if present {
			k.only = append(k.only, t.name)
		}
	}
	if s.devices == nil {
		return k, nil
	}
	for at := abs; ; at = filepath.Dir(at) {
		if device, ok := s.devices[at]; ok {
			k.device = device
			break
		}
		if at == filepath.Dir(at) {
			return k, fmt.Errorf("folder %s is below no target: %w", abs, fs.ErrInvalid)
		}
	}
	here, err := f.device()
	if err != nil {
		return k, fmt.Errorf("read metadata of %s: %w", abs, err)
	}
	k.foreign = here != k.device
	return k, nil
}

// name reports whether the thing of this name is excluded whatever it is.
func (k *skip) name(name string) bool {
	for _, only := range k.only {
		if name != only {
			return true
		}
	}
	if len(k.sel.sets) == 0 {
		return false
	}
	k.path.setChild(name)
	for _, set := range k.sel.sets {
		if set.Match(k.path) {
			return true
		}
	}
	return false
}

// entry reports whether an entry is excluded for what it is. A mount point is
// not: it is needed, empty, to mount on again.
func (k *skip) entry(e *kassett.Entry) bool {
	switch {
	case e.Err != nil:
		return false
	case k.sel.larger > 0 && e.Type == kassett.File && e.Size > k.sel.larger:
		return true
	case k.sel.devices != nil && e.DeviceID != k.device:
		return e.Type != kassett.Dir || k.foreign
	}
	return false
}

// in reports whether the tag is in f and has the header it needs.
func (t tag) in(f folder) (bool, error) {
	if t.header == "" {
		_, err := f.stat(t.name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return err == nil, err
	}
	head, err := f.head(t.name, len(t.header))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if string(head) != t.header {
		return false, errors.New("wrong header, so the folder is not excluded")
	}
	return true, nil
}

func (s *selection) tell(path string, err error) {
	if s.warn != nil {
		s.warn(path, err)
	}
}
