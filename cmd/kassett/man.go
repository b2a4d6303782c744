package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"kassett/cmd/kassett/terminal"
)

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man FOLDER",
		Short: "Write the manual pages into a folder",
		Args:  args(1, 1, "a folder"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if err := os.MkdirAll(given[0], 0o755); err != nil { //nolint:gosec // manual pages are for everyone
				return fmt.Errorf("write manual pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			day := time.Time{}.AddDate(2026, 0, 0) // pages of one version are the same bytes every day
			header := &doc.GenManHeader{Section: "1", Source: "kassett " + version, Manual: "Kassett", Date: &day}
			if err := doc.GenManTree(root, header, given[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return a.summary("manual pages written to %s\n", terminal.Safe(given[0]))
		},
	}
}
