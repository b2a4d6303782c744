package snapshot

import (
	"errors"
	"time"
)

// Duration is a span of the calendar, as restic's --keep-within takes it.
type Duration struct {
	Years, Months, Days, Hours int
}

// ParseDuration reads numbers with the units y, m (months), d and h, as in
// "1y5m7d2h".
func ParseDuration(s string) (Duration, error) {
	return Duration{}, errors.ErrUnsupported
}

// Policy says which snapshots of one group are kept. Counts of -1 keep without
// limit, 0 is no rule. The rules are restic's.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within        Duration // before the youngest snapshot
	WithinHourly  Duration
	WithinDaily   Duration
	WithinWeekly  Duration
	WithinMonthly Duration
	WithinYearly  Duration

	Tags []TagList // keep what has all tags of any of the lists
}

// Decision is what a policy says of one snapshot.
type Decision struct {
	Snapshot *Snapshot
	Keep     bool
	Reasons  []string // why it is kept, in restic's words
	// Guarded is set when no rule keeps the snapshot, but a guard does: why,
	// and what would lift it. It is of the kind [kassett.Held].
	Guarded error
}

// Apply decides about the snapshots of one group, youngest first.
func (p Policy) Apply(list []*Snapshot, now time.Time) []Decision {
	return nil
}

// GroupKey is what the snapshots of a group have in common; what they were not
// grouped by is empty.
type GroupKey struct {
	Hostname string   `json:"hostname"`
	Paths    []string `json:"paths"`
	Tags     []string `json:"tags"`
}

// Group is the snapshots of one source, oldest first.
type Group struct {
	Key       GroupKey
	Snapshots []*Snapshot
}

// Groups puts snapshots into groups, sorted by host, paths and tags.
func Groups(list []*Snapshot, by GroupBy) []Group {
	return nil
}
