package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"kassett"
)

// TargetOptions say how a [Target] restores metadata. The zero value restores
// all of it.
type TargetOptions struct {
	OwnersByName bool                   // by the names of user and group where this machine knows them, not by number; not on Windows
	Xattrs       func(name string) bool // which extended attributes are restored; nil is all

	// Warn, when not nil, is told once what cannot be restored at all, such
	// as owners when not run as root.
	Warn func(path string, err error)
}

// Target is a [kassett.Target], and [kassett.Readable], that restores into one
// folder. Every step from that folder to an entry is taken through an open
// handle, with one name, and never through a symbolic link; names that could
// mean more than one step are refused. So nothing outside is touched, also
// when someone changes the folder meanwhile.
//
// A regular file is written as NAME.kassett-part beside its final name and
// renamed by Commit. Nothing is flushed to the disk until Sync, which the
// caller calls once at the end. It is safe for use by many goroutines.
type Target struct {
	dir  string
	o    TargetOptions
	open handles

	uid, gid int // of who runs this, as the system numbers them; -1 on Windows

	users, groups sync.Map // names → numbers, -1 for unknown ones
	warned        sync.Once

	mu     sync.Mutex
	claims map[string]claim  // paths taken by parts, and by files named like one
	mounts map[uint64]string // file system → a folder on it
}

var (
	_ kassett.Target   = (*Target)(nil)
	_ kassett.Readable = (*Target)(nil)
)

// claim says what a path that looks like a part's is.
type claim uint8

const (
	claimPart  claim = iota + 1 // a part being written
	claimFinal                  // a restored file that happens to be called so
)

// partSuffix marks a file that is being restored.
const partSuffix = ".kassett-part"

// targetHandles is how many folders a Target keeps open, at most.
const targetHandles = 256

// NewTarget returns a Target for the folder dir, which need not exist yet: Make
// of "" makes it. When it is a symbolic link, what it leads to is the target.
func NewTarget(dir string, o TargetOptions) (*Target, error) {
	if dir == "" {
		return nil, &kassett.Error{Op: "restore files", Kind: kassett.Invalid, Err: errors.New("no folder to restore to"), Hint: "name a folder"}
	}
	t := &Target{dir: dir, o: o, uid: os.Geteuid(), gid: os.Getegid(), claims: map[string]claim{}, mounts: map[uint64]string{}}
	t.open.init(targetHandles)
	if err := takeRights(); err != nil && o.Warn != nil {
		o.Warn("", err)
	}
	return t, nil
}

// Close closes the folders that are open. It flushes nothing: see Sync.
func (t *Target) Close() error {
	t.open.close()
	return nil
}

// Sync makes everything restored so far durable: one call for each file system
// that was written to. Errors the disk had since the start show up here.
func (t *Target) Sync(ctx context.Context) error {
	t.mu.Lock()
	paths := make([]string, 0, len(t.mounts))
	for _, p := range t.mounts {
		paths = append(paths, p)
	}
	t.mu.Unlock()
	for _, p := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.folder(p)
		if err != nil {
			return t.failed("flush", p, err)
		}
		err = h.dir.sync()
		if t.open.put(h); err != nil {
			return t.failed("flush", p, err)
		}
	}
	return nil
}

// folder returns the open folder at path.
func (t *Target) folder(path string) (*handle, error) { return t.open.get(path, t.openFolder) }

func (t *Target) openFolder(path string) (folder, error) {
	f, err := t.openStep(path)
	if err != nil {
		return folder{}, err
	}
	device, err := f.look()
	if err != nil {
		f.close()
		return folder{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.mounts[device]; !ok {
		t.mounts[device] = path
	}
	return *f, nil
}

func (t *Target) openStep(path string) (*folder, error) {
	if path == "" {
		f, err := openFolder(t.dir)
		return &f, err
	}
	h, name, err := t.parent(path)
	if err != nil {
		return nil, err
	}
	defer t.open.put(h)
	f, err := h.dir.child(name)
	return &f, err
}

// parent returns the open folder that holds path, and the name in it.
func (t *Target) parent(path string) (*handle, string, error) {
	dir, name := split(path)
	if err := checkName(name); err != nil {
		return nil, "", &kassett.Error{
			Op: "restore", What: fmt.Sprintf("%q", path), Kind: kassett.Invalid, Err: err,
			Hint: "this name cannot exist on this system; leave it out, or restore on a system that has such names",
		}
	}
	h, err := t.folder(dir)
	return h, name, err
}

// checkName refuses what is not exactly one step down.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("%q is not the name of a file: %w", name, fs.ErrInvalid)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("a name with a separator or a zero byte: %w", fs.ErrInvalid)
	}
	return systemName(name)
}

