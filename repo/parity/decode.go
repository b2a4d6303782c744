package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"kassett"
)

// maxRebuild bounds the bytes that are rebuilt in memory at once.
const maxRebuild = 1 << 30

// condition is how the files of a set are.
type condition struct {
	*set
	files []fileCondition // by member
	bad   []int           // input slices that must be rebuilt, ascending
}

// fileCondition is how one file is.
type fileCondition struct {
	first int // its first input slice
	there bool
	whole bool // its bytes are what its name says
	err   error
	bad   []int // of its slices
	size  int64 // as stored
}

// inspect reads every file of a set.
func (k *Keeper) inspect(ctx context.Context, s *set) (*condition, error) {
	c := &condition{set: s, files: make([]fileCondition, len(s.members))}
	first := 0
	for i := range s.members {
		f := &c.files[i]
		f.first = first
		if err := k.inspectFile(ctx, s, &s.members[i], f); err != nil {
			return nil, err
		}
		for _, b := range f.bad {
			c.bad = append(c.bad, first+b)
		}
		first += len(s.members[i].slices)
	}
	return c, nil
}

func (k *Keeper) inspectFile(ctx context.Context, s *set, m *member, f *fileCondition) error {
	info, err := k.storage.Stat(ctx, m.Handle)
	if err != nil && kassett.KindOf(err) != kassett.NotFound {
		return err
	}
	f.there, f.size = err == nil, info.Size
	h, seen := newHashes(), 0
	if f.there {
		f.err = readSlices(ctx, k.storage, m, s.sliceSize, func(p piece) error {
			k.options.Progress.Done(0, int64(len(p.b)))
			if kind := kassett.KindOf(p.err); p.err != nil && (kind == kassett.Offline || kind == kassett.Interrupted) {
				return p.err
			}
			seen = p.i + 1
			if one := h.add(p.b, s.sliceSize, nil); p.err != nil || one != m.slices[p.i] {
				f.bad = append(f.bad, p.i)
			}
			return context.Cause(ctx)
		})
	}
	if kind := kassett.KindOf(f.err); f.err != nil && (ctx.Err() != nil || kind == kassett.Offline || kind == kassett.Interrupted) {
		return f.err
	}
	for ; seen < len(m.slices); seen++ {
		f.bad = append(f.bad, seen)
	}
	f.whole = f.there && f.size == m.size && k.proved(m, h)
	switch {
	case !f.there:
		f.err = &kassett.Error{Kind: kassett.NotFound, Err: errors.New("it is not there")}
	case f.size != m.size:
		f.err = &kassett.Error{Kind: kassett.Corrupt, Err: fmt.Errorf("it has %d bytes, want %d", f.size, m.size)}
	case f.whole:
		f.err = nil
	case f.err == nil:
		f.err = errDamaged
	}
	return nil
}

// proved reports whether the bytes that went through h are those of m: by the
// SHA-256 that is the file's name, for the config by the MD5 of the set.
func (k *Keeper) proved(m *member, h *hashes) bool {
	if m.Kind == kassett.ConfigFile {
		return sum(h.whole.Sum(nil)) == m.whole
	}
	return kassett.ID(h.sha.Sum(nil)) == m.ID
}

// errTooMuch is that more is damaged than the parity can mend.
func errTooMuch(bad, have int) error {
	return &kassett.Error{
		Kind: kassett.Corrupt,
		Err:  fmt.Errorf("%d pieces are damaged or missing, and there is parity for %d", bad, have),
		Hint: "put files back from a copy of the repository; what can be put back of this group lets the parity mend the rest",
	}
}

// rebuild makes the bad input slices of a set from its parity. They are proved
// by the checksums of the set.
func (k *Keeper) rebuild(ctx context.Context, c *condition) (map[int][]byte, error) {
	n := len(c.bad)
	if int64(n)*int64(c.sliceSize)*2 > maxRebuild {
		return nil, &kassett.Error{
			Kind: kassett.Invalid, Err: fmt.Errorf("%d pieces of %d bytes are too much to be mended in memory", n, c.sliceSize),
			Hint: "use the program par2, as docs/formats/parity.md describes",
		}
	}
	constants := k.field.constants(c.slices())
	q := &equations{f: k.field, missing: make([]uint16, n)}
	for i, b := range c.bad {
		q.missing[i] = constants[b]
	}
	recovery, exponents, err := k.readRecovery(ctx, c.set, q)
	if err != nil {
		return nil, err
	}
	solution := make([][]uint16, n)
	for i := range solution {
		solution[i] = q.solution(i)
	}
	result := newSums(k.field, n, c.sliceSize)
	row := make([]uint16, n)
	for e, slice := range recovery {
		for i := range row {
			row[i] = solution[i][e]
		}
		result.add(slice, row)
	}
	for i := range c.members {
		f := &c.files[i]
		if !f.there {
			continue
		}
		err := readSlices(ctx, k.storage, &c.members[i], c.sliceSize, func(p piece) error {
			if slices.Contains(f.bad, p.i) {
				return nil
			}
			if p.err != nil {
				return p.err // it was good a moment ago
			}
			for i := range row {
				row[i] = 0
				for e, exponent := range exponents {
					row[i] ^= k.field.mul(solution[i][e], k.field.pow(constants[f.first+p.i], exponent))
				}
			}
			result.add(p.b, row)
			return context.Cause(ctx)
		})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", c.members[i].Handle, err)
		}
	}
	return c.results(result)
}

