package parity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"kassett"
)

// RepairOptions are for [Keeper.Repair].
type RepairOptions struct {
	// Only names the files that are looked at, with the files that stand in
	// sets with them. When nil, every protected file is read.
	Only []kassett.Handle
	// Door looks at keys and config only, for a repository that they do not
	// open any more.
	Door bool
	// Gone also brings back index files, snapshots and keys that are not
	// there, which may have been removed on purpose.
	Gone   bool
	DryRun bool
}

// Outcome is what became of one damaged or missing file, or of a parity file.
type Outcome struct {
	kassett.Handle        // zero for a parity file
	What           string // the file, as "data/3fa9…", or the parity file's name
	Fault          error  // what was wrong with it
	Err            error  // why it could not be repaired; nil when it was, or could be
	Aside          string // where its damaged bytes were put, "" when there were none
}

// RepairStats is what a repair did.
type RepairStats struct {
	Read       int   `json:"files_read"`
	Bytes      int64 `json:"bytes_read"`
	Damaged    int   `json:"files_damaged"` // or missing
	Repaired   int   `json:"files_repaired"`
	ParityLost int   `json:"parity_files_damaged"`
}

// Repair reads protected files and rebuilds from parity those that are damaged,
// and packs that are missing but needed. What it finds and does is told to
// report. A rebuilt file is stored only when its SHA-256 is its name. The bytes
// of the damaged one are put aside before, and the rebuilt ones are durable
// beside the repository before the damaged file is removed, so that a repair may
// be broken off at any moment: the next one goes on. A group that is damaged
// beyond its parity is left as it is.
//
// Parity files that are damaged are removed when all that they protect is whole;
// [Keeper.Update] makes them anew.
//
// The caller holds an exclusive lock, if the repository can be opened at all.
// When something could not be repaired the error is [kassett.Corrupt].
func (k *Keeper) Repair(ctx context.Context, o RepairOptions, report func(Outcome)) (RepairStats, error) {
	inv, err := k.look(ctx)
	if err != nil {
		return RepairStats{}, err
	}
	x := &repairer{k: k, inv: inv, o: o, report: report, done: make(map[kassett.Handle]bool)}
	if !o.DryRun {
		for _, name := range inv.left {
			if err := x.resume(ctx, name); err != nil {
				return x.stats, err
			}
		}
	}
	var todo []storedSet
	for _, s := range inv.sets {
		if x.wanted(s) {
			todo = append(todo, s)
		}
	}
	k.options.Progress.Enter("read what is protected")
	for _, s := range todo {
		for i := range s.members {
			k.options.Progress.Expect(1, s.members[i].size)
		}
	}
	for _, s := range todo {
		if err := x.set(ctx, s); err != nil {
			return x.stats, err
		}
		k.options.Progress.Done(int64(len(s.members)), 0)
	}
	return x.stats, x.verdict()
}

// repairer is one repair at work.
type repairer struct {
	k      *Keeper
	inv    *inventory
	o      RepairOptions
	report func(Outcome)
	stats  RepairStats
	failed int
	done   map[kassett.Handle]bool // repaired through another set
}

// wanted reports whether a set is to be looked at.
func (x *repairer) wanted(s storedSet) bool {
	if x.o.Door {
		return class(s.members[0].Kind) == class(kassett.KeyFile)
	}
	return x.o.Only == nil || slices.ContainsFunc(s.members, func(m member) bool { return slices.Contains(x.o.Only, m.Handle) })
}

func (x *repairer) verdict() error {
	if x.failed == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "repair from parity", Kind: kassett.Corrupt, Err: fmt.Errorf("%d files could not be repaired", x.failed),
		Hint: "put the named files back from a copy of the repository; if there is none, save what can be read with `kassett repair packs`",
	}
}

// set looks at one set and mends it.
func (x *repairer) set(ctx context.Context, s storedSet) error {
	whole, err := x.k.load(ctx, setName(s.id)) // with the checksums of its slices
	if err != nil {
		return err
	}
	c, err := x.k.inspect(ctx, whole)
	if err != nil {
		return err
	}
	var todo []int // members to be mended
	for i := range c.files {
		f, h := &c.files[i], s.members[i].Handle
		if f.there {
			x.stats.Read++
			x.stats.Bytes += f.size
		}
		if !f.whole && (f.there || x.o.Gone || x.inv.needed(h)) && !x.done[h] {
			todo = append(todo, i)
			x.stats.Damaged++
			x.k.options.Progress.Problem()
		}
	}
	if len(todo) == 0 {
		return x.parityFile(ctx, s)
	}
	made, err := x.k.rebuild(ctx, c)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var out []Outcome
	for _, i := range todo {
		out = append(out, Outcome{Handle: s.members[i].Handle, What: s.members[i].String(), Fault: c.files[i].err, Err: err})
	}
	if err == nil {
		err = x.mend(ctx, c, todo, made, out)
	}
	for i := range out {
		if out[i].Err == nil {
			out[i].Err = err
		}
		if out[i].Err != nil {
			x.failed++
		} else {
			x.done[out[i].Handle] = true
			if !x.o.DryRun {
				x.stats.Repaired++
			}
		}
		x.report(out[i])
	}
	return context.Cause(ctx)
}

