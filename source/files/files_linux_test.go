package files_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kassett"
	"kassett/source/files"
)

// fact is everything about one file that a round trip must keep.
type fact struct {
	Mode       uint32
	UID, GID   uint32
	Size       int64
	Rdev       uint64
	Mtime      time.Time
	Links      uint64
	Target     string
	Xattrs     map[string]string
	Content    string
	Sparse     bool
	SameFileAs string // the first name of a hard link
}

// facts describes the tree at root by plain calls of the system.
func facts(t testing.TB, root string) map[string]fact {
	t.Helper()
	all := map[string]fact{}
	first := map[uint64]string{}
	must(t, filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if path == root {
			return nil
		}
		name, _ := filepath.Rel(root, path)
		f := fact{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev, Mtime: time.Unix(st.Mtim.Unix()),
			Xattrs: rawXattrs(t, path),
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f.Size, f.Content = st.Size, content(t, path)
			f.Sparse = st.Size > 1<<20 && st.Blocks*512 < st.Size/2
			if f.Links = uint64(st.Nlink); f.Links > 1 { //nolint:unconvert // 32 bits on arm64
				if first[st.Ino] == "" {
					first[st.Ino] = name
				}
				f.SameFileAs = first[st.Ino]
			}
		case unix.S_IFLNK:
			if f.Target, err = os.Readlink(path); err != nil {
				return err
			}
		case unix.S_IFSOCK:
			return nil
		}
		all[name] = f
		return nil
	}))
	return all
}

func rawXattrs(t testing.TB, path string) map[string]string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		all[name] = string(value[:n])
	}
	return all
}

// acl is the access list u::rw-,u:1234:rw-,g::r--,m::rw-,o::--- as the system
// keeps it (acl(5), version 2).
var acl = []byte{
	2, 0, 0, 0,
	0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	0x02, 0, 6, 0, 0xd2, 0x04, 0, 0,
	0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
	0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
	0x20, 0, 0, 0, 0xff, 0xff, 0xff, 0xff,
}

