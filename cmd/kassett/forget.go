package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

// countFlag is a number of snapshots to keep; -1 or "unlimited" is all.
type countFlag int

func (c *countFlag) String() string { return strconv.Itoa(int(*c)) }

// Set implements [pflag.Value].
func (c *countFlag) Set(s string) error {
	if s == "unlimited" {
		*c = -1
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < -1 {
		return errors.New("want a number, or unlimited")
	}
	*c = countFlag(n)
	return nil
}

// Type implements [pflag.Value].
func (c *countFlag) Type() string { return "n" }

// ageFlag is a span of the calendar, such as 1y5m7d2h.
type ageFlag struct{ kassett.Age }

// Set implements [pflag.Value].
func (f *ageFlag) Set(s string) (err error) {
	f.Age, err = kassett.ParseAge(s)
	return err
}

// Type implements [pflag.Value].
func (f *ageFlag) Type() string { return "duration" }

// String implements [pflag.Value].
func (f *ageFlag) String() string {
	if f.Age == (kassett.Age{}) {
		return ""
	}
	return f.Age.String()
}

// keepFlags are the rules of forget.
type keepFlags struct {
	last, hourly, daily, weekly, monthly, yearly                                 countFlag
	within, withinHourly, withinDaily, withinWeekly, withinMonthly, withinYearly ageFlag
	tags                                                                         []string
}

func (k *keepFlags) register(f *pflag.FlagSet) {
	for _, c := range []struct {
		v           *countFlag
		name, short string
		what        string
	}{
		{&k.last, "keep-last", "l", "the last `n` snapshots"},
		{&k.hourly, "keep-hourly", "H", "the last of each of the last `n` hours with snapshots"},
		{&k.daily, "keep-daily", "d", "the last of each of the last `n` days with snapshots"},
		{&k.weekly, "keep-weekly", "w", "the last of each of the last `n` weeks with snapshots"},
		{&k.monthly, "keep-monthly", "m", "the last of each of the last `n` months with snapshots"},
		{&k.yearly, "keep-yearly", "y", "the last of each of the last `n` years with snapshots"},
	} {
		f.VarP(c.v, c.name, c.short, "keep "+c.what+"; unlimited for all")
		f.Lookup(c.name).DefValue = ""
	}
	for _, d := range []struct {
		v          *ageFlag
		name, what string
	}{
		{&k.within, "keep-within", "all"},
		{&k.withinHourly, "keep-within-hourly", "the last of each hour"},
		{&k.withinDaily, "keep-within-daily", "the last of each day"},
		{&k.withinWeekly, "keep-within-weekly", "the last of each week"},
		{&k.withinMonthly, "keep-within-monthly", "the last of each month"},
		{&k.withinYearly, "keep-within-yearly", "the last of each year"},
	} {
		f.Var(d.v, d.name, "keep "+d.what+" within this `duration` before the youngest, such as 1y5m7d2h")
	}
	f.StringArrayVar(&k.tags, "keep-tag", nil, "keep snapshots with all of these tags, `tag,tag` (may be given again)")
}

func (k *keepFlags) policy() snapshot.Policy {
	p := snapshot.Policy{
		Last: int(k.last), Hourly: int(k.hourly), Daily: int(k.daily), Weekly: int(k.weekly), Monthly: int(k.monthly), Yearly: int(k.yearly),
		Within: k.within.Age, WithinHourly: k.withinHourly.Age, WithinDaily: k.withinDaily.Age,
		WithinWeekly: k.withinWeekly.Age, WithinMonthly: k.withinMonthly.Age, WithinYearly: k.withinYearly.Age,
	}
	for _, t := range k.tags {
		p.Tags = append(p.Tags, snapshot.ParseTagList(t))
	}
	return p
}

func (a *app) forgetCommand() *cobra.Command {
	var (
		keep          keepFlags
		prune         pruneFlags
		filter        filterFlags
		group         string
		o             snapshot.ForgetOptions
		dryRun, after bool
	)
	cmd := &cobra.Command{
		Use:   "forget [flags] [ID...]",
		Short: "Remove snapshots that no rule keeps",
		Long: `Forget removes the snapshots named, or all that none of the keep rules keeps, in
each group by itself. What they held stays stored until kassett prune, or
--prune, removes it.

Nothing is removed below a floor or under a hold, nor the last good snapshot of
a source: it is named, with what would lift it.

Where the storage knows when it received the snapshots (a server of ours, S3),
a host cannot push good ones out by dating others as it likes: the rules are
asked with the snapshots' own times, then with the receive time of each that is
more than an hour off, then without those that are far off, and what any answer
keeps stays. Those far off are named. Floors count from the receive time. Rules
that only count, such as --keep-last, can be used up by whoever may add
snapshots with right times: keep by time as well.`,
		RunE: func(cmd *cobra.Command, ids []string) (err error) {
			o.Filter, o.IDs, o.Policy = filter.filter(), ids, keep.policy()
			if o.Group, err = snapshot.ParseGroupBy(group); err != nil {
				return err
			}
			if prune.options.DryRun = dryRun; after {
				if err := prune.read(a); err != nil {
					return err
				}
			}
			return a.within(cmd.Context(), unlocked, func(ctx context.Context, r *repo.Repository) error {
				removed := 0
				err := a.locked(ctx, r, forgetting.unless(dryRun), func(ctx context.Context, r *repo.Repository) (err error) {
					removed, err = a.forget(ctx, r, o, dryRun)
					return err
				})
				if err != nil || !after || dryRun || removed == 0 {
					return err
				}
				return a.prune(ctx, r, &prune)
			})
		},
	}
	f := cmd.Flags()
	keep.register(f)
	filter.register(f, "")
	f.StringVarP(&group, "group-by", "g", "host,paths", "apply the rules to each group of the same `host,paths,tags`")
	f.BoolVar(&o.AllowRemoveAll, "unsafe-allow-remove-all", false, "allow removing all that the flags choose")
	f.BoolVarP(&dryRun, "dry-run", "n", false, "tell what would be done, change nothing")
	f.BoolVar(&after, "prune", false, "prune afterwards, when something was removed")
	prune.register(f)
	return cmd
}

// forgetJSON is the plan for one group, with restic's names and ours.
type forgetJSON struct {
	Host    string         `json:"host"`
	Paths   []string       `json:"paths"`
	Tags    []string       `json:"tags"`
	Keep    []snapshotJSON `json:"keep"`
	Remove  []snapshotJSON `json:"remove"`
	Reasons []keptJSON     `json:"reasons"`
	Guarded []guardJSON    `json:"guarded,omitempty"` // kept though no rule keeps them
	Odd     []oddJSON      `json:"odd,omitempty"`     // received long after or before their own time
}

type oddJSON struct {
	Snapshot kassett.ID `json:"snapshot"`
	Time     time.Time  `json:"time"`
	Received time.Time  `json:"received"` // by the storage's clock
}

type keptJSON struct {
	Snapshot snapshotJSON `json:"snapshot"`
	Matches  []string     `json:"matches"`
}

type guardJSON struct {
	Snapshot kassett.ID `json:"snapshot"`
	Reason   string     `json:"reason"`
	Next     string     `json:"next,omitempty"`
}

// forget plans and removes, and returns how many snapshots went.
func (a *app) forget(ctx context.Context, r *repo.Repository, o snapshot.ForgetOptions, dryRun bool) (int, error) {
	plan, refused := snapshot.PlanForget(ctx, r, o)
	if plan == nil {
		return 0, refused
	}
	remove, told := a.tellPlan(plan, dryRun)
	if told != nil || refused != nil || dryRun || remove == 0 {
		return 0, errors.Join(told, refused)
	}
	p := new(kassett.Progress)
	stop := a.watch(p)
	gone, err := plan.Remove(ctx, r, p)
	stop()
	if !a.flags.json {
		err = errors.Join(a.summary("%s removed\n", terminal.Plural(len(gone), "snapshot", "snapshots")), a.putOffSummary(plan.PutOff), err)
	}
	return len(gone), err
}

// putOffSummary tells of snapshots that the storage does not let go of yet.
func (a *app) putOffSummary(list []snapshot.PutOff) error {
	if len(list) == 0 {
		return nil
	}
	var until time.Time
	for _, p := range list {
		if p.Until.After(until) {
			until = p.Until
		}
		if !a.flags.quiet {
			a.ui.Say("snapshot %s stays until %s: object lock", p.Snapshot.ID.Short(), terminal.Stamp(p.Until))
		}
	}
	return a.summary("%s at the latest until %s: object lock; the next kassett forget removes what it may\n",
		terminal.Plural(len(list), "snapshot stays", "snapshots stay"), terminal.Stamp(until))
}

// tellPlan prints a plan and returns how many snapshots it removes.
func (a *app) tellPlan(plan *snapshot.ForgetPlan, dryRun bool) (remove int, err error) {
	all := make([]forgetJSON, 0, len(plan.Groups))
	for _, g := range plan.Groups {
		j := forgetJSON{Host: g.Hostname, Paths: g.Paths, Tags: g.Tags, Keep: []snapshotJSON{}, Remove: []snapshotJSON{}, Reasons: []keptJSON{}}
		for _, d := range g.Decisions {
			if sn := d.Snapshot; sn.Odd() {
				j.Odd = append(j.Odd, oddJSON{sn.ID, sn.Time, sn.Received})
			}
			if !d.Keep {
				j.Remove = append(j.Remove, asJSON(d.Snapshot))
				continue
			}
			j.Keep = append(j.Keep, asJSON(d.Snapshot))
			j.Reasons = append(j.Reasons, keptJSON{asJSON(d.Snapshot), d.Reasons})
			if d.Guarded != nil {
				j.Guarded = append(j.Guarded, guardJSON{d.Snapshot.ID, d.Guarded.Error(), kassett.HintOf(d.Guarded)})
			}
		}
		remove += len(j.Remove)
		all = append(all, j)
	}
	a.warnOdd(all)
	if a.flags.json {
		return remove, a.json(all)
	}
	if a.flags.quiet {
		return remove, nil
	}
	for _, g := range plan.Groups {
		if err := a.forgetTable(g, dryRun); err != nil {
			return remove, err
		}
	}
	return remove, nil
}

// warnOdd names the snapshots that were received long after or before the time
// they carry.
func (a *app) warnOdd(groups []forgetJSON) {
	const most = 20 // of a thousand the first tell enough
	n := 0
	var names []string
	for _, g := range groups {
		for _, o := range g.Odd {
			if n++; n <= most {
				names = append(names, o.Snapshot.Short())
			}
		}
	}
	if n == 0 {
		return
	}
	list := strings.Join(names, ", ")
	if n > most {
		list += fmt.Sprintf(" and %d more (--json has all)", n-most)
	}
	a.warn("", &kassett.Error{
		Op:  "forget",
		Err: fmt.Errorf("%s a time that is far from when the storage received it: %s", terminal.Plural(n, "snapshot carries", "snapshots carry"), list),
		Hint: "copies, rewritten ones, long backups and `backup --time` do; if none of these was at work, someone made the times up: " +
			"look at the host, then remove them by their IDs. They push no others out: the rules were asked with both times and without them",
	})
}

func (a *app) forgetTable(g snapshot.ForgetGroup, dryRun bool) error {
	if err := a.print("%s\n", groupTitle(g.GroupKey)); err != nil {
		return err
	}
	gone := "remove"
	if dryRun {
		gone = "would remove"
	}
	t := &terminal.Table{Head: []string{"Decision", "ID", "Time", "Host", "Tags", "Paths", "Why"}}
	for _, d := range g.Decisions {
		decision, why := "keep", strings.Join(d.Reasons, "\n")
		switch {
		case d.Guarded != nil:
			why = kassett.HintOf(d.Guarded)
			why = strings.TrimRight(d.Guarded.Error()+"\n"+why, "\n")
			decision = "KEPT"
		case !d.Keep:
			decision, why = gone, "no rule keeps it"
		}
		sn := d.Snapshot
		if sn.Odd() {
			why += "\nreceived " + terminal.Stamp(sn.Received)
		}
		t.Add(decision, sn.ID.Short(), terminal.Stamp(sn.Time), sn.Hostname, strings.Join(sn.Tags, "\n"), strings.Join(sn.Paths, "\n"), why)
	}
	if err := t.Print(a.out); err != nil {
		return err
	}
	return a.print("\n")
}
