package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"

	"kassett"
)

// content reads one regular file.
type content struct {
	fd    int
	at    int64
	first unix.Stat_t // when it was opened
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
	// O_NONBLOCK: should a pipe be here by now, opening it must not wait.
	flags := unix.O_RDONLY | unix.O_NONBLOCK
	fd, err := -1, error(unix.EPERM)
	if id := unix.Geteuid(); id == 0 || uint32(id) == e.UID {
		fd, err = f.openat(name, flags|unix.O_NOATIME)
	}
	if errors.Is(err, unix.EPERM) {
		fd, err = f.openat(name, flags)
	}
	if err != nil {
		return nil, err
	}
	c := &content{fd: fd}
	if err := unix.Fstat(fd, &c.first); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if c.first.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(fmt.Errorf("no longer a regular file: %w", fs.ErrInvalid), unix.Close(fd))
	}
	if c.first.Ino != e.Inode || uint64(c.first.Size) != e.Size || !e.ModTime.Equal(goTime(c.first.Mtim)) {
		describe(e, &c.first)
	}
	if c.first.Blocks*512 < c.first.Size {
		return sparse{c}, nil
	}
	return c, nil
}

// Read implements [io.Reader].
func (c *content) Read(p []byte) (int, error) {
	n, err := retry(func() (int, error) { return unix.Pread(c.fd, p, c.at) })
	if err != nil {
		return 0, err
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	c.at += int64(n)
	if n < len(p) && c.at == c.first.Size {
		// The end, where it was expected: no second call to find it. Growth
		// since then shows in Changed.
		return n, io.EOF
	}
	return n, nil
}

// Changed implements [kassett.Content].
func (c *content) Changed() (bool, error) {
	var now unix.Stat_t
	if err := unix.Fstat(c.fd, &now); err != nil {
		return false, err
	}
	was := &c.first
	return now.Size != was.Size || now.Mtim != was.Mtim || now.Ctim != was.Ctim, nil
}

// Close implements [io.Closer].
func (c *content) Close() error {
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// NextData implements [kassett.Holes].
func (s sparse) NextData(off int64) (int64, error) {
	at, err := unix.Seek(s.fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return max(s.first.Size, off), nil
	}
	return at, err
}

// Skip implements [kassett.Holes].
func (s sparse) Skip(n int64) error {
	if n < 0 {
		return fs.ErrInvalid
	}
	s.at += n
	return nil
}
