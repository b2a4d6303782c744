package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"kassett"
)

// doomedFolder is where doomed lists rest beside a repository: the packs that a
// prune is going to remove. docs/formats/doomed.md has the protocol, and why
// nothing is lost by it.
const (
	doomedFolder = "doomed"
	doomedFormat = "doomed/1"
)

// doomedFile is the JSON of a doomed list.
type doomedFile struct {
	Format     string       `json:"kassett"`
	Repository string       `json:"repository"` // the ID of its config
	Created    time.Time    `json:"created"`    // for people only
	Hostname   string       `json:"hostname"`   // for people only
	Packs      []kassett.ID `json:"packs"`      // ascending
}

// doomedList is a list that was read.
type doomedList struct {
	id    kassett.ID   // SHA-256 of the stored file
	packs []kassett.ID // ascending
}

// packsOf returns what lists name, ascending.
func packsOf(lists []doomedList) (packs []kassett.ID) {
	for _, l := range lists {
		packs = append(packs, l.packs...)
	}
	slices.SortFunc(packs, kassett.ID.Compare)
	return slices.Compact(packs)
}

// honoured is what a careful writer treats as if it were not there. It only
// grows: a list that was honoured once may have been swept since, and the blob
// table may not have been loaded anew.
type honoured struct {
	packs atomic.Pointer[[]kassett.ID] // ascending; nil while no list was ever looked for

	mu    sync.Mutex // guards what follows, and changes
	lists []kassett.ID
}

// add notes lists and returns all that were ever noted.
func (h *honoured) add(lists []doomedList) []kassett.ID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var packs []kassett.ID
	if old := h.packs.Load(); old != nil {
		packs = slices.Clone(*old)
	}
	for _, l := range lists {
		if !slices.Contains(h.lists, l.id) {
			h.lists = append(h.lists, l.id)
			packs = append(packs, l.packs...)
		}
	}
	slices.SortFunc(packs, kassett.ID.Compare)
	packs = slices.Compact(packs)
	h.packs.Store(&packs)
	return slices.Clone(h.lists)
}

// Doomed reports whether a doomed list names a pack, as far as the repository
// has to honour lists: since it was locked with the mode [Adding]. Nothing new
// may be made to depend on such a pack.
func (r *Repository) Doomed(pack kassett.ID) bool {
	packs := r.doomed.packs.Load()
	if packs == nil {
		return false
	}
	return contains(*packs, pack)
}

// contains reports whether ascending IDs have one among them.
func contains(ids []kassett.ID, id kassett.ID) bool {
	_, is := slices.BinarySearchFunc(ids, id, kassett.ID.Compare)
	return is
}

// hasSafely is Has while lists are honoured: a blob that rests in doomed packs
// only is not known.
func (r *Repository) hasSafely(h BlobHandle) bool {
	l, ok := r.table.Find(h)
	if !ok || !r.Doomed(l.Pack) {
		return ok
	}
	return slices.ContainsFunc(r.table.Lookup(h), func(l Location) bool { return !r.Doomed(l.Pack) })
}

// honour reads the doomed lists and treats what they name as if it were not
// there from now on. It returns the IDs of all lists that are honoured.
func (r *Repository) honour(ctx context.Context) ([]kassett.ID, error) {
	lists, bad, err := r.doomedLists(ctx)
	if err != nil {
		return nil, err
	}
	for _, err := range bad {
		r.warn(err)
	}
	return r.doomed.add(lists), nil
}

// doomedLists reads all doomed lists. Those that are not what someone with this
// repository's key wrote are in bad, by their names: nobody honours them.
func (r *Repository) doomedLists(ctx context.Context) (lists []doomedList, bad map[string]error, err error) {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return nil, nil, nil
	}
	for info, err := range beside.ListBeside(ctx, doomedFolder) {
		if err != nil {
			return nil, nil, fmt.Errorf("list doomed packs: %w", err)
		}
		id, err := kassett.ParseID(strings.TrimPrefix(info.Name, doomedFolder+"/"))
		if err != nil {
			continue
		}
		packs, err := r.readDoomed(ctx, beside, id)
		switch kind := kassett.KindOf(err); {
		case err == nil:
			lists = append(lists, doomedList{id, packs})
		case kind == kassett.NotFound: // swept since it was listed
		case kind == kassett.Corrupt || kind == kassett.Invalid:
			if bad == nil {
				bad = make(map[string]error)
			}
			bad[info.Name] = err
		default:
			return nil, nil, err
		}
	}
	return lists, bad, nil
}

