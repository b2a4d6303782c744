package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/mount"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

// mounted mounts a view and returns where. It is gone when the test ends, however
// it ends.
func mounted(t testing.TB, v *mount.View, o mount.FUSEOptions) (string, *mount.Mounted) {
	t.Helper()
	needFUSE(t)
	at, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	m, err := v.Mount(at, o)
	must(t, err)
	t.Cleanup(func() {
		err := m.Unmount()
		for begun := time.Now(); err != nil && time.Since(begun) < 20*time.Second; err = m.Unmount() {
			time.Sleep(50 * time.Millisecond) // programs that other tests start have our files for a moment
		}
		if err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
			<-m.Done()
		}
	})
	return at, m
}

func needFUSE(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("there is no /dev/fuse, and SHORT=1 asks for less")
		}
		t.Fatal("there is no /dev/fuse; modprobe fuse makes it, SHORT=1 leaves these tests out")
	}
}

// facts describes everything below a folder, one line an entry, so that two
// folders can be compared.
func facts(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || rel == "." {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		fact := fmt.Sprintf("%o %d:%d %d.%d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			first, ok := inodes[st.Ino]
			if !ok {
				first = rel
				inodes[st.Ino] = rel
			}
			fact += fmt.Sprintf(" size %d links %d with %q %s", st.Size, st.Nlink, first, kassett.Hash(b).Short())
		case syscall.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fact += fmt.Sprintf(" size %d to %q", st.Size, to)
		case syscall.S_IFBLK, syscall.S_IFCHR:
			fact += fmt.Sprintf(" device %d", st.Rdev)
		}
		all[rel] = fact + xattrs(t, path)
		return nil
	})
	must(t, err)
	return all
}

func xattrs(t testing.TB, path string) (s string) {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	for _, name := range names {
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		s += fmt.Sprintf(" %s=%q", name, value[:n])
	}
	return s
}

func same(t testing.TB, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%q is\n  %s, want\n  %s", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is there, and should not be", name)
		}
	}
}

