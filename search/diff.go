package search

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"kassett"
	"kassett/snapshot"
)

// Bounds of what is indexed of one snapshot, against trees that are made to be
// endless: a tree may hold one below it many times.
const (
	maxEntries = 1 << 30
	maxFaults  = 20 // named; the others are counted
)

// indexer compares one snapshot with what the index knows of its line, and
// writes what changed. Both are walked in the same order, once.
type indexer struct {
	ix    *Index
	seq   uint32
	old   *merge
	out   *segmentWriter
	slots chan struct{} // one for each tree that is loaded ahead
	ahead sync.WaitGroup
	bad   []entry // folders that could not be read
	odd   int     // names that cannot be indexed
}

// index returns the segments that a snapshot adds to its line.
func (ix *Index) index(ctx context.Context, l *line, sn *snapshot.Snapshot) (made []segmentRef, err error) {
	segments, err := ix.open(l, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeAll(segments)) }()
	x := &indexer{ix: ix, seq: l.Next, old: newMerge(segments), slots: make(chan struct{}, max(2, ix.r.Connections()))}
	if x.out, err = createSegment(ix.dir, ix.key); err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	defer x.ahead.Wait()
	defer cancel()
	tree, err := snapshot.LoadTree(inner, ix.r, sn.Tree)
	if err != nil {
		err = x.unreadable(ctx, nil, nil, err)
	} else {
		err = x.folder(inner, nil, tree)
	}
	if err != nil {
		return nil, errors.Join(err, x.out.abort())
	}
	if made, err = keep(made, x.out); err != nil {
		return nil, err
	}
	if made, err = x.corrections(made); err != nil {
		return nil, err
	}
	if x.odd > 0 {
		ix.warn(fmt.Errorf("snapshot %s: %d names are too long or no names, and cannot be searched for", sn.ID.Short(), x.odd))
	}
	return made, nil
}

// keep finishes a segment and appends it to the list.
func keep(made []segmentRef, w *segmentWriter) ([]segmentRef, error) {
	count := w.count
	name, err := w.finish()
	if err != nil || name == "" {
		return made, err
	}
	return append(made, segmentRef{name, count}), nil
}

// corrections writes, after the segment of a snapshot, that the folders which
// could not be read are to be read again whatever their tree is then.
func (x *indexer) corrections(made []segmentRef) ([]segmentRef, error) {
	if len(x.bad) == 0 {
		return made, nil
	}
	slices.SortFunc(x.bad, func(a, b entry) int { return compareEntries(&a, &b) })
	w, err := createSegment(x.ix.dir, x.ix.key)
	if err != nil {
		return nil, err
	}
	for i := range x.bad {
		if err := w.add(&x.bad[i]); err != nil {
			return nil, errors.Join(err, w.abort())
		}
	}
	return keep(made, w)
}

// below returns the key of a folder in a folder.
func below(folder, name []byte) []byte {
	if len(folder) == 0 {
		// The root's own key is empty, and that of a folder in it begins with
		// the separator, so that no two folders have the same.
		return append([]byte{separator}, name...)
	}
	return append(append(bytes.Clone(folder), separator), name...)
}

// pathOf returns the path of a name in a folder, from "/" on.
func pathOf(folder, name []byte) string {
	return strings.ReplaceAll(string(folder), "\x00", "/") + "/" + string(name)
}

// subfolder is a folder below the one at work, in which something changed.
type subfolder struct {
	name []byte
	node *snapshot.Node // nil when it is gone
	load *loading
}

// folder compares one folder.
func (x *indexer) folder(ctx context.Context, key []byte, t *snapshot.Tree) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	x.ix.o.Progress.Done(int64(len(t.Nodes)), 0)
	was, err := x.known(key)
	if err != nil {
		return err
	}
	var subs []*subfolder
	put := func(name []byte, now state) error {
		if x.out.count >= maxEntries {
			return &kassett.Error{
				Op: "index snapshot", Kind: kassett.Corrupt, Err: fmt.Errorf("it has more than %d names", maxEntries),
				Hint: "it may be made by a hostile writer; look at it with kassett ls",
			}
		}
		return x.out.add(&entry{folder: key, name: name, folded: foldedName(name), events: []event{{x.seq, now}}})
	}
	nodes := t.Nodes
	for len(nodes)+len(was) > 0 {
		var n *snapshot.Node
		var o *knownName
		if len(nodes) > 0 && (len(was) == 0 || nodes[0].Name <= string(was[0].name)) {
			n, nodes = nodes[0], nodes[1:]
			if !n.Safe() || len(n.Name) > maxComponent || len(key)+len(n.Name) >= maxFolder {
				x.odd++
				continue
			}
		}
		if len(was) > 0 && (n == nil || n.Name == string(was[0].name)) {
			o, was = &was[0], was[1:]
		}
		var name []byte
		now := stateOf(n)
		if n != nil {
			name = []byte(n.Name)
		} else {
			name = o.name
		}
		if o != nil && o.state == now {
			continue
		}
		if err := put(name, now); err != nil {
			return err
		}
		switch {
		case now.kind == kindDir && o != nil && o.kind == kindDir && o.hash == now.hash:
		case now.kind == kindDir:
			subs = append(subs, &subfolder{name: name, node: n})
		case o != nil && o.kind == kindDir:
			subs = append(subs, &subfolder{name: name})
		}
	}
	return x.subfolders(ctx, key, subs)
}

