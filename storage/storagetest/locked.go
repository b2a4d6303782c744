package storagetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kassett"
)

// Locked is a [Memory] that retains files and keeps versions, as a bucket with
// object lock does. See [NewLocked].
type Locked struct {
	*Memory
	policy kassett.Retention
	clock  func() time.Time

	change   sync.Mutex // guards what follows, and changes of Memory
	versions map[kassett.StoredName][]memoryVersion
	last     int
	asked    map[string]int // calls of Retainer, by name
}

// memoryVersion is one version, or a mark when its bytes are nil.
type memoryVersion struct {
	id             string
	b              []byte
	written, until time.Time
}

var (
	_ kassett.Retainer  = (*Locked)(nil)
	_ kassett.Versioned = (*Locked)(nil)
)

// NewLocked returns an empty storage that retains new files as the policy says,
// by the given clock.
func NewLocked(policy kassett.Retention, clock func() time.Time) *Locked {
	return &Locked{
		Memory: NewMemory(), policy: policy, clock: clock,
		versions: map[kassett.StoredName][]memoryVersion{}, asked: map[string]int{},
	}
}

// retains reports whether a new file of that name is retained.
func (l *Locked) retains(n kassett.StoredName) bool {
	if n.Beside != "" {
		return strings.HasPrefix(n.Beside, "records/")
	}
	return n.Kind != kassett.LockFile
}

// Put implements [kassett.Storage].
func (l *Locked) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.Memory.Put(ctx, h, body); err != nil {
		return err
	}
	l.push(kassett.StoredName{Handle: h}, l.Bytes(h))
	return nil
}

// PutBeside implements [kassett.Beside].
func (l *Locked) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	l.change.Lock()
	defer l.change.Unlock()
	if err := l.Memory.PutBeside(ctx, name, body); err != nil {
		return err
	}
	l.mu.RLock()
	b := l.names[name]
	l.mu.RUnlock()
	l.push(kassett.StoredName{Beside: name}, b)
	return nil
}

// push notes what was stored. The caller holds l.change.
func (l *Locked) push(n kassett.StoredName, b []byte) {
	l.last++
	v := memoryVersion{id: fmt.Sprint("v", l.last), b: b, written: l.clock()}
	if b != nil && l.retains(n) && l.policy.On() {
		v.until = v.written.Add(l.policy.Span())
	}
	l.versions[n] = append(l.versions[n], v)
}

// Delete implements [kassett.Storage].
func (l *Locked) Delete(ctx context.Context, h kassett.Handle) error {
	return l.drop(kassett.StoredName{Handle: h}, func() error { return l.Memory.Delete(ctx, h) })
}

// DeleteBeside implements [kassett.Beside].
func (l *Locked) DeleteBeside(ctx context.Context, name string) error {
	return l.drop(kassett.StoredName{Beside: name}, func() error { return l.Memory.DeleteBeside(ctx, name) })
}

func (l *Locked) drop(n kassett.StoredName, do func() error) error {
	l.change.Lock()
	defer l.change.Unlock()
	var until time.Time
	for _, v := range l.versions[n] {
		if v.until.After(until) {
			until = v.until
		}
	}
	if until.After(l.clock()) {
		return &kassett.Error{
			Op: "delete file", What: n.String(), Kind: kassett.Held,
			Err: &kassett.HeldError{Until: until, Mode: l.policy.Mode},
		}
	}
	if err := do(); err != nil {
		return err
	}
	delete(l.versions, n)
	return nil
}

// Overwrite puts new content over a file, as whoever has the keys of a bucket
// can; nil puts a mark over it.
func (l *Locked) Overwrite(n kassett.StoredName, b []byte) {
	l.change.Lock()
	defer l.change.Unlock()
	l.push(n, bytes.Clone(b))
	l.show(n)
}

// Asked returns how often a method of [kassett.Retainer] was called, by its
// name, and begins to count anew.
func (l *Locked) Asked() map[string]int {
	l.change.Lock()
	defer l.change.Unlock()
	asked := l.asked
	l.asked = map[string]int{}
	return asked
}

// show makes Memory hold the latest version. The caller holds l.change.
func (l *Locked) show(n kassett.StoredName) {
	var b []byte
	if all := l.versions[n]; len(all) > 0 {
		b = all[len(all)-1].b
	}
	set := func([]byte) []byte { return b }
	if n.Beside != "" {
		l.DamageBeside(n.Beside, set)
	} else {
		l.Damage(n.Handle, set)
	}
}

