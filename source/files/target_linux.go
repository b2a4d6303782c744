package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"kassett"
)

// takeRights takes what rights the user has but must ask for: here none.
func takeRights() error { return nil }

// systemName refuses names that mean something else on this system.
func systemName(string) error { return nil }

// systemKind says what can be done about an error of the system.
func systemKind(err error) (kassett.Kind, string) {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return kassett.Full, "make room on the target and run the same restore again; it goes on where it stopped"
	case errors.Is(err, unix.EROFS):
		return kassett.Denied, "the target is read-only; mount it for writing"
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return kassett.Other, ""
	case errors.Is(err, fs.ErrPermission):
		return kassett.Denied, "run as a user who may write here"
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		return kassett.Exists, "something that is not a folder is in the way; a symbolic link is never followed"
	}
	return kassett.Other, ""
}

func isFolder(err error) bool {
	return errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY)
}

// look learns what a new file in f inherits, and returns the file system.
func (f *folder) look() (device uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return 0, err
	}
	f.inherits = st.Mode&unix.S_ISGID != 0
	if n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", f.fd), "system.posix_acl_default", nil); n > 0 && err == nil {
		f.inherits = true
	}
	return st.Dev, nil
}

func (f folder) sync() error {
	fd, err := f.openat(".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(fd), unix.Close(fd))
}

// makeDir makes a folder, or makes sure that one is there and can be written to.
func (f folder) makeDir(name string) error {
	err := unix.Mkdirat(f.fd, name, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := f.lstat(name, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fs.ErrExist
	}
	if id := unix.Geteuid(); id != 0 && uint32(id) == st.Uid && st.Mode&0o300 != 0o300 {
		x, err := f.opaque(name)
		if err != nil {
			return err
		}
		defer x.close()
		return x.chmod(st.Mode&0o7777 | 0o700)
	}
	return nil
}

func (f folder) makeSymlink(name string, e *kassett.Entry) error {
	return unix.Symlinkat(e.LinkTarget, f.fd, name)
}

func (f folder) makeNode(name string, e *kassett.Entry) error {
	mode := uint32(unix.S_IFIFO)
	switch e.Type {
	case kassett.Device:
		mode = unix.S_IFBLK
	case kassett.CharDevice:
		mode = unix.S_IFCHR
	}
	return unix.Mknodat(f.fd, name, mode|0o600, int(e.Device)) //nolint:gosec // the bits are what counts
}

func (f folder) link(name string, to folder, as string) error {
	return unix.Linkat(f.fd, name, to.fd, as, 0)
}

// unlink removes what is not a folder, and reports when it is one.
func (f folder) unlink(name string) (isDir bool, err error) {
	switch err := unix.Unlinkat(f.fd, name, 0); {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EISDIR):
		return true, nil
	default:
		return false, err
	}
}

func (f folder) rmdir(name string) error { return unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR) }

// part is an open regular file.
type part struct{ fd int }

// openPart opens or makes the file a restore writes to. It goes on only with
// one that this user made and that has no other name: any other file there
// could be a trap and is replaced. What is no file is [errForeign].
func (f folder) openPart(name string, _ *kassett.Entry) (p part, reused bool, err error) {
	const flags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	create := func() (int, error) {
		return retry(func() (int, error) { return unix.Openat(f.fd, name, flags, 0o600) })
	}
	fd, err := create()
	if !errors.Is(err, unix.EEXIST) {
		return part{fd}, false, err
	}
	if fd, err = f.openat(name, unix.O_RDWR|unix.O_NONBLOCK); err == nil {
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 && st.Uid == uint32(unix.Geteuid()) {
			return part{fd}, true, nil
		}
		_ = unix.Close(fd)
	}
	if !f.isFile(name) {
		return part{}, false, errForeign
	}
	if err := unix.Unlinkat(f.fd, name, 0); err != nil {
		return part{}, false, err
	}
	fd, err = create()
	return part{fd}, false, err
}

