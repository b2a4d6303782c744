package mount_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/mount"
	"kassett/snapshot"
)

// resticMount mounts a repository with stock restic.
func resticMount(t *testing.T, dir string) string {
	t.Helper()
	path, err := exec.LookPath("restic")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("restic is not installed, and SHORT=1 asks for less")
		}
		t.Fatal("restic is not installed; make deps installs it")
	}
	at := t.TempDir()
	cmd := exec.Command(path, "-r", dir, "--no-cache", "mount", at)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = unix.Unmount(at, unix.MNT_DETACH)
		_ = exec.Command("fusermount3", "-u", "-z", at).Run()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(at, "ids")); err == nil {
			return at
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("restic does not mount: %s", &out)
		}
	}
}

// TestSameAsRestic compares our mount with stock restic's: the same names above
// the snapshots, and the same files in them.
func TestSameAsRestic(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	r, dir := newRepo(t, nil)
	src := oddTree(t)
	// What restic of this age does not show as it was: numbers of devices, times
	// before 1970, bytes that are no text in a link, sticky bits, and which names
	// are one file. TestSameAsRestored has them.
	for _, name := range []string{"device", "empty", "dangling"} {
		must(t, os.RemoveAll(filepath.Join(src, name)))
	}
	for i, tags := range [][]string{{"night"}, {"night", "a/b"}, nil} {
		write(t, filepath.Join(src, "changes"), fmt.Append(nil, i))
		backup(t, r, src, snapshot.BackupOptions{Time: day.Add(time.Duration(i) * time.Hour), Tags: tags, Host: fmt.Sprint("host", i%2)}, kassett.Cut{})
	}
	var w told
	ours, _ := mounted(t, view(t, r, &w, mount.Options{}), mount.FUSEOptions{})
	theirs := resticMount(t, dir)
	plain := func(all map[string]string) map[string]string {
		one := regexp.MustCompile(` with ".*" `)
		for name, fact := range all {
			mode, rest, _ := strings.Cut(fact, " ")
			bits, err := strconv.ParseUint(mode, 8, 32)
			must(t, err)
			mode = strconv.FormatUint(bits&^unix.S_ISVTX, 8)
			all[name] = mode + " " + one.ReplaceAllString(rest, " ")
			if !strings.Contains(name, src) {
				// Owners and times of what no snapshot describes are each
				// program's own.
				_, to, _ := strings.Cut(rest, " to ")
				all[name] = mode + " " + to
			}
		}
		return all
	}
	same(t, plain(facts(t, ours)), plain(facts(t, theirs)))
	w.quiet(t)
}
