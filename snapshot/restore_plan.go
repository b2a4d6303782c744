package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"kassett"
)

// A batch is restored before more is planned: so many entries, or so many
// pieces of content. It bounds the memory of a restore of any size.
const (
	batchEntries = 1 << 17
	batchRefs    = 1 << 20
)

// restoreBatch is a part of the plan. Paths in it are the target's: relative.
type restoreBatch struct {
	files  []planFile
	finish []planEntry // files whose content is right: only metadata
	others []planEntry // links, symlinks, devices, fifos, in order
	dirs   []planDir   // left for good, deepest first
	refs   int         // blobs of the files
}

func (b *restoreBatch) full() bool {
	return len(b.files)+len(b.finish)+len(b.others)+len(b.dirs) >= batchEntries || b.refs >= batchRefs
}

type planFile struct {
	path  string
	node  *Node
	there *kassett.Entry // the file that is there already, or nil
	stale bool           // an unfinished part may be there
}

type planEntry struct {
	path string
	node *Node
	link string // path of the first name, of a hard link
}

type planDir struct {
	path  string
	node  *Node // nil for the root
	tree  *Tree // for a restore that deletes; nil when nothing may be deleted
	made  bool  // it is in the target
	fresh bool  // it was not there before
	bad   bool  // it cannot be made
}

// planner walks the tree, makes folders and lists the rest.
type planner struct {
	*restorer
	batch *restoreBatch
	stack []planDir // from the root to where the walk is
}

func (p *planner) run(ctx context.Context, tree kassett.ID) error {
	w := newWalker(ctx, p.r)
	defer w.close()
	there, err := p.lookAt(ctx, "")
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if there != nil && there.Type != kassett.Dir {
		return &kassett.Error{Op: "restore", Kind: kassett.Exists, Err: errors.New("the target is no folder"), Hint: "name a folder, or one that is to be made"}
	}
	if there == nil && !p.o.DryRun {
		if err := p.target.Make(ctx, "", &rootEntry); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
	}
	p.stack = []planDir{{fresh: there == nil, made: true}}
	w.leave = func(_ string, t *Tree) error { return p.leave(ctx, t) }
	err = w.walk(tree, "/", func(path string, n *Node, err error) error {
		if err != nil {
			return p.fail(ctx, path, err)
		}
		if err := p.visit(ctx, path, n); err != nil {
			return err
		}
		return p.flush(ctx, false)
	})
	if err != nil {
		return err
	}
	return p.flush(ctx, true)
}

// flush restores the batch if it is large enough.
func (p *planner) flush(ctx context.Context, last bool) error {
	if !last && !p.batch.full() {
		return nil
	}
	b := p.batch
	p.batch = &restoreBatch{}
	return p.restore(ctx, b)
}

// visit plans one node. Folders it goes into are on the stack until leave.
func (p *planner) visit(ctx context.Context, path string, n *Node) error {
	if !n.Safe() {
		return errors.Join(p.fail(ctx, path, unsafeName(n.Name)), skipIf(n.Type == kassett.Dir))
	}
	selected, below := p.o.Select(path, n)
	if n.Type == kassett.Dir {
		return p.enter(ctx, path, n, selected, below)
	}
	if !selected {
		return nil
	}
	if ok, err := p.ensure(ctx); err != nil || !ok {
		return err
	}
	target := strings.TrimPrefix(path, "/")
	switch n.Type {
	case kassett.File:
		return p.file(ctx, target, n)
	case kassett.Symlink, kassett.Device, kassett.CharDevice, kassett.Fifo:
		p.o.Progress.Expect(1, 0)
		p.batch.others = append(p.batch.others, planEntry{path: target, node: n})
		return nil
	}
	return p.fail(ctx, path, &kassett.Error{
		Op: "restore", Kind: kassett.Invalid, Err: fmt.Errorf("an entry of the type %q cannot be restored", n.Type),
	})
}

func unsafeName(name string) error {
	return &kassett.Error{
		Op: "restore", What: fmt.Sprintf("%q", name), Kind: kassett.Invalid,
		Err:  errors.New("the name is not that of an entry of one folder"),
		Hint: "no honest writer makes such names: find out who could write to the repository",
	}
}

func skipIf(dir bool) error {
	if dir {
		return fs.SkipDir
	}
	return nil
}

// enter goes into a folder, or passes it over.
func (p *planner) enter(ctx context.Context, path string, n *Node, selected, below bool) error {
	if !selected && !below {
		return fs.SkipDir
	}
	p.stack = append(p.stack, planDir{path: strings.TrimPrefix(path, "/"), node: n})
	if selected {
		ok, err := p.ensure(ctx)
		if err != nil {
			return err
		}
		if !ok {
			p.stack = p.stack[:len(p.stack)-1]
			return fs.SkipDir
		}
	}
	if !below {
		if err := p.leave(ctx, nil); err != nil {
			return err
		}
		return fs.SkipDir
	}
	return nil
}

