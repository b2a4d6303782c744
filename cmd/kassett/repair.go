package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) repairCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Mend a damaged repository",
		Long: `Repair mends a damaged repository. Copy it first: what a repair removes is gone.

The order is: repair parity, if the repository has any, loses nothing and is
often the end. Otherwise repair index; then, when check --read-data names packs,
repair packs; then repair snapshots, which takes out of snapshots what is lost.
Where somebody has deleted or replaced files of a bucket that keeps versions,
repair versions comes first.`,
		Args: args(1, -1, "parity, index, packs, snapshots or versions"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return invalid("repair", terminal.Safe(given[0]), "use kassett repair parity, repair index, repair packs, repair snapshots or repair versions", errors.New("that cannot be repaired"))
		},
	}
	cmd.AddCommand(a.repairParityCommand(), a.repairIndexCommand(), a.repairPacksCommand(), a.repairSnapshotsCommand(), a.repairVersionsCommand())
	return cmd
}

func (a *app) repairIndexCommand() *cobra.Command {
	var o repo.RepairOptions
	cmd := &cobra.Command{
		Use:   "index [flags]",
		Short: "Make the index name what is in the packs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				o.Progress = new(kassett.Progress)
				stop := a.watch(o.Progress)
				stats, err := r.RepairIndex(ctx, o, func(f repo.Finding) { a.tellFinding(f, true) })
				stop()
				return a.repaired(stats, err)
			})
		},
	}
	cmd.Flags().BoolVar(&o.ReadAllPacks, "read-all-packs", false, "read the header of every pack, not only of doubtful ones")
	return cmd
}

func (a *app) repairPacksCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "packs ID...",
		Short: "Save what can be read out of damaged packs",
		Long: `Packs reads damaged packs, stores what is still whole in them anew, and takes
the damaged packs out. Their bytes are kept beside the repository. Packs that
parity can make again lose nothing: they are repaired so instead.`,
		Args: args(1, -1, "IDs of packs"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				ids := make([]kassett.ID, 0, len(given))
				for _, s := range given {
					id, err := r.Resolve(ctx, kassett.PackFile, s)
					if err != nil {
						return fmt.Errorf("find pack %s: %w", terminal.Safe(s), err)
					}
					ids = append(ids, id)
				}
				if err := a.loadIndex(ctx, r); err != nil {
					return err
				}
				ids, err := a.parityFirst(ctx, r, ids)
				if err != nil || len(ids) == 0 && !a.flags.json {
					return err
				}
				o := repo.RepairOptions{Progress: new(kassett.Progress)}
				stop := a.watch(o.Progress)
				stats, err := r.RepairPacks(ctx, ids, o, func(f repo.Finding) { a.tellFinding(f, true) })
				stop()
				return a.repaired(stats, err)
			})
		},
	}
}

// repaired tells what a repair of index or packs did.
func (a *app) repaired(stats repo.RepairStats, err error) error {
	if a.flags.json {
		return errors.Join(a.json(struct {
			MessageType string `json:"message_type"`
			repo.RepairStats
		}{"summary", stats}), err)
	}
	told := a.summary("%s read, %s added to the index, %s dropped; %s saved, %s lost; %s replaced\n",
		terminal.Plural(stats.PacksRead, "pack", "packs"), terminal.Count(stats.PacksAdded), terminal.Count(stats.PacksDropped),
		terminal.Plural(stats.Salvaged, "blob", "blobs"), terminal.Count(stats.Lost), terminal.Plural(stats.IndexFiles, "index file", "index files"))
	if err == nil && stats.Lost > 0 && !a.flags.quiet {
		a.ui.Line("kassett: next: run kassett repair snapshots, and kassett backup where the files still are")
	}
	return errors.Join(told, err)
}

func (a *app) repairSnapshotsCommand() *cobra.Command {
	var (
		filter filterFlags
		o      snapshot.RepairOptions
	)
	cmd := &cobra.Command{
		Use:   "snapshots [flags] [ID...]",
		Short: "Take out of snapshots what is lost",
		Long: `Snapshots writes damaged snapshots anew with what is left of them, tagged
"repaired". The damaged ones stay until --forget removes them.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.within(cmd.Context(), exclusive.unless(o.DryRun), func(ctx context.Context, r *repo.Repository) error {
				list, unread, err := a.snapshotsToChange(ctx, r, filter.filter(), ids)
				if err != nil {
					return err
				}
				done := 0
				o.Lost = a.warn
				o.Done = func(rep snapshot.Replaced) {
					done++
					a.replaced(rep, o.DryRun)
				}
				o.Progress = new(kassett.Progress)
				stop := a.watch(o.Progress)
				err = snapshot.RepairSnapshots(ctx, r, list, o)
				stop()
				return errors.Join(a.changed(done, o.DryRun, err), err, unread)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.BoolVar(&o.Forget, "forget", false, "remove the damaged snapshots afterwards")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	return cmd
}

// snapshotsToChange finds snapshots and loads the index. unread names those
// that could not be read; the others are returned.
func (a *app) snapshotsToChange(ctx context.Context, r *repo.Repository, f snapshot.Filter, ids []string) (list []*snapshot.Snapshot, unread, err error) {
	list, unread = snapshot.FindAll(ctx, r, f, ids)
	if list == nil && unread != nil {
		return nil, nil, unread
	}
	return list, unread, a.loadIndex(ctx, r)
}

// replaced tells of one snapshot that was written anew.
func (a *app) replaced(rep snapshot.Replaced, dryRun bool) {
	if a.flags.json {
		_ = a.json(struct {
			MessageType string `json:"message_type"`
			snapshot.Replaced
		}{"changed", rep}) // an error of stdout comes again with the next result
		return
	}
	switch {
	case a.flags.quiet:
	case dryRun:
		a.ui.Say("snapshot %s would be written anew", rep.Old.Short())
	case rep.New.IsZero():
		a.ui.Say("snapshot %s removed, nothing is left of it", rep.Old.Short())
	default:
		a.ui.Say("snapshot %s is now %s", rep.Old.Short(), rep.New.Short())
	}
}

// changed tells how many snapshots were written anew, unless it failed at once.
func (a *app) changed(n int, dryRun bool, err error) error {
	if err != nil && n == 0 {
		return nil
	}
	if a.flags.json {
		return a.json(struct {
			MessageType string `json:"message_type"`
			Changed     int    `json:"changed_snapshots"`
			DryRun      bool   `json:"dry_run,omitempty"`
		}{"summary", n, dryRun})
	}
	if dryRun {
		return a.summary("dry run: %s would change\n", terminal.Plural(n, "snapshot", "snapshots"))
	}
	return a.summary("%s changed\n", terminal.Plural(n, "snapshot", "snapshots"))
}
