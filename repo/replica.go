package repo

import (
	"context"
	"fmt"
	"slices"

	"kassett"
)

// InitReplica makes a second place of like: a new, empty repository with its
// ID, its master key and its chunker polynomial, and with a password of its
// own. Sealed packs, index entries and snapshots of the one are good in the
// other, byte for byte, so [CopyBlobs] moves them whole; and who can read one
// can read both. A place that holds a repository already is an [kassett.Exists]
// error and is left as it is. Of o, Version and Polynomial are not looked at.
func InitReplica(ctx context.Context, st kassett.Storage, password []byte, like *Repository, o InitOptions) (*Repository, error) {
	if err := mustBeEmpty(ctx, st); err != nil {
		return nil, err
	}
	return makeRepository(ctx, st, password, sealedConfig{like.Config(), like.key}, o)
}

// ReplicaOf reports whether r and other are two places of one repository: what
// is sealed in the one opens in the other. Repositories that claim to be, by
// their ID, and are not, or whose formats differ, are an [kassett.Invalid]
// error, since neither is safe to copy to from the other.
func (r *Repository) ReplicaOf(other *Repository) (bool, error) {
	mine, theirs := r.Config(), other.Config()
	if mine.ID != theirs.ID {
		return false, nil
	}
	refuse := func(hint, format string, args ...any) (bool, error) {
		return false, &kassett.Error{
			Op: "compare repositories", What: mine.ID[:10], Kind: kassett.Invalid, Hint: hint,
			Err: fmt.Errorf("both have this ID, but "+format, args...),
		}
	}
	switch {
	case !r.key.Equal(other.key):
		return refuse("one of them is not what it seems: find out who made it; a second place is made by kassett init --replica-of",
			"their master keys differ")
	case mine.ChunkerPolynomial != theirs.ChunkerPolynomial:
		return refuse("the config of one of them was changed: put it back from a copy",
			"they cut content differently (polynomials %x and %x)", uint64(mine.ChunkerPolynomial), uint64(theirs.ChunkerPolynomial))
	case mine.Version != theirs.Version:
		return refuse("bring both to the same version: kassett migrate upgrade_repo_v2",
			"one has format version %d and the other %d", mine.Version, theirs.Version)
	}
	return true, nil
}

// CopySnapshot stores a snapshot of src in r, which is a replica of it, under its
// own ID, byte for byte. All blobs it leads to must be durable and in the index.
// With verify the file is read back from the storage. One that is there already
// is no error.
func (r *Repository) CopySnapshot(ctx context.Context, src *Repository, id kassett.ID, verify bool) error {
	h := kassett.Handle{Kind: kassett.SnapshotFile, ID: id}
	sealed, _, err := src.loadUnpacked(ctx, h)
	if err != nil {
		return err
	}
	if err := r.put(ctx, h, kassett.BytesBody(sealed, id)); kassett.KindOf(err) == kassett.Exists {
		verify = true
	} else if err != nil {
		return err
	}
	if verify {
		return r.verifyStored(ctx, h, int64(len(sealed)))
	}
	return nil
}

// SamePlace reports whether r and other rest in the same place, by whatever
// names it was reached. Both are locked by the caller: then the locks of the one
// are seen in the other, and only there.
func (r *Repository) SamePlace(ctx context.Context, other *Repository) (bool, error) {
	if r.place != other.place {
		return false, nil // the seal of a config is never made twice
	}
	mine, err := r.listIDs(ctx, kassett.LockFile)
	if err != nil {
		return false, err
	}
	theirs, err := other.listIDs(ctx, kassett.LockFile)
	return len(mine) > 0 && slices.Equal(mine, theirs), err
}
