package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
)

// TestCrowd lets Kassett and stock restic back up, forget and prune in one
// folder at once, each as often as it can, with prunes killed in the middle. Then
// stock restic finds nothing damaged, and every snapshot that is listed restores
// to what was there when it was taken. KASSETT_NIGHTLY makes it last minutes.
func TestCrowd(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("restic is not installed, and SHORT=1 asks for less")
		}
		t.Fatal("restic is not installed; make deps installs it, SHORT=1 leaves it out")
	}
	lasts := 12 * time.Second
	if os.Getenv("KASSETT_NIGHTLY") != "" {
		lasts = 5 * time.Minute
	}
	c := &crowd{t: t, dir: t.TempDir(), until: time.Now().Add(lasts), states: map[string]map[string]kassett.ID{}, count: map[string]int{}}
	c.must("kassett", "init")
	var working sync.WaitGroup
	for name, work := range map[string]func(string, int){"ours1": c.ours, "ours2": c.ours, "theirs": c.theirs, "forget": c.forget, "prune": c.prune} {
		working.Go(func() {
			for n := 0; time.Now().Before(c.until) && !t.Failed(); n++ {
				work(name, n)
				time.Sleep(rand.N(300 * time.Millisecond))
			}
		})
	}
	working.Wait()
	t.Logf("%v", c.count)
	if t.Failed() {
		return
	}
	c.must("kassett", "forget", "--keep-last", "2")
	c.must("kassett", "prune", "--max-unused", "0")
	if left, _ := filepath.Glob(filepath.Join(c.dir, "repo", "kassett", "doomed", "*")); len(left) > 0 {
		t.Errorf("lists are left: %v", left)
	}
	c.must("restic", "check", "--read-data")
	c.must("kassett", "check", "--read-data")
	c.proveSnapshots()
	if out := c.must("restic", "prune", "--max-unused", "0", "--dry-run"); !strings.Contains(out, "to delete:             0 blobs") {
		t.Errorf("garbage is left:\n%s", out)
	}
}

// crowd is several programs at work in one repository.
type crowd struct {
	t     *testing.T
	dir   string
	until time.Time

	mu     sync.Mutex                       // guards what follows
	states map[string]map[string]kassett.ID // by tag: the content of each file
	count  map[string]int                   // what came through, and what did not
}

func (c *crowd) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[what]++
}

// command prepares kassett or restic on the repository.
func (c *crowd) command(program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), program, args...)
	cmd.Env = append(testEnv(c.dir), "RESTIC_PASSWORD=x", "RESTIC_REPOSITORY="+filepath.Join(c.dir, "repo"), "RESTIC_CACHE_DIR="+filepath.Join(c.dir, "restic"))
	return cmd
}

// try runs a command, and returns what it said and its exit code; -1 is killed.
func (c *crowd) try(cmd *exec.Cmd) (string, int) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		c.t.Errorf("%v: %v", cmd.Args, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (c *crowd) must(program string, args ...string) string {
	c.t.Helper()
	out, code := c.try(c.command(program, args...))
	if code != 0 {
		c.t.Fatalf("%s %v: exit %d\n%s", program, args, code, out)
	}
	return out
}

// change gives a source some of a few contents, so that what is doomed is often
// needed again, and returns the folder and a tag for its state.
func (c *crowd) change(name string, n int) (folder, tag string) {
	folder, tag = filepath.Join(c.dir, name), fmt.Sprintf("%s-%d", name, n)
	for i := range 12 {
		if n > 0 && rand.IntN(3) > 0 {
			continue
		}
		b := make([]byte, 40_000)
		random := rand.NewChaCha8([32]byte{byte(rand.IntN(40))})
		_, _ = random.Read(b)
		p := filepath.Join(folder, fmt.Sprintf("ward%d", i%3), fmt.Sprintf("file%d", i))
		err := os.MkdirAll(filepath.Dir(p), 0o700)
		if err == nil {
			err = os.WriteFile(p, b, 0o600)
		}
		if err != nil {
			c.t.Error(err)
		}
	}
	state := c.contents(folder)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states[tag] = state
	return folder, tag
}

// contents returns the hash of each file below a folder.
func (c *crowd) contents(folder string) map[string]kassett.ID {
	all := map[string]kassett.ID{}
	err := filepath.WalkDir(folder, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(folder, p)
		all[rel] = kassett.Hash(b)
		return err
	})
	if err != nil {
		c.t.Error(err)
	}
	return all
}

// ours backs up with Kassett, which nothing may stop.
func (c *crowd) ours(name string, n int) {
	folder, tag := c.change(name, n)
	if out, code := c.try(c.command("kassett", "backup", "--tag", tag, folder)); code != 0 {
		c.t.Errorf("backup %s: exit %d\n%s", tag, code, out)
	}
	c.note("backup " + name)
}

// theirs backs up with stock restic, which does not wait for a lock.
func (c *crowd) theirs(name string, n int) {
	folder, tag := c.change(name, n)
	out, code := c.try(c.command("restic", "backup", "--tag", tag, folder))
	switch {
	case code == 0:
		c.note("backup " + name)
	case strings.Contains(out, "locked"):
		c.note("restic finds it locked")
	default:
		c.t.Errorf("restic backup %s: exit %d\n%s", tag, code, out)
	}
}

func (c *crowd) forget(string, int) {
	out, code := c.try(c.command("kassett", "forget", "--keep-last", "2", "--retry-lock", "5s"))
	c.ended("forget", out, code)
}

// prune prunes, and is often killed.
func (c *crowd) prune(string, int) {
	args := []string{"prune", "--max-unused", "0", "--retry-lock", "5s", "--json"}
	if rand.IntN(4) == 0 {
		args = append(args, "--mark-only")
	}
	cmd := c.command("kassett", args...)
	if rand.IntN(3) == 0 {
		timer := time.AfterFunc(50*time.Millisecond+rand.N(time.Second), func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	out, code := c.try(cmd)
	c.ended("prune", out, code)
	for line := range strings.Lines(out) {
		var said struct {
			Removed int `json:"packs_removed"`
			Spared  int `json:"packs_spared"`
		}
		if json.Unmarshal([]byte(line), &said) == nil {
			c.mu.Lock()
			c.count["packs removed"] += said.Removed
			c.count["packs spared"] += said.Spared
			c.mu.Unlock()
		}
	}
}

// ended counts how a command ended that may find the repository locked.
func (c *crowd) ended(what, out string, code int) {
	switch code {
	case 0:
		c.note(what)
	case kassett.Locked.Exit():
		c.note(what + " had to wait too long")
	case -1:
		c.note(what + " killed")
	default:
		c.t.Errorf("%s: exit %d\n%s", what, code, out)
	}
}

// proveSnapshots restores every snapshot and compares it with what was there.
func (c *crowd) proveSnapshots() {
	c.t.Helper()
	var list []struct {
		ID    string
		Tags  []string
		Paths []string
	}
	if err := json.Unmarshal([]byte(c.must("kassett", "snapshots", "--json")), &list); err != nil {
		c.t.Fatal(err)
	}
	for _, sn := range list {
		target := filepath.Join(c.dir, "back", sn.ID)
		c.must("kassett", "restore", sn.ID+":"+sn.Paths[0], "--target", target)
		if want := c.states[sn.Tags[0]]; len(want) == 0 || !maps.Equal(c.contents(target), want) {
			c.t.Errorf("snapshot %s of %s restores to something else", sn.ID, sn.Tags[0])
		}
	}
	c.t.Logf("%d snapshots restored", len(list))
}
