// Package versions brings a repository back from the versions that its storage
// keeps of files, after somebody has deleted and overwritten them. It works when
// nothing of the repository can be opened: files are known by their hashes.
package versions

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
)

// Unlock is given the key files as they were, those that were stored first at
// the head, and tries them until one opens. It returns a function that says
// whether the bytes of a config open with the master key, and mean something.
type Unlock func(ctx context.Context, keys [][]byte) (config func(sealed []byte) error, err error)

// Options say how [Repair] works. All but Unlock may be zero: then all that was
// ever stored is brought back.
type Options struct {
	Unlock      Unlock
	Connections int // storage operations side by side; 0 = what the storage says
	// Before is the moment before somebody began to delete and overwrite,
	// by the storage's clock: what was there then is there afterwards, and
	// what had been deleted by then stays so. Zero is no moment.
	Before time.Time
	// HideNew puts marks over files that came to be after Before.
	HideNew  bool
	DryRun   bool // tell only
	Progress *kassett.Progress
	// Tell is told of every file that is not as it was, from many goroutines
	// but one at a time. It may be nil.
	Tell func(Finding)
}

// Fate is what [Repair] finds of one file.
type Fate string

// The fates.
const (
	Deleted  Fate = "deleted"  // and brought back
	Replaced Fate = "replaced" // by something else, and brought back
	Lost     Fate = "lost"     // no version is the file
	New      Fate = "new"      // it came to be after the moment
	Hidden   Fate = "hidden"   // the same, and a mark is over it now
)

// Finding is a file that is not as it was.
type Finding struct {
	kassett.StoredName
	Fate Fate
	At   time.Time // when it was deleted or replaced for the first time, or came to be
	Err  error     // of a lost file: why no version is the right one; may be nil
}

// Stats is what [Repair] did, or in a dry run would do.
type Stats struct {
	Files     int `json:"files"`
	Untouched int `json:"untouched"`
	Deleted   int `json:"deleted"`  // brought back
	Replaced  int `json:"replaced"` // brought back
	Lost      int `json:"lost"`
	New       int `json:"new"`
	Hidden    int `json:"hidden"` // of the new ones
	// Later are index files, snapshots and keys that were stored after the
	// first change. They may be honest.
	Later int `json:"stored_after_first_change"`
	// First and Last are when files were deleted or replaced.
	First     time.Time `json:"first_change,omitzero"`
	Last      time.Time `json:"last_change,omitzero"`
	BytesRead int64     `json:"bytes_read"`
}

// Repair brings a repository back after somebody who had the keys of its
// storage, but not the right to delete versions, has deleted files and put
// others over them. Nothing of the repository needs to be readable when it
// begins, but one of the passwords must be known.
//
// A file whose name is the SHA-256 of its bytes is the oldest version that has
// that hash: it is read and hashed. The config is the oldest version that opens
// with the master key, records and parity files are hashed or the oldest. Files
// with a single version are left alone; whether they are whole is asked by
// a check. Locks, and files beside the repository that say what is
// going on, are left alone too.
//
// A lost file is no error, but counted; errors are such as end the work.
func Repair(ctx context.Context, st kassett.Storage, o Options) (Stats, error) {
	versioned, ok := kassett.As[kassett.Versioned](st)
	if !ok {
		return Stats{}, &kassett.Error{
			Op: "repair versions", Kind: kassett.Invalid, Err: errors.New("this storage keeps no versions of files"),
			Hint: "a bucket with versions or object lock does; elsewhere bring the repository back from a copy",
		}
	}
	if o.HideNew && o.Before.IsZero() {
		return Stats{}, &kassett.Error{
			Op: "repair versions", Kind: kassett.Invalid, Err: errors.New("what is new cannot be told without a moment"),
			Hint: "name the moment before the attack",
		}
	}
	v := &repair{st: st, versioned: versioned, o: o}
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return v.kind(ctx, kassett.KeyFile) },
		v.config,
		func(ctx context.Context) error { return v.kind(ctx, kassett.IndexFile) },
		func(ctx context.Context) error { return v.kind(ctx, kassett.SnapshotFile) },
		func(ctx context.Context) error { return v.kind(ctx, 0) },
		func(ctx context.Context) error { return v.kind(ctx, kassett.PackFile) },
	} {
		if err := step(ctx); err != nil {
			return v.stats, err
		}
	}
	v.countLater()
	return v.stats, nil
}

