package storagetest

import (
	"errors"
	"sync/atomic"

	"kassett"
)

// ErrInjected is what a [Failing] storage fails with when nothing else is said.
var ErrInjected = errors.New("failure made by a test")

// Fault is how a call fails.
type Fault struct {
	Err error // what the caller is told
	// After says that the call does its work first, and only its answer is
	// lost: a Put is stored, a Delete has deleted; the stream of a Get and a
	// List break off in the middle.
	After bool
}

// Failing is a storage in which some calls fail.
type Failing struct{ wrapped }

// NewFailing returns a storage that asks rule about every call, and passes on
// to inner those for which it returns nil. rule may be called from many
// goroutines.
func NewFailing(inner kassett.Storage, rule func(Call) *Fault) *Failing {
	return &Failing{wrapped{inner: inner, around: func(c Call, do func() error) error {
		f := rule(c)
		if f == nil {
			return do()
		}
		if f.After {
			if err := do(); err != nil {
				return err
			}
		}
		return f.Err
	}}}
}

// FailNth fails the n-th call, from 1, and no other, with [ErrInjected].
func FailNth(n int, after bool) func(Call) *Fault {
	return func(c Call) *Fault {
		if c.N != n {
			return nil
		}
		return &Fault{Err: ErrInjected, After: after}
	}
}

// FailKind fails every call of one op on one kind of file with err.
func FailKind(op Op, k kassett.FileKind, err error) func(Call) *Fault {
	return func(c Call) *Fault {
		if c.Op != op || c.IsBeside || c.Handle.Kind != k {
			return nil
		}
		return &Fault{Err: err}
	}
}

// DiskFull fails the n-th put, from 1, and every later one with a
// [kassett.Full] error. Nothing else fails.
func DiskFull(n int) func(Call) *Fault {
	var puts atomic.Int64
	return func(c Call) *Fault {
		if c.Op != Put || puts.Add(1) < int64(n) {
			return nil
		}
		return &Fault{Err: &kassett.Error{
			Op: "write file", What: c.Handle.String(), Kind: kassett.Full,
			Err: ErrInjected, Hint: "free some room",
		}}
	}
}

// ReadOnly fails every change with a [kassett.Denied] error.
func ReadOnly() func(Call) *Fault {
	return func(c Call) *Fault {
		if !c.Op.Changes() {
			return nil
		}
		return &Fault{Err: &kassett.Error{
			Op: c.Op.String() + " file", What: c.Handle.String(), Kind: kassett.Denied,
			Err: ErrInjected, Hint: "make the storage writable",
		}}
	}
}
