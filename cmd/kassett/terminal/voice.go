// Package terminal is how the program talks to people: text that is safe to print
// whatever names hold, numbers and tables as people read them, one live line that
// is redrawn in place, and progress in words.
package terminal

import (
	"fmt"
	"io"
	"strings"
	"sync"
)

// Voice talks to people: whole lines, and on a terminal one live line below
// them that is redrawn in place. It is safe for many goroutines.
type Voice struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool       // the terminal can redraw
	width func() int // columns, 0 when unknown
	shown int        // columns of the live line on the screen now
}

// NewVoice returns a voice that writes to w. It redraws a live line only when
// live; width returns the columns there are, 0 when unknown.
func NewVoice(w io.Writer, live bool, width func() int) *Voice {
	return &Voice{w: w, live: live, width: width}
}

// Live reports whether a line can be redrawn.
func (u *Voice) Live() bool { return u.live }

// Width returns the columns of the terminal, 0 when unknown.
func (u *Voice) Width() int { return u.width() }

// Line writes one line of text that is safe to print. What fails here cannot
// be told to anybody.
func (u *Voice) Line(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	_, _ = fmt.Fprintln(u.w, text)
}

// Say writes one line, formatted; the arguments are made safe by the caller.
func (u *Voice) Say(format string, args ...any) { u.Line(fmt.Sprintf(format, args...)) }

// Prompt writes text as it is.
func (u *Voice) Prompt(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	_, _ = io.WriteString(u.w, text)
}

// Redraw shows text as the live line.
func (u *Voice) Redraw(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	room := u.width()
	if room <= 0 {
		room = 80
	}
	text = clip(text, room-1)
	n := Columns(text)
	pad := max(u.shown-n, 0)
	_, _ = io.WriteString(u.w, "\r"+text+strings.Repeat(" ", pad)+strings.Repeat("\b", pad))
	u.shown = n
}

// clear takes the live line away. The caller holds mu.
func (u *Voice) clear() {
	if u.shown > 0 {
		_, _ = io.WriteString(u.w, "\r"+strings.Repeat(" ", u.shown)+"\r")
		u.shown = 0
	}
}

// Clean takes the live line away.
func (u *Voice) Clean() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
}
