package local

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"kassett"
)

// renameNew renames without replacing: by the kernel where the file system
// knows how to, else by a hard link, else after a look.
func renameNew(temp, name string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINVAL) && !unsupported(err) {
		return &os.LinkError{Op: "rename", Old: temp, New: name, Err: err}
	}
	err = os.Link(temp, name)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EMLINK) || unsupported(err) {
		return renameChecked(temp, name)
	} else if err != nil {
		return err
	}
	return os.Remove(temp)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}

func sealMode(f *os.File, mode fs.FileMode) error { return f.Chmod(mode) }

// unsupported reports whether the file system does not know the operation.
func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTTY)
}

// systemKind names the system's errors that the standard library has no word
// for, or too wide a one.
func systemKind(err error) kassett.Kind {
	var no unix.Errno
	if !errors.As(err, &no) {
		return kassett.Other
	}
	switch no {
	case unix.ENOSPC, unix.EDQUOT, unix.EFBIG:
		return kassett.Full
	case unix.EROFS, unix.EACCES, unix.EPERM:
		return kassett.Denied
	case unix.EIO, unix.EUCLEAN, unix.EBADMSG:
		return kassett.Corrupt
	case unix.ESTALE, unix.ENODEV, unix.ENXIO, unix.ENOTCONN, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ETIMEDOUT:
		return kassett.Offline
	}
	return kassett.Other
}
