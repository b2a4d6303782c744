package clinic

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pkg/xattr"
)

// Manifest describes a folder with the system's own words: what the demo holds
// against what comes back.
type Manifest map[string]fact

// fact is one entry of a manifest.
type fact struct {
	mode     fs.FileMode
	time     time.Time
	size     int64
	owner    string
	sum      [sha256.Size]byte
	link     string
	twin     string // the first path of the same file, of a hard link
	xattrs   map[string][]byte
	withHole bool
}

// Read describes everything below dir.
func Read(dir string) (Manifest, error) {
	m := Manifest{}
	type first struct {
		info fs.FileInfo
		path string
	}
	var linked []first
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f, links, err := readFact(path, info)
		if err != nil {
			return err
		}
		if links > 1 && info.Mode().IsRegular() {
			same := slices.IndexFunc(linked, func(o first) bool { return os.SameFile(o.info, info) })
			if same >= 0 {
				f.twin = linked[same].path
			} else {
				linked = append(linked, first{info, rel})
			}
		}
		m[rel] = f
		return nil
	})
	return m, err
}

func readFact(path string, info fs.FileInfo) (f fact, links uint64, err error) {
	owner, links, allocated := systemFacts(info)
	f = fact{mode: info.Mode(), time: info.ModTime(), owner: owner}
	switch {
	case info.Mode().IsRegular():
		f.size = info.Size()
		f.withHole = f.size >= 1<<20 && allocated < f.size/2
		f.sum, err = sumFile(path)
	case info.Mode()&fs.ModeSymlink != 0:
		f.link, err = os.Readlink(path)
	}
	if err != nil {
		return f, links, err
	}
	names, err := xattr.LList(path)
	if err != nil {
		return f, links, nil //nolint:nilerr // a file system without attributes has none
	}
	f.xattrs = make(map[string][]byte, len(names))
	for _, n := range names {
		if f.xattrs[n], err = xattr.LGet(path, n); err != nil {
			return f, links, err
		}
	}
	return f, links, nil
}

func sumFile(path string) (sum [sha256.Size]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	h.Sum(sum[:0])
	return sum, errors.Join(err, f.Close())
}

// Compare returns how back differs, one line for each entry, sorted by path.
func (m Manifest) Compare(back Manifest) (diff []string) {
	paths := make(map[string]bool, len(m))
	for p := range m {
		paths[p] = true
	}
	for p := range back {
		paths[p] = true
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		was, had := m[p]
		is, has := back[p]
		switch {
		case !has:
			diff = append(diff, p+" is missing")
		case !had:
			diff = append(diff, p+" was not there before")
		default:
			if why := was.differs(is); why != "" {
				diff = append(diff, p+": "+why)
			}
		}
	}
	return diff
}

// WithoutHoles returns m without the wish that holes stay holes.
func (m Manifest) WithoutHoles() Manifest {
	m = maps.Clone(m)
	for p, f := range m {
		f.withHole = false
		m[p] = f
	}
	return m
}

func (f fact) differs(o fact) string {
	switch {
	case f.mode != o.mode:
		return fmt.Sprintf("mode %s, was %s", o.mode, f.mode)
	case !f.time.Equal(o.time):
		return fmt.Sprintf("time %s, was %s", o.time.Format(time.RFC3339Nano), f.time.Format(time.RFC3339Nano))
	case f.size != o.size || f.sum != o.sum:
		return "other content"
	case f.owner != o.owner:
		return fmt.Sprintf("owner %s, was %s", o.owner, f.owner)
	case f.link != o.link:
		return fmt.Sprintf("link to %q, was %q", o.link, f.link)
	case f.twin != o.twin:
		return fmt.Sprintf("the same file as %q, was %q", o.twin, f.twin)
	case f.withHole && !o.withHole:
		return "its hole was filled"
	case !maps.EqualFunc(f.xattrs, o.xattrs, bytes.Equal):
		return "other extended attributes"
	}
	return ""
}
