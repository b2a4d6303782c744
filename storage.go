package kassett

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// FileKind is a kind of file in a repository.
type FileKind uint8

// The kinds of file of restic's repository format. The zero value is none.
const (
	PackFile FileKind = iota + 1
	IndexFile
	SnapshotFile
	KeyFile
	LockFile
	ConfigFile // one a repository, without an ID
)

// String returns the name of the folder such files rest in, as restic's
// layout and its REST protocol spell it.
func (k FileKind) String() string {
	switch k {
	case PackFile:
		return "data"
	case IndexFile:
		return "index"
	case SnapshotFile:
		return "snapshots"
	case KeyFile:
		return "keys"
	case LockFile:
		return "locks"
	case ConfigFile:
		return "config"
	}
	return "unknown"
}

// Handle names one file of a repository.
type Handle struct {
	Kind FileKind
	ID   ID // zero for ConfigFile; otherwise the SHA-256 of the stored bytes
}

// String returns the path below the repository without restic's two-digit
// folders, as "index/3fa9...".
func (h Handle) String() string {
	if h.Kind == ConfigFile {
		return "config"
	}
	return h.Kind.String() + "/" + h.ID.String()
}

// Info describes one stored file.
type Info struct {
	Handle
	Size int64 // bytes, as stored
	// Received is when the storage took the file in, by the storage's own
	// clock and out of the writer's reach; zero where it cannot know that.
	Received time.Time
}

// Body is the content of a file to be stored. It can be read more than once,
// so that a storage may try again.
type Body struct {
	Size int64 // bytes
	Sum  ID    // SHA-256 of the bytes; for bytes in memory their owner vouches
	// Hot says that nearly every command reads the file, as packs of trees:
	// a storage that keeps content in a slow class keeps this one in the fast.
	Hot bool
	// Open starts a reader at the first byte. The storage closes it.
	Open func() (io.ReadCloser, error)
}

// BytesBody returns a Body over b, which must not change until Put returns, and
// whose SHA-256 the caller has just taken from this same memory: a storage may
// believe that instead of hashing it once more.
func BytesBody(b []byte, sum ID) Body {
	return Body{Size: int64(len(b)), Sum: sum, Open: func() (io.ReadCloser, error) {
		return bytesReader{bytes.NewReader(b)}, nil
	}}
}

// bytesReader keeps bytes.Reader's WriterTo visible, so that a copy is one write.
type bytesReader struct{ *bytes.Reader }

func (bytesReader) Close() error { return nil }

// PartsBody returns a Body over parts, one after the other, under the same
// conditions as [BytesBody].
func PartsBody(parts [][]byte, sum ID) Body {
	size := int64(0)
	for _, p := range parts {
		size += int64(len(p))
	}
	return Body{Size: size, Sum: sum, Open: func() (io.ReadCloser, error) {
		return &partsReader{parts: parts, size: size}, nil
	}}
}

// partsReader reads parts one after the other, and can do what a bytes.Reader
// can: say its length, seek, and write itself.
type partsReader struct {
	parts [][]byte
	size  int64 // of all
	next  int   // the part that is read
	done  int   // bytes of it
	at    int64 // bytes before what is read next
}

func (r *partsReader) Len() int     { return int(r.size - r.at) }
func (r *partsReader) Close() error { return nil }

// rest returns what is left of the part that is read, or of the next one that
// is not empty; nothing at the end.
func (r *partsReader) rest() []byte {
	for r.next < len(r.parts) && r.done == len(r.parts[r.next]) {
		r.next, r.done = r.next+1, 0
	}
	if r.next == len(r.parts) {
		return nil
	}
	return r.parts[r.next][r.done:]
}

func (r *partsReader) step(n int) {
	r.done += n
	r.at += int64(n)
}

func (r *partsReader) Read(p []byte) (int, error) {
	rest := r.rest()
	if rest == nil {
		return 0, io.EOF
	}
	n := copy(p, rest)
	r.step(n)
	return n, nil
}

func (r *partsReader) WriteTo(w io.Writer) (total int64, err error) {
	for rest := r.rest(); rest != nil && err == nil; rest = r.rest() {
		var n int
		if n, err = w.Write(rest); err == nil && n < len(rest) {
			err = io.ErrShortWrite
		}
		r.step(n)
		total += int64(n)
	}
	return total, err
}

func (r *partsReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || offset > r.size {
		return 0, errors.New("seek: outside of the body")
	}
	r.next, r.done, r.at = 0, 0, 0
	for rest := r.rest(); rest != nil && r.at < offset; rest = r.rest() {
		r.step(int(min(int64(len(rest)), offset-r.at)))
	}
	return offset, nil
}

// A Storage keeps immutable files: a directory, a bucket, another machine.
// Its methods may be called from many goroutines. Errors carry a [Kind].
type Storage interface {
	// Put stores body whole and durably under h, or not at all: when it
	// returns nil the file survives a power cut; when it fails no file of
	// that name can be seen. A file that is there already is an [Exists]
	// error and is left as it was. A body that is not of Size, or whose
	// streamed bytes do not match Sum, is a [Corrupt] error and is not
	// stored.
	Put(ctx context.Context, h Handle, body Body) error
	// Get reads n bytes from offset off as a stream; n < 0 reads to the end.
	// A file that is not there is a [NotFound] error. A file that ends
	// before off+n makes the stream end early with io.ErrUnexpectedEOF.
	Get(ctx context.Context, h Handle, off, n int64) (io.ReadCloser, error)
	// Stat returns the stored size, or a [NotFound] error.
	Stat(ctx context.Context, h Handle) (Info, error)
	// List yields every file of a kind, in no order. Names that are not the
	// format's (temporary files, strangers) are passed over. After an error
	// the listing ends: what it gave is not complete.
	List(ctx context.Context, k FileKind) iter.Seq2[Info, error]
	// Delete removes a file. One that is not there is a [NotFound] error.
	// When it returns nil for an index, a snapshot, a key or the config, the
	// removal survives a power cut; a pack or a lock may then come back.
	Delete(ctx context.Context, h Handle) error
}

