package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kassett"
	"kassett/storage/storagetest"
)

// forgetful is a disk that remembers in which order it was changed, so that a
// test can ask what is left of it when the power is cut after any step. It
// promises only what POSIX does: a file's content is durable after the file was
// flushed, a change of names after the folder was; everything else may be lost
// or kept in any combination, and content that was not flushed may be anything.
type forgetful struct {
	root string
	log  []step
	fail func(step) error // when set, asked before each step
}

type step struct {
	op        string // create write flush rename mkdir flushdir remove, or returned
	path, to  string // below root
	data      []byte // of a write
	mustExist bool   // of returned: path is promised to be there, or not to be
}

func (f *forgetful) note(s step) error {
	for _, p := range []*string{&s.path, &s.to} {
		if *p != "" {
			*p, _ = filepath.Rel(f.root, *p)
		}
	}
	if f.fail != nil {
		if err := f.fail(s); err != nil {
			return err
		}
	}
	f.log = append(f.log, s)
	return nil
}

func (f *forgetful) CreateTemp(dir, prefix string) (tempFile, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, prefix+fmt.Sprint(len(f.log)))
	if err := f.note(step{op: "create", path: name}); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &forgetfulFile{diskFile{file}, f}, nil
}

func (f *forgetful) Publish(temp, name string) error {
	if err := f.note(step{op: "rename", path: temp, to: name}); err != nil {
		return err
	}
	return disk{}.Publish(temp, name)
}

func (f *forgetful) Mkdir(name string, perm fs.FileMode) error {
	err := disk{}.Mkdir(name, perm)
	if err == nil {
		err = f.note(step{op: "mkdir", path: name})
	}
	return err
}

func (f *forgetful) SyncDir(dir string) error { return f.note(step{op: "flushdir", path: dir}) }

func (f *forgetful) Remove(name string) error {
	if _, err := os.Lstat(name); err != nil {
		return err
	}
	if err := f.note(step{op: "remove", path: name}); err != nil {
		return err
	}
	return disk{}.Remove(name)
}

type forgetfulFile struct {
	diskFile
	on *forgetful
}

func (f *forgetfulFile) Write(p []byte) (int, error) {
	if err := f.on.note(step{op: "write", path: f.Name(), data: slices.Clone(p)}); err != nil {
		half, _ := f.diskFile.Write(p[:len(p)/2])
		return half, err
	}
	return f.diskFile.Write(p)
}

func (f *forgetfulFile) Seal(mode fs.FileMode) error {
	if err := f.on.note(step{op: "flush", path: f.Name()}); err != nil {
		return err
	}
	return f.diskFile.Seal(mode)
}

// inode is a file of the model.
type inode struct {
	content []byte
	flushed bool
	dir     bool
}

// after returns what a disk holds that was cut off after these steps. Where
// more than one outcome is possible, r chooses.
func after(steps []step, r *rand.Rand) map[string]*inode {
	names := map[string]*inode{"config": {content: []byte("c"), flushed: true}}
	durable := map[string]*inode{} // the names as they surely are
	maps.Copy(durable, names)
	pending := map[string]func(map[string]*inode){} // by name of the change, not flushed yet
	order := []string{}
	change := func(i int, dir string, apply func(map[string]*inode)) {
		apply(names)
		key := fmt.Sprintf("%s\x00%d", dir, i)
		pending[key], order = apply, append(order, key)
	}
	for i, s := range steps {
		dir := filepath.Dir(s.path)
		switch s.op {
		case "create":
			file := &inode{}
			change(i, dir, func(m map[string]*inode) { m[s.path] = file })
		case "mkdir":
			file := &inode{dir: true}
			change(i, dir, func(m map[string]*inode) { m[s.path] = file })
		case "write":
			file := names[s.path]
			file.content, file.flushed = append(file.content, s.data...), false
		case "flush":
			names[s.path].flushed = true
		case "rename":
			file := names[s.path]
			change(i, dir, func(m map[string]*inode) { delete(m, s.path); m[s.to] = file })
		case "remove":
			change(i, dir, func(m map[string]*inode) { delete(m, s.path) })
		case "flushdir":
			order = slices.DeleteFunc(order, func(key string) bool {
				if !strings.HasPrefix(key, s.path+"\x00") {
					return false
				}
				pending[key](durable)
				return true
			})
		}
	}
	for _, key := range order {
		if r.IntN(2) == 0 {
			pending[key](durable)
		}
	}
	for _, file := range durable {
		if file.flushed || file.dir {
			continue
		}
		switch n := len(file.content); r.IntN(4) {
		case 0:
			file.content = nil
		case 1:
			file.content = file.content[:n/2]
		case 2:
			file.content = make([]byte, n)
		}
	}
	return durable
}

// build makes a folder that holds what the model says. Files whose folder was
// lost are lost with it.
func build(t *testing.T, files map[string]*inode) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(root, name)
		if !strings.HasPrefix(name, besideName) { // folders of the layout are durable
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		var err error
		if files[name].dir {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, files[name].content, 0o600)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return root
}

// onForgetful returns a repository's folder on a forgetful disk, whose folders
// and config are durable.
func onForgetful(t *testing.T) (*Storage, *forgetful) {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Path(), "config"), []byte("c"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := &forgetful{root: s.Path()}
	s.fs = disk
	return s, disk
}

func body(b []byte) kassett.Body { return kassett.BytesBody(b, kassett.Hash(b)) }

