package snapshot

import (
	"context"

	"kassett"
	"kassett/repo"
)

// retain makes storage with object lock retain all that the trees lead to,
// before snapshots with these trees are written.
func retain(ctx context.Context, r *repo.Repository, trees []kassett.ID) error {
	return r.Retain(ctx, repo.Needs{Trees: trees, Used: func(ctx context.Context) (*repo.BlobSet, error) {
		return Used(ctx, r, trees, nil)
	}})
}

// retain does the same before the snapshot of a backup is written. Nothing but
// its writer and the parent can have led to what the tree needs, so nothing else
// is looked at while the parent's needs are retained for long enough. When a
// file that is needed is gone, or another was put in its place, the snapshot is
// saved all the same, and what is wrong is named.
func (b *backup) retain(ctx context.Context, tree kassett.ID) error {
	n := repo.Needs{Trees: []kassett.ID{tree}, Saved: b.resumed == nil, Progress: b.opt.Progress}
	n.Used = func(ctx context.Context) (*repo.BlobSet, error) { return Used(ctx, b.repo, n.Trees, b.opt.Progress) }
	if p := b.opt.Parent; p != nil {
		n.Bases = []kassett.ID{p.Tree}
		if b.unchanged(tree) {
			n.Snapshots = []kassett.ID{p.ID} // it stands for the one that is not written
		}
	}
	err := b.repo.Retain(ctx, n)
	if kassett.KindOf(err) == kassett.Corrupt {
		b.warn("", err)
		return nil
	}
	return err
}
