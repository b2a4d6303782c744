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

func (a *app) diffCommand() *cobra.Command {
	var o snapshot.DiffOptions
	cmd := &cobra.Command{
		Use:   "diff [flags] ID[:FOLDER] ID[:FOLDER]",
		Short: "Compare two snapshots",
		Long: `Diff tells what is in one snapshot and not, or otherwise, in another:

  +  added          -  removed
  M  other content  U  other metadata (with --metadata)
  T  another type, such as a link where a file was
  M? other content though all metadata is the same: look at this one`,
		Args: args(2, 2, "two snapshots"),
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.diff(ctx, r, ids, o)
			})
		},
	}
	cmd.Flags().BoolVar(&o.Metadata, "metadata", false, "tell also of changes in metadata alone")
	return cmd
}

func (a *app) diff(ctx context.Context, r *repo.Repository, ids []string, o snapshot.DiffOptions) error {
	var trees [2]kassett.ID
	var sns [2]*snapshot.Snapshot
	for i, spec := range ids {
		var err error
		if sns[i], trees[i], err = a.findTree(ctx, r, snapshot.Filter{}, spec); err != nil {
			return err
		}
	}
	if !a.flags.json && !a.flags.quiet {
		a.ui.Say("comparing snapshot %s of %s with %s of %s:", sns[0].ID.Short(), terminal.Stamp(sns[0].Time), sns[1].ID.Short(), terminal.Stamp(sns[1].Time))
	}
	stats, err := snapshot.Diff(ctx, r, trees[0], trees[1], o, func(c snapshot.Change) error {
		if a.flags.json {
			return a.json(struct {
				MessageType string `json:"message_type"`
				Path        string `json:"path"`
				Modifier    string `json:"modifier"`
			}{"change", c.Path, c.Modifier})
		}
		return a.print("%-4s %s\n", c.Modifier, terminal.Safe(c.Path))
	})
	if err != nil && kassett.KindOf(err) != kassett.Corrupt {
		return err
	}
	if a.flags.json {
		return errors.Join(a.json(struct {
			MessageType    string     `json:"message_type"`
			SourceSnapshot kassett.ID `json:"source_snapshot"`
			TargetSnapshot kassett.ID `json:"target_snapshot"`
			snapshot.DiffStats
		}{"statistics", sns[0].ID, sns[1].ID, stats}), err)
	}
	for _, side := range []struct {
		word string
		n    snapshot.DiffCount
	}{{"added", stats.Added}, {"removed", stats.Removed}} {
		if err := a.summary("%-8s %s, %s, %s, %s\n", side.word, terminal.Plural(side.n.Files, "file", "files"), terminal.Plural(side.n.Dirs, "folder", "folders"),
			terminal.Plural(side.n.Others, "other thing", "other things"), terminal.Bytes(int64(side.n.Bytes))); err != nil { //nolint:gosec // a display
			return err
		}
	}
	return errors.Join(a.summary("changed  %s\n", terminal.Plural(stats.ChangedFiles, "file", "files")), err)
}
