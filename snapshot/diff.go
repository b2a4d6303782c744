package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"kassett"
	"kassett/repo"
)

// Change is one difference between two trees.
type Change struct {
	Path string // from "/" on; a folder's ends in a slash
	// Modifier is restic's: "+" added, "-" removed, "T" another type, "M" other
	// content, "M?" other content though all metadata is equal (bits may have
	// rotted), "U" other metadata.
	Modifier string
}

// DiffCount counts one side of a difference.
type DiffCount struct {
	Files     int    `json:"files"`
	Dirs      int    `json:"dirs"`
	Others    int    `json:"others"`
	DataBlobs int    `json:"data_blobs"`
	TreeBlobs int    `json:"tree_blobs"`
	Bytes     uint64 `json:"bytes"` // plaintext of the blobs
}

// DiffStats sums up a difference.
type DiffStats struct {
	ChangedFiles int       `json:"changed_files"`
	Added        DiffCount `json:"added"`
	Removed      DiffCount `json:"removed"`
}

// DiffOptions say what counts as a difference.
type DiffOptions struct {
	Metadata bool // also metadata alone
}

// Diff calls fn for what differs between the trees from and to, in order of
// path. Blobs count as added or removed when the other side does not use them
// anywhere; for that, folders that both have are opened too, but each once.
// Folders that cannot be read are named in the error, as by [Walk]. The caller
// has loaded the index.
func Diff(ctx context.Context, r *repo.Repository, from, to kassett.ID, o DiffOptions, fn func(Change) error) (DiffStats, error) { //nolint:revive // two sides of one thing
	d := &differ{r: r, o: o, fn: fn}
	for i := range d.used {
		d.used[i] = r.NewBlobSet()
		d.walks[i] = newWalker(ctx, r)
		defer d.walks[i].close()
	}
	if from != to {
		d.addBlob(leftSide, repo.TreeBlob, from)
		d.addBlob(rightSide, repo.TreeBlob, to)
		if err := d.trees(ctx, "/", from, to, 0); err != nil {
			return d.stats, err
		}
		if err := d.countCommon(ctx); err != nil {
			return d.stats, err
		}
		d.countBlobs()
	}
	return d.stats, d.bad.err("compare folders", "", hintTrees)
}

// The sides of a difference.
const (
	leftSide = iota
	rightSide
)

// differ is one comparison.
type differ struct {
	r      *repo.Repository
	o      DiffOptions
	fn     func(Change) error
	walks  [2]*walker
	used   [2]*repo.BlobSet // by each side, in the folders that differ
	list   [2][]repo.BlobHandle
	common []kassett.ID // trees that both sides have in the same place
	stats  DiffStats
	bad    faults
}

func (d *differ) addBlob(side int, t repo.BlobType, id kassett.ID) {
	h := repo.BlobHandle{Type: t, ID: id}
	if d.used[side].Add(h) {
		d.list[side] = append(d.list[side], h)
	}
}

func (d *differ) addBlobs(side int, n *Node) {
	for _, id := range n.Content {
		d.addBlob(side, repo.DataBlob, id)
	}
	if n.Type == kassett.Dir {
		d.addBlob(side, repo.TreeBlob, n.Subtree)
	}
}

// countBlobs sums up the blobs that one side has alone.
func (d *differ) countBlobs() {
	for side, c := range []*DiffCount{&d.stats.Removed, &d.stats.Added} {
		for _, h := range d.list[side] {
			if d.used[1-side].Has(h) {
				continue
			}
			if h.Type == repo.TreeBlob {
				c.TreeBlobs++
			} else {
				c.DataBlobs++
			}
			size, ok := d.r.BlobSize(h)
			if !ok {
				d.bad.add(missingBlob(h))
			}
			c.Bytes += uint64(size)
		}
	}
}

