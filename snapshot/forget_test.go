package snapshot_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo/record"
	"kassett/snapshot"
)

// policyFlags writes a policy as restic's flags.
func policyFlags(p snapshot.Policy) (flags []string) {
	add := func(name, value string) { flags = append(flags, "--keep-"+name+"="+value) }
	for _, c := range []struct {
		name string
		n    int
	}{{"last", p.Last}, {"hourly", p.Hourly}, {"daily", p.Daily}, {"weekly", p.Weekly}, {"monthly", p.Monthly}, {"yearly", p.Yearly}} {
		if c.n != 0 {
			add(c.name, strconv.Itoa(c.n))
		}
	}
	for _, w := range []struct {
		name string
		age  kassett.Age
	}{
		{"within", p.Within},
		{"within-hourly", p.WithinHourly},
		{"within-daily", p.WithinDaily},
		{"within-weekly", p.WithinWeekly},
		{"within-monthly", p.WithinMonthly},
		{"within-yearly", p.WithinYearly},
	} {
		if w.age != (kassett.Age{}) {
			add(w.name, w.age.String())
		}
	}
	for _, l := range p.Tags {
		add("tag", strings.Join(l, ","))
	}
	return flags
}

// genPolicy draws a policy that has at least one rule.
func genPolicy(t *rapid.T) snapshot.Policy {
	count := func(name string) int {
		if !rapid.Bool().Draw(t, name+"?") {
			return 0
		}
		return rapid.IntRange(1, 6).Draw(t, name)
	}
	age := func(name string) kassett.Age {
		if rapid.IntRange(0, 3).Draw(t, name+"?") > 0 {
			return kassett.Age{}
		}
		n := func(unit string, most int) int { return rapid.IntRange(0, most).Draw(t, name+unit) }
		return kassett.Age{Years: n("y", 2), Months: n("m", 14), Days: n("d", 40), Hours: n("h", 30)}
	}
	p := snapshot.Policy{
		Last: count("last"), Hourly: count("hourly"), Daily: count("daily"),
		Weekly: count("weekly"), Monthly: count("monthly"), Yearly: count("yearly"),
		Within: age("within"), WithinHourly: age("within hourly"), WithinDaily: age("within daily"),
		WithinWeekly: age("within weekly"), WithinMonthly: age("within monthly"), WithinYearly: age("within yearly"),
	}
	if rapid.IntRange(0, 3).Draw(t, "tags?") == 0 {
		p.Tags = append(p.Tags, snapshot.TagList{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tag")})
	}
	if p.Empty() {
		p.Last = 1
	}
	return p
}

// TestForgetAsRestic makes a repository of many snapshots once, and asks both
// programs what policies would keep. Where the peer would remove a last good
// snapshot, or falls back to the newest rules of later versions, our own rules
// are written down in TestPolicyTable.
func TestForgetAsRestic(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	tree := treeOf(t, r)
	rnd := uint64(1)
	next := func(n uint64) int64 {
		rnd = rnd*6364136223846793005 + 1442695040888963407
		return int64(rnd >> 33 % n)
	}
	at := time.Date(2019, 12, 30, 22, 0, 0, 0, time.UTC)
	zones := []*time.Location{time.UTC, time.FixedZone("", 3600), time.FixedZone("", -5*3600)}
	for i := range 150 {
		at = at.Add(time.Duration(next([]uint64{1800, 7200, 90_000, 1_000_000}[next(4)])+1) * time.Second)
		s := &snapshot.Snapshot{Time: at.In(zones[next(3)]), Tree: tree, Hostname: []string{"h", "g"}[next(2)], Paths: []string{"/p"}}
		if i%7 == 0 {
			s.Tags = []string{"a"}
		}
		if i%11 == 0 {
			s.Tags = append(s.Tags, "b")
		}
		_, err := snapshot.Save(t.Context(), r, s)
		must(t, err)
	}
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	checkSome(t, 12, func(rt *rapid.T) {
		p := genPolicy(rt)
		by := snapshot.GroupBy{Host: rapid.Bool().Draw(rt, "by host"), Paths: true}
		group := "paths"
		if by.Host {
			group = "host,paths"
		}
		out := restic(t, dir, append([]string{"forget", "--dry-run", "--json", "--no-lock", "--group-by", group}, policyFlags(p)...)...)
		var groups []struct {
			Keep []struct{ ID string }
		}
		line, _, _ := strings.Cut(out, "\n")
		if err := json.Unmarshal([]byte(line), &groups); err != nil {
			rt.Fatal(err, out)
		}
		var want, got []string
		for _, g := range groups {
			for _, s := range g.Keep {
				want = append(want, s.ID)
			}
		}
		for _, g := range snapshot.Groups(list, by) {
			for _, d := range p.Apply(g.Snapshots, time.Now()) {
				// That a count reaches for the oldest is newer than Debian's restic.
				if d.Keep && !onlyOldest(d.Reasons) {
					got = append(got, d.Snapshot.ID.String())
				}
			}
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			rt.Errorf("%v: keep %d, restic %d", policyFlags(p), len(got), len(want))
		}
	})
}

// onlyOldest reports whether a snapshot is kept for nothing but being the oldest.
func onlyOldest(reasons []string) bool {
	return !slices.ContainsFunc(reasons, func(why string) bool { return !strings.HasPrefix(why, "oldest ") })
}

// days returns one snapshot a day at noon, the last one on 2026-03-01.
func days(n int) (list []*snapshot.Snapshot) {
	for i := range n {
		list = append(list, &snapshot.Snapshot{
			ID:   kassett.Hash([]byte{byte(i), byte(i >> 8)}),
			Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).AddDate(0, 0, i+1-n), Hostname: "h", Paths: []string{"/p"},
		})
	}
	return list
}

func TestPolicyTable(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	future := append(days(3),
		&snapshot.Snapshot{Time: now.AddDate(5, 0, 0)}, &snapshot.Snapshot{Time: now.AddDate(5, 0, 1)})
	tests := []struct {
		name   string
		policy snapshot.Policy
		list   []*snapshot.Snapshot
		want   []string // kept, youngest first: days before 2026-03-01 and the reasons
	}{
		{"last", snapshot.Policy{Last: 2}, days(4), []string{"0 last snapshot", "1 last snapshot"}},
		{"all", snapshot.Policy{Last: -1}, days(2), []string{"0 last snapshot", "1 last snapshot"}},
		{"the oldest fills a count", snapshot.Policy{Yearly: 3}, days(3), []string{"0 yearly snapshot", "2 oldest yearly snapshot"}},
		{
			"month and day",
			snapshot.Policy{Daily: 1, Monthly: 2},
			days(40),
			[]string{"0 daily snapshot, monthly snapshot", "1 monthly snapshot"},
		},
		{"within", snapshot.Policy{Within: kassett.Age{Days: 2}}, days(5), []string{"0 within 2d", "1 within 2d"}},
		{
			"within, one a week",
			snapshot.Policy{WithinWeekly: kassett.Age{Days: 14}},
			days(30),
			[]string{"0 weekly within 14d", "7 weekly within 14d"},
		},
		{
			"the future is now and starts nothing",
			snapshot.Policy{Daily: 2, Within: kassett.Age{Hours: 25}},
			future,
			[]string{
				"-1828 within 25h, daily snapshot", "-1827 within 25h", "0 within 25h, daily snapshot", "1 within 25h",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, d := range tt.policy.Apply(tt.list, now) {
				if d.Keep {
					age := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Sub(d.Snapshot.Time).Round(24*time.Hour) / (24 * time.Hour)
					got = append(got, fmt.Sprintf("%d %s", age, strings.Join(d.Reasons, ", ")))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestForgetIsGuarded(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	tree := treeOf(t, r)
	now := time.Now().Truncate(time.Second)
	save := func(s snapshot.Snapshot, daysAgo int) *snapshot.Snapshot {
		s.Tree, s.Time = tree, now.AddDate(0, 0, -daysAgo)
		if s.Paths == nil {
			s.Paths = []string{"/p"}
		}
		_, err := snapshot.Save(t.Context(), r, &s)
		must(t, err)
		return &s
	}
	old := save(snapshot.Snapshot{Hostname: "h"}, 30)
	floored := save(snapshot.Snapshot{Hostname: "h"}, 5)
	held := save(snapshot.Snapshot{Hostname: "h", Tags: []string{"trial"}}, 20)
	last := save(snapshot.Snapshot{Hostname: "h"}, 1)
	half := save(snapshot.Snapshot{Hostname: "h", Tags: []string{snapshot.TagIncomplete}}, 0)
	other := save(snapshot.Snapshot{Hostname: "g"}, 90)
	retired := save(snapshot.Snapshot{Hostname: "gone"}, 90)
	backdated := save(snapshot.Snapshot{Hostname: "h", Summary: &snapshot.Summary{BackupEnd: now}}, 4000)
	add := func(rec record.Record) kassett.ID {
		rec.Created, rec.Reason, rec.By = now, "test", []string{"Kari Nordmann"}
		id, err := r.Records().Add(t.Context(), rec)
		must(t, err)
		return id
	}
	add(record.Record{Kind: record.Floor, Subject: record.Subject{Host: "h"}, Keep: kassett.Age{Days: 10}})
	hold := add(record.Record{Kind: record.Hold, Subject: record.Subject{Tags: []string{"trial"}}})
	add(record.Record{Kind: record.Retire, Subject: record.Subject{Host: "gone"}})

	plan := func(ids ...*snapshot.Snapshot) error {
		o := snapshot.ForgetOptions{}
		for _, s := range ids {
			o.IDs = append(o.IDs, s.ID.String())
		}
		_, err := snapshot.PlanForget(t.Context(), r, o)
		return err
	}
	for name, s := range map[string]*snapshot.Snapshot{"floor": floored, "hold": held, "last": last, "only": other, "backdated": backdated, "incomplete": half} {
		if err := plan(old, s); kassett.KindOf(err) != kassett.Held || !strings.Contains(err.Error(), s.ID.Short()) || kassett.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, kassett.HintOf(err))
		}
	}
	must(t, plan(old, retired))

	// A policy is told, not refused.
	p, err := snapshot.PlanForget(t.Context(), r, snapshot.ForgetOptions{
		Filter: snapshot.Filter{Hosts: []string{"h"}}, Group: snapshot.GroupBy{Host: true}, Policy: snapshot.Policy{Last: 1},
	})
	must(t, err)
	removals := p.Removals()
	if len(removals) != 1 || removals[0].ID != old.ID {
		t.Errorf("would remove %d snapshots", len(removals))
	}
	guarded := 0
	for _, d := range p.Groups[0].Decisions {
		if d.Guarded != nil {
			guarded++
		}
	}
	if guarded != 4 {
		t.Errorf("%d are told to be guarded, want 4", guarded)
	}

	// Nothing escapes a hold by another tag.
	err = snapshot.Tag(t.Context(), r, []*snapshot.Snapshot{held}, snapshot.TagChange{Remove: []string{"trial"}}, nil)
	if kassett.KindOf(err) != kassett.Held {
		t.Errorf("removing the tag of a hold: %v", err)
	}
	must(t, snapshot.Tag(t.Context(), r, []*snapshot.Snapshot{held}, snapshot.TagChange{Add: []string{"more"}}, nil))
	_, err = r.Records().Add(t.Context(), record.Record{
		Kind: record.Lift, Lifts: hold, Created: now, Reason: "test", By: []string{"Kari Nordmann", "Ola Nordmann"},
	})
	must(t, err)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{Tags: []snapshot.TagList{{"trial", "more"}}})
	must(t, err)
	must(t, plan(list...))
	removed, err := p.Remove(t.Context(), r, nil)
	must(t, err)
	if len(removed) != 1 || removed[0] != old.ID {
		t.Errorf("removed %v", removed)
	}
}

func TestLastGoodSnapshotStays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	retired := []record.Record{{Kind: record.Retire, Subject: record.Subject{Host: "h"}, Created: now}}
	tests := []struct {
		name    string
		bad     []int // incomplete ones, of four days
		going   []int
		records []record.Record
		refused []int
	}{
		{name: "the youngest may go while another stays", going: []int{3}},
		{name: "all but one may go", going: []int{1, 2, 3}},
		{name: "not all", going: []int{0, 1, 2, 3}, refused: []int{3}},
		{name: "the youngest good one stays", bad: []int{2, 3}, going: []int{0, 1, 2, 3}, refused: []int{1}},
		{name: "a bad one does not stand in", bad: []int{3}, going: []int{0, 1, 2}, refused: []int{2}},
		{name: "bad ones may go", bad: []int{1, 3}, going: []int{1, 3}},
		{name: "a bad one is better than none", bad: []int{0, 1, 2, 3}, going: []int{0, 1, 2, 3}, refused: []int{3}},
		{name: "a source that is signed off", going: []int{0, 1, 2, 3}, records: retired},
		{
			name: "and used again", going: []int{0, 1, 2, 3}, refused: []int{3},
			records: []record.Record{{Kind: record.Retire, Subject: record.Subject{Host: "h"}, Created: now.AddDate(0, 0, -2)}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list := days(4)
			for _, i := range tt.bad {
				list[i].Tags = []string{snapshot.TagIncomplete}
			}
			other := &snapshot.Snapshot{ID: kassett.Hash(nil), Time: now, Hostname: "g", Paths: []string{"/p"}}
			var going []*snapshot.Snapshot
			for _, i := range tt.going {
				going = append(going, list[i])
			}
			refused := snapshot.NewGuard(tt.records, append(list, other), now).Removals(going)
			for i, s := range list {
				err := refused[s.ID]
				if (err != nil) != slices.Contains(tt.refused, i) || err != nil && kassett.KindOf(err) != kassett.Held {
					t.Errorf("day %d: %v", i, err)
				}
			}
		})
	}
}

func TestForgetRefuses(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	_, err := snapshot.Save(t.Context(), r, &snapshot.Snapshot{Time: time.Now(), Tree: treeOf(t, r), Hostname: "h", Paths: []string{"/p"}})
	must(t, err)
	for name, o := range map[string]snapshot.ForgetOptions{
		"no policy":        {},
		"all of all":       {AllowRemoveAll: true},
		"negative":         {Policy: snapshot.Policy{Last: -2}},
		"negative within":  {Policy: snapshot.Policy{Within: kassett.Age{Days: -1}}},
		"nothing would be": {Policy: snapshot.Policy{Tags: []snapshot.TagList{{"none"}}}},
	} {
		if _, err := snapshot.PlanForget(t.Context(), r, o); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
