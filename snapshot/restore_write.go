package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"kassett"
	"kassett/repo"
)

// ref is one place that a blob is to be written to.
type ref struct {
	at     int64  // in the file
	pack   uint32 // number of the pack in the order of first use
	offset uint32 // in the pack
	length uint32 // sealed
	plain  uint32 // as in repo.Blob
	file   uint32 // number in the batch
	blob   uint32 // number in the file's content
}

// fileState is what is known of a file of the batch while it is written.
type fileState struct {
	left   atomic.Int32 // blobs to come
	failed atomic.Bool
	have   []bool // blobs that are in the part already; nil is none
	done   bool   // nothing is to be written
	dirty  bool   // the part held something before
	size   uint64 // of the content
}

// work is a batch being restored.
type work struct {
	*restorer
	files  []planFile
	states []fileState
	refs   []ref // by pack and offset
	packs  []kassett.ID
}

// workers is how many goroutines restore: enough to keep all processors busy
// while some wait for the storage.
func (rs *restorer) workers() int { return max(2, rs.r.Connections(), runtime.GOMAXPROCS(0)) }

// each calls fn for 0 to n-1 from several goroutines, in runs of neighbours.
func (rs *restorer) each(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	const run = 64
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(rs.workers(), (n+run-1)/run) {
		g.Go(func() error {
			for {
				lo := int(next.Add(run)) - run
				for i := lo; i < min(lo+run, n); i++ {
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if err := fn(ctx, i); err != nil {
						return err
					}
				}
				if lo+run >= n {
					return nil
				}
			}
		})
	}
	return g.Wait()
}

// restore does what the batch says, in the order that metadata needs: content,
// links and the like, folders.
func (rs *restorer) restore(ctx context.Context, b *restoreBatch) error {
	w := &work{restorer: rs, files: b.files, states: make([]fileState, len(b.files))}
	err := rs.each(ctx, len(b.files), w.compare)
	if err == nil {
		err = w.plan(ctx)
	}
	if err == nil && !rs.o.DryRun {
		err = rs.r.Thaw(ctx, w.packs, rs.o.Progress)
	}
	if err == nil && !rs.o.DryRun {
		err = w.write(ctx)
	}
	if err == nil && rs.o.Verify && !rs.o.DryRun {
		err = rs.each(ctx, len(b.files), w.verify)
	}
	if err != nil {
		return err
	}
	return rs.finish(ctx, b)
}

// plan finds out where the blobs rest that are to be written.
func (w *work) plan(ctx context.Context) error {
	numbers := map[kassett.ID]uint32{}
	for i := range w.files {
		st := &w.states[i]
		if st.done {
			continue
		}
		start := len(w.refs)
		for k, id := range w.files[i].node.Content {
			h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
			loc, ok := w.r.Find(h)
			if !ok {
				if err := w.failFile(ctx, i, missingBlob(h)); err != nil {
					return err
				}
				w.refs = w.refs[:start]
				break
			}
			if st.have == nil || !st.have[k] {
				n, ok := numbers[loc.Pack]
				if !ok {
					n = uint32(len(w.packs)) //nolint:gosec // no more than refs
					numbers[loc.Pack] = n
					w.packs = append(w.packs, loc.Pack)
				}
				//nolint:gosec // a batch has fewer than 2^32 files, a tree blob fewer IDs
				w.refs = append(w.refs, ref{
					at: int64(st.size), pack: n, offset: loc.Offset, length: loc.Length, plain: loc.Plain,
					file: uint32(i), blob: uint32(k),
				})
			}
			st.size += uint64(loc.Size())
		}
		if st.failed.Load() {
			continue
		}
		st.left.Store(int32(len(w.refs) - start)) //nolint:gosec // as above
		if err := w.checkSize(ctx, i); err != nil {
			return err
		}
		if w.o.DryRun {
			w.wrote(i)
		}
	}
	slices.SortFunc(w.refs, func(a, b ref) int {
		return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.offset, b.offset))
	})
	return nil
}

func missingBlob(h repo.BlobHandle) error {
	return &kassett.Error{
		Op: "find", What: h.Type.String() + " blob " + h.ID.String(), Kind: kassett.Corrupt,
		Err:  errors.New("no index file names it"),
		Hint: "run repair index, or use another copy of the repository",
	}
}

// checkSize names a file whose size is not that of its content. It is restored
// with all its content: restic wrote such nodes for files that grew meanwhile.
func (w *work) checkSize(ctx context.Context, i int) error {
	f, st := &w.files[i], &w.states[i]
	if f.node.Size == st.size {
		return nil
	}
	n, noted := *f.node, f.node.Size
	n.Size = st.size
	f.node = &n
	return w.fail(ctx, "/"+f.path, &kassett.Error{
		Op: "restore", Kind: kassett.Incomplete,
		Err: fmt.Errorf("its size was noted as %d, but %d bytes of content were saved: all of them are restored", noted, st.size),
	})
}

// failFile names a file once.
func (w *work) failFile(ctx context.Context, i int, err error) error {
	if w.states[i].failed.Swap(true) {
		return nil
	}
	return w.fail(ctx, "/"+w.files[i].path, err)
}

