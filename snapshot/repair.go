package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"kassett"
	"kassett/repo"
)

// SuffixRepaired is added to the name of a file or folder that lost content, so
// that nobody takes it for the whole one.
const SuffixRepaired = ".repaired"

// RepairOptions say how [RepairSnapshots] works.
type RepairOptions struct {
	Forget bool // remove the damaged snapshots afterwards
	DryRun bool

	Progress *kassett.Progress
	Lost     func(path string, err error) // told what is lost, and what was mended; may be nil
	Done     func(Replaced)               // told what was, or would be, written; may be nil
}

// RepairSnapshots writes snapshots whose trees or blobs are missing anew with
// what is left of them. A file that lacks blobs keeps the others, a folder whose
// tree cannot be read is empty, and the names of both get [SuffixRepaired]; the
// snapshot is tagged "repaired" and is no good snapshot any more. Sizes that are
// not those of the content are corrected. A snapshot of which nothing is left is
// only named. With o.Forget the damaged ones are removed, but for those that a
// guard keeps: these are a [kassett.Held] error at the end.
//
// Blobs count as there when the index names them, so damaged packs must have
// been repaired before. The caller has loaded the index and holds an exclusive
// lock.
func RepairSnapshots(ctx context.Context, r *repo.Repository, list []*Snapshot, o RepairOptions) error {
	guard, err := LoadGuard(ctx, r, time.Now())
	if err != nil {
		return err
	}
	if o.Lost == nil {
		o.Lost = func(string, error) {}
	}
	o.Progress.Enter("repair snapshots")
	m := &mender{r: r, lost: o.Lost}
	tr := &treeRewriter{r: r, p: o.Progress, mend: m.tree}
	if !o.DryRun {
		tr.w = r.NewWriter(ctx, repo.WriterOptions{Progress: o.Progress})
		defer tr.w.Abort()
	}
	var refused []error
	for _, s := range list {
		got, err := tr.tree(ctx, "/", s.Tree, 0)
		if err != nil {
			return fmt.Errorf("repair snapshot %s: %w", s.ID.Short(), err)
		}
		if got.gone {
			o.Lost("/", &kassett.Error{
				Op: "repair snapshot", What: s.ID.Short(), Kind: kassett.Corrupt, Err: errors.New("nothing is left of it"),
				Hint: "forget it, or copy it again from another repository",
			})
			continue
		}
		if got.id == s.Tree {
			continue
		}
		next := s.successor()
		next.Tree = got.id
		if !slices.Contains(next.Tags, TagRepaired) {
			next.Tags = append(slices.Clone(next.Tags), TagRepaired)
		}
		forget := o.Forget
		if forget {
			if err := guard.held(s); err != nil {
				refused = append(refused, err)
				forget = false
			}
		}
		if err := tr.save(ctx, s, next, forget, o.Done); err != nil {
			return err
		}
	}
	return errors.Join(refused...)
}

// mender mends trees.
type mender struct {
	r    *repo.Repository
	lost func(path string, err error)
}

// mended is a tree, or what stands for it.
type mended struct {
	*Tree
	changed bool
	gone    bool // the tree could not be read, and is empty now
}

// tree mends one tree, or says why that cannot be tried.
func (m *mender) tree(path string, t *Tree, err error) (mended, error) {
	kind := kassett.KindOf(err)
	if err != nil && kind != kassett.Corrupt && kind != kassett.NotFound {
		return mended{}, err
	}
	if t == nil {
		m.lost(path, err)
		return mended{Tree: &Tree{}, changed: true, gone: true}, nil
	}
	got := mended{Tree: &Tree{}, changed: err != nil}
	if err != nil {
		m.lost(path, err)
	}
	for _, n := range t.Nodes {
		next := m.node(child(path, n.Name), n)
		if next != nil {
			got.Nodes = append(got.Nodes, next)
		}
		got.changed = got.changed || next != n
	}
	got.sort()
	return got, nil
}

// node returns the node, another in its place, or nil.
func (m *mender) node(path string, n *Node) *Node {
	if !n.Safe() {
		m.lost(path, unsafeName(n.Name))
		return nil
	}
	switch n.Type {
	case kassett.File:
		return m.file(path, n)
	case kassett.Dir, kassett.Symlink, kassett.Device, kassett.CharDevice, kassett.Fifo, kassett.Socket:
		return n
	}
	m.lost(path, fmt.Errorf("the entry is of the unknown type %q", n.Type))
	return nil
}

// file returns a file with the blobs that are there.
func (m *mender) file(path string, n *Node) *Node {
	next := *n
	next.Content, next.Size = []kassett.ID{}, 0
	for _, id := range n.Content {
		if size, ok := m.r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id}); ok {
			next.Content = append(next.Content, id)
			next.Size += uint64(size)
		}
	}
	if missing := len(n.Content) - len(next.Content); missing > 0 {
		next.Name += SuffixRepaired
		m.lost(path, &kassett.Error{
			Op: "repair file", Kind: kassett.Corrupt,
			Err: fmt.Errorf("%d of %d blobs are gone; what is left is named %q", missing, len(n.Content), next.Name),
		})
		return &next
	}
	if next.Size != n.Size || n.Content == nil {
		what := "nothing is lost"
		if next.Size < n.Size {
			what = "its end may never have been saved"
		}
		m.lost(path, fmt.Errorf("its size was noted as %d, and is %d: corrected, %s", n.Size, next.Size, what))
		return &next
	}
	return n
}

// sort brings nodes into the order of their names and gives every node a name
// of its own.
func (t *Tree) sort() {
	byName := func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortStableFunc(t.Nodes, byName)
	taken := map[string]bool{}
	for _, n := range t.Nodes {
		taken[n.Name] = true
	}
	for i, n := range t.Nodes {
		if i == 0 || t.Nodes[i-1].Name != n.Name {
			continue
		}
		next := *n
		for k := 2; taken[next.Name]; k++ {
			next.Name = n.Name + "." + strconv.Itoa(k)
		}
		taken[next.Name] = true
		t.Nodes[i] = &next
	}
	slices.SortStableFunc(t.Nodes, byName)
}
