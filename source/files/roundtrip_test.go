package files_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/source/files"
)

func newSource(t testing.TB, o files.Options) *files.Source {
	t.Helper()
	s, err := files.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Thaw(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newTarget(t testing.TB, dir string, o files.TargetOptions) *files.Target {
	t.Helper()
	tg, err := files.NewTarget(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tg.Close(); err != nil {
			t.Error(err)
		}
	})
	return tg
}

// tempDir is t.TempDir, but lives with wine, where the standard library cannot
// remove files.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "files") //nolint:usetesting // see above
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && os.Getenv("WINE") == "" {
			t.Error(err)
		}
	})
	return dir
}

func join(dir, name string) string { return strings.TrimPrefix(dir+"/"+name, "/") }

// restoreTree is a restore without an engine between: what s shows below dir
// goes to tg. Hard links are made again; holes stay holes.
func restoreTree(t testing.TB, s kassett.Source, tg kassett.Target, dir string) {
	t.Helper()
	if err := tg.Make(t.Context(), "", nil); err != nil {
		t.Fatal(err)
	}
	r := restorer{t: t, s: s, tg: tg, first: map[[2]uint64]string{}}
	r.folder(dir, "")
}

type restorer struct {
	t     testing.TB
	s     kassett.Source
	tg    kassett.Target
	first map[[2]uint64]string // device and inode → where it was restored
}

func (r *restorer) folder(from, to string) {
	r.t.Helper()
	list, err := r.s.List(r.t.Context(), from)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range list {
		e := &list[i]
		if e.Err != nil {
			r.t.Errorf("%s: %v", join(from, e.Name), e.Err)
			continue
		}
		if e.Type != kassett.Socket {
			r.entry(join(from, e.Name), join(to, e.Name), e)
		}
	}
}

func (r *restorer) entry(from, to string, e *kassett.Entry) {
	r.t.Helper()
	check := func(err error) {
		if err != nil {
			r.t.Helper()
			r.t.Fatalf("%s: %v", from, err)
		}
	}
	ctx := r.t.Context()
	check(r.s.Fill(ctx, from, e))
	if e.Links > 1 {
		key := [2]uint64{e.DeviceID, e.Inode}
		if first, ok := r.first[key]; ok {
			check(r.tg.Link(ctx, first, to))
			return
		}
		r.first[key] = to
	}
	switch e.Type {
	case kassett.File:
		c, err := r.s.Open(ctx, from, e)
		check(err)
		f, err := r.tg.Open(ctx, to, e)
		check(err)
		check(copyContent(f, c, int64(e.Size)))
		check(c.Close())
		check(f.Commit(ctx))
		check(f.Close())
	case kassett.Dir:
		check(r.tg.Make(ctx, to, e))
		r.folder(from, to)
		check(r.tg.Finish(ctx, to, e))
	default:
		check(r.tg.Make(ctx, to, e))
		check(r.tg.Finish(ctx, to, e))
	}
}

// copyContent copies the data and leaves out the holes.
func copyContent(w io.WriterAt, c kassett.Content, size int64) error {
	buf := make([]byte, 1<<16)
	holes, _ := c.(kassett.Holes)
	for at := int64(0); at < size; {
		if holes != nil {
			data, err := holes.NextData(at)
			if err != nil {
				return err
			}
			if err := holes.Skip(data - at); err != nil {
				return err
			}
			if at = data; at >= size {
				return nil
			}
		}
		n, err := c.Read(buf)
		if n > 0 {
			if _, err := w.WriteAt(buf[:n], at); err != nil {
				return err
			}
			at += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// content returns what is at a path of the system.
func content(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// restoreFile restores one file with text as its content.
func restoreFile(ctx context.Context, tg kassett.Target, path, text string) error {
	e := &kassett.Entry{
		Type: kassett.File, Mode: 0o644, Size: uint64(len(text)), ModTime: time.Unix(1e9, 7),
		UID: uint32(max(os.Geteuid(), 0)), GID: uint32(max(os.Getegid(), 0)),
	}
	f, err := tg.Open(ctx, path, e)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Commit(ctx), f.Close())
}

func TestRoundTripContent(t *testing.T) {
	t.Parallel()
	src, dst := tempDir(t), filepath.Join(tempDir(t), "new")
	must(t, os.MkdirAll(filepath.Join(src, "a", "b"), 0o755))
	write(t, filepath.Join(src, "empty"), "")
	write(t, filepath.Join(src, "a", "small"), "hello")
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	write(t, filepath.Join(src, "a", "b", "big"), string(big))
	s := newSource(t, files.Options{Paths: []string{src}})
	tg := newTarget(t, dst, files.TargetOptions{})
	restoreTree(t, s, tg, snapshotPath(src))
	must(t, tg.Sync(t.Context()))
	for name, want := range map[string]string{"empty": "", "a/small": "hello", "a/b/big": string(big)} {
		if got := content(t, filepath.Join(dst, name)); got != want {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
}

// snapshotPath returns where an absolute target is in a Source.
func snapshotPath(abs string) string {
	volume := filepath.VolumeName(abs)
	rest := strings.TrimPrefix(filepath.ToSlash(abs[len(volume):]), "/")
	if volume == "" {
		return rest
	}
	return strings.TrimSuffix(volume, ":") + "/" + rest
}

func errorIs(t testing.TB, err error, kind kassett.Kind) {
	t.Helper()
	if got := kassett.KindOf(err); err == nil || got != kind {
		t.Errorf("error %v of kind %q, want %q", err, got, kind)
	}
}