// readDoomed reads one list. One of another origin or damaged is a
// [kassett.Corrupt] error, one of a newer version is [kassett.Invalid].
func (r *Repository) readDoomed(ctx context.Context, beside kassett.Beside, id kassett.ID) ([]kassett.ID, error) {
	name := doomedName(id)
	// A list is sealed like an index file and may be as long.
	sealed, err := kassett.ReadBeside(ctx, beside, name, unpackedLimit(kassett.IndexFile))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	bad := func(err error) ([]kassett.ID, error) {
		return nil, &kassett.Error{
			Op: "read", What: name, Kind: kassett.Corrupt, Err: err,
			Hint: "nothing is lost: no backup relies on this list, and the next `kassett prune` removes it",
		}
	}
	if sum := kassett.Hash(sealed); sum != id {
		return bad(fmt.Errorf("its %d bytes have the hash %s", len(sealed), sum))
	}
	plain, err := r.openUnpacked(kassett.IndexFile, sealed)
	if err != nil {
		return bad(err)
	}
	var f doomedFile
	if err := json.Unmarshal(plain, &f); err != nil {
		return bad(err)
	}
	switch {
	case f.Format != doomedFormat && strings.HasPrefix(f.Format, "doomed/"):
		return nil, &kassett.Error{
			Op: "read", What: name, Kind: kassett.Invalid, Err: fmt.Errorf("its format is %.20q, only %s is known", f.Format, doomedFormat),
			Hint: "use a newer Kassett to prune",
		}
	case f.Format != doomedFormat || f.Repository != r.Config().ID:
		return bad(errors.New("it is not a doomed list of this repository"))
	case !slices.IsSortedFunc(f.Packs, kassett.ID.Compare):
		return bad(errors.New("its packs are in no order"))
	}
	return f.Packs, nil
}

func doomedName(id kassett.ID) string { return doomedFolder + "/" + id.String() }

// writeDoomed publishes a list of packs, which it sorts, and returns its name.
func (r *Repository) writeDoomed(ctx context.Context, packs []kassett.ID) (string, error) {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return "", &kassett.Error{Op: "write doomed list", Kind: kassett.Invalid, Err: errors.New("this storage keeps no files beside a repository")}
	}
	slices.SortFunc(packs, kassett.ID.Compare)
	plain, err := json.Marshal(doomedFile{
		Format: doomedFormat, Repository: r.Config().ID, Created: time.Now().UTC().Truncate(time.Second), Hostname: thisHost(),
		Packs: slices.Compact(packs),
	})
	if err != nil {
		return "", err
	}
	sealed, err := r.sealUnpacked(kassett.IndexFile, plain)
	if err != nil {
		return "", fmt.Errorf("seal doomed list: %w", err)
	}
	if err := r.pass(ctx); err != nil {
		return "", err
	}
	id := kassett.Hash(sealed)
	if err := beside.PutBeside(ctx, doomedName(id), kassett.BytesBody(sealed, id)); err != nil {
		return "", fmt.Errorf("write doomed list: %w", err)
	}
	return doomedName(id), nil
}

// removeDoomed removes a file below doomed/. One that is gone is no error.
func (r *Repository) removeDoomed(ctx context.Context, name string) error {
	beside, ok := kassett.As[kassett.Beside](r.storage)
	if !ok {
		return nil
	}
	if err := r.pass(ctx); err != nil {
		return err
	}
	if err := beside.DeleteBeside(ctx, name); err != nil && kassett.KindOf(err) != kassett.NotFound {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
