package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"kassett"
	"kassett/repo"
)

// folder is one folder being saved. It lives from its listing until the tree
// that describes it is stored, which is done by whoever finishes its last child.
type folder struct {
	parent *folder
	index  int        // in the parent's entries
	path   string     // in the source
	old    kassett.ID // its tree in the parent snapshot, or zero
	part   kassett.ID // its tree in the checkpoint that the backup goes on from, or zero
	same   bool       // its own metadata is as in the parent snapshot

	entries []kassett.Entry
	kids    []kid   // what became of the entries
	todo    []int32 // entries whose files must be read; the queue takes from it
	pending atomic.Int64
	changed atomic.Bool // so that the old tree does not describe it any more

	mu sync.Mutex // held to say that a kid is done, and that the folder is
}

// kid is what became of one entry.
type kid struct {
	ids   []kassett.ID // the content of a file, the one subtree of a folder
	known bool         // the parent snapshot has a file of this name
	lost  bool         // not in the tree
	done  bool         // nothing here or in its entry changes any more
}

// list lists a folder, compares it with the parent snapshot's, and queues what
// must be read. A folder that cannot be listed is named and left out.
func (w *worker) list(ctx context.Context, f *folder) error {
	entries, err := w.src.List(ctx, f.path)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f.parent == nil {
			return fmt.Errorf("list source: %w", err)
		}
		w.warn(f.path, fmt.Errorf("list folder: %w", vanished(err)))
		return w.lose(ctx, f)
	}
	f.entries = w.orderly(f, entries)
	if len(f.entries) == 0 && f.parent == nil {
		return &kassett.Error{
			Op: "backup", Kind: kassett.NotFound, Err: errors.New("the source has nothing to save"),
			Hint: "check the paths and the excludes",
		}
	}
	f.kids = make([]kid, len(f.entries))
	dirs := w.compare(ctx, f)
	w.open.add(f)
	// One more for this listing: otherwise a quick worker could finish the
	// folder before all of it is queued.
	f.pending.Store(int64(len(f.todo) + len(dirs) + 1))
	w.queue.pushDirs(dirs)
	w.queue.pushFiles(f)
	return w.done(ctx, f)
}

// orderly returns the entries that can be saved, in order, each name once, with
// the fields as the format wants them. The others are named, except sockets:
// like restic, we pass them over in silence.
func (w *worker) orderly(f *folder, entries []kassett.Entry) []kassett.Entry {
	byName := func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(entries, byName) {
		slices.SortStableFunc(entries, byName)
	}
	kept := entries[:0]
	for i := range entries {
		e := &entries[i]
		var why error
		switch n := (Node{Entry: kassett.Entry{Name: e.Name}}); {
		case e.Err != nil:
			why = vanished(e.Err)
		case !n.Safe():
			why = fmt.Errorf("%q cannot be a name", e.Name)
		case len(kept) > 0 && kept[len(kept)-1].Name == e.Name:
			why = errors.New("listed twice, saved once")
		case e.Type == kassett.Socket:
			continue
		case !savable(e.Type):
			why = fmt.Errorf("type %q cannot be saved", e.Type)
		}
		if why != nil {
			w.warn(join(f.path, e.Name), why)
			continue
		}
		e.Mode &= fs.ModePerm | fs.ModeType | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
		if e.Links == 1 || e.Type == kassett.Dir {
			// It only serves to know hard links again, and it changes when
			// a file system is mounted anew.
			e.DeviceID = 0
		}
		if len(kept) < i {
			kept = append(kept, *e)
		} else {
			kept = kept[:i+1]
		}
	}
	return kept
}

func savable(t kassett.EntryType) bool {
	switch t {
	case kassett.File, kassett.Dir, kassett.Symlink, kassett.Device, kassett.CharDevice, kassett.Fifo:
		return true
	}
	return false
}

// join joins the path of a folder and a name.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// compare goes through the entries beside the nodes of the parent snapshot,
// completes what is not a file to be read, puts the indices of those in f.todo,
// and returns the folders below, last first.
func (w *worker) compare(ctx context.Context, f *folder) (dirs []*folder) {
	old, part := w.oldNodes(ctx, f), w.partNodes(ctx, f)
	var same, sameBytes uint64
	var files, bytes int64
	for i := range f.entries {
		e := &f.entries[i]
		n, m := old.find(e.Name), part.find(e.Name)
		if n == nil || !n.sameMetadata(e) || n.Error != "" {
			f.changed.Store(true)
		}
		switch e.Type {
		case kassett.Dir:
			d := &folder{parent: f, index: i, path: join(f.path, e.Name)}
			if n != nil && n.Type == kassett.Dir {
				d.old, d.same = n.Subtree, n.sameMetadata(e)
			}
			if m != nil && m.Type == kassett.Dir {
				d.part = m.Subtree
			}
			w.complete(ctx, f, i, n)
			dirs = append(dirs, d)
		case kassett.File:
			files++
			bytes += int64(e.Size)
			k := &f.kids[i]
			k.known = n != nil && n.Type == kassett.File
			switch {
			case w.unchanged(f, e, n):
				same++
				sameBytes += e.Size
			case w.finished(e, m):
				w.countFile(k, e.Size)
				w.opt.Progress.Done(1, int64(e.Size))
				f.changed.Store(true)
				n = m
			default:
				f.todo = append(f.todo, int32(i))
				continue
			}
			k.ids, k.done = n.Content, true
			w.complete(ctx, f, i, n)
		default:
			w.complete(ctx, f, i, n)
			f.kids[i].done = true
		}
	}
	if !old.used(len(f.entries)) || len(f.todo) > 0 {
		f.changed.Store(true)
	}
	slices.Reverse(dirs)
	w.opt.Progress.Expect(files, bytes)
	w.opt.Progress.Done(int64(same), int64(sameBytes))
	w.count.filesSame.Add(same)
	w.count.bytes.Add(sameBytes)
	return dirs
}

