package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/repo/record"
	"kassett/snapshot"
)

// recordFlags describe a record to be made.
type recordFlags struct {
	all    bool
	host   string
	paths  []string
	tags   []string
	reason string
	by     []string
	keep   ageFlag
	until  timeFlag
}

// subjectFlags adds the flags that say what a record is about.
func (x *recordFlags) subjectFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&x.host, "host", "H", "", "snapshots of this `host`")
	f.StringArrayVar(&x.paths, "path", nil, "snapshots of exactly these `paths` (may be given again)")
	f.StringArrayVar(&x.tags, "tag", nil, "snapshots with all of these tags, `tag,tag`")
}

// signFlags adds the flags that say who decided it and why.
func (x *recordFlags) signFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&x.reason, "reason", "", "why, in a `sentence` that is understood in ten years")
	f.StringArrayVar(&x.by, "by", nil, "`name` of a person who decides it (may be given again)")
}

// check says what is missing to sign a record.
func (x *recordFlags) check(persons int) error {
	if strings.TrimSpace(x.reason) != "" && len(x.by) >= persons {
		return nil
	}
	hint := "add --reason \"why\" and --by \"name\""
	if persons > 1 {
		hint += " for each of two persons"
	}
	return invalid("sign record", "", hint, errors.New("a record says who decides it, and why"))
}

// record returns the record the flags describe, about the named snapshot if
// there is one.
func (x *recordFlags) record(ctx context.Context, r *repo.Repository, kind record.Kind, given []string) (record.Record, error) {
	rec := record.Record{Kind: kind, Created: time.Now(), Reason: x.reason, By: x.by, Keep: x.keep.Age, Until: x.until.Time}
	rec.Subject = record.Subject{All: x.all, Host: x.host, Paths: x.paths, Tags: splitTags(x.tags)}
	if len(given) == 1 {
		sn, sub, err := snapshot.Find(ctx, r, snapshot.Filter{}, given[0])
		switch {
		case sn == nil:
			return rec, err
		case err != nil: // the youngest of those that can be read may not be the one meant
			return rec, err
		case sub != "":
			return rec, invalid("name snapshot", terminal.Safe(given[0]), "leave out the colon and what follows it", errors.New("a whole snapshot is held, not a folder"))
		}
		rec.Subject.Snapshot = sn.ID
		if sn.Original != nil {
			rec.Subject.Snapshot = *sn.Original
		}
	}
	return rec, nil
}

func (a *app) holdCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "Keep snapshots whatever the rules say",
		Long: `A hold keeps a snapshot, or all of a source, until a day or until it is lifted:
for a court, an inquiry, an audit. Holds are signed records beside the
repository; forget and rewrite obey them. Lifting one takes two names.`,
		Args: args(1, -1, "add, list, lift or retire"),
		RunE: func(_ *cobra.Command, given []string) error {
			return invalid("hold", terminal.Safe(given[0]), "use kassett hold add, list, lift or retire", errors.New("there is no such command"))
		},
	}
	cmd.AddCommand(a.holdAddCommand(), a.recordListCommand("Holds that stand", record.Hold, record.Retire),
		a.holdLiftCommand(), a.holdRetireCommand())
	return cmd
}

func (a *app) holdAddCommand() *cobra.Command {
	var x recordFlags
	cmd := &cobra.Command{
		Use:   "add [flags] [ID]",
		Short: "Hold a snapshot, or all of a source",
		Args:  args(0, 1, "at most one snapshot"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.addRecord(cmd.Context(), &x, record.Hold, given)
		},
	}
	x.subjectFlags(cmd)
	x.signFlags(cmd)
	cmd.Flags().BoolVar(&x.all, "all", false, "every snapshot of the repository")
	cmd.Flags().Var(&x.until, "until", "until this `day`; without it until it is lifted")
	return cmd
}

func (a *app) holdLiftCommand() *cobra.Command {
	var x recordFlags
	cmd := &cobra.Command{
		Use:   "lift [flags] RECORD",
		Short: "End a hold or a floor; needs --by twice",
		Args:  args(1, 1, "the ID of a record"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := x.check(2); err != nil {
				return err
			}
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				rec, err := x.record(ctx, r, record.Lift, nil)
				if err != nil {
					return err
				}
				if rec.Lifts, err = findRecord(ctx, r, given[0]); err != nil {
					return err
				}
				return a.storeRecord(ctx, r, rec)
			})
		},
	}
	x.signFlags(cmd)
	return cmd
}

