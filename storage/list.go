package storage

import (
	"context"
	"errors"
	"iter"
	"strings"

	"kassett"
)

// How many names a listing remembers, in order not to give one twice after it
// broke: about 10 MB. Most storages list packs in the order of their first two
// digits, and then the names of the folder that is being listed are enough,
// however many files there are; orderly is after how many names an order is
// believed. A storage without an order whose listing breaks after more names
// than that gives an error, as without retries.
const (
	maxNames = 128 << 10
	orderly  = 8 << 10
)

// listAgain gives what begin lists; when that breaks, it begins again and gives
// what it has not given yet. of returns an item's name, and its part: items
// whose parts come in order are forgotten part by part.
func listAgain[T any, N comparable](ctx context.Context, r *Retries, begin func() iter.Seq2[T, error], of func(T) (N, byte)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		l := given[N]{names: map[N]byte{}}
		left := false
		err := r.Do(ctx, func(bool) error {
			l.begin()
			for item, err := range begin() {
				if err != nil && l.lost && transient(err) {
					return tooLong(err)
				} else if err != nil {
					return err
				}
				isNew, known := l.see(of(item))
				if !known {
					return tooLong(errors.New("it comes in another order than before"))
				}
				if isNew && !yield(item, nil) {
					left = true
					return nil
				}
			}
			return nil
		})
		if err != nil && !left {
			yield(*new(T), err)
		}
	}
}

func tooLong(err error) error {
	return &kassett.Error{
		Op: "list files", Kind: kassett.Incomplete, Err: err,
		Hint: "the storage broke a long listing off; run it again",
	}
}

// given remembers what a listing gave, over all its beginnings.
type given[N comparable] struct {
	names   map[N]byte // with the part of each; of parts before whole none
	count   int        // how many were given
	again   bool       // this is not the first beginning
	part    byte       // the highest in this run
	whole   byte       // all in the parts before it was given
	mixed   bool       // parts do not come in order
	lost    bool       // too much was forgotten to begin again
	started bool
}

// begin notes that the listing begins, for the first time or again.
func (l *given[N]) begin() {
	l.again, l.started, l.part = l.started, true, 0
}

// see reports whether an item is to be given, and remembers it. It is not known
// when parts come in an order that an earlier run did not have.
func (l *given[N]) see(name N, part byte) (isNew, known bool) {
	if part < l.part {
		l.mixed = true
		if l.whole > part {
			if l.again {
				return false, false
			}
			l.lost = true // the order was believed too early: begin no more
		}
	} else {
		if l.again && part < l.whole {
			return false, true
		}
		if part > l.part && !l.mixed && l.count >= orderly {
			l.forget(max(part, l.whole))
		}
		l.part = part
	}
	if _, there := l.names[name]; there {
		return false, true
	}
	l.count++
	if !l.lost {
		if l.names[name] = part; len(l.names) > maxNames {
			clear(l.names)
			l.lost = true
		}
	}
	return true, true
}

// forget gives up the names of the parts before next.
func (l *given[N]) forget(next byte) {
	l.whole = next
	for name, part := range l.names {
		if part < next {
			delete(l.names, name)
		}
	}
}

// base returns the last part of a slash-separated name.
func base(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
