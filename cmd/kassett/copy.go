package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) copyCommand() *cobra.Command {
	var filter filterFlags
	from := place{prefix: "FROM_"}
	cmd := &cobra.Command{
		Use:   "copy [flags] [ID...]",
		Short: "Copy snapshots from another repository into this one",
		Long: `Copy takes snapshots out of the repository of --from-repo and stores them in the
repository of --repo, which has other keys. Copies keep time, host, paths and
tags; what is there already is passed over.

Make the second repository with init --copy-chunker-params --from-repo, so that
both cut content alike and backups into both store the same once.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return a.withinPlace(cmd.Context(), from, reading, func(ctx context.Context, src *repo.Repository) error {
				return a.within(ctx, adding, func(ctx context.Context, dst *repo.Repository) error {
					return a.copy(ctx, src, dst, filter.filter(), ids)
				})
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	from.register(f)
	return cmd
}

func (a *app) copy(ctx context.Context, src, dst *repo.Repository, f snapshot.Filter, ids []string) error {
	list, unread, err := a.snapshotsToChange(ctx, src, f, ids)
	if err != nil {
		return err
	}
	if err := a.loadIndex(ctx, dst); err != nil {
		return err
	}
	if src.Config().ChunkerPolynomial != dst.Config().ChunkerPolynomial {
		a.notice("", errors.New("the two repositories cut content differently: backups into both will not share what they store; init --copy-chunker-params avoids that"))
	}
	copied, there := 0, 0
	o := snapshot.CopyOptions{Progress: new(kassett.Progress), Done: func(from, to *snapshot.Snapshot, was bool) {
		if was {
			there++
		} else {
			copied++
		}
		a.copiedOne(from, to, was)
	}}
	stop := a.watch(o.Progress)
	stats, err := snapshot.Copy(ctx, src, dst, list, o)
	stop()
	if err != nil && stopped(ctx) {
		return &kassett.Error{
			Op: "copy", Kind: kassett.Interrupted, Err: err,
			Hint: "what was copied so far stays and will not be sent again: run the same command to go on",
		}
	}
	if err != nil && copied+there == 0 {
		return err
	}
	if a.flags.json {
		return errors.Join(a.json(struct {
			MessageType string `json:"message_type"`
			Copied      int    `json:"copied_snapshots"`
			There       int    `json:"skipped_snapshots"`
			repo.CopyStats
		}{"summary", copied, there, stats}), err, unread)
	}
	return errors.Join(a.summary("%s copied, %s there already; %s in %s\n", plural(copied, "snapshot", "snapshots"), count(there),
		bytesText(int64(stats.Bytes)), plural(stats.Blobs, "blob", "blobs")), err, unread) //nolint:gosec // a display
}

// copiedOne tells of one snapshot.
func (a *app) copiedOne(from, to *snapshot.Snapshot, was bool) {
	switch {
	case a.flags.json:
		_ = a.json(struct {
			MessageType string     `json:"message_type"`
			From        kassett.ID `json:"source_snapshot"`
			To          kassett.ID `json:"snapshot_id"`
			There       bool       `json:"skipped,omitempty"`
		}{"copied", from.ID, to.ID, was}) // an error of stdout comes again with the summary
	case a.flags.quiet:
	case was:
		a.ui.say("snapshot %s is there already, as %s", from.ID.Short(), to.ID.Short())
	default:
		a.ui.say("snapshot %s of %s is %s there", from.ID.Short(), stamp(from.Time), to.ID.Short())
	}
}
