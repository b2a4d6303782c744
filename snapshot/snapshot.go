package snapshot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo"
)

// The tags that Kassett itself sets. All begin with "kassett:", which the tags
// that people give should not.
const (
	tagPrefix = "kassett:"
	// TagLevel, followed by a [Level], says what the run read and compared. It
	// is set when the level was asked for.
	TagLevel = tagPrefix + "level="
	// TagCut, followed by a [kassett.Cut], names a cut of the snapshot's files.
	// A snapshot that was cut by content only has none.
	TagCut = tagPrefix + "cut="
	// TagIncomplete marks a snapshot that lacks something which was named when
	// it was made.
	TagIncomplete = tagPrefix + "incomplete"
)

// Snapshot is the state of a source at one time. Its JSON is restic's, in
// restic's order of fields.
type Snapshot struct {
	ID kassett.ID `json:"-"` // of the stored file; zero before Save
	// Received is when the storage took the file in, by its own clock; zero
	// where it does not know, and for a snapshot that did not come from [List].
	Received time.Time `json:"-"`

	Time           time.Time   `json:"time"`
	Parent         *kassett.ID `json:"parent,omitempty"`
	Tree           kassett.ID  `json:"tree"`
	Paths          []string    `json:"paths"`
	Hostname       string      `json:"hostname,omitempty"`
	Username       string      `json:"username,omitempty"`
	UID            uint32      `json:"uid,omitempty"`
	GID            uint32      `json:"gid,omitempty"`
	Excludes       []string    `json:"excludes,omitempty"`
	Tags           []string    `json:"tags,omitempty"`
	Original       *kassett.ID `json:"original,omitempty"` // the first of a line of rewritten snapshots
	ProgramVersion string      `json:"program_version,omitempty"`
	Summary        *Summary    `json:"summary,omitempty"`
}

// Summary is what a backup counted. Sizes are in bytes.
type Summary struct {
	BackupStart         time.Time `json:"backup_start"`
	BackupEnd           time.Time `json:"backup_end"`
	FilesNew            uint64    `json:"files_new"`
	FilesChanged        uint64    `json:"files_changed"`
	FilesUnmodified     uint64    `json:"files_unmodified"`
	DirsNew             uint64    `json:"dirs_new"`
	DirsChanged         uint64    `json:"dirs_changed"`
	DirsUnmodified      uint64    `json:"dirs_unmodified"`
	DataBlobs           uint64    `json:"data_blobs"` // new ones
	TreeBlobs           uint64    `json:"tree_blobs"` // new ones
	DataAdded           uint64    `json:"data_added"` // plaintext of the new blobs
	DataAddedPacked     uint64    `json:"data_added_packed"`
	TotalFilesProcessed uint64    `json:"total_files_processed"`
	TotalBytesProcessed uint64    `json:"total_bytes_processed"`
}

// Level returns the level the snapshot's tags record, or false when none was
// asked for.
func (s *Snapshot) Level() (Level, bool) {
	for _, t := range s.Tags {
		if l, ok := strings.CutPrefix(t, TagLevel); ok {
			if level, err := ParseLevel(l); err == nil {
				return level, true
			}
		}
	}
	return Incremental, false
}

// Complete reports whether nothing was missing when the snapshot was made, as
// far as its tags tell.
func (s *Snapshot) Complete() bool { return !slices.Contains(s.Tags, TagIncomplete) }

// Load reads the snapshot with this ID.
func Load(ctx context.Context, r *repo.Repository, id kassett.ID) (*Snapshot, error) {
	b, err := r.LoadUnpacked(ctx, kassett.SnapshotFile, id)
	if err != nil {
		return nil, fmt.Errorf("load snapshot %s: %w", id.Short(), err)
	}
	s := &Snapshot{ID: id}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, &kassett.Error{
			Op: "read snapshot", What: id.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "its data may still be whole: run recover to find trees that no snapshot names",
		}
	}
	return s, nil
}

// Save stores the snapshot and sets its ID. All blobs it leads to must be
// durable and in the index. What it needs is retained first, on storage that
// does that.
func Save(ctx context.Context, r *repo.Repository, s *Snapshot) (kassett.ID, error) {
	if err := retain(ctx, r, []kassett.ID{s.Tree}); err != nil {
		return kassett.ID{}, fmt.Errorf("save snapshot: %w", err)
	}
	return write(ctx, r, s)
}

// write stores a snapshot whose needs are retained.
func write(ctx context.Context, r *repo.Repository, s *Snapshot) (kassett.ID, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("encode snapshot: %w", err)
	}
	id, err := r.SaveUnpacked(ctx, kassett.SnapshotFile, b)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("save snapshot: %w", err)
	}
	s.ID = id
	return id, nil
}

// TagList is a list of tags that a snapshot must all have; a single empty tag
// stands for a snapshot without tags.
type TagList []string