// subfolders compares the folders in a folder that are not as they were.
func (x *indexer) subfolders(ctx context.Context, key []byte, subs []*subfolder) error {
	const window = 4
	begun := 0
	for i, s := range subs {
		for ; begun < min(i+window, len(subs)); begun++ {
			if n := subs[begun].node; n != nil {
				subs[begun].load = x.begin(ctx, n.Subtree)
			}
		}
		at := below(key, s.name)
		if s.node == nil {
			if err := x.remove(ctx, at); err != nil {
				return err
			}
			continue
		}
		t, err := x.wait(ctx, s)
		if err != nil {
			err = x.unreadable(ctx, key, s, err)
		} else {
			err = x.folder(ctx, at, t)
		}
		if err != nil {
			return err
		}
		s.node, s.load = nil, nil
	}
	return nil
}

// errUnread is that not even the root of a snapshot can be read.
var errUnread = errors.New("its root folder cannot be read")

// unreadable passes over a folder that cannot be read, unless nothing can.
func (x *indexer) unreadable(ctx context.Context, key []byte, s *subfolder, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if k := kassett.KindOf(err); k == kassett.Offline || k == kassett.Interrupted {
		return err
	}
	if s == nil {
		return fmt.Errorf("%w: %w", errUnread, err)
	}
	now := stateOf(s.node)
	now.hash = [16]byte{}
	x.bad = append(x.bad, entry{folder: bytes.Clone(key), name: s.name, folded: foldedName(s.name), events: []event{{x.seq, now}}})
	if len(x.bad) <= maxFaults {
		x.ix.warn(fmt.Errorf("%q cannot be searched: %w", pathOf(key, s.name), err))
	}
	return nil
}

// knownName is what the index knows of a name.
type knownName struct {
	name []byte
	state
}

// known returns what is in a folder, as the last snapshot had it.
func (x *indexer) known(key []byte) (all []knownName, err error) {
	x.old.seek(&entry{folder: key})
	for {
		e, err := x.old.peek()
		if err != nil || e == nil || !bytes.Equal(e.folder, key) {
			return all, err
		}
		if e, err = x.old.next(); err != nil {
			return nil, err
		}
		if last := e.events[len(e.events)-1]; last.kind != 0 {
			all = append(all, knownName{e.name, last.state})
		}
	}
}

// remove notes that all below a folder is gone.
func (x *indexer) remove(ctx context.Context, key []byte) error {
	x.old.seek(&entry{folder: key})
	under := append(bytes.Clone(key), separator)
	for {
		e, err := x.old.peek()
		if err != nil || e == nil || !bytes.Equal(e.folder, key) && !bytes.HasPrefix(e.folder, under) {
			return err
		}
		if e, err = x.old.next(); err != nil {
			return err
		}
		if e.events[len(e.events)-1].kind == 0 {
			continue
		}
		if err := x.out.add(&entry{folder: e.folder, name: e.name, folded: e.folded, events: []event{{seq: x.seq}}}); err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
}

// loading is a tree on its way.
type loading struct {
	done chan struct{} // nil if not begun
	tree *snapshot.Tree
	err  error
}

// begin starts to load a tree if a slot is free.
func (x *indexer) begin(ctx context.Context, id kassett.ID) *loading {
	l := &loading{}
	select {
	case x.slots <- struct{}{}:
	default:
		return l
	}
	l.done = make(chan struct{})
	x.ahead.Go(func() {
		l.tree, l.err = snapshot.LoadTree(ctx, x.ix.r, id)
		<-x.slots
		close(l.done)
	})
	return l
}

// wait returns the tree of a subfolder, and loads it now if that was not begun.
func (x *indexer) wait(ctx context.Context, s *subfolder) (*snapshot.Tree, error) {
	if s.load == nil || s.load.done == nil {
		return snapshot.LoadTree(ctx, x.ix.r, s.node.Subtree)
	}
	<-s.load.done
	return s.load.tree, s.load.err
}

// stateOf returns what a version of a node is told by; of nil, that it is not
// there.
func stateOf(n *snapshot.Node) (s state) {
	if n == nil {
		return s
	}
	for kind, t := range entryTypes {
		if t == n.Type && kind > 0 {
			s.kind = byte(kind) //nolint:gosec // an index of entryTypes
		}
	}
	s.time = nanoseconds(n.ModTime)
	switch n.Type {
	case kassett.Dir:
		copy(s.hash[:], n.Subtree[:])
	case kassett.File:
		s.size = n.Size
		copy(s.hash[:8], contentHash(n.Content))
	case kassett.Symlink:
		h := kassett.Hash([]byte(n.LinkTarget))
		copy(s.hash[:8], h[:])
	}
	if s.kind == 0 {
		s.kind = byte(len(entryTypes)) - 1 // of a type that is not known yet
	}
	return s
}

// nanoseconds since 1970, within what a number holds.
func nanoseconds(t time.Time) int64 {
	switch y := t.Year(); {
	case y < 1679:
		return math.MinInt64 / 2
	case y > 2261:
		return math.MaxInt64 / 2
	}
	return t.UnixNano()
}

// contentHash tells contents apart: a piece of the hash of the list of blobs.
func contentHash(content []kassett.ID) []byte {
	if len(content) == 1 {
		return content[0][:]
	}
	h := sha256.New()
	for i := range content {
		_, _ = h.Write(content[i][:]) // never fails
	}
	return h.Sum(nil)
}