// oddTree makes a folder with one of everything that a file system can hold.
func oddTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("empty"), nil)
	write(t, at("small"), []byte("journal"))
	write(t, at("large"), noise(1, 5<<20))
	write(t, at("deep/er/and/deeper/file"), []byte("x"))
	write(t, at("name with spaces, 100% ü and \xff\xfe\n.txt"), []byte("name"))
	write(t, at("linked"), []byte("hard"))
	must(t, os.Link(at("linked"), at("deep/link")))
	must(t, os.Symlink("../small", at("deep/sym")))
	must(t, os.Symlink("/nowhere/\xff", at("dangling")))
	must(t, os.MkdirAll(at("sticky"), 0o755))
	must(t, os.Chmod(at("sticky"), fs.ModeSticky|0o777))
	must(t, os.Chmod(at("small"), fs.ModeSetuid|0o750))
	must(t, syscall.Mkfifo(at("fifo"), 0o600))
	holes, err := os.Create(at("holes"))
	must(t, err)
	_, err = holes.WriteAt([]byte("end"), 8<<20)
	must(t, errors.Join(err, holes.Close()))
	if err := unix.Lsetxattr(at("large"), "user.patient", []byte("1\x002"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		must(t, unix.Mknod(at("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(t, os.Chown(at("empty"), 1234, 4321))
	}
	must(t, os.Chtimes(at("empty"), time.Unix(-5, 7), time.Unix(-5, 7)))
	return dir
}

// TestSameAsRestored compares what is mounted with what a restore gives back and
// with what was backed up, byte for byte and in all that the system tells.
func TestSameAsRestored(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	src := oddTree(t)
	want := facts(t, src)
	sn := backup(t, r, src, snapshot.BackupOptions{}, kassett.Cut{})
	tree, err := snapshot.Folder(t.Context(), r, sn.Tree, src)
	must(t, err)
	back := filepath.Join(t.TempDir(), "back")
	target, err := files.NewTarget(back, files.TargetOptions{})
	must(t, err)
	_, err = snapshot.Restore(t.Context(), r, tree, target, snapshot.RestoreOptions{})
	must(t, errors.Join(err, target.Close()))

	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	got := facts(t, filepath.Join(at, "snapshots", "latest")+src)
	same(t, got, facts(t, back))
	same(t, got, want)
	w.quiet(t)
}

// TestReadOnly: nothing that a program can do to a mount changes it, and what is
// in it gets no rights on this machine.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r, blob{node: entry("file", kassett.File), data: [][]byte{[]byte("old")}})
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	file := filepath.Join(at, "snapshots", "latest", "file")
	for name, do := range map[string]func() error{
		"write":    func() error { return os.WriteFile(file, []byte("new"), 0o600) },
		"create":   func() error { return os.WriteFile(file+"2", nil, 0o600) },
		"mkdir":    func() error { return os.Mkdir(filepath.Join(at, "dir"), 0o700) },
		"remove":   func() error { return os.Remove(file) },
		"rename":   func() error { return os.Rename(file, file+"2") },
		"chmod":    func() error { return os.Chmod(file, 0o600) },
		"truncate": func() error { return os.Truncate(file, 0) },
		"xattr":    func() error { return unix.Lsetxattr(file, "user.x", nil, 0) },
		"link":     func() error { return os.Link(file, file+"2") },
		"symlink":  func() error { return os.Symlink("x", file+"2") },
	} {
		if err := do(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want %v", name, err, syscall.EROFS)
		}
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(at, &st))
	if want := int64(unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV); st.Flags&want != want {
		t.Errorf("mounted with the flags %#x, want %#x among them", st.Flags, want)
	}
	w.quiet(t)
}

// TestHostileTree: names that would lead out of a folder are not there, and a tree
// out of order shows each name once.
func TestHostileTree(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	file := func(name string) blob { return blob{node: entry(name, kassett.File), data: [][]byte{[]byte(name)}} }
	odd := entry("door", "door")
	lying := entry("lying", kassett.File) // says it is a folder
	lying.Mode = fs.ModeDir | 0o777
	lost := entry("lost", kassett.Dir)
	handmade(
		t, r, file("z"), file(".."), file("."), file("a/b"), file("/etc/passwd"), file(""), file("nul\x00"),
		file("a"), file("a"), blob{node: odd}, blob{node: lying, data: [][]byte{[]byte("x")}},
		blob{node: lost, under: []blob{file("..")}}, file(strings.Repeat("n", 1025)), file(strings.Repeat("m", 255)),
	)
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	names := func(dir string) []string {
		all, err := os.ReadDir(filepath.Join(at, "snapshots", "latest", dir))
		must(t, err)
		var names []string
		for _, d := range all {
			names = append(names, d.Name())
		}
		return names
	}
	if got, want := names(""), []string{"a", "lost", "lying", strings.Repeat("m", 255), "z"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	if got := names("lost"); len(got) > 0 {
		t.Errorf("names %q, want none", got)
	}
	st, err := os.Stat(filepath.Join(at, "snapshots", "latest", "lying"))
	must(t, err)
	if !st.Mode().IsRegular() {
		t.Errorf("a file that lies about its mode is %v", st.Mode())
	}
	if warned, errs, _ := w.look(); len(warned) != 3 {
		t.Errorf("warned of %q (%v), want of two folders, of one for its order too", warned, errs)
	}
}

// TestDamage: what needs a damaged blob is an error, which is named once; the rest
// of the file and all other files can be read.
func TestDamage(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, nil)
	const page = 64 << 10
	var pages [][]byte
	for i := range 64 {
		pages = append(pages, noise(uint64(i), page))
	}
	handmade(t, r,
		blob{node: entry("db", kassett.File), data: pages},
		blob{node: entry("other", kassett.File), data: [][]byte{[]byte("fine")}})
	const bad = 31
	loc, ok := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(pages[bad])})
	if !ok {
		t.Fatal("no blob")
	}
	pack := filepath.Join(dir, "data", loc.Pack.String()[:2], loc.Pack.String())
	flip(t, pack, int64(loc.Offset)+100)

	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	f, err := os.Open(filepath.Join(at, "snapshots", "latest", "db"))
	must(t, err)
	defer f.Close()
	buf := make([]byte, page)
	for range 2 {
		for i := range pages {
			_, err := f.ReadAt(buf, int64(i)*page)
			switch {
			case i == bad && !errors.Is(err, syscall.EIO):
				t.Errorf("the damaged page: %v, want %v", err, syscall.EIO)
			case i != bad && (err != nil || !bytes.Equal(buf, pages[i])):
				t.Errorf("page %d: %v", i, err)
			}
		}
	}
	if st, err := f.Stat(); err != nil || st.Size() != int64(len(pages)*page) {
		t.Errorf("after that its size is %v, %v", st.Size(), err)
	}
	if b, err := os.ReadFile(filepath.Join(at, "snapshots", "latest", "other")); err != nil || string(b) != "fine" {
		t.Errorf("the other file: %q, %v", b, err)
	}
	warned, errs, _ := w.look()
	if len(warned) != 1 || !strings.Contains(warned[0], ": /db") {
		t.Fatalf("warned of %q (%v), want once of db", warned, errs)
	}
	if kassett.KindOf(errs[0]) != kassett.Corrupt || !strings.Contains(errs[0].Error(), loc.ID.String()) || kassett.HintOf(errs[0]) == "" {
		t.Errorf("the warning is %v (%s)", errs[0], kassett.HintOf(errs[0]))
	}
}

