package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/search"
	"kassett/snapshot"
)

func (a *app) searchCommand() *cobra.Command {
	var (
		filter filterFlags
		limit  int
	)
	cmd := &cobra.Command{
		Use:   "search [flags] TEXT",
		Short: "Find files by a part of their name, in all snapshots at once",
		Long: `Search tells where files and folders are whose name holds a text, and which
snapshots have them. Upper and lower case are the same, in every script. A text
with slashes is looked for in the path: its last part begins the name.

The first search reads the folders of all snapshots into an index on this
machine, sealed with a key of the repository; later ones add what is new. Find
looks for patterns instead, and reads all snapshots each time.`,
		Args: args(1, 1, "a text to look for"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.withSearch(cmd.Context(), filter.filter(), func(ctx context.Context, ix *search.Index, list []*snapshot.Snapshot) error {
				n, more := 0, false
				var told error
				err := ix.Search(ctx, list, given[0], func(res *search.Result) bool {
					if more = limit > 0 && n == limit; more {
						return false
					}
					n++
					told = a.found(res)
					return told == nil
				})
				if more && !a.flags.json && !a.flags.quiet {
					a.ui.Say("kassett: there is more; --limit 0 shows all")
				}
				return a.endSearch(n, given[0], errors.Join(err, told))
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.IntVar(&limit, "limit", 100, "show at most this `number` of files; 0 for all")
	return cmd
}

func (a *app) historyCommand() *cobra.Command {
	var filter filterFlags
	cmd := &cobra.Command{
		Use:   "history [flags] PATH",
		Short: "Show every version of one file",
		Long: `History shows each version of a file that a snapshot has: its size, when it was
changed, from which snapshot to which it was there, and in how many. A version
is another content, size, time of change or type; of a folder, another time.

To get one back: kassett restore SNAPSHOT --include PATH --target FOLDER`,
		Args: args(1, 1, "the path of a file, as ls shows it"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.withSearch(cmd.Context(), filter.filter(), func(ctx context.Context, ix *search.Index, list []*snapshot.Snapshot) error {
				n := 0
				var told error
				err := ix.History(ctx, list, given[0], func(res *search.Result) bool {
					n++
					told = a.history(res)
					return told == nil
				})
				return a.endSearch(n, given[0], errors.Join(err, told))
			})
		},
	}
	filter.register(cmd.Flags(), "H")
	return cmd
}

// withSearch brings the index for searching up to date and runs work with the
// snapshots that f chooses.
func (a *app) withSearch(ctx context.Context, f snapshot.Filter, work func(context.Context, *search.Index, []*snapshot.Snapshot) error) error {
	return a.within(ctx, reading, func(ctx context.Context, r *repo.Repository) (err error) {
		list, unread := snapshot.List(ctx, r, snapshot.Filter{})
		if unread != nil && kassett.KindOf(unread) != kassett.Corrupt {
			return unread
		}
		p := new(kassett.Progress)
		ix, err := search.Open(r, search.Options{Progress: p, Warn: func(err error) { a.warn("", err) }})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, ix.Close(), unread) }()
		stop := a.watch(p)
		err = ix.Update(ctx, list)
		stop()
		if err != nil {
			return err
		}
		return work(ctx, ix, slices.DeleteFunc(list, func(sn *snapshot.Snapshot) bool { return !f.Match(sn) }))
	})
}

// endSearch makes it an error when nothing was found.
func (a *app) endSearch(n int, what string, err error) error {
	if err != nil || n > 0 {
		return err
	}
	return &kassett.Error{
		Op: "search", What: terminal.Safe(what), Kind: kassett.NotFound, Err: errors.New("no snapshot has it"),
		Hint: "try a shorter part of the name; kassett snapshots lists what there is",
	}
}

// resultJSON is one file and its versions.
type resultJSON struct {
	Path     string        `json:"path"`
	Host     string        `json:"hostname"`
	Paths    []string      `json:"paths"`
	Versions []versionJSON `json:"versions"`
}

type versionJSON struct {
	Type      kassett.EntryType `json:"type"`
	Size      uint64            `json:"size"`
	ModTime   time.Time         `json:"mtime"`
	Content   string            `json:"content,omitempty"` // equal when the content is
	First     seenJSON          `json:"first"`
	Last      seenJSON          `json:"last"`
	Snapshots int               `json:"snapshots"`
}

type seenJSON struct {
	Snapshot kassett.ID `json:"snapshot"`
	Time     time.Time  `json:"time"`
}

func (a *app) resultAsJSON(res *search.Result) error {
	j := resultJSON{Path: res.Path, Host: res.Host, Paths: res.Paths}
	for _, v := range res.Versions {
		j.Versions = append(j.Versions, versionJSON{
			Type: v.Type, Size: v.Size, ModTime: v.ModTime, Content: v.Content,
			First: seenJSON{v.First.ID, v.First.Time}, Last: seenJSON{v.Last.ID, v.Last.Time}, Snapshots: v.Snapshots,
		})
	}
	if err := a.json(j); err != nil {
		return err
	}
	return a.out.Flush()
}

// found tells of one result of a search, at once.
func (a *app) found(res *search.Result) error {
	if a.flags.json {
		return a.resultAsJSON(res)
	}
	first, last, newest := res.Versions[0].First, res.Versions[0].Last, res.Versions[0]
	for _, v := range res.Versions {
		if v.First.Time.Before(first.Time) {
			first = v.First
		}
		if v.Last.Time.After(last.Time) {
			last, newest = v.Last, v
		}
	}
	var what []string
	if newest.Type == kassett.Dir {
		what = append(what, "folder")
	} else {
		what = append(what, terminal.Bytes(int64(min(newest.Size, 1<<62)))) //nolint:gosec // bounded
		if n := len(res.Versions); n > 1 {
			what = append(what, terminal.Plural(n, "version", "versions"))
		}
	}
	if first.ID == last.ID {
		what = append(what, fmt.Sprintf("only in %s of %s", first.ID.Short(), terminal.Stamp(first.Time)))
	} else {
		what = append(what, fmt.Sprintf("from %s of %s to %s of %s", first.ID.Short(), terminal.Stamp(first.Time), last.ID.Short(), terminal.Stamp(last.Time)))
	}
	return errors.Join(a.print("%s\n    %s, host %s\n", terminal.Safe(res.Path), strings.Join(what, ", "), terminal.Safe(res.Host)), a.out.Flush())
}

// history prints the versions of one file.
func (a *app) history(res *search.Result) error {
	if a.flags.json {
		return a.resultAsJSON(res)
	}
	err := a.print("%s, host %s, paths %s\n", terminal.Safe(res.Path), terminal.Safe(res.Host), terminal.Safe(strings.Join(res.Paths, ", ")))
	for _, v := range res.Versions {
		what := "folder"
		switch v.Type {
		case kassett.Dir:
		case kassett.File:
			what = terminal.Bytes(int64(min(v.Size, 1<<62))) //nolint:gosec // bounded
		default:
			what = string(v.Type)
		}
		line := fmt.Sprintf("  changed %s  %-10s  %s", terminal.Stamp(v.ModTime), what, terminal.Plural(v.Snapshots, "snapshot", "snapshots"))
		if v.First.ID == v.Last.ID {
			line += fmt.Sprintf(": %s of %s", v.First.ID.Short(), terminal.Stamp(v.First.Time))
		} else {
			line += fmt.Sprintf(": %s of %s to %s of %s", v.First.ID.Short(), terminal.Stamp(v.First.Time), v.Last.ID.Short(), terminal.Stamp(v.Last.Time))
		}
		err = errors.Join(err, a.print("%s\n", line))
	}
	return err
}
