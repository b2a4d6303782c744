package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kassett"
)

// UpdateStats is what an update did.
type UpdateStats struct {
	Made     int   `json:"sets_made"`
	Removed  int   `json:"sets_removed"`
	Kept     int   `json:"sets_left_over"` // superseded, but the storage does not let us remove them
	Files    int   `json:"files_read"`
	Read     int64 `json:"bytes_read"`
	Written  int64 `json:"bytes_written"`
	Damaged  int   `json:"files_damaged"` // and so without new parity
	Protects int   `json:"files_protected"`
}

// Update protects every file that has no parity yet. Files are grouped in the
// order in which they come; a group that is not full yet is made anew with what
// has come since, and one that has lost too many of its files because nobody
// needs them any more is made anew from the rest. Old sets are removed after the
// new ones are durable, and only when each of their files is protected anew;
// where the storage refuses to remove, they stay. A file that is not what its
// name says is told to Warn, and the sets that can repair it are kept.
//
// The caller holds a lock; a shared one is enough.
func (k *Keeper) Update(ctx context.Context) (UpdateStats, error) {
	var st UpdateStats
	inv, err := k.look(ctx)
	if err != nil {
		return st, err
	}
	u := &updater{k: k, inv: inv, stats: &st, covered: make(map[kassett.Handle]bool)}
	groups := u.plan()
	k.options.Progress.Enter("make parity")
	for _, g := range groups {
		for _, f := range g {
			k.options.Progress.Expect(1, f.Size)
		}
	}
	for _, g := range groups {
		if err := u.protect(ctx, g); err != nil {
			return st, err
		}
		k.options.Progress.Done(int64(len(g)), 0)
	}
	err = u.removeStale(ctx)
	if err == nil && st.Damaged == 0 { // all that these protected is protected anew
		err = u.remove(ctx, inv.bad)
	}
	st.Protects = len(u.covered)
	return st, err
}

// updater is one update at work.
type updater struct {
	k       *Keeper
	inv     *inventory
	stats   *UpdateStats
	covered map[kassett.Handle]bool // by a set that stays
	stale   []storedSet             // to be removed when all of its files are covered
	adds    bool                    // the storage lets nobody like us remove
}

// full returns how many input slices a set should have.
func (k *Keeper) full() int {
	return min(wholeFile*int(MaxOverhead)/int(max(k.options.Overhead, MinOverhead)), maxSlices)
}

