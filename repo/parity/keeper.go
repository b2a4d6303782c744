package parity

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// Where parity rests beside a repository.
const (
	folder  = "parity"
	suffix  = ".par2"
	rebuilt = folder + "/rebuilt-" // files that are on their way back
	salvage = "salvage/"           // damaged files that were put aside
)

// Overhead is how much parity a repository has, in hundredths of a percent of
// what it protects. Zero is none.
type Overhead int

// The bounds of an overhead that is not zero: one set has at most 32,768 slices,
// and at least as many as it has recovery slices.
const (
	MinOverhead Overhead = 10     // 0.1 %
	MaxOverhead Overhead = 100_00 // 100 %
	// DefaultOverhead protects 20 packs of the usual size by the room of one.
	DefaultOverhead Overhead = 5_00
)

// ParseOverhead reads a percentage such as "5%" or "0.5%", or "0" or "off".
func ParseOverhead(s string) (Overhead, error) {
	if s == "off" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	o := Overhead(v*100 + 0.5)
	if err != nil || !(v >= 0 && v <= 100) || o != 0 && o < MinOverhead || o == 0 && v != 0 {
		return 0, &kassett.Error{
			Op: "read overhead", What: strconv.Quote(s), Kind: kassett.Invalid,
			Hint: "give a percentage from 0.1% to 100%, or 0 for no parity; 5% is usual",
		}
	}
	return o, nil
}

// String returns what [ParseOverhead] reads.
func (o Overhead) String() string {
	return strconv.FormatFloat(float64(o)/100, 'f', -1, 64) + "%"
}

// Options are for [New].
type Options struct {
	Overhead Overhead
	// Needed says which of these packs, none of which is in the storage, are
	// still needed: they are lost, while the others were removed because
	// nobody needs them. When nil, nobody knows, and none is missed.
	Needed func(ctx context.Context, packs []kassett.ID) (map[kassett.ID]bool, error)
	// Pass is asked before anything is written or removed, so that it can
	// wait until a lock stands. It may be nil.
	Pass     func(ctx context.Context) error
	Warn     func(what string, err error) // told what went wrong without stopping the work
	Progress *kassett.Progress
}

// A Keeper makes, checks and uses the parity of one repository. It is for one
// goroutine at a time; several Keepers, also on several machines, may work side
// by side.
type Keeper struct {
	storage kassett.Storage
	beside  kassett.Beside
	options Options
	field   *field
}

// New returns the keeper of the parity on st. Storage that keeps no files beside
// a repository is a [kassett.Invalid] error.
func New(st kassett.Storage, o Options) (*Keeper, error) {
	beside, ok := kassett.As[kassett.Beside](st)
	if !ok {
		return nil, &kassett.Error{
			Op: "keep parity", Kind: kassett.Invalid, Err: errors.New("this storage keeps no files beside a repository"),
			Hint: "keep the repository on storage that does, such as a folder",
		}
	}
	return &Keeper{storage: st, beside: beside, options: o, field: newField()}, nil
}

func (k *Keeper) warn(what string, err error) {
	if k.options.Warn != nil {
		k.options.Warn(what, err)
	}
}

func (k *Keeper) pass(ctx context.Context) error {
	if k.options.Pass == nil {
		return context.Cause(ctx)
	}
	return k.options.Pass(ctx)
}

// protected are the kinds of file that have parity, by class: files of one class
// stand in common sets, since they come and go together.
var protected = [][]kassett.FileKind{
	{kassett.PackFile}, {kassett.IndexFile}, {kassett.SnapshotFile}, {kassett.KeyFile, kassett.ConfigFile},
}

// class returns the place of a kind in protected.
func class(k kassett.FileKind) int {
	return slices.IndexFunc(protected, func(kinds []kassett.FileKind) bool { return slices.Contains(kinds, k) })
}

// inventory is what there is: files, sets, and what they have to do with each
// other.
type inventory struct {
	files map[kassett.Handle]kassett.Info // that are there
	sets  []storedSet
	lost  map[kassett.ID]bool // packs that are not there and needed
	bytes int64               // of all parity files
	bad   []string            // parity files that cannot be read
	left  []string            // rebuilt files of a repair that was broken off
}

// storedSet is a set and what is left of it.
type storedSet struct {
	*set
	gone int  // slices of members that are no longer there, and not needed
	hurt bool // a member is needed and not there, or has another length
}

// look takes the inventory. Sets that cannot be read are told to Warn.
func (k *Keeper) look(ctx context.Context) (*inventory, error) {
	inv := &inventory{files: make(map[kassett.Handle]kassett.Info)}
	for _, kinds := range protected {
		for _, kind := range kinds {
			if err := k.list(ctx, inv, kind); err != nil {
				return nil, err
			}
		}
	}
	var names []string
	for info, err := range k.beside.ListBeside(ctx, folder) {
		if err != nil {
			return nil, fmt.Errorf("list parity: %w", err)
		}
		switch {
		case strings.HasSuffix(info.Name, suffix):
			inv.bytes += info.Size
			names = append(names, info.Name)
		case strings.HasPrefix(info.Name, rebuilt):
			inv.left = append(inv.left, info.Name)
		}
	}
	if err := k.loadAll(ctx, inv, names); err != nil {
		return nil, err
	}
	return inv, k.judge(ctx, inv)
}

// loadSideBySide is how many sets are read at once: small reads, of which each
// waits for the storage.
const loadSideBySide = 8

