package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kassett"
	"kassett/repo"
)

// TagRewritten marks a snapshot that was written anew beside the old one. It is
// restic's.
const TagRewritten = "rewrite"

// RewriteOptions say what [Rewrite] changes.
type RewriteOptions struct {
	Select  Select    // what stays; nil keeps everything
	Host    string    // new host; "" keeps the old
	Time    time.Time // new time; zero keeps the old
	Summary bool      // count files and bytes where the snapshot has no summary
	Forget  bool      // remove the old snapshots; otherwise the new ones are tagged "rewrite"
	DryRun  bool

	Progress *kassett.Progress
	Removed  func(path string) // told what is left out; may be nil
	Done     func(Replaced)    // told what was, or would be, written; may be nil
}

// Rewrite writes the snapshots anew without what o.Select does not select. All
// that is untouched stays as it is, byte for byte. A snapshot that would be left
// empty is an [kassett.Invalid] error. With o.Forget, snapshots that a floor or
// a hold keeps are refused with a [kassett.Held] error and left as they are; the
// others are rewritten all the same. The caller has loaded the index and holds a
// lock, with o.Forget an exclusive one.
func Rewrite(ctx context.Context, r *repo.Repository, list []*Snapshot, o RewriteOptions) error {
	if o.Select == nil && o.Host == "" && o.Time.IsZero() && !o.Summary {
		return &kassett.Error{
			Op: "rewrite snapshots", Kind: kassett.Invalid, Err: errors.New("nothing to change"),
			Hint: "say what to leave out or keep, or give a new host or time",
		}
	}
	guard, err := LoadGuard(ctx, r, time.Now())
	if err != nil {
		return err
	}
	o.Progress.Enter("rewrite")
	tr := &treeRewriter{r: r, p: o.Progress, byPath: true}
	if o.Select != nil {
		tr.keep = func(path string, n *Node) (bool, bool) {
			selected, below := o.Select(path, n)
			if o.Removed != nil && !selected && (n.Type != kassett.Dir || !below) {
				o.Removed(path)
			}
			return selected, below
		}
	}
	if !o.DryRun {
		tr.w = r.NewWriter(ctx, repo.WriterOptions{Progress: o.Progress})
		defer tr.w.Abort()
	}
	var refused []error
	for _, s := range list {
		err := rewriteOne(ctx, tr, guard, s, &o)
		if err != nil && kassett.KindOf(err) != kassett.Held && kassett.KindOf(err) != kassett.Invalid {
			return err
		}
		if err != nil {
			refused = append(refused, err)
		}
	}
	return errors.Join(refused...)
}

func rewriteOne(ctx context.Context, tr *treeRewriter, guard *Guard, s *Snapshot, o *RewriteOptions) error {
	if o.Forget {
		if err := guard.held(s); err != nil {
			return err
		}
	}
	next := s.successor()
	if o.Select != nil || o.Summary {
		got, err := tr.tree(ctx, "/", s.Tree, 0)
		if err != nil {
			return fmt.Errorf("rewrite snapshot %s: %w", s.ID.Short(), err)
		}
		if got.nodes == 0 {
			return &kassett.Error{
				Op: "rewrite snapshot", What: s.ID.Short(), Kind: kassett.Invalid, Err: errors.New("nothing would be left of it"),
				Hint: "leave less out, or forget the snapshot",
			}
		}
		next.Tree = got.id
		if o.Summary || s.Summary != nil && got.id != s.Tree {
			sum := Summary{}
			if s.Summary != nil {
				sum = *s.Summary
			}
			sum.TotalFilesProcessed, sum.TotalBytesProcessed = got.files, got.bytes
			if s.Summary == nil || *s.Summary != sum {
				next.Summary = &sum
			}
		}
	}
	if o.Host != "" {
		next.Hostname = o.Host
	}
	if !o.Time.IsZero() {
		next.Time = o.Time
	}
	if next.Tree == s.Tree && next.Hostname == s.Hostname && next.Time.Equal(s.Time) && next.Summary == s.Summary {
		return nil
	}
	if !o.Forget && !slices.Contains(next.Tags, TagRewritten) {
		next.Tags = append(slices.Clone(next.Tags), TagRewritten)
	}
	return tr.save(ctx, s, next, o.Forget, o.Done)
}

// treeRewriter writes trees anew and remembers what it wrote.
type treeRewriter struct {
	r *repo.Repository
	w *repo.Writer // nil in a dry run
	p *kassett.Progress
	// keep says what stays; nil keeps everything. A folder that is not selected
	// itself stays if anything in it does.
	keep Select
	// mend changes a tree, or stands for one that cannot be read. Without it
	// such a tree is an error.
	mend func(path string, t *Tree, err error) (mended, error)
	// byPath says that the outcome depends on where a tree is.
	byPath bool
	memo   map[memoKey]rewritten
}