// parityFile reads the parity of a set that is whole itself.
func (x *repairer) parityFile(ctx context.Context, s storedSet) error {
	if x.o.Only != nil {
		return nil // they are whole, and nothing else was asked for
	}
	fault := x.k.verifySet(ctx, s.set)
	if fault == nil || ctx.Err() != nil || kassett.KindOf(fault) != kassett.Corrupt {
		return fault
	}
	x.stats.ParityLost++
	out := Outcome{What: setName(s.id), Fault: fault}
	if !x.o.DryRun && !s.hurt {
		if err := x.k.pass(ctx); err != nil {
			return err
		}
		out.Err = x.k.beside.DeleteBeside(ctx, setName(s.id))
	}
	x.report(out)
	return nil
}

// mend stores the rebuilt files: all of them beside the repository first, since
// from there on the damaged ones are no longer needed.
func (x *repairer) mend(ctx context.Context, c *condition, todo []int, made map[int][]byte, out []Outcome) error {
	ids := make([]kassett.ID, len(todo))
	for n, i := range todo {
		id, err := x.prove(ctx, c, i, made)
		if err != nil {
			return err
		}
		ids[n] = id
	}
	if x.o.DryRun {
		return nil
	}
	for n, i := range todo {
		m := &c.members[i]
		body := kassett.Body{Size: m.size, Sum: ids[n], Open: func() (io.ReadCloser, error) {
			return c.source(ctx, x.k.storage, i, made), nil
		}}
		if err := x.put(ctx, rebuiltName(m.Handle), body); err != nil {
			return err
		}
	}
	for n, i := range todo {
		if c.files[i].there {
			if out[n].Aside, out[n].Err = x.putAside(ctx, c.members[i].Handle, c.files[i].size); out[n].Err != nil {
				continue
			}
		}
		out[n].Err = x.replace(ctx, c.members[i].Handle, c.members[i].size, ids[n])
	}
	return nil
}

// prove returns the SHA-256 of a mended file, or an error when it is not what it
// must be.
func (x *repairer) prove(ctx context.Context, c *condition, i int, made map[int][]byte) (kassett.ID, error) {
	m := &c.members[i]
	h := newHashes()
	rc := c.source(ctx, x.k.storage, i, made)
	_, err := io.Copy(io.MultiWriter(h.sha, h.whole), rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return kassett.ID{}, err
	}
	if !x.k.proved(m, h) {
		return kassett.ID{}, &kassett.Error{
			Kind: kassett.Corrupt, Err: errors.New("what the parity gives does not have the hash that is the file's name"),
			Hint: "put the file back from a copy of the repository",
		}
	}
	return kassett.ID(h.sha.Sum(nil)), nil
}

// rebuiltName returns where a rebuilt file waits.
func rebuiltName(h kassett.Handle) string { return rebuilt + strings.ReplaceAll(h.String(), "/", "-") }

