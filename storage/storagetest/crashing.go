package storagetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"kassett"
)

// ErrCrashed is what every call on a [Crashing] storage gives once the power
// is cut.
var ErrCrashed = errors.New("the power is cut")

// Crashing is a storage whose power is cut at its n-th change. It holds itself
// to what [kassett.Storage] promises and to no more: a Put that returned is
// there afterwards; one that had not returned is there whole, or not at all, or
// has left something that no listing shows; a Delete of a pack or a lock may
// be undone even though it returned. A test goes through all crashes so:
//
//	for n := 1; ; n++ {
//		c := storagetest.NewCrashing(start, n)
//		err := work(c)
//		if !c.Crashed() {
//			break // err must be nil: all of the work fits before change n
//		}
//		for name, st := range c.Survivors() {
//			// open st, look whether all that was promised is there
//		}
//	}
type Crashing struct {
	wrapped
	state *Memory // all that returned
	at    int

	mu      sync.Mutex
	changes int
	crashed bool
	log     []Call
	flying  []change // begun and not returned when the power was cut
	undoes  []undo   // deletes that returned and may not last
}

// change is a change of a state that may or may not be found after the cut.
type change struct {
	call    Call
	body    kassett.Body // of a put
	content []byte       // of the body, once it is read and checked
}

// undo is a file that may come back.
type undo struct {
	handle  kassett.Handle
	content []byte
}

// NewCrashing returns a storage that begins with what start holds now, and
// whose power is cut when its n-th change (Put, Delete, also beside) begins. 0
// never cuts it. start itself is not changed.
func NewCrashing(start *Memory, n int) *Crashing {
	c := &Crashing{state: start.Clone(), at: n}
	c.wrapped = wrapped{inner: c.state, around: func(call Call, do func() error) error {
		if call.Op == Put || call.Op == Delete {
			return ErrCrashed // see the methods below
		}
		if c.Crashed() {
			return ErrCrashed
		}
		return do()
	}}
	return c
}

// Crashed reports whether the power has been cut.
func (c *Crashing) Crashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

// Log returns the changes that began, in order, the one at which the power was
// cut last; those that then were on their way are among them.
func (c *Crashing) Log() []Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.log)
}

// Put implements [kassett.Storage].
func (c *Crashing) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return c.change(ctx, change{call: Call{Op: Put, Handle: h, Size: body.Size}, body: body})
}

// PutBeside implements [kassett.Beside].
func (c *Crashing) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	return c.change(ctx, change{call: Call{Op: Put, Beside: name, IsBeside: true, Size: body.Size}, body: body})
}

// Delete implements [kassett.Storage].
func (c *Crashing) Delete(ctx context.Context, h kassett.Handle) error {
	return c.change(ctx, change{call: Call{Op: Delete, Handle: h}})
}

// DeleteBeside implements [kassett.Beside].
func (c *Crashing) DeleteBeside(ctx context.Context, name string) error {
	return c.change(ctx, change{call: Call{Op: Delete, Beside: name, IsBeside: true}})
}

// change makes one change, or is cut off in it.
func (c *Crashing) change(ctx context.Context, ch change) error {
	c.mu.Lock()
	if c.crashed {
		c.mu.Unlock()
		return ErrCrashed
	}
	c.changes++
	ch.call.N = c.changes
	c.log = append(c.log, ch.call)
	c.crashed = c.changes == c.at
	c.mu.Unlock()

	// The body is read while the power may be cut by others.
	if ch.call.Op == Put {
		b, err := readBody(ctx, ch.body)
		if err != nil {
			return err
		}
		ch.content, ch.body = b, kassett.BytesBody(b, ch.body.Sum)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		c.flying = append(c.flying, ch)
		return ErrCrashed
	}
	old := c.state.Bytes(ch.call.Handle)
	if err := ch.apply(ctx, c.state); err != nil {
		return err
	}
	if k := ch.call.Handle.Kind; ch.call.Op == Delete && (k == kassett.PackFile || k == kassett.LockFile) {
		c.undoes = append(c.undoes, undo{ch.call.Handle, old})
	}
	return nil
}

// apply makes the change in m, as its caller asked for.
func (ch change) apply(ctx context.Context, m *Memory) error {
	switch {
	case ch.call.Op == Put && ch.call.IsBeside:
		return m.PutBeside(ctx, ch.call.Beside, ch.body)
	case ch.call.Op == Put:
		return m.Put(ctx, ch.call.Handle, ch.body)
	case ch.call.IsBeside:
		return m.DeleteBeside(ctx, ch.call.Beside)
	}
	return m.Delete(ctx, ch.call.Handle)
}

// keep makes the change in m after all, and reports whether it could be made:
// the name of a put may have been taken by another before the cut.
func (ch change) keep(m *Memory) bool {
	there := m.Bytes(ch.call.Handle) != nil
	if ch.call.IsBeside {
		there = m.names[ch.call.Beside] != nil
	}
	switch {
	case there == (ch.call.Op == Put):
		return false
	case ch.call.Op == Put && ch.call.IsBeside:
		m.names[ch.call.Beside] = ch.content
	case ch.call.Op == Put:
		m.files[ch.call.Handle] = ch.content
	case ch.call.IsBeside:
		delete(m.names, ch.call.Beside)
	default:
		delete(m.files, ch.call.Handle)
	}
	return true
}

// Survivors yields what may be found after the power came back, each with a
// name for the test's messages: every choice of the changes that were on their
// way being lost or kept (with more than four of them: none, all, each alone,
// all but each), and each of these with the deletes that may be undone lasting,
// undone, and undone every second one. Those that are lost leave a leftover for
// Sweep. The states are independent of each other. Call it once the work has
// returned. Without a crash it yields the one state there is.
func (c *Crashing) Survivors() iter.Seq2[string, *Memory] {
	return func(yield func(string, *Memory) bool) {
		for _, kept := range choices(len(c.flying)) {
			for _, undone := range undoings(len(c.undoes)) {
				m := c.state.Clone()
				for i, ch := range c.flying {
					if !slices.Contains(kept, i) || !ch.keep(m) {
						m.torn++
					}
				}
				name := fmt.Sprintf("cut at change %d, of %d on their way kept %v", c.changes, len(c.flying), kept)
				for i, u := range c.undoes {
					if undone != 0 && i%undone == 0 {
						m.Damage(u.handle, func(b []byte) []byte {
							if b != nil {
								return b // stored anew since
							}
							return u.content
						})
					}
				}
				if undone != 0 {
					name += fmt.Sprintf(", one in %d of %d deletes undone", undone, len(c.undoes))
				}
				if !yield(name, m) {
					return
				}
			}
		}
	}
}

// undoings returns of how many deletes one is undone; 0 means that all last.
func undoings(n int) []int {
	switch n {
	case 0:
		return []int{0}
	case 1:
		return []int{0, 1}
	}
	return []int{0, 1, 2}
}

// choices returns which of n changes are kept.
func choices(n int) (all [][]int) {
	if n <= 4 {
		for bits := range 1 << n {
			var kept []int
			for i := range n {
				if bits>>i&1 == 1 {
					kept = append(kept, i)
				}
			}
			all = append(all, kept)
		}
		return all
	}
	every := make([]int, n)
	for i := range every {
		every[i] = i
		all = append(all, []int{i})
	}
	for i := range every {
		all = append(all, slices.Delete(slices.Clone(every), i, i+1))
	}
	return append(all, nil, every)
}