// unchanged reports whether the content of a file is that of n, a node of the
// parent snapshot or nil.
func (w *worker) unchanged(f *folder, e *kassett.Entry, n *Node) bool {
	if !w.cutIsKnown(e.Cut) || n == nil || !w.sameFile(e, n) {
		return false
	}
	if id := w.firstMissing(n); !id.IsZero() {
		if _, indexed := w.repo.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id}); !indexed { // else a prune is about to remove it
			w.opt.notice(fmt.Sprintf("%s: unchanged, but blob %s of its content is not in the index: stored again",
				join(f.path, e.Name), id.Short()))
		}
		return false
	}
	return true
}

// sameFile reports whether n, a node of an earlier tree, has the content of a
// file, as far as its metadata tell.
func (w *worker) sameFile(e *kassett.Entry, n *Node) bool {
	return n.Type == kassett.File && n.Content != nil && n.Size == e.Size && n.ModTime.Equal(e.ModTime) &&
		(w.opt.IgnoreCtime || n.ChangeTime.Equal(e.ChangeTime)) &&
		(w.opt.IgnoreInode || n.Inode == e.Inode)
}

// firstMissing returns the first blob of a file that the repository does not
// have, or zero.
func (w *worker) firstMissing(n *Node) kassett.ID {
	for _, id := range n.Content {
		if !w.repo.Has(repo.BlobHandle{Type: repo.DataBlob, ID: id}) {
			return id
		}
	}
	return kassett.ID{}
}

// cutIsKnown is checkCut, quick for the cut of the file before.
func (w *worker) cutIsKnown(c kassett.Cut) bool {
	if !w.cutSeen || w.cut != c {
		w.cut, w.cutSeen, w.cutKnown = c, true, w.checkCut(c)
	}
	return w.cutKnown
}

// complete fills in what the listing does not tell: from the node of the parent
// snapshot, if the inode has not been changed since, else from the source.
func (w *worker) complete(ctx context.Context, f *folder, i int, n *Node) {
	e := &f.entries[i]
	if n != nil && n.Type == e.Type && n.Size == e.Size && n.Inode == e.Inode && n.ModTime.Equal(e.ModTime) &&
		!w.opt.IgnoreCtime && !e.ChangeTime.IsZero() && n.ChangeTime.Equal(e.ChangeTime) &&
		!strings.ContainsRune(n.LinkTarget, '\ufffd') { // restic before 0.16 lost such targets
		e.LinkTarget, e.Xattrs, e.Generic = n.LinkTarget, n.Xattrs, n.Generic
		return
	}
	err := w.src.Fill(ctx, join(f.path, e.Name), e)
	gone := errors.Is(err, fs.ErrNotExist)
	switch {
	case err == nil || ctx.Err() != nil:
	case gone && e.Type == kassett.Dir: // then it cannot be listed either, and is named once
	default:
		w.warn(join(f.path, e.Name), fmt.Errorf("read metadata: %w", vanished(err)))
		// A link without its target would be restored as something else.
		f.kids[i].lost = gone || e.Type == kassett.Symlink && e.LinkTarget == ""
	}
	if n != nil && !n.sameExtra(e) || f.kids[i].lost {
		f.changed.Store(true)
	}
}

// oldNodes returns the nodes of the folder's tree in the parent snapshot. When
// that cannot be read the folder is saved as if it were new.
func (w *worker) oldNodes(ctx context.Context, f *folder) *oldNodes {
	if f.old.IsZero() {
		return &oldNodes{}
	}
	b, err := w.repo.LoadBlob(ctx, repo.BlobHandle{Type: repo.TreeBlob, ID: f.old}, nil)
	if err != nil {
		if ctx.Err() == nil {
			w.opt.notice(fmt.Sprintf("%s: its tree in the parent snapshot cannot be read, all of it is read anew: %v", f.path, err))
		}
		f.old = kassett.ID{}
		return &oldNodes{}
	}
	return &oldNodes{r: newNodeReader(b), broken: func(err error) {
		w.opt.notice(fmt.Sprintf("%s: its tree %s in the parent snapshot is damaged, the rest of it is read anew: %v", f.path, f.old.Short(), err))
	}}
}

