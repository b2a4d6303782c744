package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kassett"
)

// Memory is a storage in memory. The zero Memory is not usable: see
// [NewMemory]. It is safe for many goroutines.
type Memory struct {
	mu    sync.RWMutex
	files map[kassett.Handle][]byte // the slices are never written to
	names map[string][]byte         // beside
	torn  int                       // leftovers of interrupted writes
}

var (
	_ kassett.Storage = (*Memory)(nil)
	_ kassett.Beside  = (*Memory)(nil)
	_ kassett.Sweeper = (*Memory)(nil)
)

// NewMemory returns an empty storage.
func NewMemory() *Memory {
	return &Memory{files: map[kassett.Handle][]byte{}, names: map[string][]byte{}}
}

// Clone returns a storage that holds the same files now and goes its own way.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return &Memory{files: maps.Clone(m.files), names: maps.Clone(m.names), torn: m.torn}
}

// Handles returns the files of a kind, in order of their IDs.
func (m *Memory) Handles(k kassett.FileKind) []kassett.Handle {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var all []kassett.Handle
	for h := range m.files {
		if h.Kind == k {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b kassett.Handle) int { return a.ID.Compare(b.ID) })
	return all
}

// Bytes returns a copy of a file's content, or nil when it is not there.
func (m *Memory) Bytes(h kassett.Handle) []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.files[h])
}

// Damage replaces a file's content, behind the back of the storage, by what
// change makes of a copy of it. nil removes the file. A file that is not there
// is given to change as nil, so that foreign files can be planted.
func (m *Memory) Damage(h kassett.Handle, change func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := change(bytes.Clone(m.files[h])); b != nil {
		m.files[h] = b
	} else {
		delete(m.files, h)
	}
}

// DamageBeside is [Memory.Damage] for a file beside the repository.
func (m *Memory) DamageBeside(name string, change func([]byte) []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := change(bytes.Clone(m.names[name])); b != nil {
		m.names[name] = b
	} else {
		delete(m.names, name)
	}
}

// Put implements [kassett.Storage].
func (m *Memory) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return put(ctx, m, m.files, h, body)
}

// PutBeside implements [kassett.Beside].
func (m *Memory) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	if !kassett.ValidBeside(name) {
		return fail("write file", name, kassett.Invalid)
	}
	return put(ctx, m, m.names, name, body)
}

func put[K comparable](ctx context.Context, m *Memory, files map[K][]byte, key K, body kassett.Body) error {
	const op = "write file"
	what := fmt.Sprint(key)
	m.mu.RLock()
	_, there := files[key]
	m.mu.RUnlock()
	if there {
		return fail(op, what, kassett.Exists)
	}
	b, err := readBody(ctx, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, what, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := files[key]; there {
		return fail(op, what, kassett.Exists)
	}
	files[key] = b
	return nil
}

// readBody reads and checks a body as a storage must.
func readBody(ctx context.Context, body kassett.Body) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := body.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // only read
	b := bytes.NewBuffer([]byte{})   // never nil, also when empty
	for {
		_, err := io.CopyN(b, r, 1<<20)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if int64(b.Len()) > body.Size {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if int64(b.Len()) != body.Size || kassett.Hash(b.Bytes()) != body.Sum {
		return nil, fail("check what is to be stored", "", kassett.Corrupt)
	}
	return b.Bytes(), nil
}

// Get implements [kassett.Storage].
func (m *Memory) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	m.mu.RLock()
	b, there := m.files[h]
	m.mu.RUnlock()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read file %s: %w", h, ctx.Err())
	case off < 0:
		return nil, fail("read file", h.String(), kassett.Invalid)
	case !there:
		return nil, fail("read file", h.String(), kassett.NotFound)
	}
	return part(ctx, b, off, n), nil
}

// GetBeside implements [kassett.Beside].
func (m *Memory) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	m.mu.RLock()
	b, there := m.names[name]
	m.mu.RUnlock()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("read file %s: %w", name, ctx.Err())
	case !kassett.ValidBeside(name):
		return nil, fail("read file", name, kassett.Invalid)
	case !there:
		return nil, fail("read file", name, kassett.NotFound)
	}
	return part(ctx, b, 0, -1), nil
}

