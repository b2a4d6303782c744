package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/clinic"
	"kassett/cmd/kassett/terminal"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show all of it on a small invented clinic",
		Long: `Demo makes a small clinic in a scratch folder, with real files of this machine
and invented patients, and goes through its days: it is backed up, changed, hit
by a fake ransom, backed up again, checked, restored and compared byte for byte.
Nothing outside the scratch folder is written, and no network is used.

The exit code is 0 only if every step was proved.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.demo(cmd.Context(), keep) },
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the scratch folder, to look around in it")
	return cmd
}

// demo is one run of the demonstration.
type demo struct {
	a      *app
	dir    string // scratch
	clinic string // what is protected
	repo   string

	counts  clinic.Counts
	first   clinic.Manifest // the clinic as it was at the first backup
	firstID string
	badID   string // the snapshot of the ransomed clinic
	steps   []demoStep
	skipped []string // proofs that this machine could not give
}

// demoStep is one row of the table.
type demoStep struct {
	Name    string  `json:"step"`
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"`
	Proved  bool    `json:"proved"`
}

func (a *app) demo(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "kassett-demo-")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	defer func() {
		if keep {
			a.ui.Say("the scratch folder stays: %s (password in %s)", dir, filepath.Join(dir, "password"))
			return
		}
		err = errors.Join(err, removeAll(dir))
	}()
	d := &demo{a: a, dir: dir, clinic: filepath.Join(dir, "clinic"), repo: filepath.Join(dir, "repository")}
	failed := d.days(ctx)
	if err := d.table(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed != nil {
		return &kassett.Error{Op: "demo", Err: failed, Hint: "run kassett demo --keep and look at what it left"}
	}
	return nil
}

// removeAll removes the scratch folder, also what was restored read-only.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // removing it will say so
		case e.IsDir():
			_ = os.Chmod(path, 0o700) //nolint:gosec // a folder must be entered to be emptied
		case e.Type().IsRegular() && runtime.GOOS == "windows":
			_ = os.Chmod(path, 0o600) // a file that is read-only stays there
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// days goes through the steps and ends with the first that is not proved.
func (d *demo) days(ctx context.Context) error {
	for _, s := range []struct {
		name string
		work func(context.Context) (what, result string, err error)
	}{
		{"Open the clinic", d.open},
		{"Make a repository", d.makeRepository},
		{"Back up: Monday", d.backupFirst},
		{"Work, then a ransom", d.change},
		{"Back up: Tuesday", d.backupSecond},
		{"Check every byte", d.check},
		{"Restore Monday", d.restore},
		{"Compare", d.compare},
		{"Ask stock restic", d.askRestic},
		{"Damage a copy", d.damage},
		{"Hold Monday", d.hold},
		{"Mend the clinic", d.mend},
		{"Back up: Wednesday", d.backupThird},
		{"Forget and prune", d.forget},
	} {
		d.a.ui.Say("%s …", s.name)
		begun := time.Now()
		what, result, err := s.work(ctx)
		step := demoStep{Name: s.name, What: what, Seconds: time.Since(begun).Seconds(), Result: result, Proved: err == nil}
		if err != nil {
			step.Result = "NOT PROVED: see below"
		}
		d.steps = append(d.steps, step)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(s.name), err)
		}
	}
	return nil
}

// table prints what was done, and what follows from it.
func (d *demo) table() error {
	proved := true
	t := &terminal.Table{Head: []string{"Step", "What", "Seconds", "Result"}, Right: []bool{2: true}}
	for _, s := range d.steps {
		proved = proved && s.Proved
		t.Add(s.Name, s.What, fmt.Sprintf("%.1f", s.Seconds), s.Result)
	}
	verdict := fmt.Sprintf("Proved: all %s of Monday came back exactly as they were, byte for byte,\nwith owner, mode, time, links and attributes, after a ransom had taken them.", terminal.Plural(d.counts.Files, "file", "files"))
	if !proved || len(d.steps) == 0 {
		verdict = "Not proved: the last step of the table failed."
	} else if len(d.skipped) > 0 {
		verdict += "\nNot asked on this machine: " + strings.Join(d.skipped, "; ") + "."
	}
	if d.a.flags.json {
		return d.a.json(struct {
			MessageType string     `json:"message_type"`
			Proved      bool       `json:"proved"`
			Skipped     []string   `json:"not_asked,omitempty"`
			Steps       []demoStep `json:"steps"`
			Verdict     string     `json:"verdict"`
		}{"demo", proved, d.skipped, d.steps, verdict})
	}
	if err := t.Print(d.a.out); err != nil {
		return err
	}
	return d.a.print("\n%s\n", verdict)
}

// answer is what a run of kassett inside the demo gave.
type answer struct {
	code   int
	stdout []byte
	stderr string
}

// kassett runs a command as a user would, on the demo's repository, and
// returns whatever it says.
func (d *demo) kassett(ctx context.Context, repo string, words ...string) answer {
	var stdout, stderr bytes.Buffer
	e := d.a.env
	e.args = append([]string{"--repo", repo, "--password-file", filepath.Join(d.dir, "password"), "--cache-dir", filepath.Join(d.dir, "cache")}, words...)
	e.stdin, e.stdout, e.stderr = strings.NewReader(""), &stdout, &stderr
	e.stdinTerminal, e.stderrTerminal, e.stdoutTerminal = false, false, false
	e.getenv = func(name string) string {
		if strings.HasPrefix(name, envPrefix) {
			return ""
		}
		return d.a.getenv(name)
	}
	code := run(ctx, e)
	return answer{code, stdout.Bytes(), stderr.String()}
}

// must runs a command that has to succeed and returns the last line of its
// JSON in into, unless that is nil.
func (d *demo) must(ctx context.Context, into any, words ...string) error {
	got := d.kassett(ctx, d.repo, append([]string{"--json"}, words...)...)
	if got.code != 0 {
		return fmt.Errorf("kassett %s ended with exit code %d: %s", strings.Join(words, " "), got.code, strings.TrimSpace(got.stderr))
	}
	if into == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(got.stdout), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], into); err != nil {
		return fmt.Errorf("read the answer of kassett %s: %w", words[0], err)
	}
	return nil
}