// repair is one repair at work.
type repair struct {
	st        kassett.Storage
	versioned kassett.Versioned
	o         Options

	mu     sync.Mutex // guards what follows
	stats  Stats
	births []time.Time // of index files, snapshots and keys
	keys   []keyFile
}

// keyFile is a key file as it was.
type keyFile struct {
	born  time.Time
	bytes []byte
}

// What is read of a version of a small file at most, in bytes.
const (
	maxKey    = 64 << 10
	maxConfig = 1 << 20
)

// defaultConnections is used where the storage does not say.
const defaultConnections = 5

// connections returns how many calls are good side by side.
func (v *repair) connections() int {
	if v.o.Connections > 0 {
		return v.o.Connections
	}
	if p, ok := kassett.As[kassett.Parallel](v.st); ok {
		return p.Connections()
	}
	return defaultConnections
}

// kind repairs all files of a kind; those beside the repository for 0.
func (v *repair) kind(ctx context.Context, k kassett.FileKind) error {
	word := k.String()
	if k == 0 {
		word = "beside"
	}
	v.o.Progress.Enter("look at versions: " + word)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(v.connections())
	err := v.files(gctx, k, func(all []kassett.Version) {
		g.Go(func() error {
			defer v.o.Progress.Done(1, 0)
			return v.file(gctx, all)
		})
	})
	// What stopped the work is what the group says.
	return cmp.Or(g.Wait(), err, context.Cause(ctx))
}

// files calls fn with the versions of each file, the youngest first.
func (v *repair) files(ctx context.Context, k kassett.FileKind, fn func([]kassett.Version)) error {
	var all []kassett.Version
	for one, err := range v.versioned.Versions(ctx, k) {
		if err != nil {
			return fmt.Errorf("list versions: %w", err)
		}
		if len(all) > 0 && all[0].StoredName != one.StoredName {
			fn(all)
			all = nil
		}
		if k != 0 || lastingBeside(one.Beside) {
			all = append(all, one)
		}
	}
	if len(all) > 0 {
		fn(all)
	}
	return nil
}

// lastingBeside reports whether a file beside the repository belongs to it for
// good: a record, or parity. Others, such as doomed lists, only say what is going
// on.
func lastingBeside(name string) bool {
	return strings.HasPrefix(name, "records/") || strings.HasPrefix(name, "parity/")
}

// hashedName returns the SHA-256 that the name of a file promises. Records have
// it before their suffix.
func hashedName(n kassett.StoredName) (kassett.ID, bool) {
	if n.Beside == "" {
		return n.ID, n.Kind != kassett.ConfigFile
	}
	base := path.Base(n.Beside)
	id, err := kassett.ParseID(strings.TrimSuffix(base, path.Ext(base)))
	return id, err == nil
}

// past returns the versions that may be the right one, the oldest first, and
// whether there is to be a file at all.
func (v *repair) past(all []kassett.Version) (past []kassett.Version, wanted bool) {
	for _, one := range slices.Backward(all) {
		if !v.o.Before.IsZero() && !one.Written.Before(v.o.Before) {
			break
		}
		if wanted = !one.Deleted || v.o.Before.IsZero(); !one.Deleted {
			past = append(past, one)
		}
	}
	return past, wanted && len(past) > 0
}

