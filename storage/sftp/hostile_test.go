package sftp_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	client "github.com/pkg/sftp"

	"kassett"
	"kassett/storage/sftp"
	"kassett/storage/sftp/sftptest"
	"kassett/storage/storagetest"
)

// appendOnly is the line of an sshd_config that the handbook gives for an
// account that can add and not take away: what is made can be read only, by its
// owner too, and nothing can be removed, renamed or given other permissions.
const appendOnly = "ForceCommand internal-sftp -u 0377 -P remove,rmdir,rename,posix-rename,setstat,fsetstat,lsetstat,symlink"

// accountFor returns a user whom permissions bind, and a folder of theirs.
func accountFor(t *testing.T, server *sftptest.Server) (name, folder string) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "repo")
	if os.Getuid() != 0 {
		return "", folder
	}
	const nobody = "nobody" // root may write what is read-only
	u, err := user.Lookup(nobody)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(folder, uid, gid); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{folder, server.Key} { // the folders of a test are its user's alone
		for dir := filepath.Dir(at); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // in a test
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(server.Key), "authorized_keys"), 0o644); err != nil { //nolint:gosec // public keys
		t.Fatal(err)
	}
	return nobody, folder
}

// TestAccountThatCannotTakeAway sets an account up as the handbook says, stores
// through it, and then does what a thief of its key would.
func TestAccountThatCannotTakeAway(t *testing.T) {
	t.Parallel()
	open, bound := sftptest.Start(t), sftptest.Start(t, appendOnly)
	name, folder := accountFor(t, open)
	accountFor(t, bound)
	n := native(open)
	n.Place.User = name
	made, err := sftp.Create(t.Context(), folder, sftp.Options{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	config := storagetest.Random(1, 100)
	if err := made.Put(t.Context(), kassett.Handle{Kind: kassett.ConfigFile}, kassett.BytesBody(config, kassett.Hash(config))); err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}

	n = native(bound)
	n.Place.User = name
	s, err := sftp.Open(t.Context(), folder, sftp.Options{Dial: n.Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := storagetest.Random(2, 100_000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	lock := kassett.Handle{Kind: kassett.LockFile, ID: kassett.Hash(config)}
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatalf("an honest Put: %v", err)
	}
	if err := s.Put(t.Context(), lock, kassett.BytesBody(config, lock.ID)); err != nil {
		t.Fatalf("an honest lock: %v", err)
	}
	for _, h := range []kassett.Handle{h, lock, {Kind: kassett.ConfigFile}} {
		if err := s.Delete(t.Context(), h); kassett.KindOf(err) != kassett.Denied {
			t.Errorf("Delete of %s: %v; want not allowed", h.Kind, err)
		}
	}

	session, err := n.Dial(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	thief, err := client.NewClientPipe(session, session)
	if err != nil {
		t.Fatal(err)
	}
	pack := filepath.Join(folder, "data", h.ID.String()[:2], h.ID.String())
	mine := filepath.Join(folder, "mine")
	for what, try := range map[string]func() error{
		"remove":        func() error { return thief.Remove(pack) },
		"remove folder": func() error { return thief.RemoveDirectory(filepath.Dir(pack)) },
		"rename":        func() error { return thief.Rename(pack, mine) },
		"rename folder": func() error { return thief.PosixRename(filepath.Join(folder, "data"), mine) },
		"truncate":      func() error { return thief.Truncate(pack, 0) },
		"chmod":         func() error { return thief.Chmod(pack, 0o600) },
		"chmod folder":  func() error { return thief.Chmod(folder, 0) },
		"chtimes":       func() error { return thief.Chtimes(pack, time.Unix(0, 0), time.Unix(0, 0)) },
		"symlink":       func() error { return thief.Symlink("/etc/passwd", mine) },
		"overwrite": func() error {
			_, err := thief.OpenFile(pack, os.O_WRONLY|os.O_TRUNC)
			return err
		},
		"append": func() error {
			_, err := thief.OpenFile(pack, os.O_WRONLY|os.O_APPEND)
			return err
		},
		"open to write": func() error {
			_, err := thief.OpenFile(pack, os.O_RDWR)
			return err
		},
		"link over": func() error { return thief.Link(filepath.Join(folder, "config"), pack) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s is allowed", what)
		}
	}
	if got, err := read(s.Get(t.Context(), h, 0, -1)); err != nil || !bytes.Equal(got, b) {
		t.Errorf("the pack is no longer what it was: %v", err)
	}
}

// TestResticIsASecondClient lets stock restic make a repository and back up
// through the same server, and reads what it stored; a file of ours is seen by
// restic.
func TestResticIsASecondClient(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1, and restic is not installed")
		}
		t.Fatalf("restic is not installed; make deps installs it: %v", err)
	}
	server := sftptest.Start(t)
	folder := filepath.Join(t.TempDir(), "repo")
	restic := func(args ...string) {
		t.Helper()
		words := append([]string{
			"-o", "sftp.command=ssh -F " + server.Config + " -p " + strconv.Itoa(server.Port) + " " + server.Host + " -s sftp",
			"-r", "sftp:" + server.Host + ":" + folder, "--no-cache",
		}, args...)
		cmd := exec.CommandContext(t.Context(), "restic", words...)
		cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=second")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("restic %v: %v\n%s", args, err, out)
		}
	}
	restic("init")
	restic("backup", server.Config)
	s, err := sftp.Open(t.Context(), folder, sftp.Options{Dial: native(server).Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, k := range []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile} {
		n := 0
		for in, err := range s.List(t.Context(), k) {
			if err != nil {
				t.Fatal(err)
			}
			b, err := read(s.Get(t.Context(), in.Handle, 0, -1))
			if err != nil || kassett.Hash(b) != in.ID || int64(len(b)) != in.Size {
				t.Errorf("%s: %d bytes, want %d; %v", in.Handle, len(b), in.Size, err)
			}
			n++
		}
		if n == 0 {
			t.Errorf("List(%s) gives nothing", k)
		}
	}
	b := storagetest.Random(3, 50)
	body := kassett.BytesBody(b, kassett.Hash(b))
	if err := s.PutBeside(t.Context(), "records/x", body); err != nil {
		t.Fatal(err)
	}
	restic("check", "--read-data")
	restic("forget", "--keep-last", "1", "--prune")
}

// TestSweep checks that what interrupted writes leave is found by its age, ours
// and restic's, and nothing else.
func TestSweep(t *testing.T) {
	t.Parallel()
	s := create(t, sftptest.Start(t))
	folder := s.Path()
	id := kassett.Hash([]byte("x")).String()
	leftovers := []string{"data/" + id[:2] + "/" + id + "-tmp-1", "index/" + id + "-restic-temp-ab", "config-tmp-9", "kassett/a-tmp-1", "locks/" + id}
	others := []string{"data/" + id[:2] + "/" + id, "index/strange-tmp-1", "kassett/a", "config"}
	old := time.Now().Add(-48 * time.Hour)
	for _, name := range append(leftovers, others...) {
		p := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := s.Sweep(t.Context(), old.Add(-time.Hour)); n != 0 || err != nil {
		t.Errorf("Sweep of what is older = %d, %v", n, err)
	}
	if n, err := s.Sweep(t.Context(), old.Add(time.Hour)); n != len(leftovers) || err != nil {
		t.Errorf("Sweep = %d, %v; want %d", n, err, len(leftovers))
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(folder, name)); err != nil {
			t.Errorf("%s is gone", name)
		}
	}
}

// TestModes checks restic's rule of who may read what.
func TestModes(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	s := create(t, server)
	b := storagetest.Random(1, 10)
	h := kassett.Handle{Kind: kassett.SnapshotFile, ID: kassett.Hash(b)}
	config := kassett.Handle{Kind: kassett.ConfigFile}
	mode := func(name string) os.FileMode {
		fi, err := os.Stat(filepath.Join(s.Path(), name))
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	for _, h := range []kassett.Handle{h, config} {
		if err := s.Put(t.Context(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
			t.Fatal(err)
		}
	}
	if mode("config") != 0o400 || mode("data/00") != 0o700 || mode(h.String()) != 0o400 {
		t.Errorf("alone: config %o, folder %o, file %o", mode("config"), mode("data/00"), mode(h.String()))
	}
	if err := os.Chmod(filepath.Join(s.Path(), "config"), 0o440); err != nil {
		t.Fatal(err)
	}
	group, err := sftp.Open(context.WithoutCancel(t.Context()), s.Path(), sftp.Options{Dial: native(server).Dial})
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	if err := group.Delete(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if err := group.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	if mode(h.String()) != 0o440 {
		t.Errorf("with a group: file %o", mode(h.String()))
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]sftp.Place{
		"user@host:/srv/x":            {User: "user", Host: "host", Path: "/srv/x"},
		"host:x/y/":                   {Host: "host", Path: "x/y"},
		"a@b@host:/x":                 {User: "a@b", Host: "host", Path: "/x"},
		"//user@host/x":               {User: "user", Host: "host", Path: "x"},
		"//user@host:2222//srv/x":     {User: "user", Host: "host", Port: 2222, Path: "/srv/x"},
		"//[2001:db8::1]:2222//srv/x": {Host: "2001:db8::1", Port: 2222, Path: "/srv/x"},
		"u@[2001:db8::1]:/srv":        {User: "u", Host: "2001:db8::1", Path: "/srv"},
	} {
		got, err := sftp.ParsePlace(text)
		if err != nil || got != want {
			t.Errorf("ParsePlace(%q) = %+v, %v", text, got, err)
		}
		if again, err := sftp.ParsePlace(got.String()); err != nil || again != want {
			t.Errorf("ParsePlace(%q) = %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "host", "host:", ":x", "user@:x", "//host", "//host:0/x", "//host:99999/x", "//u:secret@host/x", "-oProxyCommand=x:y", "h:~/x", "-x@h:y", "//%zz/x"} {
		if p, err := sftp.ParsePlace(text); kassett.KindOf(err) != kassett.Invalid || bytes.Contains([]byte(err.Error()), []byte("secret")) {
			t.Errorf("ParsePlace(%q) = %+v, %v", text, p, err)
		}
	}
}
