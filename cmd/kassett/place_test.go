package main

import (
	"context"
	"slices"
	"testing"
)

func TestSplitWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                             nil,
		"  cat   /etc/pw ":             {"cat", "/etc/pw"},
		`cat "with space" 'a "b" c'`:   {"cat", "with space", `a "b" c`},
		`a\ b "say \"hi\""`:            {"a b", `say "hi"`},
		`C:\Tools\pass.exe \\srv\x`:    {`C:\Tools\pass.exe`, `\\srv\x`},
		`"C:\Program Files\p.exe" get`: {`C:\Program Files\p.exe`, "get"},
		`x '' ""`:                      {"x", "", ""},
		`one"two"three`:                {"onetwothree"},
	} {
		got, err := splitWords(in)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("splitWords(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{`"open`, `'open`, `a "b\"`} {
		if got, err := splitWords(in); err == nil {
			t.Errorf("splitWords(%q) = %q, want an error", in, got)
		}
	}
}

func TestFromBOM(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                  "plain",
		"\xef\xbb\xbfmark":       "mark",
		"\xff\xfeh\x00\xe5\x00":  "hå",
		"\xfe\xff\x00h\x00\xe5":  "hå",
		"\xff\xfeodd":            "摯",
		"\xff\xfe=\xd8\x0a\xde!": "😊",
		"\xff\xfe":               "",
		"":                       "",
	} {
		if got := string(fromBOM([]byte(in))); got != want {
			t.Errorf("fromBOM(%q) = %q, want %q", in, got, want)
		}
	}
}

// typed is an env in which a person types passwords.
func typed(lines ...string) env {
	e := env{getenv: func(string) string { return "" }, stderr: discard{}, width: func() int { return 80 }, stdinTerminal: true}
	e.readPassword = func(context.Context) ([]byte, error) {
		next := lines[0]
		lines = lines[1:]
		return []byte(next), nil
	}
	return e
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestPasswordIsTypedTwiceWhenNew(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines []string
		want  string
	}{
		"same":  {[]string{"one", "one"}, "one"},
		"other": {[]string{"one", "two"}, ""},
		"empty": {[]string{""}, ""},
	} {
		e := typed(c.lines...)
		a := &app{env: e, ui: newVoice(e)}
		pw, err := a.firstPassword(t.Context(), place{})
		if string(pw) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, pw, err)
		}
	}
	e := typed("once")
	a := &app{env: e, ui: newVoice(e)}
	if pw, err := a.password(t.Context(), place{}); err != nil || string(pw) != "once" {
		t.Errorf("a password that exists: %q, %v", pw, err)
	}
}
