package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"kassett"
)

// smallIndex is the number of blobs below which an index file is put together
// with others when index files are rewritten anyway: each backup leaves a small
// one.
const smallIndex = indexBlobs / 4

// reindexer writes index files that take the place of others. The order is
// sacred: the new ones are durable before an old one goes, so that a pack is
// named all the time. It is safe for many goroutines.
type reindexer struct {
	r       *Repository
	mu      sync.Mutex
	builder indexBuilder
	added   map[kassett.ID]struct{} // packs
}

func (r *Repository) newReindexer() *reindexer {
	return &reindexer{r: r, added: make(map[kassett.ID]struct{})}
}

// add puts a pack into the next index file, once. blobs may be used again by
// the caller.
func (x *reindexer) add(ctx context.Context, pack kassett.ID, blobs []Blob) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, twice := x.added[pack]; twice {
		return nil
	}
	x.added[pack] = struct{}{}
	if x.builder.full(len(blobs)) {
		if err := x.write(ctx); err != nil {
			return err
		}
	}
	x.builder.add(indexedPack{pack, slices.Clone(blobs)})
	return nil
}

// finish writes the last index file.
func (x *reindexer) finish(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.write(ctx)
}

func (x *reindexer) write(ctx context.Context) error {
	if len(x.builder.packs) == 0 {
		return nil
	}
	if _, err := x.r.SaveUnpacked(ctx, kassett.IndexFile, x.builder.bytes()); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	x.builder = indexBuilder{}
	return nil
}

// rewriteIndex replaces the given index files by ones without the packs that
// drop says. p counts the files.
func (r *Repository) rewriteIndex(ctx context.Context, files []kassett.ID, drop func(pack kassett.ID) bool, p *kassett.Progress) error {
	x := r.newReindexer()
	err := side(ctx, r, files, func(ctx context.Context, id kassett.ID) error {
		defer p.Done(1, 0)
		return r.eachIndexed(ctx, id, func(pack kassett.ID, blobs []Blob) error {
			if drop(pack) {
				return nil
			}
			return x.add(ctx, pack, blobs)
		})
	})
	if err != nil {
		return err
	}
	if err := x.finish(ctx); err != nil {
		return err
	}
	return r.deleteAll(ctx, kassett.IndexFile, files, nil)
}

// deleteAll removes files, going on after an error. One that is gone already is
// none: an earlier run has been here.
func (r *Repository) deleteAll(ctx context.Context, k kassett.FileKind, ids []kassett.ID, p *kassett.Progress) error {
	var mu sync.Mutex
	var first error
	failed := 0
	err := side(ctx, r, ids, func(ctx context.Context, id kassett.ID) error {
		defer p.Done(1, 0)
		err := r.Delete(ctx, k, id)
		if err == nil || kassett.KindOf(err) == kassett.NotFound {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		failed++
		first = errors.Join(first, err)
		if failed > maxFailedDeletes {
			return errTooMany
		}
		return nil
	})
	if first != nil {
		return first
	}
	return err
}

// maxFailedDeletes is how many deletes fail before the others are not tried any
// more.
const maxFailedDeletes = 10

var errTooMany = errors.New("too many deletes failed")
