package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"kassett"
	"kassett/repo"
)

// worker does one task after the other.
type worker struct {
	*backup
	small []byte      // for files that are one blob
	tree  TreeBuilder // for one folder at a time

	cut               kassett.Cut // of the last file
	cutSeen, cutKnown bool
}

// run works until the queue is closed. An error ends the whole backup: what
// concerns a single file is named instead.
func (w *worker) run(ctx context.Context) error {
	for {
		t, ok := w.queue.take()
		if !ok {
			return nil
		}
		var err error
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case t.part != nil:
			err = w.savePart(ctx, t.part)
			w.buffers.put(t.part.data)
			t.part.data = nil
			w.queue.unreserve()
		case t.file != nil:
			err = w.readFile(ctx, t.file)
		default:
			err = w.list(ctx, t.dir)
		}
		if err != nil {
			return err
		}
	}
}

// fileJob is one file being read and saved. One worker reads and cuts it; large
// ones are saved in parts by whoever is free.
type fileJob struct {
	folder  *folder
	index   int
	size    uint64       // bytes read
	lost    bool         // it could not be read
	doubt   bool         // it was read, and something about it was named
	ids     []kassett.ID // of a file saved in one piece
	parts   []*part
	pending atomic.Int64 // parts not yet saved, and 1 for the reading
}

func (j *fileJob) entry() *kassett.Entry { return &j.folder.entries[j.index] }
func (j *fileJob) path() string          { return join(j.folder.path, j.entry().Name) }

// part is a piece of a large file.
type part struct {
	job   *fileJob
	data  []byte // in a buffer of its own
	piece int    // bytes of each blob of the part but the last
	zeros bool   // a hole: never saved as a part, and has its IDs already
	ids   []kassett.ID
}

// smallRead is the size, in bytes, up to which a file is read whole and nobody
// looks for a cut: the content cut makes none before it.
const smallRead = minCut

// readFile reads, cuts and saves a file. The file that cannot be read is named
// and left out of its folder.
func (w *worker) readFile(ctx context.Context, j *fileJob) error {
	e, path := j.entry(), j.path()
	w.opt.Progress.At(path)
	fillErr := w.src.Fill(ctx, path, e)
	c, err := w.src.Open(ctx, path, e)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.warn(path, fmt.Errorf("open: %w", vanished(err)))
		j.lost = true
		return w.fileDone(ctx, j)
	}
	if fillErr != nil && ctx.Err() == nil {
		w.warn(path, fmt.Errorf("read metadata: %w", vanished(fillErr)))
	}
	j.pending.Store(1)
	err = w.readContent(ctx, j, c)
	changed, changedErr := false, error(nil)
	if err == nil {
		changed, changedErr = c.Changed()
	}
	closeErr := c.Close()
	var fatal *saveError
	switch {
	case errors.As(err, &fatal):
		return fatal.err
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		w.warn(path, fmt.Errorf("read: %w", err))
		j.lost = true
	case j.size != e.Size:
		w.warn(path, fmt.Errorf("changed while it was read: %d bytes were listed, %d were saved", e.Size, j.size))
	case changed:
		w.warn(path, errors.New("changed while it was read: what was saved may be half old, half new"))
	case changedErr != nil:
		w.warn(path, fmt.Errorf("see whether it changed while it was read: %w", changedErr))
	case closeErr != nil:
		w.warn(path, fmt.Errorf("close: %w", closeErr))
	}
	j.doubt = fillErr != nil || j.size != e.Size || changed || changedErr != nil || closeErr != nil
	if j.pending.Add(-1) == 0 {
		return w.fileDone(ctx, j)
	}
	return nil
}

// saveError is an error of the repository while a file is read: it ends the
// backup, unlike an error of the file.
type saveError struct{ err error }

func (e *saveError) Error() string { return e.err.Error() }

