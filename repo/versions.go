package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo/record"
	"kassett/repo/seal"
)

// VersionOptions say how [RepairVersions] works. The zero value brings back all
// that was ever stored.
type VersionOptions struct {
	Options
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
	Tell func(VersionFinding)
}

// VersionFate is what [RepairVersions] finds of one file.
type VersionFate string

// The fates.
const (
	VersionDeleted  VersionFate = "deleted"  // and brought back
	VersionReplaced VersionFate = "replaced" // by something else, and brought back
	VersionLost     VersionFate = "lost"     // no version is the file
	VersionNew      VersionFate = "new"      // it came to be after the moment
	VersionHidden   VersionFate = "hidden"   // the same, and a mark is over it now
)

// VersionFinding is a file that is not as it was.
type VersionFinding struct {
	kassett.StoredName
	Fate VersionFate
	At   time.Time // when it was deleted or replaced for the first time, or came to be
	Err  error     // of a lost file: why no version is the right one; may be nil
}

// VersionStats is what [RepairVersions] did, or in a dry run would do.
type VersionStats struct {
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

// RepairVersions brings a repository back after somebody who had the keys of its
// storage, but not the right to delete versions, has deleted files and put
// others over them. Nothing of the repository needs to be readable when it
// begins, but one of the passwords must be known.
//
// A file whose name is the SHA-256 of its bytes is the oldest version that has
// that hash: it is read and hashed. The config is the oldest version that opens
// with the master key, records and parity files are hashed or the oldest. Files
// with a single version are left alone; whether they are whole is asked by
// [Repository.Check]. Locks, and files beside the repository that say what is
// going on, are left alone too.
//
// A lost file is no error, but counted; errors are such as end the work.
func RepairVersions(ctx context.Context, st kassett.Storage, password []byte, o VersionOptions) (VersionStats, error) {
	versioned, ok := kassett.As[kassett.Versioned](st)
	if !ok {
		return VersionStats{}, &kassett.Error{
			Op: "repair versions", Kind: kassett.Invalid, Err: errors.New("this storage keeps no versions of files"),
			Hint: "a bucket with versions or object lock does; elsewhere bring the repository back from a copy",
		}
	}
	if o.HideNew && o.Before.IsZero() {
		return VersionStats{}, &kassett.Error{
			Op: "repair versions", Kind: kassett.Invalid, Err: errors.New("what is new cannot be told without a moment"),
			Hint: "name the moment before the attack",
		}
	}
	v := &versionRepair{st: st, versioned: versioned, o: o, password: password}
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return v.kind(ctx, kassett.KeyFile) },
		v.openMaster,
		v.repairConfig,
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

// versionRepair is one repair at work.
type versionRepair struct {
	st        kassett.Storage
	versioned kassett.Versioned
	password  []byte
	o         VersionOptions

	mu     sync.Mutex // guards what follows
	stats  VersionStats
	births []time.Time // of index files, snapshots and keys
	keys   []versionKey
	master *seal.Key
}

// versionKey is a key file as it was.
type versionKey struct {
	born time.Time
	file *keyFile
}

// connections returns how many calls are good side by side.
func (v *versionRepair) connections() int {
	if v.o.Connections > 0 {
		return v.o.Connections
	}
	if p, ok := kassett.As[kassett.Parallel](v.st); ok {
		return p.Connections()
	}
	return defaultConnections
}

// kind repairs all files of a kind; those beside the repository for 0.
func (v *versionRepair) kind(ctx context.Context, k kassett.FileKind) error {
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
func (v *versionRepair) files(ctx context.Context, k kassett.FileKind, fn func([]kassett.Version)) error {
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
// good; others, such as doomed lists, only say what is going on.
func lastingBeside(name string) bool {
	folder, _, _ := strings.Cut(name, "/")
	return folder == record.Folder || folder == "parity"
}

// hashedName returns the SHA-256 that the name of a file promises.
func hashedName(n kassett.StoredName) (kassett.ID, bool) {
	if n.Beside == "" {
		return n.ID, n.Kind != kassett.ConfigFile
	}
	base, isRecord := strings.CutPrefix(n.Beside, record.Folder+"/")
	id, err := kassett.ParseID(strings.TrimSuffix(base, record.Suffix))
	return id, isRecord && err == nil
}

// past returns the versions that may be the right one, the oldest first, and
// whether there is to be a file at all.
func (v *versionRepair) past(all []kassett.Version) (past []kassett.Version, wanted bool) {
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
func (v *versionRepair) file(ctx context.Context, all []kassett.Version) error {
	past, wanted := v.past(all)
	v.born(all)
	latest := all[0]
	switch {
	case !wanted && latest.Deleted: // it was gone by then, or never was
		return nil
	case !wanted:
		return v.found(ctx, all, VersionNew, kassett.Version{}, nil)
	case len(all) == 1:
		if err := v.noteKey(ctx, latest); err != nil {
			return err
		}
		v.add(func(s *VersionStats) { s.Files++; s.Untouched++ })
		return nil
	}
	right, err := v.rightOne(ctx, latest, past)
	if err != nil {
		return err
	}
	switch {
	case right.ID == "":
		return v.found(ctx, all, VersionLost, right, fmt.Errorf("none of its %d versions has the hash of its name", len(past)))
	case right.ID == latest.ID:
		v.add(func(s *VersionStats) { s.Files++; s.Untouched++ })
	case latest.Deleted:
		err = v.found(ctx, all, VersionDeleted, right, nil)
	default:
		err = v.found(ctx, all, VersionReplaced, right, nil)
	}
	return cmp.Or(err, v.noteKey(ctx, right))
}

// rightOne returns the version that is the file: the latest if it is, else the
// oldest; none when no version is.
func (v *versionRepair) rightOne(ctx context.Context, latest kassett.Version, past []kassett.Version) (kassett.Version, error) {
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
func (v *versionRepair) hash(ctx context.Context, one kassett.Version) (kassett.ID, error) {
	r, err := v.versioned.ReadVersion(ctx, one)
	if err != nil {
		return kassett.ID{}, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	v.add(func(s *VersionStats) { s.BytesRead += n })
	v.o.Progress.Done(0, n)
	return kassett.ID(sum.Sum(nil)), errors.Join(err, r.Close())
}

// readSmall reads a version of at most limit bytes.
func (v *versionRepair) readSmall(ctx context.Context, one kassett.Version, limit int64) (b []byte, err error) {
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

func (v *versionRepair) add(change func(*VersionStats)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change(&v.stats)
}

// born remembers when a file came to be.
func (v *versionRepair) born(all []kassett.Version) {
	switch all[0].Kind {
	case kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile:
		v.mu.Lock()
		defer v.mu.Unlock()
		v.births = append(v.births, all[len(all)-1].Written)
	}
}

// countLater counts the files that came to be after the first change.
func (v *versionRepair) countLater() {
	for _, t := range v.births {
		if !v.stats.First.IsZero() && t.After(v.stats.First) {
			v.stats.Later++
		}
	}
}

// found tells of a file that is not as it was, and puts it right.
func (v *versionRepair) found(ctx context.Context, all []kassett.Version, fate VersionFate, right kassett.Version, why error) error {
	f := VersionFinding{StoredName: all[0].StoredName, Fate: fate, At: all[len(all)-1].Written, Err: why}
	switch fate {
	case VersionDeleted, VersionReplaced, VersionLost:
		for i, one := range slices.Backward(all) {
			if one.ID == right.ID || fate == VersionLost {
				f.At = all[max(0, i-1)].Written // what came on top of it
				break
			}
		}
	case VersionNew:
		if v.o.HideNew {
			f.Fate = VersionHidden
		}
	}
	if !v.o.DryRun {
		var err error
		switch f.Fate {
		case VersionDeleted, VersionReplaced:
			err = v.versioned.Restore(ctx, right)
		case VersionHidden:
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
	case VersionDeleted:
		s.Deleted++
	case VersionReplaced:
		s.Replaced++
	case VersionLost:
		s.Lost++
	case VersionHidden:
		s.Hidden++
		s.New++
	case VersionNew:
		s.New++
	}
	if fate != VersionNew {
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
func (v *versionRepair) noteKey(ctx context.Context, one kassett.Version) error {
	if one.Kind != kassett.KeyFile || one.ID == "" {
		return nil
	}
	b, err := v.readSmall(ctx, one, maxKeyFile)
	if err != nil && kassett.KindOf(err) != kassett.Corrupt {
		return fmt.Errorf("read %s: %w", one, err)
	}
	if f, err := decodeKeyFile(b); err == nil && kassett.Hash(b) == one.Handle.ID {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.keys = append(v.keys, versionKey{one.Written, f})
	}
	return nil
}

// openMaster opens the master key with the password, trying the oldest keys
// first: whoever floods the storage with keys comes later.
func (v *versionRepair) openMaster(ctx context.Context) error {
	slices.SortStableFunc(v.keys, func(a, b versionKey) int { return a.born.Compare(b.born) })
	var broken []error
	for i, k := range v.keys {
		if i == maxKeysTried {
			break
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		master, err := k.file.unlock(v.password)
		if err == nil {
			v.master = master
			return nil
		}
		if !errors.Is(err, errWrongPassword) {
			broken = append(broken, err)
		}
	}
	return noKeyFits(len(v.keys), min(len(v.keys), maxKeysTried), broken)
}

// repairConfig brings the config back: the oldest version that opens.
func (v *versionRepair) repairConfig(ctx context.Context) error {
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
		if plain, err := v.master.Open(nil, b); err == nil {
			if _, err := decodeConfig(plain); err == nil {
				good, right = b, one
				break
			}
		}
	}
	if right.ID == "" {
		return noConfig(fmt.Errorf("none of its %d versions opens with the master key", len(past)))
	}
	latest := all[0]
	if !latest.Deleted {
		b, err := v.readSmall(ctx, latest, maxConfig)
		if err == nil && bytes.Equal(b, good) {
			v.add(func(s *VersionStats) { s.Files++; s.Untouched++ })
			return nil
		}
		return v.found(ctx, all, VersionReplaced, right, nil)
	}
	return v.found(ctx, all, VersionDeleted, right, nil)
}
