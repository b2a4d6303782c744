package mount

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// Defaults of [Options].
const (
	defaultTreeBytes = 128 << 20
	defaultBlobBytes = 128 << 20
	defaultRefresh   = 10 * time.Second
)

// Options say what a [View] shows and what it may take. The zero value is good.
type Options struct {
	Filter    snapshot.Filter // which snapshots
	Templates Templates       // under which names
	TreeBytes int64           // of memory for folders; 0 = 128 MiB
	BlobBytes int64           // of memory for content; 0 = 128 MiB
	Refresh   time.Duration   // how old the list of snapshots may be; 0 = 10 s
	// Warn is told of what cannot be read, each thing once: where it is, as
	// "snapshot 1a2b3c4d: /srv/journal.db", and what is wrong. It is called from
	// many goroutines and may be nil.
	Warn func(where string, err error)
	// Notice is told what an operator should know though nothing is wrong. It
	// may be nil.
	Notice func(text string)
}

// View is a repository as a file system that cannot be written. Its methods are
// safe for many goroutines.
type View struct {
	r    *repo.Repository
	o    Options
	ctx  context.Context //nolint:containedctx // of loads that several readers wait for; Close ends it
	stop context.CancelFunc
	work sync.WaitGroup // loads
	door door

	trees  *cache[kassett.ID, *listing]
	blobs  *cache[kassett.ID, []byte]
	files  *cache[fileKey, *content]
	memory *semaphore.Weighted // bytes of blobs being loaded
	lanes  chan struct{}       // one for each request that reads ahead

	faults faults

	// snaps are those that were there at the last look, nil for one that cannot
	// be read. Only the goroutine that looks uses them.
	snaps map[kassett.ID]*snapshot.Snapshot

	mu      sync.Mutex // guards what follows
	top     *top
	looked  time.Time     // at the list of snapshots
	looking chan struct{} // closed when the look that goes on has ended; nil when there is none
	lost    error         // of the last look

	indexMu sync.Mutex
	index   time.Time // when the index was loaded again, guarded by indexMu
}

// door is held for reading by whoever begins to use the repository.
type door struct {
	sync.RWMutex
	shut bool
}

// NewView returns the view of a repository whose index is loaded. The caller
// holds a lock, or knows that nobody removes anything meanwhile; ctx is that of
// the lock, and when it ends nothing can be read any more. It ends with Close.
func NewView(ctx context.Context, r *repo.Repository, o Options) (*View, error) {
	o.TreeBytes = cmp.Or(o.TreeBytes, defaultTreeBytes)
	o.BlobBytes = cmp.Or(o.BlobBytes, defaultBlobBytes)
	o.Refresh = cmp.Or(o.Refresh, defaultRefresh)
	o.Templates = o.Templates.fill()
	v := &View{
		r: r, o: o,
		trees:  newCache[kassett.ID, *listing](o.TreeBytes),
		blobs:  newCache[kassett.ID, []byte](o.BlobBytes),
		files:  newCache[fileKey, *content](o.TreeBytes / 4),
		memory: semaphore.NewWeighted(max(o.BlobBytes, maxBlob)),
		lanes:  make(chan struct{}, max(2, r.Connections())),
	}
	v.ctx, v.stop = context.WithCancel(ctx)
	if _, err := v.current(ctx); err != nil {
		v.Close()
		return nil, err
	}
	return v, nil
}

// Close ends all loads and waits for them. Afterwards nothing uses the repository,
// and whoever still reads gets an error.
func (v *View) Close() {
	v.stop()
	v.door.Lock()
	v.door.shut = true
	v.door.Unlock()
	v.work.Wait()
}

var errShut = &kassett.Error{Op: "read", Kind: kassett.Interrupted, Err: errors.New("the view is closed")}

// while calls fn, which uses the repository or begins a load, unless the view is
// closed. fn does not call while.
func (v *View) while(fn func()) error {
	v.door.RLock()
	defer v.door.RUnlock()
	if v.door.shut {
		return errShut
	}
	fn()
	return nil
}

// listing is what is in one folder.
type listing struct {
	nodes []*snapshot.Node // in order of their names, which are one path component each and differ
}

// find returns the number of a name, or -1.
func (l *listing) find(name string) int {
	i, ok := slices.BinarySearchFunc(l.nodes, name, func(n *snapshot.Node, name string) int { return cmp.Compare(n.Name, name) })
	if !ok {
		return -1
	}
	return i
}

