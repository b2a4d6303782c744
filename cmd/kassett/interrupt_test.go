//go:build unix

package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// started is a kassett that runs in the background.
type started struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   said // both voices
}

// said is what a command has said so far.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements [io.Writer].
func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

// String returns all of it.
func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// testEnv is the environment of a kassett with everything in dir.
func testEnv(dir string) []string {
	return append(os.Environ(), "KASSETT_REPOSITORY="+filepath.Join(dir, "repo"), "KASSETT_PASSWORD=x", "KASSETT_CACHE_DIR="+filepath.Join(dir, "cache"))
}

func start(t *testing.T, dir string, args ...string) *started {
	t.Helper()
	return begin(t, dir, exec.CommandContext(t.Context(), "kassett", args...))
}

// begin starts a command that is, or becomes, kassett.
func begin(t *testing.T, dir string, cmd *exec.Cmd) *started {
	t.Helper()
	s := &started{cmd: cmd}
	s.cmd.Env = testEnv(dir)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return s
}

// ends waits for the end and checks the exit code and what was said.
func (s *started) ends(t *testing.T, code int, says ...string) {
	t.Helper()
	if s.stdin != nil {
		_ = s.stdin.Close()
	}
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
		t.Fatalf("kassett %v does not end; it said: %s", s.cmd.Args[1:], s.out.String())
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("kassett %v: exit code %d, want %d: %s", s.cmd.Args[1:], got, code, s.out.String())
	}
	for _, want := range says {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("kassett %v does not say %q: %s", s.cmd.Args[1:], want, s.out.String())
		}
	}
}

func waitFor(t *testing.T, pattern string) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if found, err := filepath.Glob(pattern); err != nil || len(found) > 0 {
			return
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("nothing comes at %s", pattern)
		}
	}
}

// backupInProgress starts a backup that has sent some packs and waits for more
// to read.
func backupInProgress(t *testing.T, dir string) *started {
	t.Helper()
	start(t, dir, "init").ends(t, 0)
	s := start(t, dir, "backup", "--stdin", "--cut", "page=1MiB")
	noise := make([]byte, 48<<20)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	if _, err := s.stdin.Write(noise); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(dir, "repo", "data", "*", "*"))
	return s
}

func TestSignalsStopABackup(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := backupInProgress(t, dir)
			pipe := s.stdin // stays open: a read that waits must not hold the stop up
			defer pipe.Close()
			s.stdin = nil
			if err := s.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			s.ends(t, 130, "kassett: error: stopped", "what was saved so far stays and will not be sent again")
			if locks, _ := filepath.Glob(filepath.Join(dir, "repo", "locks", "*")); len(locks) > 0 {
				t.Errorf("locks stay: %v", locks)
			}
			start(t, dir, "check", "--read-data").ends(t, 0)
			start(t, dir, "snapshots").ends(t, 0, "0 snapshots")
		})
	}
}

// TestSecondSignalEndsAtOnce: what waits for a read cannot be stopped gently.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := filepath.Join(dir, "list")
	if err := syscall.Mkfifo(list, 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, dir, "backup", "--files-from", list)
	w, err := os.OpenFile(list, os.O_WRONLY, 0) // waits until kassett reads
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s.cmd.Process.Signal(syscall.SIGINT) == nil {
			time.Sleep(100 * time.Millisecond)
		}
	}()
	s.ends(t, 130)
	<-done
}

// TestNohup: a hang-up that the caller had ignored does not stop us.
func TestNohup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir, "init").ends(t, 0)
	s := begin(t, dir, exec.CommandContext(t.Context(), "sh", "-c", `trap "" HUP; exec kassett backup --stdin`))
	waitFor(t, filepath.Join(dir, "repo", "locks", "*"))
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if _, err := s.stdin.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0, "saved (full)")
}

// TestWorkBesideABackup: a backup keeps out who would remove what it relies on,
// and nobody else.
func TestWorkBesideABackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := backupInProgress(t, dir)
	start(t, dir, "snapshots").ends(t, 0)
	start(t, dir, "check").ends(t, 0)
	start(t, dir, "list", "locks").ends(t, 0, "shared")
	start(t, dir, "unlock").ends(t, 0, "0 locks removed")
	start(t, dir, "forget", "--keep-last", "1").ends(t, 0)
	start(t, dir, "prune", "--mark-only").ends(t, 0, "marked, to be removed by a later kassett prune")
	start(t, dir, "prune").ends(t, 11, "what nobody needs is marked", "--retry-lock")
	start(t, dir, "migrate", "upgrade_repo_v2").ends(t, 11, "kassett: next: ")
	up := filepath.Join(dir, "up")
	waiting := start(t, dir, "prune", "--retry-lock", "1m", "--password-command", "sh -c 'touch "+up+"; echo x'")
	waitFor(t, up)
	if err := waiting.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	waiting.ends(t, 130)
	patient := start(t, dir, "prune", "--retry-lock", "1m")
	s.ends(t, 0, "saved (full)")
	patient.ends(t, 0)
	if left, _ := filepath.Glob(filepath.Join(dir, "repo", "kassett", "doomed", "*")); len(left) > 0 {
		t.Errorf("marks are left: %v", left)
	}
	start(t, dir, "check", "--read-data").ends(t, 0)
}

// TestReaderGoesAway: what a shell pipe does to a program whose reader ends.
func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start(t, dir, "init").ends(t, 0)
	s := start(t, dir, "backup", "--stdin")
	if _, err := s.stdin.Write(bytes.Repeat([]byte("x"), 4<<20)); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 0)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	dump := exec.CommandContext(t.Context(), "kassett", "dump", "latest", "/stdin")
	dump.Env = testEnv(dir)
	dump.Stdout = w
	var said bytes.Buffer
	dump.Stderr = &said
	_ = dump.Run()
	w.Close()
	if code := dump.ProcessState.ExitCode(); code != exitPipe {
		t.Errorf("exit code %d, want %d: %s", code, exitPipe, said.String())
	}
	if locks, _ := filepath.Glob(filepath.Join(dir, "repo", "locks", "*")); len(locks) > 0 {
		t.Errorf("locks stay: %v", locks)
	}
}
