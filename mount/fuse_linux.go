package mount

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kassett"
	"kassett/snapshot"
)

// How long the kernel may believe what it was told. What is in a snapshot never
// changes; the folders above do.
const (
	foreverTime = 24 * time.Hour
	aboveTime   = time.Second
)

// system answers the kernel. A node's number is that of its folder, above, and
// its place there counted from one, below; a folder has a number of its own,
// with zero below. So nothing has to be remembered of a file, and of a folder
// only as long as the kernel knows it or something in it.
type system struct {
	fuse.RawFileSystem // answers that there is no such call
	v                  *View
	o                  FUSEOptions

	mu      sync.Mutex // guards what follows
	known   map[uint32]*known
	numbers map[knownKey]uint32
	last    uint32
	handles map[uint64]any // *file or *openFolder
	handle  uint64
}

// known is a folder, or a link above the snapshots, that the kernel knows.
type known struct {
	*folder
	node    *snapshot.Node // of a link; nil for a folder
	key     knownKey
	lookups uint64 // of it and of all in it that are no folders
}

// knownKey finds what is known: in the folder in, the node number at, or above
// the snapshots, where numbers change, what has this name and target.
type knownKey struct {
	in, at       uint32
	name, target string
}

// openFolder is a folder being read.
type openFolder struct {
	*folder
	*listing
	number uint32
}

const rootNumber = 1

func newSystem(v *View, o FUSEOptions) *system {
	s := &system{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), v: v, o: o,
		known: map[uint32]*known{}, numbers: map[knownKey]uint32{}, handles: map[uint64]any{}, last: rootNumber,
	}
	s.known[rootNumber] = &known{folder: v.root(), lookups: 1}
	return s
}

// String names the file system in the library's messages.
func (s *system) String() string { return "kassett" }

// status turns an error into what a program gets to see.
func status(err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, errInterrupted):
		return fuse.EINTR
	case kassett.KindOf(err) == kassett.NotFound && errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	}
	return fuse.EIO
}

var errInterrupted = errors.New("interrupted")

// request is the context of a call of the kernel; it ends when the caller got a
// signal.
type request <-chan struct{}

func (r request) Deadline() (time.Time, bool) { return time.Time{}, false }
func (r request) Done() <-chan struct{}       { return r }
func (r request) Value(any) any               { return nil }
func (r request) Err() error {
	select {
	case <-r:
		return errInterrupted
	default:
		return nil
	}
}

// folderOf returns the folder, or the link, that a node number stands for or
// is in.
func (s *system) folderOf(id uint64) (*known, uint32) {
	if id == fuse.FUSE_ROOT_ID {
		id = rootNumber << 32
	}
	number := uint32(id >> 32) //nolint:gosec // the upper half
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[number], number
}

// node returns what a node number stands for, and the folder it is in; of a
// folder that is its own.
func (s *system) node(ctx context.Context, id uint64) (k *known, n *snapshot.Node, err error) {
	k, _ = s.folderOf(id)
	at := uint32(id) //nolint:gosec // the lower half
	if id == fuse.FUSE_ROOT_ID {
		at = 0
	}
	switch {
	case k == nil:
		return nil, nil, errStale
	case at == 0 && k.node != nil:
		return k, k.node, nil
	case at == 0:
		n, err = s.v.describe(ctx, k.folder)
		return k, n, err
	}
	l, err := s.v.list(ctx, k.folder)
	if err != nil {
		return nil, nil, err
	}
	if int(at) > len(l.nodes) {
		return nil, nil, errStale
	}
	return k, l.nodes[at-1], nil
}

var errStale = &kassett.Error{Op: "find", Kind: kassett.NotFound, Err: fs.ErrNotExist}

// enter gives the kernel a node of a folder, counts that, and returns its
// attributes in out.
func (s *system) enter(ctx context.Context, in *openFolder, i int, out *fuse.EntryOut) error {
	n := in.nodes[i]
	f := in.folder
	out.Generation = 1
	out.SetEntryTimeout(foreverTime)
	out.SetAttrTimeout(foreverTime)
	if in.snap == nil {
		out.SetEntryTimeout(aboveTime)
		out.SetAttrTimeout(aboveTime)
	}
	if in.snap != nil && n.Type != kassett.Dir {
		s.mu.Lock()
		if k := s.known[in.number]; k != nil {
			k.lookups++
		}
		s.mu.Unlock()
		out.NodeId = uint64(in.number)<<32 | uint64(i+1) //nolint:gosec // a tree has fewer than 2^32 nodes
		s.attr(f, n, &out.Attr)
		return nil
	}
	key := knownKey{in: in.number, at: uint32(i)} //nolint:gosec // as above
	k := &known{lookups: 1}
	if n.Type == kassett.Symlink {
		k.node, k.folder = n, f
		key = knownKey{in: in.number, name: n.Name, target: n.LinkTarget}
	} else {
		sub, err := s.v.sub(ctx, f, n)
		if err != nil {
			return err
		}
		if k.folder = sub; in.snap == nil {
			key = knownKey{in: in.number, name: n.Name}
			if sub.snap != nil {
				key.target = sub.snap.ID.String()
			}
		}
	}
	out.NodeId = uint64(s.remember(k, key)) << 32
	if n.Type == kassett.Dir {
		f = k.folder
	}
	s.attr(f, n, &out.Attr)
	return nil
}

