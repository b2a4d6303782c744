package snapshot_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo/record"
	"kassett/snapshot"
)

// noon is when forget runs in these tests, in a zone of its own.
var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.FixedZone("CET", 3600))

func dated(name string, own, received time.Time) *snapshot.Snapshot {
	return &snapshot.Snapshot{
		ID: kassett.Hash([]byte(name)), Time: own, Received: received,
		Hostname: "ward3", Paths: []string{"/data"},
	}
}

// nightly returns good snapshots of the last nights, the oldest first, each
// received some minutes after it was begun.
func nightly(nights int) (list []*snapshot.Snapshot) {
	for i := nights; i > 0; i-- {
		at := noon.AddDate(0, 0, -i).Add(10 * time.Hour) // 22:00 the evening before
		list = append(list, dated(fmt.Sprint("good ", i), at, at.Add(20*time.Minute)))
	}
	return list
}

func keptOf(decisions []snapshot.Decision) map[kassett.ID]bool {
	kept := map[kassett.ID]bool{}
	for _, d := range decisions {
		if d.Keep {
			kept[d.Snapshot.ID] = true
		}
	}
	return kept
}

// genTimed draws a policy without a rule that only counts snapshots: of those,
// whoever may write can write as many as it likes.
func genTimed(t *rapid.T) snapshot.Policy {
	p := genPolicy(t)
	if p.Last = 0; p.Empty() {
		p.Daily = 7
	}
	return p
}

// TestFakeTimes has a hostile writer add a thousand snapshots in one morning,
// dated as it likes and in any zone. Of the good ones stays at least what would
// stay beside three honest ones of that morning, an hour apart: an hour up or
// down is believed.
func TestFakeTimes(t *testing.T) {
	t.Parallel()
	good := nightly(400)
	beside := slices.Clone(good)
	for i, ago := range []time.Duration{90 * time.Minute, 30 * time.Minute, time.Second} {
		at := noon.Add(-ago)
		beside = append(beside, dated(fmt.Sprint("honest ", i), at, at))
	}
	checkSome(t, 30, func(rt *rapid.T) {
		p := genTimed(rt)
		all := slices.Clone(good)
		seed := rapid.Uint64().Draw(rt, "seed")
		step := func(n uint64) int64 {
			seed = seed*6364136223846793005 + 1442695040888963407
			return int64(seed >> 33 % n)
		}
		zone := rapid.SampledFrom([]int{0, 3600, -14 * 3600, 14 * 3600}).Draw(rt, "zone")
		for i := range 1000 {
			received := noon.Add(-30 * time.Minute).Add(time.Duration(step(60)) * time.Second)
			own := []time.Time{
				received.Add(-time.Duration(step(500*24*3600)) * time.Second), // any past
				good[step(400)].Time.Add(time.Duration(step(7200)) * time.Second),
				received.Add(time.Duration(step(500*24*3600)) * time.Second), // any future
				received,
			}[step(4)]
			all = append(all, dated(fmt.Sprint("fake ", i), own.In(time.FixedZone("", zone)), received))
		}
		want := keptOf(p.Apply(beside, noon))
		have := keptOf(p.Apply(all, noon))
		for _, s := range good {
			if want[s.ID] && !have[s.ID] {
				rt.Errorf("%+v: fake snapshots displaced the good one of %s", p, s.Time)
			}
		}
	})
}

// TestFakesOfTheSameDay: snapshots with odd times do not push out the good one
// of the day on which they came either, nor use up what is only counted.
func TestFakesOfTheSameDay(t *testing.T) {
	t.Parallel()
	all := append(nightly(10), dated("this morning", noon.Add(-5*time.Hour), noon.Add(-5*time.Hour)))
	good := slices.Clone(all)
	for i := range 1000 {
		own := noon.AddDate(0, 0, 2*i-1000).Add(time.Duration(i) * time.Minute)
		if i == 500 {
			continue // now: not odd
		}
		all = append(all, dated(fmt.Sprint("fake ", i), own, noon.Add(-time.Minute)))
	}
	for _, p := range []snapshot.Policy{{Last: 3}, {Daily: 7}, {Hourly: 2}, {Monthly: 2}, {Within: kassett.Age{Days: 3}}} {
		want, have := keptOf(p.Apply(good, noon)), keptOf(p.Apply(all, noon))
		for id := range want {
			if !have[id] {
				t.Errorf("%+v: a good snapshot is displaced", p)
			}
		}
	}
}

