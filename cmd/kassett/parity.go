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
	"kassett/repo/parity"
)

func (a *app) parityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "parity",
		Short: "Keep parity beside the packs, by which damage is repaired",
		Long: `Parity keeps files beside the repository by which damaged or lost packs, index
files, snapshots and keys can be made again: kassett repair parity does it, and
so does the program par2, since they are in its format.

Say once how much of it there shall be, as in kassett parity set 5%. From then
on every command that adds or removes something keeps it up to date.`,
		Args: args(1, -1, "set, update or show"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return invalid("parity", terminal.Safe(given[0]), "use kassett parity set, parity update or parity show", errors.New("there is no such command"))
		},
	}
	cmd.AddCommand(a.paritySetCommand(), a.parityUpdateCommand(), a.parityShowCommand())
	return cmd
}

func (a *app) paritySetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "set PERCENT",
		Short: "Say how much parity there shall be, and make it",
		Long: `Set says how much parity the repository shall have, in percent of what it
protects: 5% repairs one lost pack in twenty, 10% one in ten. With 0 all parity
is removed. What has parity already keeps it as it is; from 5% to 10% only what
comes afterwards gets more.`,
		Args: args(1, 1, "a percentage, such as 5%"),
		RunE: func(cmd *cobra.Command, given []string) error {
			o, err := parity.ParseOverhead(given[0])
			if err != nil {
				return err
			}
			return a.within(cmd.Context(), tending, func(ctx context.Context, r *repo.Repository) error {
				if err := r.SetParity(ctx, o); err != nil {
					return err
				}
				return a.parityUpdate(ctx, r, true)
			})
		},
	}
}

func (a *app) parityUpdateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "update",
		Short: "Make parity for what has none yet",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), tending, func(ctx context.Context, r *repo.Repository) error {
				return a.parityUpdate(ctx, r, true)
			})
		},
	}
}

func (a *app) parityShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show what parity there is",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				o, _, err := r.Parity(ctx)
				if err != nil {
					return err
				}
				p := new(kassett.Progress)
				k, err := r.ParityKeeper(parity.Options{Overhead: o, Progress: p, Warn: a.warn})
				if err != nil {
					return err
				}
				stop := a.watch(p)
				st, err := k.Status(ctx)
				stop()
				if err != nil {
					return err
				}
				return a.parityShown(o, st)
			})
		},
	}
}

func (a *app) parityShown(o parity.Overhead, st parity.Status) error {
	if a.flags.json {
		return a.json(struct {
			Overhead string `json:"overhead"`
			parity.Status
		}{o.String(), st})
	}
	wanted := "none is wanted; kassett parity set 5% is how to begin"
	if o > 0 {
		wanted = o.String() + " is wanted"
	}
	err := a.print("%s of parity in %s; %s\n%s with %s protected, %s with %s not\n", terminal.Bytes(st.ParityBytes), terminal.Plural(st.Sets, "file", "files"), wanted,
		terminal.Plural(st.Files, "file", "files"), terminal.Bytes(st.Bytes), terminal.Plural(st.BareFiles, "file", "files"), terminal.Bytes(st.BareBytes))
	if st.Hurt > 0 {
		err = errors.Join(err, &kassett.Error{
			Op: "show parity", Kind: kassett.Corrupt, Err: errors.New(terminal.Plural(st.Hurt, "protected file is", "protected files are") + " not there or not of the right length"),
			Hint: "run kassett repair parity",
		})
	}
	return err
}

// keepParity brings parity up to date after a command that has added or removed
// something, if the repository is to have any.
func (a *app) keepParity(ctx context.Context, r *repo.Repository) error {
	o, said, err := r.Parity(ctx)
	if err == nil && said && o > 0 {
		err = a.parityUpdate(ctx, r, false)
	}
	if err == nil || stopped(ctx) {
		return err
	}
	return &kassett.Error{
		Op: "keep parity", Kind: kassett.Incomplete, Err: err,
		Hint: "the command itself has done its work; only the parity is not up to date: run kassett parity update",
	}
}