// A Wrapper is a storage that adds behaviour to another one: retries, a limit,
// a cache. See [As].
type Wrapper interface {
	Storage
	// Unwrap returns the storage inside.
	Unwrap() Storage
}

// As returns the ability T of s, such as [Beside], and whether s has it. What
// wraps other storages has an ability when the innermost storage has it; the
// outermost layer that adds behaviour to that ability is returned.
func As[T any](s Storage) (T, bool) {
	outer, ok := s.(T)
	w, wraps := s.(Wrapper)
	if !wraps {
		return outer, ok
	}
	inner, has := As[T](w.Unwrap())
	if has && ok {
		return outer, true
	}
	return inner, has
}

type treesKey struct{}

// OfTrees marks the context of a Get of parts of a pack: what is read there are
// trees, which are small and read again by almost every run. A cache keeps them.
func OfTrees(ctx context.Context) context.Context { return context.WithValue(ctx, treesKey{}, true) }

// AreTrees reports whether ctx is marked by [OfTrees].
func AreTrees(ctx context.Context) bool { return ctx.Value(treesKey{}) != nil }

// Parallel is the ability of a [Storage] to say how many calls pay side by
// side: one on a spinning disk, several on flash, many across a network.
type Parallel interface {
	// Connections returns that number, at least 1.
	Connections() int
}

// Beside is the ability of a [Storage] to keep files that are not restic's,
// under one prefix that restic passes over: signed records, doomed lists,
// parity. Names are slash-separated, relative, of [a-z0-9._-] parts.
type Beside interface {
	// PutBeside stores body whole and durably, or not at all, as
	// [Storage.Put] does; an existing name is an [Exists] error.
	PutBeside(ctx context.Context, name string, body Body) error
	// GetBeside reads a file whole as a stream; [NotFound] when absent.
	GetBeside(ctx context.Context, name string) (io.ReadCloser, error)
	// ListBeside yields the files below a folder ("" for all), with sizes,
	// in no order. After an error the listing ends.
	ListBeside(ctx context.Context, folder string) iter.Seq2[BesideInfo, error]
	// DeleteBeside removes a file; [NotFound] when absent.
	DeleteBeside(ctx context.Context, name string) error
}

// ReadBeside reads a file of at most limit bytes beside a repository. A longer
// one is a [Corrupt] error.
func ReadBeside(ctx context.Context, b Beside, name string, limit int64) (file []byte, err error) {
	rc, err := b.GetBeside(ctx, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	file, err = io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(file)) > limit {
		err = &Error{Kind: Corrupt, Err: fmt.Errorf("it has more than %d bytes", limit)}
	}
	return file, err
}

// ValidBeside reports whether name may name a file of a [Beside]: one or more
// parts of [a-z0-9._-], divided by slashes. No part begins or ends with a dot,
// and none holds "-tmp-", which marks files that are being written.
func ValidBeside(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || part[len(part)-1] == '.' || strings.Contains(part, "-tmp-") {
			return false
		}
		for _, c := range []byte(part) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
				return false
			}
		}
	}
	return true
}

// Stager is the ability of a [Storage] to take a file in pieces before its name
// is known, so that nobody keeps it in memory.
type Stager interface {
	// Stage begins a file of a kind that has IDs. Nobody sees it before it is
	// committed.
	Stage(ctx context.Context, k FileKind) (Staged, error)
}

// Staged is a file being written, by one goroutine. It ends with a Commit that
// succeeded, or with Abort.
type Staged interface {
	io.Writer
	// Commit stores what was written under h as [Storage.Put] stores a
	// [BytesBody]: the caller vouches that it is named rightly.
	Commit(ctx context.Context, h Handle) error
	// Abort removes what was written.
	Abort() error
}

// Sweeper is the ability of a [Storage] to remove what interrupted writes left
// behind: files that no listing shows. Prune calls it.
type Sweeper interface {
	// Sweep removes leftovers last written before the given time and
	// returns how many there were, also beside an error.
	Sweep(ctx context.Context, before time.Time) (removed int, err error)
}

// BesideInfo describes one file kept beside a repository.
type BesideInfo struct {
	Name string // slash-separated, without the prefix of the storage
	Size int64  // bytes
}

// Thawer is the ability of a [Storage] to keep packs where they cannot be read
// at once: in a class of an object store that must be asked for what it holds
// hours before. Whoever reads many packs calls it first.
type Thawer interface {
	// Thaw asks for those packs that are cold, and waits until all can be
	// read; waiting, which may be nil, is told from time to time how many
	// are not there yet. Where the user has not allowed it, for it costs
	// money, Thaw does nothing, and reading a cold pack is a [Denied] error
	// that says how to allow it. A pack that is not there is not an error
	// here: who reads it will see.
	Thaw(ctx context.Context, packs []ID, waiting func(packs int)) error
}
