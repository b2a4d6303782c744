package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/repo"
	"kassett/snapshot"
)

func (a *app) catCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cat config|key|lock|snapshot|index|pack|blob|tree [ID]",
		Short: "Print one object of the repository",
		Long: `Cat prints one object as it is stored, opened: config, key ID, lock ID,
snapshot ID and index ID as JSON; pack ID and blob ID as their bytes; tree
ID[:FOLDER] as the folder of a snapshot.

The master key is not printed.`,
		Args: args(1, 2, "what to print, and its ID"),
		RunE: func(cmd *cobra.Command, given []string) error {
			what, id := given[0], ""
			if len(given) == 2 {
				id = given[1]
			}
			if (id == "") != (what == "config") {
				return invalid("print", terminal.Safe(what), "config has no ID, everything else needs one", errors.New("wrong number of arguments"))
			}
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				return a.cat(ctx, r, what, id)
			})
		},
	}
}

func (a *app) cat(ctx context.Context, r *repo.Repository, what, spec string) error {
	switch what {
	case "config":
		return a.indented(json.Marshal(r.Config()))
	case "key":
		return a.catFile(ctx, r, kassett.KeyFile, spec)
	case "pack":
		return a.catFile(ctx, r, kassett.PackFile, spec)
	case "lock", "snapshot", "index":
		kind := map[string]kassett.FileKind{"lock": kassett.LockFile, "snapshot": kassett.SnapshotFile, "index": kassett.IndexFile}[what]
		if kind == kassett.SnapshotFile && spec == "latest" {
			sn, _, err := snapshot.Find(ctx, r, snapshot.Filter{}, spec)
			if sn == nil {
				return err
			}
			spec = sn.ID.String()
		}
		id, err := r.Resolve(ctx, kind, spec)
		if err != nil {
			return err
		}
		return a.indented(r.LoadUnpacked(ctx, kind, id))
	case "blob":
		return a.catBlob(ctx, r, spec)
	case "tree":
		_, tree, err := a.findTree(ctx, r, snapshot.Filter{}, spec)
		if err != nil {
			return err
		}
		b, err := r.LoadBlob(ctx, repo.BlobHandle{Type: repo.TreeBlob, ID: tree}, nil)
		if err != nil {
			return err
		}
		_, err = a.out.Write(b)
		return err
	}
	return invalid("print", terminal.Safe(what), "use config, key, lock, snapshot, index, pack, blob or tree", errors.New("there is no such object"))
}

// indented prints JSON for people.
func (a *app) indented(b []byte, err error) error {
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = a.out.Write(out.Bytes())
	return err
}

// catFile prints a stored file as it is.
func (a *app) catFile(ctx context.Context, r *repo.Repository, k kassett.FileKind, spec string) (err error) {
	id, err := r.Resolve(ctx, k, spec)
	if err != nil {
		return err
	}
	f, err := r.Storage().Get(ctx, kassett.Handle{Kind: k, ID: id}, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if k == kassett.KeyFile {
		return a.indented(io.ReadAll(io.LimitReader(f, maxSecret)))
	}
	_, err = io.Copy(a.out, f)
	return err
}

func (a *app) catBlob(ctx context.Context, r *repo.Repository, spec string) error {
	id, err := kassett.ParseID(spec)
	if err != nil {
		return invalid("print blob", terminal.Safe(spec), "give all 64 digits; kassett list blobs has them", err)
	}
	if err := a.loadIndex(ctx, r); err != nil {
		return err
	}
	for _, t := range []repo.BlobType{repo.DataBlob, repo.TreeBlob} {
		h := repo.BlobHandle{Type: t, ID: id}
		if !r.Has(h) {
			continue
		}
		b, err := r.LoadBlob(ctx, h, nil)
		if err != nil {
			return err
		}
		_, err = a.out.Write(b)
		return err
	}
	return &kassett.Error{Op: "print blob", What: spec, Kind: kassett.NotFound, Hint: "kassett list blobs lists what there is"}
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:       "list blobs|packs|index|snapshots|keys|locks",
		Short:     "List the objects of the repository",
		Args:      args(1, 1, "blobs, packs, index, snapshots, keys or locks"),
		ValidArgs: []string{"blobs", "packs", "index", "snapshots", "keys", "locks"},
		RunE: func(cmd *cobra.Command, given []string) error {
			n := reading
			if given[0] == "locks" {
				n = unlocked
			}
			return a.within(cmd.Context(), n, func(ctx context.Context, r *repo.Repository) error {
				return a.list(ctx, r, given[0])
			})
		},
	}
}

