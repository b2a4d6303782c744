package snapshot

import (
	"context"
	"fmt"
	"sync"

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

// CountStats counts what the snapshots hold. A tree that cannot be read is an
// error. The caller has loaded the index.
func CountStats(ctx context.Context, r *repo.Repository, list []*Snapshot, mode StatsMode, p *kassett.Progress) (Stats, error) {
	p.Enter("count")
	c := &counter{r: r, p: p, stats: Stats{SnapshotsCount: len(list)}, seen: map[kassett.ID]struct{}{}}
	var err error
	switch mode {
	case RestoreSize:
		err = c.restoreSizes(ctx, list)
	case FilesByContents:
		err = c.contents(ctx, list)
	case BlobsPerFile:
		err = c.walk(ctx, list, c.blobsPerFile)
	case RawData:
		err = c.rawData(ctx, list)
	default:
		err = &kassett.Error{
			Op: "count", What: fmt.Sprintf("%.80q", mode), Kind: kassett.Invalid,
			Hint: "use restore-size, files-by-contents, blobs-per-file or raw-data",
		}
	}
	return c.stats, err
}

// counter is one count.
type counter struct {
	r *repo.Repository
	p *kassett.Progress

	mu    sync.Mutex
	stats Stats
	seen  map[kassett.ID]struct{} // hashes of contents, or of paths and contents
}

// first reports whether it is asked about an ID for the first time.
func (c *counter) first(id kassett.ID) bool {
	if _, ok := c.seen[id]; ok {
		return false
	}
	c.seen[id] = struct{}{}
	return true
}

// treeSize is what one tree and all below it come to when restored.
type treeSize struct {
	entries, bytes uint64
	linked         bool // it holds files with several names
}

// restoreSizes adds up the snapshots. A tree without hard links is counted once
// and then remembered.
func (c *counter) restoreSizes(ctx context.Context, list []*Snapshot) error {
	known := map[kassett.ID]treeSize{}
	for _, s := range list {
		links := map[[2]uint64]struct{}{}
		size, err := c.treeSize(ctx, s.Tree, known, links, 0)
		if err != nil {
			return fmt.Errorf("count snapshot %s: %w", s.ID.Short(), err)
		}
		c.stats.TotalFileCount += size.entries
		c.stats.TotalSize += size.bytes
	}
	return nil
}

func (c *counter) treeSize(ctx context.Context, id kassett.ID, known map[kassett.ID]treeSize, links map[[2]uint64]struct{}, depth int) (treeSize, error) {
	if sum, ok := known[id]; ok {
		return sum, nil
	}
	t, err := LoadTree(ctx, c.r, id)
	if err != nil {
		return treeSize{}, err
	}
	if depth > maxDepth {
		return treeSize{}, tooDeep()
	}
	sum := treeSize{entries: uint64(len(t.Nodes))}
	for _, n := range t.Nodes {
		switch {
		case n.Type == kassett.Dir:
			sub, err := c.treeSize(ctx, n.Subtree, known, links, depth+1)
			if err != nil {
				return sum, err
			}
			sum.entries += sub.entries
			sum.bytes += sub.bytes
			sum.linked = sum.linked || sub.linked
			continue
		case n.Links > 1 && n.Inode != 0:
			sum.linked = true
			key := [2]uint64{n.DeviceID, n.Inode}
			if _, ok := links[key]; ok {
				continue
			}
			links[key] = struct{}{}
		}
		sum.bytes += n.Size
	}
	if !sum.linked {
		known[id] = sum
	}
	c.p.Done(int64(len(t.Nodes)), 0)
	return sum, nil
}

// contents counts each content of a file once.
func (c *counter) contents(ctx context.Context, list []*Snapshot) error {
	return c.stream(ctx, list, c.r.NewBlobSet(), func(t *Tree) {
		for _, n := range t.Nodes {
			if n.Type == kassett.File && c.first(contentHash(n)) {
				c.stats.TotalFileCount++
				c.stats.TotalSize += n.Size
			}
		}
	})
}

// stream calls fn for each tree of the snapshots once, one call at a time.
func (c *counter) stream(ctx context.Context, list []*Snapshot, seen *repo.BlobSet, fn func(t *Tree)) error {
	roots := make([]kassett.ID, len(list))
	for i, s := range list {
		roots[i] = s.Tree
	}
	s := &stream{r: c.r, seen: seen, p: c.p, visit: func(at treeAt, t *Tree, err error) error {
		if err != nil {
			return fmt.Errorf("count snapshot %s, folder %q: %w", list[at.root].ID.Short(), at.path, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		fn(t)
		return nil
	}}
	return s.run(ctx, roots)
}

// walk calls fn for every node of every snapshot.
func (c *counter) walk(ctx context.Context, list []*Snapshot, fn func(path string, n *Node) error) error {
	for _, s := range list {
		if err := Walk(ctx, c.r, s.Tree, fn); err != nil {
			return fmt.Errorf("count snapshot %s: %w", s.ID.Short(), err)
		}
	}
	return nil
}

// blobsPerFile counts each blob once for each path that uses it.
func (c *counter) blobsPerFile(path string, n *Node) error {
	c.p.Done(1, 0)
	if n.Type != kassett.File || !c.first(contentHash(n)) {
		return nil
	}
	if len(n.Content) > 0 && c.first(kassett.Hash([]byte(path))) {
		c.stats.TotalFileCount++
	}
	for _, id := range n.Content {
		if !c.first(kassett.Hash(append([]byte(path), id[:]...))) {
			continue
		}
		h := repo.BlobHandle{Type: repo.DataBlob, ID: id}
		size, ok := c.r.BlobSize(h)
		if !ok {
			return missingBlob(h)
		}
		c.stats.TotalBlobCount++
		c.stats.TotalSize += uint64(size)
	}
	return nil
}

// rawData adds up the blobs that are used, as they are stored.
func (c *counter) rawData(ctx context.Context, list []*Snapshot) error {
	used := c.r.NewBlobSet()
	if err := c.stream(ctx, list, used, func(t *Tree) { addContent(used, t) }); err != nil {
		return err
	}
	var zipped, unzipped uint64 // of the compressed blobs
	var last repo.BlobHandle    // a blob may rest in several packs
	counted := 0
	for loc := range c.r.Blobs() {
		if loc.BlobHandle == last || !used.Has(loc.BlobHandle) {
			continue
		}
		last = loc.BlobHandle
		counted++
		plain := uint64(loc.Size()) + repo.Overhead
		c.stats.TotalBlobCount++
		c.stats.TotalSize += uint64(loc.Length)
		if c.r.Config().Version >= 2 {
			c.stats.TotalUncompressedSize += plain
		}
		if loc.Plain != 0 {
			zipped += uint64(loc.Length)
			unzipped += plain
		}
	}
	if counted != used.Len() {
		return &kassett.Error{
			Op: "count", Kind: kassett.Corrupt, Err: fmt.Errorf("%d blobs are not in the index", used.Len()-counted),
			Hint: "run check to see what lacks them",
		}
	}
	if zipped > 0 {
		c.stats.CompressionRatio = float64(unzipped) / float64(zipped)
	}
	if all := float64(c.stats.TotalUncompressedSize); all > 0 {
		c.stats.CompressionProgress = float64(unzipped) / all * 100
		c.stats.CompressionSpaceSaving = (1 - float64(c.stats.TotalSize)/all) * 100
	}
	return used.Err()
}
