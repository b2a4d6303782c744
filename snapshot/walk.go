package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// Walk calls fn for every node below a tree, a folder before what is in it and
// names in order. Paths are slash-separated and begin with a slash: the tree
// itself is "/", for which fn is not called. fn returns fs.SkipDir to leave out
// what is in a folder, and fs.SkipAll to end without an error.
//
// Folders whose tree cannot be read are passed over and named in the error,
// which is of the kind [kassett.Corrupt].
func Walk(ctx context.Context, r *repo.Repository, tree kassett.ID, fn func(path string, n *Node) error) error {
	return errors.ErrUnsupported
}

// Locate returns the node at a path below a tree. The tree itself, "" or "/",
// is a folder without a name.
func Locate(ctx context.Context, r *repo.Repository, tree kassett.ID, path string) (*Node, error) {
	return nil, errors.ErrUnsupported
}

// Folder returns the tree of the folder at a path below a tree. Anything else
// there is an [kassett.Invalid] error.
func Folder(ctx context.Context, r *repo.Repository, tree kassett.ID, path string) (kassett.ID, error) {
	return kassett.ID{}, errors.ErrUnsupported
}
