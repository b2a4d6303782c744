package snapshot

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kassett"
	"kassett/repo"
)

// A checkpoint is what a backup that was cut goes on from: a tree, like that of a
// snapshot, of the folders and files that were finished so far. It is no snapshot:
// stock restic would take it for the latest one and restore half a source, and
// where nothing can be deleted it would stay for ever. Its tree is an ordinary
// blob that no snapshot names; where it is, is kept in the cache of this machine,
// and everything it leads to is asked for before it is believed.
type checkpoint struct {
	Time     time.Time     `json:"time"`
	Tree     kassett.ID    `json:"tree"`
	Full     bool          `json:"full"` // every byte was read in the same run
	Cuts     []kassett.Cut `json:"-"`
	CutWords []string      `json:"cuts"`
	Problems int64         `json:"problems"` // that were named and are not named again
}

// checkpointShare bounds what checkpoints cost: after one that took a while the
// next waits this many times as long.
const checkpointShare = 50

// checkpointName returns the name of the checkpoint of one source.
func checkpointName(o *BackupOptions) string {
	paths := slices.Sorted(slices.Values(o.Paths))
	sum := kassett.Hash([]byte(o.Host + "\x00" + strings.Join(paths, "\x00")))
	return "checkpoint-" + hex.EncodeToString(sum[:8])
}

// loadCheckpoint returns what the last backup of this source left behind when it
// was cut, or nil.
func loadCheckpoint(r *repo.Repository, o *BackupOptions) *checkpoint {
	b, err := r.LoadLocal(checkpointName(o))
	if err != nil {
		return nil // none, or damaged: everything is read, as without
	}
	c := new(checkpoint)
	if json.Unmarshal(b, c) != nil || c.Tree.IsZero() || o.Level == Full && !c.Full ||
		!r.Has(repo.BlobHandle{Type: repo.TreeBlob, ID: c.Tree}) {
		return nil
	}
	for _, word := range c.CutWords {
		cut, err := kassett.ParseCut(word)
		if err != nil {
			return nil
		}
		c.Cuts = append(c.Cuts, cut)
	}
	return c
}

// resume makes the backup go on from a checkpoint, if there is one.
func (b *backup) resume() {
	if b.opt.Checkpoint <= 0 {
		return
	}
	if b.resumed = loadCheckpoint(b.repo, b.opt); b.resumed == nil {
		return
	}
	b.opt.notice(fmt.Sprintf("an earlier backup was cut: going on from its checkpoint of %s", b.resumed.Time.Local().Format(time.DateTime)))
	if n := b.resumed.Problems; n > 0 {
		b.warn("", fmt.Errorf("before the backup was cut, %d problems were named, which may not be named again: see the words of that run", n))
	}
}

// finished reports whether a checkpoint has the content of a file: m is its node
// there, or nil.
func (w *worker) finished(e *kassett.Entry, m *Node) bool {
	return m != nil && slices.Contains(w.resumed.Cuts, e.Cut) && w.sameFile(e, m) && w.firstMissing(m).IsZero()
}

// openFolders are the folders that are listed and not finished.
type openFolders struct {
	mu  sync.Mutex
	all map[*folder]struct{}
}

func (o *openFolders) add(f *folder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = make(map[*folder]struct{})
	}
	o.all[f] = struct{}{}
}

func (o *openFolders) remove(f *folder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, f)
}

// deepest returns the folders, the deepest first: all below a folder come before
// it.
func (o *openFolders) deepest() []*folder {
	o.mu.Lock()
	defer o.mu.Unlock()
	depth := func(f *folder) int {
		if f.parent == nil {
			return -1
		}
		return strings.Count(f.path, "/")
	}
	return slices.SortedFunc(maps.Keys(o.all), func(a, b *folder) int { return cmp.Compare(depth(b), depth(a)) })
}

