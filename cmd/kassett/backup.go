package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

// backupFlags are the flags of backup.
type backupFlags struct {
	targets targetFlags
	exclude patternFlags
	source  files.Options
	options snapshot.BackupOptions

	tags              []string
	at                timeFlag
	host, parent      string
	force             bool
	level, cut, group string
	larger            string
	stdin             bool
	stdinName         string
	noScan            bool
}

func (a *app) backupCommand() *cobra.Command {
	b := &backupFlags{exclude: patternFlags{word: "exclude"}}
	cmd := &cobra.Command{
		Use:   "backup [flags] FILE|FOLDER...",
		Short: "Save files and folders as a new snapshot",
		Long: `Backup saves files and folders as one snapshot. Every snapshot is complete by
itself: any one can be restored alone, and any one can be forgotten.

What did not change since the snapshot before is not read again. How much is
read and compared is the level: incremental (since the last snapshot),
differential (since the last full one), full (every byte again).

What cannot be read is named, the rest is saved, and the exit code is 3.`,
		Args: args(0, -1, "files or folders"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.backup(cmd.Context(), b, given)
		},
	}
	f := cmd.Flags()
	b.exclude.register(f, "e")
	b.targets.register(f)
	f.StringArrayVar(&b.tags, "tag", nil, "give the snapshot these tags, `tag,tag` (may be given again)")
	f.StringVarP(&b.host, "host", "H", "", "the `host` named in the snapshot (default: $KASSETT_HOST or this machine)")
	f.Var(&b.at, "time", "the `time` named in the snapshot (default: now)")
	f.StringVar(&b.parent, "parent", "", "compare with this `snapshot` (default: the last of the group)")
	f.BoolVarP(&b.force, "force", "f", false, "read everything again; the same as --level full")
	f.StringVar(&b.level, "level", "", "what is read and compared: full, differential or incremental `level` (default: incremental)")
	f.StringVar(&b.cut, "cut", "content", "`how` files are cut into pieces: content, whole or page=SIZE")
	f.StringVarP(&b.group, "group-by", "g", "host,paths", "find the snapshot to compare with by `host,paths,tags`")
	f.BoolVar(&b.source.ExcludeCaches, "exclude-caches", false, "leave out what is in folders marked with a CACHEDIR.TAG")
	f.StringArrayVar(&b.source.ExcludeIfPresent, "exclude-if-present", nil, "leave out what is in folders that hold `name[:header]` (may be given again)")
	f.StringVar(&b.larger, "exclude-larger-than", "", "leave out files above this `size`, such as 500M")
	f.BoolVarP(&b.source.OneFileSystem, "one-file-system", "x", false, "stay on the file systems of what is named")
	f.BoolVar(&b.options.IgnoreCtime, "ignore-ctime", false, "a new change time alone does not make a file changed")
	f.BoolVar(&b.options.IgnoreInode, "ignore-inode", false, "a new inode number or change time alone does not make a file changed")
	f.BoolVar(&b.source.WithAtime, "with-atime", false, "save access times")
	f.BoolVarP(&b.options.DryRun, "dry-run", "n", false, "read and compare, write nothing")
	f.BoolVar(&b.stdin, "stdin", false, "save what comes from standard input as one file")
	f.StringVar(&b.stdinName, "stdin-filename", "stdin", "`name` of that file")
	f.BoolVar(&b.options.SkipUnchanged, "skip-if-unchanged", false, "make no snapshot when nothing changed")
	f.IntVar(&b.options.Readers, "read-concurrency", 0, "read `n` files at once (default: one more than there are processors)")
	f.DurationVar(&b.options.Checkpoint, "checkpoint", 5*time.Minute, "after this `time`, again and again, note in the cache what is finished, so that a backup that was cut goes on from there; 0 never")
	f.BoolVar(&b.noScan, "no-scan", false, "do not count beforehand what there is to do")
	return cmd
}

func (a *app) backup(ctx context.Context, b *backupFlags, given []string) error {
	if err := a.readBackupFlags(b); err != nil {
		return err
	}
	src, paths, err := a.backupSource(b, given)
	if err != nil {
		return err
	}
	b.options.Paths = paths
	return a.within(ctx, adding.unless(b.options.DryRun), func(ctx context.Context, r *repo.Repository) error {
		return a.backupInto(ctx, r, src, b)
	})
}

