package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"kassett"
	"kassett/repo"
)

// DumpFormat is a format of an archive.
type DumpFormat string

// The formats of an archive.
const (
	Tar DumpFormat = "tar" // PAX, with extended attributes as star writes them, and hard links
	Zip DumpFormat = "zip" // files, folders and symlinks with their modes and times
)

// DumpOptions say how a folder is dumped.
type DumpOptions struct {
	Format   DumpFormat // of folders; empty is Tar
	Progress *kassett.Progress
	// Warn is told what the archive lacks, by path.
	Warn func(path string, err error)
}

// Dump writes what is at path below a tree to w: of a file its content, of a
// folder an archive of all below it, in which names begin with path. The caller
// has loaded the index.
//
// What is known to be damaged before it is begun is named to o.Warn, and the
// error is then of the kind [kassett.Corrupt] or [kassett.Incomplete]. Damage in
// the middle of a large file ends the archive there: no file is in it whole that
// is not.
func Dump(ctx context.Context, r *repo.Repository, tree kassett.ID, path string, w io.Writer, o DumpOptions) error { //nolint:revive // what, where and how: no fewer say it
	n, err := Locate(ctx, r, tree, path)
	if err != nil {
		return err
	}
	if n.Type == kassett.File {
		o.Progress.Expect(1, int64(n.Size)) //nolint:gosec // a display
		return DumpFile(ctx, r, n, w)
	}
	if n.Type != kassett.Dir {
		return &kassett.Error{
			Op: "dump", What: fmt.Sprintf("%q", path), Kind: kassett.Invalid, Err: fmt.Errorf("it is a %s", n.Type),
			Hint: "dump its folder as an archive",
		}
	}
	var a archive
	switch o.Format {
	case "", Tar:
		a = newTarArchive(w)
	case Zip:
		a = newZipArchive(w)
	default:
		return &kassett.Error{Op: "dump", What: fmt.Sprintf("%.80q", o.Format), Kind: kassett.Invalid, Hint: "use tar or zip"}
	}
	o.Progress.Enter("dump")
	d := &dumper{feed: newFeed(r), o: o, a: a}
	return d.dump(ctx, n.Subtree, path)
}

// DumpFile writes the content of one file to w. A few blobs are read ahead.
func DumpFile(ctx context.Context, r *repo.Repository, n *Node, w io.Writer) error {
	f := newFeed(r)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(f.parts)
		return f.file(ctx, g, "", n)
	})
	g.Go(func() error {
		for p := range f.parts {
			if p.blob == nil {
				continue
			}
			b, err := p.wait(ctx)
			if err == nil {
				_, err = w.Write(b)
			}
			if f.free(p); err != nil {
				return fmt.Errorf("dump file: %w", err)
			}
		}
		return nil
	})
	return g.Wait()
}

// feedBytes bounds what is read ahead.
const feedBytes = 64 << 20

// feed reads blobs ahead, several at a time, and hands them on in order.
type feed struct {
	r     *repo.Repository
	parts chan *feedPart
	room  *semaphore.Weighted // bytes read ahead
	loads chan struct{}       // one for each load
}

// feedPart is a node of an archive, or, with a blob, the next piece of its content.
type feedPart struct {
	path string
	node *Node
	err  error // the node is not whole
	size int64 // of all content

	blob chan struct{} // closed when data or err is there; nil for a node
	data *[]byte
	held int64
}

func newFeed(r *repo.Repository) *feed {
	return &feed{
		r: r, parts: make(chan *feedPart, 64), room: semaphore.NewWeighted(feedBytes),
		loads: make(chan struct{}, max(2, r.Connections())),
	}
}