func (a *app) holdRetireCommand() *cobra.Command {
	var x recordFlags
	cmd := &cobra.Command{
		Use:   "retire [flags]",
		Short: "Sign a source off, so that its last snapshot may go",
		Long: `The last good snapshot of a source is never forgotten: a source that is only
broken must not lose it. Retire says that the source is gone for good.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.addRecord(cmd.Context(), &x, record.Retire, nil)
		},
	}
	x.subjectFlags(cmd)
	x.signFlags(cmd)
	return cmd
}

func (a *app) floorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "floor",
		Short: "Set how long snapshots must be kept at least",
		Long: `A floor says how old snapshots must be, or which day must have come, before
forget may remove them, whatever rules it is given. Floors are signed records
beside the repository. kassett hold lift ends one.`,
		Args: args(1, -1, "set or list"),
		RunE: func(_ *cobra.Command, given []string) error {
			return invalid("floor", terminal.Safe(given[0]), "use kassett floor set or list", errors.New("there is no such command"))
		},
	}
	var x recordFlags
	set := &cobra.Command{
		Use:   "set [flags] [ID]",
		Short: "Set a floor for a snapshot, a source or everything",
		Args:  args(0, 1, "at most one snapshot"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.addRecord(cmd.Context(), &x, record.Floor, given)
		},
	}
	x.subjectFlags(set)
	x.signFlags(set)
	set.Flags().BoolVar(&x.all, "all", false, "every snapshot of the repository")
	set.Flags().Var(&x.keep, "keep", "keep for this `duration` after the snapshot's time, such as 10y")
	set.Flags().Var(&x.until, "until", "keep until this `day`")
	cmd.AddCommand(set, a.recordListCommand("Floors that stand", record.Floor))
	return cmd
}

// addRecord makes, signs and stores a record.
func (a *app) addRecord(ctx context.Context, x *recordFlags, kind record.Kind, given []string) error {
	if err := x.check(1); err != nil {
		return err
	}
	return a.within(ctx, exclusive, func(ctx context.Context, r *repo.Repository) error {
		rec, err := x.record(ctx, r, kind, given)
		if err != nil {
			return err
		}
		return a.storeRecord(ctx, r, rec)
	})
}

func (a *app) storeRecord(ctx context.Context, r *repo.Repository, rec record.Record) error {
	id, err := r.Records().Add(ctx, rec)
	if err != nil {
		return err
	}
	if a.flags.json {
		return a.json(map[string]string{"message_type": "record_added", "id": id.String(), "kind": string(rec.Kind)})
	}
	return a.summary("%s %s is signed and stored\n", rec.Kind, id.Short())
}

// findRecord returns the ID of the one standing record that begins with prefix.
func findRecord(ctx context.Context, r *repo.Repository, prefix string) (kassett.ID, error) {
	all, err := r.Records().Standing(ctx)
	if err != nil {
		return kassett.ID{}, err
	}
	var found []kassett.ID
	for _, rec := range all {
		if strings.HasPrefix(rec.ID.String(), prefix) {
			found = append(found, rec.ID)
		}
	}
	const hint = "kassett hold list and kassett floor list show the IDs"
	switch len(found) {
	case 0:
		return kassett.ID{}, &kassett.Error{Op: "find record", What: terminal.Safe(prefix), Kind: kassett.NotFound, Hint: hint}
	case 1:
		return found[0], nil
	}
	return kassett.ID{}, invalid("find record", terminal.Safe(prefix), hint, errors.New("several records begin like that"))
}

// recordListCommand lists the records of some kinds.
func (a *app) recordListCommand(title string, kinds ...record.Kind) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: title,
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				all, err := r.Records().Standing(ctx)
				if err != nil {
					return err
				}
				return a.listRecords(slices.DeleteFunc(all, func(rec record.Record) bool { return !slices.Contains(kinds, rec.Kind) }))
			})
		},
	}
}

func (a *app) listRecords(all []record.Record) error {
	if a.flags.json {
		type listed struct {
			ID kassett.ID `json:"id"`
			record.Record
		}
		out := make([]listed, 0, len(all))
		for _, rec := range all {
			out = append(out, listed{rec.ID, rec})
		}
		return a.json(out)
	}
	t := &terminal.Table{Head: []string{"ID", "Kind", "About", "For", "Since", "By", "Why"}}
	for _, rec := range all {
		t.Add(rec.ID.Short(), string(rec.Kind), subjectText(rec.Subject), spanText(rec), terminal.Stamp(rec.Created), strings.Join(rec.By, ", "), rec.Reason)
	}
	return t.Print(a.out)
}

func subjectText(s record.Subject) string {
	switch {
	case s.All:
		return "everything"
	case !s.Snapshot.IsZero():
		return "snapshot " + s.Snapshot.Short()
	}
	return strings.TrimSuffix(strings.TrimPrefix(groupTitle(snapshot.GroupKey{Hostname: s.Host, Paths: s.Paths, Tags: s.Tags}), "snapshots of "), ":")
}

func spanText(rec record.Record) string {
	var parts []string
	if rec.Keep != (kassett.Age{}) {
		parts = append(parts, rec.Keep.String())
	}
	if !rec.Until.IsZero() {
		parts = append(parts, "until "+rec.Until.Local().Format(time.DateOnly))
	}
	switch {
	case len(parts) > 0:
		return strings.Join(parts, " and ")
	case rec.Kind == record.Hold:
		return "until lifted"
	}
	return ""
}