// unit is what one worker does at a time: blobs of one pack, or files that need
// no blob.
type unit struct {
	lo, hi int // of refs
	empty  []int
}

// unitRefs bounds the places that a unit writes to, where many files have the
// same content: its blob is then read again.
const unitRefs = 4096

// units cuts the work so that all workers have some, and a unit is worth a
// request.
func (w *work) units() []unit {
	const least, most = 1 << 20, 16 << 20 // bytes, sealed
	var total, size int64
	for _, r := range w.refs {
		total += int64(r.length)
	}
	limit := min(max(total/int64(4*w.workers()), least), most)
	var list []unit
	var empty []int
	for i := range w.states {
		if st := &w.states[i]; !st.done && !st.failed.Load() && st.left.Load() == 0 {
			empty = append(empty, i)
		}
	}
	for part := range slices.Chunk(empty, 256) {
		list = append(list, unit{empty: part})
	}
	lo := 0
	for i, r := range w.refs {
		if i == lo || w.refs[i-1].offset != r.offset {
			size += int64(r.length)
		}
		last := i+1 == len(w.refs)
		if last || w.refs[i+1].pack != r.pack || i+1-lo >= unitRefs || size >= limit && w.refs[i+1].offset != r.offset {
			list = append(list, unit{lo: lo, hi: i + 1})
			lo, size = i+1, 0
		}
	}
	return list
}

