package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"kassett"
)

// RepairOptions is for [Repository.RepairIndex] and [Repository.RepairPacks].
type RepairOptions struct {
	// ReadAllPacks makes RepairIndex read the header of every pack, not only
	// of those that are not as the index says.
	ReadAllPacks bool
	// Salvage takes the bytes of a damaged pack before it is deleted; it
	// reads raw to its end. When nil, they are kept beside the repository as
	// salvage/ID-SUM, SUM being the first digits of their own hash.
	Salvage  func(pack kassett.ID, raw io.Reader) error
	Progress *kassett.Progress
}

// RepairStats is what a repair did.
type RepairStats struct {
	PacksRead    int `json:"packs_read"`
	PacksAdded   int `json:"packs_added"`   // to the index
	PacksDropped int `json:"packs_dropped"` // from the index
	IndexFiles   int `json:"index_files"`   // replaced
	Salvaged     int `json:"blobs_salvaged"`
	Lost         int `json:"blobs_lost"` // not in any pack any more
}

// RepairIndex makes the index name what is in the packs: packs that it does not
// name, or names wrongly, are read, packs that are gone are dropped, and damaged
// index files are replaced. What it did and what it found is told to report. A
// pack whose header is damaged stays in the index as it was, since nothing else
// says where its blobs are: that is for [Repository.RepairPacks].
//
// The caller holds an exclusive lock. New index files are durable before the old
// ones are removed. The index is loaded afterwards.
func (r *Repository) RepairIndex(ctx context.Context, o RepairOptions, report func(Finding)) (RepairStats, error) {
	x := &indexRepair{r: r, o: o, tell: report}
	var err error
	if x.survey, err = r.surveyIndex(ctx, o.Progress, x.badIndex, x.packGone); err != nil {
		return x.stats, err
	}
	for _, step := range []func(context.Context) error{x.readPacks, x.write} {
		if err := step(ctx); err != nil {
			return x.stats, err
		}
	}
	return x.stats, r.LoadIndex(ctx, o.Progress)
}

// indexRepair is one RepairIndex at work.
type indexRepair struct {
	*survey
	r *Repository
	o RepairOptions

	tellMu  sync.Mutex // guards what follows
	tell    func(Finding)
	stats   RepairStats
	headers []indexedPack // packs to be named as they say themselves
}

func (x *indexRepair) report(kind FindingKind, what string, err error, hint string) {
	x.tellMu.Lock()
	defer x.tellMu.Unlock()
	x.o.Progress.Problem()
	x.tell(Finding{Kind: kind, What: what, Err: err, Hint: hint})
}

// damaged reports whether err means that a file is not what it was, and not that
// it cannot be read just now.
func damaged(err error) bool {
	k := kassett.KindOf(err)
	return k == kassett.Corrupt || k == kassett.Other
}

// badIndex reports an index file that is damaged.
func (x *indexRepair) badIndex(ctx context.Context, id kassett.ID, err error) error {
	if ctx.Err() != nil || !damaged(err) {
		return err
	}
	x.report(Damage, "index "+id.String(), err, "nothing: it is replaced")
	return nil
}

// packGone reports a pack that leaves the index.
func (x *indexRepair) packGone(_, pack kassett.ID, blobs int) {
	x.report(Missing, "pack "+pack.String(), fmt.Errorf("it is not in the storage, its %d blobs are dropped from the index", blobs),
		"put the file back from a copy of the repository and repair the index again; if there is none, back up again, then run `kassett repair snapshots`")
}

// readPacks reads the headers of packs that the index does not describe.
func (x *indexRepair) readPacks(ctx context.Context) error {
	var doubtful []int
	for i, p := range x.packs {
		n := &x.named[i]
		if x.o.ReadAllPacks || n.files == 0 || n.bytes != uint64(p.size) || n.state&(packDisputed|packGeometry) != 0 {
			doubtful = append(doubtful, i)
		}
	}
	x.o.Progress.Enter("read pack headers")
	x.o.Progress.Expect(int64(len(doubtful)), 0)
	x.stats.PacksRead = len(doubtful)
	return side(ctx, x.r, doubtful, func(ctx context.Context, i int) error {
		defer x.o.Progress.Done(1, 0)
		p, n := x.packs[i], &x.named[i]
		blobs, err := x.r.PackHeader(ctx, p.id, p.size)
		switch {
		case err == nil:
			x.packRead(p, n, blobs)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !damaged(err):
			return err
		case n.files == 0:
			x.report(Damage, "pack "+p.id.String(), fmt.Errorf("no index file names it: %w", err),
				"put the file back from a copy of the repository; if it is from a backup that was broken off, `kassett prune` removes it")
		default:
			x.report(Damage, "pack "+p.id.String(), fmt.Errorf("it stays in the index as it was: %w", err), repairPack(p.id))
		}
		return nil
	})
}

