package search

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/snapshot"
)

const (
	manifestName = "manifest"
	tempSuffix   = ".tmp"
	format       = "search/1"
	// maxManifest bounds the file, in bytes.
	maxManifest = 256 << 20
)

// manifest says which segments make the index.
type manifest struct {
	Format     string  `json:"kassett"` // "search/1"
	Generation uint64  `json:"generation"`
	Lines      []*line `json:"lines"`
}

// line is the snapshots of one source, in the order in which they were added to
// the index, and what is known of them. Each has a number; what a name was is
// noted from one number on.
type line struct {
	Host      string       `json:"host"`
	Paths     []string     `json:"paths"`
	Next      uint32       `json:"next"` // number
	Snapshots []member     `json:"snapshots"`
	Segments  []segmentRef `json:"segments"` // the older ones first
}

type member struct {
	ID  kassett.ID `json:"id"`
	Seq uint32     `json:"seq"`
}

type segmentRef struct {
	Name  string `json:"name"`
	Count int64  `json:"count"` // entries
}

// is reports whether the line is that of a snapshot.
func (l *line) is(sn *snapshot.Snapshot) bool {
	return l.Host == sn.Hostname && slices.Equal(l.Paths, sn.Paths)
}

// readManifest returns an empty one when there is none.
func readManifest(dir string, key keyFunc) (*manifest, error) {
	empty := &manifest{Format: format}
	name := filepath.Join(dir, manifestName)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return empty, nil
	}
	if err != nil {
		return empty, err
	}
	if info.Size() > maxManifest {
		return empty, damagedf("it has %d bytes", info.Size())
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return empty, err
	}
	if len(b) < saltSize {
		return empty, damagedf("it is cut short")
	}
	s, err := newSealer(key, b[:saltSize])
	if err != nil {
		return empty, err
	}
	plain, err := s.open(nil, b[saltSize:], 0)
	if err != nil {
		return empty, err
	}
	m := &manifest{}
	if err := json.Unmarshal(plain, m); err != nil {
		return empty, damaged(err)
	}
	if m.Format != format {
		return empty, damagedf("its format is %.20q", m.Format)
	}
	return m, nil
}

// write stores the manifest in place of the one before it.
func (m *manifest) write(dir string, key keyFunc) (err error) {
	m.Generation++
	plain, err := json.Marshal(m)
	if err != nil {
		return err
	}
	salt := newSalt()
	s, err := newSealer(key, salt)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "new-*"+tempSuffix)
	if err != nil {
		return err
	}
	_, err = f.Write(s.seal(salt, plain, 0))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, manifestName))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// names returns the segments that the manifest names.
func (m *manifest) names() map[string]bool {
	all := make(map[string]bool)
	for _, l := range m.Lines {
		for _, s := range l.Segments {
			all[s.Name] = true
		}
	}
	return all
}

// leftOver is how old a file is that nobody is at work on any more.
const leftOver = 24 * time.Hour

// sweep removes segments that the manifest does not name, and what a crash has
// left. Segments of another process that is at work are young, and stay.
func sweep(dir string, m *manifest) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	named := m.names()
	for _, e := range list {
		name := e.Name()
		if named[name] || !strings.HasSuffix(name, segmentSuffix) && !strings.HasSuffix(name, tempSuffix) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftOver {
			_ = os.Remove(filepath.Join(dir, name)) // tried again the next time
		}
	}
	return nil
}
