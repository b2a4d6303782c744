package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) rewriteCommand() *cobra.Command {
	var (
		filter  filterFlags
		exclude = patternFlags{word: "exclude"}
		include = patternFlags{word: "include"}
		o       snapshot.RewriteOptions
		at      timeFlag
	)
	cmd := &cobra.Command{
		Use:   "rewrite [flags] [ID...]",
		Short: "Take files out of snapshots that should never have been saved",
		Long: `Rewrite writes snapshots anew without what the patterns match, or with another
host or time. The old ones stay until --forget removes them, and their content
until kassett prune.

Without --forget the new snapshots are tagged "rewrite".`,
		RunE: func(cmd *cobra.Command, ids []string) (err error) {
			if o.Select, err = a.selection(&include, &exclude); err != nil {
				return err
			}
			if o.Time = at.Time; o.Select == nil && o.Host == "" && o.Time.IsZero() && !o.Summary {
				return invalid("rewrite", "", "name what to take out: --exclude /srv/private", errors.New("nothing to change was named"))
			}
			n := writing
			if o.Forget {
				n = exclusive
			}
			return a.within(cmd.Context(), n.unless(o.DryRun), func(ctx context.Context, r *repo.Repository) error {
				return a.rewrite(ctx, r, o, filter.filter(), ids)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	exclude.register(f, "e")
	include.register(f, "i")
	f.BoolVar(&o.Forget, "forget", false, "remove the old snapshots afterwards")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	f.StringVar(&o.Host, "new-host", "", "set another `host`")
	f.Var(&at, "new-time", "set another `time`")
	f.BoolVarP(&o.Summary, "snapshot-summary", "s", false, "count files and bytes where a snapshot has no summary")
	return cmd
}

func (a *app) rewrite(ctx context.Context, r *repo.Repository, o snapshot.RewriteOptions, f snapshot.Filter, ids []string) error {
	list, unread, err := a.snapshotsToChange(ctx, r, f, ids)
	if err != nil {
		return err
	}
	done := 0
	if a.flags.verbose > 0 || o.DryRun {
		o.Removed = func(path string) {
			if !a.flags.json && !a.flags.quiet {
				a.ui.Say("without   %s", terminal.Safe(path))
			}
		}
	}
	o.Done = func(rep snapshot.Replaced) {
		done++
		a.replaced(rep, o.DryRun)
	}
	o.Progress = new(kassett.Progress)
	stop := a.watch(o.Progress)
	err = snapshot.Rewrite(ctx, r, list, o)
	stop()
	return errors.Join(a.changed(done, o.DryRun, err), err, unread)
}

func (a *app) tagCommand() *cobra.Command {
	var (
		filter           filterFlags
		set, add, remove []string
	)
	cmd := &cobra.Command{
		Use:   "tag [flags] [ID...]",
		Short: "Change the tags of snapshots",
		Long: `Tag sets, adds or removes tags of snapshots. A changed snapshot gets a new ID
and remembers its first one; its content is not touched.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c := snapshot.TagChange{Add: splitTags(add), Remove: splitTags(remove)}
			if cmd.Flags().Changed("set") {
				if c.Set = splitTags(set); len(c.Set) == 0 {
					c.Set = []string{""}
				}
			}
			if len(c.Set)+len(c.Add)+len(c.Remove) == 0 {
				return invalid("change tags", "", "use --set, --add or --remove", errors.New("no change is named"))
			}
			if len(c.Set) > 0 && len(c.Add)+len(c.Remove) > 0 {
				return invalid("change tags", "", "use --set alone", errors.New("--set replaces all tags and goes with no other change"))
			}
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				list, unread := snapshot.FindAll(ctx, r, filter.filter(), ids)
				if list == nil && unread != nil {
					return unread
				}
				done := 0
				err := snapshot.Tag(ctx, r, list, c, func(rep snapshot.Replaced) {
					done++
					a.replaced(rep, false)
				})
				return errors.Join(a.changed(done, false, err), err, unread)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.StringArrayVar(&set, "set", nil, "replace all tags by these tags, `tag,tag`; \"\" leaves none")
	f.StringArrayVar(&add, "add", nil, "add these tags, `tag,tag`")
	f.StringArrayVar(&remove, "remove", nil, "remove these tags, `tag,tag`")
	return cmd
}

func (a *app) recoverCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "recover",
		Short: "Make a snapshot of folders that no snapshot names any more",
		Long: `Recover looks for folders that are still stored but belong to no snapshot, as
after snapshots were lost, and makes one snapshot of them, tagged "recovered".`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, name := a.whoami()
			return a.within(cmd.Context(), exclusive, func(ctx context.Context, r *repo.Repository) error {
				if err := a.loadIndex(ctx, r); err != nil {
					return err
				}
				p := new(kassett.Progress)
				stop := a.watch(p)
				sn, err := snapshot.Recover(ctx, r, snapshot.RecoverOptions{
					Host: host, User: name, Version: "kassett " + version, Progress: p, Warn: func(err error) { a.warn("", err) },
				})
				stop()
				if sn == nil {
					if err != nil {
						return err
					}
					if a.flags.json {
						return a.json(map[string]any{"message_type": "summary", "snapshot_id": nil})
					}
					return a.summary("every folder that is stored belongs to a snapshot; there is nothing to recover\n")
				}
				if a.flags.json {
					return errors.Join(a.json(map[string]any{"message_type": "summary", "snapshot_id": sn.ID}), err)
				}
				return errors.Join(a.summary("snapshot %s holds what was found; kassett ls %s lists it\n", sn.ID.Short(), sn.ID.Short()), err)
			})
		},
	}
}