// part streams n bytes of b from off, or all that are left when n < 0.
func part(ctx context.Context, b []byte, off, n int64) io.ReadCloser {
	b = b[min(off, int64(len(b))):]
	end := io.EOF
	if n >= 0 && n <= int64(len(b)) {
		b = b[:n]
	} else if n >= 0 {
		end = io.ErrUnexpectedEOF
	}
	return &stream{alive: ctx.Err, rest: b, end: end}
}

// stream reads bytes, then gives its end.
type stream struct {
	alive func() error // of the context of the Get
	rest  []byte
	end   error
}

func (s *stream) Read(p []byte) (int, error) {
	if err := s.alive(); err != nil {
		return 0, err
	}
	if len(s.rest) == 0 && len(p) > 0 {
		return 0, s.end
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stream) Close() error { return nil }

// Stat implements [kassett.Storage].
func (m *Memory) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	if err := ctx.Err(); err != nil {
		return kassett.Info{}, fmt.Errorf("find file %s: %w", h, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, there := m.files[h]
	if !there {
		return kassett.Info{}, fail("find file", h.String(), kassett.NotFound)
	}
	return kassett.Info{Handle: h, Size: int64(len(b))}, nil
}

// List implements [kassett.Storage]. The order changes from call to call, so
// that nobody comes to rely on it.
func (m *Memory) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		var all []kassett.Info
		m.mu.RLock()
		for h, b := range m.files { // map order
			if h.Kind == k && (k != kassett.LockFile || len(b) > 0) {
				all = append(all, kassett.Info{Handle: h, Size: int64(len(b))})
			}
		}
		m.mu.RUnlock()
		for _, in := range all {
			if err := ctx.Err(); err != nil {
				yield(kassett.Info{}, fmt.Errorf("list files: %w", err))
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// ListBeside implements [kassett.Beside].
func (m *Memory) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	return func(yield func(kassett.BesideInfo, error) bool) {
		below := strings.TrimSuffix(folder, "/") + "/"
		var all []kassett.BesideInfo
		m.mu.RLock()
		for name, b := range m.names {
			if below == "/" || strings.HasPrefix(name, below) {
				all = append(all, kassett.BesideInfo{Name: name, Size: int64(len(b))})
			}
		}
		m.mu.RUnlock()
		for _, in := range all {
			if err := ctx.Err(); err != nil {
				yield(kassett.BesideInfo{}, fmt.Errorf("list files: %w", err))
				return
			}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// Delete implements [kassett.Storage].
func (m *Memory) Delete(ctx context.Context, h kassett.Handle) error {
	return remove(ctx, m, m.files, h)
}

// DeleteBeside implements [kassett.Beside].
func (m *Memory) DeleteBeside(ctx context.Context, name string) error {
	if !kassett.ValidBeside(name) {
		return fail("delete file", name, kassett.Invalid)
	}
	return remove(ctx, m, m.names, name)
}

func remove[K comparable](ctx context.Context, m *Memory, files map[K][]byte, key K) error {
	const op = "delete file"
	what := fmt.Sprint(key)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", op, what, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := files[key]; !there {
		return fail(op, what, kassett.NotFound)
	}
	delete(files, key)
	return nil
}

// Sweep implements [kassett.Sweeper]. Leftovers here have no age.
func (m *Memory) Sweep(ctx context.Context, _ time.Time) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("remove leftovers: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.torn
	m.torn = 0
	return n, nil
}

func fail(op, what string, k kassett.Kind) error {
	e := &kassett.Error{Op: op, What: what, Kind: k}
	switch k {
	case kassett.NotFound:
		e.Err = fs.ErrNotExist
	case kassett.Exists:
		e.Err = fs.ErrExist
	case kassett.Invalid:
		e.Err = errors.New("not a name or an offset")
	case kassett.Corrupt:
		e.Err = errors.New("size or SHA-256 is another")
	}
	return e
}
