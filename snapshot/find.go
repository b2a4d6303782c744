package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
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
	if o.Select == nil {
		o.Select = all
	}
	return Walk(ctx, r, tree, func(path string, n *Node) error {
		selected, below := o.Select(path, n)
		if selected && !n.ModTime.Before(o.Oldest) && (o.Newest.IsZero() || !n.ModTime.After(o.Newest)) {
			if err := fn(path, n); err != nil {
				return err
			}
		}
		if n.Type == kassett.Dir && !below {
			return fs.SkipDir
		}
		return nil
	})
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
}

// FindObjects calls fn for the places in the snapshots that use the objects
// with these IDs, or beginnings of IDs. An ID that nothing in the index has is
// a [kassett.NotFound] error. Folders that cannot be read are named in the
// error, as by [Walk].
func FindObjects(ctx context.Context, r *repo.Repository, list []*Snapshot, kind ObjectKind, ids []string, fn func(Hit) error) error { //nolint:revive // kind and ids are one thing
	wanted, err := resolveObjects(r, kind, ids)
	if err != nil {
		return err
	}
	is := func(t repo.BlobType, id kassett.ID) bool {
		_, ok := wanted[repo.BlobHandle{Type: t, ID: id}]
		return ok
	}
	var bad []error
	for _, s := range list {
		if is(repo.TreeBlob, s.Tree) {
			if err := fn(Hit{Kind: TreeObject, ID: s.Tree, Path: "/", Snapshot: s}); err != nil {
				return err
			}
		}
		parents := []kassett.ID{s.Tree}
		depth := func(path string) int { return strings.Count(path, "/") - 1 }
		err := Walk(ctx, r, s.Tree, func(path string, n *Node) error {
			parents = parents[:min(depth(path)+1, len(parents))]
			parent := parents[len(parents)-1]
			if n.Type == kassett.Dir {
				parents = append(parents, n.Subtree)
				if is(repo.TreeBlob, n.Subtree) {
					return fn(Hit{Kind: TreeObject, ID: n.Subtree, Path: path, Snapshot: s})
				}
				return nil
			}
			for i, id := range n.Content {
				if is(repo.DataBlob, id) && !slices.Contains(n.Content[:i], id) {
					if err := fn(Hit{Kind: BlobObject, ID: id, Path: path, Parent: parent, Snapshot: s}); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil && kassett.KindOf(err) != kassett.Corrupt {
			return err
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("snapshot %s: %w", s.ID.Short(), err))
		}
	}
	return errors.Join(bad...)
}

// resolveObjects turns the IDs into the blobs to look for.
func resolveObjects(r *repo.Repository, kind ObjectKind, ids []string) (map[repo.BlobHandle]struct{}, error) {
	wanted := map[repo.BlobHandle]struct{}{}
	found := make([]bool, len(ids))
	for loc := range r.Blobs() {
		text := loc.ID.String()
		switch {
		case kind == PackObject:
			text = loc.Pack.String()
		case (kind == TreeObject) != (loc.Type == repo.TreeBlob):
			continue
		}
		for i, id := range ids {
			if id != "" && strings.HasPrefix(text, id) {
				wanted[loc.BlobHandle] = struct{}{}
				found[i] = true
			}
		}
	}
	if i := slices.Index(found, false); i >= 0 {
		return nil, &kassett.Error{
			Op: "find " + string(kind), What: fmt.Sprintf("%.80q", ids[i]), Kind: kassett.NotFound,
			Hint: "give an ID, or its first digits, as other commands print it",
		}
	}
	return wanted, nil
}
