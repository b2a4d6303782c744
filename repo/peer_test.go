package repo_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/storage/local"
)

// resticCommand prepares the real one, with a password of its own.
func resticCommand(t testing.TB, dir, pass string, args ...string) *exec.Cmd {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and restic is not installed")
		}
		t.Fatal("restic is not installed; set SHORT=1 to skip")
	}
	cmd := exec.CommandContext(t.Context(), "restic", append([]string{"-r", dir, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+pass)
	return cmd
}

// resticExit runs the real one and returns what it said and its exit code.
func resticExit(t testing.TB, dir, pass string, args ...string) (string, int) {
	t.Helper()
	cmd := resticCommand(t, dir, pass, args...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func mustRestic(t testing.TB, dir, pass string, args ...string) string {
	t.Helper()
	out, code := resticExit(t, dir, pass, args...)
	if code != 0 {
		t.Fatalf("restic %v: exit %d\n%s", args, code, out)
	}
	return out
}

func passwordFile(t testing.TB, pass string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(name, []byte(pass+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func openLocal(t testing.TB, dir, pass string) (*repo.Repository, error) {
	t.Helper()
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), st, []byte(pass), repo.Options{KeyCost: quick})
	if err == nil {
		closeAfter(t, r)
	}
	return r, err
}

func mustOpen(t testing.TB, dir, pass string) *repo.Repository {
	t.Helper()
	r, err := openLocal(t, dir, pass)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sameConfig compares what we read with what restic reads.
func sameConfig(t testing.TB, r *repo.Repository, dir, pass string) {
	t.Helper()
	out := mustRestic(t, dir, pass, "cat", "config")
	var theirs repo.Config
	if err := json.Unmarshal([]byte(out), &theirs); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Config() != theirs {
		t.Errorf("our config %+v, theirs %+v", r.Config(), theirs)
	}
}

func TestOpenWhatResticMade(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1", "2"} {
		t.Run("version "+version, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "repo")
			mustRestic(t, dir, password, "init", "--repository-version", version)
			mustRestic(t, dir, password, "key", "add", "--new-password-file", passwordFile(t, "второй ключ"), "--user", "astrid", "--host", "ward3")
			mustRestic(t, dir, password, "backup", "-q", "--tag", "a", "key_test.go")
			for _, pass := range []string{password, "второй ключ"} {
				sameConfig(t, mustOpen(t, dir, pass), dir, pass)
			}
			_, err := openLocal(t, dir, "wrong")
			wantKind(t, err, kassett.WrongPassword)

			r := mustOpen(t, dir, password)
			keys, err := r.Keys(t.Context())
			if err != nil || len(keys) != 2 || keys[1].User != "astrid" || keys[1].Host != "ward3" || keys[0].Current == keys[1].Current {
				t.Errorf("keys: %+v, %v", keys, err)
			}
			for _, k := range []kassett.FileKind{kassett.IndexFile, kassett.SnapshotFile} {
				n := 0
				for info, err := range r.List(t.Context(), k) {
					if err != nil {
						t.Fatal(err)
					}
					n++
					if b, err := r.LoadUnpacked(t.Context(), k, info.ID); err != nil || !json.Valid(b) {
						t.Errorf("%s: %q, %v", info.Handle, b, err)
					}
				}
				if n != 1 {
					t.Errorf("%d files in %s, want 1", n, k)
				}
			}
		})
	}
}

func TestResticOpensWhatWeMade(t *testing.T) {
	t.Parallel()
	for _, version := range []uint{1, 2} {
		r, dir := newRepo(t, repo.InitOptions{Version: version})
		sameConfig(t, r, dir, password)
		if _, err := r.AddKey(t.Context(), []byte("second"), "astrid", "ward3"); err != nil {
			t.Fatal(err)
		}
		out := mustRestic(t, dir, "second", "key", "list")
		if !strings.Contains(out, "astrid") || !strings.Contains(out, "*"+keyOf(t, dir, "second").String()[:8]) {
			t.Errorf("key list says\n%s", out)
		}
		l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		locks, err := r.Locks(t.Context())
		if err != nil || len(locks) != 1 {
			t.Fatalf("locks: %v, %v", locks, err)
		}
		if out := mustRestic(t, dir, password, "list", "locks", "--no-lock"); !strings.Contains(out, locks[0].ID.String()) {
			t.Errorf("list locks says\n%s", out)
		}
		if out := mustRestic(t, dir, password, "cat", "lock", locks[0].ID.String()); !strings.Contains(out, `"exclusive": false`) {
			t.Errorf("cat lock says\n%s", out)
		}
		mustUnlock(t, l)
	}
}

func keyOf(t testing.TB, dir, pass string) kassett.ID {
	t.Helper()
	return mustOpen(t, dir, pass).KeyID()
}

func TestKeysBothWays(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{})
	// They add, change and remove; we open.
	mustRestic(t, dir, password, "key", "add", "--new-password-file", passwordFile(t, "theirs"))
	theirs := keyOf(t, dir, "theirs")
	mustRestic(t, dir, "theirs", "key", "passwd", "--new-password-file", passwordFile(t, "theirs 2"))
	if _, err := openLocal(t, dir, "theirs"); kassett.KindOf(err) != kassett.WrongPassword {
		t.Errorf("their old password: %v", err)
	}
	if keyOf(t, dir, "theirs 2") == theirs {
		t.Error("their key has the old ID")
	}
	mustRestic(t, dir, password, "key", "remove", keyOf(t, dir, "theirs 2").String())
	if _, err := openLocal(t, dir, "theirs 2"); kassett.KindOf(err) != kassett.WrongPassword {
		t.Errorf("their removed password: %v", err)
	}
	// We do; they open.
	ours, err := r.AddKey(t.Context(), []byte("ours"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mustOpen(t, dir, "ours").ChangePassword(t.Context(), []byte("ours 2")); err != nil {
		t.Fatal(err)
	}
	if out, code := resticExit(t, dir, "ours", "cat", "config"); code == 0 {
		t.Errorf("our old password opens: %s", out)
	}
	mustRestic(t, dir, "ours 2", "cat", "config")
	if id := keyOf(t, dir, "ours 2"); id == ours {
		t.Error("our key has the old ID")
	} else if err := r.RemoveKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if out, code := resticExit(t, dir, "ours 2", "cat", "config"); code == 0 {
		t.Errorf("our removed password opens: %s", out)
	}
}

func TestResticRespectsOurLocks(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{})
	l, held, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustRestic(t, dir, password, "backup", "-q", "key_test.go")
	if out, code := resticExit(t, dir, password, "prune"); code == 0 || !strings.Contains(out, "already locked") {
		t.Errorf("prune under our shared lock: exit %d\n%s", code, out)
	}
	// It asks by SIGHUP whether we live. We do, and go on.
	mustRestic(t, dir, password, "unlock")
	if locks, err := r.Locks(t.Context()); err != nil || len(locks) != 1 || held.Err() != nil {
		t.Errorf("after unlock: %v, %v, %v", locks, err, held.Err())
	}
	mustUnlock(t, l)

	if l, _, err = r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{}); err != nil {
		t.Fatal(err)
	}
	if out, code := resticExit(t, dir, password, "backup", "-q", "key_test.go"); code == 0 || !strings.Contains(out, "already locked exclusively") {
		t.Errorf("backup under our exclusive lock: exit %d\n%s", code, out)
	}
	mustUnlock(t, l)
	mustRestic(t, dir, password, "prune", "-q")

	stale := putLock(t, r, map[string]any{"hostname": hostname(t), "pid": deadPID(t), "exclusive": true})
	mustRestic(t, dir, password, "unlock")
	if locks, err := r.Locks(t.Context()); err != nil || len(locks) != 0 {
		t.Errorf("our stale lock %s is still there: %v, %v", stale.Short(), locks, err)
	}
}

// waitForLock waits until restic holds a lock, and returns it.
func waitForLock(t testing.TB, r *repo.Repository) repo.LockInfo {
	t.Helper()
	for range 400 {
		locks, err := r.Locks(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(locks) > 0 {
			return locks[0]
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("restic takes no lock")
	return repo.LockInfo{}
}

func TestWeRespectResticsLocks(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{})
	// A backup that reads from us holds its lock for as long as we like.
	cmd := resticCommand(t, dir, password, "backup", "-q", "--stdin")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	info := waitForLock(t, r)
	if info.PID != cmd.Process.Pid || info.Exclusive || info.Stale || info.Host != hostname(t) {
		t.Errorf("their lock is %+v", info)
	}
	_, _, err = r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
	wantKind(t, err, kassett.Locked, info.ID.Short())
	l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if n, err := r.RemoveLocks(t.Context(), false); n != 0 || err != nil {
		t.Errorf("removed %d living locks, %v", n, err)
	}
	if _, err := io.WriteString(stdin, "a patient's letter"); err != nil {
		t.Fatal(err)
	}
	// It dies: its lock stays, and is stale.
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	_, _, err = r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
	wantKind(t, err, kassett.Locked, "process is gone")
	if n, err := r.RemoveLocks(t.Context(), false); n != 1 || err != nil {
		t.Errorf("removed %d stale locks, %v", n, err)
	}
}

func TestMigrateBothWays(t *testing.T) {
	t.Parallel()
	theirs := filepath.Join(t.TempDir(), "theirs")
	mustRestic(t, theirs, password, "init", "--repository-version", "1")
	mustRestic(t, theirs, password, "backup", "-q", "key_test.go")
	r := mustOpen(t, theirs, password)
	l, held, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Migrate(held, repo.UpgradeV2); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	sameConfig(t, r, theirs, password)
	mustRestic(t, theirs, password, "backup", "-q", "key_test.go")
	mustRestic(t, theirs, password, "check", "--read-data")

	ours, dir := newRepo(t, repo.InitOptions{Version: 1})
	mustRestic(t, dir, password, "migrate", "upgrade_repo_v2")
	want := ours.Config()
	want.Version = 2
	if again := mustOpen(t, dir, password); again.Config() != want {
		t.Errorf("migrated by restic to %+v, want %+v", again.Config(), want)
	}
	files, err := filepath.Glob(filepath.Join(theirs, "kassett", "*"))
	if err != nil || slices.ContainsFunc(files, func(f string) bool { return strings.Contains(f, "config-") }) {
		t.Errorf("left beside: %v, %v", files, err)
	}
}