type memoKey struct {
	id   kassett.ID
	path string
}

// rewritten is a tree after it was rewritten.
type rewritten struct {
	id           kassett.ID
	nodes        int
	files, bytes uint64
	gone         bool // the tree could not be read
}

// tree rewrites one tree and all below it.
func (tr *treeRewriter) tree(ctx context.Context, path string, id kassett.ID, depth int) (rewritten, error) {
	key := memoKey{id: id}
	if tr.byPath {
		key.path = path
	}
	if got, ok := tr.memo[key]; ok {
		return got, nil
	}
	t, err := LoadTree(ctx, tr.r, id)
	if ctx.Err() != nil {
		return rewritten{}, context.Cause(ctx)
	}
	if err == nil && depth > maxDepth {
		err = tooDeep()
	}
	m := mended{Tree: t}
	if tr.mend != nil {
		m, err = tr.mend(path, t, err)
	}
	if err != nil {
		return rewritten{}, fmt.Errorf("folder %q: %w", path, err)
	}
	tr.p.Done(1, 0)
	got, err := tr.nodes(ctx, path, id, m, depth)
	if err != nil {
		return rewritten{}, err
	}
	got.gone = m.gone
	if tr.memo == nil {
		tr.memo = map[memoKey]rewritten{}
	}
	tr.memo[key] = got
	return got, nil
}

// nodes rewrites what is in a tree, and saves the tree if that changed it.
func (tr *treeRewriter) nodes(ctx context.Context, path string, id kassett.ID, t mended, depth int) (rewritten, error) {
	next := &Tree{Nodes: make([]*Node, 0, len(t.Nodes))}
	got := rewritten{id: id}
	changed := t.changed
	for _, n := range t.Nodes {
		selected, below := true, true
		at := child(path, n.Name)
		if tr.keep != nil {
			selected, below = tr.keep(at, n)
		}
		if n.Type != kassett.Dir {
			if !selected {
				changed = true
				continue
			}
			if n.Type == kassett.File {
				got.files++
				got.bytes += n.Size
			}
			next.Nodes = append(next.Nodes, n)
			continue
		}
		if !selected && !below {
			changed = true
			continue
		}
		sub, err := tr.tree(ctx, at, n.Subtree, depth+1)
		if err != nil {
			return rewritten{}, err
		}
		if !selected && sub.nodes == 0 {
			changed = true
			continue
		}
		got.files += sub.files
		got.bytes += sub.bytes
		if sub.id != n.Subtree {
			changed = true
			other := *n
			other.Subtree = sub.id
			if sub.gone {
				other.Name += SuffixRepaired
			}
			n = &other
		}
		next.Nodes = append(next.Nodes, n)
	}
	got.nodes = len(next.Nodes)
	if !changed {
		return got, nil
	}
	if tr.mend != nil {
		next.sort() // names may have changed
	} else if err := faithful(path, id, t.Tree); err != nil {
		return rewritten{}, err
	}
	var err error
	got.id, err = tr.saveTree(ctx, next)
	return got, err
}

// faithful refuses a tree that does not encode to the bytes it was read from:
// what another writer has put into it would be lost.
func faithful(path string, id kassett.ID, t *Tree) error {
	b, err := t.Encode()
	if err == nil && kassett.Hash(b) != id {
		err = errors.New("it holds what we do not know and would lose")
	}
	if err != nil {
		return &kassett.Error{
			Op: "rewrite folder", What: fmt.Sprintf("%q", path), Kind: kassett.Other, Err: err,
			Hint: "use the program that wrote the snapshot to change it",
		}
	}
	return nil
}

func (tr *treeRewriter) saveTree(ctx context.Context, t *Tree) (kassett.ID, error) {
	b, err := t.Encode()
	if err != nil {
		return kassett.ID{}, err
	}
	if tr.w == nil {
		return kassett.Hash(b), nil
	}
	saved, err := tr.w.Save(ctx, repo.TreeBlob, b)
	return saved.ID, err
}

// save saves a snapshot after all its trees, and then removes the old one if
// that is to go.
func (tr *treeRewriter) save(ctx context.Context, s, next *Snapshot, forget bool, done func(Replaced)) error {
	if tr.w != nil {
		if err := tr.w.Flush(ctx); err != nil {
			return err
		}
		var err error
		if forget {
			err = replace(ctx, tr.r, s, next)
		} else {
			_, err = Save(ctx, tr.r, next)
		}
		if err != nil {
			return err
		}
	}
	if done != nil {
		done(Replaced{Old: s.ID, New: next.ID, Removed: forget})
	}
	return nil
}