// packRead compares what a pack says of itself with the index.
func (x *indexRepair) packRead(p storedPack, n *namedPack, blobs []Blob) {
	said := describe(x.seed, blobs)
	if n.files > 0 && said.digest == n.digest && n.state&packDisputed == 0 {
		return
	}
	what := errors.New("it was not in the index")
	if n.files > 0 {
		what = errors.New("the index said something else about it than its header")
	}
	x.report(Leftover, "pack "+p.id.String(), what, "nothing: it is indexed now")
	x.tellMu.Lock()
	defer x.tellMu.Unlock()
	if n.files == 0 {
		x.stats.PacksAdded++
	}
	x.headers = append(x.headers, indexedPack{p.id, blobs})
}

// write replaces all index files, unless they are as they should be.
func (x *indexRepair) write(ctx context.Context) error {
	x.stats.PacksDropped = len(x.absent)
	several := false
	for i := range x.named {
		several = several || x.named[i].files > 1
	}
	if !several && len(x.headers)+len(x.absent) == 0 && len(x.sound) == len(x.files) {
		return nil
	}
	x.o.Progress.Enter("write index")
	x.o.Progress.Expect(int64(len(x.files)), 0)
	w := x.r.newReindexer()
	for _, p := range x.headers {
		if err := w.add(ctx, p.id, p.blobs); err != nil {
			return err
		}
	}
	err := side(ctx, x.r, x.sound, func(ctx context.Context, id kassett.ID) error {
		defer x.o.Progress.Done(1, 0)
		return x.r.eachIndexed(ctx, id, func(pack kassett.ID, blobs []Blob) error {
			if _, gone := x.absent[pack]; gone {
				return nil
			}
			return w.add(ctx, pack, blobs) // a pack that was read is in already
		})
	})
	if err != nil {
		return err
	}
	if err := w.finish(ctx); err != nil {
		return err
	}
	x.stats.IndexFiles = len(x.files)
	return x.r.deleteAll(ctx, kassett.IndexFile, x.files, nil)
}

// RepairPacks takes packs apart that are damaged: every blob that can still be
// read, by the index or by the pack's own header, is moved to a new pack; then
// the pack leaves the index and is deleted. Before that, unless its bytes turn
// out to be whole, they are kept: see [RepairOptions]. A blob that is in no pack
// afterwards is told to report, and makes the error [kassett.Incomplete].
//
// The caller holds an exclusive lock. Every step is durable before the next; a
// repair that was broken off is completed by the next. The index is loaded
// afterwards.
func (r *Repository) RepairPacks(ctx context.Context, ids []kassett.ID, o RepairOptions, report func(Finding)) (RepairStats, error) {
	x := &packRepair{r: r, o: o, tell: report, blobs: make(map[kassett.ID][]Blob, len(ids)), lost: make(map[BlobHandle]kassett.ID)}
	for _, id := range ids {
		x.blobs[id] = nil
	}
	for _, step := range []func(context.Context) error{x.readIndex, x.salvage, x.remove} {
		if err := step(ctx); err != nil {
			return x.stats, err
		}
	}
	if err := r.LoadIndex(ctx, o.Progress); err != nil {
		return x.stats, err
	}
	return x.stats, x.verdict()
}

// packRepair is one RepairPacks at work.
type packRepair struct {
	r       *Repository
	o       RepairOptions
	tell    func(Finding)
	touched []kassett.ID // index files that name the packs
	there   []kassett.ID // packs that are in the storage

	mu    sync.Mutex            // guards what follows
	blobs map[kassett.ID][]Blob // by pack: what may be in it
	lost  map[BlobHandle]kassett.ID
	stats RepairStats
}

// readIndex finds what the index says of the packs.
func (x *packRepair) readIndex(ctx context.Context) error {
	files, err := x.r.listIDs(ctx, kassett.IndexFile)
	if err != nil {
		return err
	}
	x.o.Progress.Enter("read index")
	x.o.Progress.Expect(int64(len(files)), 0)
	err = side(ctx, x.r, files, func(ctx context.Context, id kassett.ID) error {
		defer x.o.Progress.Done(1, 0)
		hit := false
		err := x.r.eachIndexed(ctx, id, func(pack kassett.ID, blobs []Blob) error {
			x.mu.Lock()
			defer x.mu.Unlock()
			if known, ok := x.blobs[pack]; ok {
				hit = true
				x.blobs[pack] = append(known, blobs...)
			}
			return nil
		})
		if err != nil {
			return &kassett.Error{Op: "repair packs", Kind: kassett.KindOf(err), Err: err, Hint: "run `kassett repair index` first"}
		}
		if hit {
			x.mu.Lock()
			x.touched = append(x.touched, id)
			x.mu.Unlock()
		}
		return nil
	})
	return err
}

