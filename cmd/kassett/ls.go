package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) lsCommand() *cobra.Command {
	var (
		filter filterFlags
		v      lsView
	)
	cmd := &cobra.Command{
		Use:   "ls [flags] ID|latest[:FOLDER] [FOLDER...]",
		Short: "List the files in a snapshot",
		Long: `Ls lists what a snapshot holds: everything, or what is directly in the folders
named (with --recursive: everything below them). Of ID:FOLDER the paths begin at
that folder.`,
		Args: args(1, -1, "a snapshot, and perhaps folders in it"),
		RunE: func(cmd *cobra.Command, given []string) error {
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.ls(ctx, r, filter.filter(), given, v)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.BoolVarP(&v.long, "long", "l", false, "show mode, owner, size and time")
	f.BoolVar(&v.recursive, "recursive", false, "also what is in folders of the folders named")
	f.BoolVar(&v.human, "human-readable", false, "show sizes as people read them")
	return cmd
}

// lsView says how files are listed.
type lsView struct{ long, recursive, human bool }

func (a *app) ls(ctx context.Context, r *repo.Repository, f snapshot.Filter, given []string, v lsView) error {
	sn, tree, err := a.findTree(ctx, r, f, given[0])
	if err != nil {
		return err
	}
	if a.flags.json {
		err = a.json(struct {
			snapshotJSON
			MessageType string `json:"message_type"`
		}{asJSON(sn), "snapshot"})
	} else if !a.flags.quiet {
		a.ui.Say("snapshot %s of %s from host %s, paths %s:", sn.ID.Short(), terminal.Stamp(sn.Time), terminal.Safe(sn.Hostname), terminal.Safe(strings.Join(sn.Paths, ", ")))
	}
	if err != nil {
		return err
	}
	folders := given[1:]
	for _, dir := range folders {
		if !strings.HasPrefix(dir, "/") {
			return invalid("list folder", terminal.Safe(dir), "write it from the root of the snapshot on: /"+terminal.Safe(dir), errors.New("not an absolute path"))
		}
		if _, err := snapshot.Folder(ctx, r, tree, dir); err != nil {
			return fmt.Errorf("list folder %s: %w", terminal.Safe(dir), err)
		}
	}
	return snapshot.Walk(ctx, r, tree, func(p string, n *snapshot.Node) error {
		show, enter := within(folders, p, v.recursive)
		if show {
			if err := a.node(p, n, v); err != nil {
				return err
			}
		}
		if !enter && n.Type == kassett.Dir {
			return fs.SkipDir
		}
		return nil
	})
}

// within reports whether what is at p is listed when these folders were asked
// for, and whether something below it may be.
func within(folders []string, p string, recursive bool) (show, enter bool) {
	if len(folders) == 0 {
		return true, true
	}
	for _, dir := range folders {
		dir = path.Clean(dir)
		below := dir == "/" || strings.HasPrefix(p, dir+"/")
		direct := path.Dir(p) == dir
		show = show || direct || below && recursive || p == dir
		enter = enter || p == dir || strings.HasPrefix(dir, p+"/") || below && recursive
	}
	return show, enter
}

// nodeJSON is one entry of a snapshot as JSON, with restic's names.
type nodeJSON struct {
	Name        string            `json:"name"`
	Type        kassett.EntryType `json:"type"`
	Path        string            `json:"path"`
	UID         uint32            `json:"uid"`
	GID         uint32            `json:"gid"`
	User        string            `json:"user,omitempty"`
	Group       string            `json:"group,omitempty"`
	Size        *uint64           `json:"size,omitempty"` // of files
	Mode        fs.FileMode       `json:"mode,omitempty"`
	Permissions string            `json:"permissions,omitempty"`
	ModTime     time.Time         `json:"mtime"`
	AccessTime  time.Time         `json:"atime"`
	ChangeTime  time.Time         `json:"ctime"`
	Inode       uint64            `json:"inode,omitempty"`
	LinkTarget  string            `json:"linktarget,omitempty"`
	MessageType string            `json:"message_type,omitempty"`
}

func nodeAsJSON(p string, n *snapshot.Node, message string) nodeJSON {
	j := nodeJSON{
		Name: n.Name, Type: n.Type, Path: p, UID: n.UID, GID: n.GID, User: n.User, Group: n.Group,
		Mode: n.Mode, Permissions: n.Mode.String(), ModTime: n.ModTime, AccessTime: n.AccessTime,
		ChangeTime: n.ChangeTime, Inode: n.Inode, LinkTarget: n.LinkTarget, MessageType: message,
	}
	if n.Type == kassett.File {
		j.Size = &n.Size
	}
	return j
}

// node prints one entry.
func (a *app) node(p string, n *snapshot.Node, v lsView) error {
	if a.flags.json {
		return a.json(nodeAsJSON(p, n, "node"))
	}
	if !v.long {
		return a.print("%s\n", terminal.Safe(p))
	}
	return a.print("%s\n", longNode(p, n, v.human))
}

// longNode is one entry in a line: mode, owner, size, time and path.
func longNode(p string, n *snapshot.Node, human bool) string {
	size := fmt.Sprintf("%12d", n.Size)
	if human {
		size = fmt.Sprintf("%10s", terminal.Bytes(int64(n.Size))) //nolint:gosec // a display
	}
	link := ""
	if n.Type == kassett.Symlink {
		link = " -> " + terminal.Safe(n.LinkTarget)
	}
	return fmt.Sprintf("%s %5d %5d %s %s %s%s", n.Mode, n.UID, n.GID, size, terminal.Stamp(n.ModTime), terminal.Safe(p), link)
}