// TestPowerCut cuts the power after every single step of a sequence of puts
// and deletes, and looks at several of the states that may be found then: a
// visible name holds all its bytes, and what a call that returned has promised
// is so.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, disk := onForgetful(t)
	for i, k := range []kassett.FileKind{kassett.KeyFile, kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile} {
		b := storagetest.Random(uint64(i), 5000)
		h := kassett.Handle{Kind: k, ID: kassett.Hash(b)}
		if err := s.Put(ctx, h, body(b)); err != nil {
			t.Fatal(err)
		}
		_ = disk.note(step{op: "returned", path: s.file(h), mustExist: true})
		if k == kassett.KeyFile || k == kassett.IndexFile {
			if err := s.Delete(ctx, h); err != nil {
				t.Fatal(err)
			}
			_ = disk.note(step{op: "returned", path: s.file(h)})
		}
	}
	b := []byte("a record")
	if err := s.PutBeside(ctx, "records/deep/1", body(b)); err != nil {
		t.Fatal(err)
	}
	_ = disk.note(step{op: "returned", path: s.beside("records/deep/1"), mustExist: true})

	for cut := range len(disk.log) + 1 {
		steps := disk.log[:cut]
		for variant := range uint64(6) {
			files := after(steps, rand.New(rand.NewPCG(uint64(cut), variant)))
			lookAround(t, steps, build(t, files))
		}
		if t.Failed() {
			for _, s := range steps {
				t.Log(s.op, s.path, s.to)
			}
			return
		}
	}
}

// lookAround checks what a repository's folder shows after a power cut.
func lookAround(t *testing.T, steps []step, root string) {
	t.Helper()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kindFolders {
		for in, err := range s.List(t.Context(), k) {
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(s.file(in.Handle))
			if err != nil || kassett.Hash(b) != in.ID {
				t.Errorf("after %d steps: %s is visible and not whole: %d bytes, %v", len(steps), in.Handle, len(b), err)
			}
		}
	}
	promised := map[string]bool{}
	for _, s := range steps {
		switch s.op {
		case "returned":
			promised[s.path] = s.mustExist
		case "remove":
			delete(promised, s.path) // under way
		}
	}
	for path, want := range promised {
		_, err := os.Stat(filepath.Join(root, path))
		if (err == nil) != want {
			t.Errorf("after %d steps: %s is there: %v, promised: %v", len(steps), path, err == nil, want)
		}
	}
}

// TestEveryStepFails fails each step of a put in turn, as a full, a broken and
// a read-only disk do: the error says so, no name is visible, no temporary file
// stays, and the same put succeeds later.
func TestEveryStepFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		kind kassett.Kind
	}{
		{syscall.ENOSPC, kassett.Full},
		{syscall.EIO, kassett.Corrupt},
		{syscall.EROFS, kassett.Denied},
		{syscall.EACCES, kassett.Denied},
	} {
		for n := 1; ; n++ {
			s, disk := onForgetful(t)
			count := 0
			disk.fail = func(st step) error {
				if count++; count != n || st.op == "remove" {
					return nil
				}
				return &fs.PathError{Op: st.op, Path: st.path, Err: c.err}
			}
			b := storagetest.Random(1, 5000)
			h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
			errPut := s.Put(t.Context(), h, body(b))
			count = n
			errBeside := s.PutBeside(t.Context(), "a/b/c", body(b))
			if errBeside != nil {
				t.Fatal(errBeside)
			}
			if errPut == nil {
				break // n is beyond the last step
			}
			if kassett.KindOf(errPut) != c.kind || kassett.HintOf(errPut) == "" {
				t.Errorf("step %d, %v: %v, kind %q, hint %q", n, c.err, errPut, kassett.KindOf(errPut), kassett.HintOf(errPut))
			}
			if left, _ := filepath.Glob(filepath.Join(s.Path(), "data", h.ID.String()[:2], "*")); len(left) != 0 {
				t.Errorf("step %d, %v: left %v", n, c.err, left)
			}
			if err := s.Put(t.Context(), h, body(b)); err != nil {
				t.Errorf("step %d, %v: put again: %v", n, c.err, err)
			}
		}
	}
}

// TestPutKeepsAGivenName races a stranger who stores the same name between the
// first look and the rename.
func TestPutKeepsAGivenName(t *testing.T) {
	t.Parallel()
	s, disk := onForgetful(t)
	b := storagetest.Random(1, 5000)
	h := kassett.Handle{Kind: kassett.SnapshotFile, ID: kassett.Hash(b)}
	disk.fail = func(st step) error {
		if st.op == "flush" {
			return os.WriteFile(s.file(h), []byte("the other's"), 0o600)
		}
		return nil
	}
	if err := s.Put(context.Background(), h, body(b)); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("Put = %v; want Exists", err)
	}
	r, err := s.Get(t.Context(), h, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "the other's" {
		t.Errorf("the other's file is now %q, %v", got, err)
	}
}

// TestRenameWithoutHelp takes the roads of file systems that cannot refuse to
// replace by themselves.
func TestRenameWithoutHelp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	temp, name := filepath.Join(dir, "temp"), filepath.Join(dir, "name")
	for _, f := range []string{temp, name} {
		if err := os.WriteFile(f, []byte(f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := renameChecked(temp, name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("rename over a file: %v", err)
	}
	if b, _ := os.ReadFile(name); string(b) != name {
		t.Errorf("the file is now %q", b)
	}
	if err := renameChecked(temp, name+"2"); err != nil {
		t.Error(err)
	}
	if b, _ := os.ReadFile(name + "2"); string(b) != temp {
		t.Errorf("the renamed file is %q", b)
	}
}
