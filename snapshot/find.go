package snapshot

import (
	"context"
	"errors"
	"time"

	"kassett"
	"kassett/repo"
)

// FindOptions choose what [FindNodes] finds.
type FindOptions struct {
	Select         Select    // nil finds everything
	Oldest, Newest time.Time // of the content's last change; zero is no limit
}

// FindNodes calls fn for the nodes below a tree that o chooses, in the order of
// [Walk] and with its errors.
func FindNodes(ctx context.Context, r *repo.Repository, tree kassett.ID, o FindOptions, fn func(path string, n *Node) error) error {
	return errors.ErrUnsupported
}

// ObjectKind is what the IDs of a search are of.
type ObjectKind string

// The kinds of object that can be searched for.
const (
	BlobObject ObjectKind = "blob"
	TreeObject ObjectKind = "tree"
	PackObject ObjectKind = "pack" // finds all blobs of the pack
)

// Hit is one place where an object is used.
type Hit struct {
	Kind     ObjectKind // BlobObject or TreeObject
	ID       kassett.ID
	Path     string     // from "/" on
	Parent   kassett.ID // tree that holds the file, for a BlobObject
	Snapshot *Snapshot
	Packs    []kassett.ID // where it rests
}

// FindObjects calls fn for the places in the snapshots that use the objects
// with these IDs, or beginnings of IDs. IDs that name nothing in the index are
// a [kassett.NotFound] error.
func FindObjects(ctx context.Context, r *repo.Repository, list []*Snapshot, kind ObjectKind, ids []string, fn func(Hit) error) error {
	return errors.ErrUnsupported
}
