package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/prune"
	"kassett/repo"
)

// pruneFlags are the flags of prune that forget has too.
type pruneFlags struct {
	maxUnused, maxRepack, smaller string
	small, markOnly               bool
	options                       repo.PruneOptions
}

func (p *pruneFlags) register(f *pflag.FlagSet) {
	f.StringVar(&p.maxUnused, "max-unused", "5%", "leave this `much` that nobody needs: a percentage, a size or unlimited")
	f.StringVar(&p.maxRepack, "max-repack-size", "", "write at most this `size` of packs anew")
	f.StringVar(&p.smaller, "repack-smaller-than", "", "write packs below this `size` anew")
	f.BoolVar(&p.small, "repack-small", false, "write packs anew that are below four fifths of --pack-size")
	f.BoolVar(&p.options.RepackUncompressed, "repack-uncompressed", false, "compress what is stored uncompressed")
	f.BoolVar(&p.options.RepackTreesOnly, "repack-cacheable-only", false, "write only packs of folders anew")
}

// defaultPack is the size of packs unless a flag says otherwise, in bytes.
const defaultPack = 16 << 20

// read turns the flags that are words into options.
func (p *pruneFlags) read(a *app) (err error) {
	o := &p.options
	if o.MaxUnused, err = repo.ParseUnused(p.maxUnused); err != nil {
		return err
	}
	if p.maxRepack != "" {
		if o.MaxRepackSize, err = repo.ParseSize(p.maxRepack); err != nil {
			return err
		}
		if o.MaxRepackSize == 0 {
			o.MaxRepackSize = -1 // none at all
		}
	}
	if p.smaller != "" {
		o.RepackSmall, err = repo.ParseSize(p.smaller)
		return err
	}
	if p.small {
		used, err := a.repoOptions(a.flags.where)
		if err != nil {
			return err
		}
		o.RepackSmall = int64(cmp.Or(used.PackSize, defaultPack)) * 4 / 5
	}
	return nil
}

func (a *app) pruneCommand() *cobra.Command {
	var p pruneFlags
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove stored data that no snapshot needs",
		Long: `Prune removes what no snapshot needs any more. A pack that still holds something
needed is written anew without the rest, when that is worth it.

Backups go on meanwhile. Prune marks what shall go; a backup by Kassett that
begins afterwards does not rely on it. When all who were at work before have
ended, prune keeps others out for some seconds and removes what is marked. When
nobody else is at work it does both in one go. Else it waits as long as
--retry-lock says, and then leaves the rest, with exit code 11, to the next.

It may be interrupted at any moment; the next prune goes on.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.read(a); err != nil {
				return err
			}
			if a.flags.noLock && !p.options.DryRun {
				return needsLock()
			}
			return a.within(cmd.Context(), unlocked, func(ctx context.Context, r *repo.Repository) error {
				return a.prune(ctx, r, &p)
			})
		},
	}
	f := cmd.Flags()
	p.register(f)
	f.BoolVar(&p.markOnly, "mark-only", false, "mark what shall go, and leave it to a later prune to remove it")
	f.BoolVarP(&p.options.DryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	return cmd
}

// pruneJSON is the summary of a prune as JSON, with restic's names and ours.
type pruneJSON struct {
	repo.PruneStats
	Removed uint64 `json:"packs_removed"`
	Spared  uint64 `json:"packs_spared"` // marked, and needed after all
	Left    int    `json:"marks_left"`   // lists of packs that a later prune removes
}

// prune removes what no snapshot needs.
func (a *app) prune(ctx context.Context, r *repo.Repository, p *pruneFlags) error {
	o := prune.Options{PruneOptions: p.options, MarkOnly: p.markOnly, Lock: a.lockOptions()}
	o.Progress = new(kassett.Progress)
	o.Notice = func(msg string) { a.notice("", errors.New(msg)) }
	o.Lock.Waiting = func(by repo.LockInfo) {
		a.notice("", fmt.Errorf("waiting for %s, seen at %s", by.Holder(), terminal.Stamp(by.Time)))
	}
	stop := a.watch(o.Progress)
	done, err := prune.Run(ctx, r, o)
	stop()
	if err != nil && stopped(ctx) {
		return &kassett.Error{
			Op: "prune", Kind: kassett.Interrupted, Err: err,
			Hint: "nothing that is needed was removed; run kassett prune to go on",
		}
	}
	if err != nil {
		return err
	}
	if !o.DryRun { // also what an earlier prune, that was cut, has written has parity then
		if err := a.keepParityAfter(ctx, r); err != nil {
			return err
		}
	}
	if a.flags.json {
		done.MessageType = "summary"
		return a.json(pruneJSON{done.PruneStats, uint64(done.Swept.Packs), uint64(done.Swept.Spared), done.Left})
	}
	return a.pruneSummary(done, o)
}

func (a *app) pruneSummary(done *prune.Result, o prune.Options) error {
	s := done.PruneStats
	size := func(n uint64) string { return terminal.Bytes(int64(n)) } //nolint:gosec // a display
	removed, rewritten := "removed", "written anew"
	switch {
	case o.DryRun:
		removed, rewritten = "would be removed", "would be written anew"
	case o.MarkOnly:
		removed = "marked, to be removed by a later kassett prune"
	}
	return errors.Join(
		a.summary("needed  %s in %s\n", size(s.Bytes.Used), terminal.Plural(s.Blobs.Used, "blob", "blobs")),
		a.summary("%s %s; %s with %s %s\n", size(s.Bytes.RemoveTotal), removed,
			terminal.Plural(s.Packs.Repack, "pack", "packs"), size(s.Bytes.Repack), rewritten),
		a.summary("left    %s, of which nobody needs %s\n", size(s.Bytes.Remaining), size(s.Bytes.RemainingUnused)),
		a.sparedSummary(done.Swept.Spared),
		a.heldSummary(cmp.Or(done.Swept.Held, s.Held)),
	)
}

// heldSummary tells of packs that the storage does not let go of yet.
func (a *app) heldSummary(h repo.Held) error {
	if h.Packs == 0 {
		return nil
	}
	return a.summary("%s, the last until %s: object lock; a later kassett prune removes them\n",
		terminal.Plural(h.Packs, "of these packs stays", "of these packs stay"), terminal.Stamp(h.Until))
}

// sparedSummary tells of packs that a backup came to need meanwhile.
func (a *app) sparedSummary(n int) error {
	if n == 0 {
		return nil
	}
	return a.summary("%s stayed: a backup began to need them before they could be removed\n", terminal.Plural(n, "marked pack", "marked packs"))
}