// readBackupFlags turns the flags that are words into options.
func (a *app) readBackupFlags(b *backupFlags) (err error) {
	o := &b.options
	if b.force {
		b.level = "full"
	}
	if b.level != "" {
		if o.Level, err = snapshot.ParseLevel(b.level); err != nil {
			return err
		}
	}
	if b.source.Cut, err = kassett.ParseCut(b.cut); err != nil {
		return err
	}
	if o.Group, err = snapshot.ParseGroupBy(b.group); err != nil {
		return err
	}
	if b.larger != "" {
		if b.source.ExcludeLarger, err = repo.ParseSize(b.larger); err != nil {
			return err
		}
	}
	if b.source.Exclude, b.source.ExcludeFold, err = b.exclude.read(a); err != nil {
		return err
	}
	o.Excludes = slices.Concat(b.source.Exclude, b.source.ExcludeFold)
	o.Tags = splitTags(b.tags)
	o.Time = b.at.Time
	o.Version = "kassett " + version
	o.Host, o.User = a.whoami()
	if b.host != "" {
		o.Host = b.host
	}
	if who, err := user.Current(); err == nil {
		o.UID, o.GID = number(who.Uid), number(who.Gid)
	}
	return nil
}

// whoami returns the names of this machine and of who runs the program; empty
// where the system does not tell.
func (a *app) whoami() (host, name string) {
	if host = a.getenv(envPrefix + "HOST"); host == "" {
		host, _ = os.Hostname()
	}
	if who, err := user.Current(); err == nil {
		name = who.Username
	}
	return host, name
}

