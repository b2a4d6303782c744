package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) dumpCommand() *cobra.Command {
	var (
		filter  filterFlags
		archive string
		x       dumpFlags
	)
	cmd := &cobra.Command{
		Use:   "dump [flags] ID|latest[:FOLDER] PATH",
		Short: "Write one file, or a folder as an archive, to stdout",
		Long: `Dump writes the content of one file to standard output. A folder becomes a tar
or zip archive; / is the whole snapshot.

  kassett dump latest /srv/journal.sql | psql
  kassett dump latest /etc > etc.tar`,
		Args: args(2, 2, "a snapshot and a path in it"),
		RunE: func(cmd *cobra.Command, given []string) error {
			o := &x.options
			x.path, o.Format, o.Warn = given[1], snapshot.DumpFormat(archive), a.warn
			if o.Format != snapshot.Tar && o.Format != snapshot.Zip {
				return invalid("dump", terminal.Safe(archive), "use tar or zip", errors.New("not a format of an archive"))
			}
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				_, tree, err := a.findTree(ctx, r, filter.filter(), given[0])
				if err != nil {
					return err
				}
				return a.dump(ctx, r, tree, x)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.StringVarP(&archive, "archive", "a", "tar", "write folders as `format` tar or zip")
	f.StringVarP(&x.target, "target", "t", "", "write to `file` instead of standard output")
	return cmd
}

// dumpFlags say what is dumped, and where to.
type dumpFlags struct {
	path, target string
	options      snapshot.DumpOptions
}

func (a *app) dump(ctx context.Context, r *repo.Repository, tree kassett.ID, x dumpFlags) (err error) {
	o := x.options
	var w io.Writer = a.out
	if x.target != "" {
		f, err := os.OpenFile(x.target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("write dump: %w", err)
		}
		buffered := bufio.NewWriterSize(f, 1<<20)
		w = buffered
		defer func() { err = errors.Join(err, buffered.Flush(), f.Close()) }()
	} else if a.stdoutTerminal {
		return invalid("dump", terminal.Safe(x.path), "send it into a file or a program: kassett dump … > file, or use --target", errors.New("standard output is a terminal"))
	}
	// No progress to watch without a target: the reader of stdout shows its own.
	if x.target != "" {
		o.Progress = new(kassett.Progress)
		stop := a.watch(o.Progress)
		defer stop()
	}
	return snapshot.Dump(ctx, r, tree, x.path, w, o)
}
