package clinic

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"kassett/cmd/kassett/terminal"
)

// Program runs kassett with these words, as a user would.
type Program func(ctx context.Context, words ...string) Answer

// Answer is what a run of a program gave.
type Answer struct {
	Code   int // exit code
	Stdout []byte
	Stderr string
}

// Demo goes through some days of the clinic and proves that what it protects
// comes back.
type Demo struct {
	Kassett Program
	Say     func(line string) // told what is being done
	Steps   []Step            // what was done

	dir    string // scratch
	clinic string // what is protected
	repo   string

	counts  Counts
	first   Manifest // the clinic as it was at the first backup
	firstID string
	badID   string   // the snapshot of the ransomed clinic
	skipped []string // proofs that this machine could not give
}

// Step is a step of the demo that was done.
type Step struct {
	Name    string  `json:"step"`
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"`
	Result  string  `json:"result"`
	Proved  bool    `json:"proved"`
}

// NewDemo returns a demo in an empty scratch folder.
func NewDemo(dir string, kassett Program, say func(line string)) *Demo {
	return &Demo{Kassett: kassett, Say: say, dir: dir, clinic: filepath.Join(dir, "clinic"), repo: filepath.Join(dir, "repository")}
}

// PasswordFile returns where the password of the demo's repository is.
func (d *Demo) PasswordFile() string { return filepath.Join(d.dir, "password") }

// Days goes through the steps and ends with the first that is not proved.
func (d *Demo) Days(ctx context.Context) error {
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
		d.Say(s.name + " …")
		begun := time.Now()
		what, result, err := s.work(ctx)
		step := Step{Name: s.name, What: what, Seconds: time.Since(begun).Seconds(), Result: result, Proved: err == nil}
		if err != nil {
			step.Result = "NOT PROVED: see below"
		}
		d.Steps = append(d.Steps, step)
		if err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(s.name), err)
		}
	}
	return nil
}

// Verdict says what follows from the steps. What this machine could not be asked
// is in skipped.
func (d *Demo) Verdict() (proved bool, skipped []string, text string) {
	proved = len(d.Steps) > 0
	for _, s := range d.Steps {
		proved = proved && s.Proved
	}
	if !proved {
		return false, d.skipped, "Not proved: the last step of the table failed."
	}
	text = fmt.Sprintf("Proved: all %s of Monday came back exactly as they were, byte for byte,\nwith owner, mode, time, links and attributes, after a ransom had taken them.", terminal.Plural(d.counts.Files, "file", "files"))
	if len(d.skipped) > 0 {
		text += "\nNot asked on this machine: " + strings.Join(d.skipped, "; ") + "."
	}
	return true, d.skipped, text
}

// run runs a command on a repository of the demo and returns whatever it says.
func (d *Demo) run(ctx context.Context, repo string, words ...string) Answer {
	return d.Kassett(ctx, append([]string{"--repo", repo, "--password-file", d.PasswordFile(), "--cache-dir", filepath.Join(d.dir, "cache")}, words...)...)
}

// must runs a command that has to succeed and returns the last line of its
// JSON in into, unless that is nil.
func (d *Demo) must(ctx context.Context, into any, words ...string) error {
	got := d.run(ctx, d.repo, append([]string{"--json"}, words...)...)
	if got.Code != 0 {
		return fmt.Errorf("kassett %s ended with exit code %d: %s", strings.Join(words, " "), got.Code, strings.TrimSpace(got.Stderr))
	}
	if into == nil {
		return nil
	}
	lines := bytes.Split(bytes.TrimSpace(got.Stdout), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], into); err != nil {
		return fmt.Errorf("read the answer of kassett %s: %w", words[0], err)
	}
	return nil
}
