package repo

import (
	"context"
	"errors"

	"kassett"
)

// FindingKind says how bad a [Finding] is.
type FindingKind string

// The kinds of finding. Damage and Missing make a check fail; the others are
// for information.
const (
	Damage   FindingKind = "damage"   // stored bytes are not what was written
	Missing  FindingKind = "missing"  // something that is named is not there
	Leftover FindingKind = "leftover" // harmless rest of work that was broken off
	Hint     FindingKind = "hint"     // harmless, but could be better
)

// Finding is one thing that a check or a repair has to say.
type Finding struct {
	Kind FindingKind
	What string // the thing, with its ID: "pack 3fa9…", "blob data/77e1… in pack 3fa9…"
	Err  error  // what is wrong with it; may be nil
	Hint string // what the operator should do next; may be empty
}

// CheckOptions chooses how deep a check goes.
type CheckOptions struct {
	// ReadData says whose packs' bytes are read. The zero Subset reads none.
	ReadData Subset
	Progress *kassett.Progress
}

// Check compares what the index files, keys, snapshots and packs of the
// repository say of themselves and of each other, and reads the packs of
// o.ReadData. It tells report, one call at a time, everything it finds, and
// goes on. What trees and snapshots mean is not looked at.
//
// The caller holds a lock; a shared one is enough. When something is damaged
// or missing the error is of the kind [kassett.Corrupt]; when the check could
// not be done, of another.
func (r *Repository) Check(ctx context.Context, o CheckOptions, report func(Finding)) error {
	return errors.ErrUnsupported
}
