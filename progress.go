package kassett

import "sync/atomic"

// Progress counts what long work has done, so that someone else can look at
// any moment. All methods are safe from many goroutines and on a nil *Progress,
// so work that nobody watches costs nothing.
type Progress struct {
	stage, at          atomic.Pointer[string]
	items, itemsWanted atomic.Int64
	bytes, bytesWanted atomic.Int64
	problems           atomic.Int64
	stored             atomic.Int64
}

// Look is what a [Progress] says at one moment.
type Look struct {
	Stage       string // what is being done, a few words for people
	At          string // the current file, pack or table; may be empty
	Items       int64  // done so far in this stage
	ItemsWanted int64  // in all, as far as known; 0 when unknown
	Bytes       int64
	BytesWanted int64
	Stored      int64 // bytes added to the repository so far, over all stages
	Problems    int64 // named to the user so far, over all stages
}

// Enter begins a stage: the counts of items and bytes start again at zero.
func (p *Progress) Enter(stage string) {
	if p == nil {
		return
	}
	p.items.Store(0)
	p.itemsWanted.Store(0)
	p.bytes.Store(0)
	p.bytesWanted.Store(0)
	p.at.Store(nil)
	p.stage.Store(&stage)
}

// Expect adds to what this stage has to do.
func (p *Progress) Expect(items, bytes int64) {
	if p == nil {
		return
	}
	p.itemsWanted.Add(items)
	p.bytesWanted.Add(bytes)
}

// Done adds to what this stage has done.
func (p *Progress) Done(items, bytes int64) {
	if p == nil {
		return
	}
	p.items.Add(items)
	p.bytes.Add(bytes)
}

// Stored adds to the bytes written to the repository.
func (p *Progress) Stored(bytes int64) {
	if p != nil {
		p.stored.Add(bytes)
	}
}

// Problem counts one problem that was named.
func (p *Progress) Problem() {
	if p != nil {
		p.problems.Add(1)
	}
}

// At says what is being worked on.
func (p *Progress) At(what string) {
	if p != nil {
		p.at.Store(&what)
	}
}

// Look returns the state of this moment.
func (p *Progress) Look() Look {
	if p == nil {
		return Look{}
	}
	l := Look{
		Items: p.items.Load(), ItemsWanted: p.itemsWanted.Load(),
		Bytes: p.bytes.Load(), BytesWanted: p.bytesWanted.Load(),
		Stored: p.stored.Load(), Problems: p.problems.Load(),
	}
	if s := p.stage.Load(); s != nil {
		l.Stage = *s
	}
	if s := p.at.Load(); s != nil {
		l.At = *s
	}
	return l
}