// isFile reports whether name is a regular file.
func (f folder) isFile(name string) bool {
	var st unix.Stat_t
	return f.lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// read opens a regular file for reading.
func (f folder) read(name string) (kassett.ReaderAtCloser, error) {
	fd, err := f.openat(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return part{fd}, nil
}

// ReadAt implements [io.ReaderAt].
func (p part) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := retry(func() (int, error) { return unix.Pread(p.fd, b[n:], off+int64(n)) })
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

// WriteAt implements [io.WriterAt].
func (p part) WriteAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := retry(func() (int, error) { return unix.Pwrite(p.fd, b[n:], off+int64(n)) })
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

func (p part) truncate(size int64) error { return unix.Ftruncate(p.fd, size) }

// Close implements [io.Closer].
func (p part) Close() error { return unix.Close(p.fd) }

func (f folder) rename(from, to string, _ part) error {
	return unix.Renameat(f.fd, from, f.fd, to)
}

// dress sets the metadata of a regular file that is being written. A fresh one
// has what the system gives to new files.
func (t *Target) dress(p part, dir folder, e *kassett.Entry, fresh bool) error {
	return t.apply(opened(p), e, fresh && !dir.inherits)
}

// inode is one thing whose metadata can be set, reached in one of three ways.
type inode interface {
	chown(uid, gid int) error
	chmod(mode uint32) error
	utimes(ts *[2]unix.Timespec) error
	xattrs() xattrs
}

// opened is an open file or folder.
type opened struct{ fd int }

func (o opened) chown(uid, gid int) error          { return unix.Fchown(o.fd, uid, gid) }
func (o opened) chmod(mode uint32) error           { return unix.Fchmod(o.fd, mode) }
func (o opened) utimes(ts *[2]unix.Timespec) error { return futimens(o.fd, ts) }
func (o opened) xattrs() xattrs                    { return xattrs{fd: o.fd} }

// opaque is what must not or cannot be opened: a device, a pipe, an unreadable
// file. Its descriptor (O_PATH) only names it, and /proc makes a path of that.
type opaque struct{ fd int }

func (f folder) opaque(name string) (opaque, error) {
	fd, err := f.openat(name, unix.O_PATH)
	return opaque{fd}, err
}

func (o opaque) path() string { return fmt.Sprintf("/proc/self/fd/%d", o.fd) }
func (o opaque) close()       { _ = unix.Close(o.fd) }
func (o opaque) chown(uid, gid int) error {
	return unix.Fchownat(o.fd, "", uid, gid, unix.AT_EMPTY_PATH)
}
func (o opaque) chmod(mode uint32) error { return unix.Chmod(o.path(), mode) }
func (o opaque) utimes(ts *[2]unix.Timespec) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, o.path(), ts[:], 0)
}

func (o opaque) xattrs() xattrs { return xattrs{path: o.path(), follow: true} }

// symlink is a symbolic link: it has no mode.
type symlink struct {
	dir  folder
	name string
}

func (l symlink) chown(uid, gid int) error {
	return unix.Fchownat(l.dir.fd, l.name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}
func (l symlink) chmod(uint32) error { return nil }
func (l symlink) utimes(ts *[2]unix.Timespec) error {
	return unix.UtimesNanoAt(l.dir.fd, l.name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
}
func (l symlink) xattrs() xattrs { return l.dir.xattrsAt(l.name) }

// finish sets the metadata of the thing name in dir, if it is of e's type.
func (t *Target) finish(dir folder, name string, e *kassett.Entry) error {
	var st unix.Stat_t
	if err := dir.lstat(name, &st); err != nil {
		return err
	}
	var now kassett.Entry
	if describe(&now, &st); now.Type != e.Type {
		return fmt.Errorf("%q is of type %q, not %q: %w", name, now.Type, e.Type, fs.ErrInvalid)
	}
	switch e.Type {
	case kassett.Symlink:
		return t.apply(symlink{dir, name}, e, false)
	case kassett.Dir, kassett.File:
		flags := unix.O_RDONLY | unix.O_NONBLOCK
		if e.Type == kassett.Dir {
			flags |= unix.O_DIRECTORY
		}
		fd, err := dir.openat(name, flags)
		if err == nil {
			return errors.Join(t.apply(opened{fd}, e, false), unix.Close(fd))
		}
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
	}
	x, err := dir.opaque(name)
	if err != nil {
		return err
	}
	defer x.close()
	if err := unix.Fstat(x.fd, &st); err != nil {
		return err
	}
	if describe(&now, &st); now.Type != e.Type {
		return fmt.Errorf("%q has become another thing: %w", name, fs.ErrInvalid)
	}
	return t.apply(x, e, false)
}

// apply sets owner, extended attributes, mode and times, in this order: a new
// owner takes the setuid bit and the capabilities away, and attributes cannot
// be added to what is read-only. A bare inode has no attributes yet and
// belongs to who runs this.
func (t *Target) apply(x inode, e *kassett.Entry, bare bool) error {
	var errs []error
	mode := unixMode(e.Mode)
	uid, gid := t.ownersOf(e)
	if !bare || uid != t.uid || gid != t.gid {
		switch err := x.chown(uid, gid); {
		case err == nil:
		case t.uid != 0 && errors.Is(err, fs.ErrPermission):
			// A program must not get the rights of whoever restores it.
			if mode &^= unix.S_ISUID; e.Type != kassett.Dir {
				mode &^= unix.S_ISGID
			}
			t.warnOnce("owners, and what only root may set, are not restored: not run as root")
		default:
			errs = append(errs, fmt.Errorf("set owner: %w", err))
		}
	}
	if !bare || len(e.Xattrs) > 0 {
		if err := x.xattrs().restore(e.Xattrs, t.o.Xattrs); err != nil {
			errs = append(errs, err)
		}
	}
	if !bare || mode != newMode {
		if err := x.chmod(mode); err != nil {
			errs = append(errs, fmt.Errorf("set mode: %w", err))
		}
	}
	atime := e.AccessTime
	if atime.IsZero() {
		atime = e.ModTime
	}
	times := [2]unix.Timespec{
		{Sec: atime.Unix(), Nsec: int64(atime.Nanosecond())},
		{Sec: e.ModTime.Unix(), Nsec: int64(e.ModTime.Nanosecond())},
	}
	if err := x.utimes(&times); err != nil {
		errs = append(errs, fmt.Errorf("set times: %w", err))
	}
	return errors.Join(errs...)
}

// newMode is the mode a part is made with, whatever the umask takes away.
const newMode = 0o600

func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		mode |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		mode |= unix.S_ISVTX
	}
	return mode
}
