package kassett

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Age is a span of the calendar: a month is a month, however many days it has.
// Its text is restic's: "10y6m3d2h".
type Age struct{ Years, Months, Days, Hours int }

// maxAge bounds each number of an Age, so that no sum with a date overflows.
const maxAge = 1_000_000

// ParseAge reads numbers with the units y, m, d and h, each at most once and in
// this order: "10y", "1y6m", "36h". Anything else is an [Invalid] error.
func ParseAge(s string) (Age, error) {
	bad := func(why string) (Age, error) {
		return Age{}, &Error{
			Op: "parse age", What: fmt.Sprintf("%.40q", s), Kind: Invalid, Err: errors.New(why),
			Hint: "give years, months, days and hours in this order, like 10y6m, 30d or 12h",
		}
	}
	if s == "" {
		return bad("it is empty")
	}
	var a Age
	units := "ymdh"
	for rest := s; rest != ""; {
		i := strings.IndexFunc(rest, func(c rune) bool { return c < '0' || c > '9' })
		if i < 1 {
			return bad("want a number and then one of y, m, d, h")
		}
		n, err := strconv.Atoi(rest[:i])
		if err != nil || n > maxAge {
			return bad("a number is too large")
		}
		u := strings.IndexByte(units, rest[i])
		if u < 0 {
			return bad("the units are y, m, d and h, in this order and each once")
		}
		*[]*int{&a.Years, &a.Months, &a.Days, &a.Hours}[u+4-len(units)] = n
		units, rest = units[u+1:], rest[i+1:]
	}
	return a, nil
}

// String returns what [ParseAge] reads.
func (a Age) String() string {
	var b strings.Builder
	for i, n := range []int{a.Years, a.Months, a.Days, a.Hours} {
		if n != 0 {
			fmt.Fprintf(&b, "%d%c", n, "ymdh"[i])
		}
	}
	if b.Len() == 0 {
		return "0h"
	}
	return b.String()
}

// After returns the moment at which what was made at t reaches the age, on the
// calendar of t's location. A day that does not exist is the next one that
// does: a year after 29 February is 1 March.
func (a Age) After(t time.Time) time.Time {
	return t.AddDate(a.Years, a.Months, a.Days).Add(time.Duration(a.Hours) * time.Hour)
}

// MarshalText writes a as [Age.String] does.
func (a Age) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what [ParseAge] reads.
func (a *Age) UnmarshalText(b []byte) (err error) {
	*a, err = ParseAge(string(b))
	return err
}