// ParseTagList reads a comma-separated list of tags.
func ParseTagList(s string) TagList {
	var l TagList
	for t := range strings.SplitSeq(s, ",") {
		l = append(l, strings.TrimSpace(t))
	}
	return l
}

// Filter chooses snapshots as restic's flags do. Its zero value chooses all.
type Filter struct {
	Hosts []string  // any of them
	Tags  []TagList // all tags of any of the lists
	Paths []string  // all of them, perhaps among others
	// Until, when not zero, leaves out what is younger.
	Until time.Time
}

// Empty reports whether f chooses every snapshot.
func (f *Filter) Empty() bool {
	return len(f.Hosts)+len(f.Tags)+len(f.Paths) == 0 && f.Until.IsZero()
}

// Match reports whether f chooses s.
func (f *Filter) Match(s *Snapshot) bool {
	if len(f.Hosts) > 0 && !slices.Contains(f.Hosts, s.Hostname) {
		return false
	}
	if len(f.Tags) > 0 && !slices.ContainsFunc(f.Tags, s.hasTags) {
		return false
	}
	for _, p := range f.Paths {
		if !slices.Contains(s.Paths, p) {
			return false
		}
	}
	return f.Until.IsZero() || !s.Time.After(f.Until)
}

func (s *Snapshot) hasTags(l TagList) bool {
	for _, t := range l {
		if t == "" && len(s.Tags) == 0 {
			return true
		}
		if !slices.Contains(s.Tags, t) {
			return false
		}
	}
	return true
}

// List returns the snapshots that f chooses, oldest first. Snapshots that
// cannot be read are passed over and named in the error, a join of one error
// for each; what is returned beside such an error is all the others. Only when
// the listing itself failed is the result nil.
func List(ctx context.Context, r *repo.Repository, f Filter) ([]*Snapshot, error) {
	var files []kassett.Info
	for info, err := range r.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		files = append(files, info)
	}
	var (
		mu   sync.Mutex
		bad  []error
		list = make([]*Snapshot, 0, len(files))
		g    errgroup.Group
	)
	g.SetLimit(max(2, r.Connections()))
	for _, file := range files {
		g.Go(func() error {
			s, err := Load(ctx, r, file.ID)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				bad = append(bad, err)
			case f.Match(s):
				s.Received = file.Received
				list = append(list, s)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	sortByTime(list)
	slices.SortFunc(bad, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return list, errors.Join(bad...)
}

// sortByTime sorts oldest first, and by ID where times are equal.
func sortByTime(l []*Snapshot) {
	slices.SortFunc(l, func(a, b *Snapshot) int {
		return cmp.Or(a.Time.Compare(b.Time), a.ID.Compare(b.ID))
	})
}

// Find returns the snapshot that spec names, and the folder in it: "latest"
// (the youngest that f chooses) or the beginning of an ID, either followed by
// ":path". f does not bind an ID. When the youngest was asked for and some
// snapshots could not be read, the youngest of the others is returned together
// with an error that names those, and the caller decides.
func Find(ctx context.Context, r *repo.Repository, f Filter, spec string) (s *Snapshot, sub string, err error) {
	name, sub, _ := strings.Cut(spec, ":")
	if name != "latest" {
		id, err := r.Resolve(ctx, kassett.SnapshotFile, name)
		if err != nil {
			return nil, "", err
		}
		s, err = Load(ctx, r, id)
		return s, sub, err
	}
	list, err := List(ctx, r, f)
	if len(list) > 0 {
		return list[len(list)-1], sub, err
	}
	if err != nil {
		return nil, "", err
	}
	return nil, "", &kassett.Error{
		Op: "find snapshot", What: spec, Kind: kassett.NotFound,
		Hint: "list what is there with: kassett snapshots",
	}
}

// FindAll returns the snapshots that specs name, each once and in the order of
// specs, or those that f chooses when there are no specs. A spec with a folder
// is an [kassett.Invalid] error. As with [List], what could not be read is
// named in the error and the rest is returned.
func FindAll(ctx context.Context, r *repo.Repository, f Filter, specs []string) ([]*Snapshot, error) {
	if len(specs) == 0 {
		return List(ctx, r, f)
	}
	var (
		list []*Snapshot
		bad  []error
	)
	for _, spec := range specs {
		if strings.Contains(spec, ":") {
			return nil, &kassett.Error{
				Op: "find snapshot", What: spec, Kind: kassett.Invalid,
				Err: errors.New("a folder in the snapshot has no meaning here"), Hint: "leave out the colon and what follows it",
			}
		}
		s, _, err := Find(ctx, r, f, spec)
		if err != nil {
			bad = append(bad, err)
		}
		if s != nil && !slices.ContainsFunc(list, func(o *Snapshot) bool { return o.ID == s.ID }) {
			list = append(list, s)
		}
	}
	return list, errors.Join(bad...)
}
