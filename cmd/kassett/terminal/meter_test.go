package terminal

import (
	"strings"
	"testing"
	"time"

	"kassett"
)

func TestMeterSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	p := new(kassett.Progress)
	m := NewMeter(p, nil)
	m.begun = m.begun.Add(-10 * time.Second)
	p.Enter("restore")
	p.Expect(100, 1000<<20)
	p.Done(25, 250<<20)
	m.Look()
	m.stageBegun = m.stageBegun.Add(-10 * time.Second)
	if left := m.Remaining().Round(time.Second); left != 30*time.Second {
		t.Errorf("a quarter is done after 10 s, remaining %s", left)
	}
	text := m.Text(0)
	for _, want := range []string{"[0:10]", "restore", "25.0%", "25/100", "250.0 MiB/1000.0 MiB", "ETA 0:30"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q lacks %q", text, want)
		}
	}
	if got := Columns(m.Text(40)); got > 90 {
		t.Errorf("%d columns", got)
	}
}
