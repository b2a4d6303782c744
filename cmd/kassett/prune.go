package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// pruneFlags are the flags of prune that forget has too.
type pruneFlags struct {
	maxUnused, maxRepack, smaller string
	small                         bool
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

It may be interrupted at any moment; the next prune goes on.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := p.read(a); err != nil {
				return err
			}
			return a.within(cmd.Context(), exclusive.unless(p.options.DryRun), func(ctx context.Context, r *repo.Repository) error {
				return a.prune(ctx, r, p.options)
			})
		},
	}
	f := cmd.Flags()
	p.register(f)
	f.BoolVarP(&p.options.DryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	return cmd
}

// prune removes what no snapshot needs. Every snapshot must be readable: what
// one needs that cannot be read is not known.
func (a *app) prune(ctx context.Context, r *repo.Repository, o repo.PruneOptions) error {
	if err := a.loadIndex(ctx, r); err != nil {
		return err
	}
	list, err := snapshot.List(ctx, r, snapshot.Filter{})
	if err != nil {
		return &kassett.Error{
			Op: "prune", Kind: kassett.KindOf(err), Err: err,
			Hint: "nothing was removed, since what these snapshots need is not known; bring them back from a copy, or remove them with their IDs by kassett forget",
		}
	}
	trees := make([]kassett.ID, 0, len(list))
	for _, sn := range list {
		trees = append(trees, sn.Tree)
	}
	o.Progress = new(kassett.Progress)
	stop := a.watch(o.Progress)
	o.Progress.Enter("find what is needed")
	used, err := snapshot.Used(ctx, r, trees, o.Progress)
	var stats repo.PruneStats
	if err == nil {
		stats, err = r.Prune(ctx, used, o)
	}
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
	if a.flags.json {
		stats.MessageType = "summary"
		return a.json(stats)
	}
	return a.pruneSummary(stats, o.DryRun)
}

func (a *app) pruneSummary(s repo.PruneStats, dryRun bool) error {
	size := func(n uint64) string { return bytesText(int64(n)) } //nolint:gosec // a display
	removed, rewritten := "removed", "written anew"
	if dryRun {
		removed, rewritten = "would be removed", "would be written anew"
	}
	return errors.Join(
		a.summary("needed  %s in %s\n", size(s.Bytes.Used), plural(s.Blobs.Used, "blob", "blobs")),
		a.summary("%s %s; %s with %s %s\n", size(s.Bytes.RemoveTotal+s.Bytes.Unreferenced), removed,
			plural(s.Packs.Repack, "pack", "packs"), size(s.Bytes.Repack), rewritten),
		a.summary("left    %s, of which nobody needs %s\n", size(s.Bytes.Remaining), size(s.Bytes.RemainingUnused)),
	)
}
