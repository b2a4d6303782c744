package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/windows"

	"kassett"
)

// systemName refuses names that mean something else on this system.
func systemName(name string) error { return windowsName(name) }

// systemKind says what can be done about an error of the system.
func systemKind(err error) (kassett.Kind, string) {
	switch {
	case errors.Is(err, windows.ERROR_DISK_FULL), errors.Is(err, windows.ERROR_HANDLE_DISK_FULL), errors.Is(err, windows.ERROR_DISK_QUOTA_EXCEEDED):
		return kassett.Full, "make room on the target and run the same restore again; it goes on where it stopped"
	case errors.Is(err, windows.ERROR_WRITE_PROTECT):
		return kassett.Denied, "the target is read-only"
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return kassett.Locked, "another program uses this file; close it"
	case errors.Is(err, fs.ErrPermission):
		return kassett.Denied, "run as an administrator"
	case errors.Is(err, errNotFolder):
		return kassett.Exists, "something that is not a folder is in the way; a link is never followed"
	}
	return kassett.Other, ""
}

func isFolder(err error) bool { return errors.Is(err, errIsFolder) }

// look returns the file system f is on.
func (f *folder) look() (device uint64, err error) {
	var info windows.ByHandleFileInformation
	err = windows.GetFileInformationByHandle(f.h, &info)
	return uint64(info.VolumeSerialNumber), err
}

// sync has nothing left to do: Windows flushes no whole volume for users, so
// each file is flushed when it gets its name.
func (f folder) sync() error { return nil }

// makeDir makes a folder, or makes sure that one is there.
func (f folder) makeDir(name string) error {
	h, err := f.nt(name, accessFolder, windows.FILE_CREATE, asItIs|windows.FILE_DIRECTORY_FILE)
	if err == nil {
		return windows.CloseHandle(h)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	e, statErr := f.stat(name)
	if statErr != nil || e.Type != kassett.Dir {
		return errors.Join(fs.ErrExist, statErr)
	}
	return nil
}

// makeSymlink makes a symbolic link. Who may not make one gets a junction if
// one can lead there.
func (f folder) makeSymlink(name string, e *kassett.Entry) error {
	a, err := decodeAttrs(e.Generic)
	if err != nil {
		return err
	}
	kind := uint32(windows.FILE_NON_DIRECTORY_FILE)
	toFolder := a.attributes != nil && *a.attributes&winDirectory != 0
	if toFolder {
		kind = windows.FILE_DIRECTORY_FILE
	}
	h, err := f.nt(name, windows.GENERIC_WRITE|windows.DELETE|windows.SYNCHRONIZE, windows.FILE_CREATE, asItIs|kind)
	if err != nil {
		return err
	}
	err = setReparse(h, e.LinkTarget, false)
	if err != nil && toFolder {
		if setReparse(h, e.LinkTarget, true) == nil {
			err = nil
		}
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("make a link (it takes a privilege): %w", err), remove(h))
	}
	return errors.Join(err, windows.CloseHandle(h))
}

func setReparse(h windows.Handle, target string, junction bool) error {
	data, err := encodeReparse(target, junction)
	if err != nil {
		return err
	}
	var n uint32
	return windows.DeviceIoControl(h, windows.FSCTL_SET_REPARSE_POINT, &data[0], uint32(len(data)), nil, 0, &n, nil)
}

func (f folder) makeNode(name string, e *kassett.Entry) error {
	return &kassett.Error{
		Op: "make", What: name, Kind: kassett.Invalid, Err: fmt.Errorf("nothing of type %q exists on Windows", e.Type),
		Hint: "leave it out, or restore it on Linux",
	}
}

// classLink is FileLinkInformation ([MS-FSCC] 2.4): a new name for a file.
const classLink = 11

func (f folder) link(name string, to folder, as string) error {
	h, err := f.nt(name, windows.FILE_WRITE_ATTRIBUTES|windows.SYNCHRONIZE, windows.FILE_OPEN, asItIs|windows.FILE_NON_DIRECTORY_FILE)
	if err != nil {
		return err
	}
	return errors.Join(setName(h, classLink, to, as, false), windows.CloseHandle(h))
}