// TestStorageAway: while the storage is away reading fails, which is said once,
// and when it is back all can be read again.
func TestStorageAway(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, nil)
	handmade(t, r, blob{node: entry("a", kassett.File), data: [][]byte{noise(1, 4096)}}, blob{node: entry("b", kassett.File), data: [][]byte{noise(2, 4096)}})
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	in := filepath.Join(at, "snapshots", "latest")
	if _, err := os.ReadDir(in); err != nil {
		t.Fatal(err)
	}
	must(t, os.Rename(dir, dir+".away"))
	for _, name := range []string{"a", "b"} {
		if _, err := os.ReadFile(filepath.Join(in, name)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s, with the storage away: %v, want %v", name, err, syscall.EIO)
		}
	}
	if _, err := os.ReadDir(filepath.Join(at, "snapshots")); err != nil {
		t.Errorf("the list of snapshots, with the storage away: %v", err)
	}
	warned, errs, _ := w.look()
	if len(warned) != 1 || kassett.KindOf(errs[0]) != kassett.Offline {
		t.Errorf("warned of %q: %v; want once of the storage", warned, errs)
	}
	must(t, os.Rename(dir+".away", dir))
	for i, name := range []string{"a", "b"} {
		if b, err := os.ReadFile(filepath.Join(in, name)); err != nil || !bytes.Equal(b, noise(uint64(i+1), 4096)) {
			t.Errorf("%s, with the storage back: %v", name, err)
		}
	}
	if _, _, noticed := w.look(); len(noticed) != 1 {
		t.Errorf("noticed %q, want that the storage is back", noticed)
	}
}

// TestNewSnapshots: snapshots that are made while the view is mounted appear, and
// those that are forgotten go.
func TestNewSnapshots(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	if names, err := os.ReadDir(filepath.Join(at, "ids")); err != nil || len(names) > 0 {
		t.Fatalf("an empty repository has %v, %v", names, err)
	}
	var last *snapshot.Snapshot
	for i := range 3 {
		src := t.TempDir()
		write(t, filepath.Join(src, "n"), []byte{byte(i)})
		last = backup(t, r, src, snapshot.BackupOptions{Time: day.Add(time.Duration(i) * time.Hour), Tags: []string{"night"}}, kassett.Cut{})
		for _, dir := range []string{"hosts/his/latest", "tags/night/latest", "ids/" + last.ID.Short(), "snapshots/latest"} {
			eventually(t, func() error {
				b, err := os.ReadFile(filepath.Join(at, dir, src, "n"))
				if err == nil && !bytes.Equal(b, []byte{byte(i)}) {
					err = fmt.Errorf("%s holds %v", dir, b)
				}
				return err
			})
		}
	}
	must(t, r.Delete(t.Context(), kassett.SnapshotFile, last.ID))
	eventually(t, func() error {
		to, err := os.Readlink(filepath.Join(at, "snapshots", "latest"))
		if want := day.Add(time.Hour).Local().Format(time.RFC3339); err == nil && !strings.HasPrefix(to, want[:13]) {
			err = fmt.Errorf("latest leads to %s, want %s", to, want)
		}
		return err
	})
	w.quiet(t)
}

