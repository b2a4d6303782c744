package search

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// cacheName is the index's among the caches of a repository.
const cacheName = "search"

// Options are for [Open]. The zero value is good.
type Options struct {
	// Warn is told what went wrong without stopping the work: folders that
	// cannot be read, an index that is made anew. It may be nil.
	Warn     func(error)
	Progress *kassett.Progress
}

// Index is the index of one repository on this machine. It is for one goroutine;
// several processes may use the same files.
type Index struct {
	r        *repo.Repository
	o        Options
	dir      string
	private  bool // dir is removed at the end
	manifest *manifest
	garbage  []string // segments that the next manifest no longer names
	saved    time.Time
}

// Open opens the index of r, which may be empty or behind: see [Index.Update].
// Without a cache it is in a private folder, and made anew each time.
func Open(r *repo.Repository, o Options) (*Index, error) {
	ix := &Index{r: r, o: o, dir: r.CacheDir(cacheName)}
	var err error
	if ix.dir == "" {
		ix.private = true
		ix.dir, err = os.MkdirTemp("", "kassett-search-*")
	} else {
		err = os.MkdirAll(ix.dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("make search index: %w", err)
	}
	return ix, ix.reload()
}

// Close gives back what the index holds.
func (ix *Index) Close() error {
	if ix.private {
		return os.RemoveAll(ix.dir)
	}
	return nil
}

func (ix *Index) key(salt []byte) []byte { return ix.r.CacheKey(cacheName, salt) }

func (ix *Index) warn(err error) {
	if ix.o.Warn != nil {
		ix.o.Warn(err)
	}
}

// reload reads the manifest. A damaged one counts as none.
func (ix *Index) reload() (err error) {
	ix.garbage = nil
	ix.manifest, err = readManifest(ix.dir, ix.key)
	if kassett.KindOf(err) == kassett.Corrupt {
		ix.warn(fmt.Errorf("the search index is made anew: %w", err))
		return nil
	}
	return err
}

// errOutrun is that another process has changed the index meanwhile.
var errOutrun = errors.New("another process has changed the search index")

// save writes the manifest, and then removes what it no longer names.
func (ix *Index) save() error {
	now, err := readManifest(ix.dir, ix.key)
	if err == nil && now.Generation != ix.manifest.Generation {
		return errOutrun
	}
	if err := ix.manifest.write(ix.dir, ix.key); err != nil {
		return err
	}
	for _, name := range ix.garbage {
		_ = os.Remove(filepath.Join(ix.dir, name)) // a left-over, at worst
	}
	ix.garbage, ix.saved = nil, time.Now()
	return nil
}

// Update adds the snapshots that the index does not hold, and forgets those
// that are not in the list: all that the repository has. A folder is read only
// when it is not as it was in the snapshot of the same source before. Folders
// that cannot be read are told to Warn; what they held before counts on.
//
// The repository's index of blobs is loaded when it is needed.
func (ix *Index) Update(ctx context.Context, list []*snapshot.Snapshot) error {
	for try := 1; ; try++ {
		err := ix.update(ctx, list)
		switch {
		case errors.Is(err, errOutrun):
		case kassett.KindOf(err) == kassett.Corrupt && isOurs(err):
			ix.warn(fmt.Errorf("the search index is made anew: %w", err))
			ix.drop()
		default:
			return err
		}
		if try == updateTries {
			return fmt.Errorf("update search index: %w", err)
		}
		if errors.Is(err, errOutrun) {
			err = ix.reload()
		} else {
			err = ix.save()
		}
		if err != nil && !errors.Is(err, errOutrun) {
			return err
		}
	}
}

// updateTries is how often an update begins anew.
const updateTries = 5

// isOurs reports whether an error is about the index, not the repository.
func isOurs(err error) bool {
	var e *kassett.Error
	return errors.As(err, &e) && e.Op == opRead
}

// drop empties the index.
func (ix *Index) drop() {
	for name := range ix.manifest.names() {
		ix.garbage = append(ix.garbage, name)
	}
	ix.manifest.Lines = nil
}

func (ix *Index) update(ctx context.Context, list []*snapshot.Snapshot) error {
	alive := make(map[kassett.ID]bool, len(list))
	for _, sn := range list {
		alive[sn.ID] = true
	}
	changed, err := ix.forget(ctx, alive)
	if err != nil {
		return err
	}
	todo := ix.missing(list)
	if len(todo) > 0 {
		if err := ix.r.LoadIndex(ctx, ix.o.Progress); err != nil && kassett.KindOf(err) != kassett.Corrupt {
			return err
		}
		ix.o.Progress.Enter("read folders for the search")
	}
	for _, sn := range todo {
		if err := ix.add(ctx, sn, alive); err != nil {
			return err
		}
		if changed = true; time.Since(ix.saved) > saveEvery {
			if err := ix.save(); err != nil {
				return err
			}
			changed = false
		}
	}
	if changed {
		if err := ix.save(); err != nil {
			return err
		}
	}
	return sweep(ix.dir, ix.manifest)
}

// saveEvery is how much work may be lost when an update is broken off.
const saveEvery = 5 * time.Second

// missing returns the snapshots that the index does not hold, oldest first.
func (ix *Index) missing(list []*snapshot.Snapshot) (todo []*snapshot.Snapshot) {
	have := make(map[kassett.ID]bool)
	for _, l := range ix.manifest.Lines {
		for _, m := range l.Snapshots {
			have[m.ID] = true
		}
	}
	for _, sn := range list {
		if !have[sn.ID] {
			todo = append(todo, sn)
		}
	}
	slices.SortStableFunc(todo, func(a, b *snapshot.Snapshot) int { return a.Time.Compare(b.Time) })
	return todo
}

// forget takes lines without snapshots out, and rewrites those of which more
// than half is gone. The others only stop to be answered from: see Search.
func (ix *Index) forget(ctx context.Context, alive map[kassett.ID]bool) (changed bool, err error) {
	for _, l := range slices.Clone(ix.manifest.Lines) {
		left := 0
		for _, m := range l.Snapshots {
			if alive[m.ID] {
				left++
			}
		}
		switch {
		case left == 0:
			for _, s := range l.Segments {
				ix.garbage = append(ix.garbage, s.Name)
			}
			ix.manifest.Lines = slices.DeleteFunc(ix.manifest.Lines, func(o *line) bool { return o == l })
		case left < len(l.Snapshots)/2:
			if err := ix.merge(ctx, l, 0, alive); err != nil {
				return false, err
			}
			l.Snapshots = slices.DeleteFunc(l.Snapshots, func(m member) bool { return !alive[m.ID] })
		default:
			continue
		}
		changed = true
	}
	return changed, nil
}

// add adds one snapshot to its line.
func (ix *Index) add(ctx context.Context, sn *snapshot.Snapshot, alive map[kassett.ID]bool) error {
	i := slices.IndexFunc(ix.manifest.Lines, func(l *line) bool { return l.is(sn) })
	if i < 0 {
		i = len(ix.manifest.Lines)
		ix.manifest.Lines = append(ix.manifest.Lines, &line{Host: sn.Hostname, Paths: sn.Paths})
	}
	l := ix.manifest.Lines[i]
	made, err := ix.index(ctx, l, sn)
	if errors.Is(err, errUnread) {
		ix.warn(fmt.Errorf("snapshot %s cannot be searched: %w", sn.ID.Short(), err))
		return nil // and tried again the next time
	}
	if err != nil {
		return err
	}
	l.Segments = append(l.Segments, made...)
	l.Snapshots = append(l.Snapshots, member{sn.ID, l.Next})
	l.Next++
	// A segment is merged with those before it that are not much larger: so
	// each entry is written again only when its segment has grown.
	from := len(l.Segments) - 1
	if len(made) == 0 {
		return nil
	}
	for size := l.Segments[from].Count; from > 0 && l.Segments[from-1].Count <= 2*size+smallSegment; from-- {
		size += l.Segments[from-1].Count
	}
	if len(l.Segments)-from < 2 {
		return nil
	}
	return ix.merge(ctx, l, from, alive)
}

// smallSegment is how many entries are always worth merging.
const smallSegment = 1000

// open opens the segments of a line from one on.
func (ix *Index) open(l *line, from int) (all []*segment, err error) {
	for _, ref := range l.Segments[from:] {
		s, err := openSegment(filepath.Join(ix.dir, ref.Name), ix.key)
		if err != nil {
			return nil, errors.Join(err, closeAll(all))
		}
		all = append(all, s)
	}
	return all, nil
}

func closeAll(all []*segment) (err error) {
	for _, s := range all {
		err = errors.Join(err, s.close())
	}
	return err
}

// merge makes one segment of those from one on, without versions that no
// snapshot has any more.
func (ix *Index) merge(ctx context.Context, l *line, from int, alive map[kassett.ID]bool) (err error) {
	old, err := ix.open(l, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(old)) }()
	w, err := createSegment(ix.dir, ix.key)
	if err != nil {
		return err
	}
	v := newView(l, func(id kassett.ID) bool { return alive[id] })
	for m := newMerge(old); ; {
		e, err := m.next()
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return errors.Join(err, w.abort())
		}
		if e == nil {
			break
		}
		if e.events = v.purge(e.events, from == 0); len(e.events) == 0 {
			continue
		}
		if err := w.add(e); err != nil {
			return errors.Join(err, w.abort())
		}
	}
	count := w.count
	name, err := w.finish()
	if err != nil {
		return err
	}
	for _, ref := range l.Segments[from:] {
		ix.garbage = append(ix.garbage, ref.Name)
	}
	l.Segments = l.Segments[:from:from]
	if name != "" {
		l.Segments = append(l.Segments, segmentRef{name, count})
	}
	return nil
}
