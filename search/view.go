package search

import (
	"slices"

	"kassett"
)

// view is which snapshots of a line count.
type view struct {
	next []uint32 // by number: the first that counts from there on; end if none
	sum  []int    // by number: how many before it count
	end  uint32
}

func newView(l *line, counts func(kassett.ID) bool) *view {
	v := &view{next: make([]uint32, l.Next+1), sum: make([]int, l.Next+2), end: l.Next}
	here := make([]bool, l.Next+1)
	for _, m := range l.Snapshots {
		if m.Seq < l.Next {
			here[m.Seq] = counts(m.ID)
		}
	}
	v.next[l.Next] = l.Next
	for i := int(l.Next) - 1; i >= 0; i-- {
		v.next[i] = v.next[i+1]
		if here[i] {
			v.next[i] = uint32(i) //nolint:gosec // a number of a snapshot
		}
	}
	for i, is := range here {
		v.sum[i+1] = v.sum[i]
		if is {
			v.sum[i+1]++
		}
	}
	return v
}

// until returns up to which number, not included, event i says what a name is.
func until(events []event, i int, end uint32) uint32 {
	if i+1 < len(events) {
		return events[i+1].seq
	}
	return end
}

// alive returns how many snapshots that count have numbers from one on and
// before another.
func (v *view) alive(from, to uint32) int {
	to = min(to, v.end)
	if from >= to {
		return 0
	}
	return v.sum[to] - v.sum[from]
}

// purge takes out of the events of a name what no snapshot that counts has. What
// it is from the last number on stays, being what the next snapshot is compared
// with. When all of its events are there, those without meaning go too.
func (v *view) purge(events []event, all bool) []event {
	kept := events[:0]
	for i, e := range events {
		last := i == len(events)-1
		if !last && e.seq == events[i+1].seq {
			continue // corrected at once
		}
		if !last && e.kind != 0 && v.alive(e.seq, events[i+1].seq) == 0 {
			e.state = state{}
		}
		gone := e.kind == 0 && (len(kept) == 0 && all || len(kept) > 0 && kept[len(kept)-1].kind == 0)
		same := len(kept) > 0 && kept[len(kept)-1].state == e.state
		if !gone && !same {
			kept = append(kept, e)
		}
	}
	return slices.Clip(kept)
}