// eventually tries until what the kernel remembers is no longer believed.
func eventually(t testing.TB, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestUnmounts: a mount in use says who uses it; one that somebody else ends has
// ended.
func TestUnmounts(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r, blob{node: entry("file", kassett.File), data: [][]byte{[]byte("x")}})
	var w told
	v := view(t, r, &w, mount.Options{})
	at, m := mounted(t, v, mount.FUSEOptions{})
	if err := mount.CheckMountpoint(at); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("mounting twice at one place: %v", err)
	}
	user := exec.CommandContext(t.Context(), "sleep", "600")
	user.Dir = filepath.Join(at, "snapshots")
	must(t, user.Start())
	err := m.Unmount()
	if kassett.KindOf(err) != kassett.Locked || !strings.Contains(fmt.Sprint(err), fmt.Sprintf("sleep (%d)", user.Process.Pid)) {
		t.Errorf("unmounting what is in use: %v", err)
	}
	must(t, user.Process.Kill())
	_ = user.Wait() // killed

	eventually(t, func() error { return unmountOutside(t, at) })
	select {
	case <-m.Done():
	case <-time.After(time.Minute):
		t.Fatal("a mount that was unmounted from outside goes on")
	}
	must(t, m.Unmount())
	w.quiet(t)
}

func unmountOutside(t testing.TB, at string) error {
	t.Helper()
	if os.Getuid() == 0 {
		return unix.Unmount(at, 0)
	}
	return exec.CommandContext(t.Context(), "fusermount3", "-u", at).Run()
}

// TestBadMountpoints says what is wrong with places that cannot be mounted at.
func TestBadMountpoints(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	write(t, filepath.Join(full, "file"), nil)
	for _, c := range []struct {
		name, at string
		want     kassett.Kind
	}{
		{"a folder that is not there", filepath.Join(full, "nowhere"), kassett.NotFound},
		{"a file", filepath.Join(full, "file"), kassett.Invalid},
		{"a folder with something in it", full, kassett.Invalid},
		{"where something is mounted", "/proc", kassett.Exists},
	} {
		err := mount.CheckMountpoint(c.at)
		if kassett.KindOf(err) != c.want || kassett.HintOf(err) == "" {
			t.Errorf("%s: %v, hint %q, want the kind %v", c.name, err, kassett.HintOf(err), c.want)
		}
	}
}

// TestRandomReads compares reads of all sizes at all places, side by side, and
// looks at what they cost: a page read at random fetches its blob, not its pack.
func TestRandomReads(t *testing.T) {
	t.Parallel()
	var trace *storagetest.Tracing
	r, _ := newRepo(t, func(st kassett.Storage) kassett.Storage {
		trace = storagetest.NewTracing(st)
		return trace
	})
	src := t.TempDir()
	const size, page = 24 << 20, 8 << 10
	want := noise(9, size)
	write(t, filepath.Join(src, "db"), want)
	backup(t, r, src, snapshot.BackupOptions{}, kassett.Cut{Kind: kassett.CutPage, Page: page})
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{BlobBytes: 8 << 20}), mount.FUSEOptions{})
	f, err := os.Open(filepath.Join(at, "snapshots", "latest", src, "db"))
	must(t, err)
	defer f.Close()
	must(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM))
	trace.Reset()
	const reads = 200
	buf := make([]byte, page)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range reads {
		off := rnd.Int64N(size/page) * page
		_, err := f.ReadAt(buf, off)
		if err != nil || !bytes.Equal(buf, want[off:off+page]) {
			t.Fatalf("read at %d: %v", off, err)
		}
	}
	var fetched int64
	for _, c := range trace.Calls(storagetest.Get) {
		fetched += c.Len
	}
	if most := int64(reads * (page + 4<<10)); fetched > most {
		t.Errorf("%d reads of %d bytes fetched %d bytes, want at most %d", reads, page, fetched, most)
	}

	var g sync.WaitGroup
	for i := range 4 {
		g.Go(func() {
			rnd := rand.New(rand.NewPCG(3, uint64(i)))
			for range 100 {
				off := rnd.Int64N(size)
				buf := make([]byte, rnd.IntN(1<<20))
				n, err := f.ReadAt(buf, off)
				if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(buf[:n], want[off:off+int64(n)]) || n < min(len(buf), int(size-off)) {
					t.Errorf("read %d bytes at %d: %d, %v", len(buf), off, n, err)
				}
			}
		})
	}
	g.Wait()
	got, err := os.ReadFile(f.Name())
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("all of it in order: %d bytes, %v", len(got), err)
	}
	w.quiet(t)
}

