package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"kassett"
	"kassett/repo"
)

// CopyOptions say how [Copy] reports.
type CopyOptions struct {
	Progress *kassett.Progress
	// Done, if not nil, is told of each snapshot: its copy, and whether that was
	// there already.
	Done func(from, to *Snapshot, there bool)
}

// Copy copies snapshots, with all they need, from one repository to another.
// Copies keep time, host, paths and tags, and name what they are copies of;
// those that are there already are passed over. A snapshot that is damaged is
// named in the error, and the others are copied. The caller has loaded both
// indexes and holds a shared lock of both.
func Copy(ctx context.Context, src, dst *repo.Repository, list []*Snapshot, o CopyOptions) (repo.CopyStats, error) {
	there, err := List(ctx, dst, Filter{})
	if err != nil {
		return repo.CopyStats{}, fmt.Errorf("read snapshots of the target: %w", err)
	}
	known := map[kassett.ID][]*Snapshot{}
	for _, s := range there {
		known[s.ID] = append(known[s.ID], s)
		if s.Original != nil {
			known[*s.Original] = append(known[*s.Original], s)
		}
	}
	var missing []*Snapshot
	for _, s := range list {
		i := slices.IndexFunc(known[s.first()], s.alike)
		if i < 0 {
			missing = append(missing, s)
		} else if o.Done != nil {
			o.Done(s, known[s.first()][i], true)
		}
	}
	if len(missing) == 0 {
		return repo.CopyStats{}, nil
	}
	stats, err := copyBatch(ctx, src, dst, missing, o)
	if err == nil || len(missing) == 1 || !damaged(err) {
		return stats, err
	}
	// One of them is damaged: what was copied stays, so one by one costs little.
	var bad []error
	for _, s := range missing {
		more, err := copyBatch(ctx, src, dst, []*Snapshot{s}, o)
		stats.Blobs += more.Blobs
		stats.Bytes += more.Bytes
		if err != nil && !damaged(err) {
			return stats, err
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("copy snapshot %s: %w", s.ID.Short(), err))
		}
	}
	return stats, errors.Join(bad...)
}

// damaged reports whether an error says that stored data is bad or missing.
func damaged(err error) bool {
	k := kassett.KindOf(err)
	return k == kassett.Corrupt || k == kassett.NotFound
}

// first returns the ID of the first of the snapshot's line.
func (s *Snapshot) first() kassett.ID {
	if s.Original != nil {
		return *s.Original
	}
	return s.ID
}

// alike reports whether all that a copy keeps is equal.
func (s *Snapshot) alike(o *Snapshot) bool {
	return s.Time.Equal(o.Time) && s.Tree == o.Tree && s.Hostname == o.Hostname && s.Username == o.Username &&
		s.UID == o.UID && s.GID == o.GID && slices.Equal(set(s.Paths), set(o.Paths)) &&
		slices.Equal(s.Excludes, o.Excludes) && slices.Equal(set(s.Tags), set(o.Tags))
}

// copyBatch copies all blobs of the snapshots in order of packs, and then saves
// the snapshots.
func copyBatch(ctx context.Context, src, dst *repo.Repository, list []*Snapshot, o CopyOptions) (repo.CopyStats, error) {
	trees := make([]kassett.ID, len(list))
	for i, s := range list {
		trees[i] = s.Tree
	}
	o.Progress.Enter("read trees")
	used, err := Used(ctx, src, trees, o.Progress)
	if err != nil {
		return repo.CopyStats{}, err
	}
	stats, err := repo.CopyBlobs(ctx, src, dst, used, o.Progress)
	if err != nil {
		return stats, err
	}
	for _, s := range list {
		next := s.successor()
		next.Parent = nil // it is not in the other repository
		if _, err := Save(ctx, dst, next); err != nil {
			return stats, err
		}
		if o.Done != nil {
			o.Done(s, next, false)
		}
	}
	return stats, nil
}
