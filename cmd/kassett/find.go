package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/source/files"
)

type findFlags struct {
	filter                  filterFlags
	oldest, newest          timeFlag
	ids                     []string
	fold, reverse           bool
	blob, tree, pack, packs bool
	view                    lsView
}

func (a *app) findCommand() *cobra.Command {
	x := &findFlags{}
	cmd := &cobra.Command{
		Use:   "find [flags] PATTERN...",
		Short: "Find files in all snapshots",
		Long: `Find looks for files and folders by name or path, in all snapshots or in the
ones chosen. Patterns are those of --exclude: *.pdf, journal/2024/*, /srv/**/x.

With --blob, --tree or --pack the arguments are IDs, and it tells which files
use them: after a check named a damaged pack, this says what is concerned.`,
		Args: args(1, -1, "patterns"),
		RunE: func(cmd *cobra.Command, given []string) error {
			if x.blob && x.tree || x.tree && x.pack || x.pack && x.blob {
				return invalid("find", "", "use one of --blob, --tree and --pack", errors.New("an ID is of one kind only"))
			}
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.find(ctx, r, x, given)
			})
		},
	}
	f := cmd.Flags()
	x.filter.register(f, "H")
	f.VarP(&x.oldest, "oldest", "O", "only what was changed at this `time` or later")
	f.VarP(&x.newest, "newest", "N", "only what was changed at this `time` or before")
	f.StringArrayVarP(&x.ids, "snapshot", "s", nil, "look in this snapshot `ID` (may be given again)")
	f.BoolVarP(&x.fold, "ignore-case", "i", false, "upper and lower case are the same")
	f.BoolVarP(&x.reverse, "reverse", "R", false, "oldest snapshots first")
	f.BoolVar(&x.blob, "blob", false, "arguments are IDs of blobs")
	f.BoolVar(&x.tree, "tree", false, "arguments are IDs of trees")
	f.BoolVar(&x.pack, "pack", false, "arguments are IDs of packs")
	f.BoolVar(&x.packs, "show-pack-id", false, "tell in which packs the objects are (with --blob or --tree)")
	f.BoolVarP(&x.view.long, "long", "l", false, "show mode, owner, size and time")
	f.BoolVar(&x.view.human, "human-readable", false, "show sizes as people read them")
	return cmd
}

func (a *app) find(ctx context.Context, r *repo.Repository, x *findFlags, given []string) error {
	list, unread := snapshot.FindAll(ctx, r, x.filter.filter(), x.ids)
	if list == nil && unread != nil {
		return unread
	}
	if !x.reverse {
		slices.Reverse(list)
	}
	if err := a.loadIndex(ctx, r); err != nil {
		return err
	}
	if x.blob || x.tree || x.pack {
		return errors.Join(a.findObjects(ctx, r, x, list, given), unread)
	}
	patterns, err := files.NewPatterns(given, x.fold)
	if err != nil {
		return err
	}
	o := snapshot.FindOptions{Oldest: x.oldest.Time, Newest: x.newest.Time}
	o.Select = func(path string, _ *snapshot.Node) (bool, bool) { return patterns.MatchChild(files.NewPath(path)) }
	return errors.Join(a.findFiles(ctx, r, x, list, o), unread)
}

// findResult is what was found in one snapshot, with restic's names.
type findResult struct {
	Matches  []nodeJSON `json:"matches"`
	Hits     int        `json:"hits"`
	Snapshot kassett.ID `json:"snapshot"`
}

func (a *app) findFiles(ctx context.Context, r *repo.Repository, x *findFlags, list []*snapshot.Snapshot, o snapshot.FindOptions) error {
	all := []findResult{}
	var damaged error
	for _, sn := range list {
		res := findResult{Snapshot: sn.ID}
		err := snapshot.FindNodes(ctx, r, sn.Tree, o, func(p string, n *snapshot.Node) error {
			res.Hits++
			if a.flags.json {
				res.Matches = append(res.Matches, nodeAsJSON(p, n, ""))
				return nil
			}
			if res.Hits == 1 {
				if err := a.print("in snapshot %s of %s:\n", sn.ID.Short(), terminal.Stamp(sn.Time)); err != nil {
					return err
				}
			}
			return a.node(p, n, x.view)
		})
		if res.Hits > 0 {
			all = append(all, res)
		}
		if err != nil && kassett.KindOf(err) != kassett.Corrupt {
			return err
		}
		damaged = errors.Join(damaged, err)
	}
	if a.flags.json {
		return errors.Join(a.json(all), damaged)
	}
	return damaged
}

// hitJSON is one place where an object is used, with restic's names.
type hitJSON struct {
	ObjectType string       `json:"object_type"`
	ID         kassett.ID   `json:"id"`
	Path       string       `json:"path"`
	ParentTree string       `json:"parent_tree,omitempty"`
	Snapshot   kassett.ID   `json:"snapshot"`
	Time       time.Time    `json:"time"`
	Packs      []kassett.ID `json:"packs,omitempty"`
}

func (a *app) findObjects(ctx context.Context, r *repo.Repository, x *findFlags, list []*snapshot.Snapshot, ids []string) error {
	kind := snapshot.BlobObject
	switch {
	case x.tree:
		kind = snapshot.TreeObject
	case x.pack:
		kind = snapshot.PackObject
	}
	all := []hitJSON{}
	err := snapshot.FindObjects(ctx, r, list, kind, ids, func(h snapshot.Hit) error {
		var packs []kassett.ID
		if x.packs {
			packs = packsOf(r, h)
		}
		if a.flags.json {
			j := hitJSON{ObjectType: string(h.Kind), ID: h.ID, Path: h.Path, Snapshot: h.Snapshot.ID, Time: h.Snapshot.Time}
			if !h.Parent.IsZero() {
				j.ParentTree = h.Parent.String()
			}
			j.Packs = packs
			all = append(all, j)
			return nil
		}
		line := fmt.Sprintf("%s %s is used by %s in snapshot %s of %s", h.Kind, h.ID, terminal.Safe(h.Path), h.Snapshot.ID.Short(), terminal.Stamp(h.Snapshot.Time))
		if x.packs {
			line += fmt.Sprintf(", rests in %v", packs)
		}
		return a.print("%s\n", line)
	})
	if a.flags.json {
		return errors.Join(a.json(all), err)
	}
	return err
}

// packsOf returns where an object rests.
func packsOf(r *repo.Repository, h snapshot.Hit) (packs []kassett.ID) {
	t := repo.DataBlob
	if h.Kind == snapshot.TreeObject {
		t = repo.TreeBlob
	}
	for _, at := range r.Lookup(repo.BlobHandle{Type: t, ID: h.ID}) {
		packs = append(packs, at.Pack)
	}
	return packs
}
