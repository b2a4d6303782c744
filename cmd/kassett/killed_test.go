//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fill fills a file with bytes that cannot be compressed.
func fill(t *testing.T, name string, seed byte, n int) {
	t.Helper()
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// kill ends a kassett as a power cut would.
func (s *started) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
}

// packFiles returns the packs of a repository that are whole, with what the
// system says of each.
func packFiles(t *testing.T, repo string) map[string]os.FileInfo {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(repo, "data", "*", strings.Repeat("?", 64)))
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]os.FileInfo)
	for _, f := range found {
		if files[f], err = os.Stat(f); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// summaryLine returns the summary that a command printed as JSON.
func (s *started) summaryLine(t *testing.T, v any) {
	t.Helper()
	for line := range strings.Lines(s.out.String()) {
		if strings.Contains(line, `"message_type":"summary"`) {
			if err := json.Unmarshal([]byte(line), v); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no summary: %s", s.out.String())
}

// TestKilledCopy kills a copy when some packs have arrived. The next one sends
// none of them again, and both places are the same at the end.
func TestKilledCopy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range byte(8) {
		fill(t, filepath.Join(dir, "src", string('a'+i)), i, 8<<20)
	}
	start(t, dir, "init").ends(t, 0)
	start(t, dir, "backup", "--pack-size", "4", filepath.Join(dir, "src")).ends(t, 0)
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	all := len(packFiles(t, filepath.Join(dir, "repo")))
	for _, after := range []int{1, 5, 9} {
		second := filepath.Join(t.TempDir(), "second")
		start(t, dir, "-r", second, "init", "--replica-of", filepath.Join(dir, "repo"), "--from-password-file", password).ends(t, 0)
		s := start(t, dir, "copy", "--to", second, "--to-password-file", password, "--limit-upload", "16384")
		for begun := time.Now(); len(packFiles(t, second)) < after; time.Sleep(time.Millisecond) {
			if time.Since(begun) > time.Minute {
				t.Fatalf("no %d packs come: %s", after, s.out.String())
			}
		}
		s.kill(t)
		left := packFiles(t, second)
		if len(left) == all {
			t.Fatalf("the copy had ended when it was killed after %d packs", after)
		}
		again := start(t, dir, "copy", "--json", "--to", second, "--to-password-file", password)
		again.ends(t, 0)
		var sum struct {
			Copied  int `json:"copied_snapshots"`
			Packs   int `json:"packs"`
			Resumed int `json:"packs_resumed"`
		}
		again.summaryLine(t, &sum)
		if sum.Copied != 1 || sum.Packs != all || sum.Resumed != len(left) {
			t.Errorf("killed after %d of %d packs, then: %+v", len(left), all, sum)
		}
		now := packFiles(t, second)
		for name, was := range left {
			if !os.SameFile(was, now[name]) {
				t.Errorf("%s was written again", name)
			}
		}
		if len(now) != all {
			t.Errorf("%d packs, want %d", len(now), all)
		}
		start(t, dir, "-r", second, "check", "--read-data").ends(t, 0)
	}
}

// TestKilledBackup kills a first backup after checkpoints. The next one reads
// nothing of what was finished: files that hold something else by then, of which
// the metadata do not tell, are kept as they were.
func TestKilledBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, back := filepath.Join(dir, "src"), filepath.Join(dir, "back")
	const files = 24
	name := func(top string, i byte) string { return filepath.Join(top, string('a'+i), "f") }
	for i := range byte(files) {
		fill(t, name(src, i), i, 2<<20)
	}
	start(t, dir, "init").ends(t, 0)
	s := start(t, dir, "backup", src, "--checkpoint", "30ms", "--read-concurrency", "1", "--limit-upload", "8192", "--pack-size", "4")
	waitFor(t, filepath.Join(dir, "cache", "*", "local", "*", "checkpoint-????????????????"))
	s.kill(t)
	stored := packFiles(t, filepath.Join(dir, "repo"))
	for i := range byte(files) {
		was, err := os.Stat(name(src, i))
		if err != nil {
			t.Fatal(err)
		}
		fill(t, name(src, i), i+files, 2<<20)
		if err := os.Chtimes(name(src, i), was.ModTime(), was.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dir, "backup", src, "--ignore-ctime").ends(t, 0, "going on from its checkpoint", "24 new")
	start(t, dir, "check", "--read-data").ends(t, 0)
	start(t, dir, "restore", "latest:"+src, "--target", back).ends(t, 0)
	kept := 0
	for i := range byte(files) {
		got, err := os.ReadFile(name(back, i))
		if err != nil {
			t.Fatal(err)
		}
		before, now := make([]byte, 2<<20), make([]byte, 2<<20)
		_, _ = rand.NewChaCha8([32]byte{i}).Read(before)
		_, _ = rand.NewChaCha8([32]byte{i + files}).Read(now)
		switch {
		case bytes.Equal(got, before):
			kept++
		case !bytes.Equal(got, now):
			t.Errorf("file %d is neither as it was nor as it is", i)
		}
	}
	if kept == 0 || kept == files {
		t.Errorf("%d of %d files were finished when the backup was killed", kept, files)
	}
	for name, was := range stored {
		if is, err := os.Stat(name); err != nil || !os.SameFile(was, is) {
			t.Errorf("%s was written again, or is gone: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "cache", "*", "local", "*", "*")); len(left) > 0 {
		t.Errorf("the checkpoint stays: %v", left)
	}
}