// results takes the rebuilt slices out of the sums and proves them.
func (c *condition) results(s *sums) (map[int][]byte, error) {
	made := make(map[int][]byte, len(c.bad))
	for i := range c.members {
		for _, b := range c.files[i].bad {
			slice := make([]byte, c.sliceSize)
			s.row(slice, len(made))
			if sumSlice(slice, c.sliceSize) != c.members[i].slices[b] {
				return nil, &kassett.Error{
					Kind: kassett.Corrupt, Err: errors.New("what the parity gives is not what was stored: the parity itself is damaged, or something changed meanwhile"),
					Hint: "run the repair again; if it says the same, put the files back from a copy of the repository",
				}
			}
			made[c.files[i].first+b] = slice
		}
	}
	return made, nil
}

// readRecovery reads as many recovery slices as are needed, until q is solved.
func (k *Keeper) readRecovery(ctx context.Context, s *set, q *equations) (all [][]byte, exponents []uint32, err error) {
	if len(q.missing) == 0 {
		return nil, nil, nil
	}
	rc, err := k.beside.GetBeside(ctx, setName(s.id))
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rc.Close() }() // not read to its end
	in := newPacketReader(rc)
	for !q.solved() {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil, nil, errTooMuch(len(q.missing), len(all))
		}
		if err != nil {
			return nil, nil, err
		}
		if e, slice, ok := s.recovery(p); ok && q.add(e) {
			all, exponents = append(all, append([]byte(nil), slice...)), append(exponents, e)
		}
	}
	return all, exponents, nil
}

// verifySet reads the file of a set and says what is wrong with it.
func (k *Keeper) verifySet(ctx context.Context, s *set) error {
	rc, err := k.beside.GetBeside(ctx, setName(s.id))
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }() // every packet has its checksum
	seen := make(map[uint32]bool)
	in := newPacketReader(progressReader{rc, k.options.Progress})
	last := ""
	for {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if e, _, ok := s.recovery(p); ok {
			seen[e] = true
		}
		last = p.kind
	}
	if in.clean() && last == typeCreator && len(seen) > 0 {
		return nil
	}
	return &kassett.Error{
		Kind: kassett.Corrupt, Err: fmt.Errorf("this parity file is damaged; %d of its recovery slices are whole", len(seen)),
		Hint: "run `kassett repair parity`: it is made anew when all that it protects is whole",
	}
}

// progressReader counts what is read.
type progressReader struct {
	r io.Reader
	p *kassett.Progress
}

func (r progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.p.Done(0, int64(n))
	return n, err
}

// source reads a file as it should be: what is whole from the storage, the rest
// from made.
func (c *condition) source(ctx context.Context, st kassett.Storage, i int, made map[int][]byte) io.ReadCloser {
	return &mendedReader{ctx: ctx, st: st, c: c, member: i, made: made}
}

// mendedReader is one file of a set, mended.
type mendedReader struct {
	ctx    context.Context //nolint:containedctx // of the one read it is for
	st     kassett.Storage
	c      *condition
	member int
	made   map[int][]byte
	slice  int // the next one
	now    io.Reader
	rc     io.ReadCloser
}

func (r *mendedReader) Read(b []byte) (int, error) {
	for {
		if r.now != nil {
			n, err := r.now.Read(b)
			if n > 0 || err != nil && !errors.Is(err, io.EOF) {
				return n, err
			}
			r.now = nil
			if err := r.Close(); err != nil {
				return 0, err
			}
		}
		m := &r.c.members[r.member]
		if r.slice == len(m.slices) {
			return 0, io.EOF
		}
		size := int64(r.c.sliceSize)
		off := int64(r.slice) * size
		n := min(size, m.size-off)
		if mended, ok := r.made[r.c.files[r.member].first+r.slice]; ok {
			r.now = &sliceBytes{mended[:n]}
		} else {
			rc, err := r.st.Get(r.ctx, m.Handle, off, n)
			if err != nil {
				return 0, err
			}
			r.now, r.rc = rc, rc
		}
		r.slice++
	}
}

// sliceBytes reads bytes.
type sliceBytes struct{ b []byte }

func (s *sliceBytes) Read(b []byte) (int, error) {
	n := copy(b, s.b)
	if s.b = s.b[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close ends the reading of the storage.
func (r *mendedReader) Close() error {
	rc := r.rc
	if r.rc = nil; rc == nil {
		return nil
	}
	return rc.Close()
}