// send gives a part to the writer.
func (f *feed) send(ctx context.Context, p *feedPart) error {
	select {
	case f.parts <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// file sends a file's node and then its blobs, which goroutines of g load.
func (f *feed) file(ctx context.Context, g *errgroup.Group, path string, n *Node) error {
	p := &feedPart{path: path, node: n}
	for _, id := range n.Content {
		h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
		size, ok := f.r.BlobSize(h)
		if !ok {
			p.err = missingBlob(h)
			return f.send(ctx, p)
		}
		p.size += int64(size)
	}
	if err := f.send(ctx, p); err != nil {
		return err
	}
	for _, id := range n.Content {
		h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
		size, _ := f.r.BlobSize(h)
		b := &feedPart{path: path, blob: make(chan struct{}), held: min(int64(size), feedBytes)}
		if err := f.room.Acquire(ctx, b.held); err != nil {
			return context.Cause(ctx)
		}
		select {
		case f.loads <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		b.data = blobBuffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // only these are put
		g.Go(func() error {
			defer func() { <-f.loads; close(b.blob) }()
			var data []byte
			if data, b.err = f.r.LoadBlob(ctx, h, (*b.data)[:0]); b.err == nil {
				*b.data = data
			}
			return nil
		})
		if err := f.send(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// wait returns the blob's bytes, which are valid until free.
func (p *feedPart) wait(ctx context.Context) ([]byte, error) {
	select {
	case <-p.blob:
		return *p.data, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// free gives back the memory of a part that was waited for.
func (f *feed) free(p *feedPart) {
	f.room.Release(p.held)
	select {
	case <-p.blob:
		blobBuffers.Put(p.data)
	default: // still being loaded: the end of the dump is near
	}
}

// archive writes one format. Entries come in order of path, folders before what
// is in them.
type archive interface {
	// begin starts an entry of size bytes, which follow in w.
	begin(path string, n *Node, size int64) (w io.Writer, err error)
	// lacks returns what the format cannot hold of an entry, or nil. An entry
	// that it cannot hold at all is an errSkip.
	lacks(n *Node) error
	io.Closer
}

// errSkip is the error of an entry that an archive cannot hold.
var errSkip = errors.New("the format has no such entry")

// dumper is one dump of a folder.
type dumper struct {
	*feed
	o   DumpOptions
	a   archive
	bad faults
}

func (d *dumper) warn(path string, err error) {
	d.bad.add(fmt.Errorf("%q: %w", path, err))
	d.o.Progress.Problem()
	if d.o.Warn != nil {
		d.o.Warn(path, err)
	}
}

func (d *dumper) dump(ctx context.Context, tree kassett.ID, path string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(d.parts)
		w := newWalker(gctx, d.r)
		defer w.close()
		at := "/" + strings.Trim(path, "/")
		return w.walk(tree, at, func(path string, n *Node, err error) error {
			switch {
			case err != nil:
				return d.send(gctx, &feedPart{path: path, err: err})
			case !n.Safe():
				return errors.Join(d.send(gctx, &feedPart{path: path, err: unsafeName(n.Name)}), skipIf(n.Type == kassett.Dir))
			case n.Type == kassett.File:
				return d.file(gctx, g, path, n)
			}
			return d.send(gctx, &feedPart{path: path, node: n})
		})
	})
	g.Go(func() error { return d.write(gctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	if err := d.a.Close(); err != nil {
		return fmt.Errorf("end archive: %w", err)
	}
	return d.bad.err("dump", path, "look at what was named; use another copy of the repository for what is damaged")
}

// write takes the parts and writes the archive.
func (d *dumper) write(ctx context.Context) error {
	var node *feedPart // being written; nil when its blobs are to be passed over
	var out io.Writer  // of its content, once begun
	for p := range d.parts {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if p.blob == nil {
			var err error
			if node, err = d.entry(p); err != nil {
				return err
			}
			out = nil
			continue
		}
		b, err := p.wait(ctx)
		switch {
		case node == nil:
		case err != nil && ctx.Err() != nil:
		case err != nil && out != nil:
			err = fmt.Errorf("dump %q, of which a part is written: %w", p.path, err)
		case err != nil:
			d.warn(p.path, err)
			node, err = nil, nil
		default:
			if out == nil {
				out, err = d.a.begin(node.path, node.node, node.size)
			}
			if err == nil {
				_, err = out.Write(b)
			}
			d.o.Progress.Done(0, int64(len(b)))
		}
		if node == nil {
			err = nil
		}
		if d.free(p); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
	}
	return nil
}

// entry judges the next node. A file with content is only begun when its first
// blob is there.
func (d *dumper) entry(p *feedPart) (*feedPart, error) {
	d.o.Progress.Done(1, 0)
	if p.err != nil {
		d.warn(p.path, p.err)
		return nil, nil //nolint:nilnil,nilerr // nothing to write, and it was told
	}
	if err := d.a.lacks(p.node); err != nil {
		d.warn(p.path, err)
		if errors.Is(err, errSkip) {
			return nil, nil //nolint:nilnil // as above
		}
	}
	if p.node.Type == kassett.File && p.size > 0 {
		return p, nil
	}
	if _, err := d.a.begin(p.path, p.node, 0); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return p, nil
}
