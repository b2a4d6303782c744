package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/windows"

	"kassett"
)

// content reads one regular file.
type content struct {
	h     windows.Handle
	at    int64
	first dirInfo // when it was opened
}

// sparse is the content of a file with holes.
type sparse struct{ *content }

var (
	_ kassett.Content = (*content)(nil)
	_ kassett.Holes   = sparse{}
)

// open opens the regular file name in f and brings e up to date when the file
// is no longer, or not just, what was listed: then metadata and content belong
// together all the same.
func (f folder) open(name string, e *kassett.Entry) (kassett.Content, error) {
	h, d, err := f.openRegular(name)
	if err != nil {
		return nil, err
	}
	if now := d.entry(); now.Size != e.Size || !now.ModTime.Equal(e.ModTime) {
		e.Size, e.Mode, e.ModTime, e.AccessTime, e.ChangeTime = now.Size, now.Mode, now.ModTime, now.AccessTime, now.ChangeTime
	}
	c := &content{h: h, first: d}
	if d.attributes&winSparse != 0 {
		return sparse{c}, nil
	}
	return c, nil
}

// openRegular opens what must be a file with content of its own.
func (f folder) openRegular(name string) (windows.Handle, dirInfo, error) {
	const options = asItIs | windows.FILE_NON_DIRECTORY_FILE
	h, err := f.nt(name, windows.FILE_GENERIC_READ, windows.FILE_OPEN, options)
	if errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
		return 0, dirInfo{}, &kassett.Error{
			Op: "open", What: name, Kind: kassett.Locked, Err: err,
			Hint: "another program keeps this file to itself; close it, or back up a shadow copy",
		}
	}
	if err != nil {
		return 0, dirInfo{}, err
	}
	d, err := describe(h)
	if err == nil && d.entry().Type != kassett.File {
		err = fmt.Errorf("not a regular file: %w", fs.ErrInvalid)
	}
	if err == nil && d.tag != 0 { // stored elsewhere or deduplicated: who keeps it gives the content
		_ = windows.CloseHandle(h)
		h, err = f.nt(name, windows.FILE_GENERIC_READ, windows.FILE_OPEN, options&^windows.FILE_OPEN_REPARSE_POINT)
		return h, d, err
	}
	if err != nil {
		return 0, d, errors.Join(err, windows.CloseHandle(h))
	}
	return h, d, nil
}

// head reads the first n bytes of a small file.
func (f folder) head(name string, n int) ([]byte, error) {
	h, _, err := f.openRegular(name)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = part{h}.ReadAt(buf, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], errors.Join(err, windows.CloseHandle(h))
}

// Read implements [io.Reader].
func (c *content) Read(p []byte) (int, error) {
	n, err := part{c.h}.readOnce(p, c.at)
	c.at += int64(n)
	return n, err
}

// Changed implements [kassett.Content].
func (c *content) Changed() (bool, error) {
	now, err := describe(c.h)
	if err != nil {
		return false, err
	}
	return now.size != c.first.size || now.modified != c.first.modified || now.changed != c.first.changed, nil
}

// Close implements [io.Closer].
func (c *content) Close() error {
	if c.h == windows.InvalidHandle {
		return nil
	}
	err := windows.CloseHandle(c.h)
	c.h = windows.InvalidHandle
	return err
}

// NextData implements [kassett.Holes].
func (s sparse) NextData(off int64) (int64, error) {
	size := s.first.size
	if off >= size {
		return off, nil
	}
	var in, out [16]byte // offset and length, of what is asked and of the first range of data
	binary.LittleEndian.PutUint64(in[:], uint64(off))
	binary.LittleEndian.PutUint64(in[8:], uint64(size-off))
	var n uint32
	err := windows.DeviceIoControl(s.h, windows.FSCTL_QUERY_ALLOCATED_RANGES, &in[0], uint32(len(in)), &out[0], uint32(len(out)), &n, nil)
	if err != nil && !errors.Is(err, windows.ERROR_MORE_DATA) {
		return 0, err
	}
	if n < 16 {
		return size, nil
	}
	return max(off, int64(binary.LittleEndian.Uint64(out[:]))), nil //nolint:gosec // below size
}

// Skip implements [kassett.Holes].
func (s sparse) Skip(n int64) error {
	if n < 0 {
		return fs.ErrInvalid
	}
	s.at += n
	return nil
}
