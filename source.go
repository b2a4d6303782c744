package kassett

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"time"
)

// EntryType is what an [Entry] is. The words are those of restic's tree format.
type EntryType string

// The types of an entry.
const (
	File       EntryType = "file"
	Dir        EntryType = "dir"
	Symlink    EntryType = "symlink"
	Device     EntryType = "dev" // block device
	CharDevice EntryType = "chardev"
	Fifo       EntryType = "fifo"
	Socket     EntryType = "socket" // never saved; named and passed over
)

// Entry is the metadata of one thing in one folder of a [Source].
type Entry struct {
	Name string // one path component, any bytes but '/' and NUL
	Type EntryType
	Mode fs.FileMode // permission, setuid, setgid and sticky bits, and the type bits

	ModTime    time.Time
	AccessTime time.Time // equal to ModTime unless access times were asked for
	ChangeTime time.Time // of the inode; zero where the system has none

	UID, GID    uint32
	User, Group string // names of UID and GID where the system knows them

	Inode    uint64
	DeviceID uint64 // of the file system; only kept for hard links
	Links    uint64 // number of hard links
	Size     uint64 // bytes; zero for all but files
	Device   uint64 // device number of a Device or CharDevice

	LinkTarget string // of a Symlink, any bytes
	Xattrs     []Xattr
	Generic    map[string]json.RawMessage // attributes of other systems, kept as they are

	Cut Cut // how a File's content is cut into blobs

	// Err says why this entry could not be described. Such an entry is
	// named to the user and not saved; the rest of the folder is.
	Err error
}

// Xattr is one extended attribute. A nil Value is not the same as an empty one:
// old repositories hold both.
type Xattr struct {
	Name  string
	Value []byte
}

// A Source is something that can be frozen and read: a tree of files, a
// database cluster, an image. It looks like a tree of folders whatever it is.
// Paths are slash-separated and relative; "" is the root. Between Freeze and
// Thaw the methods may be called from many goroutines.
type Source interface {
	// Freeze makes what is read afterwards one consistent state.
	Freeze(ctx context.Context) error
	// List returns the children of one folder, sorted by the bytes of their
	// names, with what the folder's listing costs little to know (for
	// files: what lstat tells). Excluded children are left out.
	List(ctx context.Context, dir string) ([]Entry, error)
	// Fill completes an entry with what costs more to ask: extended
	// attributes, link targets, security descriptors. It is called for new
	// and changed entries only. A part that cannot be read is an error, but
	// the rest is filled in all the same.
	Fill(ctx context.Context, path string, e *Entry) error
	// Open starts reading a file's content.
	Open(ctx context.Context, path string, e *Entry) (Content, error)
	// Thaw ends what Freeze began. It is called once for each Freeze that
	// succeeded, also when ctx of the backup has ended.
	Thaw(ctx context.Context) error
}

// Content is one file's content being read, by one goroutine at a time.
type Content interface {
	io.ReadCloser
	// Changed reports, after the last Read, whether the content may have
	// changed while it was read.
	Changed() (bool, error)
}

// Holes is the ability of a [Content] to know where it has no data. Reading
// there gives zeros; a reader that asks first need not.
type Holes interface {
	// NextData returns the offset of the first byte at or after off that is
	// not in a hole, or the file's size when there is none.
	NextData(off int64) (int64, error)
	// Skip moves the reading position n bytes ahead without reading.
	Skip(n int64) error
}

// A Target takes entries back to where they can be used. Paths are as in
// [Source]; a Target never touches anything outside itself, whatever names and
// links a hostile tree holds. Methods may be called from many goroutines, on
// different paths.
type Target interface {
	// Look describes what is at path now; an error that is fs.ErrNotExist
	// when nothing is.
	Look(ctx context.Context, path string) (*Entry, error)
	// Make creates a folder, symlink, device or fifo. A folder that is
	// there is fine; anything else that is there is an [Exists] error.
	Make(ctx context.Context, path string, e *Entry) error
	// Link makes path another name of the file at first.
	Link(ctx context.Context, first, path string) error
	// Open starts, or goes on with, the content of a regular file.
	Open(ctx context.Context, path string, e *Entry) (TargetFile, error)
	// Finish sets the metadata of what Make created, or of a regular file
	// that was there already with the right content. For a folder it comes
	// after everything in it.
	Finish(ctx context.Context, path string, e *Entry) error
	// Remove deletes what is at path, a folder with all that is in it.
	Remove(ctx context.Context, path string) error
}

// TargetFile is a regular file being restored. Its parts may be written in any
// order and from many goroutines; parts never written read as zeros and take
// no room where the system has sparse files.
type TargetFile interface {
	io.ReaderAt // what an earlier, interrupted restore left here
	io.WriterAt
	// Commit gives the file its size, its metadata and its final name, and
	// closes it. Before Commit the final name does not hold half a file.
	Commit(ctx context.Context) error
	// Close without Commit keeps what is there for a later Open. After
	// Commit it does nothing.
	io.Closer
}

// Readable is the ability of a [Target] to show what it holds. Without it
// nothing that is there is compared, verified or found to be too much.
type Readable interface {
	// Names returns the names in one folder, in no order, without the parts
	// of files that are not committed. A folder that is not there, or that
	// is something else, is an error.
	Names(ctx context.Context, dir string) ([]string, error)
	// Read opens the regular file at path; anything else there is an error.
	Read(ctx context.Context, path string) (ReaderAtCloser, error)
}

// ReaderAtCloser is a file open for reading in any order.
type ReaderAtCloser interface {
	io.ReaderAt
	io.Closer
}