// makeOddTree makes one of everything that this user may make.
func makeOddTree(t testing.TB, root string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"plain", "plain/deep/er", "read-only", "set gid", "sticky", "empty", "\xff\xfe latin"} {
		must(t, os.MkdirAll(at(dir), 0o755))
	}
	for name, text := range map[string]string{
		"empty file": "", "plain/file": "text", "plain/deep/er/file": strings.Repeat("x", 100_000),
		"read-only/file": "r", "na\xffme not utf-8": "n", "new\nline": "l", "☃ 患者 Łódź": "u", "-rf": "f",
		strings.Repeat("n", 255): "long", "setuid": "s", "with acl": "a", "secret": "z", "x" + ".kassett-part": "not a part",
	} {
		write(t, at(name), text)
	}
	must(t, os.Symlink("nowhere/\xff", at("dangling")))
	must(t, os.Symlink("/etc/passwd", at("absolute link")))
	must(t, os.Symlink("..", at("plain/up")))
	must(t, os.Symlink(strings.Repeat("l/", 2000), at("long link")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, os.Link(at("plain/file"), at("hard")))
	must(t, os.Link(at("plain/file"), at("plain/deep/hard too")))
	makeSparse(t, at("sparse"))
	for name, value := range map[string]string{"user.one": "1", "user.empty": "", "user.big": strings.Repeat("v", 3000)} {
		must(t, unix.Lsetxattr(at("plain/file"), name, []byte(value), 0))
	}
	must(t, unix.Lsetxattr(at("empty"), "user.dir", []byte{0, 1, 0xff}, 0))
	must(t, unix.Lsetxattr(at("with acl"), "system.posix_acl_access", acl, 0))
	must(t, unix.Lsetxattr(at("empty"), "system.posix_acl_default", acl, 0))
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 300))))
		must(t, os.Lchown(at("plain/deep/er/file"), 1234, 54321))
		must(t, os.Lchown(at("dangling"), 4294967294, 1))
		must(t, os.Lchown(at("empty"), 8, 8))
		must(t, unix.Lsetxattr(at("dangling"), "trusted.link", []byte("t"), 0))
		must(t, unix.Lsetxattr(at("setuid"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
		must(t, os.Lchown(at("secret"), 33, 33))
	}
	must(t, unix.Chmod(at("setuid"), 0o4755))
	must(t, unix.Chmod(at("secret"), 0))
	must(t, unix.Chmod(at("set gid"), 0o2775))
	must(t, unix.Chmod(at("sticky"), 0o1777))
	must(t, unix.Chmod(at("read-only"), 0o555))
	t.Cleanup(func() { _ = os.Chmod(at("read-only"), 0o755) })
	if os.Geteuid() != 0 {
		must(t, unix.Chmod(at("secret"), 0o400))
	}
	for i, name := range []string{"dangling", "plain/file", "fifo", "empty", "plain/deep", "plain"} {
		ts := []unix.Timespec{{Sec: 1e9, Nsec: 1}, {Sec: 1e9 - int64(i)*1e9, Nsec: 123456789}} // some before 1970
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// makeSparse makes a file of 8 MiB of which little is data: a hole first, one
// between, one at the end.
func makeSparse(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	_, err = f.WriteAt([]byte("first"), 1<<20)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{7}, 10_000), 5<<20)
	must(t, err)
	must(t, f.Truncate(8<<20))
	must(t, f.Close())
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	src, dst := t.TempDir(), t.TempDir()
	makeOddTree(t, src)
	s := newSource(t, files.Options{Paths: []string{src}})
	tg := newTarget(t, dst, files.TargetOptions{})
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dst, "read-only"), 0o755) })
	restoreTree(t, s, tg, snapshotPath(src))
	must(t, tg.Sync(t.Context()))
	want := facts(t, src)
	if diff := cmp.Diff(want, facts(t, dst)); diff != "" {
		t.Error(diff)
	}
	// Once more over what is there: all metadata again, content by replacing.
	for name, f := range want {
		if f.Mode&unix.S_IFMT == unix.S_IFDIR {
			continue
		}
		if f.SameFileAs != "" || f.Mode&unix.S_IFMT != unix.S_IFREG {
			must(t, tg.Remove(t.Context(), name))
		}
	}
	restoreTree(t, s, tg, snapshotPath(src))
	if diff := cmp.Diff(want, facts(t, dst)); diff != "" {
		t.Errorf("restored again: %s", diff)
	}
}

func TestListTellsWhatLstatTells(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	makeOddTree(t, src)
	s := newSource(t, files.Options{Paths: []string{src}, WithAtime: true})
	list, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	for i := range list {
		e := &list[i]
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(src, e.Name), &st))
		info, err := os.Lstat(filepath.Join(src, e.Name))
		must(t, err)
		if e.Mode != info.Mode() || e.Inode != st.Ino || !e.ModTime.Equal(info.ModTime()) ||
			e.AccessTime.UnixNano() != st.Atim.Nano() || e.ChangeTime.UnixNano() != st.Ctim.Nano() || e.UID != st.Uid || e.GID != st.Gid {
			t.Errorf("%q: %+v, lstat says %+v", e.Name, e, st)
		}
		if want := st.Dev; e.Name == "hard" && (e.DeviceID != want || e.Links != 3) {
			t.Errorf("hard link: file system %d, %d links; want %d, 3", e.DeviceID, e.Links, want)
		}
		if e.UID == 0 && e.User != "root" {
			t.Errorf("%q: user %q", e.Name, e.User)
		}
	}
	no := newSource(t, files.Options{Paths: []string{src}})
	list, err = no.List(t.Context(), snapshotPath(src))
	must(t, err)
	for _, e := range list {
		if !e.AccessTime.Equal(e.ModTime) {
			t.Errorf("%q: access time without being asked for", e.Name)
		}
	}
}