// leave ends what enter began. The folder gets its metadata with the batch.
func (p *planner) leave(ctx context.Context, t *Tree) error {
	d := p.stack[len(p.stack)-1]
	p.stack = p.stack[:len(p.stack)-1]
	if !d.made {
		return nil
	}
	if p.o.Delete && !d.fresh {
		d.tree = t
	}
	p.batch.dirs = append(p.batch.dirs, d)
	return p.flush(ctx, false)
}

// ensure makes the folders of the stack that are not made yet. It returns false
// when one of them cannot be made, which it names.
func (p *planner) ensure(ctx context.Context) (bool, error) {
	fresh := false
	for i := range p.stack {
		d := &p.stack[i]
		if d.bad {
			return false, nil
		}
		if d.made {
			fresh = d.fresh
			continue
		}
		d.fresh = fresh
		if err := p.makeDir(ctx, d); err != nil {
			d.bad = true
			return false, p.fail(ctx, "/"+d.path, err)
		}
		d.made, fresh = true, d.fresh
		p.o.Progress.Expect(1, 0)
	}
	return true, nil
}

// makeDir makes one folder. d.fresh says what is known of its parent, and
// afterwards whether the folder itself was not there before.
func (p *planner) makeDir(ctx context.Context, d *planDir) error {
	if !d.fresh {
		there, err := p.lookAt(ctx, d.path)
		if err != nil {
			return err
		}
		d.fresh = there == nil
		if there != nil && there.Type != kassett.Dir {
			if p.o.Overwrite == OverwriteNever {
				return &kassett.Error{Op: "make folder", Kind: kassett.Exists, Err: fs.ErrExist, Hint: "move away what is there, or allow it to be overwritten"}
			}
			d.fresh = true
			if !p.o.DryRun {
				if err := p.target.Remove(ctx, d.path); err != nil {
					return err
				}
			}
		}
	}
	if p.o.DryRun {
		return nil
	}
	return p.target.Make(ctx, d.path, &d.node.Entry)
}

// rootEntry describes the target itself, which keeps the metadata it has.
var rootEntry = kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o700}

// file lists one file, unless it is another name of one that is listed.
func (p *planner) file(ctx context.Context, path string, n *Node) error {
	var key linkKey
	if n.Links > 1 {
		key = linkKey{device: n.DeviceID, inode: n.Inode, content: contentHash(n)}
		if first, ok := p.links[key]; ok {
			p.o.Progress.Expect(1, 0)
			p.batch.others = append(p.batch.others, planEntry{path: path, node: n, link: first})
			return nil
		}
	}
	f := planFile{path: path, node: n}
	if !p.stack[len(p.stack)-1].fresh {
		there, err := p.lookAt(ctx, path)
		if err != nil {
			return p.fail(ctx, "/"+path, err)
		}
		f.there, f.stale = there, true
	}
	p.o.Progress.Expect(1, int64(n.Size)) //nolint:gosec // a display
	if f.there != nil && p.leaves(f.there, n) {
		p.did(&p.stats.Skipped, Unchanged, "/"+f.path, n.Size)
		p.o.Progress.Done(1, int64(n.Size)) //nolint:gosec // a display
		return nil
	}
	if n.Links > 1 { // what the rule leaves alone may hold anything
		p.links[key] = path
	}
	if f.there != nil {
		if done, err := p.occupied(ctx, &f); done || err != nil {
			return err
		}
	}
	p.batch.files = append(p.batch.files, f)
	p.batch.refs += len(n.Content)
	return nil
}

// occupied judges a file in whose place something is. It returns true when no
// content is to be written.
func (p *planner) occupied(ctx context.Context, f *planFile) (done bool, err error) {
	switch f.there.Type {
	case kassett.File:
		if p.o.Overwrite == OverwriteIfChanged && f.there.Size == f.node.Size && f.there.ModTime.Equal(f.node.ModTime) {
			p.batch.finish = append(p.batch.finish, planEntry{path: f.path, node: f.node})
			return true, nil
		}
	case kassett.Dir:
		if err := p.clear(ctx, f.path); err != nil {
			return true, p.fail(ctx, "/"+f.path, err)
		}
		f.there = nil
	default:
		f.there = nil // Commit replaces it
	}
	return false, nil
}

// contentHash is equal for files of equal content.
func contentHash(n *Node) kassett.ID {
	b := make([]byte, 0, len(n.Content)*len(kassett.ID{}))
	for _, id := range n.Content {
		b = append(b, id[:]...)
	}
	return kassett.Hash(b)
}
