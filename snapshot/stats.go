package snapshot

import (
	"context"
	"errors"

	"kassett"
	"kassett/repo"
)

// StatsMode says what is counted. The words are restic's.
type StatsMode string

// The modes of counting.
const (
	RestoreSize     StatsMode = "restore-size"      // what restoring every snapshot would write
	FilesByContents StatsMode = "files-by-contents" // files of equal content once
	BlobsPerFile    StatsMode = "blobs-per-file"    // blobs once for each path
	RawData         StatsMode = "raw-data"          // blobs once, as stored
)

// Stats is what was counted, in the JSON of restic. Sizes are in bytes.
type Stats struct {
	TotalSize              uint64  `json:"total_size"`
	TotalUncompressedSize  uint64  `json:"total_uncompressed_size,omitempty"`
	CompressionRatio       float64 `json:"compression_ratio,omitempty"`
	CompressionProgress    float64 `json:"compression_progress,omitempty"`     // percent
	CompressionSpaceSaving float64 `json:"compression_space_saving,omitempty"` // percent
	TotalFileCount         uint64  `json:"total_file_count,omitempty"`
	TotalBlobCount         uint64  `json:"total_blob_count,omitempty"`
	SnapshotsCount         int     `json:"snapshots_count"`
}

// CountStats counts what the snapshots hold. The caller has loaded the index.
func CountStats(ctx context.Context, r *repo.Repository, list []*Snapshot, mode StatsMode, p *kassett.Progress) (Stats, error) {
	return Stats{}, errors.ErrUnsupported
}
