package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// screen is a terminal of one line and its scrolled-away lines.
type screen struct {
	mu     sync.Mutex
	lines  []string
	cells  []rune
	column int
	wrote  int
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrote++
	for _, r := range string(p) {
		switch r {
		case '\r':
			s.column = 0
		case '\b':
			s.column--
		case '\n':
			s.lines = append(s.lines, s.now())
			s.cells, s.column = nil, 0
		default:
			for len(s.cells) <= s.column {
				s.cells = append(s.cells, ' ')
			}
			s.cells[s.column] = r
			s.column++
		}
	}
	return len(p), nil
}

func (s *screen) now() string { return strings.TrimRight(string(s.cells), " ") }

func TestLiveLineLeavesNothing(t *testing.T) {
	t.Parallel()
	s := &screen{}
	u := newVoice(env{stderr: s, stderrTerminal: true, width: func() int { return 20 }})
	u.Redraw("a long line, longer than the screen is wide")
	if got := s.now(); got != "a long line, longer" {
		t.Errorf("screen shows %q", got)
	}
	u.Redraw("short")
	if got := s.now(); got != "short" {
		t.Errorf("screen shows %q", got)
	}
	u.Line("a warning")
	u.Redraw("again")
	u.Clean()
	if got := s.now(); got != "" || s.column != 0 {
		t.Errorf("screen still shows %q, column %d", got, s.column)
	}
	if len(s.lines) != 1 || s.lines[0] != "a warning" {
		t.Errorf("lines %q", s.lines)
	}
}

func TestWatchRedrawsAndEnds(t *testing.T) {
	t.Parallel()
	s := &screen{}
	e := env{stderr: s, stderrTerminal: true, width: func() int { return 60 }}
	a := &app{env: e, ui: newVoice(e), out: newResults(&bytes.Buffer{})}
	p := new(kassett.Progress)
	stop := a.watch(p)
	p.Enter("back up")
	p.Expect(10, 1<<20)
	p.Done(3, 1<<18)
	p.At("srv/日誌\x1b[2J")
	begun := time.Now()
	for shown := ""; !strings.Contains(shown, "25.0%"); {
		s.mu.Lock()
		shown = s.now()
		s.mu.Unlock()
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("never redrawn: %q", shown)
		}
		if strings.ContainsRune(shown, '\x1b') {
			t.Fatalf("a control character came through: %q", shown)
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	stop()
	if got := s.now(); got != "" {
		t.Errorf("after stop the screen shows %q", got)
	}
	if n, limit := s.wrote, int(time.Since(begun)/redrawEvery)+2; n > limit {
		t.Errorf("%d writes, want at most ten a second: %d", n, limit)
	}
}

func TestStatusIsJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	a := &app{env: env{stderr: discard{}, width: func() int { return 0 }}, out: newResults(&out)}
	p := new(kassett.Progress)
	m := terminal.NewMeter(p, nil)
	p.Enter("back up")
	p.Expect(4, 400)
	p.Done(1, 100)
	m.Look()
	a.status(m)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%s: %v", out.Bytes(), err)
	}
	for key, want := range map[string]any{"message_type": "status", "percent_done": 0.25, "total_files": 4.0, "bytes_done": 100.0, "stage": "back up"} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}