// setName gives the open file h a name in the folder to ([MS-FSCC] 2.4.43,
// FileRenameInformation and FileLinkInformation alike): replace (1 byte,
// padded to 8), folder (8), length of the name (4), the name.
func setName(h windows.Handle, class uint32, to folder, name string, replace bool) error {
	units, err := encodeUTF16(name)
	if err != nil {
		return err
	}
	words := make([]uint64, (20+len(units)+7)/8+1)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	if replace {
		buf[0] = 1
	}
	binary.NativeEndian.PutUint64(buf[8:], uint64(to.h))
	binary.NativeEndian.PutUint32(buf[16:], uint32(len(units)))
	copy(buf[20:], units)
	var status windows.IO_STATUS_BLOCK
	return plain(windows.NtSetInformationFile(h, &status, &buf[0], uint32(max(20+len(units), 24)), class))
}

// unlink removes what is not a folder, and reports when it is one.
func (f folder) unlink(name string) (isDir bool, err error) {
	h, err := f.openToRemove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	d, err := describe(h)
	if err == nil && d.attributes&winDirectory != 0 && d.tag&tagSurrogate == 0 {
		return true, windows.CloseHandle(h)
	}
	if err == nil {
		err = remove(h)
	}
	return false, errors.Join(err, windows.CloseHandle(h))
}

func (f folder) openToRemove(name string) (windows.Handle, error) {
	return f.nt(name, windows.DELETE|windows.FILE_WRITE_ATTRIBUTES|accessLook, windows.FILE_OPEN, asItIs)
}

func (f folder) rmdir(name string) error {
	h, err := f.openToRemove(name)
	if err != nil {
		return err
	}
	return errors.Join(remove(h), windows.CloseHandle(h))
}

// remove deletes what h is open to; what is read-only would refuse.
func remove(h windows.Handle) error {
	if d, err := describe(h); err == nil && d.attributes&winReadOnly != 0 {
		if err := setBasic(h, basicInfo{Attributes: windows.FILE_ATTRIBUTE_NORMAL}); err != nil {
			return err
		}
	}
	gone := byte(1)
	return windows.SetFileInformationByHandle(h, windows.FileDispositionInfo, &gone, 1)
}

// winSettable are the attributes that can be set as such: read-only, hidden,
// system, archive, temporary, offline and not indexed.
const winSettable = 0x1 | 0x2 | 0x4 | 0x20 | 0x100 | 0x1000 | 0x2000

// basicInfo is FILE_BASIC_INFO; a zero leaves what is there.
type basicInfo struct {
	Created, Access, Modified, Changed int64 // ticks
	Attributes, _                      uint32
}

func setBasic(h windows.Handle, b basicInfo) error {
	return windows.SetFileInformationByHandle(h, windows.FileBasicInfo, (*byte)(unsafe.Pointer(&b)), uint32(unsafe.Sizeof(b)))
}

// part is an open regular file.
type part struct{ h windows.Handle }

// openPart opens or makes the file a restore writes to. It goes on only with
// one that has no other name: any other file there could be a trap and is
// replaced. What is no file is [errForeign].
func (f folder) openPart(name string, e *kassett.Entry) (p part, reused bool, err error) {
	const options = asItIs | windows.FILE_NON_DIRECTORY_FILE
	open := func(disposition uint32) (windows.Handle, error) {
		return openWith(metaAccess, func(access uint32) (windows.Handle, error) {
			return f.nt(name, windows.GENERIC_READ|windows.GENERIC_WRITE|windows.DELETE|access, disposition, options)
		})
	}
	h, err := open(windows.FILE_CREATE)
	if errors.Is(err, fs.ErrExist) {
		if h, err = open(windows.FILE_OPEN); err == nil {
			var info windows.ByHandleFileInformation
			err = windows.GetFileInformationByHandle(h, &info)
			if err == nil && info.NumberOfLinks == 1 && info.FileAttributes&(winReparse|winDirectory) == 0 {
				return part{h}, true, nil
			}
			_ = windows.CloseHandle(h)
		}
		if !f.isFile(name) {
			return part{}, false, errForeign
		}
		if _, err := f.unlink(name); err != nil {
			return part{}, false, err
		}
		h, err = open(windows.FILE_CREATE)
	}
	if err != nil {
		return part{}, false, err
	}
	if a, _ := decodeAttrs(e.Generic); a.attributes != nil && *a.attributes&winSparse != 0 {
		var n uint32
		_ = windows.DeviceIoControl(h, windows.FSCTL_SET_SPARSE, nil, 0, nil, 0, &n, nil) // only saves room
	}
	return part{h}, false, nil
}