// failed gives an error the path and, where the system tells, the kind.
func (t *Target) failed(op, path string, err error) error {
	if _, ok := errors.AsType[*kassett.Error](err); ok {
		return err
	}
	kind, hint := systemKind(err)
	if kind == kassett.Other {
		return fmt.Errorf("%s %s: %w", op, path, err)
	}
	return &kassett.Error{Op: op, What: path, Kind: kind, Hint: hint, Err: err}
}

// warnOnce tells what holds for the whole restore.
func (t *Target) warnOnce(what string) {
	if t.o.Warn != nil {
		t.warned.Do(func() { t.o.Warn("", errors.New(what)) })
	}
}

func exists(op, path string) error {
	return &kassett.Error{
		Op: op, What: path, Kind: kassett.Exists, Err: fs.ErrExist,
		Hint: "move it away, or allow the restore to overwrite it",
	}
}

// Look implements [kassett.Target]. Of a symbolic link it also tells where it
// leads to; extended attributes are not read.
func (t *Target) Look(ctx context.Context, path string) (*kassett.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if path == "" {
		e := statPath(t.dir, true)
		return &e, e.Err
	}
	h, name, err := t.parent(path)
	if err != nil {
		return nil, t.failed("look at", path, err)
	}
	defer t.open.put(h)
	e, err := h.dir.stat(name)
	if err == nil && e.Type == kassett.Symlink {
		e.LinkTarget, err = h.dir.readlink(name)
	}
	if err != nil {
		return nil, t.failed("look at", path, err)
	}
	return &e, nil
}

// Names implements [kassett.Readable].
func (t *Target) Names(ctx context.Context, dir string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, err := t.folder(dir)
	if err != nil {
		return nil, t.failed("list folder", dir, err)
	}
	defer t.open.put(h)
	all, err := h.dir.names()
	if err != nil {
		return nil, t.failed("list folder", dir, err)
	}
	names := make([]string, 0, len(all))
	for _, d := range all {
		if !strings.HasSuffix(d.name, partSuffix) || !h.dir.isFile(d.name) {
			names = append(names, d.name)
		}
	}
	return names, nil
}

// Read implements [kassett.Readable].
func (t *Target) Read(ctx context.Context, path string) (kassett.ReaderAtCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, name, err := t.parent(path)
	if err != nil {
		return nil, t.failed("read", path, err)
	}
	defer t.open.put(h)
	f, err := h.dir.read(name)
	if err != nil {
		return nil, t.failed("read", path, err)
	}
	return f, nil
}

