package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo"
)

// maxDepth is how deep folders may be nested. Trees cannot form a circle, being
// named by their hash, but a hostile writer can make a chain of any length. No
// system opens a path of more than 32,767 characters, which is half as many
// folders.
const maxDepth = 16 << 10

// maxNamed is how many faults an error names; the others are counted.
const maxNamed = 100

// faults gathers errors that do not stop the work. It is safe for many
// goroutines.
type faults struct {
	mu    sync.Mutex
	named []error
	n     int
	kind  kassett.Kind
}

func (f *faults) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n++; f.n <= maxNamed {
		f.named = append(f.named, err)
	}
	if f.kind != kassett.Corrupt {
		f.kind = kassett.KindOf(err)
	}
}

// err returns nil when there was no fault. The error's kind is Corrupt if that
// of any fault was, else Incomplete.
func (f *faults) err(op, what, hint string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == 0 {
		return nil
	}
	kind := kassett.Incomplete
	if f.kind == kassett.Corrupt {
		kind = kassett.Corrupt
	}
	cause := errors.Join(f.named...)
	if more := f.n - len(f.named); more > 0 {
		cause = fmt.Errorf("%w\nand %d more", cause, more)
	}
	return &kassett.Error{Op: op, What: what, Kind: kind, Hint: hint, Err: cause}
}

const hintTrees = "run check to see what is damaged; use another copy of the repository, or repair snapshots for what is left"

// child joins the name of a node to the path of its folder.
func child(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}

// Walk calls fn for every node below a tree, a folder before what is in it and
// names in order. Paths are slash-separated and begin with a slash: the tree
// itself is "/", for which fn is not called. fn returns fs.SkipDir to leave out
// what is in a folder, and fs.SkipAll to end early. Names are as the tree has
// them: see [Node.Safe].
//
// Folders whose tree cannot be read are passed over and named in the error,
// which is of the kind [kassett.Corrupt].
func Walk(ctx context.Context, r *repo.Repository, tree kassett.ID, fn func(path string, n *Node) error) error {
	w := newWalker(ctx, r)
	defer w.close()
	var bad faults
	err := w.walk(tree, "/", func(path string, n *Node, err error) error {
		if err != nil {
			bad.add(fmt.Errorf("%q: %w", path, err))
			return nil
		}
		return fn(path, n)
	})
	if err != nil && !errors.Is(err, fs.SkipAll) {
		return err
	}
	return bad.err("read folders", "", hintTrees)
}

// walker loads trees in the order of a walk, a few ahead of where they are
// needed. It is for one goroutine.
type walker struct {
	ctx    context.Context //nolint:containedctx // of one walk, ended by close
	cancel context.CancelFunc
	r      *repo.Repository
	slots  chan struct{} // one for each load that runs ahead
	ahead  sync.WaitGroup
	// leave, if not nil, is called after all that is in a folder, with its
	// tree, or nil if that could not be read.
	leave func(path string, t *Tree) error
}

func newWalker(ctx context.Context, r *repo.Repository) *walker {
	w := &walker{r: r, slots: make(chan struct{}, max(2, r.Connections()))}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w
}

// close waits for what was loaded in vain.
func (w *walker) close() {
	w.cancel()
	w.ahead.Wait()
}

// loading is a tree on its way.
type loading struct {
	done chan struct{} // closed when tree and err are set; nil if not begun
	tree *Tree
	err  error
}

// begin starts to load a tree if a slot is free.
func (w *walker) begin(id kassett.ID) *loading {
	l := &loading{}
	select {
	case w.slots <- struct{}{}:
	default:
		return l
	}
	l.done = make(chan struct{})
	w.ahead.Go(func() {
		l.tree, l.err = LoadTree(w.ctx, w.r, id)
		<-w.slots
		close(l.done)
	})
	return l
}

// wait returns the tree, and loads it now if that was not begun.
func (w *walker) wait(l *loading, id kassett.ID) (*Tree, error) {
	if l == nil || l.done == nil {
		return LoadTree(w.ctx, w.r, id)
	}
	<-l.done
	return l.tree, l.err
}

// visit is called for each node, and with a nil node and an error for each
// folder that cannot be read.
type visit func(path string, n *Node, err error) error