// keepCheckpoints makes checkpoints from time to time until stop is called.
func (b *backup) keepCheckpoints(ctx context.Context) (stop func()) {
	every := b.opt.Checkpoint
	if every <= 0 || b.opt.DryRun {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for wait := every; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			begun := time.Now()
			if err := b.makeCheckpoint(ctx); err != nil {
				if ctx.Err() == nil && kassett.KindOf(err) != kassett.NotFound {
					b.opt.notice(fmt.Sprintf("no more checkpoints are made, a backup that is cut will start anew: %v", err))
				}
				return
			}
			wait = max(every, checkpointShare*time.Since(begun))
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// makeCheckpoint makes durable what is finished, and then notes where it is.
func (b *backup) makeCheckpoint(ctx context.Context) error {
	c := checkpoint{Time: time.Now(), Full: b.opt.Level == Full, Problems: b.problems.Load()}
	var err error
	if c.Tree, err = b.finishedTree(ctx); err != nil || c.Tree.IsZero() {
		return err
	}
	b.cuts.mu.Lock()
	for _, cut := range b.cuts.used {
		c.CutWords = append(c.CutWords, cut.String())
	}
	b.cuts.mu.Unlock()
	if err := b.save.Checkpoint(); err != nil {
		return err
	}
	plain, err := json.Marshal(&c)
	if err != nil {
		return err
	}
	return b.repo.SaveLocal(checkpointName(b.opt), plain)
}

// dropCheckpoint removes the checkpoint: there is a snapshot now.
func (b *backup) dropCheckpoint() {
	if b.opt.Checkpoint <= 0 || b.opt.DryRun {
		return
	}
	if err := b.repo.RemoveLocal(checkpointName(b.opt)); err != nil && kassett.KindOf(err) != kassett.NotFound {
		b.opt.notice(fmt.Sprintf("remove the checkpoint: %v", err))
	}
}

// finishedTree saves trees of what is finished in the folders that are not, and
// returns the root; zero when nothing is finished.
func (b *backup) finishedTree(ctx context.Context) (root kassett.ID, err error) {
	var tree TreeBuilder
	below := make(map[*folder]map[int]kassett.ID) // trees of open folders, by parent and index
	for _, f := range b.open.deepest() {
		blob, err := f.finishedTree(&tree, below[f])
		if err != nil {
			return kassett.ID{}, err
		}
		delete(below, f)
		if blob == nil {
			continue
		}
		s, err := b.save.Save(ctx, repo.TreeBlob, blob)
		if err != nil {
			return kassett.ID{}, err
		}
		if f.parent == nil {
			return s.ID, nil
		}
		if below[f.parent] == nil {
			below[f.parent] = make(map[int]kassett.ID)
		}
		below[f.parent][f.index] = s.ID
	}
	return kassett.ID{}, nil
}

// finishedTree encodes what is finished in a folder, and the trees of folders
// below that are not; nil when there is nothing of either.
func (f *folder) finishedTree(tree *TreeBuilder, below map[int]kassett.ID) ([]byte, error) {
	f.mu.Lock()
	entries, kids := f.entries, f.kids // none once the folder itself is finished
	done := make([]bool, len(kids))
	for i := range kids {
		done[i] = kids[i].done
	}
	f.mu.Unlock()
	for i := range done {
		sub, open := below[i]
		if !open && (!done[i] || kids[i].lost) {
			continue
		}
		n := Node{Entry: entries[i]}
		switch {
		case open:
			n.Subtree = sub
		case n.Type == kassett.Dir:
			n.Subtree = kids[i].ids[0]
		case n.Type == kassett.File:
			n.Content = kids[i].ids
		}
		if err := tree.Add(&n); err != nil {
			return nil, fmt.Errorf("describe folder %s: %w", f.path, err)
		}
	}
	if tree.Len() == 0 {
		return nil, nil
	}
	return tree.Finish(), nil
}

// mark notes that an entry of the folder will not change any more.
func (f *folder) mark(i int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kids[i].done = true
}
