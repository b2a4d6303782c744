package terminal

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Safe makes a name fit for a terminal and for one line: control characters,
// bytes that are not UTF-8 and characters that turn the reading direction
// around come out as escapes.
func Safe(s string) string {
	clean := true
	for _, r := range s {
		if unsafeRune(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unsafeRune(r) && r != utf8.RuneError:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// unsafeRune also says yes to utf8.RuneError, which may stand for a bad byte.
func unsafeRune(r rune) bool {
	return r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
}

// Columns returns how many columns of a terminal s takes.
func Columns(s string) (n int) {
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

func runeColumns(r rune) int {
	if r < utf8.RuneSelf {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// clip cuts s after at most n columns.
func clip(s string, n int) string {
	for i, r := range s {
		if n -= runeColumns(r); n < 0 {
			return s[:i]
		}
	}
	return s
}

// clipLeft keeps the last n columns of s, with a mark where it was cut.
func clipLeft(s string, n int) string {
	have := Columns(s)
	if have <= n {
		return s
	}
	if n < 2 {
		return ""
	}
	for i, r := range s {
		if have -= runeColumns(r); have <= n-1 {
			return "…" + s[i+utf8.RuneLen(r):]
		}
	}
	return ""
}

// Bytes writes a number of bytes as people read it, in powers of 1024.
func Bytes(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 && n > -1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	x, i := float64(n)/(1<<10), 0
	for ; (x >= 1023.95 || x <= -1023.95) && i < len(units)-1; i++ {
		x /= 1 << 10
	}
	return fmt.Sprintf("%.1f %ciB", x, units[i])
}

// Count writes a number with spaces between groups of three digits.
func Count[T ~int | ~int64 | ~uint64 | ~uint](n T) string {
	s := fmt.Sprint(n)
	first := 0
	if strings.HasPrefix(s, "-") {
		first = 1
	}
	for i := len(s) - 3; i > first; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}

// Plural writes a number with its noun.
func Plural[T ~int | ~int64 | ~uint64 | ~uint](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return Count(n) + " " + many
}

// Clock writes a duration as minutes and seconds, or hours.
func Clock(d time.Duration) string {
	s := int64(d.Round(time.Second).Seconds())
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// Stamp writes a time for people, in the zone of this machine.
func Stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// Table is text in columns. Cells may hold several lines, are made safe when
// they are written, and line up in any script.
type Table struct {
	Head  []string
	Right []bool // columns set to the right
	rows  [][]string
}

// Add adds a row of as many cells as the head has.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Print writes head, a rule, the rows.
func (t *Table) Print(w io.Writer) error {
	widths := make([]int, len(t.Head))
	measure := func(cells []string) {
		for i, c := range cells {
			for line := range strings.SplitSeq(c, "\n") {
				widths[i] = max(widths[i], Columns(Safe(line)))
			}
		}
	}
	measure(t.Head)
	for _, r := range t.rows {
		measure(r)
	}
	var b strings.Builder
	t.row(&b, t.Head, widths)
	total := 2 * (len(widths) - 1)
	for _, n := range widths {
		total += n
	}
	b.WriteString(strings.Repeat("-", total) + "\n")
	for _, r := range t.rows {
		t.row(&b, r, widths)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (t *Table) row(b *strings.Builder, cells []string, widths []int) {
	lines := make([][]string, len(cells))
	height := 0
	for i, c := range cells {
		lines[i] = strings.Split(c, "\n")
		height = max(height, len(lines[i]))
	}
	for y := range height {
		var line strings.Builder
		for i := range cells {
			text := ""
			if y < len(lines[i]) {
				text = Safe(lines[i][y])
			}
			pad := strings.Repeat(" ", widths[i]-Columns(text))
			if i > 0 {
				line.WriteString("  ")
			}
			if i < len(t.Right) && t.Right[i] {
				line.WriteString(pad + text)
			} else {
				line.WriteString(text + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}
