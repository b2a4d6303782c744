package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

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

	Level  Level     // recorded in a tag unless it is zero
	Parent *Snapshot // what to compare with; nil: what FindParent finds
	Group  GroupBy   // for FindParent; zero is restic's, host and paths

	Ignore
	SkipUnchanged bool // make no snapshot when its tree would be the parent's
	DryRun        bool // read and compare, write nothing
	Readers       int  // files read at once; 0 is one more than there are processors, at most 16
	// Checkpoint is how often it is noted, in the cache of this machine, what is
	// finished, so that a backup that is cut goes on from there; 0 is never.
	Checkpoint time.Duration

	Progress *kassett.Progress
	// Warn is told what is missing from the snapshot or not as it was, by
	// its path in the source, from several goroutines. Such a backup ends as
	// [kassett.Incomplete]. It may be nil.
	Warn func(path string, err error)
	// Notice is told what an operator should know though nothing is missing,
	// from several goroutines. It may be nil.
	Notice func(msg string)
}

// Ignore says what does not count when it is judged whether a file changed.
type Ignore struct {
	IgnoreCtime, IgnoreInode bool
}

// Backup writes what src holds into r as one snapshot and returns it. The
// caller holds a lock of the repository and has loaded its index. The snapshot
// is written last, after all that it leads to is durable.
//
// When something could not be saved, or changed while it was read, it was named
// through o.Warn, the snapshot is saved all the same, carries [TagIncomplete],
// and comes together with an error of Kind [kassett.Incomplete]. With any other
// error there is no snapshot; what was stored by then stays and serves the next
// run. With o.DryRun the snapshot has no ID; with o.SkipUnchanged and an
// unchanged source it is o.Parent or what was found in its place.
func Backup(ctx context.Context, r *repo.Repository, src kassett.Source, o BackupOptions) (*Snapshot, error) {
	sn := newSnapshot(&o)
	if o.Parent == nil {
		parent, err := FindParent(ctx, r, o.Group, sn, o.Level)
		if err != nil && ctx.Err() != nil {
			return nil, interrupted(ctx)
		} else if err != nil {
			o.notice(fmt.Sprintf("some snapshots cannot be read and are not compared with: %v", err))
		}
		o.Parent = parent
	}
	b := newBackup(r, src, &o)
	level := b.level()
	b.resume()
	tree, err := b.run(ctx)
	if err != nil {
		return nil, err
	}
	if !o.DryRun {
		if err := b.retain(ctx, tree); err != nil {
			return nil, err
		}
	}
	if b.unchanged(tree) {
		b.dropCheckpoint()
		return o.Parent, nil
	}
	if o.Parent != nil {
		sn.Parent = &o.Parent.ID
	}
	sn.Tree, sn.Summary = tree, b.count.summary(sn.Time)
	if sn.Summary.TotalFilesProcessed == 0 && len(o.Excludes) > 0 {
		// It must not count as the last good one of its source.
		b.warn("", errors.New("the excludes leave no file to save: check their patterns"))
	}
	sn.Tags = append(sn.Tags, b.cuts.tags()...)
	if o.Level != 0 {
		sn.Tags = append(sn.Tags, TagLevel+level.String())
	}
	var incomplete error
	if n := b.problems.Load(); n > 0 {
		text := "1 problem was named"
		if n > 1 {
			text = fmt.Sprintf("%d problems were named", n)
		}
		sn.Tags = append(sn.Tags, TagIncomplete)
		incomplete = &kassett.Error{
			Op: "backup", Kind: kassett.Incomplete, Err: errors.New(text),
			Hint: "the snapshot holds the rest; see to what was named and run the backup again",
		}
	}
	if !o.DryRun {
		if _, err := write(ctx, r, sn); err != nil {
			return nil, err
		}
		b.dropCheckpoint()
	}
	return sn, incomplete
}

// unchanged reports whether no snapshot is to be made.
func (b *backup) unchanged(tree kassett.ID) bool {
	o := b.opt
	return o.SkipUnchanged && o.Parent != nil && tree == o.Parent.Tree && b.problems.Load() == 0
}

