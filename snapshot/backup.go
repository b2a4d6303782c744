package snapshot

import (
	"context"
	"errors"
	"time"

	"kassett"
	"kassett/repo"
)

// BackupOptions say how [Backup] works and what it writes into the snapshot.
type BackupOptions struct {
	Time     time.Time // of the snapshot; zero is now
	Host     string
	User     string // name, with UID and GID, of who makes the backup
	UID, GID uint32
	Tags     []string
	Paths    []string // absolute, as the user named the source
	Excludes []string
	Version  string // of the program, as "kassett 1.0"

	Level    Level
	TagLevel bool      // record the level in a tag, because it was asked for
	Parent   *Snapshot // nil: found by Group and Level
	Group    GroupBy   // zero: restic's, host and paths

	IgnoreCtime, IgnoreInode bool // when judging whether a file changed
	SkipUnchanged            bool // make no snapshot when its tree would be the parent's
	DryRun                   bool // read and compare, write nothing

	Progress *kassett.Progress
	// Warn is told what is missing from the snapshot or not as it was, by
	// path, from several goroutines. Such a backup ends as Incomplete.
	Warn func(path string, err error)
	// Notice is told what the operator should know and that lacks nothing.
	Notice func(msg string)
}

// Backup writes what src holds into r as one snapshot. The caller holds a lock
// of the repository, and has loaded its index.
//
// When something could not be saved it was named through o.Warn, and the error
// is of Kind Incomplete and comes together with the snapshot, which is saved.
func Backup(ctx context.Context, r *repo.Repository, src kassett.Source, o BackupOptions) (*Snapshot, error) {
	return nil, errors.New("backup: not yet")
}
