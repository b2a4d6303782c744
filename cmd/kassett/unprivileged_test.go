//go:build unix

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user without rights that tests become when they run as root.
const nobody = 65534

// unprivileged runs kassett without the rights of root, in a folder it may
// write to.
type unprivileged struct{ dir, program string }

func newUnprivileged(t *testing.T) unprivileged {
	t.Helper()
	dir, err := os.MkdirTemp("", "kassett-nobody-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeAll(dir) })
	u := unprivileged{dir, filepath.Join(dir, "kassett")}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Another process copies: a program that this one has open for writing while
	// a test beside it forks cannot be run ("text file busy") until that child
	// has closed what it inherited.
	out, err := exec.CommandContext(t.Context(), "install", "-m", "755", self, u.program).CombinedOutput()
	if err != nil {
		t.Fatalf("copy the program: %v: %s", err, out)
	}
	if os.Getuid() == 0 {
		err = os.Chown(dir, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// path returns a path in the folder.
func (u unprivileged) path(name string) string { return filepath.Join(u.dir, name) }

// run runs kassett and returns its exit code and what it said.
func (u unprivileged) run(t *testing.T, args ...string) (int, string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), u.program, args...)
	cmd.Dir = u.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir, "TMPDIR=" + u.dir,
		"KASSETT_REPOSITORY=" + u.path("repo"), "KASSETT_PASSWORD=x", "KASSETT_CACHE_DIR=" + u.path("cache"),
	}
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run kassett %v: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// want runs kassett and checks the exit code and what it said.
func (u unprivileged) want(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	got, out := u.run(t, args...)
	if got != code || !strings.Contains(out, says) {
		t.Errorf("kassett %v: exit code %d, want %d, and %q in: %s", args, got, code, says, out)
	}
}

func TestWithoutRights(t *testing.T) {
	t.Parallel()
	u := newUnprivileged(t)
	for name, mode := range map[string]os.FileMode{"src/open.txt": 0o644, "src/closed.txt": 0, "locked/in.txt": 0o644} {
		if err := os.MkdirAll(filepath.Dir(u.path(name)), 0o755); err != nil { //nolint:gosec // another user reads it
			t.Fatal(err)
		}
		if err := os.WriteFile(u.path(name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(u.path(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(u.path("locked"), 0o555); err != nil { //nolint:gosec // to be refused
		t.Fatal(err)
	}
	u.want(t, 0, "made repository", "init")
	u.want(t, 3, "src/closed.txt", "backup", u.path("src"))
	u.want(t, 0, "kassett:incomplete", "snapshots")
	u.want(t, 0, "restored 1 file", "restore", "latest:"+u.path("src"), "--target", u.path("back"))
	u.want(t, 7, "kassett: next: ", "restore", "latest", "--target", u.path("locked/deep"))
	u.want(t, 7, "kassett: next: ", "init", "-r", u.path("locked/repo"))

	// A repository that may only be read.
	if err := filepath.WalkDir(u.path("repo"), func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = os.Chmod(path, 0o555) //nolint:gosec // to be refused
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	u.want(t, 7, "kassett: next: ", "backup", u.path("back"))
	u.want(t, 0, "1 snapshot", "snapshots", "--no-lock")
	u.want(t, 0, "restored", "restore", "latest", "--target", u.path("back2"), "--no-lock")
	u.want(t, 0, "no faults", "check", "--read-data", "--no-lock")
}

func TestDemo(t *testing.T) {
	t.Parallel()
	u := newUnprivileged(t)
	code, out := u.run(t, "demo")
	if code != 0 || !strings.Contains(out, "Proved: all ") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if _, err := exec.LookPath("restic"); err != nil && os.Getenv("SHORT") != "1" {
		t.Error("restic is not installed; make deps installs it, SHORT=1 leaves it out")
	} else if err == nil && strings.Contains(out, "not asked") {
		t.Errorf("stock restic was not asked: %s", out)
	}
	left, err := filepath.Glob(u.path("kassett-demo-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("scratch folders stay: %v, %v", left, err)
	}
}