// TestFakeTimesWithoutReceiveTime shows what the receive time is for.
func TestFakeTimesWithoutReceiveTime(t *testing.T) {
	t.Parallel()
	all := nightly(10)
	for i, s := range slices.Clone(all) {
		all = append(all, dated(fmt.Sprint("fake ", i), s.Time.Add(time.Hour), time.Time{}))
		s.Received = time.Time{}
	}
	kept := keptOf(snapshot.Policy{Daily: 7}.Apply(all, noon))
	if kept[all[9].ID] {
		t.Error("a good snapshot stays: this test no longer shows the attack")
	}
}

// TestOddReceiveTimes is the other way about: the snapshots were copied here
// today, or the folder was moved without its times. What their own times ask for
// stays.
func TestOddReceiveTimes(t *testing.T) {
	t.Parallel()
	checkSome(t, 60, func(rt *rapid.T) {
		p := genPolicy(rt)
		list := nightly(rapid.IntRange(1, 90).Draw(rt, "nights"))
		for _, s := range list {
			s.Received = time.Time{}
		}
		want := keptOf(p.Apply(list, noon))
		for _, s := range list {
			s.Received = noon.Add(-time.Minute)
		}
		have := keptOf(p.Apply(list, noon))
		for id := range want {
			if !have[id] {
				rt.Errorf("%+v: a copy is removed that the original would not be", p)
			}
		}
	})
}

// TestHonestTimes: where own and receive times agree, nothing more is kept than
// without them.
func TestHonestTimes(t *testing.T) {
	t.Parallel()
	list := nightly(400)
	p := snapshot.Policy{Last: 2, Daily: 7, Weekly: 5, Monthly: 12, Yearly: 3}
	have := keptOf(p.Apply(list, noon))
	for _, s := range list {
		s.Received = time.Time{}
	}
	if want := keptOf(p.Apply(list, noon)); len(have) != len(want) {
		t.Errorf("with receive times %d are kept, without %d", len(have), len(want))
	}
}

func TestOdd(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		own  time.Duration // before it was received
		odd  bool
	}{
		{"at once", 0, false},
		{"a night's run", 9 * time.Hour, false},
		{"a clock that is fast", -10 * time.Minute, false},
		{"the future", -2 * time.Hour, true},
		{"the past", 25 * time.Hour, true},
	} {
		if s := dated(c.name, noon.Add(-c.own), noon); s.Odd() != c.odd {
			t.Errorf("%s: odd is %v", c.name, s.Odd())
		}
	}
	if dated("unknown", noon.AddDate(-3, 0, 0), time.Time{}).Odd() {
		t.Error("a snapshot is odd whose receive time nobody knows")
	}
}

// TestGuardByReceiveTime: what a hostile writer dates as it likes is no last
// good snapshot of its source, no way round a floor, and nothing that a
// retirement before it signs off.
func TestGuardByReceiveTime(t *testing.T) {
	t.Parallel()
	good := nightly(3)
	future := dated("future", noon.AddDate(5, 0, 0), noon)
	all := append(slices.Clone(good), future)
	if refused := snapshot.NewGuard(nil, all, noon).Removals(good); refused[good[2].ID] == nil || len(refused) != 1 {
		t.Errorf("all but one dated into the future may go: %v", refused)
	}
	floor := record.Record{Kind: record.Floor, Subject: record.Subject{All: true}, Keep: kassett.Age{Days: 30}, Reason: "law", By: []string{"a"}}
	past := dated("past", noon.AddDate(-20, 0, 0), noon.AddDate(0, 0, -1))
	unknown := *past // as a caller has it that named it by its ID
	unknown.Received = time.Time{}
	if refused := snapshot.NewGuard([]record.Record{floor}, append(all, past), noon).Removals([]*snapshot.Snapshot{&unknown}); refused[past.ID] == nil {
		t.Error("a date in the past leads round a floor")
	}
	retire := record.Record{Kind: record.Retire, Subject: record.Subject{Host: "ward3"}, Created: noon.AddDate(0, 0, -2), Reason: "sold", By: []string{"a"}}
	only := []*snapshot.Snapshot{past}
	if refused := snapshot.NewGuard([]record.Record{retire}, only, noon).Removals(only); refused[past.ID] == nil {
		t.Error("a retirement signs off what came in later, dated before it")
	}
	// A tag or a rewrite of what a floor keeps by its receive time is allowed:
	// the new file is received now.
	if err := snapshot.NewGuard([]record.Record{floor}, append(all, past), noon).Replacement(past, &unknown); err != nil {
		t.Errorf("Replacement: %v", err)
	}
}
