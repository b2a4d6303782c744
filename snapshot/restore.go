package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"kassett"
	"kassett/repo"
)

// Overwrite says when a restore replaces a file that is there already. What is
// right already is never written again.
type Overwrite uint8

// The rules for overwriting, restic's.
const (
	OverwriteAlways    Overwrite = iota // compare the content, and write what differs
	OverwriteIfChanged                  // as always, but equal size and time of change count as equal content
	OverwriteIfNewer                    // only if the snapshot's is younger
	OverwriteNever
)

var overwrites = [...]string{"always", "if-changed", "if-newer", "never"}

// ParseOverwrite reads what [Overwrite.String] writes.
func ParseOverwrite(s string) (Overwrite, error) {
	for i, word := range overwrites {
		if s == word {
			return Overwrite(i), nil
		}
	}
	return 0, &kassett.Error{
		Op: "parse overwrite rule", What: fmt.Sprintf("%.80q", s), Kind: kassett.Invalid,
		Hint: "use always, if-changed, if-newer or never",
	}
}

// String returns the word for the rule: always, if-changed, if-newer, never.
func (o Overwrite) String() string { return overwrites[o] }

// Select chooses what is restored or found, by path (from "/" on) and, where it
// is known, node: in a restore that deletes, n is nil for what is in the target
// only. The second result says whether anything below a folder may be selected.
type Select func(path string, n *Node) (selected, childMayBe bool)

// all selects everything.
func all(string, *Node) (bool, bool) { return true, true }

// RestoreOptions say what [Restore] does.
type RestoreOptions struct {
	Select    Select // nil selects everything
	Overwrite Overwrite
	DryRun    bool // find out what would be done, change nothing
	Verify    bool // read every restored file back and compare
	Delete    bool // remove what is selected and in restored folders, but not in the snapshot
	Progress  *kassett.Progress
	// Warn is told what could not be restored, by path, one call at a time.
	Warn func(path string, err error)
	// Event, if not nil, is told what was (or would be) done, one call at a time.
	Event func(RestoreEvent)
}

// RestoreAction is what a restore did with one entry.
type RestoreAction string

// The actions of a restore, by the words restic uses.
const (
	Restored  RestoreAction = "restored"
	Updated   RestoreAction = "updated"   // something was there and was replaced
	Unchanged RestoreAction = "unchanged" // its content was right, or the rule left it alone
	Deleted   RestoreAction = "deleted"
)

// RestoreEvent says what was done with one entry.
type RestoreEvent struct {
	Action RestoreAction
	Path   string // from "/" on
	Size   uint64 // bytes of content
}

// RestoreStats is what a restore did. Sizes are in bytes.
type RestoreStats struct {
	Files     uint64 `json:"files_restored"` // given their content
	Dirs      uint64 `json:"dirs_restored"`
	Others    uint64 `json:"others_restored"` // links, devices, fifos
	Unchanged uint64 `json:"files_unchanged"` // whose content was right
	Skipped   uint64 `json:"files_skipped"`   // that the rule for overwriting left alone
	Deleted   uint64 `json:"files_deleted"`   // entries, a folder with all that was in it counts once
	Bytes     uint64 `json:"bytes_restored"`  // of Files
	Written   uint64 `json:"bytes_written"`   // less than Bytes by holes and what was there
	Verified  uint64 `json:"files_verified"`
	Problems  uint64 `json:"problems"` // told to Warn
}

// Restore gives what is below a tree back to a target. The caller has loaded
// the index.
//
// Folders are made and files listed first, some 100,000 at a time; then packs
// are read, each as few times as possible, and their blobs written wherever
// they belong. Runs of zeros are not written, so that sparse files are sparse
// again. A file gets its metadata and final name as soon as its last blob is
// written; folders get their metadata last. A restore that was cut goes on when
// it is run again: what is there, also in unfinished files, is compared blob by
// blob, and only what differs is written.
//
// Entries that cannot be restored are named to o.Warn and the rest is restored;
// a file that lacks a blob does not get its final name. The error is then of
// the kind [kassett.Corrupt] if stored data was damaged, else
// [kassett.Incomplete]. A full target ends the restore with a [kassett.Full]
// error.
//
// A name with a separator, "..", or the like, is an entry that cannot be
// restored. Owners and other metadata that the system does not let us set are
// the target's to judge.
func Restore(ctx context.Context, r *repo.Repository, tree kassett.ID, target kassett.Target, o RestoreOptions) (RestoreStats, error) {
	if o.Select == nil {
		o.Select = all
	}
	rs := &restorer{r: r, target: target, o: o, links: map[linkKey]string{}}
	rs.show, _ = target.(kassett.Readable)
	if rs.show == nil && (o.Verify || o.Delete) {
		return RestoreStats{}, &kassett.Error{
			Op: "restore", Kind: kassett.Invalid, Err: errors.New("this target cannot show what it holds"),
			Hint: "restore without verifying and deleting",
		}
	}
	rs.open.target = target
	o.Progress.Enter("restore")
	p := &planner{restorer: rs, batch: &restoreBatch{}}
	err := p.run(ctx, tree)
	if err == nil {
		err = rs.bad.err("restore", "", "look at what was named; use another copy of the repository for what is damaged")
	}
	return rs.stats, err
}

// restorer is one restore.
type restorer struct {
	r      *repo.Repository
	target kassett.Target
	show   kassett.Readable // nil if the target has not that ability
	o      RestoreOptions
	open   openFiles
	bad    faults
	links  map[linkKey]string // where the first name of a file with several is

	mu    sync.Mutex // guards what follows, and calls of Warn and Event
	stats RestoreStats
}

// linkKey names a file that has several names. The content is part of it: inode
// numbers are used again, and a hostile tree may lie.
type linkKey struct {
	device, inode uint64
	content       kassett.ID
}

// fail names an entry that is not restored. It returns an error only when the
// restore cannot go on.
func (rs *restorer) fail(ctx context.Context, path string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	switch kassett.KindOf(err) {
	case kassett.Full:
		return &kassett.Error{
			Op: "restore", What: path, Kind: kassett.Full, Err: err,
			Hint: "make room in the target and run the same command again: it goes on where it stopped",
		}
	case kassett.Offline, kassett.Interrupted, kassett.Locked:
		return fmt.Errorf("restore %s: %w", path, err)
	}
	rs.bad.add(fmt.Errorf("%q: %w", path, err))
	rs.o.Progress.Problem()
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.stats.Problems++
	if rs.o.Warn != nil {
		rs.o.Warn(path, err)
	}
	return nil
}

// did counts one entry, and tells of it if it has an action.
func (rs *restorer) did(count *uint64, action RestoreAction, path string, size uint64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	*count++
	if action == Restored || action == Updated {
		rs.stats.Bytes += size
	}
	if rs.o.Event != nil {
		rs.o.Event(RestoreEvent{Action: action, Path: path, Size: size})
	}
}

// lookAt returns what is at a path of the target, or nil.
func (rs *restorer) lookAt(ctx context.Context, path string) (*kassett.Entry, error) {
	e, err := rs.target.Look(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing there is no error
	}
	return e, err
}

// leaves reports whether the rule for overwriting leaves what is there alone.
func (rs *restorer) leaves(there *kassett.Entry, n *Node) bool {
	switch rs.o.Overwrite {
	case OverwriteNever:
		return true
	case OverwriteIfNewer:
		return !n.ModTime.After(there.ModTime)
	}
	return false
}