// file repairs one file.
func (v *repair) file(ctx context.Context, all []kassett.Version) error {
	past, wanted := v.past(all)
	v.born(all)
	latest := all[0]
	switch {
	case !wanted && latest.Deleted: // it was gone by then, or never was
		return nil
	case !wanted:
		return v.found(ctx, all, New, kassett.Version{}, nil)
	case len(all) == 1:
		if err := v.noteKey(ctx, latest); err != nil {
			return err
		}
		v.add(func(s *Stats) { s.Files++; s.Untouched++ })
		return nil
	}
	right, err := v.rightOne(ctx, latest, past)
	if err != nil {
		return err
	}
	switch {
	case right.ID == "":
		return v.found(ctx, all, Lost, right, fmt.Errorf("none of its %d versions has the hash of its name", len(past)))
	case right.ID == latest.ID:
		v.add(func(s *Stats) { s.Files++; s.Untouched++ })
	case latest.Deleted:
		err = v.found(ctx, all, Deleted, right, nil)
	default:
		err = v.found(ctx, all, Replaced, right, nil)
	}
	return cmp.Or(err, v.noteKey(ctx, right))
}

// rightOne returns the version that is the file: the latest if it is, else the
// oldest; none when no version is.
func (v *repair) rightOne(ctx context.Context, latest kassett.Version, past []kassett.Version) (kassett.Version, error) {
	want, hashed := hashedName(latest.StoredName)
	if !hashed { // never written twice: the first is the one
		if latest.Deleted {
			return past[0], nil
		}
		var err error
		if want, err = v.hash(ctx, past[0]); err != nil {
			return kassett.Version{}, fmt.Errorf("read a version of %s: %w", latest, err)
		}
	}
	tried := past
	if !latest.Deleted {
		tried = append([]kassett.Version{latest}, past...)
	}
	for _, one := range tried {
		switch sum, err := v.hash(ctx, one); {
		case ctx.Err() != nil:
			return kassett.Version{}, context.Cause(ctx)
		case err != nil && kassett.KindOf(err) != kassett.NotFound && kassett.KindOf(err) != kassett.Corrupt:
			return kassett.Version{}, fmt.Errorf("read a version of %s: %w", one, err)
		case err == nil && sum == want:
			return one, nil
		}
	}
	return kassett.Version{}, nil
}