// put stores a file beside the repository, in place of one that was not
// completed.
func (x *repairer) put(ctx context.Context, name string, body kassett.Body) error {
	if err := x.k.pass(ctx); err != nil {
		return err
	}
	err := x.k.beside.PutBeside(ctx, name, body)
	if kassett.KindOf(err) == kassett.Exists {
		var have kassett.ID
		if have, err = x.k.hashBeside(ctx, name); err == nil && have != body.Sum {
			if err = x.k.beside.DeleteBeside(ctx, name); err == nil {
				err = x.k.beside.PutBeside(ctx, name, body)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// putAside keeps the bytes of a damaged file, as far as they can be read.
func (x *repairer) putAside(ctx context.Context, h kassett.Handle, size int64) (string, error) {
	open := func() (io.ReadCloser, error) {
		return &stubbornReader{ctx: ctx, r: sliceReader{st: x.k.storage, h: h, size: minSlice, end: size}}, nil
	}
	rc, err := open()
	if err != nil {
		return "", err
	}
	hash := sha256.New()
	n, err := io.Copy(hash, rc)
	if err = errors.Join(err, rc.Close()); err != nil || n == 0 {
		return "", err
	}
	id := kassett.ID(hash.Sum(nil))
	name := h.ID.String()
	if h.Kind != kassett.PackFile {
		name = strings.ReplaceAll(h.String(), "/", "-")
	}
	name = salvage + name + "-" + id.Short()
	return name, x.put(ctx, name, kassett.Body{Size: n, Sum: id, Open: open})
}

// stubbornReader reads a file with bad places: zeros stand for what cannot be
// read.
type stubbornReader struct {
	ctx  context.Context //nolint:containedctx // of the one read it is for
	r    sliceReader
	buf  [minSlice]byte
	rest []byte
}

func (s *stubbornReader) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.r.at >= s.r.end {
			return 0, io.EOF
		}
		want := min(s.r.size, s.r.end-s.r.at)
		n, err := s.r.read(s.ctx, s.buf[:want])
		if err != nil && s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
		clear(s.buf[n:])
		s.rest = s.buf[:want]
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *stubbornReader) Close() error {
	s.r.close()
	return nil
}

// replace puts the rebuilt file, which is durable beside the repository, in the
// place of the damaged one.
func (x *repairer) replace(ctx context.Context, h kassett.Handle, size int64, id kassett.ID) error {
	if err := x.k.pass(ctx); err != nil {
		return err
	}
	name := rebuiltName(h)
	if err := x.k.storage.Delete(ctx, h); err != nil && kassett.KindOf(err) != kassett.NotFound {
		return &kassett.Error{
			Op: "remove damaged", What: h.String(), Kind: kassett.KindOf(err), Err: err,
			Hint: "the repaired file is beside the repository as kassett/" + name + "; run the repair with a key that may delete",
		}
	}
	body := kassett.Body{Size: size, Sum: id, Open: func() (io.ReadCloser, error) { return x.k.beside.GetBeside(ctx, name) }}
	if err := x.k.storage.Put(ctx, h, body); err != nil {
		return &kassett.Error{
			Op: "put back", What: h.String(), Kind: kassett.KindOf(err), Err: err,
			Hint: "the repaired file is beside the repository as kassett/" + name + "; run the repair again",
		}
	}
	if err := x.k.beside.DeleteBeside(ctx, name); err != nil && kassett.KindOf(err) != kassett.NotFound {
		x.k.warn(name, err)
	}
	return nil
}

// resume goes on with a repair that was broken off after a file was rebuilt.
func (x *repairer) resume(ctx context.Context, name string) error {
	h, ok := fileHandle(strings.Replace(strings.TrimPrefix(name, rebuilt), "-", "/", 1))
	if h.Kind == 0 {
		// Packs stand here without their folder of two digits.
		id, err := kassett.ParseID(strings.TrimPrefix(name, rebuilt+"data-"))
		h, ok = kassett.Handle{Kind: kassett.PackFile, ID: id}, err == nil
	}
	if !ok || h.Kind == kassett.ConfigFile {
		return nil // the config is rebuilt anew
	}
	have, err := x.k.hashBeside(ctx, name)
	if err != nil || have != h.ID {
		return err // what is there is not whole; it is replaced when needed
	}
	now, size, err := x.k.hashFile(ctx, h)
	switch {
	case err == nil && now == h.ID:
		return x.k.beside.DeleteBeside(ctx, name)
	case err == nil:
		if _, err := x.putAside(ctx, h, size); err != nil {
			return err
		}
	case kassett.KindOf(err) != kassett.NotFound:
		return err
	}
	var length int64
	for info, err := range x.k.beside.ListBeside(ctx, folder) {
		if err != nil {
			return err
		}
		if info.Name == name {
			length = info.Size
		}
	}
	if err := x.replace(ctx, h, length, h.ID); err != nil {
		return err
	}
	x.stats.Damaged++
	x.stats.Repaired++
	x.inv.files[h] = kassett.Info{Handle: h, Size: length}
	x.report(Outcome{Handle: h, What: h.String(), Fault: errors.New("a repair of it was broken off")})
	return nil
}

// hashBeside returns the SHA-256 of a file beside the repository.
func (k *Keeper) hashBeside(ctx context.Context, name string) (kassett.ID, error) {
	id, _, err := hashStream(k.beside.GetBeside(ctx, name))
	return id, err
}

// hashFile returns the SHA-256 and the length of a file of the repository.
func (k *Keeper) hashFile(ctx context.Context, h kassett.Handle) (kassett.ID, int64, error) {
	return hashStream(k.storage.Get(ctx, h, 0, -1))
}

func hashStream(rc io.ReadCloser, err error) (kassett.ID, int64, error) {
	if err != nil {
		return kassett.ID{}, 0, err
	}
	h := sha256.New()
	n, err := io.Copy(h, rc)
	return kassett.ID(h.Sum(nil)), n, errors.Join(err, rc.Close())
}