// parityUpdate does what the setting says: makes parity, or removes all of it.
func (a *app) parityUpdate(ctx context.Context, r *repo.Repository, asked bool) error {
	o, said, err := r.Parity(ctx)
	if err != nil {
		return err
	}
	if !said {
		return invalid("update parity", "", "say first how much there shall be: kassett parity set 5%", errors.New("this repository has none"))
	}
	p := new(kassett.Progress)
	k, err := r.ParityKeeper(parity.Options{Overhead: o, Progress: p, Warn: a.warn})
	if err != nil {
		return err
	}
	stop := a.watch(p)
	defer stop()
	if o == 0 {
		n, err := k.Clear(ctx)
		stop()
		return errors.Join(a.summary("%s removed; no more is made\n", terminal.Plural(n, "parity file", "parity files")), err)
	}
	st, err := k.Update(ctx)
	stop()
	if err != nil {
		return err
	}
	if st.Damaged > 0 {
		err = &kassett.Error{
			Op: "make parity", Kind: kassett.Corrupt, Err: errors.New(terminal.Plural(st.Damaged, "file is", "files are") + " damaged, named above"),
			Hint: "run kassett repair parity; what it cannot mend, kassett check --read-data names with the next step",
		}
	}
	if a.flags.json {
		if !asked {
			return err
		}
		return errors.Join(a.json(struct {
			MessageType string `json:"message_type"`
			parity.UpdateStats
		}{"summary", st}), err)
	}
	if asked || st.Made > 0 {
		err = errors.Join(a.summary("parity: %s made (%s for %s), %s removed; %s protected\n", terminal.Plural(st.Made, "set", "sets"),
			terminal.Bytes(st.Written), terminal.Bytes(st.Read), terminal.Count(st.Removed), terminal.Plural(st.Protects, "file", "files")), err)
	}
	if st.Kept > 0 && a.flags.verbose > 0 {
		a.ui.Say("kassett: %s superseded, but this storage does not let us remove them", terminal.Plural(st.Kept, "parity file is", "parity files are"))
	}
	return err
}

// damagedFile returns the file that a finding is about, if it is about one.
func damagedFile(what string) (h kassett.Handle, ok bool) {
	kind, name, _ := strings.Cut(strings.Replace(what, " ", "/", 1), "/")
	kinds := map[string]kassett.FileKind{
		"pack": kassett.PackFile, "index": kassett.IndexFile, "snapshots": kassett.SnapshotFile, "keys": kassett.KeyFile,
	}
	id, err := kassett.ParseID(name)
	return kassett.Handle{Kind: kinds[kind], ID: id}, err == nil && kinds[kind] != 0
}

// checkParity finds out whether parity repairs what a check has found, and
// reads the parity itself when everything is read. What is damaged of it, and
// only that, is an error.
func (a *app) checkParity(ctx context.Context, r *repo.Repository, all bool, res *checkResult) error {
	o, said, err := r.Parity(ctx)
	if err != nil || !said || o == 0 {
		return err
	}
	p := new(kassett.Progress)
	k, err := r.ParityKeeper(parity.Options{Overhead: o, Progress: p})
	if err != nil {
		return err
	}
	stop := a.watch(p)
	defer stop()
	if len(res.damaged) > 0 {
		can := 0
		_, err := k.Repair(ctx, parity.RepairOptions{Only: res.damaged, DryRun: true}, func(out parity.Outcome) {
			if out.Err == nil && slices.Contains(res.damaged, out.Handle) {
				can++
			}
		})
		if err != nil && kassett.KindOf(err) != kassett.Corrupt {
			return err
		}
		res.parity = can == len(res.damaged)
	}
	if !all {
		return nil
	}
	var damage error
	err = k.Verify(ctx, func(name string, err error) {
		a.finding(repo.Finding{Kind: repo.Damage, What: name, Err: err, Hint: kassett.HintOf(err)}, res)
		damage = &kassett.Error{Op: "check parity", Kind: kassett.Corrupt, Err: err}
	})
	return errors.Join(err, damage)
}

func (a *app) repairParityCommand() *cobra.Command {
	var o parity.RepairOptions
	cmd := &cobra.Command{
		Use:   "parity [flags] [PACK...]",
		Short: "Make damaged and lost files again from parity",
		Long: `Parity reads everything that has parity, or only the named packs and what stands
with them, and makes damaged and lost files again, bit for bit. It also mends
keys and config of a repository that cannot be opened any more. What was damaged
is kept beside the repository, under kassett/salvage. What is damaged beyond its
parity is named and left as it is.`,
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.repairParity(cmd.Context(), o, given)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Gone, "gone", false, "also bring back index files, snapshots and keys that are gone; some may have been removed on purpose")
	f.BoolVarP(&o.DryRun, "dry-run", "n", false, "tell what could be repaired, change nothing")
	return cmd
}

