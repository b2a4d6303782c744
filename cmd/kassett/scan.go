package main

import (
	"context"
	"sync"
	"sync/atomic"

	"kassett"
	"kassett/source/files"
)

// workload is how much there is to do, once it has been counted.
type workload struct {
	items, bytes atomic.Int64
	done         atomic.Bool
}

// counted returns the amounts, zero until all is counted.
func (w *workload) counted() (items, bytes int64) {
	if !w.done.Load() {
		return 0, 0
	}
	return w.items.Load(), w.bytes.Load()
}

// scan counts, beside the backup, what it will find, when somebody is watching
// and wants to know how long it takes. What it cannot read the backup names.
func (a *app) scan(ctx context.Context, b *backupFlags) (w *workload, end func()) {
	w = new(workload)
	if b.noScan || b.stdin || !a.watched() {
		return w, func() {}
	}
	o := b.source
	o.Warn = nil
	src, err := files.New(o)
	if err != nil {
		return w, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	g.Go(func() {
		defer func() { _ = src.Thaw(ctx) }()
		if src.Freeze(ctx) == nil && w.count(ctx, src, "") {
			w.done.Store(true)
		}
	})
	return w, func() {
		cancel()
		g.Wait()
	}
}

// count adds up what is below dir, and reports whether it came to the end.
func (w *workload) count(ctx context.Context, src kassett.Source, dir string) bool {
	list, _ := src.List(ctx, dir)
	for i := range list {
		e := &list[i]
		if ctx.Err() != nil {
			return false
		}
		switch {
		case e.Err != nil:
		case e.Type == kassett.Dir:
			path := e.Name
			if dir != "" {
				path = dir + "/" + e.Name
			}
			if !w.count(ctx, src, path) {
				return false
			}
		case e.Type == kassett.File:
			w.items.Add(1)
			w.bytes.Add(int64(e.Size)) //nolint:gosec // a display
		}
	}
	return ctx.Err() == nil
}
