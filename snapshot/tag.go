package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kassett"
	"kassett/repo"
)

// TagChange says what to do with a snapshot's tags: Set replaces them all (a
// single empty tag leaves none), otherwise Add and then Remove. The tags that
// Kassett itself sets stay as they are.
type TagChange struct {
	Set, Add, Remove []string
}

// check returns an [kassett.Invalid] error for a change that makes no sense.
func (c *TagChange) check() error {
	bad := func(why, hint string) error {
		return &kassett.Error{Op: "change tags", Kind: kassett.Invalid, Err: errors.New(why), Hint: hint}
	}
	if len(c.Set) > 0 && len(c.Add)+len(c.Remove) > 0 {
		return bad("tags cannot be both set and added or removed", "use either --set, or --add and --remove")
	}
	if len(c.Set)+len(c.Add)+len(c.Remove) == 0 {
		return bad("nothing to change", "use --set, --add or --remove")
	}
	for _, t := range slices.Concat(c.Set, c.Add, c.Remove) {
		if strings.HasPrefix(t, ownTags) {
			return bad(fmt.Sprintf("%q is a tag that only Kassett itself sets", t), "choose a tag that does not begin with "+ownTags)
		}
	}
	return nil
}

// ownTags is how all tags begin that Kassett itself sets.
const ownTags = "kassett:"

// apply returns the new tags, or false when nothing changes.
func (c *TagChange) apply(tags []string) ([]string, bool) {
	next := slices.Clone(tags)
	if len(c.Set) > 0 {
		next = slices.DeleteFunc(next, func(t string) bool { return !strings.HasPrefix(t, ownTags) })
	}
	for _, t := range slices.Concat(c.Set, c.Add) {
		if t != "" && !slices.Contains(next, t) {
			next = append(next, t)
		}
	}
	next = slices.DeleteFunc(next, func(t string) bool { return slices.Contains(c.Remove, t) })
	return next, !slices.Equal(next, tags)
}

// Replaced is one snapshot that was written anew.
type Replaced struct {
	Old kassett.ID `json:"old_snapshot_id"`
	New kassett.ID `json:"new_snapshot_id"` // zero in a dry run
	// Removed says that the old one is no longer there, or would not be.
	Removed bool `json:"removed"`
}

// Tag changes the tags of the snapshots. Each is saved anew under another ID,
// which done is told, and only then the old file is removed. A change by which
// a snapshot would escape a floor or hold is a [kassett.Held] error; the others
// are changed all the same. The caller holds an exclusive lock.
func Tag(ctx context.Context, r *repo.Repository, list []*Snapshot, c TagChange, done func(Replaced)) error {
	if err := c.check(); err != nil {
		return err
	}
	guard, err := LoadGuard(ctx, r, time.Now())
	if err != nil {
		return err
	}
	var held []error
	for _, s := range list {
		tags, changed := c.apply(s.Tags)
		if !changed {
			continue
		}
		next := s.successor()
		next.Tags = tags
		if err := guard.Replacement(s, next); err != nil {
			held = append(held, err)
			continue
		}
		if err := replace(ctx, r, s, next); err != nil {
			return err
		}
		if done != nil {
			done(Replaced{Old: s.ID, New: next.ID, Removed: true})
		}
	}
	return errors.Join(held...)
}

// successor returns a copy that is to be saved in the place of s and that knows
// the first of its line, by which a hold knows it.
func (s *Snapshot) successor() *Snapshot {
	next := *s
	next.ID = kassett.ID{}
	if next.Original == nil {
		next.Original = &s.ID
	}
	return &next
}

// replace saves next, and when that is durable removes s.
func replace(ctx context.Context, r *repo.Repository, s, next *Snapshot) error {
	if _, err := Save(ctx, r, next); err != nil {
		return fmt.Errorf("replace snapshot %s: %w", s.ID.Short(), err)
	}
	if next.ID == s.ID {
		return nil
	}
	if err := r.Delete(ctx, kassett.SnapshotFile, s.ID); err != nil {
		return fmt.Errorf("remove snapshot %s, which %s replaces: %w", s.ID.Short(), next.ID.Short(), err)
	}
	return nil
}