// number reads the number of a user or group; 0 where the system has none.
func number(s string) uint32 {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// backupSource returns what is to be saved, and its paths as the snapshot
// names them.
func (a *app) backupSource(b *backupFlags, given []string) (kassett.Source, []string, error) {
	more, err := b.targets.read(a)
	if err != nil {
		return nil, nil, err
	}
	given = append(given, more...)
	if b.stdin {
		if len(given) > 0 {
			return nil, nil, invalid("back up", "", "leave --stdin out, or the names", errors.New("files are named beside --stdin"))
		}
		src, err := newStdinSource(b.stdinName, a.stdin, b.source.Cut)
		if err != nil {
			return nil, nil, err
		}
		return src, []string{src.path}, nil
	}
	if len(given) == 0 {
		return nil, nil, invalid("back up", "", "name them: kassett backup /srv /etc", errors.New("no files or folders are named"))
	}
	b.source.Paths = given
	b.source.Warn = a.notice
	src, err := files.New(b.source)
	if err != nil {
		return nil, nil, err
	}
	return src, src.AbsPaths(), nil
}

// namedParent returns the snapshot to compare with when a flag decides it; nil
// leaves the choice to the backup.
func namedParent(ctx context.Context, r *repo.Repository, b *backupFlags) (*snapshot.Snapshot, error) {
	switch {
	case b.options.Level == snapshot.Full:
		return nil, nil
	case b.parent != "":
		sn, _, err := snapshot.Find(ctx, r, snapshot.Filter{}, b.parent)
		return sn, err
	case b.options.Group == snapshot.GroupBy{}: // no grouping: the last of all
		like := &snapshot.Snapshot{Time: cmp.Or(b.at.Time, time.Now())}
		return snapshot.FindParent(ctx, r, snapshot.GroupBy{}, like, cmp.Or(b.options.Level, snapshot.Incremental))
	}
	return nil, nil
}

// backupInto makes the snapshot and tells about it.
func (a *app) backupInto(ctx context.Context, r *repo.Repository, src kassett.Source, b *backupFlags) error {
	o := b.options
	parent, err := namedParent(ctx, r, b)
	if err != nil {
		return fmt.Errorf("find the snapshot to compare with: %w", err)
	}
	o.Parent = parent
	if err := a.loadIndex(ctx, r); err != nil {
		return err
	}
	var missing atomic.Int64
	o.Progress = new(kassett.Progress)
	o.Warn = func(path string, err error) {
		missing.Add(1)
		a.warn(path, err)
	}
	o.Notice = func(msg string) { a.notice("", errors.New(msg)) }
	begun := time.Now()
	work, endScan := a.scan(ctx, b)
	stop := a.watchFor(o.Progress, work)
	sn, err := snapshot.Backup(ctx, r, src, o)
	endScan()
	stop()
	if sn == nil && stopped(ctx) {
		return &kassett.Error{
			Op: "back up", Kind: kassett.Interrupted, Err: err,
			Hint: "what was saved so far stays and will not be sent again: run the same command to go on",
		}
	}
	if sn == nil {
		return err
	}
	return errors.Join(err, a.backupSummary(sn, o, time.Since(begun), missing.Load()))
}

// backupResult is the summary of a backup as JSON: restic's fields, then ours.
type backupResult struct {
	MessageType string `json:"message_type"` // "summary"
	*snapshot.Summary
	TotalDuration float64 `json:"total_duration"` // seconds
	SnapshotID    string  `json:"snapshot_id,omitempty"`
	DryRun        bool    `json:"dry_run,omitempty"`
	Level         string  `json:"level"`
	Parent        string  `json:"parent,omitempty"`
	Incomplete    bool    `json:"incomplete,omitempty"`
	NotSaved      int64   `json:"not_saved,omitempty"` // problems that were named
	Unchanged     bool    `json:"unchanged,omitempty"` // no snapshot was made
}

func (a *app) backupSummary(sn *snapshot.Snapshot, o snapshot.BackupOptions, took time.Duration, missing int64) error {
	unchanged := o.SkipUnchanged && !sn.ID.IsZero() && sn.Time.Before(time.Now().Add(-took)) && o.Time.IsZero()
	s := sn.Summary
	if s == nil {
		s = &snapshot.Summary{}
	}
	level := snapshot.Incremental
	if sn.Parent == nil {
		level = snapshot.Full
	}
	if l, ok := sn.Level(); ok {
		level = l
	}
	res := backupResult{
		MessageType: "summary", Summary: s, TotalDuration: took.Seconds(), DryRun: o.DryRun,
		Level: level.String(), Incomplete: !sn.Complete(), NotSaved: missing, Unchanged: unchanged,
	}
	if sn.Parent != nil {
		res.Parent = sn.Parent.String()
	}
	if !sn.ID.IsZero() {
		res.SnapshotID = sn.ID.String()
	}
	if a.flags.json {
		return a.json(res)
	}
	if unchanged {
		return a.summary("nothing changed since snapshot %s of %s; no snapshot was made\n", sn.ID.Short(), terminal.Stamp(sn.Time))
	}
	return a.summary("%s", backupText(sn, res, took))
}

func backupText(sn *snapshot.Snapshot, res backupResult, took time.Duration) string {
	s := res.Summary
	var b strings.Builder
	fmt.Fprintf(&b, "files    %s new, %s changed, %s unmodified\n", terminal.Count(s.FilesNew), terminal.Count(s.FilesChanged), terminal.Count(s.FilesUnmodified))
	fmt.Fprintf(&b, "folders  %s new, %s changed, %s unmodified\n", terminal.Count(s.DirsNew), terminal.Count(s.DirsChanged), terminal.Count(s.DirsUnmodified))
	fmt.Fprintf(&b, "looked at %s, %s in %s\n", terminal.Plural(s.TotalFilesProcessed, "file", "files"), terminal.Bytes(int64(s.TotalBytesProcessed)), terminal.Clock(took))
	if res.DryRun {
		fmt.Fprintf(&b, "would add %s\n", terminal.Bytes(int64(s.DataAdded)))
	} else {
		fmt.Fprintf(&b, "added %s, stored as %s\n", terminal.Bytes(int64(s.DataAdded)), terminal.Bytes(int64(s.DataAddedPacked)))
	}
	if res.Incomplete || res.NotSaved > 0 {
		fmt.Fprintf(&b, "NOT SAVED, or not as it was: %s, named above\n", terminal.Plural(res.NotSaved, "thing", "things"))
	}
	from := ""
	if sn.Parent != nil {
		from = ", compared with " + sn.Parent.Short()
	}
	if res.DryRun {
		fmt.Fprintf(&b, "dry run: nothing was written (%s%s)\n", res.Level, from)
	} else {
		fmt.Fprintf(&b, "snapshot %s of %s saved (%s%s)\n", sn.ID.Short(), terminal.Stamp(sn.Time), res.Level, from)
	}
	return b.String()
}