// TestDeep goes far beyond PATH_MAX.
func TestDeep(t *testing.T) {
	t.Parallel()
	const levels = 200
	name := strings.Repeat("d", 200)
	src, dst := t.TempDir(), t.TempDir()
	mk := newTarget(t, src, files.TargetOptions{})
	dir := &kassett.Entry{Type: kassett.Dir, Mode: os.ModeDir | 0o755, ModTime: time.Unix(1e9, 0)}
	path := ""
	for range levels {
		path = join(path, name)
		must(t, mk.Make(t.Context(), path, dir))
	}
	must(t, restoreFile(t.Context(), mk, join(path, "bottom"), "deep"))
	s := newSource(t, files.Options{Paths: []string{filepath.Join(src, name)}})
	tg := newTarget(t, dst, files.TargetOptions{})
	restoreTree(t, s, tg, snapshotPath(src))
	f, err := tg.Read(t.Context(), join(path, "bottom"))
	must(t, err)
	got := make([]byte, 4)
	_, err = f.ReadAt(got, 0)
	must(t, err)
	must(t, f.Close())
	if string(got) != "deep" {
		t.Errorf("at the bottom: %q", got)
	}
	for _, target := range []*files.Target{mk, tg} { // plain os.RemoveAll is as able, but this proves Remove
		must(t, target.Remove(t.Context(), name))
		if names, err := target.Names(t.Context(), ""); len(names) != 0 || err != nil {
			t.Errorf("left: %q, error %v", names, err)
		}
	}
}

func TestNeverHangsOnFifo(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), "text")
	s := newSource(t, files.Options{Paths: []string{src}})
	list, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	for _, swap := range []func(string) error{
		func(p string) error { return unix.Mkfifo(p, 0o600) },
		func(p string) error { return os.Symlink("/etc/passwd", p) },
		func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		must(t, os.RemoveAll(filepath.Join(src, "f")))
		must(t, swap(filepath.Join(src, "f")))
		e := list[0]
		if c, err := s.Open(t.Context(), snapshotPath(src)+"/f", &e); err == nil {
			t.Error("opened what is no file any more")
			must(t, c.Close())
		}
	}
	must(t, os.RemoveAll(filepath.Join(src, "f")))
	e := list[0]
	_, err = s.Open(t.Context(), snapshotPath(src)+"/f", &e)
	errorIs(t, err, kassett.NotFound)
}

func TestReplacedFileIsDescribedAnew(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	path := filepath.Join(src, "f")
	write(t, path, "old")
	s := newSource(t, files.Options{Paths: []string{src}})
	list, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	write(t, path+".new", "newer text")
	must(t, os.Rename(path+".new", path))
	e := list[0]
	c, err := s.Open(t.Context(), snapshotPath(src)+"/f", &e)
	must(t, err)
	defer c.Close()
	if e.Size != 10 || e.Inode == list[0].Inode {
		t.Errorf("size %d, inode %d: still the old file's", e.Size, e.Inode)
	}
	if changed, err := c.Changed(); changed || err != nil {
		t.Errorf("changed %v, error %v: the file is quiet", changed, err)
	}
	for _, change := range []func() error{
		func() error { return os.Truncate(path, 3) },
		func() error { return os.Chtimes(path, time.Time{}, time.Unix(5, 0)) },
		func() error { return os.Chmod(path, 0o600) }, // only ctime tells
	} {
		must(t, change())
		if changed, err := c.Changed(); !changed || err != nil {
			t.Errorf("changed %v, error %v", changed, err)
		}
	}
}

