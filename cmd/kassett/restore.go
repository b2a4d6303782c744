package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

type restoreFlags struct {
	include, exclude   patternFlags
	keepXattr, noXattr []string
	filter             filterFlags
	target             string
	overwrite          string
	sync               bool
	options            snapshot.RestoreOptions
	targetOptions      files.TargetOptions
	snapshot           *snapshot.Snapshot // found by its name
	tree               kassett.ID         // of the folder that is restored
}

func (a *app) restoreCommand() *cobra.Command {
	x := &restoreFlags{include: patternFlags{word: "include"}, exclude: patternFlags{word: "exclude"}}
	cmd := &cobra.Command{
		Use:   "restore [flags] ID|latest[:FOLDER] --target FOLDER",
		Short: "Give back what a snapshot holds",
		Long: `Restore writes what a snapshot holds below the target folder: all of it, one of
its folders (ID:path/in/snapshot), or what includes and excludes choose.

What is right already is not written again, so a restore that was interrupted
goes on when the same command is run again.`,
		Args: args(1, 1, "a snapshot"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.restore(cmd.Context(), x, given[0])
		},
	}
	f := cmd.Flags()
	f.StringVarP(&x.target, "target", "t", "", "restore into this `folder`")
	x.include.register(f, "i")
	x.exclude.register(f, "e")
	x.filter.register(f, "H")
	f.StringVar(&x.overwrite, "overwrite", "always", "`when` to replace what is there: always, if-changed, if-newer or never")
	f.BoolVarP(&x.options.DryRun, "dry-run", "n", false, "find out what would be done, change nothing")
	f.BoolVar(&x.options.Verify, "verify", false, "read every restored file back and compare it")
	f.BoolVar(&x.options.Delete, "delete", false, "remove from restored folders what the snapshot does not have")
	f.BoolVar(&x.sync, "sync", false, "flush everything to the disk before saying it is restored (--verify does so too)")
	f.BoolVar(&x.targetOptions.OwnersByName, "ownership-by-name", false, "set owners by their names instead of their numbers")
	f.StringArrayVar(&x.keepXattr, "include-xattr", nil, "restore only extended attributes that match `pattern`")
	f.StringArrayVar(&x.noXattr, "exclude-xattr", nil, "leave out extended attributes that match `pattern`")
	return cmd
}

func (a *app) restore(ctx context.Context, x *restoreFlags, spec string) (err error) {
	if x.target == "" {
		return invalid("restore", "", "name the folder to restore into: --target /tmp/back", errors.New("there is no target"))
	}
	o := &x.options
	if o.Overwrite, err = snapshot.ParseOverwrite(x.overwrite); err != nil {
		return err
	}
	if o.Select, err = a.selection(&x.include, &x.exclude); err != nil {
		return err
	}
	if x.targetOptions.Xattrs, err = xattrChoice(x.keepXattr, x.noXattr); err != nil {
		return err
	}
	x.targetOptions.Warn = a.notice
	target, err := files.NewTarget(x.target, x.targetOptions)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	return a.within(ctx, reading, func(ctx context.Context, r *repo.Repository) error {
		sn, tree, err := a.findTree(ctx, r, x.filter.filter(), spec)
		if err != nil {
			return err
		}
		x.snapshot, x.tree = sn, tree
		return a.restoreTree(ctx, r, x, target)
	})
}

// findTree finds a snapshot and the folder in it that spec names, and loads the
// index. Snapshots that cannot be read are named; they matter only to "latest".
func (a *app) findTree(ctx context.Context, r *repo.Repository, f snapshot.Filter, spec string) (*snapshot.Snapshot, kassett.ID, error) {
	sn, sub, err := snapshot.Find(ctx, r, f, spec)
	if sn == nil {
		return nil, kassett.ID{}, err
	}
	if err != nil {
		a.warn("", err)
	}
	if err := a.loadIndex(ctx, r); err != nil {
		return nil, kassett.ID{}, err
	}
	tree := sn.Tree
	if sub != "" {
		tree, err = snapshot.Folder(ctx, r, sn.Tree, sub)
		if err != nil {
			return nil, kassett.ID{}, fmt.Errorf("find folder %s in snapshot %s: %w", terminal.Safe(sub), sn.ID.Short(), err)
		}
	}
	return sn, tree, nil
}

