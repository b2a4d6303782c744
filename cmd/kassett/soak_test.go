package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage/s3/s3test"
	"kassett/storage/sftp/sftptest"
	"kassett/storage/storagetest"
)

// TestSoak runs backup, prune, copy and check at random while the line to the
// storage is cut, stopped, slowed and spoiled, or, for a local folder, while
// the program is killed. Commands may fail, but they may not lie: what a backup
// says it saved is listed, every listed snapshot restores to what was there
// when it was taken, nothing is damaged in the end, and stock restic agrees.
//
// KASSETT_SOAK says how long for each storage (a few rounds), KASSETT_SOAK_SEED
// repeats a campaign, KASSETT_SOAK_ONLY names one storage.
func TestSoak(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("restic"); err != nil && os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1, and restic is not installed")
	}
	seed := rand.Uint64()
	if s := os.Getenv("KASSETT_SOAK_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	var span time.Duration
	if s := os.Getenv("KASSETT_SOAK"); s != "" {
		var err error
		if span, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := exec.LookPath("kassett") // this test binary: see TestMain
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("KASSETT_SOAK_SEED=%d repeats this campaign", seed)
	kinds := map[string]func(*soak){"local": (*soak).onLocal, "sftp": (*soak).onSFTP, "rest": (*soak).onREST, "s3": (*soak).onS3}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if only := os.Getenv("KASSETT_SOAK_ONLY"); only != "" && only != kind {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newSoak(t, bin, seed)
			kinds[kind](s)
			s.run(span)
		})
	}
}

// soak is a campaign on one storage.
type soak struct {
	t              *testing.T
	bin, dir, src  string
	seed           uint64
	rnd            *rand.Rand
	env, flags     []string
	place          func(direct bool, name string) string // of a repository by its name
	resticArgs     []string                              // that lead restic to a place
	harm           func(round int)
	calm           func()
	kills          bool
	spoils         bool                             // nothing on the line tells bytes that were turned over
	states         map[string]map[string]kassett.ID // by the tag of a round
	saved          map[string]bool                  // tags whose backup said that it saved
	runs, failures int
	codes          map[int]int
}

func newSoak(t *testing.T, bin string, seed uint64) *soak {
	t.Helper()
	dir := t.TempDir()
	s := &soak{
		t: t, bin: bin, dir: dir, src: filepath.Join(dir, "src"), seed: seed, rnd: rand.New(rand.NewPCG(seed, uint64(len(t.Name())))),
		states: map[string]map[string]kassett.ID{}, saved: map[string]bool{}, codes: map[int]int{},
		harm: func(int) {}, calm: func() {},
	}
	for i := range 60 {
		s.write(fmt.Sprintf("ward%d/doc%03d.txt", i%7, i), 500+s.rnd.IntN(30_000))
	}
	return s
}

// proxied puts a proxy before a server, and does harm there in each round.
func (s *soak) proxied(server string) (addr string) {
	s.t.Helper()
	p, err := storagetest.NewProxy(server)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			s.t.Error(err)
		}
	})
	s.harm = func(round int) { p.Set(storagetest.RandomHarm(s.seed+uint64(round)<<20, 3, 6<<20)) }
	s.calm = func() { p.SetAll(storagetest.Harm{}) }
	return p.Addr()
}

func (s *soak) onLocal() {
	s.kills = true
	s.place = func(_ bool, name string) string { return filepath.Join(s.dir, name) }
}

func (s *soak) onSFTP() {
	server := sftptest.Start(s.t)
	addr := s.proxied(server.Addr())
	server.Know(s.t, addr)
	s.flags = []string{"-o", "sftp.client=native", "-o", "sftp.key=" + server.Key, "-o", "sftp.known-hosts=" + server.KnownHosts}
	s.place = func(direct bool, name string) string {
		at := addr
		if direct {
			at = server.Addr()
		}
		return "sftp://" + at + "/" + filepath.Join(s.dir, name)
	}
	s.resticArgs = []string{"-o", fmt.Sprintf("sftp.command=ssh -F %s -p %d %s -s sftp", server.Config, server.Port, server.Host)}
}

func (s *soak) onS3() {
	s.spoils = true
	server := s3test.Start(s.t)
	bucket := server.Bucket(s.t, false)
	addr := s.proxied(server.Host)
	s.env = []string{"AWS_ACCESS_KEY_ID=" + server.Root.Access, "AWS_SECRET_ACCESS_KEY=" + server.Root.Secret, "AWS_DEFAULT_REGION=" + s3test.Region}
	s.place = func(direct bool, name string) string {
		at := addr
		if direct {
			at = server.Host
		}
		return "s3:http://" + at + "/" + bucket + "/" + name
	}
}

