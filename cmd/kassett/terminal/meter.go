package terminal

import (
	"fmt"
	"strings"
	"time"

	"kassett"
)

// Meter turns what a Progress counts into rates. It is used by one goroutine.
type Meter struct {
	p            *kassett.Progress
	wanted       func() (items, bytes int64) // what there is to do in all, when p does not know; may be nil
	begun        time.Time
	seen         kassett.Look
	stageBegun   time.Time
	rate         float64 // bytes a second, smoothed
	lastAt       time.Time
	lastBytes    int64
	lastStage    string
	smoothedOnce bool
}

// NewMeter returns a meter of p. wanted says how much there is to do in all, when
// p does not know; it may be nil.
func NewMeter(p *kassett.Progress, wanted func() (items, bytes int64)) *Meter {
	t := time.Now()
	return &Meter{p: p, wanted: wanted, begun: t, stageBegun: t, lastAt: t}
}

// Seen returns the state at the last Look.
func (m *Meter) Seen() kassett.Look { return m.seen }

// Total returns how long the work has lasted.
func (m *Meter) Total() time.Duration { return time.Since(m.begun) }

// Look takes the state of this moment.
func (m *Meter) Look() {
	m.seen = m.p.Look()
	if m.wanted != nil {
		m.seen.ItemsWanted, m.seen.BytesWanted = m.wanted()
	}
	t := time.Now()
	if m.seen.Stage != m.lastStage || m.seen.Bytes < m.lastBytes {
		m.lastStage, m.stageBegun, m.lastAt, m.lastBytes, m.smoothedOnce = m.seen.Stage, t, t, m.seen.Bytes, false
		m.rate = 0
		return
	}
	dt := t.Sub(m.lastAt).Seconds()
	if dt < 0.5 {
		return
	}
	rate := float64(m.seen.Bytes-m.lastBytes) / dt
	// Half of the weight lies on the last three seconds or so.
	weight := min(1, dt/4)
	if !m.smoothedOnce {
		weight, m.smoothedOnce = 1, true
	}
	m.rate += weight * (rate - m.rate)
	m.lastAt, m.lastBytes = t, m.seen.Bytes
}

// Remaining estimates the rest of this stage from its average speed; 0 when
// nothing can be said.
func (m *Meter) Remaining() time.Duration {
	done, wanted := m.seen.Bytes, m.seen.BytesWanted
	if wanted == 0 {
		done, wanted = m.seen.Items, m.seen.ItemsWanted
	}
	elapsed := time.Since(m.stageBegun)
	if done <= 0 || wanted <= done || elapsed < time.Second {
		return 0
	}
	return time.Duration(float64(elapsed) / float64(done) * float64(wanted-done))
}

// Text is the progress in one line of at most width columns, or of any width
// when that is 0. The current file gets what room is left and loses its
// beginning first.
func (m *Meter) Text(width int) string {
	l := m.seen
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]", Clock(m.Total()))
	if l.Stage != "" {
		b.WriteString(" " + Safe(l.Stage))
	}
	if l.BytesWanted > 0 {
		fmt.Fprintf(&b, " %.1f%%", min(100, 100*float64(l.Bytes)/float64(l.BytesWanted)))
	} else if l.ItemsWanted > 0 {
		fmt.Fprintf(&b, " %.1f%%", min(100, 100*float64(l.Items)/float64(l.ItemsWanted)))
	}
	if l.Items > 0 || l.ItemsWanted > 0 {
		fmt.Fprintf(&b, " %s", ofTotal(Count(l.Items), Count(l.ItemsWanted), l.ItemsWanted > 0))
	}
	if l.Bytes > 0 || l.BytesWanted > 0 {
		fmt.Fprintf(&b, " %s", ofTotal(Bytes(l.Bytes), Bytes(l.BytesWanted), l.BytesWanted > 0))
	}
	if m.rate >= 1 {
		fmt.Fprintf(&b, " %s/s", Bytes(int64(m.rate)))
	}
	if left := m.Remaining(); left > 0 {
		fmt.Fprintf(&b, " ETA %s", Clock(left))
	}
	if l.Problems > 0 {
		fmt.Fprintf(&b, " %d problems", l.Problems)
	}
	if l.At != "" {
		at := Safe(l.At)
		if width > 0 {
			at = clipLeft(at, max(width-2-Columns(b.String()), 0))
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
