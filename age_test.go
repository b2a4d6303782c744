package kassett_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
)

func TestParseAge(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]kassett.Age{
		"10y":        {Years: 10},
		"1y6m":       {Years: 1, Months: 6},
		"36h":        {Hours: 36},
		"10y6m3d2h":  {Years: 10, Months: 6, Days: 3, Hours: 2},
		"0h":         {},
		"007d":       {Days: 7},
		"1000000d1h": {Days: 1000000, Hours: 1},
	} {
		if got, err := kassett.ParseAge(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "y", "10", "-1d", "1d1y", "1d2d", "1w", "1.5y", "1 d", "1000001d", "99999999999999999999d", "١d"} {
		got, err := kassett.ParseAge(s)
		if kassett.KindOf(err) != kassett.Invalid || kassett.HintOf(err) == "" {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func TestAgeText(t *testing.T) {
	t.Parallel()
	n := rapid.IntRange(0, 1_000_000)
	rapid.Check(t, func(t *rapid.T) {
		a := kassett.Age{Years: n.Draw(t, "y"), Months: n.Draw(t, "m"), Days: n.Draw(t, "d"), Hours: n.Draw(t, "h")}
		if got, err := kassett.ParseAge(a.String()); err != nil || got != a {
			t.Fatalf("%+v is written as %q and read as %+v, %v", a, a, got, err)
		}
	})
}

func TestAgeAfter(t *testing.T) {
	t.Parallel()
	day := func(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 12, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		age      kassett.Age
		at, want time.Time
	}{
		{kassett.Age{Years: 10}, day(2016, 2, 29), day(2026, 3, 1)},
		{kassett.Age{Years: 4}, day(2016, 2, 29), day(2020, 2, 29)},
		{kassett.Age{Months: 1}, day(2026, 1, 31), day(2026, 3, 3)},
		{kassett.Age{Days: 30, Hours: 24}, day(2026, 1, 1), day(2026, 2, 1)},
		{kassett.Age{}, day(2026, 1, 1), day(2026, 1, 1)},
	} {
		if got := c.age.After(c.at); !got.Equal(c.want) {
			t.Errorf("%v after %v is %v, want %v", c.age, c.at, got, c.want)
		}
	}
}