// walk visits what is below a tree, in order.
func (w *walker) walk(tree kassett.ID, path string, fn visit) error {
	t, err := LoadTree(w.ctx, w.r, tree)
	return w.folder(t, err, path, 0, fn)
}

// folder visits what is in one tree.
func (w *walker) folder(t *Tree, err error, path string, depth int, fn visit) error {
	if ctxErr := w.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if err == nil && depth > maxDepth {
		err = tooDeep()
	}
	if err != nil {
		t = nil
		err = fn(path, nil, lostTree(err))
	} else {
		err = w.nodes(t, path, depth, fn)
	}
	if err != nil || w.leave == nil {
		return err
	}
	return w.leave(path, t)
}

// nodes visits the nodes of one tree and what is below them.
func (w *walker) nodes(t *Tree, path string, depth int, fn visit) error {
	subs := w.subtrees(t)
	for _, n := range t.Nodes {
		at := child(path, n.Name)
		err := fn(at, n, nil)
		if n.Type != kassett.Dir {
			if err != nil && !errors.Is(err, fs.SkipDir) {
				return err
			}
			continue
		}
		l := subs.next()
		switch {
		case errors.Is(err, fs.SkipDir):
			continue
		case err != nil:
			return err
		}
		sub, err := w.wait(l, n.Subtree)
		if err := w.folder(sub, err, at, depth+1, fn); err != nil {
			return err
		}
	}
	return nil
}

// lostTree gives the error of a tree that no index file names its right kind: it
// is not the user who asked for something that is not there.
func lostTree(err error) error {
	if kassett.KindOf(err) == kassett.NotFound {
		return &kassett.Error{Op: "read folder", Kind: kassett.Corrupt, Err: err, Hint: hintTrees}
	}
	return err
}

func tooDeep() error {
	return &kassett.Error{
		Op: "read folders", Kind: kassett.Corrupt,
		Err: fmt.Errorf("nested deeper than %d", maxDepth),
	}
}

// window is how many folders of a level are loaded before they are entered.
const window = 4

// siblings loads the sub-folders of one folder ahead.
type siblings struct {
	w     *walker
	nodes []*Node // those not begun
	queue []*loading
}

func (w *walker) subtrees(t *Tree) *siblings { return &siblings{w: w, nodes: t.Nodes} }

// next returns the next folder's tree and begins to load those after it.
func (s *siblings) next() *loading {
	for len(s.queue) <= window && len(s.nodes) > 0 {
		n := s.nodes[0]
		s.nodes = s.nodes[1:]
		if n.Type == kassett.Dir {
			s.queue = append(s.queue, s.w.begin(n.Subtree))
		}
	}
	if len(s.queue) == 0 {
		return nil
	}
	l := s.queue[0]
	s.queue = s.queue[1:]
	return l
}

// Locate returns the node at a path below a tree. The tree itself, "" or "/",
// is a folder without a name.
func Locate(ctx context.Context, r *repo.Repository, tree kassett.ID, path string) (*Node, error) {
	n := &Node{Entry: kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o755}, Subtree: tree}
	at := "/"
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." {
			continue
		}
		if n.Type != kassett.Dir {
			return nil, &kassett.Error{Op: "find", What: fmt.Sprintf("%q", path), Kind: kassett.NotFound, Err: fmt.Errorf("%q is no folder", at)}
		}
		t, err := LoadTree(ctx, r, n.Subtree)
		if err != nil {
			return nil, fmt.Errorf("find %q: %w", path, err)
		}
		at = child(at, name)
		if n = t.Find(name); n == nil {
			return nil, &kassett.Error{
				Op: "find", What: fmt.Sprintf("%q", path), Kind: kassett.NotFound, Err: fmt.Errorf("%q is not in the snapshot", at),
				Hint: "list what is there with ls",
			}
		}
	}
	return n, nil
}

// Folder returns the tree of the folder at a path below a tree. Anything else
// there is an [kassett.Invalid] error.
func Folder(ctx context.Context, r *repo.Repository, tree kassett.ID, path string) (kassett.ID, error) {
	n, err := Locate(ctx, r, tree, path)
	if err != nil {
		return kassett.ID{}, err
	}
	if n.Type != kassett.Dir {
		return kassett.ID{}, &kassett.Error{
			Op: "find", What: fmt.Sprintf("%q", path), Kind: kassett.Invalid, Err: errors.New("it is no folder"),
			Hint: "name the folder that holds it, and include it by a pattern",
		}
	}
	return n.Subtree, nil
}

