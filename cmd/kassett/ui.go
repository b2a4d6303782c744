package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"kassett"
)

// How often progress is shown.
const (
	redrawEvery = 100 * time.Millisecond // on a terminal
	statusEvery = time.Second            // as JSON
	lineEvery   = 30 * time.Second       // into a log
	quietFirst  = time.Second / 2        // shorter work shows nothing at all
)

// ui is the voice for talk: whole lines, and on a terminal one live line below
// them that is redrawn in place. It is safe for many goroutines.
type ui struct {
	mu    sync.Mutex
	w     io.Writer
	live  bool       // the terminal can redraw
	width func() int // columns, 0 when unknown
	shown int        // columns of the live line on the screen now
}

func newUI(e env) *ui { return &ui{w: e.stderr, live: e.stderrTerminal, width: e.width} }

// line writes one line of text that is safe to print. What fails here cannot
// be told to anybody.
func (u *ui) line(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	_, _ = fmt.Fprintln(u.w, text)
}

// say writes one line, formatted; the arguments are made safe by the caller.
func (u *ui) say(format string, args ...any) { u.line(fmt.Sprintf(format, args...)) }

// prompt writes text as it is.
func (u *ui) prompt(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
	_, _ = io.WriteString(u.w, text)
}

// redraw shows text as the live line.
func (u *ui) redraw(text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	room := u.width()
	if room <= 0 {
		room = 80
	}
	text = clip(text, room-1)
	n := columns(text)
	pad := max(u.shown-n, 0)
	_, _ = io.WriteString(u.w, "\r"+text+strings.Repeat(" ", pad)+strings.Repeat("\b", pad))
	u.shown = n
}

// clear takes the live line away. The caller holds mu.
func (u *ui) clear() {
	if u.shown > 0 {
		_, _ = io.WriteString(u.w, "\r"+strings.Repeat(" ", u.shown)+"\r")
		u.shown = 0
	}
}

func (u *ui) clean() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.clear()
}

// watch shows what p counts until stop is called: a live line on a terminal,
// status lines of JSON on stdout, a line every half minute into a log. It
// writes nothing with --quiet, and nothing is left of it after stop.
func (a *app) watch(p *kassett.Progress) (stop func()) { return a.watchFor(p, nil) }

// watched reports whether somebody sees progress often enough to want to know
// how much is left.
func (a *app) watched() bool { return !a.flags.quiet && (a.flags.json || a.ui.live) }

