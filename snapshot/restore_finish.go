package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"runtime"
	"strings"

	"kassett"
)

// finish makes what is no file, gives what is there its metadata, and deletes
// what is too much.
func (rs *restorer) finish(ctx context.Context, b *restoreBatch) error {
	err := rs.each(ctx, len(b.finish), func(ctx context.Context, i int) error { return rs.finishFile(ctx, b.finish[i]) })
	if err != nil {
		return err
	}
	err = rs.each(ctx, len(b.others), func(ctx context.Context, i int) error { return rs.other(ctx, b.others[i]) })
	if err != nil {
		return err
	}
	for _, d := range b.dirs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := rs.finishDir(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// finishFile gives a file whose content is right its metadata.
func (rs *restorer) finishFile(ctx context.Context, e planEntry) error {
	if !rs.o.DryRun {
		if err := rs.target.Finish(ctx, e.path, &e.node.Entry); err != nil {
			return rs.fail(ctx, "/"+e.path, err)
		}
	}
	rs.did(&rs.stats.Unchanged, Unchanged, "/"+e.path, e.node.Size)
	rs.o.Progress.Done(1, int64(e.node.Size)) //nolint:gosec // a display
	return nil
}

// other makes one link, symlink, device or fifo.
func (rs *restorer) other(ctx context.Context, e planEntry) error {
	there, err := rs.lookAt(ctx, e.path)
	if err != nil {
		return rs.fail(ctx, "/"+e.path, err)
	}
	rs.o.Progress.Done(1, 0)
	action := Restored
	if there != nil {
		if rs.leaves(there, e.node) {
			rs.did(&rs.stats.Skipped, Unchanged, "/"+e.path, 0)
			return nil
		}
		same, err := rs.sameOther(ctx, there, e)
		if err != nil {
			return rs.fail(ctx, "/"+e.path, err)
		}
		if action = Updated; same {
			action = Unchanged
		} else if err := rs.replace(ctx, there, e.path); err != nil {
			return rs.fail(ctx, "/"+e.path, err)
		}
	}
	if !rs.o.DryRun {
		if err := rs.makeOther(ctx, e, action != Unchanged); err != nil {
			return rs.fail(ctx, "/"+e.path, err)
		}
	}
	rs.did(&rs.stats.Others, action, "/"+e.path, 0)
	return nil
}

func (rs *restorer) makeOther(ctx context.Context, e planEntry, missing bool) error {
	if missing && e.link != "" {
		return rs.target.Link(ctx, e.link, e.path)
	}
	if missing {
		if err := rs.target.Make(ctx, e.path, &e.node.Entry); err != nil {
			return err
		}
	}
	if e.link != "" {
		return nil // the first name has brought the metadata
	}
	return rs.target.Finish(ctx, e.path, &e.node.Entry)
}

// sameOther reports whether what is there is what is to be made.
func (rs *restorer) sameOther(ctx context.Context, there *kassett.Entry, e planEntry) (bool, error) {
	if there.Type != e.node.Type {
		return false, nil
	}
	switch e.node.Type {
	case kassett.File:
		first, err := rs.lookAt(ctx, e.link)
		if err != nil || first == nil {
			return false, err
		}
		return first.Inode != 0 && first.Inode == there.Inode && first.DeviceID == there.DeviceID, nil
	case kassett.Symlink:
		return there.LinkTarget == e.node.LinkTarget, nil
	case kassett.Device, kassett.CharDevice:
		return there.Device == e.node.Device, nil
	}
	return true, nil
}

// replace removes what is where something else is to be.
func (rs *restorer) replace(ctx context.Context, there *kassett.Entry, path string) error {
	if there.Type == kassett.Dir {
		return rs.clear(ctx, path)
	}
	if rs.o.DryRun {
		return nil
	}
	return rs.target.Remove(ctx, path)
}

// clear removes a folder where something else is to be.
func (rs *restorer) clear(ctx context.Context, path string) error {
	if !rs.o.Delete {
		return &kassett.Error{
			Op: "restore", Kind: kassett.Exists, Err: errors.New("a folder is in its place"),
			Hint: "move the folder away, or allow the restore to delete",
		}
	}
	if rs.o.DryRun {
		return nil
	}
	return rs.target.Remove(ctx, path)
}

// finishDir deletes what is too much in a folder and gives it its metadata.
func (rs *restorer) finishDir(ctx context.Context, d planDir) error {
	if d.tree != nil {
		if err := rs.deleteExtra(ctx, d); err != nil {
			return err
		}
	}
	rs.o.Progress.Done(1, 0)
	if d.node == nil {
		return nil
	}
	if !rs.o.DryRun {
		if err := rs.target.Finish(ctx, d.path, &d.node.Entry); err != nil {
			return rs.fail(ctx, "/"+d.path, err)
		}
	}
	rs.did(&rs.stats.Dirs, Restored, "/"+d.path, 0)
	return nil
}

// deleteExtra removes what is selected and in the folder, but not in its tree.
func (rs *restorer) deleteExtra(ctx context.Context, d planDir) error {
	names, err := rs.show.Names(ctx, d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return rs.fail(ctx, "/"+d.path, err)
	}
	stay := make(map[string]struct{}, len(d.tree.Nodes))
	for _, n := range d.tree.Nodes {
		stay[foldName(n.Name)] = struct{}{}
	}
	for _, name := range names {
		if _, ok := stay[foldName(name)]; ok {
			continue
		}
		path := strings.TrimPrefix(d.path+"/"+name, "/")
		if selected, _ := rs.o.Select("/"+path, nil); !selected {
			continue
		}
		if !rs.o.DryRun {
			if err := rs.target.Remove(ctx, path); err != nil {
				if err := rs.fail(ctx, "/"+path, err); err != nil {
					return err
				}
				continue
			}
		}
		rs.did(&rs.stats.Deleted, Deleted, "/"+path, 0)
	}
	return nil
}

// foldName returns what is equal for names that mean the same file.
func foldName(name string) string {
	if runtime.GOOS == "windows" {
		return strings.ToUpper(name)
	}
	return name
}