// folder is a folder of the view: the root, one above the snapshots, or one in a
// snapshot. It is small, for a system that walks through everything keeps very
// many.
type folder struct {
	parent *folder // nil of the root
	name   string
	ino    uint64
	depth  int
	snap   *snapshot.Snapshot // nil above the snapshots
	tree   kassett.ID         // of a folder in a snapshot
}

// rootInode is the inode number of the root.
const rootInode = 1

// root returns the root of the view.
func (v *View) root() *folder { return &folder{ino: rootInode} }

// path returns where in the view a folder is, without a leading slash.
func (f *folder) path() string {
	var names []string
	for ; f.parent != nil; f = f.parent {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return strings.Join(names, "/")
}

// where names something in a folder to people, by its snapshot and its path there.
func (f *folder) where(name string) string {
	if f.snap == nil {
		return f.path() + "/" + name
	}
	var names []string
	if name != "" {
		names = append(names, name)
	}
	for ; f.parent != nil && f.parent.snap != nil; f = f.parent {
		names = append(names, f.name)
	}
	slices.Reverse(names)
	return "snapshot " + f.snap.ID.Short() + ": /" + strings.Join(names, "/")
}

// maxDepth is how deep folders may be nested: a hostile writer can make a chain
// of any length, though not a circle. No system opens a longer path.
const maxDepth = 16 << 10

// list returns what is in a folder.
func (v *View) list(ctx context.Context, f *folder) (*listing, error) {
	if f.snap == nil {
		d, err := v.above(ctx, f)
		if err != nil {
			return nil, err
		}
		return &d.listing, nil
	}
	if f.depth > maxDepth {
		err := &kassett.Error{Op: "read folder", Kind: kassett.Corrupt, Err: fmt.Errorf("nested deeper than %d", maxDepth)}
		v.fault(f.where(""), f.tree, err)
		return nil, err
	}
	for {
		var s *slot[kassett.ID, *listing]
		err := v.while(func() {
			var mine bool
			if s, mine = v.trees.claim(f.tree); mine {
				v.work.Go(func() {
					l, size, err := v.loadTree(f)
					v.trees.fill(s, l, size, err)
				})
			}
		})
		if err != nil {
			return nil, err
		}
		l, err := s.wait(ctx)
		if err == nil || !errors.Is(err, errDropped) {
			return l, err
		}
	}
}

// above returns a folder above the snapshots, as it is now.
func (v *View) above(ctx context.Context, f *folder) (*top, error) {
	d, err := v.current(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range split(f.path()) {
		if d = d.names[name].folder; d == nil {
			return nil, &kassett.Error{Op: "list", What: f.path(), Kind: kassett.NotFound, Err: fs.ErrNotExist}
		}
	}
	return d, nil
}

// sub returns the folder that a node of f is.
func (v *View) sub(ctx context.Context, f *folder, n *snapshot.Node) (*folder, error) {
	s := &folder{parent: f, name: n.Name, ino: inode(f, n), depth: f.depth + 1, snap: f.snap, tree: n.Subtree}
	if f.snap != nil {
		return s, nil
	}
	d, err := v.above(ctx, f)
	if err != nil {
		return nil, err
	}
	s.snap = d.names[n.Name].snap
	return s, nil
}

// inode returns the inode number of a node in a folder: the same for all names
// of a file, and as long as the snapshot is there.
func inode(f *folder, n *snapshot.Node) uint64 {
	h := fnvStart
	if f.snap != nil && n.Type == kassett.File && n.Links > 1 && n.Inode != 0 {
		h = h.bytes(f.snap.ID[:]).number(n.DeviceID).number(n.Inode)
	} else {
		h = h.number(f.ino).text(n.Name)
	}
	return max(uint64(h), rootInode+1)
}

// fnv is the hash FNV-1a of 64 bits (Fowler, Noll, Vo). Two inode numbers that
// happen to be equal do no harm: nothing is found by them.
type fnv uint64

const fnvStart fnv = 14695981039346656037

func (h fnv) byte(b byte) fnv { return (h ^ fnv(b)) * 1099511628211 }

func (h fnv) bytes(b []byte) fnv {
	for _, c := range b {
		h = h.byte(c)
	}
	return h
}

func (h fnv) text(s string) fnv {
	for i := range len(s) {
		h = h.byte(s[i])
	}
	return h
}

func (h fnv) number(n uint64) fnv {
	for ; n > 0; n >>= 8 {
		h = h.byte(byte(n))
	}
	return h.byte(0)
}

// current returns the folders above the snapshots, and looks for new snapshots
// when the last look was long ago. When the storage is away or slow, it is what
// was there before.
func (v *View) current(ctx context.Context) (*top, error) {
	v.mu.Lock()
	if v.top != nil && time.Since(v.looked) < v.o.Refresh {
		defer v.mu.Unlock()
		return v.top, nil
	}
	var err error
	if v.looking == nil {
		err = v.while(func() {
			done := make(chan struct{})
			v.looking = done
			v.work.Go(func() { v.look(done) })
		})
	}
	done, old := v.looking, v.top
	v.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var late <-chan time.Time
	if old != nil {
		t := time.NewTimer(lookTime)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-done:
	case <-late:
		return old, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.top == nil {
		return nil, v.lost
	}
	return v.top, nil
}

// lookTime is how long a reader waits for a new list of snapshots before he gets
// the old one.
const lookTime = 5 * time.Second

// look makes the folders above the snapshots anew when there are other snapshots
// than before, and closes done.
func (v *View) look(done chan struct{}) {
	ctx, cancel := context.WithTimeout(v.ctx, loadTime)
	defer cancel()
	there, fresh, err := v.lookFor(ctx)
	var made *top
	if err == nil && fresh {
		made = v.arrange(ctx, there)
	}
	if err != nil {
		v.fault("the list of snapshots", kassett.ID{}, err)
	} else {
		v.faults.fine(v.o.Notice)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if made != nil {
		v.snaps, v.top = there, made
	}
	v.lost, v.looked, v.looking = err, time.Now(), nil
	close(done)
}

// lookFor lists the snapshots, and reports whether they are others than before.
// Those that cannot be read are named and passed over.
func (v *View) lookFor(ctx context.Context) (there map[kassett.ID]*snapshot.Snapshot, fresh bool, err error) {
	there = map[kassett.ID]*snapshot.Snapshot{}
	for info, err := range v.r.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return nil, false, fmt.Errorf("list snapshots: %w", err)
		}
		there[info.ID] = v.snaps[info.ID]
	}
	fresh = v.snaps == nil || len(there) != len(v.snaps)
	for id, s := range there {
		if s != nil {
			continue
		}
		s, err := snapshot.Load(ctx, v.r, id)
		switch {
		case err == nil:
			there[id], fresh = s, true
		case ctx.Err() != nil:
			return nil, false, context.Cause(ctx)
		default:
			v.fault("snapshot "+id.Short(), id, err)
			if _, known := v.snaps[id]; !known {
				fresh = true
			}
		}
	}
	return there, fresh, nil
}

// arrange puts the snapshots into folders, and makes what new ones have stored
// known.
func (v *View) arrange(ctx context.Context, there map[kassett.ID]*snapshot.Snapshot) *top {
	if v.snaps != nil {
		if err := v.r.LoadIndex(ctx, nil); err != nil {
			v.fault("the index", kassett.ID{}, err)
		}
	}
	var list []*snapshot.Snapshot
	for _, s := range there {
		if s != nil && v.o.Filter.Match(s) {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b *snapshot.Snapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), a.ID.Compare(b.ID))
	})
	return newTop(v.o.Templates, list)
}

// describe returns what a folder itself is.
func (v *View) describe(ctx context.Context, f *folder) (*snapshot.Node, error) {
	switch {
	case f.parent == nil:
		d, err := v.current(ctx)
		if err != nil {
			return nil, err
		}
		return rootNode(d.newest), nil
	case f.parent.snap == nil && f.snap != nil:
		return snapshotNode(f.name, f.snap), nil
	}
	l, err := v.list(ctx, f.parent)
	if err != nil {
		return nil, err
	}
	i := l.find(f.name)
	if i < 0 {
		return nil, &kassett.Error{Op: "find", What: f.path(), Kind: kassett.NotFound, Err: fs.ErrNotExist}
	}
	return l.nodes[i], nil
}

// rootNode describes the root of the view.
func rootNode(newest time.Time) *snapshot.Node {
	n := &snapshot.Node{}
	n.Type, n.Mode, n.Links = kassett.Dir, fs.ModeDir|0o555, 1
	n.ModTime, n.AccessTime, n.ChangeTime = newest, newest, newest
	return n
}
