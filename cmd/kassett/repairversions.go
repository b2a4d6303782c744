package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/repo/versions"
)

// namedVersions is how many files a repair of versions names one by one.
const namedVersions = 50

func (a *app) repairVersionsCommand() *cobra.Command {
	var (
		o      versions.Options
		before timeFlag
	)
	cmd := &cobra.Command{
		Use:   "versions [flags]",
		Short: "Undo deletions and overwrites in a bucket that keeps versions",
		Long: `Versions brings a repository back after somebody with the keys of its bucket has
deleted files and put others over them. The bucket must keep versions, best by
object lock. It works when nothing of the repository can be opened any more, and
needs one of the passwords that opened it before.

Each file that has more than one version is read, and the version whose content
has the hash that is the file's name is made the current one again. Nothing that
has content is deleted. Stop all backups before, and give the bucket new keys.

With --before, what was there at that moment is there afterwards, and files that
came later are named; the time is that of the storage's clock.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Before = before.Time
			return a.repairVersions(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.Var(&before, "before", "bring back what was there at this `time`, just before the attack")
	f.BoolVar(&o.HideNew, "hide-new", false, "with --before: hide the files that came later")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	return cmd
}

func (a *app) repairVersions(ctx context.Context, o versions.Options) (err error) {
	p := a.flags.where
	where, err := a.location(p)
	if err != nil {
		return err
	}
	pw, err := a.password(ctx, p)
	if err != nil {
		return err
	}
	o.Unlock = func(ctx context.Context, keys [][]byte) (func([]byte) error, error) {
		return repo.Unlock(ctx, pw, keys)
	}
	st, err := a.openStorage(ctx, where, mustExist)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeStorage(st)) }()
	named := 0
	o.Tell = func(f versions.Finding) {
		if named++; named <= namedVersions || f.Fate == versions.Lost {
			a.versionFinding(f, o.DryRun)
		}
	}
	o.Progress = new(kassett.Progress)
	stop := a.watch(o.Progress)
	stats, err := versions.Repair(ctx, st, o)
	stop()
	if named > namedVersions && !a.flags.json && !a.flags.quiet {
		a.ui.Say("and %s more", terminal.Count(named-namedVersions))
	}
	if err != nil {
		if stopped(ctx) {
			err = &kassett.Error{
				Op: "repair versions", Kind: kassett.Interrupted, Err: err,
				Hint: "what is back stays back; run it again to go on",
			}
		}
		return err
	}
	return cmp.Or(a.versionSummary(stats, o), lostVersions(stats))
}

// versionFinding tells of one file.
func (a *app) versionFinding(f versions.Finding, dryRun bool) {
	if a.flags.json {
		_ = a.json(struct {
			MessageType string        `json:"message_type"`
			File        string        `json:"file"`
			Fate        versions.Fate `json:"fate"`
			At          time.Time     `json:"at"`
		}{"version", f.String(), f.Fate, f.At}) // an error of stdout comes again with the next result
		return
	}
	if a.flags.quiet && f.Fate != versions.Lost {
		return
	}
	back := "brought back"
	if dryRun {
		back = "can be brought back"
	}
	switch f.Fate {
	case versions.Deleted, versions.Replaced:
		a.ui.Say("%s was %s at %s: %s", f.StoredName, f.Fate, terminal.Stamp(f.At), back)
	case versions.New:
		a.ui.Say("%s came at %s: it is left as it is; --hide-new hides it", f.StoredName, terminal.Stamp(f.At))
	case versions.Hidden:
		a.ui.Say("%s came at %s: it is hidden", f.StoredName, terminal.Stamp(f.At))
	case versions.Lost:
		a.warn(f.String(), fmt.Errorf("it cannot be brought back: %w", f.Err))
	}
}

// versionSummary tells what was done and what comes next.
func (a *app) versionSummary(s versions.Stats, o versions.Options) error {
	if a.flags.json {
		return a.json(struct {
			MessageType string `json:"message_type"`
			DryRun      bool   `json:"dry_run,omitempty"`
			versions.Stats
		}{"summary", o.DryRun, s})
	}
	back := "brought back"
	if o.DryRun {
		back = "can be brought back"
	}
	err := a.summary("%s looked at, %s as they were; %s: %s deleted, %s replaced; %s lost\n",
		terminal.Plural(s.Files, "file", "files"), terminal.Count(s.Untouched), back, terminal.Count(s.Deleted), terminal.Count(s.Replaced), terminal.Count(s.Lost))
	if !s.First.IsZero() {
		err = errors.Join(err, a.summary("the changes were made from %s to %s\n", terminal.Stamp(s.First), terminal.Stamp(s.Last)))
	}
	if s.New > 0 {
		err = errors.Join(err, a.summary("%s came after %s; hidden: %s\n", terminal.Plural(s.New, "file", "files"), terminal.Stamp(o.Before), terminal.Count(s.Hidden)))
	}
	if a.flags.quiet {
		return err
	}
	if o.Before.IsZero() && s.Later > 0 {
		a.ui.Say("kassett: %s stored after the first change, by honest backups or by whoever made the changes; "+
			"--before names a moment, and then all that came later", terminal.Plural(s.Later, "index file, snapshot or key was", "index files, snapshots and keys were"))
	}
	if !o.DryRun && s.Deleted+s.Replaced+s.Hidden > 0 {
		a.ui.Line("kassett: next: run kassett unlock, then kassett check --read-data")
	}
	return err
}

// lostVersions is the end of a repair that could not bring everything back.
func lostVersions(s versions.Stats) error {
	if s.Lost == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "repair versions", Kind: kassett.Corrupt, Err: fmt.Errorf("%s cannot be brought back", terminal.Plural(s.Lost, "file", "files")),
		Hint: "run kassett check: it says which repair comes next for what is lost",
	}
}
