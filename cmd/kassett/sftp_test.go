//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kassett/storage/sftp/sftptest"
)

// TestSFTP makes, fills, checks and reads repositories through each way to a
// server.
func TestSFTP(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	way := map[string][]string{
		"the program ssh":    {"-o", "sftp.args=-F " + server.Config},
		"our own client":     {"-o", "sftp.client=native", "-o", "sftp.key=" + server.Key, "-o", "sftp.known-hosts=" + server.KnownHosts},
		"a command":          {"-o", fmt.Sprintf("sftp.command=ssh -F '%s' -p %d %s -s sftp", server.Config, server.Port, server.Host)},
		"one connection":     {"-o", "sftp.args=-F " + server.Config, "-o", "sftp.connections=1"},
		"limits and no wait": {"-o", "sftp.args=-F " + server.Config, "--limit-upload", "20000", "--limit-download", "20000", "--retry-storage", "0"},
	}
	for name, flags := range way {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			place := fmt.Sprintf("sftp://%s:%d/%s", server.Host, server.Port, filepath.Join(dir, "repo"))
			kassett := func(code int, args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), "kassett", append(append([]string{"-r", place}, flags...), args...)...)
				cmd.Env = testEnv(dir)
				out, err := cmd.CombinedOutput()
				if got := cmd.ProcessState.ExitCode(); got != code {
					t.Fatalf("kassett %v: exit code %d, want %d (%v):\n%s", args, got, code, err, out)
				}
				return string(out)
			}
			src := filepath.Join(dir, "src")
			if err := os.Mkdir(src, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(src, "a"), []byte(strings.Repeat("record ", 10_000)), 0o600); err != nil {
				t.Fatal(err)
			}
			if said := kassett(10, "snapshots"); !strings.Contains(said, "no such folder on the server") {
				t.Errorf("of a repository that is not there it says: %s", said)
			}
			kassett(0, "init")
			kassett(5, "init")
			kassett(0, "backup", src)
			kassett(0, "backup", src)
			kassett(0, "check", "--read-data")
			kassett(0, "forget", "--keep-last", "1", "--prune")
			kassett(0, "restore", "latest:"+src, "--target", filepath.Join(dir, "back"))
			if got, err := os.ReadFile(filepath.Join(dir, "back", "a")); err != nil || len(got) != 70_000 {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
			locks, err := os.ReadDir(filepath.Join(dir, "repo", "locks"))
			if err != nil || len(locks) != 0 {
				t.Errorf("%d locks are left, %v", len(locks), err)
			}
		})
	}
}

// TestSFTPRefused checks what a person is told when the way is barred.
func TestSFTPRefused(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	for _, c := range []struct {
		name, place string
		flags       []string
		code        int
		says        string
	}{
		{"a host that is not known", "", []string{"-o", "sftp.args=-F /dev/null -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null"}, 7, "Host key verification failed"},
		{"the same natively", "", []string{"-o", "sftp.client=native", "-o", "sftp.known-hosts=/dev/null"}, 7, "ssh-keyscan"},
		{"no key", "", []string{"-o", "sftp.args=-F " + server.Config + " -o PubkeyAuthentication=no"}, 7, "Permission denied"},
		{"nobody there", "sftp://127.0.0.1:1//x", []string{"-o", "sftp.client=native", "-o", "sftp.key=" + server.Key, "--retry-storage", "0"}, 8, "connection refused"},
		{"nobody there, waited for", "sftp://127.0.0.1:1//x", []string{"--retry-storage", "3s"}, 8, "cannot be reached since"},
		{"no such program", "", []string{"-o", "sftp.command=/nowhere/ssh"}, 2, "install OpenSSH's client"},
		{"a command that says nothing", "", []string{"-o", "sftp.command=true", "--retry-storage", "0"}, 8, "did not begin to speak SFTP"},
		{"an option of another time", "", []string{"-o", "sftp.client=telnet"}, 2, "give ssh or native"},
		{"too many connections", "", []string{"-o", "sftp.connections=0"}, 2, "1 to 1000"},
		{"a password in the place", "sftp://me:secret@127.0.0.1/x", nil, 2, "log in with a key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if c.place == "" {
				c.place = fmt.Sprintf("sftp://%s:%d/%s", server.Host, server.Port, dir)
			}
			cmd := exec.CommandContext(t.Context(), "kassett", append([]string{"-r", c.place, "snapshots"}, c.flags...)...)
			cmd.Env = testEnv(dir)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != c.code || !strings.Contains(string(out), c.says) || strings.Contains(string(out), "secret") {
				t.Errorf("exit code %d, want %d and %q:\n%s", got, c.code, c.says, out)
			}
		})
	}
}

// TestSFTPInterrupt presses Ctrl-C as a terminal does, for the whole group of
// processes: the way to the server has to live until the lock is given back.
func TestSFTPInterrupt(t *testing.T) {
	t.Parallel()
	server := sftptest.Start(t)
	dir := t.TempDir()
	place := []string{"-r", fmt.Sprintf("sftp://%s:%d/%s", server.Host, server.Port, filepath.Join(dir, "repo")), "-o", "sftp.args=-F " + server.Config}
	start(t, dir, append(place, "init")...).ends(t, 0)
	cmd := exec.CommandContext(t.Context(), "kassett", append(place, "backup", "--stdin")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s := begin(t, dir, cmd)
	waitFor(t, filepath.Join(dir, "repo", "locks", "*[0-9a-f]"))
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	s.ends(t, 130)
	if locks, err := os.ReadDir(filepath.Join(dir, "repo", "locks")); err != nil || len(locks) != 0 {
		t.Errorf("%d locks are left, %v", len(locks), err)
	}
}
