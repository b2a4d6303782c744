package pruneplan

// Stats are the figures of a plan. Their JSON has restic's names.
type Stats struct {
	Blobs Blobs      `json:"blobs"`
	Bytes Bytes      `json:"bytes"`
	Packs PackCounts `json:"packfiles"`
}

// Blobs counts blobs, one for each place where one rests.
type Blobs struct {
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

// Bytes sums bytes as stored.
type Bytes struct {
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

// PackCounts counts packs.
type PackCounts struct {
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