// watchFor is watch with the amount of work counted by somebody else.
func (a *app) watchFor(p *kassett.Progress, work *workload) (stop func()) {
	if a.flags.quiet {
		return func() {}
	}
	every, show := lineEvery, func(m *meter) { a.ui.line(m.text(0)) }
	switch {
	case a.flags.json:
		every, show = statusEvery, func(m *meter) { a.status(m) }
	case a.ui.live:
		every, show = redrawEvery, func(m *meter) {
			if m.total() >= quietFirst {
				a.ui.redraw(m.text(a.ui.width()))
			}
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for m := newMeter(p, work); ; {
			select {
			case <-done:
				return
			case <-tick.C:
				m.look()
				show(m)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(done)
		<-ended
		a.ui.clean()
	})
}

// status prints progress for programs, with restic's names, at once.
func (a *app) status(m *meter) {
	l := m.now
	var percent float64
	if l.BytesWanted > 0 {
		percent = float64(l.Bytes) / float64(l.BytesWanted)
	} else if l.ItemsWanted > 0 {
		percent = float64(l.Items) / float64(l.ItemsWanted)
	}
	files := []string{}
	if l.At != "" {
		files = append(files, l.At)
	}
	_ = a.json(struct {
		MessageType      string   `json:"message_type"`
		Stage            string   `json:"stage"`
		SecondsElapsed   int64    `json:"seconds_elapsed"`
		SecondsRemaining int64    `json:"seconds_remaining,omitempty"`
		PercentDone      float64  `json:"percent_done"`
		TotalFiles       int64    `json:"total_files,omitempty"`
		FilesDone        int64    `json:"files_done"`
		TotalBytes       int64    `json:"total_bytes,omitempty"`
		BytesDone        int64    `json:"bytes_done"`
		BytesStored      int64    `json:"bytes_stored"`
		ErrorCount       int64    `json:"error_count,omitempty"`
		CurrentFiles     []string `json:"current_files,omitempty"`
	}{
		"status", l.Stage, int64(m.total().Seconds()), int64(m.remaining().Seconds()), min(percent, 1),
		l.ItemsWanted, l.Items, l.BytesWanted, l.Bytes, l.Stored, l.Problems, files,
	})
	_ = a.out.Flush() // the next write of a result meets the same error
}

// meter turns what a Progress counts into rates. It is used by one goroutine.
type meter struct {
	p            *kassett.Progress
	work         *workload // what there is to do in all, when p does not know; may be nil
	begun        time.Time
	now          kassett.Look
	stageBegun   time.Time
	rate         float64 // bytes a second, smoothed
	lastAt       time.Time
	lastBytes    int64
	lastStage    string
	smoothedOnce bool
}

func newMeter(p *kassett.Progress, work *workload) *meter {
	t := time.Now()
	return &meter{p: p, work: work, begun: t, stageBegun: t, lastAt: t}
}

func (m *meter) total() time.Duration { return time.Since(m.begun) }

// look takes the state of this moment.
func (m *meter) look() {
	m.now = m.p.Look()
	if m.work != nil {
		m.now.ItemsWanted, m.now.BytesWanted = m.work.counted()
	}
	t := time.Now()
	if m.now.Stage != m.lastStage || m.now.Bytes < m.lastBytes {
		m.lastStage, m.stageBegun, m.lastAt, m.lastBytes, m.smoothedOnce = m.now.Stage, t, t, m.now.Bytes, false
		m.rate = 0
		return
	}
	dt := t.Sub(m.lastAt).Seconds()
	if dt < 0.5 {
		return
	}
	rate := float64(m.now.Bytes-m.lastBytes) / dt
	// Half of the weight lies on the last three seconds or so.
	weight := min(1, dt/4)
	if !m.smoothedOnce {
		weight, m.smoothedOnce = 1, true
	}
	m.rate += weight * (rate - m.rate)
	m.lastAt, m.lastBytes = t, m.now.Bytes
}

// remaining estimates the rest of this stage from its average speed; 0 when
// nothing can be said.
func (m *meter) remaining() time.Duration {
	done, wanted := m.now.Bytes, m.now.BytesWanted
	if wanted == 0 {
		done, wanted = m.now.Items, m.now.ItemsWanted
	}
	elapsed := time.Since(m.stageBegun)
	if done <= 0 || wanted <= done || elapsed < time.Second {
		return 0
	}
	return time.Duration(float64(elapsed) / float64(done) * float64(wanted-done))
}

// text is the progress in one line of at most width columns, or of any width
// when that is 0. The current file gets what room is left and loses its
// beginning first.
func (m *meter) text(width int) string {
	l := m.now
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]", clock(m.total()))
	if l.Stage != "" {
		b.WriteString(" " + safe(l.Stage))
	}
	if l.BytesWanted > 0 {
		fmt.Fprintf(&b, " %.1f%%", min(100, 100*float64(l.Bytes)/float64(l.BytesWanted)))
	} else if l.ItemsWanted > 0 {
		fmt.Fprintf(&b, " %.1f%%", min(100, 100*float64(l.Items)/float64(l.ItemsWanted)))
	}
	if l.Items > 0 || l.ItemsWanted > 0 {
		fmt.Fprintf(&b, " %s", ofTotal(count(l.Items), count(l.ItemsWanted), l.ItemsWanted > 0))
	}
	if l.Bytes > 0 || l.BytesWanted > 0 {
		fmt.Fprintf(&b, " %s", ofTotal(bytesText(l.Bytes), bytesText(l.BytesWanted), l.BytesWanted > 0))
	}
	if m.rate >= 1 {
		fmt.Fprintf(&b, " %s/s", bytesText(int64(m.rate)))
	}
	if left := m.remaining(); left > 0 {
		fmt.Fprintf(&b, " ETA %s", clock(left))
	}
	if l.Problems > 0 {
		fmt.Fprintf(&b, " %d problems", l.Problems)
	}
	if l.At != "" {
		at := safe(l.At)
		if width > 0 {
			at = clipLeft(at, max(width-2-columns(b.String()), 0))
		}
		b.WriteString(" " + at)
	}
	return b.String()
}

func ofTotal(done, wanted string, known bool) string {
	if known {
		return done + "/" + wanted
	}
	return done
}
