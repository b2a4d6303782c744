package mount

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// loadTime is how long a load may take: whoever reads then gets an error instead
// of waiting for a storage that does not answer.
const loadTime = 2 * time.Minute

// askTime is how long the storage may take to say that it is there.
const askTime = 10 * time.Second

// Bounds of what is foreign.
const (
	maxTree = 1 << 30  // bytes of a folder: some millions of entries
	maxBlob = 64 << 20 // bytes of a blob: many times what any writer of the format makes
	maxName = 1024     // bytes of a name: what FUSE takes
)

// loadTree loads the tree of a folder, and returns what it takes in memory.
func (v *View) loadTree(f *folder) (*listing, int64, error) {
	ctx, cancel := context.WithTimeout(v.ctx, loadTime)
	defer cancel()
	h := repo.BlobHandle{Type: repo.TreeBlob, ID: f.tree}
	if size, ok := v.r.BlobSize(h); ok && size > maxTree {
		err := &kassett.Error{Op: "read folder", Kind: kassett.Corrupt, Err: fmt.Errorf("its tree has %d bytes", size)}
		v.fault(f.where(""), f.tree, err)
		return nil, 0, err
	}
	t, err := snapshot.LoadTree(ctx, v.r, f.tree)
	if err != nil && t == nil && v.lookAgain(ctx) {
		t, err = snapshot.LoadTree(ctx, v.r, f.tree)
	}
	if t == nil {
		v.fault(f.where(""), f.tree, err)
		return nil, 0, err
	}
	if err != nil { // out of order: all that has a name is shown
		v.fault(f.where(""), f.tree, err)
		slices.SortStableFunc(t.Nodes, byName)
	}
	v.faults.fine(v.o.Notice)
	l := &listing{nodes: t.Nodes}
	left := len(l.nodes)
	l.nodes = slices.DeleteFunc(l.nodes, func(n *snapshot.Node) bool { return !showable(n) })
	if left -= len(l.nodes); left > 0 {
		v.fault(f.where(""), f.tree, &kassett.Error{
			Op: "list folder", Kind: kassett.Incomplete,
			Err: fmt.Errorf("%d of its entries are not shown: their names or types cannot be those of files", left),
		})
	}
	l.nodes = slices.CompactFunc(l.nodes, func(a, b *snapshot.Node) bool { return a.Name == b.Name })
	return l, weigh(l), nil
}

func byName(a, b *snapshot.Node) int { return cmp.Compare(a.Name, b.Name) }

// showable reports whether a node can be an entry of a folder of this system.
func showable(n *snapshot.Node) bool {
	switch n.Type {
	case kassett.File, kassett.Dir, kassett.Symlink, kassett.Device, kassett.CharDevice, kassett.Fifo, kassett.Socket:
		return n.Safe() && len(n.Name) <= maxName
	}
	return false
}

// weigh estimates the memory that a listing takes.
func weigh(l *listing) int64 {
	const node = 560 // the struct and what points to it
	size := int64(node * len(l.nodes))
	for _, n := range l.nodes {
		size += int64(len(n.Name) + len(n.LinkTarget) + len(n.Error) + len(kassett.ID{})*len(n.Content))
		for _, x := range n.Xattrs {
			size += int64(64 + len(x.Name) + len(x.Value))
		}
		for k, raw := range n.Generic {
			size += int64(64 + len(k) + len(raw))
		}
	}
	return size
}

// again is how often at most the index is loaded anew because something was not
// where it should be.
const again = 30 * time.Second

// lookAgain loads the index anew, after a read failed: a prune beside a reader
// without a lock moves what it reads, and a repair may have put back what was
// lost. It reports whether it did.
func (v *View) lookAgain(ctx context.Context) bool {
	v.indexMu.Lock()
	defer v.indexMu.Unlock()
	if ctx.Err() != nil || time.Since(v.index) < again {
		return false
	}
	v.index = time.Now()
	err := v.r.LoadIndex(ctx, nil) // what is damaged was named before
	return err == nil || kassett.KindOf(err) == kassett.Corrupt
}