func (a *app) list(ctx context.Context, r *repo.Repository, what string) error {
	switch what {
	case "blobs":
		return a.listBlobs(ctx, r)
	case "locks":
		return a.listLocks(ctx, r)
	}
	kind, ok := map[string]kassett.FileKind{
		"packs": kassett.PackFile, "index": kassett.IndexFile, "snapshots": kassett.SnapshotFile, "keys": kassett.KeyFile,
	}[what]
	if !ok {
		return invalid("list", terminal.Safe(what), "use blobs, packs, index, snapshots, keys or locks", errors.New("there is nothing of that name"))
	}
	// As the storage gives them: a repository may have millions of packs.
	for info, err := range r.List(ctx, kind) {
		switch {
		case err != nil:
			return err
		case a.flags.json:
			err = a.json(struct {
				ID   kassett.ID `json:"id"`
				Size int64      `json:"size"`
			}{info.ID, info.Size})
		default:
			err = a.print("%s\n", info.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *app) listBlobs(ctx context.Context, r *repo.Repository) error {
	if err := a.loadIndex(ctx, r); err != nil {
		return err
	}
	for at := range r.Blobs() {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		if a.flags.json {
			err = a.json(struct {
				Type   string     `json:"type"`
				ID     kassett.ID `json:"id"`
				Pack   kassett.ID `json:"pack"`
				Offset uint32     `json:"offset"`
				Length uint32     `json:"length"`
				Size   uint32     `json:"size"`
			}{at.Type.String(), at.ID, at.Pack, at.Offset, at.Length, at.Size()})
		} else {
			err = a.print("%s %s\n", at.Type, at.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lockJSON is a lock as JSON, with the names of its file.
type lockJSON struct {
	ID        kassett.ID `json:"id"`
	Time      time.Time  `json:"time"`
	Exclusive bool       `json:"exclusive"`
	Host      string     `json:"hostname"`
	User      string     `json:"username"`
	PID       int        `json:"pid"`
	Stale     bool       `json:"stale"`
}

func (a *app) listLocks(ctx context.Context, r *repo.Repository) error {
	locks, unread := r.Locks(ctx)
	if locks == nil && unread != nil {
		return unread
	}
	if a.flags.json {
		for _, l := range locks {
			if err := a.json(lockJSON{l.ID, l.Time, l.Exclusive, l.Host, l.User, l.PID, l.Stale}); err != nil {
				return err
			}
		}
		return unread
	}
	t := &terminal.Table{Head: []string{"ID", "Kind", "Since", "Host", "User", "Process", ""}}
	for _, l := range locks {
		kind, stale := "shared", ""
		if l.Exclusive {
			kind = "exclusive"
		}
		if l.Stale {
			stale = "stale"
		}
		t.Add(l.ID.Short(), kind, terminal.Stamp(l.Time), l.Host, l.User, fmt.Sprint(l.PID), stale)
	}
	return errors.Join(t.Print(a.out), unread)
}

func (a *app) statsCommand() *cobra.Command {
	var (
		filter filterFlags
		mode   string
	)
	cmd := &cobra.Command{
		Use:   "stats [flags] [ID...]",
		Short: "Count what snapshots hold",
		Long: `Stats counts, in one of these modes:

  restore-size       what restoring every snapshot would write (the default)
  files-by-contents  files of equal content once
  blobs-per-file     pieces once for each path
  raw-data           pieces once, as they are stored`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			m := snapshot.StatsMode(mode)
			if !slices.Contains([]snapshot.StatsMode{snapshot.RestoreSize, snapshot.FilesByContents, snapshot.BlobsPerFile, snapshot.RawData}, m) {
				return invalid("count", terminal.Safe(mode), "use restore-size, files-by-contents, blobs-per-file or raw-data", errors.New("not a mode"))
			}
			return a.within(cmd.Context(), reading, func(ctx context.Context, r *repo.Repository) error {
				list, unread, err := a.snapshotsToChange(ctx, r, filter.filter(), ids)
				if err != nil {
					return err
				}
				p := new(kassett.Progress)
				stop := a.watch(p)
				s, err := snapshot.CountStats(ctx, r, list, m, p)
				stop()
				if err != nil && kassett.KindOf(err) != kassett.Corrupt {
					return err
				}
				return errors.Join(a.tellStats(s, m), err, unread)
			})
		},
	}
	f := cmd.Flags()
	filter.register(f, "H")
	f.StringVar(&mode, "mode", string(snapshot.RestoreSize), "what is counted: restore-size, files-by-contents, blobs-per-file or raw-data `mode`")
	return cmd
}

func (a *app) tellStats(s snapshot.Stats, m snapshot.StatsMode) error {
	if a.flags.json {
		return a.json(s)
	}
	size := func(n uint64) string { return terminal.Bytes(int64(n)) } //nolint:gosec // a display
	meaning := map[snapshot.StatsMode]string{
		snapshot.RestoreSize: "if all of them were restored", snapshot.FilesByContents: "files of equal content counted once",
		snapshot.BlobsPerFile: "pieces counted once for each path", snapshot.RawData: "pieces counted once, as they are stored",
	}[m]
	lines := [][2]string{{"snapshots", terminal.Count(s.SnapshotsCount) + ", " + meaning}}
	if s.TotalFileCount > 0 {
		lines = append(lines, [2]string{"files", terminal.Count(s.TotalFileCount)})
	}
	if s.TotalBlobCount > 0 {
		lines = append(lines, [2]string{"blobs", terminal.Count(s.TotalBlobCount)})
	}
	lines = append(lines, [2]string{"size", size(s.TotalSize)})
	if s.TotalUncompressedSize > 0 {
		lines = append(lines, [2]string{"uncompressed", size(s.TotalUncompressedSize)},
			[2]string{"ratio", fmt.Sprintf("%.2f (%.0f%% saved)", s.CompressionRatio, s.CompressionSpaceSaving)})
	}
	for _, l := range lines {
		if err := a.print("%-13s %s\n", l[0], l[1]); err != nil {
			return err
		}
	}
	return nil
}
