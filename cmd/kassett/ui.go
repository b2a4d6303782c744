package main

import (
	"sync"
	"time"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// How often progress is shown.
const (
	redrawEvery = 100 * time.Millisecond // on a terminal
	statusEvery = time.Second            // as JSON
	lineEvery   = 30 * time.Second       // into a log
	quietFirst  = time.Second / 2        // shorter work shows nothing at all
)

// watch shows what p counts until stop is called: a live line on a terminal,
// status lines of JSON on stdout, a line every half minute into a log. It
// writes nothing with --quiet, and nothing is left of it after stop.
func (a *app) watch(p *kassett.Progress) (stop func()) { return a.watchFor(p, nil) }

// watched reports whether somebody sees progress often enough to want to know
// how much is left.
func (a *app) watched() bool { return !a.flags.quiet && (a.flags.json || a.ui.Live()) }

// watchFor is watch with the amount of work counted by somebody else.
func (a *app) watchFor(p *kassett.Progress, work *workload) (stop func()) {
	if a.flags.quiet {
		return func() {}
	}
	every, show := lineEvery, func(m *terminal.Meter) { a.ui.Line(m.Text(0)) }
	switch {
	case a.flags.json:
		every, show = statusEvery, func(m *terminal.Meter) { a.status(m) }
	case a.ui.Live():
		every, show = redrawEvery, func(m *terminal.Meter) {
			if m.Total() >= quietFirst {
				a.ui.Redraw(m.Text(a.ui.Width()))
			}
		}
	}
	var wanted func() (items, bytes int64)
	if work != nil {
		wanted = work.counted
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for m := terminal.NewMeter(p, wanted); ; {
			select {
			case <-done:
				return
			case <-tick.C:
				m.Look()
				show(m)
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(done)
		<-ended
		a.ui.Clean()
	})
}

// status prints progress for programs, with restic's names, at once.
func (a *app) status(m *terminal.Meter) {
	l := m.Seen()
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
		"status", l.Stage, int64(m.Total().Seconds()), int64(m.Remaining().Seconds()), min(percent, 1),
		l.ItemsWanted, l.Items, l.BytesWanted, l.Bytes, l.Stored, l.Problems, files,
	})
	_ = a.out.Flush() // the next write of a result meets the same error
}
