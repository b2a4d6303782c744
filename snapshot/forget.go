package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kassett"
)

// Policy says which snapshots of one group are kept. Counts of -1 keep without
// limit, 0 is no rule. The rules are restic's.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	// Within keeps what is no older than this, before the youngest snapshot
	// that is not in the future; the others keep one an hour, a day ... of that.
	Within, WithinHourly, WithinDaily, WithinWeekly, WithinMonthly, WithinYearly kassett.Age

	Tags []TagList // keep what has all tags of any of the lists
}

// Empty reports whether the policy has no rule at all.
func (p Policy) Empty() bool {
	for _, b := range p.buckets() {
		if b.count != 0 || b.within != (kassett.Age{}) {
			return false
		}
	}
	return p.Within == (kassett.Age{}) && len(p.Tags) == 0
}

// Check returns an [kassett.Invalid] error for a policy that makes no sense.
func (p Policy) Check() error {
	for _, b := range p.buckets() {
		if b.count < -1 || negative(b.within) {
			return badPolicy("the rule for " + b.name + " snapshots is negative")
		}
	}
	if negative(p.Within) {
		return badPolicy("the rule for snapshots within a duration is negative")
	}
	return nil
}

func negative(a kassett.Age) bool { return min(a.Years, a.Months, a.Days, a.Hours) < 0 }

func badPolicy(why string) error {
	return &kassett.Error{
		Op: "forget", Kind: kassett.Invalid, Err: errors.New(why),
		Hint: "give counts of 0 or more, -1 or unlimited for all, and durations like 1y5m7d2h",
	}
}

// bucket is one rule that keeps the youngest snapshot of each span of time.
type bucket struct {
	name   string
	count  int         // how many are still to be kept; -1 is all
	within kassett.Age // or: keep those of this span
	number func(t time.Time, nr int) int
	last   int // number of the span that was kept last
}

// buckets returns the rules in the order in which restic tells their reasons.
func (p Policy) buckets() []bucket {
	each := func(_ time.Time, nr int) int { return nr }
	return []bucket{
		{name: "last", count: p.Last, number: each, last: -1},
		{name: "hourly", count: p.Hourly, number: hourOf, last: -1},
		{name: "daily", count: p.Daily, number: dayOf, last: -1},
		{name: "weekly", count: p.Weekly, number: weekOf, last: -1},
		{name: "monthly", count: p.Monthly, number: monthOf, last: -1},
		{name: "yearly", count: p.Yearly, number: yearOf, last: -1},
		{name: "hourly", within: p.WithinHourly, number: hourOf, last: -1},
		{name: "daily", within: p.WithinDaily, number: dayOf, last: -1},
		{name: "weekly", within: p.WithinWeekly, number: weekOf, last: -1},
		{name: "monthly", within: p.WithinMonthly, number: monthOf, last: -1},
		{name: "yearly", within: p.WithinYearly, number: yearOf, last: -1},
	}
}

func yearOf(t time.Time, _ int) int  { return t.Year() }
func monthOf(t time.Time, _ int) int { return t.Year()*100 + int(t.Month()) }
func dayOf(t time.Time, nr int) int  { return monthOf(t, nr)*100 + t.Day() }
func hourOf(t time.Time, nr int) int { return dayOf(t, nr)*100 + t.Hour() }
func weekOf(t time.Time, _ int) int  { year, week := t.ISOWeek(); return year*100 + week }
func before(t time.Time, a kassett.Age) time.Time {
	return t.AddDate(-a.Years, -a.Months, -a.Days).Add(-time.Duration(a.Hours) * time.Hour)
}

// Decision is what a policy says of one snapshot.
type Decision struct {
	Snapshot *Snapshot
	Keep     bool
	Reasons  []string // why it is kept, in restic's words
	// Guarded is set when no rule keeps the snapshot, but a guard does: why,
	// and what would lift it. It is of the kind [kassett.Held].
	Guarded error
}

// Apply decides about the snapshots of one group, youngest first. A snapshot
// that is dated after now falls into the hour, day ... of now, and is no start
// for what is kept within a duration.
//
// Where the storage knows when it received the snapshots, the rules are asked a
// second time, with [Snapshot.countedAt] in place of the snapshots' own word, and
// a third time without those that are [Snapshot.Odd]. What any answer keeps is
// kept. So snapshots with made-up times displace no others; and where the
// receive times are the odd ones, as in a copy, what the snapshots' own times ask
// for stays as well.
func (p Policy) Apply(list []*Snapshot, now time.Time) []Decision {
	decisions := p.apply(list, now, func(s *Snapshot) time.Time { return s.Time })
	if !slices.ContainsFunc(list, func(s *Snapshot) bool { return !s.Received.IsZero() }) {
		return decisions
	}
	counted := func(s *Snapshot) time.Time { return s.countedAt().In(now.Location()) }
	also(decisions, p.apply(list, now, counted), ", by the time it was received")
	plain := slices.DeleteFunc(slices.Clone(list), (*Snapshot).Odd)
	if len(plain) < len(list) {
		also(decisions, p.apply(plain, now, counted), ", leaving out those with odd times")
	}
	return decisions
}

