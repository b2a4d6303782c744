package mount

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// fileKey names a file by the tree it is in and its number there.
type fileKey struct {
	tree  kassett.ID
	index int
}

// content says where in a file which blob is.
type content struct {
	ids  []kassett.ID
	ends []int64 // where in the file each blob ends; fewer than ids when a length is not known
	size int64   // of all content, as far as it is known
	lost error   // why ends is short
}

// newContent looks up how long the blobs of a file are. Of one that no index file
// names the length follows from the file's, if it is the only one.
func newContent(r *repo.Repository, n *snapshot.Node) *content {
	c := &content{ids: n.Content, ends: make([]int64, 0, len(n.Content))}
	sizes := make([]uint32, len(n.Content))
	var sum uint64
	var missing []int
	for i, id := range n.Content {
		size, ok := r.BlobSize(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		if !ok {
			missing = append(missing, i)
		}
		sizes[i] = size
		sum += uint64(size)
	}
	known := len(sizes)
	if len(missing) == 1 && n.Size > sum && n.Size-sum <= maxBlob {
		sizes[missing[0]] = uint32(n.Size - sum) //nolint:gosec // at most maxBlob
	} else if len(missing) > 0 {
		known = missing[0]
		c.lost = &kassett.Error{
			Op: "find", What: "data blob " + n.Content[known].String(), Kind: kassett.Corrupt,
			Err:  fmt.Errorf("no index file names it and %d more of this file, so what follows it cannot be placed", len(missing)-1),
			Hint: "run `kassett check`, then `kassett repair index`",
		}
	}
	for _, size := range sizes[:known] {
		c.size += int64(size)
		c.ends = append(c.ends, c.size)
	}
	if c.lost != nil {
		c.size = max(c.size, int64(min(n.Size, 1<<62))) //nolint:gosec // bounded
	}
	return c
}

// at returns the number of the blob that holds the byte at off.
func (c *content) at(off int64) int {
	return sort.Search(len(c.ends), func(i int) bool { return c.ends[i] > off })
}

// start returns where a blob begins.
func (c *content) start(i int) int64 {
	if i == 0 {
		return 0
	}
	return c.ends[i-1]
}

// file is an open file. Its methods are safe for many goroutines.
type file struct {
	v *View
	*content
	where string

	mu    sync.Mutex
	next  int64 // where a reader goes on who reads in order
	run   int   // how many reads came in order
	ahead int   // the first blob that is not yet asked for
	room  int64 // bytes to be read ahead
	drop  context.CancelFunc
	lane  context.Context //nolint:containedctx // of the reads ahead of one run, ended by drop
}

// open opens the file that is number i in a folder.
func (v *View) open(ctx context.Context, f *folder, n *snapshot.Node, i int) (*file, error) {
	var s *slot[fileKey, *content]
	err := v.while(func() {
		var mine bool
		if s, mine = v.files.claim(fileKey{f.tree, i}); mine {
			c := newContent(v.r, n)
			v.files.fill(s, c, int64(40*len(c.ids)), nil)
		}
	})
	if err != nil {
		return nil, err
	}
	c, err := s.wait(ctx)
	if err != nil {
		return nil, err
	}
	o := &file{v: v, content: c, where: f.where(n.Name)}
	if c.lost == nil && uint64(c.size) != n.Size { //nolint:gosec // not negative
		v.fault(o.where, kassett.ID{}, &kassett.Error{
			Op: "open", Kind: kassett.Incomplete,
			Err: fmt.Errorf("its size was noted as %d, but %d bytes of content were saved: all of them can be read", n.Size, c.size),
		})
	}
	return o, nil
}

// close gives up what was to be read ahead.
func (o *file) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drop != nil {
		o.drop()
		o.drop = nil
	}
}

