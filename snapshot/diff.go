package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// Change is one difference between two trees.
type Change struct {
	Path string // from "/" on; a folder's ends in a slash
	// Modifier is restic's: "+" added, "-" removed, "T" another type, "M" other
	// content, "M?" other content though all metadata is equal (bits may have
	// rotted), "U" other metadata.
	Modifier string
}

// DiffCount counts one side of a difference.
type DiffCount struct {
	Files     int    `json:"files"`
	Dirs      int    `json:"dirs"`
	Others    int    `json:"others"`
	DataBlobs int    `json:"data_blobs"`
	TreeBlobs int    `json:"tree_blobs"`
	Bytes     uint64 `json:"bytes"` // plaintext of the blobs
}

// DiffStats sums up a difference.
type DiffStats struct {
	ChangedFiles int       `json:"changed_files"`
	Added        DiffCount `json:"added"`
	Removed      DiffCount `json:"removed"`
}

// DiffOptions say what counts as a difference.
type DiffOptions struct {
	Metadata bool // also metadata alone
}

// Diff calls fn for what differs between the trees from and to, in order of
// path. Folders that are the same tree are not opened. Folders that cannot be
// read are named in the error, as by [Walk].
func Diff(ctx context.Context, r *repo.Repository, from, to kassett.ID, o DiffOptions, fn func(Change) error) (DiffStats, error) {
	return DiffStats{}, errors.ErrUnsupported
}
