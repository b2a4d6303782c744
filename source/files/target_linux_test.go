package files_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/source/files"
)

var folder = &kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o755, ModTime: time.Unix(1e9, 0)}

// TestTargetStaysInside offers a target every name and link that could lead
// out of it, through every method.
func TestTargetStaysInside(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "in")
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(outside, "file"), "outside")
	write(t, filepath.Join(outside, "sub", "file"), "outside")
	must(t, os.Symlink(outside, filepath.Join(dir, "out")))
	must(t, os.Symlink("../outside/file", filepath.Join(dir, "outfile")))
	must(t, os.Mkdir(filepath.Join(dir, "good"), 0o755))
	before := facts(t, outside)
	tg := newTarget(t, dir, files.TargetOptions{})
	ctx := t.Context()
	for _, path := range []string{
		"..", "../outside/new", "good/../../outside/new", "out/new", "out/file", "out/sub", "out/sub/file", "/etc/passwd",
		".", "good/.", "good//x", "good/..", "a\x00b", "outfile/x", "",
	} {
		link := &kassett.Entry{Type: kassett.Symlink, Mode: fs.ModeSymlink | 0o777, LinkTarget: "x"}
		fifo := &kassett.Entry{Type: kassett.Fifo, Mode: fs.ModeNamedPipe | 0o600}
		for op, call := range map[string]func() error{
			"make symlink": func() error { return tg.Make(ctx, path, link) },
			"make fifo":    func() error { return tg.Make(ctx, path, fifo) },
			"make folder":  func() error { return tg.Make(ctx, path, folder) },
			"write":        func() error { return restoreFile(ctx, tg, path, "evil") },
			"finish":       func() error { return tg.Finish(ctx, path, &kassett.Entry{Type: kassett.File, Mode: 0o777}) },
			"read":         func() error { _, err := tg.Read(ctx, path); return err },
			"remove":       func() error { return tg.Remove(ctx, path) },
			"link to":      func() error { return tg.Link(ctx, "good/file", path) },
			"link from":    func() error { return tg.Link(ctx, path, "good/stolen") },
		} {
			if path == "" && strings.HasPrefix(op, "make") { // makes the target itself
				continue
			}
			if err := call(); err == nil {
				t.Errorf("%s %q: no error", op, path)
			}
		}
	}
	if diff := diffFacts(before, facts(t, outside)); diff != "" {
		t.Errorf("outside changed: %s", diff)
	}
	must(t, tg.Remove(ctx, "out"))
	must(t, tg.Remove(ctx, "outfile"))
	if got := content(t, filepath.Join(outside, "file")); got != "outside" {
		t.Errorf("removing a link changed what it leads to: %q", got)
	}
}

func diffFacts(a, b map[string]fact) string {
	for name, f := range a {
		if g, ok := b[name]; !ok || f.Content != g.Content || f.Mode != g.Mode || !f.Mtime.Equal(g.Mtime) {
			return "changed: " + name
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			return "new: " + name
		}
	}
	return ""
}

// TestTargetRacesWithLinks swaps a folder for a link to elsewhere, over and
// over, while files are restored into it.
func TestTargetRacesWithLinks(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	outside, dir := filepath.Join(top, "outside"), filepath.Join(top, "in")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		at, away := filepath.Join(dir, "d"), filepath.Join(dir, "away")
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(at, away)
			_ = os.Symlink(outside, at)
			_ = os.Remove(at)
			_ = os.Rename(away, at)
		}
	})
	for range 300 {
		tg := newTarget(t, dir, files.TargetOptions{}) // each looks its folders up anew
		_ = tg.Make(t.Context(), "d", folder)
		_ = restoreFile(t.Context(), tg, "d/file", "text")
		_ = tg.Finish(t.Context(), "d", &kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o700})
	}
	close(stop)
	wg.Wait()
	names, err := os.ReadDir(outside)
	info, statErr := os.Stat(outside)
	must(t, errors.Join(err, statErr))
	if len(names) != 0 || info.Mode().Perm() != 0o755 {
		t.Errorf("outside: %v, mode %v", names, info.Mode())
	}
}