// write reads packs and writes files.
func (w *work) write(ctx context.Context) error {
	units := w.units()
	var next atomic.Int64
	g, wctx := errgroup.WithContext(ctx)
	for range min(w.workers(), len(units)) {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(units) {
					return nil
				}
				if err := w.unit(wctx, units[i]); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	return errors.Join(err, w.open.closeAll())
}

func (w *work) unit(ctx context.Context, u unit) error {
	for _, i := range u.empty {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.commitEmpty(ctx, i); err != nil {
			return err
		}
	}
	refs := w.refs[u.lo:u.hi]
	if len(refs) == 0 {
		return nil
	}
	blobs := make([]repo.Blob, 0, len(refs))
	for i, r := range refs {
		if i == 0 || refs[i-1].offset != r.offset {
			h := repo.BlobHandle{Type: repo.DataBlob, ID: w.files[r.file].node.Content[r.blob]}
			blobs = append(blobs, repo.Blob{BlobHandle: h, Offset: r.offset, Length: r.length, Plain: r.plain})
		}
	}
	return w.r.LoadBlobs(ctx, w.packs[refs[0].pack], blobs, func(b repo.Blob, plain []byte, err error) error {
		first := sort.Search(len(refs), func(i int) bool { return refs[i].offset >= b.Offset })
		for i := first; i < len(refs) && refs[i].offset == b.Offset; i++ {
			if err := w.put(ctx, refs[i], plain, err); err != nil {
				return err
			}
		}
		return nil
	})
}

// put writes one blob to one place, and commits the file after its last blob.
func (w *work) put(ctx context.Context, r ref, plain []byte, loadErr error) error {
	i := int(r.file)
	st := &w.states[i]
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	whole := len(w.files[i].node.Content) == 1
	if loadErr != nil {
		if err := w.failFile(ctx, i, loadErr); err != nil || whole {
			return err
		}
	}
	if whole {
		return w.putWhole(ctx, i, plain)
	}
	var err error
	if !st.failed.Load() {
		var f *openFile
		if f, err = w.open.acquire(ctx, &w.files[i]); err == nil {
			err = w.writeAt(f.TargetFile, st.dirty, plain, r.at)
			w.open.release(f)
		}
	}
	if err != nil {
		if err := w.failFile(ctx, i, err); err != nil {
			return err
		}
	}
	w.o.Progress.Done(0, int64(len(plain)))
	if st.left.Add(-1) > 0 {
		return nil
	}
	f := w.open.take(&w.files[i])
	if f == nil || st.failed.Load() {
		return closeIf(f)
	}
	return w.commit(ctx, i, f.TargetFile)
}

func closeIf(f *openFile) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

// putWhole writes a file of one blob from open to commit.
func (w *work) putWhole(ctx context.Context, i int, plain []byte) error {
	f := &w.files[i]
	tf, err := w.target.Open(ctx, f.path, &f.node.Entry)
	if err != nil {
		return w.failFile(ctx, i, err)
	}
	if err := w.writeAt(tf, f.stale && holds(tf), plain, 0); err != nil {
		return errors.Join(w.failFile(ctx, i, err), tf.Close())
	}
	w.o.Progress.Done(0, int64(len(plain)))
	return w.commit(ctx, i, tf)
}

// commitEmpty gives a file its name that needs no blob from the repository.
func (w *work) commitEmpty(ctx context.Context, i int) error {
	f := w.open.take(&w.files[i])
	if f != nil {
		return w.commit(ctx, i, f.TargetFile)
	}
	tf, err := w.target.Open(ctx, w.files[i].path, &w.files[i].node.Entry)
	if err != nil {
		return w.failFile(ctx, i, err)
	}
	return w.commit(ctx, i, tf)
}

func (w *work) commit(ctx context.Context, i int, tf kassett.TargetFile) error {
	if err := tf.Commit(ctx); err != nil {
		return errors.Join(w.failFile(ctx, i, err), tf.Close())
	}
	w.wrote(i)
	return nil
}

// wrote counts a restored file.
func (w *work) wrote(i int) {
	f := &w.files[i]
	action := Restored
	if f.there != nil {
		action = Updated
	}
	w.did(&w.stats.Files, action, "/"+f.path, f.node.Size)
	w.o.Progress.Done(1, 0)
}

// holds reports whether a part that was just opened has anything in it.
func holds(f io.ReaderAt) bool {
	var b [1]byte
	n, _ := f.ReadAt(b[:], 0)
	return n > 0
}

// Runs of zeros are left out in whole pages, and only if they are long: a hole
// must be worth a second write.
const (
	page    = 4 << 10
	minHole = 4 * page
)

// writeAt writes a blob, without its runs of zeros where the part reads as zeros
// anyway. A part that was begun long ago may hold something else there: dirty.
func (w *work) writeAt(f kassett.TargetFile, dirty bool, b []byte, at int64) error {
	for len(b) > 0 {
		data, hole := cutHole(b, at)
		if dirty && hole > 0 && !readsZero(f, at+int64(data), hole) {
			data, hole = data+hole, 0
		}
		if data > 0 {
			if _, err := f.WriteAt(b[:data], at); err != nil {
				return err
			}
			w.written(data)
		}
		b, at = b[data+hole:], at+int64(data+hole)
	}
	return nil
}

// readsZero reports whether n bytes of a file are zeros, or past its end.
func readsZero(f io.ReaderAt, at int64, n int) bool {
	var buf [page]byte
	for n > 0 {
		got, err := f.ReadAt(buf[:min(n, page)], at)
		if !zero(buf[:got]) {
			return false
		}
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		n, at = n-got, at+int64(got)
	}
	return true
}

// cutHole returns how many bytes at the start of b are to be written, and how
// many zeros follow that are not.
func cutHole(b []byte, at int64) (data, hole int) {
	i := int(-at & (page - 1)) // pages of the file, not of the blob
	for ; i+minHole <= len(b); i += page {
		if !zero(b[i : i+page]) {
			continue
		}
		end := i + page
		for end+page <= len(b) && zero(b[end:end+page]) {
			end += page
		}
		if end-i >= minHole {
			return i, end - i
		}
		i = end
	}
	return len(b), 0
}

var zeros [page]byte

func zero(b []byte) bool { return len(b) == 0 || b[0] == 0 && string(b) == string(zeros[:len(b)]) }

func (rs *restorer) written(n int) {
	rs.mu.Lock()
	rs.stats.Written += uint64(n) //nolint:gosec // a length
	rs.mu.Unlock()
}

// maxOpen is how many unfinished files are open at a time. The others are
// closed and opened again when their next blob comes.
const maxOpen = 128

// openFiles keeps unfinished files open.
type openFiles struct {
	target kassett.Target
	mu     sync.Mutex
	open   map[*planFile]*openFile
	clock  uint64
}

type openFile struct {
	kassett.TargetFile
	users int
	used  uint64 // by the clock
}

// acquire opens a file if it is not open. Every acquire is followed by a
// release.
func (o *openFiles) acquire(ctx context.Context, f *planFile) (*openFile, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.open[f]
	if of == nil {
		if err := o.makeRoom(); err != nil {
			return nil, err
		}
		tf, err := o.target.Open(ctx, f.path, &f.node.Entry)
		if err != nil {
			return nil, err
		}
		if o.open == nil {
			o.open = map[*planFile]*openFile{}
		}
		of = &openFile{TargetFile: tf}
		o.open[f] = of
	}
	o.clock++
	of.users, of.used = of.users+1, o.clock
	return of, nil
}

func (o *openFiles) release(f *openFile) {
	o.mu.Lock()
	f.users--
	o.mu.Unlock()
}

// makeRoom closes the file that was not used for the longest time, if there are
// too many.
func (o *openFiles) makeRoom() error {
	if len(o.open) < maxOpen {
		return nil
	}
	var oldest *planFile
	for f, of := range o.open {
		if of.users == 0 && (oldest == nil || of.used < o.open[oldest].used) {
			oldest = f
		}
	}
	if oldest == nil {
		return nil
	}
	of := o.open[oldest]
	delete(o.open, oldest)
	return of.Close()
}

// take removes a file that is complete, or returns nil if it is not open.
func (o *openFiles) take(f *planFile) *openFile {
	o.mu.Lock()
	defer o.mu.Unlock()
	of := o.open[f]
	delete(o.open, f)
	return of
}

// closeAll closes what is unfinished, so that another restore can go on.
func (o *openFiles) closeAll() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, of := range o.open {
		errs = append(errs, of.Close())
	}
	clear(o.open)
	return errors.Join(errs...)
}