// read returns up to len(buf) bytes from off, fewer only at the end of the file:
// in buf, or as a part of a blob in the cache, which must not be changed. Beside
// an error it returns what lies before the blob that cannot be read.
func (o *file) read(ctx context.Context, buf []byte, off int64) ([]byte, error) {
	if off < 0 || off >= o.size || len(buf) == 0 {
		return nil, nil
	}
	end := min(off+int64(len(buf)), o.size)
	first := o.at(off)
	last := min(o.at(end-1)+1, len(o.ends)) // first of those not needed
	if err := o.v.while(func() {
		o.v.begin(o.v.ctx, o.ids[first:last], nil)
		o.follow(off, end, last)
	}); err != nil {
		return nil, err
	}
	var got []byte
	for i := first; i < last; i++ {
		b, err := o.v.blob(ctx, o.ids[i])
		if err == nil && int64(len(b)) != o.ends[i]-o.start(i) {
			err = &kassett.Error{
				Op: "read", What: "data blob " + o.ids[i].String(), Kind: kassett.Corrupt,
				Err: fmt.Errorf("it has %d bytes, the index says %d", len(b), o.ends[i]-o.start(i)),
			}
		}
		if err != nil {
			if ctx.Err() == nil {
				o.v.fault(o.where, o.ids[i], err)
			}
			return got, err
		}
		from := off - o.start(i)
		b = b[from:min(int64(len(b)), end-o.start(i))]
		off += int64(len(b))
		if i == first && off == end {
			return b, nil
		}
		got = append(buf[:len(got)], b...)
	}
	if off < end { // the next blob is one that nobody knows the length of
		o.v.fault(o.where, o.ids[len(o.ends)], o.lost)
		return got, o.lost
	}
	return got, nil
}

// Read-ahead: a reader in order has up to aheadMost bytes of blobs on their way.
const (
	aheadFirst = 1 << 20
	aheadMost  = 32 << 20
	aheadBlobs = 4096
	near       = 1 << 20 // reads that are sent side by side may change places
)

// follow notes a read, and begins to load what the next ones will want when they
// come in order. last is the first blob that this read does not need.
func (o *file) follow(off, end int64, last int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if off < o.next-near || off > o.next+near {
		o.next, o.run, o.room, o.ahead = end, 0, 0, 0
		if o.drop != nil {
			o.drop()
			o.drop = nil
		}
		return
	}
	if off == o.next {
		o.run++
	}
	o.next = max(o.next, end)
	if o.run < 2 {
		return
	}
	o.ahead = max(o.ahead, last)
	if o.ahead >= len(o.ends) {
		return
	}
	o.room = min(max(2*o.room, aheadFirst), aheadMost, o.v.o.BlobBytes/4)
	if o.start(o.ahead) > end+o.room/2 {
		return // enough is on its way
	}
	to := o.ahead
	for to < len(o.ends) && to-o.ahead < aheadBlobs && (to == o.ahead || o.ends[to] <= end+o.room) {
		to++
	}
	if o.drop == nil {
		o.lane, o.drop = context.WithCancel(o.v.ctx)
	}
	o.v.begin(o.lane, o.ids[o.ahead:to], o.v.lanes)
	o.ahead = to
}

// blob returns a blob of data, from the cache or from the repository.
func (v *View) blob(ctx context.Context, id kassett.ID) ([]byte, error) {
	for {
		var s *blobSlot
		err := v.while(func() {
			var mine bool
			if s, mine = v.blobs.claim(id); mine {
				v.work.Go(func() { v.loadOne(v.ctx, s) })
			}
		})
		if err != nil {
			return nil, err
		}
		b, err := s.wait(ctx)
		if !errors.Is(err, errDropped) {
			return b, err
		}
	}
}

// blobSlot is a place in the cache of blobs.
type blobSlot = slot[kassett.ID, []byte]

// most that one request loads, in bytes of plaintext, so that several have work.
const batchBytes = 4 << 20

// begin starts to load those of the blobs that are not in the cache: neighbours
// in a pack with one request. With lanes, each request waits for one.
func (v *View) begin(ctx context.Context, ids []kassett.ID, lanes chan struct{}) {
	var batch []*blobSlot
	var pack kassett.ID
	var size int64
	send := func() {
		if some := batch; len(some) > 0 {
			v.work.Go(func() { v.loadBatch(ctx, some, lanes) })
		}
		batch, size = nil, 0
	}
	for _, id := range ids {
		s, mine := v.blobs.claim(id)
		if !mine {
			continue
		}
		loc, _ := v.r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: id})
		if loc.Pack != pack || size+int64(loc.Size()) > batchBytes {
			send()
		}
		batch, pack, size = append(batch, s), loc.Pack, size+int64(loc.Size())
	}
	send()
}

