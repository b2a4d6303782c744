package repo

import (
	"context"
	"slices"
	"time"

	"kassett"
	"kassett/repo/pruneplan"
)

// Held counts the packs that a prune would remove, and that the storage retains.
// The prune after Until removes the last of them, unless a later snapshot needs
// what is in it.
type Held struct {
	Packs int       `json:"packs"`
	Until time.Time `json:"until,omitzero"`
}

// Add adds what another part of a prune has counted.
func (h *Held) Add(o Held) {
	h.Packs += o.Packs
	if o.Until.After(h.Until) {
		h.Until = o.Until
	}
}

// keepHeld finds the packs that are not to be rewritten, since the storage
// retains them: the room they take would not be free for a long time. Those that
// are needed by less than half are worth a copy all the same. It is called before
// anything is decided.
func (p *pruning) keepHeld(ctx context.Context, l pruneplan.Limits) error {
	k := p.r.retained
	if k == nil {
		return nil
	}
	var ask []kassett.ID
	for _, i := range p.plan.Halves(l) {
		ask = append(ask, p.table.packs[i].id)
	}
	held, err := k.keeper.Held(ctx, kassett.PackFile, ask)
	if err != nil {
		return err
	}
	stay := pruneplan.NewBitmap(len(p.table.packs))
	for id := range held {
		if i, ok := findPack(p.table.packs, id); ok {
			stay.Set(uint32(i)) //nolint:gosec // a position
		}
	}
	p.plan.Stay(stay)
	return nil
}

// replaceRetained is what [Repository.rewriteIndex] is on storage that retains
// files: index files that must stay are replaced all the same, once, so that the
// lock of those that nobody needs any more ends. What they still name stays too.
func (s *sweep) replaceRetained(ctx context.Context, files []kassett.ID) error {
	superseded, err := s.r.superseded(ctx)
	if err != nil {
		return err
	}
	ids, err := s.r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, old := superseded[id]; old && !slices.Contains(files, id) {
			files = append(files, id) // its lock may have ended
		}
	}
	held, err := s.r.retained.keeper.Held(ctx, kassett.IndexFile, files)
	if err != nil {
		return err
	}
	// Small ones are put together only where that gets rid of them.
	files = slices.DeleteFunc(files, func(id kassett.ID) bool {
		_, stays := held[id]
		_, old := superseded[id]
		return stays && !old && !slices.ContainsFunc(s.notes[id].packs, s.goes)
	})
	named := s.namedElsewhere(ids, files)
	x := s.r.newReindexer()
	err = side(ctx, s.r, files, func(ctx context.Context, id kassett.ID) error {
		defer s.progress.Done(1, 0)
		return s.r.eachIndexed(ctx, id, func(pack kassett.ID, blobs []Blob) error {
			if _, is := named[pack]; is || s.goes(pack) {
				return nil
			}
			return x.add(ctx, pack, blobs)
		})
	})
	if err == nil {
		err = x.finish(ctx)
	}
	if err != nil {
		return err
	}
	var free, stay []kassett.ID
	s.blocked = make(map[kassett.ID]time.Time)
	for _, id := range files {
		until, stays := held[id]
		if !stays {
			free = append(free, id)
			continue
		}
		stay = append(stay, id)
		for _, pack := range s.notes[id].packs {
			if until.After(s.blocked[pack]) {
				s.blocked[pack] = until
			}
		}
	}
	if err := s.r.supersede(ctx, stay); err != nil {
		return err
	}
	return s.r.deleteAll(ctx, kassett.IndexFile, free, nil)
}

// namedElsewhere returns the packs that index files name which are not to be
// replaced.
func (s *sweep) namedElsewhere(all, files []kassett.ID) map[kassett.ID]struct{} {
	named := make(map[kassett.ID]struct{})
	for _, id := range all {
		if slices.Contains(files, id) {
			continue
		}
		for _, pack := range s.notes[id].packs {
			named[pack] = struct{}{}
		}
	}
	return named
}

// putOff returns the packs that may be deleted now, and counts the others.
func (s *sweep) putOff(ctx context.Context, packs []kassett.ID) ([]kassett.ID, error) {
	if s.r.retained == nil {
		return packs, nil
	}
	held, err := s.r.retained.keeper.Held(ctx, kassett.PackFile, packs)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(packs, func(id kassett.ID) bool {
		until, stays := held[id]
		if late, blocked := s.blocked[id]; blocked && late.After(until) {
			until, stays = late, true
		}
		if stays {
			s.stats.Held.Add(Held{1, until})
		}
		return stays
	}), nil
}