// also keeps what another answer of the rules keeps, for its reasons and how
// they were found.
func also(decisions, other []Decision, how string) {
	reasons := make(map[*Snapshot][]string, len(other))
	for _, d := range other {
		reasons[d.Snapshot] = d.Reasons
	}
	for i := range decisions {
		d := &decisions[i]
		if d.Keep {
			continue
		}
		for _, why := range reasons[d.Snapshot] {
			d.Keep, d.Reasons = true, append(d.Reasons, why+how)
		}
	}
}

// apply is one pass of the rules, with the times that at gives.
func (p Policy) apply(list []*Snapshot, now time.Time, at func(*Snapshot) time.Time) []Decision {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b *Snapshot) int {
		return cmp.Or(at(b).Compare(at(a)), b.ID.Compare(a.ID))
	})
	latest := time.Time{}
	for _, s := range list {
		if t := at(s); t.After(latest) && t.Before(now) {
			latest = t
		}
	}
	rules := p.buckets()
	decisions := make([]Decision, len(list))
	for nr, s := range list {
		d := Decision{Snapshot: s}
		for _, l := range p.Tags {
			if s.hasTags(l) {
				d.Reasons = append(d.Reasons, "has tags ["+strings.Join(l, ", ")+"]")
			}
		}
		t := at(s)
		if p.Within != (kassett.Age{}) && t.After(before(latest, p.Within)) {
			d.Reasons = append(d.Reasons, "within "+p.Within.String())
		}
		if t.After(now) {
			t = now.In(t.Location())
		}
		for i := range rules {
			if why := rules[i].keep(t, latest, nr, nr == len(list)-1); why != "" {
				d.Reasons = append(d.Reasons, why)
			}
		}
		d.Keep = len(d.Reasons) > 0
		decisions[nr] = d
	}
	return decisions
}

// keep says why the rule keeps the nr-th snapshot, or "". The oldest one is
// kept by each rule that has a count left, so that the history reaches as far
// back as it can.
func (b *bucket) keep(t, latest time.Time, nr int, oldest bool) string {
	timed := b.within != (kassett.Age{})
	if timed && !t.After(before(latest, b.within)) || !timed && b.count == 0 {
		return ""
	}
	number := b.number(t, nr)
	again := number == b.last
	if again && !oldest {
		return ""
	}
	b.last = number
	if b.count > 0 {
		b.count--
	}
	why := b.name + " snapshot"
	if timed {
		why = b.name + " within"
	}
	if again {
		why = "oldest " + why
	}
	if timed {
		why += " " + b.within.String()
	}
	return why
}

// GroupKey is what the snapshots of a group have in common; what they were not
// grouped by is empty.
type GroupKey struct {
	Hostname string   `json:"hostname"`
	Paths    []string `json:"paths"`
	Tags     []string `json:"tags"`
}

// String names the group for people.
func (k GroupKey) String() string {
	var parts []string
	if k.Hostname != "" {
		parts = append(parts, "host "+k.Hostname)
	}
	if len(k.Paths) > 0 {
		parts = append(parts, "paths "+strings.Join(k.Paths, ", "))
	}
	if len(k.Tags) > 0 {
		parts = append(parts, "tags "+strings.Join(k.Tags, ", "))
	}
	if len(parts) == 0 {
		return "all snapshots"
	}
	return strings.Join(parts, ", ")
}

// key returns the group that s belongs to. Paths and tags are sorted.
func (by GroupBy) key(s *Snapshot) GroupKey {
	var k GroupKey
	if by.Host {
		k.Hostname = s.Hostname
	}
	if by.Paths {
		k.Paths = slices.Sorted(slices.Values(s.Paths))
	}
	if by.Tags {
		k.Tags = slices.Sorted(slices.Values(s.UserTags()))
	}
	return k
}

// id is equal for equal keys only.
func (k GroupKey) id() string { return fmt.Sprintf("%q%q%q", k.Hostname, k.Paths, k.Tags) }

// Group is the snapshots of one source, oldest first.
type Group struct {
	Key       GroupKey
	Snapshots []*Snapshot
}

// Groups puts snapshots into groups, sorted by host, paths and tags.
func Groups(list []*Snapshot, by GroupBy) []Group {
	var groups []Group
	at := map[string]int{}
	for _, s := range list {
		k := by.key(s)
		i, ok := at[k.id()]
		if !ok {
			i = len(groups)
			at[k.id()] = i
			groups = append(groups, Group{Key: k})
		}
		groups[i].Snapshots = append(groups[i].Snapshots, s)
	}
	for _, g := range groups {
		sortByTime(g.Snapshots)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.Key.Hostname, b.Key.Hostname),
			slices.Compare(a.Key.Paths, b.Key.Paths), slices.Compare(a.Key.Tags, b.Key.Tags))
	})
	return groups
}
