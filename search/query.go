package search

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/snapshot"
)

// Version is one state of a file: the same type, size, time and content.
type Version struct {
	Type        kassett.EntryType
	Size        uint64
	ModTime     time.Time
	Content     string             // tells contents apart, 16 hexadecimal digits; "" for what has none
	First, Last *snapshot.Snapshot // that have it, by time
	Snapshots   int                // that have it
}

// Result is one path of one source, and what became of it.
type Result struct {
	Path     string
	Host     string   // of its source
	Paths    []string // of its source
	Versions []Version
}

// Search tells fn of every file and folder of the snapshots whose name holds
// the text, whatever its case and the way its accents are written, in order of
// their paths, source by source. A text with slashes must be found in the path,
// its last part at the beginning of the name. fn returns false when it has
// enough. Snapshots that the index does not hold are not looked at: see
// [Index.Update].
func (ix *Index) Search(ctx context.Context, list []*snapshot.Snapshot, text string, fn func(*Result) bool) error {
	n := newNeedle(text)
	if len(n.name) == 0 {
		return &kassett.Error{
			Op: "search", Kind: kassett.Invalid, Err: errors.New("there is no text to look for"), Hint: "give a part of a name",
		}
	}
	return ix.eachLine(list, func(l *line, a *answers) (bool, error) {
		more := true
		scans := make([]*scan, len(a.segments))
		for i, s := range a.segments {
			scans[i] = &scan{s: s, n: n}
		}
		for more {
			hit, err := nextHit(ctx, scans)
			if err != nil || hit == nil {
				return true, err
			}
			res, err := a.at(hit)
			if err != nil {
				return false, err
			}
			if res != nil {
				more = fn(res)
			}
		}
		return false, nil
	})
}

