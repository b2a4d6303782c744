//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The phases, in the order in which they are done.
const (
	first     = "first"
	unchanged = "unchanged"
	changed   = "changed"
	restore   = "restore"
	check     = "check"
	list      = "list" // the snapshots: what every command costs before it does anything
)

var phases = []string{first, unchanged, changed, restore, check, list}

// tool is a program that backs up.
type tool struct {
	name, version string
	path          string
	ours          bool // Kassett; the others are peers
	args          func(t *tool, phase string, c *corpus) []string
	initArgs      func(t *tool) []string

	home string // its repository and caches, of one run
	repo string
}

// findTools returns Kassett and then the peers, with their versions.
func findTools(ctx context.Context, o options, work string) ([]*tool, error) {
	bin := o.kassett
	if bin == "" {
		bin = filepath.Join(work, "kassett")
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./cmd/kassett")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build kassett: %w\n%s", err, out)
		}
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	tools := []*tool{{name: "kassett", path: bin, ours: true, args: resticArgs, initArgs: resticInit}}
	for name := range strings.FieldsFuncSeq(o.peers, func(r rune) bool { return r == ',' }) {
		t := &tool{name: name, args: resticArgs, initArgs: resticInit}
		switch name {
		case "borg":
			t.args, t.initArgs = borgArgs, borgInit
		case "restic":
		default:
			return nil, fmt.Errorf("no peer %q: there are restic and borg; -peer NAME=PATH adds another restic", name)
		}
		if t.path, err = lookPath(name); err != nil {
			return nil, err
		}
		tools = append(tools, t)
	}
	for _, e := range o.extra {
		name, path, _ := strings.Cut(e, "=")
		if path, err = lookPath(path); err != nil {
			return nil, err
		}
		tools = append(tools, &tool{name: name, path: path, args: resticArgs, initArgs: resticInit})
	}
	for _, t := range tools {
		arg := "version"
		if t.name == "borg" {
			arg = "--version"
		}
		out, err := exec.CommandContext(ctx, t.path, arg).Output()
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", t.path, arg, err)
		}
		t.version, _, _ = strings.Cut(string(out), "\n")
	}
	return tools, nil
}

// fresh gives the tool an empty repository, and caches of its own.
func (t *tool) fresh(ctx context.Context, home string) error {
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	t.home, t.repo = home, filepath.Join(home, "repo")
	_, err := measure(t.exec(ctx, t.initArgs(t)))
	return err
}

// exec returns a command of the tool in its own small world.
func (t *tool) exec(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, t.path, args...)
	cmd.Dir = t.home
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + t.home, "TMPDIR=" + t.home,
		"XDG_CACHE_HOME=" + filepath.Join(t.home, "cache"), "KASSETT_CACHE_DIR=" + filepath.Join(t.home, "cache"),
		"KASSETT_PASSWORD=bench", "RESTIC_PASSWORD=bench", "BORG_PASSPHRASE=bench",
		"BORG_BASE_DIR=" + t.home, "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes", "BORG_RELOCATED_REPO_ACCESS_IS_OK=yes",
	}
	return cmd
}

// command returns the command of one phase.
func (t *tool) command(ctx context.Context, phase string, c *corpus) *exec.Cmd {
	return t.exec(ctx, t.args(t, phase, c))
}

// into makes a restore go to dir: restic and Kassett are told, Borg extracts
// where it stands.
func (t *tool) into(cmd *exec.Cmd, dir string) {
	if t.name == "borg" {
		cmd.Dir = dir
		return
	}
	cmd.Args = append(cmd.Args, "--target", dir)
}

// Each tool works with its defaults: what its users get.

func resticInit(t *tool) []string { return []string{"init", "-q", "-r", t.repo} }

func resticArgs(t *tool, phase string, c *corpus) []string {
	switch phase {
	case restore:
		return []string{"restore", "-q", "-r", t.repo, "latest"}
	case check:
		return []string{"check", "-q", "-r", t.repo, "--read-data"}
	case list:
		return []string{"snapshots", "-q", "-r", t.repo}
	}
	return []string{"backup", "-q", "-r", t.repo, c.dir}
}

func borgInit(t *tool) []string { return []string{"init", "-e", "repokey", t.repo} }

func borgArgs(t *tool, phase string, c *corpus) []string {
	switch phase {
	case restore:
		return []string{"extract", t.repo + "::" + changed}
	case check:
		return []string{"check", "--verify-data", t.repo}
	case list:
		return []string{"list", t.repo}
	}
	return []string{"create", t.repo + "::" + phase, c.dir}
}

// lookPath finds a peer, and says how to get it.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: `make deps` installs it; -peers chooses others", err)
	}
	return filepath.Abs(path)
}

// tail returns the last lines of what a command said.
func tail(b *bytes.Buffer) string {
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}