// restoreResult is the summary of a restore as JSON.
type restoreResult struct {
	MessageType string `json:"message_type"` // "summary"
	snapshot.RestoreStats
	SecondsElapsed float64 `json:"seconds_elapsed"`
	SnapshotID     string  `json:"snapshot_id"`
	Target         string  `json:"target"`
	DryRun         bool    `json:"dry_run,omitempty"`
}

func (a *app) restoreTree(ctx context.Context, r *repo.Repository, x *restoreFlags, target *files.Target) error {
	o, sn := x.options, x.snapshot
	o.Progress = new(kassett.Progress)
	o.Warn = a.warn
	if a.flags.verbose > 0 || o.DryRun {
		o.Event = func(e snapshot.RestoreEvent) { a.restoreEvent(e, o.DryRun) }
	}
	if !a.flags.json && !a.flags.quiet {
		a.ui.Say("restoring snapshot %s of %s to %s", sn.ID.Short(), terminal.Stamp(sn.Time), terminal.Safe(x.target))
	}
	if !sn.Complete() {
		a.notice("snapshot "+sn.ID.Short(), errors.New("something was missing when it was made; it is tagged "+snapshot.TagIncomplete))
	}
	begun := time.Now()
	stop := a.watch(o.Progress)
	stats, err := snapshot.Restore(ctx, r, x.tree, target, o)
	if err == nil && (x.sync || o.Verify) && !o.DryRun {
		o.Progress.Enter("flush to disk")
		err = target.Sync(ctx)
	}
	stop()
	if err != nil && stopped(ctx) {
		return &kassett.Error{
			Op: "restore", Kind: kassett.Interrupted, Err: err,
			Hint: "what was restored so far stays: run the same command to go on",
		}
	}
	took := time.Since(begun)
	if a.flags.json {
		return errors.Join(a.json(restoreResult{"summary", stats, took.Seconds(), sn.ID.String(), x.target, o.DryRun}), err)
	}
	did := "restored"
	if o.DryRun {
		did = "would restore"
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%s %s (%s), %s and %s in %s", did, terminal.Plural(stats.Files, "file", "files"), terminal.Bytes(int64(stats.Bytes)),
		terminal.Plural(stats.Dirs, "folder", "folders"), terminal.Plural(stats.Others, "other thing", "other things"), terminal.Clock(took))
	for _, more := range []struct {
		n    uint64
		word string
	}{{stats.Unchanged, "were right already"}, {stats.Skipped, "left as they were"}, {stats.Deleted, "deleted"}, {stats.Verified, "read back and compared"}} {
		if more.n > 0 {
			fmt.Fprintf(&line, "; %s %s", terminal.Count(more.n), more.word)
		}
	}
	return errors.Join(a.summary("%s\n", line.String()), err)
}

// restoreEvent prints what is done with one entry.
func (a *app) restoreEvent(e snapshot.RestoreEvent, dryRun bool) {
	if e.Action == snapshot.Unchanged && a.flags.verbose < 2 {
		return
	}
	if a.flags.json {
		_ = a.json(struct {
			MessageType string `json:"message_type"`
			Action      string `json:"action"`
			Item        string `json:"item"`
			Size        uint64 `json:"size"`
		}{"verbose_status", string(e.Action), e.Path, e.Size})
		return
	}
	if !a.flags.quiet {
		did := string(e.Action)
		if dryRun {
			did = map[snapshot.RestoreAction]string{
				snapshot.Restored: "would restore", snapshot.Updated: "would update",
				snapshot.Deleted: "would delete", snapshot.Unchanged: "right already",
			}[e.Action]
		}
		a.ui.Say("%-9s %s", did, terminal.Safe(e.Path))
	}
}

// xattrChoice returns which extended attributes are restored, nil for all.
func xattrChoice(keep, drop []string) (func(name string) bool, error) {
	switch {
	case len(keep) > 0 && len(drop) > 0:
		return nil, invalid("restore", "", "give only one of --include-xattr and --exclude-xattr", errors.New("both are named"))
	case len(keep)+len(drop) == 0:
		return nil, nil
	}
	list := append(keep, drop...)
	p, err := files.NewPatterns(list, false)
	if err != nil {
		return nil, err
	}
	return func(name string) bool { return p.Match(files.NewPath(name)) == (len(keep) > 0) }, nil
}