func (s *soak) onREST() {
	s.spoils = true
	data, clients := filepath.Join(s.dir, "served"), filepath.Join(s.dir, "clients")
	if err := os.Mkdir(data, 0o700); err != nil {
		s.t.Fatal(err)
	}
	add := exec.CommandContext(s.t.Context(), s.bin, "serve", "client", "add", "soak", "--clients", clients, "--rights", "full", "--path", "a,b")
	add.Stdin = strings.NewReader("a-secret-for-soaking\n")
	if out, err := add.CombinedOutput(); err != nil {
		s.t.Fatalf("add client: %v\n%s", err, out)
	}
	// A port that was free a moment ago; another process may take it.
	l, err := new(net.ListenConfig).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	server := l.Addr().String()
	if err := l.Close(); err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, s.bin, "serve", "storage", "--data", data, "--clients", clients, "--listen", server)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if s.t.Failed() {
			b := said.Bytes()
			s.t.Logf("the server said:\n%s", b[max(0, len(b)-4000):])
		}
	})
	addr := s.proxied(server)
	s.env = []string{"KASSETT_REST_USERNAME=soak", "KASSETT_REST_PASSWORD=a-secret-for-soaking"}
	s.place = func(direct bool, name string) string {
		at := addr
		if direct {
			at = server
		}
		return "rest:http://" + at + "/" + name + "/"
	}
}

// run works for the time, or for a few rounds, and then proves what is there.
func (s *soak) run(span time.Duration) {
	s.t.Helper()
	s.must("a", "init")
	s.must("b", "init", "--from-repo", s.place(true, "a"), "--copy-chunker-params")
	begun := time.Now()
	for round := 0; span == 0 && round < 4 || time.Since(begun) < span; round++ {
		s.change()
		tag := fmt.Sprintf("round%d", round)
		s.states[tag] = contents(s.t, s.src)
		s.harm(round)
		var side sync.WaitGroup
		if s.rnd.IntN(3) == 0 { // somebody else is at work too
			other := s.other()
			side.Go(func() { s.try(other...) })
		}
		if s.try("a", "backup", "--tag", tag, s.src) == 0 {
			s.saved[tag] = true
		}
		side.Wait()
		if s.rnd.IntN(3) == 0 {
			s.try(s.other()...)
		}
		s.calm()
		if s.saved[tag] {
			s.wantListed(tag)
		}
		if round%10 == 9 {
			s.must("a", "check")
			s.must("b", "check")
		}
	}
	s.prove()
}

// other picks what is done beside backups.
func (s *soak) other() []string {
	switch s.rnd.IntN(7) {
	case 0, 1:
		return []string{"a", "forget", "--keep-last", "4", "--group-by", "", "--prune"}
	case 2:
		return []string{"a", "prune", "--max-unused", "0"}
	case 3, 4:
		return []string{"b", "copy", "--from-repo", s.place(false, "a")}
	case 5:
		return []string{"a", "check", "--read-data"}
	default:
		return []string{"b", "forget", "--keep-last", "2", "--group-by", "", "--prune"}
	}
}

func (s *soak) command(direct bool, name string, args ...string) *exec.Cmd {
	args = append(slices.Clone(s.flags), args...)
	cmd := exec.CommandContext(s.t.Context(), s.bin, args...)
	cmd.Env = append(os.Environ(), "KASSETT_REPOSITORY="+s.place(direct, name), "KASSETT_PASSWORD=night", "KASSETT_FROM_PASSWORD=night",
		"KASSETT_CACHE_DIR="+filepath.Join(s.dir, "cache"), "KASSETT_RETRY_STORAGE=20s", "HOME="+s.dir)
	cmd.Env = append(cmd.Env, s.env...)
	return cmd
}

