package files

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"kassett"
)

// folder is an open folder. Names in it are opened relative to its handle by
// the calls below the Win32 ones, which know no reserved names, no limit of a
// path and no current folder.
type folder struct{ h windows.Handle }

// takeRights asks for the privileges with which an administrator reads and
// writes what its permissions do not allow. Who has none works with less.
func takeRights() error {
	var missing []string
	for _, name := range []string{"SeBackupPrivilege", "SeRestorePrivilege", "SeSecurityPrivilege", "SeTakeOwnershipPrivilege"} {
		if err := winio.EnableProcessPrivileges([]string{name}); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not run as an administrator, so permissions apply and owners and audit lists stay out: without %s", strings.Join(missing, ", "))
	}
	return nil
}

// access is what a handle is opened for.
const (
	accessLook   = windows.FILE_READ_ATTRIBUTES | windows.SYNCHRONIZE
	accessFolder = accessLook | windows.FILE_LIST_DIRECTORY | windows.FILE_TRAVERSE
	shareAll     = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE
	asItIs       = windows.FILE_OPEN_REPARSE_POINT | windows.FILE_OPEN_FOR_BACKUP_INTENT | windows.FILE_SYNCHRONOUS_IO_NONALERT
)

// openPath opens what is at a path of the system.
func openPath(path string, access uint32, follow bool) (windows.Handle, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return 0, err
	}
	text, err := windows.UTF16PtrFromString(longPath(abs))
	if err != nil {
		return 0, err
	}
	flags := uint32(windows.FILE_FLAG_BACKUP_SEMANTICS)
	if !follow {
		flags |= windows.FILE_FLAG_OPEN_REPARSE_POINT
	}
	h, err := windows.CreateFile(text, access, shareAll, nil, windows.OPEN_EXISTING, flags, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return h, nil
}

// openFolder opens the folder at a path of the system, following links.
func openFolder(path string) (folder, error) {
	h, err := openPath(path, accessFolder, true)
	if err != nil {
		return folder{}, err
	}
	d, err := describe(h)
	if err == nil && d.attributes&winDirectory == 0 {
		err = errNotFolder
	}
	if err != nil {
		return folder{}, errors.Join(&fs.PathError{Op: "open", Path: path, Err: err}, windows.CloseHandle(h))
	}
	return folder{h}, nil
}

var (
	errNotFolder = errors.New("not a folder, or a link to one")
	errIsFolder  = errors.New("is a folder")
)

// nt opens or makes the thing name in f; "" is f itself.
func (f folder) nt(name string, access, disposition, options uint32) (windows.Handle, error) {
	text, err := windows.NewNTUnicodeString(name)
	if err != nil {
		return 0, err
	}
	oa := windows.OBJECT_ATTRIBUTES{RootDirectory: f.h, ObjectName: text, Attributes: windows.OBJ_CASE_INSENSITIVE}
	oa.Length = uint32(unsafe.Sizeof(oa))
	var h windows.Handle
	var status windows.IO_STATUS_BLOCK
	err = windows.NtCreateFile(&h, access, &oa, &status, nil, windows.FILE_ATTRIBUTE_NORMAL, shareAll, disposition, options, 0, 0)
	return h, plain(err)
}

// plain makes an error of Win32, which the standard library understands, of
// one of the calls below.
func plain(err error) error {
	var status windows.NTStatus
	if !errors.As(err, &status) {
		return err
	}
	switch status {
	case windows.STATUS_FILE_IS_A_DIRECTORY:
		return errIsFolder
	case windows.STATUS_NOT_A_DIRECTORY:
		return errNotFolder
	}
	return status.Errno()
}

// child opens the folder name in f. A symbolic link or junction is an error.
func (f folder) child(name string) (folder, error) {
	h, err := f.nt(name, accessFolder, windows.FILE_OPEN, asItIs|windows.FILE_DIRECTORY_FILE)
	if err != nil {
		return folder{}, err
	}
	d, err := describe(h)
	if err == nil && d.tag&tagSurrogate != 0 {
		err = errNotFolder
	}
	if err != nil {
		return folder{}, errors.Join(err, windows.CloseHandle(h))
	}
	if d.tag == 0 {
		return folder{h}, nil
	}
	// A folder kept elsewhere, in a cloud say: what is in it is asked from
	// who keeps it, not read off the disk.
	through, err := f.nt(name, accessFolder, windows.FILE_OPEN, asItIs&^windows.FILE_OPEN_REPARSE_POINT|windows.FILE_DIRECTORY_FILE)
	return folder{through}, errors.Join(err, windows.CloseHandle(h))
}

