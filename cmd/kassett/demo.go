package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

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

func (a *app) demo(ctx context.Context, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "kassett-demo-")
	if err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	d := clinic.NewDemo(dir, a.asUser, func(line string) { a.ui.Line(line) })
	defer func() {
		if keep {
			a.ui.Say("the scratch folder stays: %s (password in %s)", dir, d.PasswordFile())
			return
		}
		err = errors.Join(err, removeAll(dir))
	}()
	failed := d.Days(ctx)
	if err := a.demoTable(d); err != nil {
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

// demoTable prints what was done, and what follows from it.
func (a *app) demoTable(d *clinic.Demo) error {
	proved, skipped, verdict := d.Verdict()
	if a.flags.json {
		return a.json(struct {
			MessageType string        `json:"message_type"`
			Proved      bool          `json:"proved"`
			Skipped     []string      `json:"not_asked,omitempty"`
			Steps       []clinic.Step `json:"steps"`
			Verdict     string        `json:"verdict"`
		}{"demo", proved, skipped, d.Steps, verdict})
	}
	t := &terminal.Table{Head: []string{"Step", "What", "Seconds", "Result"}, Right: []bool{2: true}}
	for _, s := range d.Steps {
		t.Add(s.Name, s.What, fmt.Sprintf("%.1f", s.Seconds), s.Result)
	}
	if err := t.Print(a.out); err != nil {
		return err
	}
	return a.print("\n%s\n", verdict)
}

// asUser runs a command as a user would, without what this run was told by its
// flags and its environment.
func (a *app) asUser(ctx context.Context, words ...string) clinic.Answer {
	var stdout, stderr bytes.Buffer
	e := a.env
	e.args = words
	e.stdin, e.stdout, e.stderr = strings.NewReader(""), &stdout, &stderr
	e.stdinTerminal, e.stderrTerminal, e.stdoutTerminal = false, false, false
	e.getenv = func(name string) string {
		if strings.HasPrefix(name, envPrefix) {
			return ""
		}
		return a.getenv(name)
	}
	code := run(ctx, e)
	return clinic.Answer{Code: code, Stdout: stdout.Bytes(), Stderr: stderr.String()}
}