// TestManyEntries lists a folder of 10^5 files in full, with a cache that is too
// small for it.
func TestManyEntries(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	const many = 100_000
	nodes := make([]blob, 0, many)
	content := [][]byte{[]byte("record")}
	for i := range many {
		nodes = append(nodes, blob{node: entry(fmt.Sprintf("patient-%06d.dcm", i), kassett.File), data: content})
	}
	handmade(t, r, blob{node: entry("archive", kassett.Dir), under: nodes})
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{TreeBytes: 1 << 20}), mount.FUSEOptions{})
	dir := filepath.Join(at, "snapshots", "latest", "archive")
	start := time.Now()
	all, err := os.ReadDir(dir)
	must(t, err)
	for i, d := range all {
		info, err := d.Info()
		if err != nil || d.Name() != fmt.Sprintf("patient-%06d.dcm", i) || info.Size() != 6 {
			t.Fatalf("entry %d is %s, %v, %v", i, d.Name(), info, err)
		}
	}
	if len(all) != many {
		t.Errorf("%d entries, want %d", len(all), many)
	}
	t.Logf("listed in %v", time.Since(start).Round(time.Millisecond))
	w.quiet(t)
}

// TestSizes: a file whose size was noted wrongly can be read whole, and one that
// lost a blob keeps the rest in place.
func TestSizes(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	short := entry("short", kassett.File)
	short.Size = 3
	long := entry("long", kassett.File)
	long.Size = 100
	lost := entry("lost", kassett.File)
	lost.Size = 4 + 5 + 6
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	for _, s := range []string{"head", "tailed"} {
		_, err := w.Save(t.Context(), repo.DataBlob, []byte(s))
		must(t, err)
	}
	must(t, w.Flush(t.Context()))
	lost.Content = []kassett.ID{kassett.Hash([]byte("head")), kassett.Hash([]byte("never")), kassett.Hash([]byte("tailed"))}
	tree, err := lost.AppendJSON([]byte(`{"nodes":[`))
	must(t, err)
	w = r.NewWriter(t.Context(), repo.WriterOptions{})
	saved, err := w.Save(t.Context(), repo.TreeBlob, append(tree, "]}\n"...))
	must(t, err)
	must(t, w.Flush(t.Context()))
	sn := &snapshot.Snapshot{Time: day, Hostname: "lost", Paths: []string{"/"}, Tree: saved.ID}
	_, err = snapshot.Save(t.Context(), r, sn)
	must(t, err)
	handmade(t, r, blob{node: long, data: [][]byte{[]byte("content")}}, blob{node: short, data: [][]byte{[]byte("content")}})

	var said told
	at, _ := mounted(t, view(t, r, &said, mount.Options{}), mount.FUSEOptions{})
	for _, name := range []string{"short", "long"} {
		b, err := os.ReadFile(filepath.Join(at, "hosts", "his", "latest", name))
		if err != nil || string(b) != "content" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	f, err := os.Open(filepath.Join(at, "hosts", "lost", "latest", "lost"))
	must(t, err)
	defer f.Close()
	if warned, errs, _ := said.look(); len(warned) != 2 {
		t.Errorf("warned of %q: %v; want of both sizes", warned, errs)
	}
	if _, err := io.ReadAll(f); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading what is lost: %v, want %v", err, syscall.EIO)
	}
	if warned, errs, _ := said.look(); len(warned) != 3 {
		t.Errorf("warned of %q: %v; want of the lost blob too", warned, errs)
	}
}

// TestOwners: without --allow-other everybody is shown as they were; with
// OwnerRoot all is root's.
func TestOwners(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	n := entry("file", kassett.File)
	n.UID, n.GID = 1234, 4321
	handmade(t, r, blob{node: n, data: [][]byte{[]byte("x")}})
	var w told
	v := view(t, r, &w, mount.Options{})
	for _, root := range []bool{false, true} {
		at, _ := mounted(t, v, mount.FUSEOptions{OwnerRoot: root, UID: 77, GID: 78})
		for name, want := range map[string]uint32{"": 77, "snapshots": 77, "snapshots/latest/": 77, "snapshots/latest/file": 1234} {
			if root {
				want = 0
			}
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(at, name), &st))
			if st.Uid != want {
				t.Errorf("owner-root %v: %q is of user %d, want %d", root, name, st.Uid, want)
			}
		}
	}
	w.quiet(t)
}