// close cannot fail: nothing was written through f.
func (f folder) close() { _ = windows.CloseHandle(f.h) }

// device is the same everywhere: what is mounted in a folder is a junction on
// Windows, and never followed.
func (f folder) device() (uint64, error) { return 0, nil }

// infos reads the records of everything in f.
func (f folder) infos() ([]dirInfo, error) {
	h, err := f.nt("", accessFolder, windows.FILE_OPEN, windows.FILE_OPEN_FOR_BACKUP_INTENT|windows.FILE_SYNCHRONOUS_IO_NONALERT|windows.FILE_DIRECTORY_FILE)
	if err != nil {
		return nil, err
	}
	defer folder{h}.close()
	words := make([]uint64, 8<<10) // records are aligned to 8 bytes
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	var all []dirInfo
	for {
		err := windows.GetFileInformationByHandleEx(h, windows.FileIdBothDirectoryInfo, &buf[0], uint32(len(buf)))
		if errors.Is(err, windows.ERROR_NO_MORE_FILES) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		if all, err = appendDirInfos(all, buf); err != nil {
			return all, err
		}
	}
}

// list describes the things in f that keep wants, in the order of their names.
func (f folder) list(keep func(name string) bool) ([]kassett.Entry, error) {
	infos, err := f.infos()
	if err != nil {
		return nil, err
	}
	entries := make([]kassett.Entry, 0, len(infos))
	for _, d := range infos {
		if keep(d.name) {
			entries = append(entries, d.entry())
		}
	}
	slices.SortFunc(entries, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

func (f folder) names() ([]dirent, error) {
	infos, err := f.infos()
	all := make([]dirent, len(infos))
	for i, d := range infos {
		all[i].name = d.name
	}
	return all, err
}

// describe asks an open handle for what a listing would tell, but the name.
func describe(h windows.Handle) (d dirInfo, err error) {
	var basic struct {
		Created, Access, Modified, Changed int64
		Attributes, _                      uint32
	}
	var standard struct {
		Allocated, Size    int64
		Links              uint32
		Deleted, Directory bool
	}
	var tag struct{ Attributes, Tag uint32 }
	if err := ask(h, windows.FileBasicInfo, unsafe.Pointer(&basic), unsafe.Sizeof(basic)); err != nil {
		return d, err
	}
	if err := ask(h, windows.FileStandardInfo, unsafe.Pointer(&standard), unsafe.Sizeof(standard)); err != nil {
		return d, err
	}
	d = dirInfo{
		created: basic.Created, access: basic.Access, modified: basic.Modified, changed: basic.Changed,
		size: standard.Size, attributes: basic.Attributes,
	}
	if d.attributes&winReparse == 0 {
		return d, nil
	}
	err = ask(h, windows.FileAttributeTagInfo, unsafe.Pointer(&tag), unsafe.Sizeof(tag))
	d.tag = tag.Tag
	return d, err
}

func ask(h windows.Handle, class uint32, to unsafe.Pointer, size uintptr) error {
	return windows.GetFileInformationByHandleEx(h, class, (*byte)(to), uint32(size))
}

// stat describes one thing in f.
func (f folder) stat(name string) (kassett.Entry, error) {
	h, err := f.nt(name, accessLook, windows.FILE_OPEN, asItIs)
	if err != nil {
		return kassett.Entry{Name: name}, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	d, err := describe(h)
	d.name = name
	return d.entry(), errors.Join(err, windows.CloseHandle(h))
}

// statPath describes what is at a path of the system.
func statPath(path string, follow bool) kassett.Entry {
	h, err := openPath(path, windows.FILE_READ_ATTRIBUTES, follow)
	if err != nil {
		return kassett.Entry{Name: filepath.Base(path), Err: err}
	}
	d, err := describe(h)
	if d.name = filepath.Base(path); err == nil {
		err = windows.CloseHandle(h)
	}
	e := d.entry()
	if err != nil {
		e.Err = err
	}
	return e
}

// fill completes the entry of the thing name in f.
func (f folder) fill(name string, e *kassett.Entry) error {
	const wanted = accessLook | windows.READ_CONTROL
	h, err := f.nt(name, wanted|windows.ACCESS_SYSTEM_SECURITY, windows.FILE_OPEN, asItIs)
	audit := err == nil
	if errors.Is(err, windows.ERROR_PRIVILEGE_NOT_HELD) || errors.Is(err, fs.ErrPermission) {
		h, err = f.nt(name, wanted, windows.FILE_OPEN, asItIs)
	}
	if err != nil {
		return err
	}
	return errors.Join(fillHandle(h, e, audit), windows.CloseHandle(h))
}

// fillPath completes the entry of a folder above a target. The root of a volume
// has nothing of its own that could be restored; restic leaves it out too.
func fillPath(path string, e *kassett.Entry) error {
	if filepath.Dir(path) == path {
		return nil
	}
	h, err := openPath(path, windows.FILE_READ_ATTRIBUTES|windows.READ_CONTROL, true)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(fillHandle(h, e, false), windows.CloseHandle(h))
}

// fillHandle completes e from an open handle; audit says that the handle may
// also read the audit list.
func fillHandle(h windows.Handle, e *kassett.Entry, audit bool) error {
	d, err := describe(h)
	if err != nil {
		return err
	}
	created := filetimeOf(d.created)
	a := winAttrs{created: &created, attributes: &d.attributes}
	var errs []error
	switch e.Type {
	case kassett.Symlink:
		if e.LinkTarget, err = readlink(h); err != nil {
			errs = append(errs, fmt.Errorf("read link: %w", err))
		}
	case kassett.File, kassett.Dir:
		if a.descriptor, err = readDescriptor(h, audit); err != nil {
			errs = append(errs, fmt.Errorf("read permissions: %w", err))
		}
		if streams := namedStreams(h); len(streams) > 0 {
			errs = append(errs, fmt.Errorf("named streams are not saved: %s", strings.Join(streams, ", ")))
		}
	}
	e.Generic, err = a.encode()
	return errors.Join(append(errs, err)...)
}

// readDescriptor returns the security descriptor, nil where there is none.
func readDescriptor(h windows.Handle, audit bool) ([]byte, error) {
	what := windows.SECURITY_INFORMATION(windows.OWNER_SECURITY_INFORMATION | windows.GROUP_SECURITY_INFORMATION |
		windows.DACL_SECURITY_INFORMATION | windows.LABEL_SECURITY_INFORMATION)
	if audit {
		what |= windows.SACL_SECURITY_INFORMATION | windows.ATTRIBUTE_SECURITY_INFORMATION |
			windows.SCOPE_SECURITY_INFORMATION | windows.BACKUP_SECURITY_INFORMATION
	}
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, what)
	if errors.Is(err, windows.ERROR_NOT_SUPPORTED) || errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.Clone(unsafe.Slice((*byte)(unsafe.Pointer(sd)), sd.Length())), nil
}

// namedStreams returns the names of a file's streams but its content. Where a
// file system has none, the question is an error and the answer empty. The
// mark a browser leaves on what it fetched is not worth a word.
func namedStreams(h windows.Handle) []string {
	words := make([]uint64, 1<<10)
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	if err := windows.GetFileInformationByHandleEx(h, windows.FileStreamInfo, &buf[0], uint32(len(buf))); err != nil {
		if errors.Is(err, windows.ERROR_MORE_DATA) {
			return append(streamNames(buf), "and more")
		}
		return nil
	}
	return slices.DeleteFunc(streamNames(buf), func(name string) bool { return name == ":Zone.Identifier" })
}

func (f folder) readlink(name string) (string, error) {
	h, err := f.nt(name, accessLook, windows.FILE_OPEN, asItIs)
	if err != nil {
		return "", err
	}
	target, err := readlink(h)
	return target, errors.Join(err, windows.CloseHandle(h))
}

func readlink(h windows.Handle) (string, error) {
	buf := make([]byte, windows.MAXIMUM_REPARSE_DATA_BUFFER_SIZE)
	var n uint32
	if err := windows.DeviceIoControl(h, windows.FSCTL_GET_REPARSE_POINT, nil, 0, &buf[0], uint32(len(buf)), &n, nil); err != nil {
		return "", err
	}
	return decodeReparse(buf[:n])
}