// readContent reads a file and saves it or gives it out in parts.
func (w *worker) readContent(ctx context.Context, j *fileJob, c kassett.Content) error {
	e := j.entry()
	if e.Size > smallRead {
		return w.readLarge(ctx, j, c, nil)
	}
	// One byte more than the file should have tells the end in one read.
	if want := int(e.Size) + 1; len(w.small) < want {
		w.small = make([]byte, min(max(2*want, 64<<10), smallRead+1))
	}
	b := w.small[:e.Size+1]
	n, err := readFull(c, b)
	if err != nil {
		return err
	}
	piece := len(b)
	if e.Cut.Kind == kassett.CutPage {
		piece = int(e.Cut.Page)
	}
	if n == len(b) || n > piece {
		return w.readLarge(ctx, j, c, b[:n])
	}
	j.size = uint64(n)
	if n == 0 {
		return nil
	}
	s, err := w.save.Save(ctx, repo.DataBlob, b[:n])
	if err != nil {
		return &saveError{fmt.Errorf("save content of %s: %w", j.path(), err)}
	}
	w.count.saved(repo.DataBlob, s, n)
	w.opt.Progress.Done(0, int64(n))
	j.ids = []kassett.ID{s.ID}
	return nil
}

// readFull reads until b is full or the file ends, which is no error.
func readFull(r io.Reader, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := r.Read(b[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readStep is how much is read at once from a large file, in bytes: what is
// read beyond a cut must be copied, on average half of this.
const readStep = 256 << 10

// batch is about how many bytes of small pages are given out together.
const batch = 1 << 20

// readLarge cuts a file into parts. head is what has been read of it already.
func (w *worker) readLarge(ctx context.Context, j *fileJob, c kassett.Content, head []byte) error {
	l := largeFile{worker: w, job: j, content: c, buf: w.buffers.get(max(readStep, len(head)))}
	l.holes, _ = c.(kassett.Holes)
	l.n = copy(l.buf, head)
	w.queue.read()
	defer func() {
		w.buffers.put(l.buf)
		w.queue.unreserve()
	}()
	cut := j.entry().Cut
	switch cut.Kind {
	case kassett.CutWhole:
		l.piece = kassett.MaxBlob
	case kassett.CutPage:
		l.piece = min(int(cut.Page), kassett.MaxBlob)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.skipHole(ctx); err != nil {
			return err
		}
		n, err := l.fill()
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if err := l.give(ctx, n); err != nil {
			return err
		}
	}
}

// largeFile is a file being cut. buf[:n] is what was read and not yet given out,
// and begins at a cut.
type largeFile struct {
	*worker
	job     *fileJob
	content kassett.Content
	holes   kassett.Holes // nil when the source cannot tell
	data    int64         // what NextData said last: up to here is a hole
	piece   int           // bytes of each blob, 0 for the content cut
	buf     []byte
	n       int
	end     bool // the file has ended
}

// fill reads until buf begins with a whole part, and returns its length: 0 at
// the end of the file.
func (l *largeFile) fill() (int, error) {
	seen := 0
	for {
		if at := l.cutAt(seen); at > 0 {
			return at, nil
		}
		if l.end {
			return l.n, nil
		}
		seen = l.n
		if l.n == len(l.buf) {
			small := l.buf
			l.buf = l.buffers.get(min(2*len(small), kassett.MaxBlob))
			copy(l.buf, small)
			l.buffers.put(small)
		}
		want := l.buf[l.n:min(len(l.buf), l.n+readStep)]
		m, err := readFull(l.content, want)
		if err != nil {
			return 0, err
		}
		l.n += m
		l.end = m < len(want)
	}
}

// cutAt returns where the part that begins buf ends, or 0.
func (l *largeFile) cutAt(seen int) int {
	if l.piece == 0 {
		return l.cutter.next(l.buf[:l.n], seen)
	}
	if want := max(1, batch/l.piece) * l.piece; l.n >= want {
		return want
	}
	return 0
}

// give gives out buf[:n] as one part, and keeps the rest. While enough parts are
// under way it saves the part itself, so that memory is bounded.
func (l *largeFile) give(ctx context.Context, n int) error {
	p := &part{job: l.job, data: l.buf[:n], piece: l.piece}
	if p.piece == 0 {
		p.piece = n
	}
	l.job.size += uint64(n)
	l.job.parts = append(l.job.parts, p)
	l.job.pending.Add(1)
	rest := l.buf[n:l.n]
	if l.queue.reserve() {
		l.buf = l.buffers.get(max(readStep, len(rest)))
		l.n = copy(l.buf, rest)
		l.queue.pushPart(p)
		return nil
	}
	err := l.savePart(ctx, p)
	p.data = nil
	l.n = copy(l.buf, rest)
	if err != nil {
		return &saveError{err}
	}
	return nil
}

// skipHole gives out blobs of zeros without reading them, as long as a hole is
// ahead that is at least one blob long. In the content cut a run of zeros is cut
// at the least size, whatever the polynomial: the fingerprint of a window of
// zeros is zero.
func (l *largeFile) skipHole(ctx context.Context) error {
	size := l.piece
	if size == 0 {
		size = minCut
	}
	if l.holes == nil || l.end || l.n >= size {
		return nil
	}
	for at := int64(l.job.size); ; at += int64(size) {
		if at >= l.data {
			data, err := l.holes.NextData(at)
			if err != nil {
				return err
			}
			l.data = data
		}
		if l.data-at < int64(size) {
			return nil
		}
		if err := l.holes.Skip(int64(size - l.n)); err != nil {
			return err
		}
		l.n = 0
		id, err := l.zeros.id(ctx, l.worker, size)
		if err != nil {
			return &saveError{err}
		}
		if n := len(l.job.parts); n == 0 || !l.job.parts[n-1].zeros {
			l.job.parts = append(l.job.parts, &part{zeros: true})
		}
		last := l.job.parts[len(l.job.parts)-1]
		last.ids = append(last.ids, id)
		l.job.size += uint64(size)
		l.opt.Progress.Done(0, int64(size))
	}
}

// zeroBlobs remembers the IDs of blobs of zeros.
type zeroBlobs struct {
	mu  sync.Mutex
	ids map[int]kassett.ID // by size
}

// id returns the ID of size zero bytes, and stores them the first time.
func (z *zeroBlobs) id(ctx context.Context, w *worker, size int) (kassett.ID, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if id, ok := z.ids[size]; ok {
		return id, nil
	}
	s, err := w.save.Save(ctx, repo.DataBlob, make([]byte, size))
	if err != nil {
		return kassett.ID{}, fmt.Errorf("save zeros: %w", err)
	}
	w.count.saved(repo.DataBlob, s, size)
	if z.ids == nil {
		z.ids = map[int]kassett.ID{}
	}
	z.ids[size] = s.ID
	return s.ID, nil
}

// savePart saves a part's blobs. Whoever saves the last part of a file finishes
// the file.
func (w *worker) savePart(ctx context.Context, p *part) error {
	size := len(p.data)
	p.ids = make([]kassett.ID, 0, (size+p.piece-1)/p.piece)
	for rest := p.data; len(rest) > 0; {
		piece := rest[:min(p.piece, len(rest))]
		rest = rest[len(piece):]
		s, err := w.save.Save(ctx, repo.DataBlob, piece)
		if err != nil {
			return fmt.Errorf("save content of %s: %w", p.job.path(), err)
		}
		w.count.saved(repo.DataBlob, s, len(piece))
		p.ids = append(p.ids, s.ID)
	}
	w.opt.Progress.Done(0, int64(size))
	if p.job.pending.Add(-1) == 0 {
		return w.fileDone(ctx, p.job)
	}
	return nil
}

// fileDone notes what became of a file, and counts it as done in its folder.
func (w *worker) fileDone(ctx context.Context, j *fileJob) error {
	f, k := j.folder, &j.folder.kids[j.index]
	w.opt.Progress.Done(1, 0)
	if k.lost = j.lost; !j.lost {
		k.ids = j.content()
		f.entries[j.index].Size = j.size
		w.countFile(k, j.size)
		if !j.doubt {
			f.mark(j.index)
		}
	}
	return w.done(ctx, f)
}

// countFile counts a file that is not as in the parent snapshot.
func (w *worker) countFile(k *kid, size uint64) {
	w.count.bytes.Add(size)
	if k.known {
		w.count.filesChanged.Add(1)
	} else {
		w.count.filesNew.Add(1)
	}
}

// content returns the IDs of the file's blobs in order: not nil, for an empty
// file too.
func (j *fileJob) content() []kassett.ID {
	if j.ids != nil {
		return j.ids
	}
	n := 0
	for _, p := range j.parts {
		n += len(p.ids)
	}
	ids := make([]kassett.ID, 0, n)
	for _, p := range j.parts {
		ids = append(ids, p.ids...)
	}
	return ids
}
