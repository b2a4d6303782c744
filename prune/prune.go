// Package prune removes what no snapshot needs from a repository in which others
// are at work: it marks what shall go, waits for those who may rely on it, and
// has it removed under a lock that lasts for seconds. docs/formats/doomed.md has
// the protocol, and why nothing is lost by it; the marking and the removing
// themselves are done by package repo.
package prune

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// Options say how [Run] works.
type Options struct {
	repo.PruneOptions
	// MarkOnly leaves it to a later prune to remove what this one marks.
	MarkOnly bool
	// Lock says how long to wait for others who are at work, and whom to tell.
	Lock repo.LockOptions
	// Notice is told what an operator should know. It may be nil.
	Notice func(msg string)
}

// Result is what a prune did.
type Result struct {
	repo.PruneStats
	Swept repo.SweepStats
	// Left are the doomed lists that a later prune has to sweep.
	Left int
}

// Run removes what no snapshot needs, beside others who back up: it marks what
// shall go, then removes it under a lock that keeps others out for seconds only.
// While someone works who may rely on what is marked it waits for as long as
// o.Lock.Retry says; the error is then [kassett.Locked], and the next prune goes
// on. Each snapshot must be readable: what one needs that cannot be read is not
// known. It takes its locks itself. See docs/formats/doomed.md.
//
// On storage that has no place for a list of what is marked, and in a dry run,
// all is done under one lock, which is exclusive unless it is a dry run.
func Run(ctx context.Context, r *repo.Repository, o Options) (*Result, error) {
	p := &pruning{r: r, o: &o}
	_, beside := kassett.As[kassett.Beside](r.Storage())
	switch {
	case o.DryRun:
		return &p.done, r.Hold(ctx, repo.Shared, o.Lock, p.alone)
	case !beside && o.MarkOnly:
		return nil, &kassett.Error{
			Op: "mark what is not needed", Kind: kassett.Invalid, Err: errors.New("this storage has no place for a list of it"),
			Hint: "prune when nobody else is at work",
		}
	case !beside:
		if o.Notice != nil {
			o.Notice("this storage has no place for a list of what is removed: nobody else can work in the repository meanwhile")
		}
		return &p.done, r.Hold(ctx, repo.Exclusive, o.Lock, p.alone)
	}
	if err := r.Hold(ctx, repo.Shared, o.Lock, p.mark); err != nil {
		return nil, err
	}
	lists, err := r.DoomedLists(ctx)
	if err == nil && !o.MarkOnly {
		lists, err = p.sweepAll(ctx, lists)
	}
	p.done.Left = len(lists)
	return &p.done, err
}

// pruning is one Run at work.
type pruning struct {
	r    *repo.Repository
	o    *Options
	used *repo.BlobSet           // what the snapshots need that were looked at
	seen map[kassett.ID]struct{} // those
	gone bool                    // some of them are no longer there
	m    *repo.Marking
	done Result
}

// alone does all of it under one lock.
func (p *pruning) alone(ctx context.Context, _ *repo.Lock) error {
	err := p.look(ctx)
	if err == nil {
		p.done.PruneStats, err = p.r.Prune(ctx, p.used, p.o.PruneOptions)
	}
	return err
}

func (p *pruning) mark(ctx context.Context, _ *repo.Lock) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	m, err := p.r.Mark(ctx, p.used, p.o.PruneOptions)
	if err == nil {
		p.m, p.done.PruneStats = m, m.Stats
	}
	return err
}

// look finds what snapshots need that it has not seen yet. Snapshots are listed
// before the index is loaded, so that what they need is in it.
func (p *pruning) look(ctx context.Context) error {
	list, err := p.unseen(ctx)
	if err != nil {
		return &kassett.Error{
			Op: "prune", Kind: kassett.KindOf(err), Err: err,
			Hint: "nothing was removed, since what these snapshots need is not known; bring them back from a copy, or remove them with their IDs by kassett forget",
		}
	}
	p.o.Progress.Enter("read index")
	if err := p.r.LoadIndex(ctx, p.o.Progress); err != nil {
		return err
	}
	p.o.Progress.Enter("find what is needed")
	trees := make([]kassett.ID, len(list))
	for i, s := range list {
		trees[i] = s.Tree
	}
	if p.used == nil {
		p.used = p.r.NewBlobSet()
	}
	if err := snapshot.AddUsed(ctx, p.r, p.used, trees, p.o.Progress); err != nil {
		return err
	}
	for _, s := range list {
		p.seen[s.ID] = struct{}{}
	}
	return nil
}

// unseen returns the snapshots that were not seen yet.
func (p *pruning) unseen(ctx context.Context) ([]*snapshot.Snapshot, error) {
	if p.seen == nil {
		p.seen = make(map[kassett.ID]struct{})
		return snapshot.List(ctx, p.r, snapshot.Filter{})
	}
	var list []*snapshot.Snapshot
	still := 0
	for info, err := range p.r.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return nil, err
		}
		if _, is := p.seen[info.ID]; is {
			still++
			continue
		}
		s, err := snapshot.Load(ctx, p.r, info.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	p.gone = still < len(p.seen)
	return list, nil
}

// sweepAll sweeps the lists as soon as nobody is in the way, and returns those
// that are left.
func (p *pruning) sweepAll(ctx context.Context, lists []kassett.ID) ([]kassett.ID, error) {
	deadline := time.Now().Add(p.o.Lock.Retry)
	for len(lists) > 0 {
		lock := p.o.Lock
		lock.Retry, lock.Lists = max(0, time.Until(deadline)), lists
		p.o.Progress.Enter("wait for others")
		began := false
		err := p.r.Hold(ctx, repo.Sweeping, lock, func(ctx context.Context, l *repo.Lock) error {
			began = true
			err := p.sweep(ctx, l)
			if err == nil {
				lists = slices.DeleteFunc(slices.Clone(lists), func(id kassett.ID) bool { return slices.Contains(l.Lists(), id) })
			}
			return err
		})
		if kassett.KindOf(err) == kassett.Locked && !began {
			err = &kassett.Error{
				Op: "prune", Kind: kassett.Locked, Err: err,
				Hint: "what nobody needs is marked, and new backups do not rely on it; prune again when those who were at work have ended, or let --retry-lock wait",
			}
		}
		if err != nil {
			return lists, err
		}
	}
	return nil, nil
}

// sweep removes what was marked and is still not needed.
func (p *pruning) sweep(ctx context.Context, l *repo.Lock) error {
	if err := p.look(ctx); err != nil {
		return err
	}
	stats, err := p.m.Sweep(ctx, l, p.used)
	if errors.Is(err, repo.ErrLostBlobs) && p.gone {
		// Someone has forgotten snapshots, and pruned, since we looked at them.
		p.used, p.seen = nil, nil
		if err := p.look(ctx); err != nil {
			return err
		}
		stats, err = p.m.Sweep(ctx, l, p.used)
	}
	p.done.Swept.Lists += stats.Lists
	p.done.Swept.Packs += stats.Packs
	p.done.Swept.Spared += stats.Spared
	p.done.Swept.Held.Add(stats.Held)
	if err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	return nil
}
