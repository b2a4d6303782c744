package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
)

// needFUSE leaves a test out where nothing can be mounted, if that was asked for.
func needFUSE(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("there is no /dev/fuse, and SHORT=1 asks for less")
		}
		t.Fatal("there is no /dev/fuse; modprobe fuse makes it, SHORT=1 leaves these tests out")
	}
}

// backedUp makes a repository in dir with one snapshot of a file, and returns the
// file's path.
func backedUp(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "src", "journal")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("of patient 7"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir, "init").ends(t, 0)
	start(t, dir, "backup", filepath.Dir(file)).ends(t, 0)
	return file
}

// mountIn starts kassett mount at dir/mnt and waits until it is there. Whatever
// becomes of the test, nothing stays mounted.
func mountIn(t *testing.T, dir, file string, args ...string) (*started, string) {
	t.Helper()
	at := filepath.Join(dir, "mnt")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = detach(context.Background(), at) }) // mostly there is nothing left
	s := start(t, dir, append([]string{"mount", at}, args...)...)
	waitFor(t, filepath.Join(at, "snapshots", "latest")+file)
	// The library opens a file of the mount before it says that all is ready. Who
	// is killed with that open waits for an answer from itself, for good.
	for begun := time.Now(); !strings.Contains(s.out.String(), "is mounted at"); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("it does not say that it is mounted: %s", s.out.String())
		}
	}
	return s, at
}

// unmountBusy tries until it succeeds: programs that other tests start have our
// files for a moment.
func unmountBusy(t *testing.T, unmount func() error) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := unmount()
		if err == nil {
			return
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal(err)
		}
	}
}

func isMounted(t *testing.T, at string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(b), " "+at+" ")
}

func locksIn(t *testing.T, dir string) int {
	t.Helper()
	locks, err := filepath.Glob(filepath.Join(dir, "repo", "locks", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(locks)
}

// TestMountEnds: every way to stop a mount takes it away, gives the lock back and
// is no failure.
func TestMountEnds(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	signal := func(sig syscall.Signal) func(t *testing.T, s *started, at string) {
		return func(t *testing.T, s *started, _ string) {
			t.Helper()
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name string
		stop func(t *testing.T, s *started, at string)
	}{
		{"Ctrl-C", signal(syscall.SIGINT)},
		{"SIGTERM", signal(syscall.SIGTERM)},
		{"umount", func(t *testing.T, _ *started, at string) {
			t.Helper()
			if os.Getuid() != 0 {
				t.Skip("only root may use umount")
			}
			unmountBusy(t, func() error { return unix.Unmount(at, 0) })
		}},
		{"fusermount3", func(t *testing.T, _ *started, at string) {
			t.Helper()
			unmountBusy(t, func() error { return exec.CommandContext(t.Context(), "fusermount3", "-u", at).Run() })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s, at := mountIn(t, dir, backedUp(t, dir))
			if locksIn(t, dir) != 1 {
				t.Error("a mounted repository is not locked")
			}
			c.stop(t, s, at)
			s.ends(t, 0, "is mounted at "+at)
			if isMounted(t, at) {
				t.Error("it is still mounted")
			}
			if locksIn(t, dir) != 0 {
				t.Error("the lock stays")
			}
		})
	}
}

// TestMountInUse: a mount that somebody looks into ends all the same, and says who
// that is.
func TestMountInUse(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	dir := t.TempDir()
	s, at := mountIn(t, dir, backedUp(t, dir), "--no-lock")
	if locksIn(t, dir) != 0 {
		t.Error("there is a lock, with --no-lock")
	}
	user := exec.CommandContext(t.Context(), "sleep", "600")
	user.Dir = filepath.Join(at, "snapshots")
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0, "it is used by sleep", "taken away all the same")
	if isMounted(t, at) {
		t.Error("it is still mounted")
	}
	if err := user.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = user.Wait() // killed
}

// TestMountKilled: what kill -9 leaves behind is named, with the command that takes
// it away.
func TestMountKilled(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	dir := t.TempDir()
	file := backedUp(t, dir)
	s, at := mountIn(t, dir, file)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.ends(t, -1)
	start(t, dir, "mount", at).ends(t, kassett.Exists.Exit(), "has died", "fusermount3 -u "+at)
	if out, err := exec.CommandContext(t.Context(), "fusermount3", "-u", at).CombinedOutput(); err != nil {
		t.Fatalf("fusermount3: %v: %s", err, out)
	}
	s, at = mountIn(t, dir, file)
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0)
	if isMounted(t, at) {
		t.Error("it is still mounted")
	}
}

// TestMountRefuses: what makes no sense, or would put patients' data where others
// can read them, is refused with the way out.
func TestMountRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	backedUp(t, dir)
	repo := filepath.Join(dir, "repo")
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no mountpoint", nil, 2, "there is no mountpoint"},
		{"a folder that is not there", []string{filepath.Join(dir, "nowhere")}, 10, "make it with: mkdir"},
		{"a folder with something in it", []string{filepath.Join(dir, "src")}, 2, "it is not empty"},
		{"the repository", []string{repo}, 2, "it is not empty"},
		{"in the repository", []string{makeDir(t, filepath.Join(repo, "kassett"))}, 2, "outside of the repository"},
		{"two ways at once", []string{dir, "--webdav", "127.0.0.1:0"}, 2, "do not go together"},
		{"a time template", []string{dir, "--time-template", "/15"}, 2, "neither begins nor ends with a slash"},
		{"permissions of nobody", []string{dir, "--no-default-permissions"}, 2, "without --allow-other"},
		{"open to the network", []string{"--webdav", "0.0.0.0:0"}, 7, "other machines could read"},
		{"open to the network, by name", []string{"--webdav", ":0"}, 7, "other machines could read"},
		{"a password in the clear", []string{"--webdav", "192.0.2.1:0", "--webdav-password-file", filepath.Join(dir, "src", "journal")}, 7, "--tls-cert"},
		{"no port", []string{"--webdav", "127.0.0.1"}, 2, "an address and a port"},
		{"half a certificate", []string{"--webdav", "127.0.0.1:0", "--tls-cert", filepath.Join(dir, "src", "journal")}, 2, "give both"},
		{"a password for nothing", []string{dir, "--webdav-password-file", "x"}, 2, "are for --webdav"},
	} {
		t.Run(c.name, func(t *testing.T) {
			start(t, dir, append([]string{"mount"}, c.args...)...).ends(t, c.code, c.says)
		})
	}
}

func makeDir(t *testing.T, path string) string {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServeWebDAV serves a repository, asks for the password that was set, and
// ends with Ctrl-C.
func TestServeWebDAV(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := backedUp(t, dir)
	cmd := exec.CommandContext(t.Context(), "kassett", "mount", "--webdav", "127.0.0.1:0", "--json")
	cmd.Env = append(testEnv(dir), "KASSETT_WEBDAV_PASSWORD=sesame")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(stdout).ReadBytes('\n')
	var event struct{ Place string }
	if err := json.Unmarshal(line, &event); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	get := func(password string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, event.Place+"snapshots/latest"+file, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("kassett", password)
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, body := get("sesame"); code != 200 || body != "of patient 7" {
		t.Errorf("with the password: %d %q", code, body)
	}
	if code, _ := get("open"); code != 401 {
		t.Errorf("with another password: %d", code)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v: %s", err, &stderr)
	}
	if locksIn(t, dir) != 0 {
		t.Error("the lock stays")
	}
}
