package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"kassett"
)

// Index files that others have replaced, and that the storage retains for now,
// are named beside the repository: their lock is not extended any more, and the
// next prune need not replace them again. Each list is sealed JSON and named by
// the SHA-256 of its bytes: docs/formats/retention-hints.md.
const supersededFolder = "superseded"

// maxSuperseded bounds how many lists are read: a hostile writer could leave
// any number. A prune leaves one at most.
const maxSuperseded = 10_000

// supersededMost is how many index files one list names at most.
const supersededMost = 500

// supersededList is the plaintext of a list.
type supersededList struct {
	Indexes []kassett.ID `json:"superseded_indexes"`
}

// superseded returns the index files that are named, there or not. Lists that
// are damaged are passed over: then index files are retained for longer than
// they need.
func (r *Repository) superseded(ctx context.Context) (map[kassett.ID]struct{}, error) {
	all := make(map[kassett.ID]struct{})
	err := r.eachSuperseded(ctx, func(_ string, list supersededList) error {
		for _, id := range list.Indexes {
			all[id] = struct{}{}
		}
		return nil
	})
	return all, err
}

func (r *Repository) eachSuperseded(ctx context.Context, fn func(name string, list supersededList) error) error {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return nil
	}
	var names []string
	for info, err := range beside.ListBeside(ctx, supersededFolder) {
		if err != nil {
			return fmt.Errorf("list superseded index files: %w", err)
		}
		if names = append(names, info.Name); len(names) > maxSuperseded {
			return &kassett.Error{
				Op: "list superseded index files", Kind: kassett.Invalid, Err: fmt.Errorf("there are more than %d lists", maxSuperseded),
				Hint: "somebody else wrote them: remove the folder kassett/superseded",
			}
		}
	}
	for _, name := range names {
		list, err := r.readSuperseded(ctx, beside, name)
		switch kind := kassett.KindOf(err); {
		case kind == kassett.NotFound:
			continue
		case kind == kassett.Corrupt:
			r.warn(err)
			continue
		case err != nil:
			return err
		}
		if err := fn(name, list); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) readSuperseded(ctx context.Context, beside kassett.Beside, name string) (list supersededList, err error) {
	sealed, err := kassett.ReadBeside(ctx, beside, name, maxNote)
	if err != nil {
		return list, fmt.Errorf("read %s: %w", name, err)
	}
	plain, err := r.key.Open(nil, sealed)
	if err == nil {
		err = json.Unmarshal(plain, &list)
	}
	if err != nil {
		return list, &kassett.Error{
			Op: "read", What: name, Kind: kassett.Corrupt, Err: err,
			Hint: "remove it: it only spares work",
		}
	}
	return list, nil
}

// supersede notes index files that are replaced and cannot be removed yet, and
// removes lists of which all index files are gone.
func (r *Repository) supersede(ctx context.Context, stay []kassett.ID) error {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return nil
	}
	ids, err := r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return err
	}
	there := make(map[kassett.ID]struct{}, len(ids))
	for _, id := range ids {
		there[id] = struct{}{}
	}
	fresh := make(map[kassett.ID]struct{}, len(stay))
	for _, id := range stay {
		fresh[id] = struct{}{}
	}
	err = r.eachSuperseded(ctx, func(name string, list supersededList) error {
		live := false
		for _, id := range list.Indexes {
			_, is := there[id]
			live = live || is
			delete(fresh, id)
		}
		if live {
			return nil
		}
		if err := beside.DeleteBeside(ctx, name); err != nil && kassett.KindOf(err) != kassett.NotFound {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
	if err != nil || len(fresh) == 0 {
		return err
	}
	var list supersededList
	for _, id := range stay {
		if _, is := fresh[id]; is {
			list.Indexes = append(list.Indexes, id)
		}
	}
	for part := range slices.Chunk(list.Indexes, supersededMost) {
		if err := r.writeSuperseded(ctx, beside, supersededList{part}); err != nil {
			return err
		}
	}
	return nil
}

func (r *Repository) writeSuperseded(ctx context.Context, beside kassett.Beside, list supersededList) error {
	plain, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := r.pass(ctx); err != nil {
		return err
	}
	sealed := r.key.Seal(nil, plain)
	sum := kassett.Hash(sealed)
	if err := beside.PutBeside(ctx, supersededFolder+"/"+sum.String(), kassett.BytesBody(sealed, sum)); err != nil {
		return fmt.Errorf("note superseded index files: %w", err)
	}
	return nil
}