func TestPart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx := t.Context()
	tg := newTarget(t, dir, files.TargetOptions{})
	e := &kassett.Entry{Type: kassett.File, Mode: 0o640, Size: 8, ModTime: time.Unix(1e9, 0), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	write(t, filepath.Join(dir, "f"), "old text, to be kept until the end")
	f, err := tg.Open(ctx, "f", e)
	must(t, err)
	_, err = f.WriteAt([]byte("half"), 0)
	must(t, err)
	if got := content(t, filepath.Join(dir, "f")); !strings.HasPrefix(got, "old text") {
		t.Errorf("before the end the final name holds %q", got)
	}
	if names, err := tg.Names(ctx, ""); len(names) != 1 || err != nil {
		t.Errorf("names: %q, error %v", names, err)
	}
	must(t, f.Close())

	// A later restore goes on with the part, also when it is too long.
	write(t, filepath.Join(dir, "f.kassett-part"), "half of something longer")
	f, err = newTarget(t, dir, files.TargetOptions{}).Open(ctx, "f", e)
	must(t, err)
	had := make([]byte, 4)
	_, err = f.ReadAt(had, 0)
	must(t, err)
	if string(had) != "half" {
		t.Errorf("part holds %q", had)
	}
	_, err = f.WriteAt([]byte("done"), 4)
	must(t, err)
	must(t, f.Commit(ctx))
	must(t, f.Close())
	if got := content(t, filepath.Join(dir, "f")); got != "halfdone" {
		t.Errorf("restored %q", got)
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("left over: %v", all)
	}
	// No part written to: a file of holes.
	e.Size = 1 << 20
	f, err = tg.Open(ctx, "holes", e)
	must(t, err)
	must(t, f.Commit(ctx))
	if info, err := os.Stat(filepath.Join(dir, "holes")); err != nil || info.Size() != 1<<20 {
		t.Errorf("file of holes: %v, error %v", info, err)
	}
}

// TestPartTraps lays out what a hostile neighbour could under a part's name.
func TestPartTraps(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	victim, dir := filepath.Join(top, "victim"), filepath.Join(top, "in")
	for name, lay := range map[string]func(at string) error{
		"symlink":   func(at string) error { return os.Symlink(victim, at) },
		"hard link": func(at string) error { return os.Link(victim, at) },
		"fifo":      func(at string) error { return unix.Mkfifo(at, 0o600) },
		"folder":    func(at string) error { return os.MkdirAll(filepath.Join(at, "full"), 0o700) },
		"nothing":   func(string) error { return nil },
	} {
		must(t, os.RemoveAll(dir))
		must(t, os.Mkdir(dir, 0o755))
		write(t, victim, "victim")
		must(t, lay(filepath.Join(dir, "f.kassett-part")))
		must(t, restoreFile(t.Context(), newTarget(t, dir, files.TargetOptions{}), "f", "restored"))
		if got := content(t, victim); got != "victim" {
			t.Errorf("%s: victim holds %q", name, got)
		}
		if got := content(t, filepath.Join(dir, "f")); got != "restored" {
			t.Errorf("%s: restored %q", name, got)
		}
		names, err := newTarget(t, dir, files.TargetOptions{}).Names(t.Context(), "")
		if foreign := name == "symlink" || name == "fifo" || name == "folder"; err != nil || len(names) == 2 != foreign {
			t.Errorf("%s: names %q, error %v", name, names, err)
		}
	}
}

// TestFileCalledLikeAPart restores the leftovers of a restore that was itself
// backed up.
func TestFileCalledLikeAPart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tg := newTarget(t, dir, files.TargetOptions{})
	long := strings.Repeat("l", 255)
	want := map[string]string{"x.kassett-part": "leftover", "x": "whole", "x.kassett-part.kassett-part": "odd", long: "long name"}
	for _, name := range []string{"x.kassett-part", "x", "x.kassett-part.kassett-part", long} {
		must(t, restoreFile(t.Context(), tg, name, want[name]))
	}
	for name, text := range want {
		if got := content(t, filepath.Join(dir, name)); got != text {
			t.Errorf("%s holds %q, want %q", name, got, text)
		}
	}
	if all, _ := os.ReadDir(dir); len(all) != len(want) {
		t.Errorf("there are %v", all)
	}
}

func TestInTheWay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tg := newTarget(t, dir, files.TargetOptions{})
	ctx := t.Context()
	must(t, os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o755))
	write(t, filepath.Join(dir, "file"), "x")
	must(t, os.Symlink("file", filepath.Join(dir, "link")))
	link := &kassett.Entry{Type: kassett.Symlink, LinkTarget: "y", Mode: fs.ModeSymlink | 0o777}
	for what, err := range map[string]error{
		"folder where a file is":   tg.Make(ctx, "file", folder),
		"folder where a link is":   tg.Make(ctx, "link", folder),
		"link where a file is":     tg.Make(ctx, "file", link),
		"file where a folder is":   restoreFile(ctx, tg, "folder", "x"),
		"hard link where one is":   tg.Link(ctx, "file", "link"),
		"folder below a file":      tg.Make(ctx, "file/x", folder),
		"file below a linked file": restoreFile(ctx, tg, "link/x", "x"),
	} {
		if kassett.KindOf(err) != kassett.Exists || kassett.HintOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, tg.Make(ctx, "folder", folder)) // there already
	must(t, restoreFile(ctx, tg, "link", "now a file"))
	if got := content(t, filepath.Join(dir, "file")); got != "x" {
		t.Errorf("replacing a link changed what it led to: %q", got)
	}
	errorIs(t, tg.Make(ctx, "sock", &kassett.Entry{Type: kassett.Socket}), kassett.Invalid)
	if _, err := tg.Look(ctx, "absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("look at nothing: %v", err)
	}
	must(t, tg.Remove(ctx, "absent"))
	must(t, tg.Remove(ctx, "folder"))
	e, err := tg.Look(ctx, "link")
	if err != nil || e.Type != kassett.File || e.Size != 10 {
		t.Errorf("look: %+v, error %v", e, err)
	}
}