// plan chooses which sets stay and how the other files are grouped.
func (u *updater) plan() (groups [][]kassett.Info) {
	var open []storedSet
	for _, s := range u.inv.sets {
		switch {
		case u.keeps(s):
			u.cover(s)
		default:
			open = append(open, s)
		}
	}
	queued := make(map[kassett.Handle]bool)
	queues := make([][]kassett.Info, len(protected))
	enqueue := func(h kassett.Handle) {
		if info, there := u.inv.files[h]; there && info.Size > 0 && !u.covered[h] && !queued[h] {
			queued[h] = true
			queues[class(h.Kind)] = append(queues[class(h.Kind)], info)
		}
	}
	// What was grouped before stays side by side: it came, and will go, together.
	for _, s := range open {
		for i := range s.members {
			enqueue(s.members[i].Handle)
		}
	}
	var fresh []kassett.Handle
	for h := range u.inv.files {
		if !queued[h] && !u.covered[h] {
			fresh = append(fresh, h)
		}
	}
	slices.SortFunc(fresh, func(a, b kassett.Handle) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	for _, h := range fresh {
		enqueue(h)
	}
	for _, q := range queues {
		groups = append(groups, u.split(q)...)
	}
	return u.reuse(groups, open)
}

// keeps reports whether a set stays as it is whatever has come since.
func (u *updater) keeps(s storedSet) bool {
	if s.hurt {
		return true // it is what a repair needs
	}
	live := s.slices() - s.gone
	if live == 0 || s.gone > 0 && class(s.members[0].Kind) == class(kassett.KeyFile) {
		return false // a password that was taken away must not come back
	}
	return s.gone <= wholeFile/4 && s.slices() > u.k.full()-wholeFile
}

func (u *updater) cover(s storedSet) {
	for i := range s.members {
		u.covered[s.members[i].Handle] = true
	}
}

// split cuts a queue into groups.
func (u *updater) split(queue []kassett.Info) (groups [][]kassett.Info) {
	full := u.k.full()
	start, largest := 0, int64(0)
	for i, f := range queue {
		most := max(largest, f.Size)
		slice, _ := layout([]kassett.Info{{Size: most}})
		n := 0
		for _, g := range queue[start : i+1] {
			n += sliceCount(g.Size, slice)
		}
		if n > full && i > start {
			groups = append(groups, queue[start:i])
			start, most = i, f.Size
		}
		largest = most
	}
	if start < len(queue) {
		groups = append(groups, queue[start:])
	}
	return groups
}

// reuse leaves out the groups that stand as a set already; the other open sets
// are stale.
func (u *updater) reuse(groups [][]kassett.Info, open []storedSet) (todo [][]kassett.Info) {
	used := make([]bool, len(open))
	for _, g := range groups {
		i := slices.IndexFunc(open, func(s storedSet) bool { return s.gone == 0 && sameFiles(s.set, g) })
		if i < 0 || used[i] {
			todo = append(todo, g)
			continue
		}
		used[i] = true
		u.cover(open[i])
	}
	for i, s := range open {
		if !used[i] {
			u.stale = append(u.stale, s)
		}
	}
	return todo
}

// sameFiles reports whether the set is of just these files, laid out as they
// would be now.
func sameFiles(s *set, files []kassett.Info) bool {
	slice, _ := layout(files)
	if len(s.members) != len(files) || s.sliceSize != slice {
		return false
	}
	sizes := make(map[kassett.Handle]int64, len(files))
	for _, f := range files {
		sizes[f.Handle] = f.Size
	}
	for i := range s.members {
		if m := &s.members[i]; sizes[m.Handle] != m.size {
			return false
		}
	}
	return true
}

// protect makes a set of the files, without those that turn out to be damaged.
func (u *updater) protect(ctx context.Context, files []kassett.Info) error {
	for len(files) > 0 {
		e, err := u.k.encode(ctx, files)
		var bad *damagedError
		if errors.As(err, &bad) && ctx.Err() == nil {
			switch kassett.KindOf(bad.err) {
			case kassett.Offline, kassett.Interrupted:
				return err
			case kassett.NotFound: // removed since it was listed
			default:
				u.stats.Damaged++
				u.k.warn(bad.String(), &kassett.Error{
					Op: "protect", Kind: kassett.Corrupt, Err: bad.err,
					Hint: "run `kassett check --read-data`, and do what it says; then `kassett parity update`",
				})
			}
			files = slices.DeleteFunc(slices.Clone(files), func(f kassett.Info) bool { return f.Handle == bad.Handle })
			continue
		}
		if err != nil {
			return err
		}
		return u.store(ctx, e)
	}
	return nil
}

func (u *updater) store(ctx context.Context, e *encoded) error {
	body, err := e.body()
	if err != nil {
		return err
	}
	if err := u.k.pass(ctx); err != nil {
		return err
	}
	name := setName(e.id)
	err = u.k.beside.PutBeside(ctx, name, body)
	if kassett.KindOf(err) == kassett.Exists {
		err = u.replaceBroken(ctx, name, body)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	u.stats.Made++
	u.stats.Files += len(e.members)
	for i := range e.members {
		u.stats.Read += e.members[i].size
	}
	u.stats.Written += body.Size
	u.cover(storedSet{set: &e.set})
	u.stale = slices.DeleteFunc(u.stale, func(s storedSet) bool { return s.id == e.id })
	return nil
}

// replaceBroken stores a set whose file is there already: unless that is the
// same, from another writer at the same time, it is damaged.
func (u *updater) replaceBroken(ctx context.Context, name string, body kassett.Body) error {
	have, err := u.k.hashBeside(ctx, name)
	if err == nil && have == body.Sum {
		return nil
	}
	if err := u.k.beside.DeleteBeside(ctx, name); err != nil && kassett.KindOf(err) != kassett.NotFound {
		return err
	}
	return u.k.beside.PutBeside(ctx, name, body)
}

// removeStale removes the sets whose files are all protected by others.
func (u *updater) removeStale(ctx context.Context) error {
	for _, s := range u.stale {
		still := slices.ContainsFunc(s.members, func(m member) bool {
			_, there := u.inv.files[m.Handle]
			return there && !u.covered[m.Handle]
		})
		if still {
			continue
		}
		if err := u.remove(ctx, []string{setName(s.id)}); err != nil {
			return err
		}
	}
	return nil
}

// remove removes parity files, where the storage lets us.
func (u *updater) remove(ctx context.Context, names []string) error {
	for _, name := range names {
		if u.adds {
			u.stats.Kept++
			continue
		}
		if err := u.k.pass(ctx); err != nil {
			return err
		}
		err := u.k.beside.DeleteBeside(ctx, name)
		switch kind := kassett.KindOf(err); kind {
		case kassett.Denied, kassett.Held:
			u.stats.Kept++
			u.adds = kind == kassett.Denied // a server may log each refusal
			continue
		case kassett.NotFound: // another writer did it
			continue
		}
		if err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		u.stats.Removed++
	}
	return nil
}

// Clear removes all parity files.
func (k *Keeper) Clear(ctx context.Context) (removed int, err error) {
	var names []string
	for info, err := range k.beside.ListBeside(ctx, folder) {
		if err != nil {
			return 0, fmt.Errorf("list parity: %w", err)
		}
		if strings.HasSuffix(info.Name, suffix) {
			names = append(names, info.Name)
		}
	}
	u := &updater{k: k, stats: &UpdateStats{}}
	if err := u.remove(ctx, names); err != nil {
		return u.stats.Removed, err
	}
	if u.stats.Kept > 0 {
		return u.stats.Removed, &kassett.Error{
			Op: "remove parity", Kind: kassett.Denied, Err: fmt.Errorf("the storage does not let us remove %d files", u.stats.Kept),
			Hint: "remove it with a key that may delete",
		}
	}
	return u.stats.Removed, nil
}
