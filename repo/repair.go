package repo

import (
	"context"
	"errors"
	"io"

	"kassett"
)

// RepairOptions is for [Repository.RepairIndex] and [Repository.RepairPacks].
type RepairOptions struct {
	// ReadAllPacks makes RepairIndex read the header of every pack, not only
	// of those whose size is not what the index says.
	ReadAllPacks bool
	// Salvage takes the bytes of a damaged pack before it is deleted. It
	// reads raw to its end. When nil they are kept beside the repository,
	// as salvage/ID.
	Salvage  func(pack kassett.ID, raw io.Reader) error
	Progress *kassett.Progress
}

// RepairStats is what a repair did.
type RepairStats struct {
	PacksRead    int `json:"packs_read"`
	PacksAdded   int `json:"packs_added"`   // to the index
	PacksDropped int `json:"packs_dropped"` // from the index, or deleted
	IndexFiles   int `json:"index_files"`   // removed
	Salvaged     int `json:"blobs_salvaged"`
	Lost         int `json:"blobs_lost"` // in no pack any more
}

// RepairIndex makes the index name what is in the packs.
func (r *Repository) RepairIndex(ctx context.Context, o RepairOptions, report func(Finding)) (RepairStats, error) {
	return RepairStats{}, errors.ErrUnsupported
}

// RepairPacks moves what can be read out of damaged packs into new ones.
func (r *Repository) RepairPacks(ctx context.Context, ids []kassett.ID, o RepairOptions, report func(Finding)) (RepairStats, error) {
	return RepairStats{}, errors.ErrUnsupported
}
