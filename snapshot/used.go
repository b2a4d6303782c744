package snapshot

import (
	"context"
	"fmt"

	"kassett"
	"kassett/repo"
)

// Used returns the blobs that the trees, and all that is below them, are made
// of. A tree that cannot be read is an error: what it uses is not known. The
// caller has loaded the index.
func Used(ctx context.Context, r *repo.Repository, trees []kassett.ID, p *kassett.Progress) (*repo.BlobSet, error) {
	used := r.NewBlobSet()
	if err := AddUsed(ctx, r, used, trees, p); err != nil {
		return nil, err
	}
	return used, nil
}

// AddUsed adds the blobs that the trees are made of, and all that is below them,
// to a set that holds nothing else: a tree that is in it already was added with
// all that is below it. The caller has loaded the index.
func AddUsed(ctx context.Context, r *repo.Repository, used *repo.BlobSet, trees []kassett.ID, p *kassett.Progress) error {
	s := &stream{r: r, seen: used, p: p, visit: func(at treeAt, t *Tree, err error) error {
		if err != nil {
			err = fmt.Errorf("folder %q below tree %s: %w", at.path, trees[at.root].Short(), err)
			if kassett.KindOf(err) == kassett.NotFound { // what a snapshot names must be there
				err = &kassett.Error{
					Op: "find what is used", Kind: kassett.Corrupt, Err: err,
					Hint: "run check to see what is damaged; repair index, if an index file is missing",
				}
			}
			return err
		}
		addContent(used, t)
		return nil
	}}
	if err := s.run(ctx, trees); err != nil {
		return err
	}
	return used.Err()
}

// addContent adds the data blobs of a folder's files.
func addContent(set *repo.BlobSet, t *Tree) {
	for _, n := range t.Nodes {
		for _, id := range n.Content {
			set.Add(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		}
	}
}
