package mount

import (
	"context"
	"errors"
	"sync"

	"kassett"
)

// maxNamed is how many things are named that cannot be read.
const maxNamed = 10_000

// faults knows what was named already.
type faults struct {
	mu    sync.Mutex
	named map[faultKey]struct{}
	away  bool // the storage does not answer, and that was said
}

// faultKey is what is named once: a blob at one place in the view, so that every
// file that lost something is told of.
type faultKey struct {
	id    kassett.ID
	where string
	kind  kassett.Kind
}

// first reports whether something is to be named.
func (f *faults) first(k faultKey) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, there := f.named[k]; there || len(f.named) >= maxNamed {
		return false
	}
	if f.named == nil {
		f.named = map[faultKey]struct{}{}
	}
	f.named[k] = struct{}{}
	return true
}

// lost reports whether the storage was there until now.
func (f *faults) lost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.away
	f.away = true
	return !was
}

// fine says that the storage is back, if it was away.
func (f *faults) fine(notice func(string)) {
	f.mu.Lock()
	was := f.away
	f.away = false
	f.mu.Unlock()
	if was && notice != nil {
		notice("the storage is back: everything can be read again")
	}
}

// fault names what could not be read. When the storage as a whole is away, that
// is named instead, once until it is back. What was only interrupted is nobody's
// fault.
func (v *View) fault(where string, id kassett.ID, err error) {
	if v.ctx.Err() != nil || errors.Is(err, errDropped) || v.o.Warn == nil {
		return
	}
	var away error
	if v.while(func() { away = v.away(err) }) != nil {
		return
	}
	if away != nil {
		if v.faults.lost() {
			v.o.Warn("storage", away)
		}
		return
	}
	if v.faults.first(faultKey{id, where, kassett.KindOf(err)}) {
		v.o.Warn(where, err)
	}
}

// away asks the storage for the file that every repository has, and returns what
// is wrong when it does not answer.
func (v *View) away(cause error) error {
	ctx, cancel := context.WithTimeout(v.ctx, askTime)
	defer cancel()
	_, err := v.r.Storage().Stat(ctx, kassett.Handle{Kind: kassett.ConfigFile})
	if err == nil && !errors.Is(cause, context.DeadlineExceeded) {
		return nil
	}
	if err == nil {
		err = cause
	}
	return &kassett.Error{
		Op: "read repository", Kind: kassett.Offline, Err: err,
		Hint: "bring the storage back; reading goes on by itself then, and fails until it does",
	}
}
