package repo

import (
	"context"
	"errors"
	"time"

	"kassett"
)

// RecordKind says what a [Record] does.
type RecordKind string

// The kinds of record.
const (
	// FloorRecord: nothing of its subject is forgotten before it has the
	// age Keep, or before the day Until.
	FloorRecord RecordKind = "floor"
	// HoldRecord: its subject is not forgotten until Until; for ever when
	// that is zero.
	HoldRecord RecordKind = "hold"
	// LiftRecord: the record named by Lifts no longer counts.
	LiftRecord RecordKind = "lift"
	// RetireRecord: its source is signed off; its last good snapshot may
	// go when nothing else holds it.
	RetireRecord RecordKind = "retire"
)

// Subject says which snapshots a record is about. Exactly one of Snapshot, All
// and the rest is given.
type Subject struct {
	// Snapshot is one snapshot, and whatever it is rewritten to: it matches
	// a snapshot's ID and its original.
	Snapshot kassett.ID `json:"snapshot,omitzero"`
	// All is the whole repository.
	All bool `json:"all,omitempty"`
	// Host, Paths and Tags describe a source: a snapshot matches when it has
	// the host, if given, exactly the set of paths, if given, and all of the
	// tags.
	Host  string   `json:"host,omitempty"`
	Paths []string `json:"paths,omitempty"`
	Tags  []string `json:"tags,omitempty"`
}

// Record is a signed statement beside a repository about what may be forgotten.
type Record struct {
	ID      kassett.ID `json:"-"` // SHA-256 of the stored file
	Kind    RecordKind `json:"kind"`
	Created time.Time  `json:"created"`
	Subject Subject    `json:"subject,omitzero"`
	Keep    Age        `json:"keep,omitzero"`  // of a floor: for how long after a snapshot's time
	Until   time.Time  `json:"until,omitzero"` // of a floor or hold
	Lifts   kassett.ID `json:"lifts,omitzero"` // of a lift: the record
	Reason  string     `json:"reason"`
	By      []string   `json:"by"` // names of persons; a lift needs two
}

// Age is a span of the calendar. Years and months are those of the calendar,
// not of so many days. Its text is restic's: "10y6m3d2h".
type Age struct{ Years, Months, Days, Hours int }

// AddRecord signs and stores a record and returns its ID.
func (r *Repository) AddRecord(ctx context.Context, rec Record) (kassett.ID, error) {
	return kassett.ID{}, errors.ErrUnsupported
}

// Records returns the records that stand: verified, oldest first, without lifts
// and what they lifted.
func (r *Repository) Records(ctx context.Context) ([]Record, error) {
	return nil, nil
}
