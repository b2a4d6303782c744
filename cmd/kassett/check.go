package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) checkCommand() *cobra.Command {
	var (
		readData bool
		subset   string
		filter   filterFlags
	)
	cmd := &cobra.Command{
		Use:   "check [flags] [ID...]",
		Short: "Prove that what is kept is whole",
		Long: `Check compares everything the repository says of itself: that every pack is
there with the right size, that the index and the packs agree, that every
snapshot's folders and files lead to pieces that are there and sum up to the
right size.

With --read-data every stored byte is read, opened and hashed again. On a large
repository a part may do each time: --read-data-subset 1/30 on the first of the
month, 2/30 on the second; or 5%, or 50G, chosen at random.

It trusts no cache. What is damaged is named, and the exit code is 4.`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			data := repo.Subset{}
			switch {
			case readData && subset != "":
				return invalid("check", "", "give only one of --read-data and --read-data-subset", errors.New("both are named"))
			case readData:
				data = repo.Subset{All: true}
			case subset != "":
				var err error
				if data, err = repo.ParseSubset(subset); err != nil {
					return err
				}
			}
			a.flags.noCache = true
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.check(ctx, r, data, filter.filter(), ids)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&readData, "read-data", false, "read every stored byte")
	f.StringVar(&subset, "read-data-subset", "", "read a `part`: n/m, a percentage or a size")
	filter.register(f, "H")
	return cmd
}

// checkResult is the summary of a check as JSON.
type checkResult struct {
	MessageType string   `json:"message_type"` // "summary"
	Errors      int      `json:"num_errors"`
	BrokenPacks []string `json:"broken_packs"`
	RepairIndex bool     `json:"suggest_repair_index"`
	Prune       bool     `json:"suggest_prune"`
	ReadData    string   `json:"read_data"` // the subset that was read, "none" or "all"

	leftoverHints []string         // worth telling beside damage: they may explain it
	damaged       []kassett.Handle // files that may have parity
	parity        bool             // repairs all of them
}

func (a *app) check(ctx context.Context, r *repo.Repository, data repo.Subset, f snapshot.Filter, ids []string) error {
	res := checkResult{MessageType: "summary", BrokenPacks: []string{}, ReadData: data.String()}
	p := new(kassett.Progress)
	stop := a.watch(p)
	defer stop()
	report := func(found repo.Finding) { a.finding(found, &res) }

	damage := r.Check(ctx, repo.CheckOptions{ReadData: data, Progress: p}, report)
	if damage != nil && kassett.KindOf(damage) != kassett.Corrupt {
		return damage
	}
	// Before the index is read: others may back up meanwhile, and what a
	// snapshot needs is in the index before the snapshot is there.
	list, unread := snapshot.FindAll(ctx, r, f, ids)
	if list == nil {
		list = []*snapshot.Snapshot{} // not those that have come since
	}
	p.Enter("read index")
	err := r.LoadIndex(ctx, p)
	if err != nil && kassett.KindOf(err) != kassett.Corrupt {
		return err
	}
	if unread == nil || kassett.KindOf(unread) == kassett.Corrupt {
		p.Enter("check trees")
		_, treeDamage := snapshot.Check(ctx, r, snapshot.CheckOptions{Snapshots: list, Progress: p}, report)
		unread = errors.Join(unread, treeDamage)
	}
	damage = errors.Join(damage, err, unread, a.checkParity(ctx, r, data.All, &res))
	stop()
	if damage != nil && kassett.KindOf(damage) != kassett.Corrupt {
		return damage
	}
	if damage != nil && res.Errors > 0 {
		for _, hint := range res.leftoverHints {
			a.notice("", errors.New(hint))
		}
		damage = &kassett.Error{
			Op: "check repository", Kind: kassett.Corrupt, Hint: a.afterCheck(res),
			Err: errors.New(terminal.Plural(res.Errors, "fault was", "faults were") + " found and named"),
		}
	}
	if a.flags.json {
		return errors.Join(a.json(res), damage)
	}
	if damage != nil {
		return damage
	}
	read := "no stored data was read; --read-data does"
	if !data.None() {
		read = "read and opened: " + subsetText(data)
	}
	return a.summary("no faults found: %s, index and packs agree (%s)\n", terminal.Plural(len(list), "snapshot", "snapshots"), read)
}

// subsetText says which packs were read.
func subsetText(s repo.Subset) string {
	switch {
	case s.All:
		return "every stored byte"
	case s.Parts > 0:
		return fmt.Sprintf("part %d of %d", s.Part, s.Parts)
	case s.Percent > 0:
		return fmt.Sprintf("%g %% chosen at random; the same again with --read-data-subset %s", s.Percent, s)
	}
	return fmt.Sprintf("%s chosen at random; the same again with --read-data-subset %s", terminal.Bytes(s.Bytes), s)
}

// finding names one thing that a check found.
func (a *app) finding(f repo.Finding, res *checkResult) {
	bad := f.Kind == repo.Damage || f.Kind == repo.Missing
	if bad {
		res.Errors++
		if id, ok := strings.CutPrefix(f.What, "pack "); ok && len(id) == 64 {
			if !slices.Contains(res.BrokenPacks, id) {
				res.BrokenPacks = append(res.BrokenPacks, id)
			}
		} else {
			res.RepairIndex = res.RepairIndex || strings.HasPrefix(f.What, "index")
		}
	}
	if h, ok := damagedFile(f.What); bad && ok && !slices.Contains(res.damaged, h) {
		res.damaged = append(res.damaged, h)
	}
	if f.Kind == repo.Leftover {
		res.Prune = true
		if f.Hint != "" && !slices.Contains(res.leftoverHints, f.Hint) {
			res.leftoverHints = append(res.leftoverHints, f.Hint)
		}
	}
	a.tellFinding(f, bad)
}

// tellFinding prints a finding, harmless ones only when more is wanted.
func (a *app) tellFinding(f repo.Finding, bad bool) {
	err := f.Err
	if err == nil {
		err = errors.New(string(f.Kind))
	}
	if bad {
		a.warn(f.What, &kassett.Error{Hint: f.Hint, Err: err})
		return
	}
	if a.flags.verbose > 0 {
		a.notice(f.What, err)
	}
}

// afterCheck is what to do about damage.
func (a *app) afterCheck(res checkResult) string {
	switch {
	case res.parity:
		return "parity can repair all of these files: copy the repository first, then run kassett repair parity, and check again"
	case len(res.BrokenPacks) > 0:
		return "copy the repository first; then kassett repair packs " + strings.Join(res.BrokenPacks, " ") + " and kassett repair snapshots --forget, or restore from another copy"
	case res.RepairIndex:
		return "run kassett repair index"
	}
	return "follow what was named above, beginning with the first"
}