func (a *app) repairParity(ctx context.Context, o parity.RepairOptions, packs []string) error {
	// What opens the repository comes first, and is not behind its own door.
	first, err := a.repairDoor(ctx, o)
	if err != nil {
		return err
	}
	return a.within(ctx, tendingAlone.unless(o.DryRun), func(ctx context.Context, r *repo.Repository) error {
		overhead, _, err := r.Parity(ctx)
		if err != nil {
			return err
		}
		for _, s := range packs {
			id, err := kassett.ParseID(s)
			if err != nil {
				return invalid("repair parity", terminal.Safe(s), "give the whole IDs of packs, as kassett check names them", err)
			}
			o.Only = append(o.Only, kassett.Handle{Kind: kassett.PackFile, ID: id})
		}
		p := new(kassett.Progress)
		k, err := r.ParityKeeper(parity.Options{Overhead: overhead, Progress: p, Warn: a.warn})
		if err != nil {
			return err
		}
		stop := a.watch(p)
		st, err := k.Repair(ctx, o, func(out parity.Outcome) { a.parityOutcome(out, o.DryRun) })
		stop()
		st.Damaged, st.Repaired = st.Damaged+first.Repaired, st.Repaired+first.Repaired
		err = errors.Join(a.parityRepaired(st, o.DryRun), err)
		if err == nil && !o.DryRun && overhead > 0 && (st.ParityLost > 0 || st.Repaired > 0) {
			err = a.parityUpdate(ctx, r, false)
		}
		return err
	})
}

// repairDoor mends keys and config, for which no password is needed.
func (a *app) repairDoor(ctx context.Context, o parity.RepairOptions) (parity.RepairStats, error) {
	where, err := a.location(a.flags.where)
	if err != nil {
		return parity.RepairStats{}, err
	}
	st, err := a.openStorage(ctx, where, mustExist)
	if err != nil {
		return parity.RepairStats{}, err
	}
	k, err := parity.New(st, parity.Options{Warn: func(string, error) {}}) // they are named when all is looked at
	if err != nil {
		return parity.RepairStats{}, errors.Join(err, closeStorage(st))
	}
	o.Door = true
	stats, err := k.Repair(ctx, o, func(out parity.Outcome) { a.parityOutcome(out, o.DryRun) })
	return stats, errors.Join(err, closeStorage(st))
}

func (a *app) parityOutcome(out parity.Outcome, dryRun bool) {
	if out.Err != nil {
		a.warn(out.What, &kassett.Error{Kind: kassett.KindOf(out.Err), Err: errors.Join(out.Fault, out.Err), Hint: kassett.HintOf(out.Err)})
		return
	}
	if a.flags.json || a.flags.quiet {
		return
	}
	switch {
	case out.Kind == 0 && dryRun:
		a.ui.Say("%s: %s; it would be made anew", out.What, terminal.Safe(out.Fault.Error()))
	case out.Kind == 0:
		a.ui.Say("%s: %s; removed, to be made anew", out.What, terminal.Safe(out.Fault.Error()))
	case dryRun:
		a.ui.Say("%s: %s; parity can repair it", out.What, terminal.Safe(out.Fault.Error()))
	case out.Aside != "":
		a.ui.Say("%s: %s; repaired (the damaged bytes are in kassett/%s)", out.What, terminal.Safe(out.Fault.Error()), out.Aside)
	default:
		a.ui.Say("%s: %s; repaired", out.What, terminal.Safe(out.Fault.Error()))
	}
}

func (a *app) parityRepaired(st parity.RepairStats, dryRun bool) error {
	if a.flags.json {
		return a.json(struct {
			MessageType string `json:"message_type"`
			DryRun      bool   `json:"dry_run,omitempty"`
			parity.RepairStats
		}{"summary", dryRun, st})
	}
	return a.summary("%s with %s read; %s damaged or missing, %s repaired\n", terminal.Plural(st.Read, "file", "files"), terminal.Bytes(st.Bytes),
		terminal.Count(st.Damaged), terminal.Count(st.Repaired))
}

// parityFirst makes packs again from parity, as far as it can, and returns the
// others: what is saved out of a damaged pack is always less.
func (a *app) parityFirst(ctx context.Context, r *repo.Repository, packs []kassett.ID) ([]kassett.ID, error) {
	if _, ok := kassett.As[kassett.Beside](r.Storage()); !ok {
		return packs, nil
	}
	p := new(kassett.Progress)
	k, err := r.ParityKeeper(parity.Options{Progress: p, Warn: a.warn})
	if err != nil {
		return nil, err
	}
	o := parity.RepairOptions{Only: make([]kassett.Handle, len(packs))}
	for i, id := range packs {
		o.Only[i] = kassett.Handle{Kind: kassett.PackFile, ID: id}
	}
	stop := a.watch(p)
	_, err = k.Repair(ctx, o, func(out parity.Outcome) {
		a.parityOutcome(out, false)
		if out.Err == nil && out.Kind == kassett.PackFile {
			packs = slices.DeleteFunc(packs, func(id kassett.ID) bool { return id == out.ID })
		}
	})
	stop()
	if kassett.KindOf(err) == kassett.Corrupt {
		err = nil // they are taken apart instead
	}
	return packs, err
}
