package files

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kassett"
)

// xattrs reaches one thing's extended attributes: by an open descriptor, or by a
// path, whose last name may be a symbolic link that is followed or meant.
type xattrs struct {
	fd     int
	path   string // "" when fd counts
	follow bool
}

// xattrsAt reaches the attributes of the thing name in f itself, whatever type
// it is. Calls that take a folder and a name came with Linux 6.13 only; the
// way through /proc walks two names and opens nothing.
func (f folder) xattrsAt(name string) xattrs {
	return xattrs{path: "/proc/self/fd/" + strconv.Itoa(f.fd) + "/" + name}
}

func (x xattrs) list(buf []byte) (int, error) {
	switch {
	case x.path == "":
		return unix.Flistxattr(x.fd, buf)
	case x.follow:
		return unix.Listxattr(x.path, buf)
	}
	return unix.Llistxattr(x.path, buf)
}

func (x xattrs) get(name string, buf []byte) (int, error) {
	switch {
	case x.path == "":
		return unix.Fgetxattr(x.fd, name, buf)
	case x.follow:
		return unix.Getxattr(x.path, name, buf)
	}
	return unix.Lgetxattr(x.path, name, buf)
}

func (x xattrs) set(name string, value []byte) error {
	switch {
	case x.path == "":
		return unix.Fsetxattr(x.fd, name, value, 0)
	case x.follow:
		return unix.Setxattr(x.path, name, value, 0)
	}
	return unix.Lsetxattr(x.path, name, value, 0)
}

func (x xattrs) remove(name string) error {
	switch {
	case x.path == "":
		return unix.Fremovexattr(x.fd, name)
	case x.follow:
		return unix.Removexattr(x.path, name)
	}
	return unix.Lremovexattr(x.path, name)
}

// hasNone reports whether err says that there is no such attribute, or that the
// file system has none at all.
func hasNone(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP)
}

// names returns the names of all attributes, in the order of the file system.
func (x xattrs) names() ([]string, error) {
	var small [512]byte
	list, err := whole(small[:], x.list)
	if hasNone(err) || len(list) == 0 && err == nil {
		return nil, nil
	}
	return strings.Split(strings.TrimSuffix(string(list), "\x00"), "\x00"), err
}

// all returns every attribute. One that cannot be read is an error; the others
// are returned with it.
func (x xattrs) all() ([]kassett.Xattr, error) {
	names, err := x.names()
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var all []kassett.Xattr
	var errs []error
	for _, name := range names {
		var small [256]byte
		value, err := whole(small[:], func(buf []byte) (int, error) { return x.get(name, buf) })
		switch {
		case hasNone(err): // removed meanwhile
		case err != nil:
			errs = append(errs, fmt.Errorf("read extended attribute %s: %w", name, err))
		default:
			all = append(all, kassett.Xattr{Name: name, Value: append([]byte{}, value...)})
		}
	}
	return all, errors.Join(errs...)
}

// whole calls read with ever larger buffers until the answer fits. The result
// may share memory with buf.
func whole(buf []byte, read func(buf []byte) (int, error)) ([]byte, error) {
	for {
		n, err := read(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case !errors.Is(err, unix.ERANGE) || len(buf) > maxXattr:
			return nil, err
		}
		buf = make([]byte, 4*len(buf))
	}
}

// maxXattr is more than Linux keeps under one name, or as one list of names.
const maxXattr = 64 << 10

// restore makes x hold what want says and nothing else, as far as only allows.
// Who is not root may set few attributes but their own; the others are passed
// over, as owners are.
func (x xattrs) restore(want []kassett.Xattr, only func(name string) bool) error {
	var errs []error
	check := func(op, name string, err error) {
		if err == nil || hasNone(err) && op == "remove" {
			return
		}
		if errors.Is(err, fs.ErrPermission) && unix.Geteuid() != 0 && !strings.HasPrefix(name, "user.") {
			return
		}
		errs = append(errs, fmt.Errorf("%s extended attribute %s: %w", op, name, err))
	}
	had, err := x.names()
	if err != nil {
		errs = append(errs, fmt.Errorf("list extended attributes: %w", err))
	}
	for _, a := range want {
		if only == nil || only(a.Name) {
			check("set", a.Name, x.set(a.Name, a.Value))
		}
		had = slices.DeleteFunc(had, func(name string) bool { return name == a.Name })
	}
	for _, name := range had {
		if (only == nil || only(name)) && name != "security.selinux" {
			check("remove", name, x.remove(name))
		}
	}
	return errors.Join(errs...)
}

// fill completes the entry of the thing name in f.
func (f folder) fill(name string, e *kassett.Entry) error {
	var errs []error
	if e.Type == kassett.Symlink {
		target, err := f.readlink(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("read link: %w", err))
		}
		e.LinkTarget = target
	}
	all, err := f.xattrsAt(name).all()
	e.Xattrs = all
	return errors.Join(append(errs, err)...)
}

func (f folder) readlink(name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(f.fd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// fillPath completes the entry of a folder above a target. What is not allowed
// to be read there is left out, as restic does.
func fillPath(path string, e *kassett.Entry) error {
	all, err := xattrs{path: path, follow: true}.all()
	e.Xattrs = all
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