// slowStorage holds every read of a pack until several are under way, or for a
// while.
type slowStorage struct {
	kassett.Storage
	mu        sync.Mutex
	now, most int
	enough    chan struct{}
}

const several = 3

func (s *slowStorage) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	if h.Kind == kassett.PackFile {
		s.mu.Lock()
		s.now++
		if s.most = max(s.most, s.now); s.now == several && s.enough != nil {
			close(s.enough)
			s.enough = nil
		}
		enough := s.enough
		s.mu.Unlock()
		if enough != nil {
			select {
			case <-enough:
			case <-time.After(time.Second):
			}
		}
		defer func() {
			s.mu.Lock()
			s.now--
			s.mu.Unlock()
		}()
	}
	return s.Storage.Get(ctx, h, off, n)
}

// TestReadsAhead: a file read in order has several requests under way, and what is
// under way when it is closed is given up.
func TestReadsAhead(t *testing.T) {
	t.Parallel()
	slow := &slowStorage{}
	r, _ := newRepo(t, func(st kassett.Storage) kassett.Storage {
		slow.Storage = st
		return slow
	})
	var parts [][]byte
	for i := range 24 {
		parts = append(parts, noise(uint64(i), 1<<20))
	}
	handmade(t, r, blob{node: entry("image", kassett.File), data: parts})
	var w told
	at, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	in := filepath.Join(at, "snapshots", "latest")
	if _, err := os.ReadDir(in); err != nil {
		t.Fatal(err)
	}
	slow.mu.Lock()
	slow.enough, slow.most = make(chan struct{}), 0
	slow.mu.Unlock()
	got, err := os.ReadFile(filepath.Join(in, "image"))
	if err != nil || !bytes.Equal(got, bytes.Join(parts, nil)) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	slow.mu.Lock()
	defer slow.mu.Unlock()
	if slow.most < several {
		t.Errorf("%d requests under way at the most, want %d", slow.most, several)
	}
	w.quiet(t)
}

// TestLockLost: when the lock is lost nothing is shown any more, for it may be
// removed at any time.
func TestLockLost(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r, blob{node: entry("file", kassett.File), data: [][]byte{[]byte("x")}})
	var w told
	ctx, lose := context.WithCancelCause(t.Context())
	v, err := mount.NewView(ctx, r, w.options(mount.Options{}))
	must(t, err)
	t.Cleanup(v.Close)
	at, _ := mounted(t, v, mount.FUSEOptions{})
	file := filepath.Join(at, "snapshots", "latest", "file")
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	lose(&kassett.Error{Op: "hold lock", Kind: kassett.Locked})
	if _, err := os.ReadFile(file); !errors.Is(err, syscall.EIO) {
		t.Errorf("reading without the lock: %v, want %v", err, syscall.EIO)
	}
	w.quiet(t)
}

// TestMovedBlob: without a lock, what is read may be moved to another pack at any
// time; it is found there.
func TestMovedBlob(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, nil)
	data := noise(5, 32<<10)
	handmade(t, r, blob{node: entry("file", kassett.File), data: [][]byte{data}})
	var w told
	v := view(t, r, &w, mount.Options{})
	at, _ := mounted(t, v, mount.FUSEOptions{})
	old, ok := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(data)})
	if !ok {
		t.Fatal("no blob")
	}
	st, err := local.Open(dir)
	must(t, err)
	other, err := repo.Open(t.Context(), st, []byte(password), repo.Options{})
	must(t, err)
	t.Cleanup(func() { must(t, other.Close()) })
	must(t, other.LoadIndex(t.Context(), nil))
	writer := other.NewWriter(t.Context(), repo.WriterOptions{})
	_, err = writer.SaveAgain(t.Context(), repo.DataBlob, data)
	must(t, errors.Join(err, writer.Flush(t.Context())))
	must(t, other.Delete(t.Context(), kassett.PackFile, old.Pack))

	v.AgeIndex()
	got, err := os.ReadFile(filepath.Join(at, "snapshots", "latest", "file"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("a file whose blob was moved: %d bytes, %v", len(got), err)
	}
	w.quiet(t)
}