func newSnapshot(o *BackupOptions) *Snapshot {
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	if o.Group == (GroupBy{}) {
		o.Group = GroupBy{Host: true, Paths: true}
	}
	if o.Readers <= 0 {
		o.Readers = min(runtime.GOMAXPROCS(0)+1, 16)
	}
	return &Snapshot{
		Time: o.Time, Hostname: o.Host, Username: o.User, UID: o.UID, GID: o.GID,
		Paths: slices.Clone(o.Paths), Excludes: slices.Clone(o.Excludes), Tags: slices.Clone(o.Tags),
		ProgramVersion: o.Version,
	}
}

func (o *BackupOptions) notice(msg string) {
	if o.Notice != nil {
		o.Notice(msg)
	}
}

// interrupted says why ctx has ended: a person stopped the backup, or whoever
// gave ctx did, who then says why: a lock that was lost.
func interrupted(ctx context.Context) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("backup: %w", cause)
	}
	return &kassett.Error{
		Op: "backup", Kind: kassett.Interrupted, Err: cause,
		Hint: "run it again: what is stored already is not stored twice",
	}
}

// backup is one run of Backup.
type backup struct {
	repo     *repo.Repository
	src      kassett.Source
	opt      *BackupOptions
	save     saver
	cutter   *cutter
	cuts     cutSet
	queue    queue
	open     openFolders
	resumed  *checkpoint // what the backup goes on from, or nil
	buffers  buffers
	zeros    zeroBlobs
	count    counts
	problems atomic.Int64
	root     kassett.ID // set when the last folder is finished
}

// saver is what backup needs of a [repo.Writer].
type saver interface {
	Save(ctx context.Context, t repo.BlobType, plain []byte) (repo.Saved, error)
	Checkpoint() error
	Flush(ctx context.Context) error
	Abort()
}

// dryRun is a saver that counts only.
type dryRun struct {
	repo *repo.Repository
	new  sync.Map // of repo.BlobHandle
}

func (d *dryRun) Save(_ context.Context, t repo.BlobType, plain []byte) (repo.Saved, error) {
	h := repo.BlobHandle{Type: t, ID: kassett.Hash(plain)}
	_, again := d.new.LoadOrStore(h, nil)
	return repo.Saved{ID: h.ID, New: !again && !d.repo.Has(h)}, nil
}

func (d *dryRun) Checkpoint() error           { return nil }
func (d *dryRun) Flush(context.Context) error { return nil }
func (d *dryRun) Abort()                      {}

func newBackup(r *repo.Repository, src kassett.Source, o *BackupOptions) *backup {
	b := &backup{
		repo: r, src: src, opt: o, cutter: newCutter(r.Config().ChunkerPolynomial),
		buffers: newBuffers(o.Readers),
	}
	b.count.start = time.Now()
	b.cuts.parent = parentCuts(o.Parent)
	b.queue.init(o.Readers)
	return b
}

// level returns what the run really does: without a parent, whatever was asked
// for, every byte is read.
func (b *backup) level() Level {
	if b.opt.Parent == nil {
		if b.opt.Level == Differential || b.opt.Level == Incremental {
			b.opt.notice(fmt.Sprintf("there is no snapshot a %s backup could start from: this one is full", b.opt.Level))
		}
		return Full
	}
	return b.opt.Level
}

// run saves everything but the snapshot, and returns the root tree.
func (b *backup) run(ctx context.Context) (kassett.ID, error) {
	if err := b.src.Freeze(ctx); err != nil {
		return kassett.ID{}, fmt.Errorf("freeze source: %w", err)
	}
	if b.opt.DryRun {
		b.save = &dryRun{repo: b.repo}
	} else {
		b.save = b.repo.NewWriter(ctx, repo.WriterOptions{Progress: b.opt.Progress})
	}
	b.opt.Progress.Enter("back up")
	stop := b.keepCheckpoints(ctx)
	err := b.work(ctx)
	stop()
	// What is frozen is let go as soon as all is read; that must also happen
	// when ctx has ended.
	if thaw := b.src.Thaw(context.WithoutCancel(ctx)); thaw != nil {
		b.warn("", fmt.Errorf("thaw source: %w", thaw))
	}
	if err == nil {
		err = b.save.Flush(ctx)
	}
	if err != nil {
		b.save.Abort()
		if ctx.Err() != nil {
			err = interrupted(ctx)
		}
		return kassett.ID{}, err
	}
	b.count.end = time.Now()
	return b.root, nil
}