// isFile reports whether name is a regular file.
func (f folder) isFile(name string) bool {
	e, err := f.stat(name)
	return err == nil && e.Err == nil && e.Type == kassett.File
}

// metaAccess is what setting metadata takes, from the most to the least that a
// user may have.
var metaAccess = []uint32{
	windows.FILE_WRITE_ATTRIBUTES | windows.READ_CONTROL | windows.WRITE_DAC | windows.WRITE_OWNER | windows.ACCESS_SYSTEM_SECURITY | accessLook,
	windows.FILE_WRITE_ATTRIBUTES | windows.READ_CONTROL | windows.WRITE_DAC | windows.WRITE_OWNER | accessLook,
	windows.FILE_WRITE_ATTRIBUTES | windows.READ_CONTROL | windows.WRITE_DAC | accessLook,
	windows.FILE_WRITE_ATTRIBUTES | accessLook,
}

// openWith opens with the most that is allowed.
func openWith(list []uint32, open func(access uint32) (windows.Handle, error)) (h windows.Handle, err error) {
	for _, access := range list {
		h, err = open(access)
		if !errors.Is(err, windows.ERROR_PRIVILEGE_NOT_HELD) && !errors.Is(err, fs.ErrPermission) {
			break
		}
	}
	return h, err
}

// read opens a regular file for reading.
func (f folder) read(name string) (kassett.ReaderAtCloser, error) {
	h, _, err := f.openRegular(name)
	if err != nil {
		return nil, err
	}
	return part{h}, nil
}

func (p part) readOnce(b []byte, off int64) (int, error) {
	var n uint32
	at := windows.Overlapped{Offset: uint32(off), OffsetHigh: uint32(off >> 32)}
	err := windows.ReadFile(p.h, b, &n, &at)
	if errors.Is(err, windows.ERROR_HANDLE_EOF) || err == nil && n == 0 && len(b) > 0 {
		return 0, io.EOF
	}
	return int(n), err
}

// ReadAt implements [io.ReaderAt].
func (p part) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = p.readOnce(b[n:], off+int64(n))
		n += m
	}
	return n, err
}

// WriteAt implements [io.WriterAt].
func (p part) WriteAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		var m uint32
		at := windows.Overlapped{Offset: uint32(off + int64(n)), OffsetHigh: uint32((off + int64(n)) >> 32)}
		if err := windows.WriteFile(p.h, b[n:], &m, &at); err != nil {
			return n, err
		}
		n += int(m)
	}
	return n, nil
}

func (p part) truncate(size int64) error {
	return windows.SetFileInformationByHandle(p.h, windows.FileEndOfFileInfo, (*byte)(unsafe.Pointer(&size)), 8)
}

// Close implements [io.Closer].
func (p part) Close() error { return windows.CloseHandle(p.h) }

// rename gives the part its final name, once it is on the disk.
func (f folder) rename(_, to string, p part) error {
	if err := windows.FlushFileBuffers(p.h); err != nil {
		return err
	}
	err := setName(p.h, windows.FileRenameInformation, f, to, true)
	if err == nil {
		return nil
	}
	e, statErr := f.stat(to)
	switch {
	case statErr != nil:
		return err
	case e.Type == kassett.Dir:
		return errIsFolder
	}
	if _, removeErr := f.unlink(to); removeErr != nil { // read-only, or a link to a folder
		return errors.Join(err, removeErr)
	}
	return setName(p.h, windows.FileRenameInformation, f, to, true)
}

