package snapshot

import (
	"context"
	"errors"

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

// ParseOverwrite reads what [Overwrite.String] writes.
func ParseOverwrite(s string) (Overwrite, error) {
	return 0, errors.ErrUnsupported
}

// Select chooses what is restored or found, by path (from "/" on) and, where it
// is known, node: in a restore that deletes, n is nil for what is in the target
// only. The second result says whether anything below a folder may be selected.
type Select func(path string, n *Node) (selected, childMayBe bool)

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
	Updated   RestoreAction = "updated"
	Unchanged RestoreAction = "unchanged"
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
	Deleted   uint64 `json:"files_deleted"`   // entries at the top of what was removed
	Bytes     uint64 `json:"bytes_restored"`  // of Files
	Written   uint64 `json:"bytes_written"`   // less than Bytes by holes and what was there
	Verified  uint64 `json:"files_verified"`
	Problems  uint64 `json:"problems"` // entries named to Warn
}

// Restore gives what is below a tree back to a target. The caller has loaded
// the index. Entries that cannot be restored are named to o.Warn, the rest is
// restored, and the error is then of the kind [kassett.Corrupt] if stored data
// was damaged, else [kassett.Incomplete].
func Restore(ctx context.Context, r *repo.Repository, tree kassett.ID, target kassett.Target, o RestoreOptions) (RestoreStats, error) {
	return RestoreStats{}, errors.ErrUnsupported
}
