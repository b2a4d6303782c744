package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo"
)

// CopyOptions say how [Copy] works and reports. The zero value is good.
type CopyOptions struct {
	repo.CopyOptions
	// Done, if not nil, is told of each snapshot at each target, by the
	// target's place in the list: what it is there, and whether it was there
	// already. In a dry run to is nil where a copy would be made.
	Done func(target int, from, to *Snapshot, there bool)
}

// Copy copies snapshots, with all they need, from one repository to others, in
// one pass over the source. A replica of the source gets the same snapshots,
// byte for byte; elsewhere copies keep time, host, paths and tags, and name what
// they are copies of. Those that are there already are passed over.
//
// What goes wrong with one target is noted in its Err, and the others go on. A
// snapshot that is damaged is named in the error, and the others are copied. The
// caller has loaded all indexes and holds a shared lock of each repository.
func Copy(ctx context.Context, src *repo.Repository, targets []*repo.CopyTarget, list []*Snapshot, o CopyOptions) error {
	c := copying{src: src, o: o, targets: targets, missing: make([][]*Snapshot, len(targets))}
	wanted := make(map[kassett.ID]bool)
	for i, t := range targets {
		if t.Err != nil {
			continue
		}
		if c.missing[i], t.Err = c.lacking(ctx, i, list); ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, s := range c.missing[i] {
			wanted[s.ID] = true
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s *Snapshot) bool { return !wanted[s.ID] })
	used, list, bad := c.used(ctx, list)
	if used == nil {
		return bad
	}
	had, err := repo.CopyBlobs(ctx, src, used, targets, o.CopyOptions)
	if err != nil {
		if !damaged(err) || ctx.Err() != nil {
			return err
		}
		bad = errors.Join(bad, err)
		list, err = c.covered(ctx, had, list)
		bad = errors.Join(bad, err)
	}
	var g errgroup.Group
	for i, t := range targets {
		g.Go(func() error {
			if t.Err == nil {
				t.Err = c.save(cmp.Or(t.Held, ctx), i, list)
			}
			return nil
		})
	}
	_ = g.Wait() // each target has its own error
	return cmp.Or(context.Cause(ctx), bad)
}

// copying is one copy at work.
type copying struct {
	src     *repo.Repository
	o       CopyOptions
	targets []*repo.CopyTarget
	missing [][]*Snapshot // by target
}

// lacking returns the snapshots that a target does not have.
func (c *copying) lacking(ctx context.Context, target int, list []*Snapshot) ([]*Snapshot, error) {
	there, err := List(ctx, c.targets[target].Repo, Filter{})
	if err != nil {
		return nil, fmt.Errorf("read snapshots of the target: %w", err)
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
		} else {
			c.done(target, s, known[s.first()][i], true)
		}
	}
	return missing, nil
}

func (c *copying) done(target int, from, to *Snapshot, there bool) {
	if c.o.Done != nil {
		c.o.Done(target, from, to, there)
	}
}

// used returns the blobs of the snapshots, and those snapshots of which all
// trees can be read; the others are named in the error. The set is nil when there
// is nothing to copy.
func (c *copying) used(ctx context.Context, list []*Snapshot) (*repo.BlobSet, []*Snapshot, error) {
	if len(list) == 0 {
		return nil, nil, nil
	}
	c.o.Progress.Enter("read trees")
	used, err := Used(ctx, c.src, treesOf(list), c.o.Progress)
	if err == nil || !damaged(err) || ctx.Err() != nil {
		return used, list, err
	}
	var good []*Snapshot
	var bad []error
	for _, s := range list {
		switch _, err := Used(ctx, c.src, treesOf([]*Snapshot{s}), nil); {
		case err == nil:
			good = append(good, s)
		case !damaged(err) || ctx.Err() != nil:
			return nil, nil, err
		default:
			bad = append(bad, notCopied(s, err))
		}
	}
	if len(good) == 0 {
		return nil, nil, errors.Join(bad...)
	}
	if used, err = Used(ctx, c.src, treesOf(good), nil); err != nil {
		return nil, nil, err
	}
	return used, good, errors.Join(bad...)
}

// covered returns the snapshots of which all blobs could be had, and names the
// others in the error.
func (c *copying) covered(ctx context.Context, had *repo.BlobSet, list []*Snapshot) ([]*Snapshot, error) {
	var good []*Snapshot
	var bad []error
	for _, s := range list {
		used, err := Used(ctx, c.src, treesOf([]*Snapshot{s}), nil)
		if err == nil && !c.src.Covers(had, used) {
			err = &kassett.Error{
				Kind: kassett.Corrupt, Err: errors.New("some of its content is damaged"),
				Hint: "run `kassett check --read-data` on the source, and put what is damaged back from a copy",
			}
		}
		if err != nil {
			bad = append(bad, notCopied(s, err))
			continue
		}
		good = append(good, s)
	}
	return good, errors.Join(bad...)
}

func notCopied(s *Snapshot, err error) error {
	return fmt.Errorf("copy snapshot %s: %w", s.ID.Short(), err)
}

// save writes the snapshots that a target lacks, and all of whose blobs are
// durable there.
func (c *copying) save(ctx context.Context, target int, list []*Snapshot) error {
	to := c.targets[target].Repo
	replica, err := to.ReplicaOf(c.src)
	if err != nil {
		return err
	}
	todo := slices.DeleteFunc(slices.Clone(list), func(s *Snapshot) bool { return !slices.Contains(c.missing[target], s) })
	if !c.o.DryRun {
		if err := retain(ctx, to, treesOf(todo)); err != nil {
			return err
		}
	}
	for _, s := range todo {
		if c.o.DryRun {
			c.done(target, s, nil, false)
			continue
		}
		next := s
		if replica {
			err = to.CopySnapshot(ctx, c.src, s.ID, c.o.Verify)
		} else {
			next = s.successor()
			next.Parent = nil // it is not in the other repository
			_, err = Save(ctx, to, next)
			if err == nil && c.o.Verify {
				_, err = Load(ctx, to, next.ID)
			}
		}
		if err != nil {
			return notCopied(s, err)
		}
		c.done(target, s, next, false)
	}
	return nil
}

// treesOf returns the root trees of snapshots.
func treesOf(list []*Snapshot) []kassett.ID {
	trees := make([]kassett.ID, len(list))
	for i, s := range list {
		trees[i] = s.Tree
	}
	return trees
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