// dress sets the metadata of a regular file that is being written.
func (t *Target) dress(p part, _ folder, e *kassett.Entry, _ bool) error { return t.apply(p.h, e) }

// finish sets the metadata of the thing name in dir, if it is of e's type.
func (t *Target) finish(dir folder, name string, e *kassett.Entry) error {
	if name == "." {
		name = ""
	}
	h, err := openWith(metaAccess, func(access uint32) (windows.Handle, error) {
		return dir.nt(name, access, windows.FILE_OPEN, asItIs)
	})
	if err != nil {
		return err
	}
	d, err := describe(h)
	if now := d.entry(); err == nil && now.Type != e.Type {
		err = fmt.Errorf("%q is of type %q, not %q: %w", name, now.Type, e.Type, fs.ErrInvalid)
	}
	if err == nil {
		err = t.apply(h, e)
	}
	return errors.Join(err, windows.CloseHandle(h))
}

// apply sets permissions, then times and attributes: nothing can be changed any
// more of what is read-only.
func (t *Target) apply(h windows.Handle, e *kassett.Entry) error {
	a, err := decodeAttrs(e.Generic)
	errs := []error{err}
	if a.descriptor != nil {
		errs = append(errs, t.setDescriptor(h, a.descriptor))
	}
	b := basicInfo{Modified: ticksOfTime(e.ModTime), Access: ticksOfTime(e.ModTime)}
	if !e.AccessTime.IsZero() {
		b.Access = ticksOfTime(e.AccessTime)
	}
	if a.created != nil {
		b.Created = a.created.ticks()
	}
	switch {
	case a.attributes != nil:
		b.Attributes = *a.attributes & winSettable
		if *a.attributes&winCompressed != 0 && e.Type != kassett.Symlink {
			errs = append(errs, compress(h))
		}
		if *a.attributes&winEncrypted != 0 {
			errs = append(errs, errors.New("was encrypted by Windows; restored, but not encrypted again"))
		}
	case e.Type == kassett.File && e.Mode.Perm()&0o222 == 0:
		b.Attributes = winReadOnly
	}
	if b.Attributes == 0 {
		b.Attributes = windows.FILE_ATTRIBUTE_NORMAL
	}
	if err := setBasic(h, b); err != nil {
		errs = append(errs, fmt.Errorf("set times and attributes: %w", err))
	}
	return errors.Join(errs...)
}

func compress(h windows.Handle) error {
	format := [2]byte{1, 0} // COMPRESSION_FORMAT_DEFAULT
	var n uint32
	if err := windows.DeviceIoControl(h, windows.FSCTL_SET_COMPRESSION, &format[0], 2, nil, 0, &n, nil); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	return nil
}

// setDescriptor sets the permissions: with owner and audit list when allowed,
// otherwise the access list alone.
func (t *Target) setDescriptor(h windows.Handle, b []byte) error {
	sd := (*windows.SECURITY_DESCRIPTOR)(unsafe.Pointer(&b[0]))
	control, _, err := sd.Control()
	if err != nil {
		return fmt.Errorf("read permissions: %w", err)
	}
	low := windows.SECURITY_INFORMATION(windows.DACL_SECURITY_INFORMATION | windows.UNPROTECTED_DACL_SECURITY_INFORMATION)
	if control&windows.SE_DACL_PROTECTED != 0 {
		low = windows.DACL_SECURITY_INFORMATION | windows.PROTECTED_DACL_SECURITY_INFORMATION
	}
	high := low | windows.OWNER_SECURITY_INFORMATION | windows.GROUP_SECURITY_INFORMATION
	if control&windows.SE_SACL_PRESENT != 0 {
		high |= windows.SACL_SECURITY_INFORMATION
	}
	err = windows.SetKernelObjectSecurity(h, high, sd)
	if err == nil {
		return nil
	}
	t.warnOnce("owners and audit lists are not restored: not run as an administrator")
	if err := windows.SetKernelObjectSecurity(h, low, sd); err != nil {
		return fmt.Errorf("set permissions: %w", err)
	}
	return nil
}