// remember counts a look-up of a folder or link and returns its number.
func (s *system) remember(k *known, key knownKey) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number, there := s.numbers[key]; there {
		s.known[number].lookups++
		return number
	}
	s.last++
	k.key = key
	s.known[s.last], s.numbers[key] = k, s.last
	return s.last
}

// Forget implements [fuse.RawFileSystem].
func (s *system) Forget(id, lookups uint64) {
	if id == fuse.FUSE_ROOT_ID {
		return
	}
	number := uint32(id >> 32) //nolint:gosec // the upper half
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[number]
	if k == nil || number == rootNumber {
		return
	}
	if k.lookups -= min(lookups, k.lookups); k.lookups == 0 {
		delete(s.known, number)
		delete(s.numbers, k.key)
	}
}

// Lookup implements [fuse.RawFileSystem].
func (s *system) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	ctx := request(cancel)
	k, number := s.folderOf(in.NodeId)
	if k == nil || k.node != nil {
		return fuse.ENOENT
	}
	l, err := s.v.list(ctx, k.folder)
	if err != nil {
		return status(err)
	}
	i := l.find(name)
	if i < 0 {
		if k.snap != nil { // it will never be there
			out.SetEntryTimeout(foreverTime)
			return fuse.OK
		}
		return fuse.ENOENT
	}
	return status(s.enter(ctx, &openFolder{k.folder, l, number}, i, out))
}

// GetAttr implements [fuse.RawFileSystem].
func (s *system) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	k, n, err := s.node(request(cancel), in.NodeId)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(foreverTime)
	if k.snap == nil {
		out.SetTimeout(aboveTime)
	}
	s.attr(k.folder, n, &out.Attr)
	return fuse.OK
}

// attr fills in what stat tells of a node in a folder, or of the folder itself.
func (s *system) attr(f *folder, n *snapshot.Node, a *fuse.Attr) {
	a.Ino = f.ino
	if n.Type != kassett.Dir {
		a.Ino = inode(f, n)
	}
	a.Mode = fileMode(n)
	a.Nlink = uint32(max(1, min(n.Links, 1<<31))) //nolint:gosec // bounded
	if n.Type == kassett.Dir {
		a.Nlink = 1 // which stands for: not counted
	}
	a.Uid, a.Gid = n.UID, n.GID
	if f.snap == nil || f.parent.snap == nil && n.Type == kassett.Dir {
		a.Uid, a.Gid = s.o.UID, s.o.GID // folders of ours
	}
	if s.o.OwnerRoot {
		a.Uid, a.Gid = 0, 0
	}
	switch n.Type {
	case kassett.File:
		a.Size = n.Size
		a.Blocks = (n.Size + 511) / 512
	case kassett.Symlink:
		a.Size = uint64(len(n.LinkTarget))
	case kassett.Device, kassett.CharDevice:
		a.Rdev = uint32(n.Device) //nolint:gosec // what the kernel takes
	}
	setTime(&a.Atime, &a.Atimensec, n.AccessTime)
	setTime(&a.Mtime, &a.Mtimensec, n.ModTime)
	setTime(&a.Ctime, &a.Ctimensec, n.ChangeTime)
}

func setTime(sec *uint64, nsec *uint32, t time.Time) {
	if t.IsZero() {
		return
	}
	*sec, *nsec = uint64(t.Unix()), uint32(t.Nanosecond()) //nolint:gosec // the kernel takes it for signed again
}

// fileMode returns the mode of a node as the system has it. The type is that of
// the node, whatever a foreign writer put into its mode.
func fileMode(n *snapshot.Node) uint32 {
	m := uint32(n.Mode.Perm())
	for _, bit := range []struct {
		is  fs.FileMode
		bit uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if n.Mode&bit.is != 0 {
			m |= bit.bit
		}
	}
	switch n.Type {
	case kassett.Dir:
		m |= unix.S_IFDIR
	case kassett.Symlink:
		m |= unix.S_IFLNK
	case kassett.Device:
		m |= unix.S_IFBLK
	case kassett.CharDevice:
		m |= unix.S_IFCHR
	case kassett.Fifo:
		m |= unix.S_IFIFO
	case kassett.Socket:
		m |= unix.S_IFSOCK
	default:
		m |= unix.S_IFREG
	}
	return m
}

// Readlink implements [fuse.RawFileSystem].
func (s *system) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	_, n, err := s.node(request(cancel), in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	if n.Type != kassett.Symlink {
		return nil, fuse.EINVAL
	}
	return []byte(n.LinkTarget), fuse.OK
}

// keep returns the handle of something opened.
func (s *system) keep(x any) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handle++
	s.handles[s.handle] = x
	return s.handle
}

