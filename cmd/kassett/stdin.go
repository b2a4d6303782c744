package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

// stdinSource is a [kassett.Source] of one file: what is read from standard
// input. It can be read once.
type stdinSource struct {
	path  string // absolute, as the snapshot names it
	names []string
	in    io.Reader
	cut   kassett.Cut
	begun time.Time
}

var _ kassett.Source = (*stdinSource)(nil)

// newStdinSource returns the source of in, as a file of this name.
func newStdinSource(name string, in io.Reader, cut kassett.Cut) (*stdinSource, error) {
	p := path.Join("/", strings.ReplaceAll(name, `\`, "/"))
	if p == "/" || strings.ContainsRune(p, 0) {
		return nil, invalid("read standard input", terminal.Safe(name), "give a name such as journal.sql", errors.New("not a name of a file"))
	}
	return &stdinSource{path: p, names: strings.Split(p[1:], "/"), in: in, cut: cut, begun: time.Now()}, nil
}

// Freeze implements [kassett.Source].
func (s *stdinSource) Freeze(ctx context.Context) error { return ctx.Err() }

// Thaw implements [kassett.Source].
func (s *stdinSource) Thaw(context.Context) error { return nil }

// List implements [kassett.Source]: each folder on the way holds the next.
func (s *stdinSource) List(ctx context.Context, dir string) ([]kassett.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	depth := 0
	if dir != "" {
		depth = strings.Count(dir, "/") + 1
	}
	if depth >= len(s.names) || strings.Join(s.names[:depth], "/") != dir {
		return nil, fs.ErrNotExist
	}
	e := kassett.Entry{Name: s.names[depth], ModTime: s.begun, AccessTime: s.begun, ChangeTime: s.begun}
	if depth == len(s.names)-1 {
		e.Type, e.Mode, e.Cut, e.Links = kassett.File, 0o644, s.cut, 1
	} else {
		e.Type, e.Mode = kassett.Dir, fs.ModeDir|0o755
	}
	return []kassett.Entry{e}, nil
}

// Fill implements [kassett.Source].
func (s *stdinSource) Fill(ctx context.Context, _ string, _ *kassett.Entry) error { return ctx.Err() }

// Open implements [kassett.Source]. A read from a terminal or a pipe cannot be
// broken off, so a goroutine reads ahead of us: it ends with its input, at the
// latest with the process.
//
// The size of e is set when all was read: nobody knows it before.
func (s *stdinSource) Open(ctx context.Context, _ string, e *kassett.Entry) (kassett.Content, error) {
	r, w := io.Pipe()
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	go func() {
		_, err := io.Copy(w, s.in)
		w.CloseWithError(err)
	}()
	return &stdinContent{PipeReader: r, stop: stop, entry: e}, nil
}

type stdinContent struct {
	*io.PipeReader
	stop  func() bool
	entry *kassett.Entry
	read  uint64 // bytes
}

// Read implements [kassett.Content].
func (c *stdinContent) Read(p []byte) (int, error) {
	n, err := c.PipeReader.Read(p)
	c.read += uint64(n) //nolint:gosec // not negative
	return n, err
}

// Close implements [kassett.Content]; standard input is not ours to close.
func (c *stdinContent) Close() error {
	c.stop()
	return c.PipeReader.Close()
}

// Changed implements [kassett.Content].
func (c *stdinContent) Changed() (bool, error) {
	c.entry.Size = c.read
	return false, nil
}