// TestVanishing lists a folder from which files are removed all the while.
func TestVanishing(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	for i := range 2000 {
		write(t, filepath.Join(src, fmt.Sprint("f", i)), "")
	}
	s := newSource(t, files.Options{Paths: []string{src}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 2000 {
			_ = os.Remove(filepath.Join(src, fmt.Sprint("f", i)))
		}
	}()
	seen := 0
	for range 20 {
		list, err := s.List(t.Context(), snapshotPath(src))
		must(t, err)
		for _, e := range list {
			if e.Err != nil {
				seen++
				errorIs(t, e.Err, kassett.NotFound)
			}
		}
	}
	<-done
	t.Logf("%d entries vanished between being read and being asked", seen)
	must(t, os.Remove(src))
	if _, err := newSourceErr(src); kassett.KindOf(err) != kassett.NotFound || kassett.HintOf(err) == "" {
		t.Errorf("no target exists: %v", err)
	}
}

func newSourceErr(paths ...string) (*files.Source, error) {
	return files.New(files.Options{Paths: paths})
}

// TestVanishedFolder removes a folder after it was listed by its parent, and
// puts a link to elsewhere in its place.
func TestVanishedFolder(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	must(t, os.Mkdir(filepath.Join(src, "d"), 0o755))
	s := newSource(t, files.Options{Paths: []string{src}})
	_, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	must(t, os.Remove(filepath.Join(src, "d")))
	_, err = s.List(t.Context(), snapshotPath(src)+"/d")
	errorIs(t, err, kassett.NotFound)
	must(t, os.Symlink("/etc", filepath.Join(src, "d")))
	if list, err := s.List(t.Context(), snapshotPath(src)+"/d"); err == nil {
		t.Errorf("listed %d things through a link", len(list))
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		return // root reads everything; the run as another user proves this
	}
	src := t.TempDir()
	write(t, filepath.Join(src, "f"), "text")
	must(t, os.Chmod(filepath.Join(src, "f"), 0))
	must(t, os.Mkdir(filepath.Join(src, "d"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(src, "d"), 0o700) })
	s := newSource(t, files.Options{Paths: []string{src}})
	list, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	if len(list) != 2 || list[0].Err != nil || list[1].Err != nil {
		t.Fatalf("listed %+v", list)
	}
	_, err = s.List(t.Context(), snapshotPath(src)+"/d")
	errorIs(t, err, kassett.Denied)
	_, err = s.Open(t.Context(), snapshotPath(src)+"/f", &list[1])
	errorIs(t, err, kassett.Denied)
}

func TestLargeFolder(t *testing.T) {
	t.Parallel()
	src, err := os.MkdirTemp("/dev/shm", "files") //nolint:usetesting // on a disk this takes half a minute
	if err != nil {
		src = tempDir(t)
	}
	t.Cleanup(func() { must(t, os.RemoveAll(src)) })
	tg := newTarget(t, src, files.TargetOptions{})
	const n = 100_000
	start := time.Now()
	for i := range n {
		must(t, restoreFile(t.Context(), tg, fmt.Sprintf("file %06d", i), "x"))
	}
	made := time.Since(start)
	s := newSource(t, files.Options{Paths: []string{src}})
	start = time.Now()
	list, err := s.List(t.Context(), snapshotPath(src))
	must(t, err)
	t.Logf("%d files made in %v, listed in %v", n, made, time.Since(start))
	if len(list) != n || !slices.IsSortedFunc(list, func(a, b kassett.Entry) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%d of %d, or out of order", len(list), n)
	}
}

// TestOneFileSystem uses the one mount that every Linux system has.
func TestOneFileSystem(t *testing.T) {
	t.Parallel()
	s := newSource(t, files.Options{Paths: []string{"/"}, OneFileSystem: true})
	list, err := s.List(t.Context(), "")
	must(t, err)
	if !slices.ContainsFunc(list, func(e kassett.Entry) bool { return e.Name == "proc" && e.Type == kassett.Dir }) {
		t.Error("the mount point is left out")
	}
	if list, err = s.List(t.Context(), "proc"); len(list) != 0 || err != nil {
		t.Errorf("on the other file system: %d things, error %v", len(list), err)
	}
	s = newSource(t, files.Options{Paths: []string{"/", "/proc/sys"}, OneFileSystem: true})
	if list, err = s.List(t.Context(), "proc/sys"); len(list) == 0 || err != nil {
		t.Errorf("a target on the other file system: %d things, error %v", len(list), err)
	}
}

// TestAsAnotherUser runs this package's tests about rights again as a user who
// has none, when they run as root.
func TestAsAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		return // the tests themselves just ran so
	}
	dir := tempDir(t)
	must(t, os.Chmod(dir, 0o777|os.ModeSticky))
	self, err := os.Executable()
	must(t, err)
	program := filepath.Join(dir, "test")
	// Another process copies it: a program that this one has open for writing
	// while a test beside it forks cannot be run ("text file busy").
	must(t, exec.CommandContext(t.Context(), "install", "-m", "755", self, program).Run())
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^(TestRoundTrip|TestUnreadable|TestNotRoot|TestInheritedMetadata|TestTargetOptions|TestPart.*)$")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}