// trees compares two folders.
func (d *differ) trees(ctx context.Context, path string, from, to kassett.ID, depth int) error {
	a, errA := LoadTree(ctx, d.r, from)
	b, errB := LoadTree(ctx, d.r, to)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := lostTree(errors.Join(errA, errB))
	if err == nil && depth > maxDepth {
		err = tooDeep()
	}
	if err != nil {
		d.bad.add(fmt.Errorf("%q: %w", path, err))
		return nil
	}
	i, j := 0, 0
	for i < len(a.Nodes) || j < len(b.Nodes) {
		var err error
		switch {
		case j == len(b.Nodes) || i < len(a.Nodes) && a.Nodes[i].Name < b.Nodes[j].Name:
			err = d.oneSided(leftSide, child(path, a.Nodes[i].Name), a.Nodes[i])
			i++
		case i == len(a.Nodes) || b.Nodes[j].Name < a.Nodes[i].Name:
			err = d.oneSided(rightSide, child(path, b.Nodes[j].Name), b.Nodes[j])
			j++
		default:
			err = d.both(ctx, child(path, b.Nodes[j].Name), a.Nodes[i], b.Nodes[j], depth)
			i, j = i+1, j+1
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// both compares two nodes of one name.
func (d *differ) both(ctx context.Context, path string, a, b *Node, depth int) error {
	d.addBlobs(leftSide, a)
	d.addBlobs(rightSide, b)
	if mod := d.modifier(a, b); mod != "" {
		if err := d.tell(path, b, mod); err != nil {
			return err
		}
	}
	switch {
	case a.Type == kassett.Dir && b.Type == kassett.Dir:
		if a.Subtree != b.Subtree {
			return d.trees(ctx, path, a.Subtree, b.Subtree, depth+1)
		}
		d.common = append(d.common, a.Subtree)
	case a.Type == kassett.Dir:
		return d.below(leftSide, path, a)
	case b.Type == kassett.Dir:
		return d.below(rightSide, path, b)
	}
	return nil
}

func (d *differ) modifier(a, b *Node) string {
	mod := ""
	if a.Type != b.Type {
		mod = "T"
	}
	if a.Type == kassett.File && b.Type == kassett.File && !slices.Equal(a.Content, b.Content) {
		d.stats.ChangedFiles++
		mod += "M"
		alike := *a
		alike.Content = b.Content
		if alike.Equal(b) {
			mod += "?"
		}
	} else if d.o.Metadata && !a.Equal(b) {
		mod += "U"
	}
	return mod
}

// countCommon adds the blobs of the folders that both sides have to both of
// them: what differs elsewhere may be part of it.
func (d *differ) countCommon(ctx context.Context) error {
	if len(d.list[leftSide])+len(d.list[rightSide]) == 0 {
		return nil
	}
	s := &stream{r: d.r, seen: d.r.NewBlobSet(), visit: func(at treeAt, t *Tree, err error) error {
		if err != nil {
			d.bad.add(fmt.Errorf("%q: %w", at.path, lostTree(err)))
			return nil
		}
		for side := range d.used {
			d.used[side].Add(repo.BlobHandle{Type: repo.TreeBlob, ID: at.id})
			addContent(d.used[side], t)
		}
		return nil
	}}
	return s.run(ctx, d.common)
}

// oneSided tells of a node that only one side has, and of all below it.
func (d *differ) oneSided(side int, path string, n *Node) error {
	if err := d.tellOne(side, path, n); err != nil || n.Type != kassett.Dir {
		return err
	}
	return d.below(side, path, n)
}

// below tells of what is in a folder that only one side has.
func (d *differ) below(side int, path string, n *Node) error {
	return d.walks[side].walk(n.Subtree, path, func(path string, n *Node, err error) error {
		if err != nil {
			d.bad.add(fmt.Errorf("%q: %w", path, err))
			return nil
		}
		return d.tellOne(side, path, n)
	})
}

func (d *differ) tellOne(side int, path string, n *Node) error {
	d.addBlobs(side, n)
	c, mod := &d.stats.Removed, "-"
	if side == rightSide {
		c, mod = &d.stats.Added, "+"
	}
	switch n.Type {
	case kassett.File:
		c.Files++
	case kassett.Dir:
		c.Dirs++
	default:
		c.Others++
	}
	return d.tell(path, n, mod)
}

func (d *differ) tell(path string, n *Node, mod string) error {
	if n.Type == kassett.Dir {
		path += "/"
	}
	return d.fn(Change{Path: path, Modifier: mod})
}