// Retention implements [kassett.Retainer].
func (l *Locked) Retention() kassett.Retention { return l.policy }

// Clock implements [kassett.Retainer].
func (l *Locked) Clock(ctx context.Context) (time.Time, error) {
	l.change.Lock()
	defer l.change.Unlock()
	l.asked["Clock"]++
	return l.clock(), ctx.Err()
}

// RetainedUntil implements [kassett.Retainer].
func (l *Locked) RetainedUntil(ctx context.Context, n kassett.StoredName) (time.Time, error) {
	l.change.Lock()
	defer l.change.Unlock()
	l.asked["RetainedUntil"]++
	v, err := l.latest(ctx, "find retention of file", n)
	if err != nil {
		return time.Time{}, err
	}
	return v.until, nil
}

// Retain implements [kassett.Retainer].
func (l *Locked) Retain(ctx context.Context, n kassett.StoredName, least, until time.Time) (time.Time, error) {
	l.change.Lock()
	defer l.change.Unlock()
	l.asked["Retain"]++
	v, err := l.latest(ctx, "retain file", n)
	if err != nil {
		return time.Time{}, err
	}
	if !n.ID.IsZero() && kassett.Hash(v.b) != n.ID {
		return time.Time{}, fail("retain file", n.String(), kassett.Corrupt)
	}
	if v.until.Before(least) && until.After(v.until) {
		l.asked["extended"]++
		v.until = until
	}
	return v.until, nil
}

// latest returns the version that Get reads. The caller holds l.change.
func (l *Locked) latest(ctx context.Context, op string, n kassett.StoredName) (*memoryVersion, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", op, n, err)
	}
	all := l.versions[n]
	if len(all) == 0 || all[len(all)-1].b == nil {
		return nil, fail(op, n.String(), kassett.NotFound)
	}
	return &all[len(all)-1], nil
}

// Versions implements [kassett.Versioned].
func (l *Locked) Versions(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Version, error] {
	return func(yield func(kassett.Version, error) bool) {
		l.change.Lock()
		all := maps.Clone(l.versions)
		for n, versions := range all {
			all[n] = slices.Clone(versions)
		}
		l.change.Unlock()
		for n, versions := range all {
			if n.Kind != k {
				continue
			}
			for i, v := range slices.Backward(versions) {
				if err := ctx.Err(); err != nil {
					yield(kassett.Version{}, fmt.Errorf("list versions: %w", err))
					return
				}
				if !yield(kassett.Version{
					StoredName: n, ID: v.id, Size: int64(len(v.b)), Written: v.written,
					Latest: i == len(versions)-1, Deleted: v.b == nil,
				}, nil) {
					return
				}
			}
		}
	}
}

// find returns the position of a version. The caller holds l.change.
func (l *Locked) find(v kassett.Version) (int, error) {
	i := slices.IndexFunc(l.versions[v.StoredName], func(m memoryVersion) bool { return m.id == v.ID && m.b != nil })
	if i < 0 {
		return 0, fail("find version", v.String(), kassett.NotFound)
	}
	return i, nil
}

// ReadVersion implements [kassett.Versioned].
func (l *Locked) ReadVersion(ctx context.Context, v kassett.Version) (io.ReadCloser, error) {
	l.change.Lock()
	defer l.change.Unlock()
	i, err := l.find(v)
	if err != nil {
		return nil, err
	}
	return part(ctx, l.versions[v.StoredName][i].b, 0, -1), nil
}

// Restore implements [kassett.Versioned].
func (l *Locked) Restore(ctx context.Context, v kassett.Version) error {
	l.change.Lock()
	defer l.change.Unlock()
	i, err := l.find(v)
	if err != nil || ctx.Err() != nil {
		return cmp.Or(err, ctx.Err())
	}
	all := l.versions[v.StoredName]
	if !slices.ContainsFunc(all[i+1:], func(m memoryVersion) bool { return m.b != nil }) {
		l.versions[v.StoredName] = all[:i+1] // only marks are above it
	} else {
		l.push(v.StoredName, all[i].b)
	}
	l.show(v.StoredName)
	return nil
}

// Hide implements [kassett.Versioned].
func (l *Locked) Hide(ctx context.Context, n kassett.StoredName) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("hide file %s: %w", n, err)
	}
	l.Overwrite(n, nil)
	return nil
}