// salvage saves what can be read, packs and index file.
func (x *packRepair) salvage(ctx context.Context) error {
	x.o.Progress.Enter("salvage packs")
	x.o.Progress.Expect(int64(len(x.blobs)), 0)
	w := x.r.NewWriter(ctx, WriterOptions{Progress: x.o.Progress})
	var err error
	for id := range x.blobs {
		if err = x.salvagePack(ctx, w, id); err != nil {
			break
		}
		x.o.Progress.Done(1, 0)
	}
	if err == nil {
		err = w.Flush(ctx)
	}
	if err != nil {
		w.Abort()
	}
	return err
}

func (x *packRepair) salvagePack(ctx context.Context, w *Writer, id kassett.ID) error {
	h := kassett.Handle{Kind: kassett.PackFile, ID: id}
	indexed := x.blobs[id]
	info, err := x.r.storage.Stat(ctx, h)
	switch {
	case kassett.KindOf(err) == kassett.NotFound && len(indexed) > 0:
		for _, b := range indexed {
			x.lost[b.BlobHandle] = id
		}
		return nil
	case err != nil:
		return fmt.Errorf("repair pack %s: %w", id, err)
	}
	if err := x.keepRaw(ctx, info); err != nil {
		return fmt.Errorf("keep the bytes of pack %s: %w", id, err)
	}
	x.there = append(x.there, id)
	x.stats.PacksRead++
	header, err := x.r.PackHeader(ctx, id, info.Size)
	if err != nil && !damaged(err) {
		return err
	}
	tried := make(map[Blob]struct{})
	var all []Blob
	for _, b := range append(indexed, header...) {
		if _, twice := tried[b]; !twice {
			tried[b] = struct{}{}
			all = append(all, b)
		}
	}
	return x.r.scanPack(ctx, storedPack{id, info.Size}, all, func(b Blob, sealed []byte, err error) error {
		if err == nil {
			err = w.SaveSealed(ctx, b, sealed)
			if err != nil && kassett.KindOf(err) != kassett.Corrupt {
				return err
			}
		}
		if err != nil {
			x.lost[b.BlobHandle] = id
		} else {
			x.stats.Salvaged++
		}
		return nil
	})
}

// keepRaw stores the bytes of a pack where they can be looked at later.
func (x *packRepair) keepRaw(ctx context.Context, info kassett.Info) error {
	open := func() (io.ReadCloser, error) { return x.r.storage.Get(ctx, info.Handle, 0, info.Size) }
	sum, err := hashStream(open)
	if err != nil {
		return err
	}
	if sum == info.ID || info.Size == 0 {
		return nil // whole, so that what is in it is moved without loss; or nothing
	}
	if x.o.Salvage != nil {
		rc, err := open()
		if err != nil {
			return err
		}
		return errors.Join(x.o.Salvage(info.ID, rc), rc.Close())
	}
	beside, ok := kassett.As[kassett.Beside](x.r.storage)
	if !ok {
		return &kassett.Error{
			Op: "repair packs", Kind: kassett.Invalid, Err: errors.New("this storage has no place beside the repository"),
			Hint: "say in which folder the damaged bytes are kept",
		}
	}
	if err := x.r.pass(ctx); err != nil {
		return err
	}
	name := "salvage/" + info.ID.String() + "-" + sum.Short()
	err = beside.PutBeside(ctx, name, kassett.Body{Size: info.Size, Sum: sum, Open: open})
	if kassett.KindOf(err) == kassett.Exists {
		return nil // from a repair that was broken off
	}
	return err
}

func hashStream(open func() (io.ReadCloser, error)) (id kassett.ID, err error) {
	rc, err := open()
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	h := sha256.New()
	_, err = io.Copy(h, rc)
	return kassett.ID(h.Sum(nil)), err
}

// remove takes the packs out of the index and deletes them.
func (x *packRepair) remove(ctx context.Context) error {
	x.o.Progress.Enter("write index")
	x.o.Progress.Expect(int64(len(x.touched)), 0)
	drop := func(pack kassett.ID) bool { _, ok := x.blobs[pack]; return ok }
	if err := x.r.rewriteIndex(ctx, x.touched, drop, x.o.Progress); err != nil {
		return err
	}
	x.stats.IndexFiles, x.stats.PacksDropped = len(x.touched), len(x.blobs)
	return x.r.deleteAll(ctx, kassett.PackFile, x.there, nil)
}

// verdict names what is in no pack any more.
func (x *packRepair) verdict() error {
	for h, pack := range x.lost {
		if x.r.Has(h) {
			continue
		}
		x.stats.Lost++
		x.tell(Finding{
			Kind: Missing, What: h.Type.String() + " blob " + h.ID.String(), Err: fmt.Errorf("it could not be read from pack %s and is nowhere else", pack),
			Hint: "back up again: what still exists is stored anew; then run `kassett repair snapshots`",
		})
	}
	if x.stats.Lost == 0 {
		return nil
	}
	return &kassett.Error{
		Op: "repair packs", Kind: kassett.Incomplete, Err: fmt.Errorf("%d blobs are lost", x.stats.Lost),
		Hint: "back up again, then run `kassett repair snapshots`",
	}
}