// work walks the source with several workers until the root is finished.
func (b *backup) work(ctx context.Context) error {
	root := &folder{}
	if b.opt.Parent != nil {
		root.old = b.opt.Parent.Tree
	}
	if b.resumed != nil {
		root.part = b.resumed.Tree
	}
	b.queue.pushDirs([]*folder{root})
	g, working := errgroup.WithContext(ctx)
	stop := context.AfterFunc(working, b.queue.close)
	defer stop()
	for range b.opt.Readers {
		g.Go(func() error {
			w := worker{backup: b}
			return w.run(working)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// warn names something that the snapshot lacks.
func (b *backup) warn(path string, err error) {
	b.problems.Add(1)
	b.opt.Progress.Problem()
	if b.opt.Warn != nil {
		b.opt.Warn(path, err)
	}
}

// counts is the Summary being made.
type counts struct {
	start, end                          time.Time
	filesNew, filesChanged, filesSame   atomic.Uint64
	dirsNew, dirsChanged, dirsSame      atomic.Uint64
	dataBlobs, treeBlobs, added, packed atomic.Uint64
	bytes                               atomic.Uint64
}

// saved counts a blob that was given to the saver.
func (c *counts) saved(t repo.BlobType, s repo.Saved, size int) {
	if !s.New {
		return
	}
	if t == repo.TreeBlob {
		c.treeBlobs.Add(1)
	} else {
		c.dataBlobs.Add(1)
	}
	c.added.Add(uint64(size))
	c.packed.Add(uint64(s.Stored))
}

// summary gives the times the zone of the snapshot's time.
func (c *counts) summary(at time.Time) *Summary {
	return &Summary{
		BackupStart: c.start.In(at.Location()), BackupEnd: c.end.In(at.Location()),
		FilesNew: c.filesNew.Load(), FilesChanged: c.filesChanged.Load(), FilesUnmodified: c.filesSame.Load(),
		DirsNew: c.dirsNew.Load(), DirsChanged: c.dirsChanged.Load(), DirsUnmodified: c.dirsSame.Load(),
		DataBlobs: c.dataBlobs.Load(), TreeBlobs: c.treeBlobs.Load(),
		DataAdded: c.added.Load(), DataAddedPacked: c.packed.Load(),
		TotalFilesProcessed: c.filesNew.Load() + c.filesChanged.Load() + c.filesSame.Load(),
		TotalBytesProcessed: c.bytes.Load(),
	}
}

// cutSet is which cuts a backup's files have, and which its parent's had.
type cutSet struct {
	parent []kassett.Cut
	mu     sync.Mutex
	used   []kassett.Cut
}

// parentCuts returns the cuts that a snapshot's tags record.
func parentCuts(s *Snapshot) []kassett.Cut {
	var cuts []kassett.Cut
	if s != nil {
		for _, t := range s.Tags {
			if text, ok := strings.CutPrefix(t, TagCut); ok {
				if c, err := kassett.ParseCut(text); err == nil {
					cuts = append(cuts, c)
				}
			}
		}
	}
	if len(cuts) == 0 {
		return []kassett.Cut{{}}
	}
	return cuts
}

// use notes a cut and reports whether it is the first time.
func (s *cutSet) use(c kassett.Cut) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.used, c) {
		return false
	}
	s.used = append(s.used, c)
	return true
}

// tags returns the tags that record the cuts: none when there is but the
// content cut.
func (s *cutSet) tags() []string {
	if len(s.used) == 0 || len(s.used) == 1 && s.used[0] == (kassett.Cut{}) {
		return nil
	}
	var tags []string
	for _, c := range s.used {
		tags = append(tags, TagCut+c.String())
	}
	slices.Sort(tags)
	return tags
}

// checkCut reports whether content of the parent may be used for files of this
// cut, and says once when it may not.
func (b *backup) checkCut(c kassett.Cut) bool {
	known := slices.Contains(b.cuts.parent, c)
	if b.cuts.use(c) && !known && b.opt.Parent != nil {
		b.opt.notice(fmt.Sprintf("snapshot %s is not cut as %s: files of that cut are read and stored anew",
			b.opt.Parent.ID.Short(), c))
	}
	return known
}

// vanished says of an error whether its file is simply gone.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("not there: it vanished before it could be read, or never was")
	}
	return err
}