func (s *system) opened(handle uint64) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles[handle]
}

// Open implements [fuse.RawFileSystem].
func (s *system) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	ctx := request(cancel)
	k, n, err := s.node(ctx, in.NodeId)
	if err != nil {
		return status(err)
	}
	if n.Type != kassett.File || k.snap == nil {
		return fuse.EINVAL
	}
	f, err := s.v.open(ctx, k.folder, n, int(uint32(in.NodeId))-1) //nolint:gosec // the lower half
	if err != nil {
		return status(err)
	}
	out.Fh = s.keep(f)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if uint64(f.size) != n.Size { //nolint:gosec // not negative
		// The kernel must not cut what there is at the size it was told.
		out.OpenFlags = fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

// Read implements [fuse.RawFileSystem]. The kernel takes a short answer for the
// end of the file, so that a fault anywhere makes all of the answer one; it then
// asks again page by page.
func (s *system) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	f, ok := s.opened(in.Fh).(*file)
	if !ok {
		return nil, fuse.EBADF
	}
	b, err := f.read(request(cancel), buf, int64(in.Offset)) //nolint:gosec // a negative one is refused
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultData(b), fuse.OK
}

// Release implements [fuse.RawFileSystem].
func (s *system) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if f, ok := s.opened(in.Fh).(*file); ok {
		f.close()
	}
	s.drop(in.Fh)
}

func (s *system) drop(handle uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.handles, handle)
}

// OpenDir implements [fuse.RawFileSystem].
func (s *system) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	k, number := s.folderOf(in.NodeId)
	if k == nil || k.node != nil {
		return fuse.ENOTDIR
	}
	l, err := s.v.list(request(cancel), k.folder)
	if err != nil {
		return status(err)
	}
	out.Fh = s.keep(&openFolder{k.folder, l, number})
	if k.snap != nil {
		out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	}
	return fuse.OK
}

// ReleaseDir implements [fuse.RawFileSystem].
func (s *system) ReleaseDir(in *fuse.ReleaseIn) { s.drop(in.Fh) }

// dots are the entries that every folder begins with.
var dots = []string{".", ".."}

// ReadDir implements [fuse.RawFileSystem].
func (s *system) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f, ok := s.opened(in.Fh).(*openFolder)
	if !ok {
		return fuse.EBADF
	}
	for i := in.Offset; i < uint64(len(dots)+len(f.nodes)); i++ {
		if !out.AddDirEntry(f.entry(int(i))) { //nolint:gosec // below the number of nodes
			break
		}
	}
	return fuse.OK
}

// entry returns an entry of a folder, the dots among them.
func (f *openFolder) entry(i int) fuse.DirEntry {
	e := fuse.DirEntry{Off: uint64(i + 1)} //nolint:gosec // not negative
	if i < len(dots) {
		e.Name, e.Mode, e.Ino = dots[i], unix.S_IFDIR, f.ino
		if i == 1 && f.parent != nil {
			e.Ino = f.parent.ino
		}
		return e
	}
	n := f.nodes[i-len(dots)]
	e.Name, e.Mode, e.Ino = n.Name, fileMode(n), inode(f.folder, n)
	return e
}

// ReadDirPlus implements [fuse.RawFileSystem].
func (s *system) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	f, ok := s.opened(in.Fh).(*openFolder)
	if !ok {
		return fuse.EBADF
	}
	for i := in.Offset; i < uint64(len(dots)+len(f.nodes)); i++ {
		e := out.AddDirLookupEntry(f.entry(int(i))) //nolint:gosec // below the number of nodes
		if e == nil {
			break
		}
		if i < uint64(len(dots)) {
			continue
		}
		if err := s.enter(request(cancel), f, int(i)-len(dots), e); err != nil { //nolint:gosec // as above
			*e = fuse.EntryOut{} // a name without attributes; the kernel asks for them
		}
	}
	return fuse.OK
}

// GetXAttr implements [fuse.RawFileSystem].
func (s *system) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	_, n, err := s.node(request(cancel), in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	for _, x := range n.Xattrs {
		if x.Name == name {
			return fit(dest, x.Value)
		}
	}
	if name == "security.selinux" {
		// A listing asks for it of every file, until it is told that there is no
		// such thing here.
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	return 0, fuse.ENOATTR
}

// ListXAttr implements [fuse.RawFileSystem].
func (s *system) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	_, n, err := s.node(request(cancel), in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	var all bytes.Buffer
	for _, x := range n.Xattrs {
		all.WriteString(x.Name)
		all.WriteByte(0)
	}
	return fit(dest, all.Bytes())
}

// fit copies what was asked for, or says how much room it takes.
func fit(dest, b []byte) (uint32, fuse.Status) {
	n := uint32(min(len(b), 1<<31)) //nolint:gosec // bounded
	if len(dest) < len(b) {
		return n, fuse.ERANGE
	}
	copy(dest, b)
	return n, fuse.OK
}

// StatFs implements [fuse.RawFileSystem].
func (s *system) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, maxName
	return fuse.OK
}
