package snapshot

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo"
)

// TagRecovered marks a snapshot that [Recover] made. It is restic's.
const TagRecovered = "recovered"

// RecoverOptions describe the snapshot that [Recover] makes.
type RecoverOptions struct {
	Host, User string
	Version    string // of the program, as "kassett 1.0"
	Progress   *kassett.Progress
	// Warn is told of trees that cannot be read, one call at a time; may be nil.
	Warn func(err error)
}

// Recover puts every tree that neither another tree nor a snapshot names into
// one new snapshot, tagged "recovered", each as a folder named by the first
// digits of its ID. It returns nil when there is none. Snapshots that cannot be
// read count as gone, since it is their trees that are looked for. The caller
// has loaded the index, which must be whole, and holds an exclusive lock.
func Recover(ctx context.Context, r *repo.Repository, o RecoverOptions) (*Snapshot, error) {
	roots, err := orphans(ctx, r, o)
	if err != nil || len(roots) == 0 {
		return nil, err
	}
	now := time.Now()
	t := &Tree{}
	for _, id := range roots {
		t.Nodes = append(t.Nodes, &Node{Subtree: id, Entry: kassett.Entry{
			Name: id.Short(), Type: kassett.Dir, Mode: fs.ModeDir | 0o755,
			ModTime: now, AccessTime: now, ChangeTime: now,
		}})
	}
	t.sort()
	b, err := t.Encode()
	if err != nil {
		return nil, err
	}
	w := r.NewWriter(ctx, repo.WriterOptions{Progress: o.Progress})
	defer w.Abort()
	saved, err := w.Save(ctx, repo.TreeBlob, b)
	if err != nil {
		return nil, err
	}
	if err := w.Flush(ctx); err != nil {
		return nil, err
	}
	s := &Snapshot{
		Time: now, Tree: saved.ID, Paths: []string{"/recover"}, Hostname: o.Host, Username: o.User,
		Tags: []string{TagRecovered}, ProgramVersion: o.Version,
	}
	_, err = Save(ctx, r, s)
	return s, err
}

// orphans returns the trees that can be read and that nothing names.
func orphans(ctx context.Context, r *repo.Repository, o RecoverOptions) ([]kassett.ID, error) {
	o.Progress.Enter("read trees")
	named := r.NewBlobSet()
	list, err := List(ctx, r, Filter{})
	if list == nil && err != nil {
		return nil, err
	}
	var mu sync.Mutex
	warn := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if o.Warn != nil {
			o.Warn(err)
		}
	}
	if err != nil {
		warn(err)
	}
	for _, s := range list {
		named.Add(repo.BlobHandle{Type: repo.TreeBlob, ID: s.Tree})
	}
	var trees []kassett.ID
	for loc := range r.Blobs() {
		if loc.Type == repo.TreeBlob && (len(trees) == 0 || trees[len(trees)-1] != loc.ID) {
			trees = append(trees, loc.ID)
		}
	}
	o.Progress.Expect(int64(len(trees)), 0)
	broken := make([]bool, len(trees))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, r.Connections()))
	for i, id := range trees {
		g.Go(func() error {
			t, err := LoadTree(gctx, r, id)
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			o.Progress.Done(1, 0)
			if err != nil {
				broken[i] = true
				warn(fmt.Errorf("tree %s: %w", id.Short(), err))
				return nil
			}
			for _, n := range t.Nodes {
				if n.Type == kassett.Dir {
					named.Add(repo.BlobHandle{Type: repo.TreeBlob, ID: n.Subtree})
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := named.Err(); err != nil {
		return nil, err
	}
	var roots []kassett.ID
	for i, id := range trees {
		if !broken[i] && !named.Has(repo.BlobHandle{Type: repo.TreeBlob, ID: id}) {
			roots = append(roots, id)
		}
	}
	return slices.Clip(roots), nil
}