// loadBatch fills slots with blobs that rest in one pack.
func (v *View) loadBatch(ctx context.Context, batch []*blobSlot, lanes chan struct{}) {
	if lanes != nil {
		select {
		case lanes <- struct{}{}:
			defer func() { <-lanes }()
		case <-ctx.Done():
			v.dropAll(batch)
			return
		}
	}
	if len(batch) == 1 {
		v.loadOne(ctx, batch[0])
		return
	}
	slots := make(map[kassett.ID]*blobSlot, len(batch))
	blobs := make([]repo.Blob, 0, len(batch))
	var pack kassett.ID
	var size int64
	for _, s := range batch {
		loc, ok := v.r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: s.key})
		if !ok || len(blobs) > 0 && loc.Pack != pack || loc.Size() > maxBlob {
			v.work.Go(func() { v.loadOne(ctx, s) })
			continue
		}
		pack, size = loc.Pack, size+int64(loc.Size())
		slots[s.key], blobs = s, append(blobs, loc.Blob)
	}
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	err := v.memory.Acquire(ctx, min(size, v.o.BlobBytes))
	if err == nil {
		defer v.memory.Release(min(size, v.o.BlobBytes))
		err = v.r.LoadBlobs(ctx, pack, blobs, func(b repo.Blob, plain []byte, err error) error {
			s := slots[b.ID]
			if s == nil {
				return nil // it is there twice
			}
			delete(slots, b.ID)
			if err == nil {
				v.blobs.fill(s, bytes.Clone(plain), int64(len(plain)), nil)
			} else {
				v.work.Go(func() { v.loadOne(v.ctx, s) }) // it may be elsewhere by now
			}
			return nil
		})
	}
	for _, s := range slots {
		v.blobs.fill(s, nil, 0, v.failed(ctx, err))
	}
}

// dropAll tells those who wait for a blob that it will not come.
func (v *View) dropAll(batch []*blobSlot) {
	for _, s := range batch {
		v.blobs.fill(s, nil, 0, v.failed(v.ctx, errDropped))
	}
}

// failed returns the error of a load that did not come to its end: errDropped if
// only the reading ahead was given up, so that those who need the blob load it.
func (v *View) failed(ctx context.Context, err error) error {
	switch {
	case v.ctx.Err() != nil:
		return context.Cause(v.ctx)
	case errors.Is(ctx.Err(), context.Canceled):
		return errDropped
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &kassett.Error{Op: "read", What: "data blob", Kind: kassett.Offline, Err: ctx.Err()}
	}
	return cmp.Or(err, io.ErrUnexpectedEOF)
}

// loadOne fills the slot of one blob.
func (v *View) loadOne(ctx context.Context, s *blobSlot) {
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	h := repo.BlobHandle{Type: repo.DataBlob, ID: s.key}
	size, _ := v.r.BlobSize(h)
	if size > maxBlob {
		v.blobs.fill(s, nil, 0, &kassett.Error{
			Op: "read", What: "data blob " + s.key.String(), Kind: kassett.Invalid,
			Err: fmt.Errorf("it has %d bytes in one piece, too many for a mount", size), Hint: "restore the file instead",
		})
		return
	}
	if err := v.memory.Acquire(ctx, int64(size)); err != nil {
		v.blobs.fill(s, nil, 0, v.failed(ctx, err))
		return
	}
	defer v.memory.Release(int64(size))
	b, err := v.r.LoadBlob(ctx, h, nil)
	if err != nil && ctx.Err() == nil && v.lookAgain(ctx) {
		b, err = v.r.LoadBlob(ctx, h, nil)
	}
	if err != nil {
		v.blobs.fill(s, nil, 0, v.failed(ctx, err))
		return
	}
	v.faults.fine(v.o.Notice)
	b = slices.Clip(b)
	v.blobs.fill(s, b, int64(len(b)), nil)
}
