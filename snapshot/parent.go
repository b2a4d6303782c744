package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"kassett"
	"kassett/repo"
)

// Level says what a run reads and compares. Every snapshot is complete by
// itself, whatever its level.
type Level uint8

// The levels. The zero Level is an incremental one that nobody asked for.
const (
	Incremental  Level = iota + 1 // what changed since the last run
	Differential                  // what changed since the last full one
	Full                          // every byte again
)

// ParseLevel reads "full", "differential" or "incremental".
func ParseLevel(s string) (Level, error) {
	for _, l := range []Level{Incremental, Differential, Full} {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, &kassett.Error{
		Op: "parse level", What: fmt.Sprintf("%.80q", s), Kind: kassett.Invalid,
		Hint: "use full, differential or incremental",
	}
}

// String returns what [ParseLevel] reads.
func (l Level) String() string {
	switch l {
	case Full:
		return "full"
	case Differential:
		return "differential"
	}
	return "incremental"
}

// GroupBy says which snapshots belong to one source.
type GroupBy struct {
	Host, Paths, Tags bool
}

// ParseGroupBy reads a comma-separated list of host, paths and tags, as
// restic's --group-by; an empty list groups all together.
func ParseGroupBy(s string) (GroupBy, error) {
	var g GroupBy
	for word := range strings.SplitSeq(s, ",") {
		switch strings.TrimSpace(word) {
		case "":
		case "host", "hosts":
			g.Host = true
		case "path", "paths":
			g.Paths = true
		case "tag", "tags":
			g.Tags = true
		default:
			return GroupBy{}, &kassett.Error{
				Op: "parse group", What: fmt.Sprintf("%.80q", word), Kind: kassett.Invalid,
				Hint: "use host, paths and tags, separated by commas",
			}
		}
	}
	return g, nil
}

// FindParent returns the snapshot that a backup of this level compares with:
// the youngest of like's group that is not younger than like, for
// [Differential] the youngest full one of them. It returns nil when there is
// none, and always for [Full]. Snapshots that cannot be read are named in the
// error, as by [List]; the rest is chosen from all the same.
func FindParent(ctx context.Context, r *repo.Repository, g GroupBy, like *Snapshot, level Level) (*Snapshot, error) {
	if level == Full {
		return nil, nil
	}
	f := Filter{Until: like.Time}
	if g.Host {
		f.Hosts = []string{like.Hostname}
	}
	if g.Paths {
		f.Paths = like.Paths
	}
	list, err := List(ctx, r, f)
	for _, s := range slices.Backward(list) {
		if (!g.Tags || sameTags(s.UserTags(), like.UserTags())) && (level != Differential || s.full()) {
			return s, err
		}
	}
	return nil, err
}

// full reports whether every byte was read for the snapshot: its tag says so,
// or it has no tag of a level and was made without a parent. A copy loses the
// name of its parent, but is known by the name of its original.
func (s *Snapshot) full() bool {
	level, tagged := s.Level()
	if tagged {
		return level == Full
	}
	return s.Parent == nil && s.Original == nil
}

// UserTags returns the tags that people gave: all but Kassett's own.
func (s *Snapshot) UserTags() []string {
	var l []string
	for _, t := range s.Tags {
		if !strings.HasPrefix(t, tagPrefix) {
			l = append(l, t)
		}
	}
	return l
}

// sameTags compares tags as sets.
func sameTags(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}
