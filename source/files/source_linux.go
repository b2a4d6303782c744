package files

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
)

// folder is an open folder. Its descriptor (O_PATH) only names it: that takes no
// permission to read, and less work.
type folder struct {
	fd       int
	inherits bool // a Target's: new files in it get a group or an access list from it
}

// openFolder opens the folder at a path of the system, following links.
func openFolder(path string) (folder, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return folder{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return folder{fd: fd}, nil
}

// child opens the folder name in f. A symbolic link is an error.
func (f folder) child(name string) (folder, error) {
	fd, err := f.openat(name, unix.O_PATH|unix.O_DIRECTORY)
	return folder{fd: fd}, err
}

func (f folder) openat(name string, flags int) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(f.fd, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// close cannot fail: nothing was written through f.
func (f folder) close() { _ = unix.Close(f.fd) }

// retry calls again what a signal interrupted; network file systems do that.
func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// list describes the things in f that keep wants, in the order of their names.
func (f folder) list(keep func(name string) bool) ([]kassett.Entry, error) {
	names, err := f.names()
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(n dirent) bool { return !keep(n.name) })
	// A spinning disk holds inodes in the order of their numbers.
	slices.SortFunc(names, func(a, b dirent) int { return cmp.Compare(a.inode, b.inode) })
	entries := make([]kassett.Entry, len(names))
	var st unix.Stat_t
	for i, n := range names {
		e := &entries[i]
		if err := f.lstat(n.name, &st); err != nil {
			e.Name, e.Err = n.name, &fs.PathError{Op: "lstat", Path: n.name, Err: err}
			continue
		}
		describe(e, &st)
		e.Name = n.name
	}
	slices.SortFunc(entries, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (f folder) lstat(name string, st *unix.Stat_t) error {
	for {
		if err := unix.Fstatat(f.fd, name, st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// stat describes one thing in f.
func (f folder) stat(name string) (kassett.Entry, error) {
	var st unix.Stat_t
	e := kassett.Entry{Name: name}
	if err := f.lstat(name, &st); err != nil {
		return e, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	describe(&e, &st)
	return e, nil
}

// device returns the number of the file system f is on.
func (f folder) device() (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(f.fd, &st)
	return st.Dev, err
}

// names reads the names in f, in the order of the system. All of one buffer share one string, so that a
// folder of a million files does not make a million small objects.
func (f folder) names() ([]dirent, error) {
	dup, err := f.openat(".", unix.O_RDONLY|unix.O_DIRECTORY) // its own reading position
	if err != nil {
		return nil, err
	}
	defer folder{fd: dup}.close()
	buf := make([]byte, 64<<10)
	var all []dirent
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(dup, buf) })
		if n == 0 || err != nil {
			return all, err
		}
		all = appendDirents(all, buf[:n])
	}
}

// appendDirents reads what getdents64(2) wrote: inode (8 bytes), offset (8),
// length of the record (2), type (1), name and at least one NUL.
func appendDirents(all []dirent, buf []byte) []dirent {
	const head = 19
	text := string(buf)
	for at := 0; at+head <= len(buf); {
		size := int(binary.NativeEndian.Uint16(buf[at+16:]))
		if size < head || at+size > len(buf) {
			break
		}
		name := text[at+head : at+size]
		if i := strings.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		inode := binary.NativeEndian.Uint64(buf[at:])
		if name != "." && name != ".." && name != "" && inode != 0 {
			all = append(all, dirent{name, inode})
		}
		at += size
	}
	return all
}

// statPath describes what is at a path of the system.
func statPath(path string, follow bool) kassett.Entry {
	var st unix.Stat_t
	e := kassett.Entry{Name: filepath.Base(path)}
	stat := unix.Lstat
	if follow {
		stat = unix.Stat
	}
	if err := stat(path, &st); err != nil {
		e.Err = &fs.PathError{Op: "lstat", Path: path, Err: err}
		return e
	}
	describe(&e, &st)
	return e
}

// describe fills e with what lstat tells, as restic records it: a number of
// links only of what can have more than one name, a device number only of
// devices.
func describe(e *kassett.Entry, st *unix.Stat_t) {
	e.Mode = fs.FileMode(st.Mode & 0o777)
	for _, b := range []struct {
		bit  uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if st.Mode&b.bit != 0 {
			e.Mode |= b.mode
		}
	}
	e.Inode, e.DeviceID = st.Ino, st.Dev
	e.UID, e.GID = st.Uid, st.Gid
	e.ModTime, e.AccessTime, e.ChangeTime = goTime(st.Mtim), goTime(st.Atim), goTime(st.Ctim)
	links := uint64(st.Nlink) //nolint:unconvert // 32 bits on arm64
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Links, e.Size = kassett.File, links, uint64(st.Size)
	case unix.S_IFDIR:
		e.Type, e.Mode = kassett.Dir, e.Mode|fs.ModeDir
	case unix.S_IFLNK:
		e.Type, e.Links, e.Mode = kassett.Symlink, links, e.Mode|fs.ModeSymlink
	case unix.S_IFBLK:
		e.Type, e.Links, e.Mode, e.Device = kassett.Device, links, e.Mode|fs.ModeDevice, st.Rdev
	case unix.S_IFCHR:
		e.Type, e.Links, e.Mode, e.Device = kassett.CharDevice, links, e.Mode|fs.ModeDevice|fs.ModeCharDevice, st.Rdev
	case unix.S_IFIFO:
		e.Type, e.Mode = kassett.Fifo, e.Mode|fs.ModeNamedPipe
	case unix.S_IFSOCK:
		e.Type, e.Mode = kassett.Socket, e.Mode|fs.ModeSocket
	default:
		e.Err = fmt.Errorf("unknown file type %#o", st.Mode&unix.S_IFMT)
	}
}

func goTime(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }

// head reads the first n bytes of a small file.
func (f folder) head(name string, n int) ([]byte, error) {
	fd, err := f.openat(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	buf := make([]byte, n)
	n, err = io.ReadFull(file, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return buf[:n], errors.Join(err, file.Close())
}
