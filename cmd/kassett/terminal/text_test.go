package terminal

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSafe(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                        "",
		"日誌 Åse.txt":              "日誌 Åse.txt",
		"a\x1b[31mb":              `a\x1b[31mb`,
		"two\nlines\tand\rmore":   `two\nlines\tand\rmore`,
		"bad \xff\xfe utf-8":      `bad \xff\xfe utf-8`,
		"real \ufffd replacement": "real \ufffd replacement",
		"evil\u202etxt.exe":       `evil\u202etxt.exe`,
		"c1\u009b31m":             `c1\u009b31m`,
		"line\u2028separator":     `line\u2028separator`,
	} {
		if got := Safe(in); got != want {
			t.Errorf("Safe(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSafeNeverControls(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := Safe(string(rapid.SliceOf(rapid.Byte()).Draw(t, "name")))
		if !utf8.ValidString(s) {
			t.Errorf("%q is not UTF-8", s)
		}
		for _, r := range s {
			if r < ' ' || r >= 0x7f && r < 0xa0 {
				t.Errorf("%q holds a control character", s)
			}
		}
	})
}

func TestClip(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in          string
		room        int
		right, left string
	}{
		{"/a/b/c", 10, "/a/b/c", "/a/b/c"},
		{"/a/b/c", 4, "/a/b", "…b/c"},
		{"日誌日誌", 5, "日誌", "…日誌"},
		{"日誌", 1, "", ""},
		{"é", 1, "é", "é"},
	} {
		if got := clip(c.in, c.room); got != c.right {
			t.Errorf("clip(%q, %d) = %q, want %q", c.in, c.room, got, c.right)
		}
		got := clipLeft(c.in, c.room)
		if Columns(got) > c.room || got != c.left {
			t.Errorf("clipLeft(%q, %d) = %q, want %q", c.in, c.room, got, c.left)
		}
	}
}

func TestNumbersForPeople(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 30: "1.0 GiB", 1 << 62: "4.0 EiB", -2048: "-2.0 KiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1 000", 1234567: "1 234 567", -1000: "-1 000", -999: "-999"} {
		if got := Count(n); got != want {
			t.Errorf("Count(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0:00", 61 * time.Second: "1:01", time.Hour: "1:00:00", 25*time.Hour + 61*time.Second: "25:01:01"} {
		if got := Clock(d); got != want {
			t.Errorf("Clock(%s) = %q, want %q", d, got, want)
		}
	}
}

func TestTableLinesUp(t *testing.T) {
	t.Parallel()
	tab := &Table{Head: []string{"Name", "Size"}, Right: []bool{1: true}}
	tab.Add("日誌", "7")
	tab.Add("Åse\nsecond", "1 234")
	var b strings.Builder
	if err := tab.Print(&b); err != nil {
		t.Fatal(err)
	}
	const want = "Name     Size\n" + "-------------\n" + "日誌        7\n" + "Åse     1 234\n" + "second\n"
	if b.String() != want {
		t.Errorf("table:\n%swant:\n%s", b.String(), want)
	}
}