// TestInheritedMetadata restores into a folder that hands its group and an
// access list down: what was backed up counts, not what the folder says.
func TestInheritedMetadata(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, unix.Lsetxattr(dir, "system.posix_acl_default", acl, 0))
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir, 0, 77))
	}
	must(t, unix.Chmod(dir, 0o2755))
	tg := newTarget(t, dir, files.TargetOptions{})
	must(t, restoreFile(t.Context(), tg, "f", "x"))
	must(t, tg.Make(t.Context(), "d", folder))
	own := *folder
	own.UID, own.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	must(t, tg.Finish(t.Context(), "d", &own))
	for name, mode := range map[string]uint32{"f": 0o644, "d": 0o755} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if st.Mode&0o7777 != mode || int(st.Gid) != os.Getegid() || len(rawXattrs(t, filepath.Join(dir, name))) != 0 {
			t.Errorf("%s: mode %o, group %d, attributes %q", name, st.Mode, st.Gid, rawXattrs(t, filepath.Join(dir, name)))
		}
	}
}

func TestTargetOptions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tg := newTarget(t, dir, files.TargetOptions{
		OwnersByName: true, Xattrs: func(name string) bool { return name == "user.yes" },
	})
	must(t, restoreFile(t.Context(), tg, "f", "x"))
	e := &kassett.Entry{
		Type: kassett.File, Mode: 0o600, UID: 4711, GID: 4712, User: "nobody", Group: "no such group here",
		Xattrs: []kassett.Xattr{{Name: "user.yes", Value: []byte("1")}, {Name: "user.no", Value: []byte("1")}},
	}
	if err := tg.Finish(t.Context(), "f", e); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(dir, "f"), &st))
	if os.Geteuid() == 0 && (st.Uid != 65534 || st.Gid != 4712) {
		t.Errorf("owner %d:%d, want nobody's number and the recorded group", st.Uid, st.Gid)
	}
	if got := rawXattrs(t, filepath.Join(dir, "f")); len(got) != 1 || got["user.yes"] != "1" {
		t.Errorf("attributes %q", got)
	}
}

// TestNotRoot restores as a user who may not give files away.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		return // the same test run as another user proves it
	}
	dir := t.TempDir()
	var warned []error
	tg := newTarget(t, dir, files.TargetOptions{Warn: func(_ string, err error) { warned = append(warned, err) }})
	for _, name := range []string{"a", "b"} {
		must(t, restoreFile(t.Context(), tg, name, "x"))
		must(t, tg.Finish(t.Context(), name, &kassett.Entry{Type: kassett.File, Mode: 0o755 | fs.ModeSetuid, UID: 0, GID: 0}))
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		if info.Mode() != 0o755 {
			t.Errorf("mode %v: a program of root's must not run as this user", info.Mode())
		}
	}
	if len(warned) != 1 {
		t.Errorf("warned %v, want once", warned)
	}
}

func TestTargetRoot(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "yet")
	tg := newTarget(t, dir, files.TargetOptions{})
	if _, err := tg.Look(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("look at a target that is not there: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("looking made the target")
	}
	must(t, tg.Make(t.Context(), "", folder))
	must(t, restoreFile(t.Context(), tg, "f", "x"))
	own := *folder
	own.UID, own.GID = uint32(os.Geteuid()), uint32(os.Getegid())
	own.Mode = fs.ModeDir | 0o711
	must(t, tg.Finish(t.Context(), "", &own))
	info, err := os.Stat(dir)
	must(t, err)
	if info.Mode().Perm() != 0o711 || !info.ModTime().Equal(folder.ModTime) {
		t.Errorf("target: %v, %v", info.Mode(), info.ModTime())
	}
	must(t, tg.Sync(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tg.Make(ctx, "x", folder); !errors.Is(err, context.Canceled) {
		t.Errorf("make after the end: %v", err)
	}
}