// try runs a command amid the harm and returns its exit code. It may fail, but
// not for a reason that is a fault of ours.
func (s *soak) try(words ...string) int {
	cmd := s.command(false, words[0], append([]string{"--retry-lock", "20s"}, words[1:]...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if s.kills && rand.IntN(2) == 0 {
		late := time.AfterFunc(rand.N(600*time.Millisecond), func() { _ = cmd.Process.Kill() })
		defer late.Stop()
	}
	err := cmd.Wait()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	soakCounts.Lock()
	defer soakCounts.Unlock()
	s.runs++
	s.codes[code]++
	if code != 0 {
		s.failures++
	}
	ours := code == kassett.Invalid.Exit() || !s.spoils &&
		slices.Contains([]int{kassett.Other.Exit(), kassett.Corrupt.Exit(), kassett.Denied.Exit(), kassett.NotFound.Exit()}, code)
	if text := out.String(); ours || strings.Contains(text, "panic:") || strings.Contains(text, "goroutine ") {
		s.t.Errorf("kassett %s ended with code %d:\n%s", strings.Join(words, " "), code, text)
	} else if code != 0 && code != -1 && testing.Verbose() {
		s.t.Logf("kassett %s: code %d: %s", strings.Join(words[:2], " "), code, lastLine(text))
	}
	return code
}

// soakCounts guards the counts of all campaigns.
var soakCounts sync.Mutex

func lastLine(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "kassett: error:") {
			return strings.TrimSpace(line)
		}
	}
	return strings.TrimSpace(text)
}

// must runs a command on the storage itself, which has to succeed.
func (s *soak) must(name string, args ...string) []byte {
	s.t.Helper()
	cmd := s.command(true, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("kassett %s on %s: %v\n%s%s", strings.Join(args, " "), name, err, out, stderr.String())
	}
	return out
}

// wantListed checks that what the last backup said it saved is listed.
func (s *soak) wantListed(tag string) {
	s.t.Helper()
	var sns []struct{}
	if err := json.Unmarshal(s.must("a", "snapshots", "--json", "--tag", tag), &sns); err != nil || len(sns) != 1 {
		s.t.Errorf("the backup of %s said that it saved a snapshot, and %d are listed (%v)", tag, len(sns), err)
	}
}

// prove restores every listed snapshot, of the repository and of its copy, and
// asks restic.
func (s *soak) prove() {
	s.t.Helper()
	restored := 0
	for _, name := range []string{"a", "b"} {
		s.must(name, "check", "--read-data")
		var sns []struct {
			ID   string   `json:"id"`
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(s.must(name, "snapshots", "--json"), &sns); err != nil {
			s.t.Fatal(err)
		}
		for _, sn := range sns {
			target := filepath.Join(s.dir, "back")
			s.must(name, "restore", sn.ID+":"+filepath.ToSlash(s.src), "--target", target)
			for _, tag := range sn.Tags {
				if want, ok := s.states[tag]; ok && !maps.Equal(contents(s.t, target), want) {
					s.t.Errorf("snapshot %s of %s restored to something else", sn.ID, tag)
				}
			}
			if err := os.RemoveAll(target); err != nil {
				s.t.Fatal(err)
			}
			restored++
		}
		s.must(name, "unlock", "--remove-all") // of commands that were killed
		args := append(slices.Clone(s.resticArgs), "-r", s.resticPlace(name), "--no-cache", "check", "--read-data")
		cmd := exec.CommandContext(s.t.Context(), "restic", args...)
		cmd.Env = append(append(os.Environ(), "RESTIC_PASSWORD=night"), s.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			s.t.Errorf("restic check on %s: %v\n%s", name, err, out)
		}
	}
	s.t.Logf("%d commands, %d of them failed (by exit code: %v), %d backups said they saved, %d snapshots restored",
		s.runs, s.failures, s.codes, len(s.saved), restored)
	if len(s.saved) == 0 && s.runs > 10 {
		s.t.Error("no backup came through: the test proves little")
	}
}

// resticPlace returns a repository's place for restic, whose older versions
// read no user's name for REST from the environment.
func (s *soak) resticPlace(name string) string {
	return strings.Replace(s.place(true, name), "rest:http://", "rest:http://soak:a-secret-for-soaking@", 1)
}

// change edits the source.
func (s *soak) change() {
	s.t.Helper()
	for range 6 {
		i := s.rnd.IntN(60)
		s.write(fmt.Sprintf("ward%d/doc%03d.txt", i%7, i), 500+s.rnd.IntN(30_000))
	}
	s.write("image.raw", 1<<20+s.rnd.IntN(3<<20))
}

func (s *soak) write(name string, size int) {
	s.t.Helper()
	p := filepath.Join(s.src, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(p, storagetest.Random(s.rnd.Uint64(), size), 0o600); err != nil {
		s.t.Fatal(err)
	}
}