// History tells what became of the file or folder at a path, in each source that
// ever had it.
func (ix *Index) History(ctx context.Context, list []*snapshot.Snapshot, at string, fn func(*Result) bool) error {
	at = path.Clean("/" + strings.ReplaceAll(at, `\`, `/`))
	folder, name := path.Split(at)
	want := &entry{name: []byte(name)}
	if folder != "/" {
		want.folder = []byte(strings.ReplaceAll(strings.TrimSuffix(folder, "/"), "/", "\x00"))
	}
	return ix.eachLine(list, func(_ *line, a *answers) (bool, error) {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		res, err := a.at(want)
		if err != nil || res == nil {
			return true, err
		}
		return fn(res), nil
	})
}

// eachLine calls fn for the lines that have snapshots of the list, until it
// returns false.
func (ix *Index) eachLine(list []*snapshot.Snapshot, fn func(l *line, a *answers) (bool, error)) error {
	byID := make(map[kassett.ID]*snapshot.Snapshot, len(list))
	for _, sn := range list {
		byID[sn.ID] = sn
	}
	lines := slices.Clone(ix.manifest.Lines)
	slices.SortStableFunc(lines, func(a, b *line) int {
		if c := strings.Compare(a.Host, b.Host); c != 0 {
			return c
		}
		return slices.Compare(a.Paths, b.Paths)
	})
	for _, l := range lines {
		a := &answers{l: l, snapshots: make([]*snapshot.Snapshot, l.Next)}
		for _, m := range l.Snapshots {
			if sn := byID[m.ID]; sn != nil && m.Seq < l.Next {
				a.snapshots[m.Seq] = sn
			}
		}
		a.view = newView(l, func(id kassett.ID) bool { return byID[id] != nil })
		if a.alive(0, a.end) == 0 {
			continue
		}
		var err error
		if a.segments, err = ix.open(l, 0); err != nil {
			return ix.lost(err)
		}
		a.all = newMerge(a.segments)
		more, err := fn(l, a)
		if err = errors.Join(err, closeAll(a.segments)); err != nil {
			return ix.lost(err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

// lost takes note that the index is damaged, so that it is made anew.
func (ix *Index) lost(err error) error {
	if kassett.KindOf(err) != kassett.Corrupt || !isOurs(err) {
		return err
	}
	ix.drop()
	return errors.Join(err, ix.save())
}

// answers puts results together, of one line.
type answers struct {
	*view
	l         *line
	snapshots []*snapshot.Snapshot // by number; nil for those that do not count
	segments  []*segment
	all       *merge
}

// at returns the result for a name in a folder, nil when no snapshot that counts
// has it. The calls must be in order.
func (a *answers) at(want *entry) (*Result, error) {
	a.all.seek(want)
	e, err := a.all.peek()
	if err != nil || e == nil || compareEntries(e, want) != 0 {
		return nil, err
	}
	if e, err = a.all.next(); err != nil {
		return nil, err
	}
	versions := a.versions(e.events)
	if len(versions) == 0 {
		return nil, nil //nolint:nilnil // nothing that counts
	}
	return &Result{Path: pathOf(e.folder, e.name), Host: a.l.Host, Paths: a.l.Paths, Versions: versions}, nil
}

// versions turns events into versions, in order of their first snapshots. A
// folder has one version for each time it had.
func (a *answers) versions(events []event) (all []Version) {
	at := make(map[state]int)
	for i := range events {
		e := &events[i]
		to := until(events, i, a.end)
		n := a.alive(e.seq, to)
		if e.kind == 0 || n == 0 {
			continue
		}
		if e.kind == kindDir {
			e.hash = [16]byte{} // what is below has its own results
		}
		j, known := at[e.state]
		if !known {
			j = len(all)
			at[e.state] = j
			v := Version{Type: entryTypes[e.kind%byte(len(entryTypes))], Size: e.size, ModTime: e.when()}
			if e.hash != [16]byte{} {
				v.Content = fmt.Sprintf("%x", e.hash[:8])
			}
			all = append(all, v)
		}
		all[j].Snapshots += n
		for seq := a.next[e.seq]; seq < to; seq = a.next[seq+1] {
			all[j].seen(a.snapshots[seq])
		}
	}
	slices.SortStableFunc(all, func(x, y Version) int { return x.First.Time.Compare(y.First.Time) })
	return all
}

// seen widens the time in which a version was there.
func (v *Version) seen(sn *snapshot.Snapshot) {
	if v.First == nil || sn.Time.Before(v.First.Time) {
		v.First = sn
	}
	if v.Last == nil || !sn.Time.Before(v.Last.Time) {
		v.Last = sn
	}
}

// needle is what is looked for, folded.
type needle struct {
	folder []byte // what the path of the folder must end with; nil: anything
	name   []byte // what the name must hold, or begin with when folder counts
	inPath bool
}

func newNeedle(text string) *needle {
	folded := bytes.TrimRight(fold(nil, []byte(text)), "/")
	n := &needle{name: folded}
	if i := bytes.LastIndexByte(folded, '/'); i >= 0 {
		n.folder, n.name, n.inPath = folded[:i], folded[i+1:], true
	}
	return n
}

// matches reports whether an entry is looked for. buf is room for work.
func (n *needle) matches(e *entry, buf []byte) (bool, []byte) {
	name := e.folded
	if name == nil {
		buf = lower(buf[:0], e.name)
		name = buf
	}
	if !n.inPath {
		return bytes.Contains(name, n.name), buf
	}
	if !bytes.HasPrefix(name, n.name) {
		return false, buf
	}
	buf = fold(buf[:0], bytes.ReplaceAll(e.folder, []byte{separator}, []byte{'/'}))
	return bytes.HasSuffix(buf, n.folder), buf
}

// scan finds the entries of one segment that are looked for.
type scan struct {
	s      *segment
	n      *needle
	next   int // block
	hits   []*entry
	folded []byte
}

// peek returns the next hit, without events, nil at the end.
func (c *scan) peek(ctx context.Context) (*entry, error) {
	for len(c.hits) == 0 && c.next < len(c.s.blocks) {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := c.block(c.next); err != nil {
			return nil, err
		}
		c.next++
	}
	if len(c.hits) == 0 {
		return nil, nil //nolint:nilnil // the end
	}
	return c.hits[0], nil
}

func (c *scan) block(i int) error {
	last := c.n.folder[bytes.LastIndexByte(c.n.folder, '/')+1:]
	if len(c.n.name) >= 3 || len(last) >= 3 {
		f, err := c.s.filterOf(i)
		if err != nil || !f.may(c.n.name) || !f.may(last) {
			return err
		}
	}
	names, err := c.s.namesOf(i)
	if err != nil {
		return err
	}
	if c.folded = lower(c.folded[:0], names); !bytes.Contains(c.folded, c.n.name) {
		return nil // folded forms stand there too, and are in lower case
	}
	b, err := readNames(names, int(c.s.blocks[i].count))
	if err != nil {
		return err
	}
	for j := range b.entries {
		var is bool
		if is, c.folded = c.n.matches(&b.entries[j], c.folded); is {
			c.hits = append(c.hits, &b.entries[j])
		}
	}
	return nil
}

// nextHit returns the next hit of all segments, once, nil at the end.
func nextHit(ctx context.Context, scans []*scan) (*entry, error) {
	var least *entry
	for _, c := range scans {
		e, err := c.peek(ctx)
		if err != nil {
			return nil, err
		}
		if e != nil && (least == nil || compareEntries(e, least) < 0) {
			least = e
		}
	}
	for _, c := range scans {
		if len(c.hits) > 0 && compareEntries(c.hits[0], least) == 0 {
			c.hits = c.hits[1:]
		}
	}
	return least, nil
}
