package repo

import (
	"context"
	"iter"
	"path/filepath"
	"slices"

	"kassett"
	"kassett/repo/blobtable"
)

// newTable makes the table of the blobs that r knows; it is empty.
func newTable(r *Repository) *blobtable.Table {
	o := blobtable.Options{
		Key:     r.key.Secret(),
		Load:    r.loadIndexFile,
		Workers: r.Connections(),
		Warn:    r.warn,
	}
	if r.options.CacheDir != "" {
		// Two places of one repository have one ID, and index files of their own.
		o.Dir = filepath.Join(r.options.CacheDir, r.config.ID, "blobs", r.place.Short())
	}
	return blobtable.New(o)
}

// LoadIndex makes the repository know the blobs that the index files of the
// storage name: it reads those that are new, and forgets what is gone. Index
// files that are damaged are named in a [kassett.Corrupt] error; all others have
// been loaded even then.
func (r *Repository) LoadIndex(ctx context.Context, p *kassett.Progress) error {
	ids, err := r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		loaded := r.table.Update(ctx, ids, p)
		if r.doomed.packs.Load() == nil || ctx.Err() != nil {
			return loaded
		}
		// A sweep may replace index files beside us.
		again, err := r.listIDs(ctx, kassett.IndexFile)
		if err != nil {
			return err
		}
		if slices.Equal(ids, again) || try == indexTries {
			return loaded
		}
		ids = again
	}
}

// indexTries is how often the index is loaded while its files change.
const indexTries = 5

func (r *Repository) loadIndexFile(ctx context.Context, id kassett.ID) (iter.Seq2[kassett.ID, []Blob], error) {
	c, err := r.readIndex(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.all(), nil
}

// readIndex reads one index file.
func (r *Repository) readIndex(ctx context.Context, id kassett.ID) (*indexContent, error) {
	data, err := r.LoadUnpacked(ctx, kassett.IndexFile, id)
	if err != nil {
		return nil, err
	}
	c := new(indexContent)
	if err := c.decode(data); err != nil {
		return nil, &kassett.Error{
			Op: "read", What: kassett.Handle{Kind: kassett.IndexFile, ID: id}.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "run `kassett repair index`",
		}
	}
	return c, nil
}

// Has reports whether the repository has a blob that may be relied on.
func (r *Repository) Has(h BlobHandle) bool {
	if packs := r.doomed.packs.Load(); packs != nil && len(*packs) > 0 {
		return r.hasSafely(h)
	}
	return r.table.Has(h)
}

// Find returns one place of a blob.
func (r *Repository) Find(h BlobHandle) (Location, bool) { return r.table.Find(h) }

// Lookup returns all places of a blob, nil when the repository has none.
func (r *Repository) Lookup(h BlobHandle) []Location { return r.table.Lookup(h) }

// BlobSize returns the length of a blob's plaintext in bytes.
func (r *Repository) BlobSize(h BlobHandle) (uint32, bool) {
	l, ok := r.table.Find(h)
	return l.Size(), ok
}

// Blobs yields every place of every blob, in the order of blob IDs; data comes
// before a tree of the same ID, then pack and offset decide. What is saved
// meanwhile may be left out. Should the table break and not be made anew, it
// ends early; the next [Repository.LoadIndex] says why.
func (r *Repository) Blobs() iter.Seq[Location] {
	return func(yield func(Location) bool) { _ = r.table.Each(yield) }
}

// ByPack calls fn for every known pack, in the order of pack IDs, with its blobs
// by offset, valid during fn only. It takes about 24 bytes of memory for each
// pack, and 8 for each blob up to 128 MiB. An error of fn ends it and is
// returned.
func (r *Repository) ByPack(fn func(pack kassett.ID, blobs []Blob) error) error {
	return r.table.ByPack(fn)
}

// NewBlobSet returns an empty set. It takes an eighth of a byte for each known
// place of a blob, and must not be used after the repository is closed.
func (r *Repository) NewBlobSet() *BlobSet { return r.table.NewSet() }
