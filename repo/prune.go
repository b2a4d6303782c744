package repo

import (
	"context"
	"errors"

	"kassett"
)

// PruneOptions says how much a prune may leave and how much it may move. The
// zero PruneOptions are restic's defaults.
type PruneOptions struct {
	MaxUnused          Unused // how much garbage may stay in kept packs
	MaxRepackSize      int64  // bytes of packs to rewrite at most; 0 = no limit, negative = none
	RepackSmall        int64  // bytes: smaller packs are rewritten; 0 = chosen from the packs there are
	RepackUncompressed bool   // rewrite packs with uncompressed blobs
	RepackTreesOnly    bool   // leave packs of data alone (restic's --repack-cacheable-only)
	DryRun             bool   // plan only
	Progress           *kassett.Progress
}

// PruneStats is what a prune did, or in a dry run would do. Its JSON has
// restic's names.
type PruneStats struct {
	MessageType string     `json:"message_type"` // "summary"
	Blobs       PruneBlobs `json:"blobs"`
	Bytes       PruneBytes `json:"bytes"`
	Packs       PrunePacks `json:"packfiles"`
}

// PruneBlobs counts blobs, one for each place where one rests.
type PruneBlobs struct {
	Used         uint64 `json:"used"`
	Duplicate    uint64 `json:"duplicate"` // further copies of used blobs
	Unused       uint64 `json:"unused"`
	Total        uint64 `json:"total"`
	Repack       uint64 `json:"repack"`        // in packs to rewrite
	RepackRemove uint64 `json:"repack_remove"` // of those, not kept
	Remove       uint64 `json:"remove"`        // in packs to delete
	RemoveTotal  uint64 `json:"remove_total"`
	Remaining    uint64 `json:"remaining"`
}

// PruneBytes sums bytes as stored.
type PruneBytes struct {
	Used            uint64 `json:"used"`
	Duplicate       uint64 `json:"duplicate"`
	Unused          uint64 `json:"unused"`
	Unreferenced    uint64 `json:"unreferenced"` // packs that no index file names
	Uncompressed    uint64 `json:"uncompressed"` // remaining in packs with uncompressed blobs
	Total           uint64 `json:"total"`
	Repack          uint64 `json:"repack"`
	RepackRemove    uint64 `json:"repack_remove"`
	Remove          uint64 `json:"remove"`
	RemoveTotal     uint64 `json:"remove_total"`
	Remaining       uint64 `json:"remaining"`
	RemainingUnused uint64 `json:"remaining_unused"`
}

// PrunePacks counts packs.
type PrunePacks struct {
	Used         uint64 `json:"used"` // wholly
	Unused       uint64 `json:"unused"`
	PartlyUsed   uint64 `json:"partly_used"`
	Unreferenced uint64 `json:"unreferenced"`
	Total        uint64 `json:"total"`
	Keep         uint64 `json:"keep"`
	Repack       uint64 `json:"repack"`
	Remove       uint64 `json:"remove"`
	RemoveTotal  uint64 `json:"remove_total"`
}

// Prune removes what no blob of used needs. The caller holds an exclusive
// lock, has loaded the index under it, and has put every blob of every
// snapshot into used.
func (r *Repository) Prune(ctx context.Context, used *BlobSet, o PruneOptions) (PruneStats, error) {
	return PruneStats{}, errors.ErrUnsupported
}
