package snapshot_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

// genTree makes a random tree of real files below dir.
func genTree(t *rapid.T, dir string) {
	name := rapid.OneOf(
		rapid.StringMatching(`[a-c]{1,2}`),
		rapid.SampledFrom([]string{"ü", "北京", "a\xff", "\"q\\", "new\nline", "-rf", " ", "…"}),
	)
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	folders := []string{dir}
	var regular []string
	for i := range rapid.IntRange(1, 25).Draw(t, "entries") {
		path := filepath.Join(rapid.SampledFrom(folders).Draw(t, "in"), name.Draw(t, "name"))
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0, 1:
			check(os.Mkdir(path, 0o700))
			folders = append(folders, path)
		case 2:
			check(os.Symlink(rapid.SampledFrom([]string{"a", "../..", "/etc/passwd", badTarget}).Draw(t, "to"), path))
			continue
		case 3:
			check(syscall.Mkfifo(path, 0o600))
		case 4:
			if len(regular) == 0 {
				continue
			}
			check(os.Link(rapid.SampledFrom(regular).Draw(t, "link of"), path))
			continue
		default:
			genFile(t, path, uint64(i))
			regular = append(regular, path)
		}
		if rapid.IntRange(0, 4).Draw(t, "xattr?") == 0 && !slices.Contains(regular, path+"\x00") {
			// Fifos take none from users; then nothing is set.
			_ = unix.Lsetxattr(path, "user.k", rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "value"), 0)
		}
		mode := fs.FileMode(rapid.IntRange(0, 0o777).Draw(t, "mode"))
		if rapid.IntRange(0, 5).Draw(t, "setuid?") == 0 {
			mode |= fs.ModeSetuid | fs.ModeSticky
		}
		check(os.Chmod(path, mode|0o700))
		check(os.Chtimes(path, time.Time{}, time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(t, "seconds"), rapid.Int64Range(0, 999999999).Draw(t, "nanos"))))
	}
}

// genFile writes a file of data and holes.
func genFile(t *rapid.T, path string, seed uint64) {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	at := int64(0)
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		n := rapid.SampledFrom([]int{1, 4095, 70_000, 600_000, 2 << 20}).Draw(t, "bytes")
		if rapid.Bool().Draw(t, "hole") {
			at += int64(n)
		} else {
			if _, err := f.WriteAt(pseudoRandom(n, seed%3), at); err != nil {
				t.Fatal(err)
			}
			at += int64(n)
		}
	}
	if err := f.Truncate(at); err != nil {
		t.Fatal(err)
	}
}

// TestRoundTrip saves any tree and restores it with both programs, also over
// what another tree left.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t)
	scratch := t.TempDir()
	runs := 0
	checkSome(t, 20, func(rt *rapid.T) {
		runs++
		at := filepath.Join(scratch, fmt.Sprint(runs))
		src, ours := filepath.Join(at, "src"), filepath.Join(at, "ours")
		if err := os.MkdirAll(src, 0o700); err != nil {
			rt.Fatal(err)
		}
		genTree(rt, src)
		sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}, Level: snapshot.Full})
		tree, err := snapshot.Folder(t.Context(), r, sn.Tree, src)
		if err != nil {
			rt.Fatal(err)
		}
		over := filepath.Join(scratch, "over") // keeps what the runs before left
		for to, o := range map[string]snapshot.RestoreOptions{
			ours: {Verify: true},
			over: {Verify: true, Delete: true},
		} {
			if _, err := tryRestore(t.Context(), r, tree, to, o); err != nil {
				rt.Fatal(err)
			}
			sameTrees(rt, t, to, src)
			holes(rt, r, tree, to)
		}
		theirs := filepath.Join(at, "theirs")
		restic(t, dir, "restore", sn.ID.String(), "--target", theirs)
		sameTrees(rt, t, filepath.Join(theirs, src), src)
		if err := os.RemoveAll(at); err != nil {
			rt.Fatal(err)
		}
	})
}

// badTarget is the target of a symlink that Debian's restic does not restore, not
// knowing linktarget_raw.
const badTarget = "x\xffy"

func sameTrees(rt *rapid.T, t *testing.T, got, want string) {
	g, w := facts(t, got), facts(t, want)
	for _, name := range slices.Sorted(maps.Keys(w)) {
		if g[name] != w[name] && !strings.HasSuffix(w[name], " to "+badTarget) {
			rt.Errorf("%s: %q:\n got %s\nwant %s", got, name, g[name], w[name])
		}
		delete(g, name)
	}
	if len(g) > 0 {
		rt.Errorf("%s has too much: %v", got, g)
	}
}

// holes checks that no file takes more room than its data, give or take the
// pages at the ends of holes that are too short to be worth one.
func holes(rt *rapid.T, r *repo.Repository, tree kassett.ID, dir string) {
	err := snapshot.Walk(rt.Context(), r, tree, func(path string, n *snapshot.Node) error {
		if n.Type != kassett.File {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		const page = 4096
		data := int64(0)
		for chunk := range slices.Chunk(b, 4*page) {
			if slices.ContainsFunc(chunk, func(c byte) bool { return c != 0 }) {
				data += int64(len(chunk))
			}
		}
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join(dir, path), &st); err != nil {
			return err
		}
		if took := st.Blocks * 512; took > data+16*4*page {
			rt.Errorf("%q has %d bytes of data and takes %d", path, data, took)
		}
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
}