// hash reads a version.
func (v *repair) hash(ctx context.Context, one kassett.Version) (kassett.ID, error) {
	r, err := v.versioned.ReadVersion(ctx, one)
	if err != nil {
		return kassett.ID{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	v.add(func(s *Stats) { s.BytesRead += n })
	v.o.Progress.Done(0, n)
	return kassett.ID(sum.Sum(nil)), errors.Join(err, r.Close())
}

// readSmall reads a version of at most limit bytes.
func (v *repair) readSmall(ctx context.Context, one kassett.Version, limit int64) (b []byte, err error) {
	if one.Size > limit {
		return nil, &kassett.Error{Op: "read", What: one.String(), Kind: kassett.Corrupt, Err: fmt.Errorf("%d bytes are too many", one.Size)}
	}
	r, err := v.versioned.ReadVersion(ctx, one)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(io.LimitReader(r, limit))
}

func (v *repair) add(change func(*Stats)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.stats)
}

// born remembers when a file came to be.
func (v *repair) born(all []kassett.Version) {
	switch all[0].Kind {
	case kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.births = append(v.births, all[len(all)-1].Written)
	}
}

// countLater counts the files that came to be after the first change.
func (v *repair) countLater() {
	for _, t := range v.births {
		if !v.stats.First.IsZero() && t.After(v.stats.First) {
			v.stats.Later++
		}
	}
}

// found tells of a file that is not as it was, and puts it right.
func (v *repair) found(ctx context.Context, all []kassett.Version, fate Fate, right kassett.Version, why error) error {
	f := Finding{StoredName: all[0].StoredName, Fate: fate, At: all[len(all)-1].Written, Err: why}
	switch fate {
	case Deleted, Replaced, Lost:
		for i, one := range slices.Backward(all) {
			if one.ID == right.ID || fate == Lost {
				f.At = all[max(0, i-1)].Written // what came on top of it
				break
			}
		}
	case New:
		if v.o.HideNew {
			f.Fate = Hidden
		}
	}
	if !v.o.DryRun {
		var err error
		switch f.Fate {
		case Deleted, Replaced:
			err = v.versioned.Restore(ctx, right)
		case Hidden:
			err = v.versioned.Hide(ctx, all[0].StoredName)
		}
		if err != nil {
			return fmt.Errorf("bring back %s: %w", all[0].StoredName, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := &v.stats
	s.Files++
	switch f.Fate {
	case Deleted:
		s.Deleted++
	case Replaced:
		s.Replaced++
	case Lost:
		s.Lost++
	case Hidden:
		s.Hidden++
		s.New++
	case New:
		s.New++
	}
	if fate != New {
		if s.First.IsZero() || f.At.Before(s.First) {
			s.First = f.At
		}
		if last := all[0].Written; last.After(s.Last) {
			s.Last = last
		}
	}
	if v.o.Tell != nil {
		v.o.Tell(f)
	}
	return nil
}

// noteKey keeps a key file, so that its password can be tried.
func (v *repair) noteKey(ctx context.Context, one kassett.Version) error {
	if one.Kind != kassett.KeyFile || one.ID == "" {
		return nil
	}
	b, err := v.readSmall(ctx, one, maxKey)
	if err != nil && kassett.KindOf(err) != kassett.Corrupt {
		return fmt.Errorf("read %s: %w", one, err)
	}
	if err == nil && kassett.Hash(b) == one.Handle.ID {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.keys = append(v.keys, keyFile{one.Written, b})
	}
	return nil
}

// unlock opens the master key, with the oldest keys first: whoever floods the
// storage with keys comes later.
func (v *repair) unlock(ctx context.Context) (opens func([]byte) error, err error) {
	slices.SortStableFunc(v.keys, func(a, b keyFile) int { return a.born.Compare(b.born) })
	keys := make([][]byte, len(v.keys))
	for i, k := range v.keys {
		keys[i] = k.bytes
	}
	return v.o.Unlock(ctx, keys)
}

// config brings the config back: the oldest version that opens.
func (v *repair) config(ctx context.Context) error {
	opens, err := v.unlock(ctx)
	if err != nil {
		return err
	}
	v.o.Progress.Enter("look at versions: config")
	var all []kassett.Version
	if err := v.files(ctx, kassett.ConfigFile, func(versions []kassett.Version) { all = versions }); err != nil {
		return err
	}
	noConfig := func(why error) error {
		return &kassett.Error{
			Op: "repair versions", What: "config", Kind: kassett.Corrupt, Err: why,
			Hint: "put the config file back from a copy of the repository, and run it again",
		}
	}
	if len(all) == 0 {
		return noConfig(errors.New("there is none, nor a version of one"))
	}
	past, _ := v.past(all)
	var good []byte
	var right kassett.Version
	for _, one := range past {
		b, err := v.readSmall(ctx, one, maxConfig)
		if err != nil && kassett.KindOf(err) != kassett.Corrupt {
			return fmt.Errorf("read config: %w", err)
		}
		if err == nil && opens(b) == nil {
			good, right = b, one
			break
		}
	}
	if right.ID == "" {
		return noConfig(fmt.Errorf("none of its %d versions opens with the master key", len(past)))
	}
	latest := all[0]
	if !latest.Deleted {
		b, err := v.readSmall(ctx, latest, maxConfig)
		if err == nil && bytes.Equal(b, good) {
			v.add(func(s *Stats) { s.Files++; s.Untouched++ })
			return nil
		}
		return v.found(ctx, all, Replaced, right, nil)
	}
	return v.found(ctx, all, Deleted, right, nil)
}
