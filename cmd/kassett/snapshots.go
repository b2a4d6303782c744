package main

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) snapshotsCommand() *cobra.Command {
	var (
		filter  filterFlags
		compact bool
		latest  int
		group   string
	)
	cmd := &cobra.Command{
		Use:   "snapshots [flags] [ID...]",
		Short: "List snapshots",
		Long: `Snapshots lists what is kept, oldest first: all, those the flags choose, or the
ones named.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.listSnapshots(ctx, r, filter.filter(), ids, snapshotsView{compact, latest, group, cmd.Flags().Changed("group-by")})
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.BoolVarP(&compact, "compact", "c", false, "one line for each snapshot")
	f.IntVar(&latest, "latest", 0, "only the last `n` of each host and paths")
	f.StringVarP(&group, "group-by", "g", "", "in groups by `host,paths,tags`")
	return cmd
}

// snapshotsView says how snapshots are listed.
type snapshotsView struct {
	compact bool
	latest  int
	group   string
	grouped bool
}

// snapshotJSON is a snapshot as our JSON shows it: restic's file, and its ID.
type snapshotJSON struct {
	*snapshot.Snapshot
	ID      kassett.ID `json:"id"`
	ShortID string     `json:"short_id"`
}

func asJSON(sn *snapshot.Snapshot) snapshotJSON { return snapshotJSON{sn, sn.ID, sn.ID.Short()} }

func allJSON(list []*snapshot.Snapshot) []snapshotJSON {
	all := make([]snapshotJSON, 0, len(list))
	for _, sn := range list {
		all = append(all, asJSON(sn))
	}
	return all
}

func (a *app) listSnapshots(ctx context.Context, r *repo.Repository, f snapshot.Filter, ids []string, v snapshotsView) error {
	by, err := snapshot.ParseGroupBy(v.group)
	if err != nil {
		return err
	}
	list, unread := snapshot.FindAll(ctx, r, f, ids)
	if list == nil && unread != nil {
		return unread
	}
	if v.latest > 0 {
		list = lastOfEach(list, v.latest)
	}
	if !v.grouped {
		if a.flags.json {
			return errors.Join(a.json(allJSON(list)), unread)
		}
		return errors.Join(a.snapshotTable(list, v.compact), unread)
	}
	groups := snapshot.Groups(list, by)
	if a.flags.json {
		type group struct {
			Key       snapshot.GroupKey `json:"group_key"`
			Snapshots []snapshotJSON    `json:"snapshots"`
		}
		all := make([]group, 0, len(groups))
		for _, g := range groups {
			all = append(all, group{g.Key, allJSON(g.Snapshots)})
		}
		return errors.Join(a.json(all), unread)
	}
	for _, g := range groups {
		if err := a.print("%s\n", groupTitle(g.Key)); err != nil {
			return err
		}
		if err := a.snapshotTable(g.Snapshots, v.compact); err != nil {
			return err
		}
	}
	return unread
}

// lastOfEach keeps the last n snapshots of each host and paths, in order.
func lastOfEach(list []*snapshot.Snapshot, n int) []*snapshot.Snapshot {
	var kept []*snapshot.Snapshot
	for _, g := range snapshot.Groups(list, snapshot.GroupBy{Host: true, Paths: true}) {
		kept = append(kept, g.Snapshots[max(0, len(g.Snapshots)-n):]...)
	}
	slices.SortFunc(kept, func(a, b *snapshot.Snapshot) int { return a.Time.Compare(b.Time) })
	return kept
}

func groupTitle(k snapshot.GroupKey) string {
	var parts []string
	if k.Hostname != "" {
		parts = append(parts, "host "+terminal.Safe(k.Hostname))
	}
	if len(k.Tags) > 0 {
		parts = append(parts, "tags "+terminal.Safe(strings.Join(k.Tags, ", ")))
	}
	if len(k.Paths) > 0 {
		parts = append(parts, "paths "+terminal.Safe(strings.Join(k.Paths, ", ")))
	}
	if len(parts) == 0 {
		return "all snapshots:"
	}
	return "snapshots of " + strings.Join(parts, ", ") + ":"
}

// snapshotTable prints snapshots for people.
func (a *app) snapshotTable(list []*snapshot.Snapshot, compact bool) error {
	between := "\n"
	if compact {
		between = ", "
	}
	t := &terminal.Table{Head: []string{"ID", "Time", "Host", "Tags", "Paths", "Size"}, Right: []bool{5: true}}
	for _, sn := range list {
		size := ""
		if sn.Summary != nil {
			size = terminal.Bytes(int64(sn.Summary.TotalBytesProcessed)) //nolint:gosec // a display
		}
		t.Add(sn.ID.Short(), terminal.Stamp(sn.Time), sn.Hostname, strings.Join(sn.Tags, between), strings.Join(sn.Paths, between), size)
	}
	if err := t.Print(a.out); err != nil {
		return err
	}
	return a.print("%s\n", terminal.Plural(len(list), "snapshot", "snapshots"))
}
