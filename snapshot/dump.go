package snapshot

import (
	"context"
	"errors"
	"io"

	"kassett"
	"kassett/repo"
)

// DumpFormat is a format of an archive.
type DumpFormat string

// The formats of an archive.
const (
	Tar DumpFormat = "tar" // PAX, with extended attributes as star writes them
	Zip DumpFormat = "zip"
)

// DumpOptions say how a folder is dumped.
type DumpOptions struct {
	Format   DumpFormat // of folders; empty is Tar
	Progress *kassett.Progress
	// Warn is told what the archive lacks, by path.
	Warn func(path string, err error)
}

// Dump writes what is at path below a tree to w: of a file its content, of a
// folder an archive of all below it. The caller has loaded the index.
func Dump(ctx context.Context, r *repo.Repository, tree kassett.ID, path string, w io.Writer, o DumpOptions) error {
	return errors.ErrUnsupported
}

// DumpFile writes the content of one file to w. A few blobs are read ahead.
func DumpFile(ctx context.Context, r *repo.Repository, n *Node, w io.Writer) error {
	return errors.ErrUnsupported
}
