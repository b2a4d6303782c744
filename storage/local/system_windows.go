package local

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"

	"kassett"
)

// renameNew renames without replacing. MOVEFILE_WRITE_THROUGH makes the new
// name durable before it returns, since folders cannot be flushed here.
func renameNew(temp, name string) error {
	from, err := windows.UTF16PtrFromString(temp)
	if err != nil {
		return err
	}
	to, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(from, to, windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: name, Err: err}
	}
	return nil
}

func syncDir(string) error { return nil }

// sealMode leaves the file writable, as restic does here: a read-only
// attribute would keep other programs, restic among them, from deleting it.
func sealMode(*os.File, fs.FileMode) error { return nil }

// unsupported reports whether the file system does not know the operation.
func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, windows.ERROR_INVALID_FUNCTION)
}

// systemKind names the system's errors that the standard library has no word
// for, or too wide a one.
func systemKind(err error) kassett.Kind {
	var no windows.Errno
	if !errors.As(err, &no) {
		return kassett.Other
	}
	switch no {
	case windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED:
		return kassett.Full
	case windows.ERROR_WRITE_PROTECT, windows.ERROR_ACCESS_DENIED, windows.ERROR_SHARING_VIOLATION:
		return kassett.Denied
	case windows.ERROR_CRC, windows.ERROR_IO_DEVICE, windows.ERROR_FILE_CORRUPT, windows.ERROR_DISK_CORRUPT:
		return kassett.Corrupt
	case windows.ERROR_NOT_READY, windows.ERROR_BAD_NETPATH, windows.ERROR_NETNAME_DELETED, windows.ERROR_DEV_NOT_EXIST:
		return kassett.Offline
	}
	return kassett.Other
}
