package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
)

var update = flag.Bool("update", false, "write docs/handbook/commands.md anew")

// TestCommandsPage compares the handbook's page of commands with the program.
func TestCommandsPage(t *testing.T) {
	t.Parallel()
	a := &app{env: env{getenv: func(string) string { return "" }}}
	root := a.root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var b bytes.Buffer
	b.WriteString("# Commands\n\nWritten from the program by `go test ./cmd/kassett -run CommandsPage -update`. `kassett help COMMAND` and the manual\npages (`kassett man FOLDER`) say the same.\n\n")
	b.WriteString("## Flags of every command\n\n```\n" + root.PersistentFlags().FlagUsagesWrapped(110) + "```\n")
	for _, g := range root.Groups() {
		fmt.Fprintf(&b, "\n# %s\n", strings.TrimSuffix(g.Title, ":"))
		for _, c := range root.Commands() {
			if c.GroupID == g.ID && c.Name() != "help" && c.Name() != "completion" {
				describe(&b, c)
			}
		}
	}
	page := filepath.Join("..", "..", "docs", "handbook", "commands.md")
	if *update {
		if err := os.WriteFile(page, b.Bytes(), 0o644); err != nil { //nolint:gosec // a page for everyone
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not what the program says; -update writes it anew (%v)", page, err)
	}
}

// describe writes a command and those below it.
func describe(b *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", c.CommandPath(), c.Short, c.UseLine())
	if c.Long != "" {
		fmt.Fprintf(b, "\n```text\n%s\n```\n", c.Long)
	}
	if flags := c.LocalNonPersistentFlags().FlagUsagesWrapped(110); flags != "" {
		fmt.Fprintf(b, "\n```\n%s```\n", flags)
	}
	for _, sub := range c.Commands() {
		describe(b, sub)
	}
}

// TestEveryCommandIsDescribed holds the words of every command to a few rules.
func TestEveryCommandIsDescribed(t *testing.T) {
	t.Parallel()
	a := &app{env: env{getenv: func(string) string { return "" }}}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its short text is %q; want one line without a full stop", c.CommandPath(), c.Short)
		}
		for line := range strings.Lines(c.Long) {
			if terminal.Columns(strings.TrimRight(line, "\n")) > 80 {
				t.Errorf("%s: a line of its text has more than 80 columns: %s", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
}

// TestExitCodesPage compares the handbook's table of exit codes with the kinds
// of error.
func TestExitCodesPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "handbook", "exit-codes.md"))
	if err != nil {
		t.Fatal(err)
	}
	for k := kassett.Other; k <= kassett.Interrupted; k++ {
		if row := fmt.Sprintf("| %d | %s |", k.Exit(), k); !bytes.Contains(page, []byte(row)) {
			t.Errorf("exit-codes.md lacks the row %q", row)
		}
		if nextSteps[k] == "" {
			t.Errorf("the kind %q has no next step", k)
		}
	}
}