// treeAt is a tree and where it was found first.
type treeAt struct {
	id    kassett.ID
	path  string
	depth int
	root  int // index of the root it was found below
}

// stream visits every tree below some roots once, in no order, from many
// goroutines. It is what makes a walk of all snapshots as cheap as one of what
// differs between them.
type stream struct {
	r    *repo.Repository
	seen *repo.BlobSet // what is in it already is passed over
	// visit gets each tree, or the error of loading it. What it returns ends
	// the stream.
	visit func(at treeAt, t *Tree, err error) error
	p     *kassett.Progress // one item a tree; may be nil

	mu    sync.Mutex
	more  *sync.Cond
	stack []treeAt
	busy  int
	ended bool
}

// run returns the first error of visit, or that of ctx.
func (s *stream) run(ctx context.Context, roots []kassett.ID) error {
	s.more = sync.NewCond(&s.mu)
	for i, id := range roots {
		s.push(treeAt{id: id, path: "/", root: i})
	}
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.end)
	defer stop()
	workers := max(2, s.r.Connections())
	for range workers {
		g.Go(func() error {
			for {
				some := s.pop(workers)
				if len(some) == 0 {
					return ctx.Err()
				}
				err := s.load(ctx, some)
				s.finish()
				if err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// load reads and visits some trees, those of one pack together.
func (s *stream) load(ctx context.Context, some []treeAt) error {
	packs := map[kassett.ID][]repo.Blob{}
	at := make(map[kassett.ID]treeAt, len(some))
	for _, t := range some {
		at[t.id] = t
		loc, ok := s.r.Find(repo.BlobHandle{Type: repo.TreeBlob, ID: t.id})
		if !ok {
			tree, err := LoadTree(ctx, s.r, t.id) // which says why
			if err := s.one(ctx, t, tree, err); err != nil {
				return err
			}
			continue
		}
		packs[loc.Pack] = append(packs[loc.Pack], loc.Blob)
	}
	for pack, blobs := range packs {
		err := s.r.LoadBlobs(ctx, pack, blobs, func(b repo.Blob, plain []byte, err error) error {
			if err != nil {
				return s.one(ctx, at[b.ID], nil, err)
			}
			t, err := readTree(b.ID, plain)
			return s.one(ctx, at[b.ID], t, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// one visits one tree, and pushes what is below it.
func (s *stream) one(ctx context.Context, at treeAt, t *Tree, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil && at.depth > maxDepth {
		err = tooDeep()
	}
	s.p.Done(1, 0)
	if visitErr := s.visit(at, t, err); visitErr != nil || err != nil {
		return visitErr
	}
	for _, n := range t.Nodes {
		if n.Type == kassett.Dir && !n.Subtree.IsZero() {
			s.push(treeAt{id: n.Subtree, path: child(at.path, n.Name), depth: at.depth + 1, root: at.root})
		}
	}
	return nil
}

func (s *stream) push(at treeAt) {
	if !s.seen.Add(repo.BlobHandle{Type: repo.TreeBlob, ID: at.id}) {
		return
	}
	s.p.Expect(1, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stack = append(s.stack, at)
	s.more.Signal()
}

// mostTrees is how many trees a worker takes at a time: neighbours in a folder
// are mostly neighbours in a pack.
const mostTrees = 64

// pop returns some of the trees, and leaves some to the other workers. It
// returns none when all is done or the stream was ended.
func (s *stream) pop(workers int) []treeAt {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.stack) == 0 && s.busy > 0 && !s.ended {
		s.more.Wait()
	}
	if s.ended || len(s.stack) == 0 {
		return nil
	}
	rest := len(s.stack) - min(mostTrees, 1+len(s.stack)/(2*workers))
	some := slices.Clone(s.stack[rest:])
	s.stack = s.stack[:rest]
	s.busy++
	return some
}

func (s *stream) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy--; s.busy == 0 && len(s.stack) == 0 {
		s.more.Broadcast()
	}
}

// end wakes all workers so that they stop.
func (s *stream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.more.Broadcast()
}
