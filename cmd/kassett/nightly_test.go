package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kassett"
)

// TestNightlyKill kills the real binary with SIGKILL at random moments of
// backup, forget, prune and repair. After each kill the next command must work
// without help, the structure must be whole, and from time to time every
// listed snapshot must restore to exactly what was there when it was taken,
// and stock restic must agree. KASSETT_KILLS says how often (200).
func TestNightlyKill(t *testing.T) {
	if os.Getenv("KASSETT_NIGHTLY") == "" {
		t.Skip("200 kills take minutes: make nightly runs them")
	}
	kills := 200
	if s := os.Getenv("KASSETT_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	k := newKiller(t)
	took := map[string]time.Duration{} // by each command that was let through
	for round := range kills {
		k.change(round)
		verb := k.verb()
		limit := took[verb[0]]
		if limit == 0 {
			start := time.Now()
			k.must(verb...)
			took[verb[0]] = time.Since(start)
			continue
		}
		k.runAndKill(verb, limit)
		k.must("check")
		if round%20 == 19 || round == kills-1 {
			k.proveSnapshots()
			k.restic("check", "--read-data")
		}
	}
	k.must("prune")
	k.must("check", "--read-data")
	k.proveSnapshots()
	t.Logf("of %d commands %d were killed, %d of these after they had changed the repository", kills, k.killed, k.caught)
	if k.caught < kills/8 {
		t.Errorf("only %d of %d commands were caught at work: the test proves little", k.caught, kills)
	}
}

type killer struct {
	t                     *testing.T
	bin, src, repo, cache string
	states                map[string]map[string]kassett.ID // tag of the round: path: hash of content
	tag                   string
	killed, caught        int // commands; caught ones had changed the repository
}

func newKiller(t *testing.T) *killer {
	t.Helper()
	dir := t.TempDir()
	k := &killer{
		t: t, bin: filepath.Join(dir, "kassett"), src: filepath.Join(dir, "src"),
		repo: filepath.Join(dir, "repo"), cache: filepath.Join(dir, "cache"),
		states: map[string]map[string]kassett.ID{},
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", k.bin, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build kassett: %v\n%s", err, out)
	}
	for i := range 300 {
		k.write(filepath.Join(fmt.Sprintf("ward%02d", i%17), fmt.Sprintf("doc%04d.txt", i)), 2000+rand.IntN(60000))
	}
	k.write("image.raw", 12<<20)
	k.must("init")
	return k
}

// write fills a file of the source with new bytes, half of them compressible.
func (k *killer) write(name string, size int) {
	k.t.Helper()
	b := make([]byte, size)
	for i := range b[:size/2] {
		b[i] = byte(rand.Uint32())
	}
	p := filepath.Join(k.src, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		k.t.Fatal(err)
	}
	if err := os.WriteFile(p, b, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// change edits the source and remembers its state under this round's tag.
func (k *killer) change(round int) {
	k.t.Helper()
	for range 15 {
		i := rand.IntN(300)
		k.write(filepath.Join(fmt.Sprintf("ward%02d", i%17), fmt.Sprintf("doc%04d.txt", i)), 2000+rand.IntN(60000))
	}
	k.write("image.raw", 4<<20+rand.IntN(8<<20))
	k.tag = fmt.Sprintf("round%d", round)
	k.states[k.tag] = contents(k.t, k.src)
}

// verb picks what is run and killed.
func (k *killer) verb() []string {
	switch n := rand.IntN(10); {
	case n < 6:
		return []string{"backup", "--tag", k.tag, k.src}
	case n < 8:
		return []string{"forget", "--keep-last", "4", "--group-by", "", "--prune"}
	case n < 9:
		return []string{"prune", "--max-unused", "0"}
	default:
		return []string{"repair", "index", "--read-all-packs"}
	}
}

func (k *killer) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(k.t.Context(), k.bin, args...)
	cmd.Env = append(os.Environ(), "KASSETT_REPOSITORY="+k.repo, "KASSETT_PASSWORD=night", "KASSETT_CACHE_DIR="+k.cache)
	return cmd
}

// runAndKill starts a command and kills it unless it has ended by then: after a
// while, or shortly after it first changed the repository.
func (k *killer) runAndKill(args []string, took time.Duration) {
	k.t.Helper()
	before := k.stored()
	cmd := k.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	ended, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		if rand.IntN(4) > 0 {
			k.untilChanged(before, ended)
			took = 15 * time.Millisecond
		}
		select {
		case <-time.After(rand.N(took)):
			_ = cmd.Process.Kill()
		case <-ended:
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-watched
	if err == nil {
		return
	}
	if cmd.ProcessState.ExitCode() != -1 {
		k.t.Fatalf("kassett %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	k.killed++
	if !maps.Equal(before, k.stored()) {
		k.caught++
	}
}

// untilChanged returns when the repository has changed, or at the end.
func (k *killer) untilChanged(before map[string]bool, ended <-chan struct{}) {
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-ended:
			tick.Stop()
			return
		case <-tick.C:
			if !maps.Equal(before, k.stored()) {
				tick.Stop()
				return
			}
		}
	}
}

// stored lists the files of the repository, without locks. They may come and go
// meanwhile.
func (k *killer) stored() map[string]bool {
	names := map[string]bool{}
	for _, kind := range []string{"data", "index", "snapshots"} {
		_ = filepath.WalkDir(filepath.Join(k.repo, kind), func(p string, _ fs.DirEntry, err error) error {
			if err == nil {
				names[p] = true
			}
			return nil
		})
	}
	return names
}

// must runs a command that has to succeed and returns its standard output.
func (k *killer) must(args ...string) []byte {
	k.t.Helper()
	cmd := k.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		k.t.Fatalf("kassett %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return out
}

func (k *killer) restic(args ...string) {
	k.t.Helper()
	cmd := exec.CommandContext(k.t.Context(), "restic", append([]string{"-r", k.repo, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=night")
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("restic %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// proveSnapshots restores every listed snapshot and compares it with the state
// of the source it was taken from.
func (k *killer) proveSnapshots() {
	k.t.Helper()
	var sns []struct {
		ID   string   `json:"id"`
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(k.must("snapshots", "--json"), &sns); err != nil {
		k.t.Fatal(err)
	}
	for _, sn := range sns {
		target := filepath.Join(k.t.TempDir(), "back")
		k.must("restore", sn.ID+":"+filepath.ToSlash(k.src), "--target", target)
		for _, tag := range sn.Tags {
			if want, ok := k.states[tag]; ok && !maps.Equal(contents(k.t, target), want) {
				k.t.Fatalf("snapshot %s of %s restored to something else", sn.ID, tag)
			}
		}
		if err := os.RemoveAll(target); err != nil {
			k.t.Fatal(err)
		}
	}
}

// contents maps each file below dir to the hash of its content.
func contents(t *testing.T, dir string) map[string]kassett.ID {
	t.Helper()
	m := map[string]kassett.ID{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		m[rel] = kassett.Hash(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}
