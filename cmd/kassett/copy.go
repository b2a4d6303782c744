package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

// copyFlags are the flags of copy.
type copyFlags struct {
	filter filterFlags
	from   place
	to     toFlags
	verify bool
	dryRun bool
}

// toFlags name the targets of a copy and how they open.
type toFlags struct {
	places, passwordFiles, passwordCommands []string
}

func (t *toFlags) register(f *pflag.FlagSet) {
	f.StringArrayVar(&t.places, "to", nil, "copy out of --repo into this `repository` (may be given again)")
	f.StringArrayVar(&t.passwordFiles, "to-password-file", nil, "read its password from `file`: one for all, or one for each --to (default: $KASSETT_TO_PASSWORD_FILE)")
	f.StringArrayVar(&t.passwordCommands, "to-password-command", nil, "run `command` and read its password from the output: one for all, or one for each --to (default: $KASSETT_TO_PASSWORD_COMMAND)")
}

func (a *app) copyCommand() *cobra.Command {
	c := copyFlags{from: place{prefix: "FROM_"}}
	cmd := &cobra.Command{
		Use:   "copy [flags] [ID...]",
		Short: "Copy snapshots into other repositories",
		Long: `Copy takes snapshots out of one repository and stores them in others, in one
pass: what is read once is written to all of them side by side. Either name the
targets with --to, and the source with --repo; or, as with restic, the source
with --from-repo and the one target with --repo.

A second place that was made with init --replica-of gets the same snapshots
under the same IDs, and packs as they are. A repository with keys of its own
gets them sealed anew; make it with init --copy-chunker-params --from-repo, so
that both cut content alike and backups into both store the same once.

What is there already is passed over, so a copy that was cut goes on when the
command is run again. What was written is read back from the target and
compared. A target that fails does not stop the others: it is named at the end,
and the exit code is 3.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.copy(cmd.Context(), &c, ids)
		},
	}
	f := cmd.Flags()
	c.filter.register(f, "H")
	c.from.register(f)
	c.to.register(f)
	f.BoolVar(&c.verify, "verify", true, "read what was written back from the target and compare it; --verify=false saves that traffic, and trusts the way and the target until the next check")
	f.BoolVarP(&c.dryRun, "dry-run", "n", false, "tell what would be copied, write nothing")
	return cmd
}

// paired returns what opens target i: of none nothing, of one that one, else
// its own.
func (t *toFlags) paired(flag string, values []string, i int) (string, error) {
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	case len(t.places):
		return values[i], nil
	}
	return "", invalid("read targets", "", "give "+flag+" once for all targets, or once for each --to in their order",
		fmt.Errorf("%d targets and %d of %s", len(t.places), len(values), flag))
}

// ends returns the source and the targets of a copy.
func (c *copyFlags) ends(a *app) (src place, targets []place, err error) {
	t := &c.to
	if len(t.places) == 0 {
		if len(t.passwordFiles)+len(t.passwordCommands) > 0 {
			return src, nil, invalid("copy", "", "name the targets with --to", errors.New("there is a password of a target, and no --to"))
		}
		return c.from, []place{a.flags.where}, nil
	}
	if c.from.repo != "" || c.from.repoFile != "" {
		return src, nil, invalid("copy", "", "name the source with --repo and the targets with --to; or the source with --from-repo and the target with --repo",
			errors.New("--from-repo and --to are both given"))
	}
	for i, where := range t.places {
		p := place{repo: where, prefix: "TO_"}
		if p.passwordFile, err = t.paired("--to-password-file", t.passwordFiles, i); err != nil {
			return src, nil, err
		}
		if p.passwordCommand, err = t.paired("--to-password-command", t.passwordCommands, i); err != nil {
			return src, nil, err
		}
		targets = append(targets, p)
	}
	return a.flags.where, targets, nil
}

func (a *app) copy(ctx context.Context, c *copyFlags, ids []string) error {
	from, to, err := c.ends(a)
	if err != nil {
		return err
	}
	return a.withinPlace(ctx, from, reading, func(ctx context.Context, src *repo.Repository) error {
		w := &copyWork{app: a, flags: c, src: src}
		end := w.open(ctx, to)
		err := w.run(ctx, ids)
		return w.result(ctx, errors.Join(err, end()))
	})
}

// copyWork is a copy at work.
type copyWork struct {
	*app
	flags   *copyFlags
	src     *repo.Repository
	targets []*repo.CopyTarget
	names   []string // of the targets, as they may be shown
	copied  []int    // by target
	there   []int
	ran     bool // it came to copying
}

// open opens and locks the targets. What fails is noted with each. end gives
// everything back and must be called.
func (w *copyWork) open(ctx context.Context, places []place) (end func() error) {
	release := make(chan struct{})
	var ended []chan error
	for _, p := range places {
		t := &repo.CopyTarget{}
		w.targets = append(w.targets, t)
		name, err := w.location(p)
		if err == nil {
			t.Repo, err = w.app.open(ctx, p)
		}
		w.names = append(w.names, terminal.Safe(withoutSecret(name)))
		if t.Err = err; err != nil {
			continue
		}
		locked, done := make(chan struct{}), make(chan error, 1)
		ended = append(ended, done)
		go func() {
			err := w.locked(ctx, t.Repo, adding.unless(w.flags.dryRun), func(held context.Context, _ *repo.Repository) error {
				t.Held = held
				close(locked)
				<-release
				return nil
			})
			done <- errors.Join(err, t.Repo.Close(), closeStorage(t.Repo.Storage()))
		}()
		select {
		case <-locked:
		case t.Err = <-done:
			done <- nil
		}
	}
	w.copied, w.there = make([]int, len(places)), make([]int, len(places))
	return func() (err error) {
		close(release)
		for _, done := range ended {
			err = errors.Join(err, <-done)
		}
		return err
	}
}

// run copies.
func (w *copyWork) run(ctx context.Context, ids []string) error {
	list, unread, err := w.snapshotsToChange(ctx, w.src, w.flags.filter.filter(), ids)
	if err != nil {
		return err
	}
	for i, t := range w.targets {
		if t.Err == nil {
			t.Err = w.ready(ctx, i)
		}
	}
	o := snapshot.CopyOptions{Done: w.done}
	o.Progress, o.Verify, o.DryRun = new(kassett.Progress), w.flags.verify, w.flags.dryRun
	stop := w.watch(o.Progress)
	defer stop()
	w.ran = true
	return errors.Join(snapshot.Copy(ctx, w.src, w.targets, list, o), unread)
}

// ready makes sure that a target is one, and reads its index.
func (w *copyWork) ready(ctx context.Context, i int) error {
	t := w.targets[i]
	others := []*repo.Repository{w.src}
	for _, before := range w.targets[:i] {
		if before.Err == nil {
			others = append(others, before.Repo)
		}
	}
	for _, other := range others {
		same, err := t.Repo.SamePlace(ctx, other)
		if err != nil {
			return err
		}
		if same {
			return invalid("copy to", w.names[i], "name another place; a second one is made by kassett init --replica-of",
				errors.New("that is the source itself, or a target that was named before"))
		}
	}
	if replica, err := t.Repo.ReplicaOf(w.src); err != nil {
		return err
	} else if !replica && w.src.Config().ChunkerPolynomial != t.Repo.Config().ChunkerPolynomial {
		w.notice(w.names[i], errors.New("it cuts content differently than the source: backups into both will not share what they store; init --copy-chunker-params avoids that"))
	}
	return w.loadIndex(ctx, t.Repo)
}

// done tells of one snapshot at one target.
func (w *copyWork) done(target int, from, to *snapshot.Snapshot, was bool) {
	if was {
		w.there[target]++
	} else {
		w.copied[target]++
	}
	name := ""
	if len(w.targets) > 1 {
		name = w.names[target] + ": "
	}
	switch {
	case w.app.flags.json:
		line := struct {
			MessageType string      `json:"message_type"`
			Repository  string      `json:"repository"`
			From        kassett.ID  `json:"source_snapshot"`
			To          *kassett.ID `json:"snapshot_id,omitempty"`
			There       bool        `json:"skipped,omitempty"`
		}{MessageType: "copied", Repository: w.names[target], From: from.ID, There: was}
		if to != nil {
			line.To = &to.ID
		}
		_ = w.json(line) // an error of stdout comes again with the summary
	case w.app.flags.quiet:
	case to == nil:
		w.ui.Say("%ssnapshot %s of %s would be copied", name, from.ID.Short(), terminal.Stamp(from.Time))
	case was:
		w.ui.Say("%ssnapshot %s is there already, as %s", name, from.ID.Short(), to.ID.Short())
	default:
		w.ui.Say("%ssnapshot %s of %s is %s there", name, from.ID.Short(), terminal.Stamp(from.Time), to.ID.Short())
	}
}

// result tells what each target got, and which failed.
func (w *copyWork) result(ctx context.Context, err error) error {
	if err != nil && stopped(ctx) {
		return &kassett.Error{
			Op: "copy", Kind: kassett.Interrupted, Err: err,
			Hint: "what was copied so far stays and will not be sent again: run the same command to go on",
		}
	}
	var failed []string
	var causes []error
	for i, t := range w.targets {
		if t.Err != nil {
			failed = append(failed, w.names[i])
			causes = append(causes, t.Err)
		} else if w.ran && (err == nil || w.copied[i]+w.there[i] > 0) {
			err = errors.Join(err, w.summaryOf(i))
		}
	}
	if len(failed) == len(w.targets) || len(w.targets) == 1 {
		return errors.Join(append(causes, err)...)
	}
	for i, cause := range causes {
		w.warn(failed[i], cause)
	}
	if len(failed) > 0 {
		err = errors.Join(err, &kassett.Error{
			Op: "copy", Kind: kassett.Incomplete,
			Err:  fmt.Errorf("%d of %d targets did not get everything: %s", len(failed), len(w.targets), strings.Join(failed, ", ")),
			Hint: "see to what was named above and run the same command again; what was copied is not sent again",
		})
	}
	return err
}

// summaryOf tells what one target got.
func (w *copyWork) summaryOf(i int) error {
	s := w.targets[i].Stats
	if w.app.flags.json {
		return w.json(struct {
			MessageType string `json:"message_type"`
			Repository  string `json:"repository"`
			DryRun      bool   `json:"dry_run,omitempty"`
			Copied      int    `json:"copied_snapshots"`
			There       int    `json:"skipped_snapshots"`
			repo.CopyStats
		}{"summary", w.names[i], w.flags.dryRun, w.copied[i], w.there[i], s})
	}
	name, verb := "", "copied"
	if len(w.targets) > 1 {
		name = w.names[i] + ": "
	}
	if w.flags.dryRun {
		verb = "would be copied"
	}
	whole := ""
	if s.Packs > 0 {
		whole = fmt.Sprintf(", %s moved whole", terminal.Plural(s.Packs, "pack", "packs"))
	}
	return w.summary("%s%s %s, %s there already; %s in %s%s\n", name, terminal.Plural(w.copied[i], "snapshot", "snapshots"), verb,
		terminal.Count(w.there[i]), terminal.Bytes(int64(s.Bytes)), terminal.Plural(s.Blobs, "blob", "blobs"), whole) //nolint:gosec // a display
}