// partNodes returns the nodes of the folder's tree in the checkpoint, as far as
// it can be read.
func (w *worker) partNodes(ctx context.Context, f *folder) *oldNodes {
	if f.part.IsZero() {
		return &oldNodes{}
	}
	b, err := w.repo.LoadBlob(ctx, repo.BlobHandle{Type: repo.TreeBlob, ID: f.part}, nil)
	if err != nil {
		return &oldNodes{}
	}
	return &oldNodes{r: newNodeReader(b), broken: func(error) {}}
}

// oldNodes finds the nodes of a tree by name, for names that come in order.
type oldNodes struct {
	r      *nodeReader // nil when there are no more
	broken func(error)
	n      Node
	have   bool // n is read and not yet passed
	count  int  // nodes read
	odd    bool // the tree has nodes that were not asked for, or is damaged
}

// find returns the node of that name, valid until the next call, or nil.
func (o *oldNodes) find(name string) *Node {
	for o.r != nil {
		if !o.have {
			last := o.n.Name
			ok, err := o.r.next(&o.n)
			if err == nil && ok && o.count > 0 && o.n.Name <= last {
				err = ErrOrder
			}
			if err != nil {
				o.broken(err)
				o.odd = true
			}
			if err != nil || !ok {
				o.r = nil
				return nil
			}
			o.have = true
			o.count++
		}
		switch strings.Compare(o.n.Name, name) {
		case 0:
			o.have = false
			return &o.n
		case 1:
			return nil
		}
		o.have, o.odd = false, true
	}
	return nil
}

// used reports whether the tree had exactly the n nodes that were found.
func (o *oldNodes) used(n int) bool {
	if o.r == nil || o.odd || o.have || o.count != n {
		return false
	}
	more, err := o.r.next(&o.n)
	return err == nil && !more
}

// lose leaves the folder out of its parent.
func (w *worker) lose(ctx context.Context, f *folder) error {
	f.parent.kids[f.index].lost = true
	f.parent.changed.Store(true)
	return w.done(ctx, f.parent)
}

// done counts one child of f as done. After the last one the tree is stored,
// and so one child of f's parent is done, and so on.
func (w *worker) done(ctx context.Context, f *folder) error {
	for f.pending.Add(-1) == 0 {
		id, err := w.finish(ctx, f)
		if err != nil {
			return err
		}
		if f.parent == nil {
			w.root = id
			w.queue.close()
			return nil
		}
		f.parent.kids[f.index].ids = []kassett.ID{id}
		f.parent.mark(f.index)
		if id != f.old {
			f.parent.changed.Store(true)
		}
		f = f.parent
	}
	return nil
}

// finish stores the tree of a folder whose children are done. When nothing in
// it has changed the old tree describes it, and nothing is encoded; unless a
// prune is about to remove that tree.
func (w *worker) finish(ctx context.Context, f *folder) (kassett.ID, error) {
	id := f.old
	if f.changed.Load() || id.IsZero() || !w.repo.Has(repo.BlobHandle{Type: repo.TreeBlob, ID: id}) {
		var err error
		if id, err = w.store(ctx, f); err != nil {
			return kassett.ID{}, err
		}
	}
	if f.parent != nil {
		switch {
		case f.old.IsZero():
			w.count.dirsNew.Add(1)
		case f.same && id == f.old:
			w.count.dirsSame.Add(1)
		default:
			w.count.dirsChanged.Add(1)
		}
	}
	w.open.remove(f)
	f.mu.Lock()
	f.entries, f.kids = nil, nil
	f.mu.Unlock()
	return id, nil
}

// store encodes the tree of a folder and saves it.
func (w *worker) store(ctx context.Context, f *folder) (kassett.ID, error) {
	const usual = 300 // bytes of a node, so that a large folder's buffer is not made again and again
	w.tree.Grow(usual * len(f.entries))
	var n Node
	for i := range f.entries {
		k := &f.kids[i]
		if k.lost {
			continue
		}
		n.Entry = f.entries[i]
		n.Content, n.Subtree = nil, kassett.ID{}
		switch n.Type {
		case kassett.File:
			n.Content = k.ids
		case kassett.Dir:
			n.Subtree = k.ids[0]
		}
		if err := w.tree.Add(&n); err != nil {
			return kassett.ID{}, fmt.Errorf("describe folder %s: %w", f.path, err)
		}
	}
	b := w.tree.Finish()
	s, err := w.save.Save(ctx, repo.TreeBlob, b)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("save tree of %s: %w", f.path, err)
	}
	w.count.saved(repo.TreeBlob, s, len(b))
	if len(b) > kassett.MaxBlob {
		w.tree = TreeBuilder{} // keep no memory for the rare giant
	}
	return s.ID, nil
}
