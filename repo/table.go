package repo

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"kassett"
)

type table struct {
	mu      sync.RWMutex
	places  map[BlobHandle][]Location
	indexed map[kassett.ID]bool
}

func (t *table) add(index kassett.ID, packs []indexedPack) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.places == nil {
		t.places = make(map[BlobHandle][]Location)
		t.indexed = make(map[kassett.ID]bool)
	}
	if t.indexed[index] {
		return
	}
	t.indexed[index] = true
	for _, p := range packs {
		for _, b := range p.blobs {
			t.places[b.BlobHandle] = append(t.places[b.BlobHandle], Location{p.id, b})
		}
	}
}

// LoadIndex brings the blob table up to date with the index files.
func (r *Repository) LoadIndex(ctx context.Context, p *kassett.Progress) error {
	r.table.mu.Lock()
	r.table.places, r.table.indexed = nil, nil
	r.table.mu.Unlock()
	for info, err := range r.List(ctx, kassett.IndexFile) {
		if err != nil {
			return err
		}
		data, err := r.LoadUnpacked(ctx, kassett.IndexFile, info.ID)
		if err != nil {
			return err
		}
		var packs []indexedPack
		if err := decodeIndex(data, func(id kassett.ID, blobs []Blob) error {
			packs = append(packs, indexedPack{id, slices.Clone(blobs)})
			return nil
		}); err != nil {
			return damagedFile(info.Handle, err)
		}
		r.table.add(info.ID, packs)
	}
	return nil
}

// Lookup returns all places of a blob.
func (r *Repository) Lookup(h BlobHandle) []Location {
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	return slices.Clone(r.table.places[h])
}

// Find returns one place of a blob.
func (r *Repository) Find(h BlobHandle) (Location, bool) {
	l := r.Lookup(h)
	if len(l) == 0 {
		return Location{}, false
	}
	return l[0], true
}

// Has reports whether the repository has a blob.
func (r *Repository) Has(h BlobHandle) bool {
	r.table.mu.RLock()
	defer r.table.mu.RUnlock()
	return len(r.table.places[h]) > 0
}

// BlobSize returns the length of a blob's plaintext in bytes.
func (r *Repository) BlobSize(h BlobHandle) (uint32, bool) {
	l, ok := r.Find(h)
	return l.Size(), ok
}

// Blobs yields every record of the table.
func (r *Repository) Blobs() iter.Seq[Location] {
	return func(yield func(Location) bool) {
		r.table.mu.RLock()
		var all []Location
		for _, l := range r.table.places {
			all = append(all, l...)
		}
		r.table.mu.RUnlock()
		slices.SortFunc(all, func(a, b Location) int {
			return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Type, b.Type), a.Pack.Compare(b.Pack), cmp.Compare(a.Offset, b.Offset))
		})
		for _, l := range all {
			if !yield(l) {
				return
			}
		}
	}
}

// ByPack calls fn for every pack with its blobs by offset.
func (r *Repository) ByPack(fn func(pack kassett.ID, blobs []Blob) error) error {
	packs := make(map[kassett.ID][]Blob)
	for l := range r.Blobs() {
		packs[l.Pack] = append(packs[l.Pack], l.Blob)
	}
	for id, blobs := range packs {
		slices.SortFunc(blobs, func(a, b Blob) int { return cmp.Compare(a.Offset, b.Offset) })
		if err := fn(id, blobs); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) broken() error { return nil }
