package kassett

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"
)

// StoredName names any file that a storage keeps: one of the repository's, or
// one beside it.
type StoredName struct {
	Handle
	Beside string // when not "", a file of a [Beside], and Handle is zero
}

// String returns the path below the repository, as "index/3fa9..." or
// "kassett/records/signer".
func (n StoredName) String() string {
	if n.Beside != "" {
		return "kassett/" + n.Beside
	}
	return n.Handle.String()
}

// RetentionMode is who may let go of a file before its time. The words are
// those of S3's object lock.
type RetentionMode string

// The modes.
const (
	Governance RetentionMode = "governance" // who has a right of its own for that
	Compliance RetentionMode = "compliance" // nobody, the owner of the account included
)

// Retention is what a storage does with new files by itself. The zero Retention
// does nothing.
type Retention struct {
	Mode RetentionMode
	// Period is the promise: whatever a snapshot needs is retained at least
	// that long after the snapshot was written.
	Period time.Duration
	// Slack is how much longer than Period files are retained when they are
	// stored or extended. What stays the same from snapshot to snapshot must
	// be extended only once in that time.
	Slack time.Duration
}

// On reports whether anything is retained.
func (r Retention) On() bool { return r.Period > 0 }

// Span is how long new files are retained: Period and Slack.
func (r Retention) Span() time.Duration { return r.Period + r.Slack }

// Retainer is the ability of a [Storage] to keep a file until a time, whoever
// asks for its removal. [Storage.Delete] of such a file is a [Held] error that
// says until when with a [HeldError], and leaves it as it is. Locks, and
// files beside the repository other than records, are never retained by
// themselves.
type Retainer interface {
	// Retention returns what happens to new files. It does not change.
	Retention() Retention
	// Clock returns the time by the storage's own clock, which is the one
	// that retention ends by.
	Clock(ctx context.Context) (time.Time, error)
	// RetainedUntil returns until when a file is retained; zero when it is
	// not. A file that is not there is a [NotFound] error.
	RetainedUntil(ctx context.Context, n StoredName) (time.Time, error)
	// Retain retains a file until the given time, unless it is retained until
	// least or longer anyway, and returns until when it is now. It extends,
	// and never shortens. A file that is not there is a [NotFound] error; one
	// that was put in the place of the file of that name is [Corrupt], as far
	// as the storage can tell.
	Retain(ctx context.Context, n StoredName, least, until time.Time) (time.Time, error)
}

// Version is one version of a file of a [Versioned] storage, or a mark that
// says that the file was deleted.
type Version struct {
	StoredName
	ID      string    // by which the storage knows it
	Size    int64     // bytes; 0 for a mark
	Written time.Time // by the storage's clock
	Latest  bool      // what Get reads; when it is a mark, the file is not there
	Deleted bool      // it is a mark
}

// Versioned is the ability of a [Storage] to keep what was overwritten and
// deleted by whoever reaches the storage without this program.
type Versioned interface {
	// Versions yields all versions of all files of a kind, those of one file
	// after each other and the youngest first; of files beside the
	// repository for kind 0. After an error the listing ends.
	Versions(ctx context.Context, k FileKind) iter.Seq2[Version, error]
	// ReadVersion reads one version whole as a stream; [NotFound] when it is
	// not there.
	ReadVersion(ctx context.Context, v Version) (io.ReadCloser, error)
	// Restore makes a version what Get reads, by a copy on top of the others
	// where it must, and retains it as a new file. Nothing that has content
	// is removed.
	Restore(ctx context.Context, v Version) error
	// Hide makes a file be not there, by a mark on top of its versions.
	Hide(ctx context.Context, n StoredName) error
}

// HeldError is the cause of a [Held] error of a storage.
type HeldError struct {
	Until time.Time // when the file may be deleted
	Mode  RetentionMode
}

// Error says until when, in UTC.
func (e *HeldError) Error() string {
	return fmt.Sprintf("object lock keeps it until %s", e.Until.UTC().Format("2006-01-02 15:04 UTC"))
}