// Make implements [kassett.Target].
func (t *Target) Make(ctx context.Context, path string, e *kassett.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if path == "" {
		if err := os.MkdirAll(t.dir, 0o700); err != nil {
			return t.failed("make", t.dir, err)
		}
		return nil
	}
	h, name, err := t.parent(path)
	if err != nil {
		return t.failed("make", path, err)
	}
	defer t.open.put(h)
	switch e.Type {
	case kassett.Dir:
		err = h.dir.makeDir(name)
	case kassett.Symlink:
		err = h.dir.makeSymlink(name, e)
	case kassett.Device, kassett.CharDevice, kassett.Fifo:
		err = h.dir.makeNode(name, e)
	default:
		err = &kassett.Error{
			Op: "make", What: path, Kind: kassett.Invalid, Err: fmt.Errorf("cannot make a thing of type %q", e.Type),
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return exists("make", path)
	}
	if err != nil {
		return t.failed("make", path, err)
	}
	return nil
}

// Link implements [kassett.Target].
func (t *Target) Link(ctx context.Context, first, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	from, fromName, err := t.parent(first)
	if err != nil {
		return t.failed("link", first, err)
	}
	defer t.open.put(from)
	to, name, err := t.parent(path)
	if err != nil {
		return t.failed("link", path, err)
	}
	defer t.open.put(to)
	err = from.dir.link(fromName, to.dir, name)
	if errors.Is(err, fs.ErrExist) {
		return exists("link", path)
	}
	if err != nil {
		return t.failed("link", path, err)
	}
	return nil
}

// Finish implements [kassett.Target]. It also sets the metadata of a regular
// file that is there already.
func (t *Target) Finish(ctx context.Context, path string, e *kassett.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var h *handle
	name := "."
	var err error
	if path == "" {
		h, err = t.folder("")
	} else {
		h, name, err = t.parent(path)
	}
	if err != nil {
		return t.failed("set metadata of", path, err)
	}
	defer t.open.put(h)
	if err := t.finish(h.dir, name, e); err != nil {
		return t.failed("set metadata of", path, err)
	}
	return nil
}

// Remove implements [kassett.Target]. What is not there is no error.
func (t *Target) Remove(ctx context.Context, path string) error {
	if path == "" {
		return &kassett.Error{Op: "remove", What: t.dir, Kind: kassett.Invalid, Err: errors.New("the target itself stays")}
	}
	t.open.drop(path)
	return t.remove(ctx, path)
}

func (t *Target) remove(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h, name, err := t.parent(path)
	if err != nil {
		return t.failed("remove", path, err)
	}
	isDir, err := h.dir.unlink(name)
	t.open.put(h)
	if err != nil {
		return t.failed("remove", path, err)
	}
	if !isDir {
		return nil
	}
	// The handle is not kept while going down: a tree may be deeper than
	// there are handles.
	if h, err = t.folder(path); err != nil {
		return t.failed("remove", path, err)
	}
	all, err := h.dir.names()
	if t.open.put(h); err != nil {
		return t.failed("remove", path, err)
	}
	for _, d := range all {
		if err := t.remove(ctx, path+"/"+d.name); err != nil {
			return err
		}
	}
	t.open.drop(path)
	if h, name, err = t.parent(path); err != nil {
		return t.failed("remove", path, err)
	}
	defer t.open.put(h)
	if err := h.dir.rmdir(name); err != nil {
		return t.failed("remove", path, err)
	}
	return nil
}

// file is one regular file being restored.
type file struct {
	t      *Target
	h      *handle // its folder
	path   string
	name   string // final
	part   string // what it is called until then
	entry  *kassett.Entry
	f      part
	reused bool         // the part was there
	end    atomic.Int64 // of what was written
	closed bool
}

// Open implements [kassett.Target]. A part that an interrupted restore left is
// gone on with, if it is a file of this user's under no other name.
func (t *Target) Open(ctx context.Context, path string, e *kassett.Entry) (kassett.TargetFile, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h, name, err := t.parent(path)
	if err != nil {
		return nil, t.failed("write", path, err)
	}
	f := &file{t: t, h: h, path: path, name: name, entry: e}
	for _, part := range []string{name + partSuffix, hashedPart(name)} {
		if !f.claim(part) {
			err = errForeign
			continue
		}
		if f.f, f.reused, err = h.dir.openPart(part, e); err == nil {
			return f, nil
		}
		if f.release(); !errors.Is(err, errForeign) {
			break
		}
	}
	t.open.put(h)
	if errors.Is(err, errForeign) {
		return nil, exists("write", path)
	}
	return nil, t.failed("write", path, err)
}

// errForeign says that something else has the name of a part.
var errForeign = errors.New("not a part of a file")

// hashedPart is the other name of a part: for names too long to be added to,
// and where the usual one is taken.
func hashedPart(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:16]) + partSuffix
}

// claim takes a name for the part, if no other file has it. A restored file may
// itself be called like a part: a part left over from an earlier restore was
// backed up.
func (f *file) claim(part string) bool {
	dir, _ := split(f.path)
	path := join(dir, part)
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	if len(part) > maxName || f.t.claims[path] != 0 {
		return false
	}
	if strings.HasSuffix(f.name, partSuffix) {
		if f.t.claims[f.path] == claimPart {
			return false
		}
		f.t.claims[f.path] = claimFinal
	}
	f.t.claims[path] = claimPart
	f.part = part
	return true
}

// release gives the name of the part free.
func (f *file) release() {
	dir, _ := split(f.path)
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	delete(f.t.claims, join(dir, f.part))
}

// maxName is the longest name of a file, in bytes: NAME_MAX of Linux, and no
// more than the 255 UTF-16 units of NTFS.
const maxName = 255

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// ReadAt implements [io.ReaderAt].
func (f *file) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// WriteAt implements [io.WriterAt].
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	for end := off + int64(n); ; {
		was := f.end.Load()
		if was >= end || f.end.CompareAndSwap(was, end) {
			break
		}
	}
	if err != nil {
		return n, f.t.failed("write", f.path, err)
	}
	return n, nil
}

// Commit implements [kassett.TargetFile].
func (f *file) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if f.closed {
		return f.t.failed("write", f.path, fs.ErrClosed)
	}
	size := int64(f.entry.Size) //nolint:gosec // a size above 2^63 is refused by the system
	if f.reused || f.end.Load() != size {
		if err := f.f.truncate(size); err != nil {
			return f.t.failed("set size of", f.path, err)
		}
	}
	metaErr := f.t.dress(f.f, f.h.dir, f.entry, !f.reused)
	if err := f.h.dir.rename(f.part, f.name, f.f); err != nil {
		if isFolder(err) {
			return exists("write", f.path)
		}
		return f.t.failed("name", f.path, err)
	}
	if err := f.Close(); err != nil {
		return f.t.failed("write", f.path, err)
	}
	if metaErr != nil {
		return f.t.failed("set metadata of", f.path, metaErr)
	}
	return nil
}

// Close implements [io.Closer].
func (f *file) Close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	err := f.f.Close()
	f.release()
	f.t.open.put(f.h)
	return err
}