// loadAll reads the descriptions of the named sets, without the checksums of
// their slices, which would fill the memory where there are many.
func (k *Keeper) loadAll(ctx context.Context, inv *inventory, names []string) error {
	k.options.Progress.Enter("read parity")
	k.options.Progress.Expect(int64(len(names)), 0)
	sets, faults := make([]*set, len(names)), make([]error, len(names))
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(loadSideBySide)
	for i, name := range names {
		g.Go(func() error {
			s, err := k.load(inner, name)
			k.options.Progress.Done(1, 0)
			if inner.Err() != nil {
				return context.Cause(inner)
			}
			if kassett.KindOf(err) == kassett.Offline {
				return err
			}
			if err == nil {
				for j := range s.members {
					s.members[j].slices = nil
				}
			}
			sets[i], faults[i] = s, err
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, name := range names {
		switch err := faults[i]; {
		case err == nil:
			inv.sets = append(inv.sets, storedSet{set: sets[i]})
		case kassett.KindOf(err) == kassett.NotFound: // another writer has superseded it
		default:
			inv.bad = append(inv.bad, name)
			k.warn(name, &kassett.Error{
				Op: "read parity", Kind: kassett.KindOf(err), Err: err,
				Hint: "the repository itself is not touched by this; `kassett parity update` makes it anew",
			})
		}
	}
	return nil
}

func (k *Keeper) list(ctx context.Context, inv *inventory, kind kassett.FileKind) error {
	if kind == kassett.ConfigFile {
		h := kassett.Handle{Kind: kind}
		info, err := k.storage.Stat(ctx, h)
		if err == nil {
			inv.files[h] = kassett.Info{Handle: h, Size: info.Size}
		}
		if kassett.KindOf(err) == kassett.NotFound {
			return nil
		}
		return err
	}
	for info, err := range k.storage.List(ctx, kind) {
		if err != nil {
			return fmt.Errorf("list %s: %w", kind, err)
		}
		inv.files[info.Handle] = info
	}
	return nil
}

// load reads the description of one set.
func (k *Keeper) load(ctx context.Context, name string) (s *set, err error) {
	var id sum
	raw, err := hex.DecodeString(strings.TrimSuffix(strings.TrimPrefix(name, folder+"/"), suffix))
	if err != nil || len(raw) != len(id) {
		return nil, &kassett.Error{Kind: kassett.Corrupt, Err: errors.New("its name is not that of a set")}
	}
	rc, err := k.beside.GetBeside(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }() // not read to its end
	return readSet(rc, sum(raw))
}

// judge finds out what is left of each set.
func (k *Keeper) judge(ctx context.Context, inv *inventory) error {
	absent := make(map[kassett.ID]bool)
	for _, s := range inv.sets {
		for i := range s.members {
			h := s.members[i].Handle
			if _, there := inv.files[h]; !there && h.Kind == kassett.PackFile {
				absent[h.ID] = true
			}
		}
	}
	if len(absent) > 0 && k.options.Needed != nil {
		var err error
		if inv.lost, err = k.options.Needed(ctx, slices.Collect(maps.Keys(absent))); err != nil {
			return err
		}
	}
	for i := range inv.sets {
		s := &inv.sets[i]
		for j := range s.members {
			m := &s.members[j]
			info, there := inv.files[m.Handle]
			switch {
			case there && info.Size == m.size:
			case there, inv.needed(m.Handle):
				s.hurt = true
			default:
				s.gone += sliceCount(m.size, s.sliceSize)
			}
		}
	}
	return nil
}

// needed reports whether a file that is not there must be.
func (inv *inventory) needed(h kassett.Handle) bool {
	return h.Kind == kassett.ConfigFile || h.Kind == kassett.PackFile && inv.lost[h.ID]
}

// Status is what parity a repository has.
type Status struct {
	Sets        int   `json:"sets"`
	ParityBytes int64 `json:"parity_bytes"`
	Files       int   `json:"files_protected"`
	Bytes       int64 `json:"bytes_protected"`
	BareFiles   int   `json:"files_unprotected"`
	BareBytes   int64 `json:"bytes_unprotected"`
	Hurt        int   `json:"files_damaged"` // needed and not there, or not of the right length
}

// Status tells what is protected. No content is read.
func (k *Keeper) Status(ctx context.Context) (Status, error) {
	inv, err := k.look(ctx)
	if err != nil {
		return Status{}, err
	}
	st := Status{Sets: len(inv.sets), ParityBytes: inv.bytes}
	covered := make(map[kassett.Handle]bool)
	hurt := make(map[kassett.Handle]bool)
	for _, s := range inv.sets {
		for i := range s.members {
			h := s.members[i].Handle
			covered[h] = true
			if info, there := inv.files[h]; there && info.Size != s.members[i].size || !there && inv.needed(h) {
				hurt[h] = true
			}
		}
	}
	st.Hurt = len(hurt)
	for h, info := range inv.files {
		if covered[h] {
			st.Files++
			st.Bytes += info.Size
		} else {
			st.BareFiles++
			st.BareBytes += info.Size
		}
	}
	return st, nil
}

// Verify reads all parity and tells report what is damaged of it.
func (k *Keeper) Verify(ctx context.Context, report func(name string, err error)) error {
	warn := k.options.Warn
	k.options.Warn = report
	inv, err := k.look(ctx)
	k.options.Warn = warn
	if err != nil {
		return err
	}
	k.options.Progress.Enter("read parity")
	k.options.Progress.Expect(int64(len(inv.sets)), inv.bytes)
	for _, s := range inv.sets {
		if err := k.verifySet(ctx, s.set); err != nil {
			if ctx.Err() != nil || kassett.KindOf(err) == kassett.Offline {
				return err
			}
			report(setName(s.id), err)
		}
		k.options.Progress.Done(1, 0)
	}
	return nil
}
