package files_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/windows"

	"kassett"
	"kassett/source/files"
)

// fact is what of one file a round trip must keep.
type fact struct {
	Mode             fs.FileMode
	Mtime            time.Time
	Created          syscall.Filetime
	Attributes       uint32
	Content          string
	Descriptor       string
	Target           string
	DescriptorFailed bool
}

const kept = windows.FILE_ATTRIBUTE_READONLY | windows.FILE_ATTRIBUTE_HIDDEN | windows.FILE_ATTRIBUTE_SYSTEM | windows.FILE_ATTRIBUTE_ARCHIVE | windows.FILE_ATTRIBUTE_DIRECTORY

func facts(t testing.TB, root string) map[string]fact {
	t.Helper()
	all := map[string]fact{}
	must(t, filepath.WalkDir(`\\?\`+root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.Name() == filepath.Base(root) {
			return err
		}
		sys, _ := info.Sys().(*syscall.Win32FileAttributeData)
		name, _ := filepath.Rel(`\\?\`+root, path)
		f := fact{Mode: info.Mode(), Mtime: info.ModTime(), Created: sys.CreationTime, Attributes: sys.FileAttributes & kept}
		if info.Mode().IsRegular() {
			f.Content = content(t, path)
		}
		sd, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
		if f.DescriptorFailed = err != nil; err == nil {
			f.Descriptor = sd.String()
		}
		all[name] = f
		return nil
	}))
	return all
}

func setAttributes(t testing.TB, path string, attributes uint32) {
	t.Helper()
	text, err := windows.UTF16PtrFromString(path)
	must(t, err)
	must(t, windows.SetFileAttributes(text, attributes))
}

func TestRoundTripOnWindows(t *testing.T) {
	t.Parallel()
	src, dst := tempDir(t), tempDir(t)
	deep := filepath.Join(append([]string{src}, strings.Split(strings.Repeat("folder ", 40), " ")...)...)
	must(t, os.MkdirAll(`\\?\`+deep, 0o755))
	for name, text := range map[string]string{
		"file": "text", "empty": "", "患者 ☃": "u", "read only": "r", "hidden": "h", "big": strings.Repeat("0123456789", 100_000),
	} {
		write(t, filepath.Join(src, name), text)
	}
	write(t, `\\?\`+filepath.Join(deep, "bottom"), "deep")
	setAttributes(t, filepath.Join(src, "read only"), windows.FILE_ATTRIBUTE_READONLY)
	setAttributes(t, filepath.Join(src, "hidden"), windows.FILE_ATTRIBUTE_HIDDEN|windows.FILE_ATTRIBUTE_ARCHIVE)
	must(t, os.Chtimes(filepath.Join(src, "file"), time.Unix(1e9, 0), time.Unix(1.1e9, 100)))
	t.Cleanup(func() {
		for _, dir := range []string{src, dst} {
			_ = os.Chmod(filepath.Join(dir, "read only"), 0o666)
		}
	})
	s := newSource(t, files.Options{Paths: []string{src}})
	tg := newTarget(t, dst, files.TargetOptions{})
	restoreTree(t, s, tg, snapshotPath(src))
	if diff := cmp.Diff(facts(t, src), facts(t, dst)); diff != "" {
		t.Error(diff)
	}
	restoreTree(t, s, tg, snapshotPath(src)) // over what is there, read-only too
	if diff := cmp.Diff(facts(t, src), facts(t, dst)); diff != "" {
		t.Errorf("restored again: %s", diff)
	}
	for name := range facts(t, dst) {
		if !strings.Contains(name, `\`) {
			must(t, tg.Remove(t.Context(), name))
		}
	}
	if names, err := tg.Names(t.Context(), ""); len(names) != 0 || err != nil {
		t.Errorf("left: %q, error %v", names, err)
	}
}

func TestReservedNames(t *testing.T) {
	t.Parallel()
	dir, dst := tempDir(t), tempDir(t)
	tg := newTarget(t, dir, files.TargetOptions{})
	want := []string{"NUL", "com1.txt", "ends with a dot.", "ends with a space "}
	for _, name := range want {
		must(t, restoreFile(t.Context(), tg, name, "in "+name))
	}
	s := newSource(t, files.Options{Paths: []string{dir}})
	back := newTarget(t, dst, files.TargetOptions{})
	restoreTree(t, s, back, snapshotPath(dir))
	for _, name := range want {
		f, err := back.Read(t.Context(), name)
		must(t, err)
		got := make([]byte, len("in "+name))
		_, err = f.ReadAt(got, 0)
		must(t, errors.Join(err, f.Close()))
		if string(got) != "in "+name {
			t.Errorf("%s holds %q", name, got)
		}
		must(t, errors.Join(tg.Remove(t.Context(), name), back.Remove(t.Context(), name)))
	}
	for _, name := range []string{"a:b", `a\b`, "a?", "x/../y", "", "..", "a\xff"} {
		if err := restoreFile(t.Context(), tg, name, "evil"); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("%q: error %v", name, err)
		}
	}
}

func TestLockedFile(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, filepath.Join(dir, "f"), "text")
	text, err := windows.UTF16PtrFromString(filepath.Join(dir, "f"))
	must(t, err)
	h, err := windows.CreateFile(text, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING, 0, 0)
	must(t, err)
	defer windows.CloseHandle(h)
	s := newSource(t, files.Options{Paths: []string{dir}})
	list, err := s.List(t.Context(), snapshotPath(dir))
	must(t, err)
	_, err = s.Open(t.Context(), snapshotPath(dir)+"/f", &list[0])
	if kassett.KindOf(err) != kassett.Locked || kassett.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
}

// TestFillOnWindows checks the shapes of what restic keeps for Windows.
func TestFillOnWindows(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	write(t, filepath.Join(dir, "f"), "text")
	s := newSource(t, files.Options{Paths: []string{dir}})
	list, err := s.List(t.Context(), snapshotPath(dir))
	must(t, err)
	must(t, s.Fill(t.Context(), snapshotPath(dir)+"/f", &list[0]))
	var created syscall.Filetime
	must(t, json.Unmarshal(list[0].Generic["windows.creation_time"], &created))
	if d := time.Since(time.Unix(0, created.Nanoseconds())); d < -time.Minute || d > time.Hour {
		t.Errorf("created %v ago", d)
	}
	var descriptor []byte
	must(t, json.Unmarshal(list[0].Generic["windows.security_descriptor"], &descriptor))
	if len(descriptor) < 20 || !bytes.Equal(descriptor[:1], []byte{1}) {
		t.Errorf("descriptor %x", descriptor)
	}
}

func TestNamedStreamIsNamed(t *testing.T) {
	t.Parallel()
	if os.Getenv("WINE") != "" {
		t.Log("wine has no streams: unproved, as docs/handbook/what-survives.md says")
		return
	}
	dir := tempDir(t)
	write(t, filepath.Join(dir, "f"), "text")
	must(t, os.WriteFile(filepath.Join(dir, "f:hidden"), []byte("stream"), 0o644))
	s := newSource(t, files.Options{Paths: []string{dir}})
	list, err := s.List(t.Context(), snapshotPath(dir))
	must(t, err)
	err = s.Fill(t.Context(), snapshotPath(dir)+"/f", &list[0])
	if err == nil || !strings.Contains(err.Error(), ":hidden") || list[0].Generic == nil {
		t.Errorf("error %v, attributes %v; want the stream named and the rest filled", err, list[0].Generic)
	}
}

func TestLinksOnWindows(t *testing.T) {
	t.Parallel()
	src, dst := tempDir(t), tempDir(t)
	must(t, os.Mkdir(filepath.Join(src, "folder"), 0o755))
	write(t, filepath.Join(src, "folder", "f"), "text")
	if os.Getenv("WINE") != "" {
		t.Log("wine 8 makes no links: unproved, as docs/handbook/what-survives.md says")
		return
	}
	must(t, os.Symlink("folder", filepath.Join(src, "to folder")))
	must(t, os.Symlink(`folder\f`, filepath.Join(src, "to file")))
	s := newSource(t, files.Options{Paths: []string{src}})
	tg := newTarget(t, dst, files.TargetOptions{})
	restoreTree(t, s, tg, snapshotPath(src))
	for name, want := range map[string]string{"to folder": "folder", "to file": `folder\f`} {
		if got, err := os.Readlink(filepath.Join(dst, name)); got != want || err != nil {
			t.Errorf("%s leads to %q, error %v", name, got, err)
		}
	}
	if got := content(t, filepath.Join(dst, "to folder", "f")); got != "text" {
		t.Errorf("through the link: %q", got)
	}
	if err := restoreFile(t.Context(), tg, "to folder/evil", "x"); err == nil {
		t.Error("wrote through a link")
	}
}
