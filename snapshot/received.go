package snapshot

import "time"

// How far a snapshot's own time may be from when its storage received it.
const (
	// believed is the difference up to which the snapshot's own time counts:
	// clocks are not the same, and a backup takes time.
	believed = time.Hour
	// longRun is the difference up to which a snapshot that came in later
	// than it says is nothing to wonder at.
	longRun = 24 * time.Hour
)

// countedAt returns the time by which a snapshot is judged where its own word is
// not enough: its own time, if the storage does not know better or both are
// close; else when the storage received it.
func (s *Snapshot) countedAt() time.Time {
	if s.Received.IsZero() || s.Received.Sub(s.Time).Abs() <= believed {
		return s.Time
	}
	return s.Received
}

// Odd reports whether a snapshot carries a time that is far from when its
// storage received it: an hour later or more, or more than a day before. That
// is so of a copy, of one that was rewritten or dated by hand, of one that a
// long backup wrote, and of one with a made-up time.
func (s *Snapshot) Odd() bool {
	return !s.Received.IsZero() && (s.Time.Sub(s.Received) > believed || s.Received.Sub(s.Time) > longRun)
}
