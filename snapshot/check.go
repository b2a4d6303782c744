package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"kassett"
	"kassett/repo"
)

// CheckOptions chooses what [Check] looks at.
type CheckOptions struct {
	// Snapshots limits the check; nil checks all there are.
	Snapshots []*Snapshot
	Progress  *kassett.Progress
}

// Check walks every tree of the snapshots once and tells report, one call at a
// time, what is missing, damaged or makes no sense, by snapshot and path. It
// returns the blobs that are in use, as far as they could be found.
//
// The caller holds a lock and has loaded the index. When there was damage or
// something was missing the error is of the kind [kassett.Corrupt].
func Check(ctx context.Context, r *repo.Repository, o CheckOptions, report func(repo.Finding)) (*repo.BlobSet, error) {
	o.Progress.Enter("check trees")
	c := &treeCheck{r: r, report: report, used: r.NewBlobSet(), list: o.Snapshots, p: o.Progress}
	if c.list == nil {
		list, err := List(ctx, r, Filter{})
		if err != nil {
			if list == nil {
				return nil, err
			}
			c.tell(repo.Damage, "snapshots", err, "the others are checked; what only this one needed may be found by recover")
		}
		c.list = list
	}
	roots := make([]kassett.ID, len(c.list))
	for i, s := range c.list {
		roots[i] = s.Tree
		if s.Tree.IsZero() {
			c.tell(repo.Damage, "snapshot "+s.ID.Short(), errors.New("it names no tree"), hintTrees)
		}
	}
	s := &stream{r: r, seen: c.used, p: o.Progress, visit: c.tree}
	if err := s.run(ctx, roots); err != nil {
		return nil, err
	}
	if err := c.used.Err(); err != nil {
		return nil, err
	}
	if c.bad > 0 {
		return c.used, &kassett.Error{
			Op: "check trees", Kind: kassett.Corrupt, Err: fmt.Errorf("%d faults were named", c.bad), Hint: hintTrees,
		}
	}
	return c.used, nil
}

// treeCheck is one check.
type treeCheck struct {
	r    *repo.Repository
	used *repo.BlobSet
	list []*Snapshot
	p    *kassett.Progress

	mu     sync.Mutex
	report func(repo.Finding)
	bad    int
}

func (c *treeCheck) tell(kind repo.FindingKind, what string, err error, hint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if kind == repo.Damage || kind == repo.Missing {
		c.bad++
		c.p.Problem()
	}
	c.report(repo.Finding{Kind: kind, What: what, Err: err, Hint: hint})
}

// at names a place for people: the first snapshot it was found in.
func (c *treeCheck) at(at treeAt, path string) string {
	return fmt.Sprintf("snapshot %s %q", c.list[at.root].ID.Short(), path)
}

// tree checks one tree. It is called by several goroutines.
func (c *treeCheck) tree(at treeAt, t *Tree, err error) error {
	if err != nil {
		kind := repo.Damage
		switch kassett.KindOf(err) {
		case kassett.NotFound:
			kind = repo.Missing
		case kassett.Corrupt:
		default:
			return fmt.Errorf("check %s: %w", c.at(at, at.path), err) // not for lack of trying
		}
		c.tell(kind, c.at(at, at.path), err, hintTrees)
	}
	if t == nil {
		return nil
	}
	for i, n := range t.Nodes {
		path := child(at.path, n.Name)
		if !n.Safe() {
			c.tell(repo.Damage, c.at(at, path), errors.New("the name is not that of an entry of one folder"),
				"it is never restored; find out who could write to the repository")
		}
		if i > 0 && n.Name <= t.Nodes[i-1].Name && err == nil {
			c.tell(repo.Damage, c.at(at, path), ErrOrder, hintTrees)
		}
		c.node(at, path, n)
	}
	return nil
}

// node checks what a node says of itself against its type and the index.
func (c *treeCheck) node(at treeAt, path string, n *Node) {
	damage := func(format string, args ...any) {
		c.tell(repo.Damage, c.at(at, path), fmt.Errorf(format, args...), hintTrees)
	}
	switch n.Type {
	case kassett.File:
		if n.Content == nil {
			damage("a file without a list of its content")
		}
		c.content(at, path, n)
	case kassett.Dir:
		if n.Subtree.IsZero() {
			damage("a folder that names no tree")
		}
	case kassett.Symlink, kassett.Device, kassett.CharDevice, kassett.Fifo, kassett.Socket:
	default:
		damage("an entry of the unknown type %q", n.Type)
	}
	if n.Type != kassett.File && len(n.Content) > 0 {
		damage("a %s with content", n.Type)
	}
	if n.Type != kassett.Dir && !n.Subtree.IsZero() {
		damage("a %s that names a tree", n.Type)
	}
}

// content checks that the blobs of a file are in the index, and that they make
// up its size.
func (c *treeCheck) content(at treeAt, path string, n *Node) {
	sum, known := uint64(0), true
	for i, id := range n.Content {
		h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
		size, ok := c.r.BlobSize(h)
		switch {
		case id.IsZero():
			c.tell(repo.Damage, c.at(at, path), fmt.Errorf("blob %d of the file has no ID", i), hintTrees)
		case !ok:
			c.tell(repo.Missing, c.at(at, path), missingBlob(h), hintTrees)
		}
		known = known && ok
		sum += uint64(size)
		c.used.Add(h)
	}
	switch {
	case known && sum < n.Size:
		c.tell(repo.Damage, c.at(at, path), fmt.Errorf("the file's size was noted as %d, but its blobs have only %d bytes", n.Size, sum),
			"its end may be missing; compare it with another snapshot or copy; repair snapshots corrects the size")
	case known && sum > n.Size:
		// Old versions of restic wrote such nodes for files that grew while
		// they were read; nothing that was saved is lost.
		c.tell(repo.Hint, c.at(at, path), fmt.Errorf("the file's size was noted as %d, but its blobs have %d bytes", n.Size, sum),
			"all saved bytes are restored; repair snapshots corrects the size")
	}
}
