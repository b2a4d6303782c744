package search_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/search"
	"kassett/snapshot"
)

var (
	benchPaths     = flag.Int("paths", 100_000, "files in a snapshot of the benchmark")
	benchSnapshots = flag.Int("snapshots", 30, "snapshots of the benchmark, each with half a percent of files changed")
)

const perFolder = 100

// benchTree writes one folder of a hundred files, as an image archive has them.
func (w *world) benchFolder(out *repo.Writer, i, change int) *snapshot.Node {
	rnd := rand.New(rand.NewPCG(uint64(i), uint64(change)))
	nodes := make([]*snapshot.Node, perFolder)
	for j := range nodes {
		name := fmt.Sprintf("%s_%s_%03d_%08x.dcm", []string{"Thorax", "Becken", "Schädel", "Knie"}[j%4], surnames[(i*7+j/25)%len(surnames)], j, uint32(i*perFolder+j)*2654435761)
		n := file(uint64(rnd.Uint32N(30<<20)), 1_600_000_000+int64(i*1000+j*3+change*86400), 0)
		n.Content[0] = kassett.Hash(fmt.Appendf(nil, "%d %d %d", i, j, change))
		n.Name = name
		nodes[j] = n
	}
	return w.benchDir(out, fmt.Sprintf("study %06d", i), nodes)
}

var surnames = []string{"Nguyen", "Øverland", "Kowalski", "Hansen", "Åkesson", "李", "Müller", "Novák", "Svensson", "Dahl", "Zieliński"}

func (w *world) benchDir(out *repo.Writer, name string, nodes []*snapshot.Node) *snapshot.Node {
	sortNodes(nodes)
	b, err := (&snapshot.Tree{Nodes: nodes}).Encode()
	w.must(err)
	saved, err := out.Save(context.Background(), repo.TreeBlob, bytes.Clone(b))
	w.must(err)
	return &snapshot.Node{Entry: kassett.Entry{Name: name, Type: kassett.Dir, Mode: fs.ModeDir, ModTime: time.Unix(1, 0)}, Subtree: saved.ID}
}

// benchBackup stores a snapshot in which some folders have changed as often as
// changes says.
func (w *world) benchBackup(changes []int, known []*snapshot.Node, fresh func(i int) bool) {
	ctx := context.Background()
	out := w.r.NewWriter(ctx, repo.WriterOptions{})
	var years []*snapshot.Node
	for y := 0; y*perFolder < len(known); y++ {
		folders := known[y*perFolder : min((y+1)*perFolder, len(known))]
		for k := range folders {
			if i := y*perFolder + k; fresh(i) {
				folders[k] = w.benchFolder(out, i, changes[i])
			}
		}
		years = append(years, w.benchDir(out, fmt.Sprintf("series %04d", y), append([]*snapshot.Node{}, folders...)))
	}
	root := w.benchDir(out, "", []*snapshot.Node{w.benchDir(out, "srv", years)})
	w.must(out.Flush(ctx))
	w.now = w.now.Add(24 * time.Hour)
	sn := &snapshot.Snapshot{Time: w.now, Hostname: "pacs", Paths: []string{"/srv"}, Tree: root.Subtree}
	_, err := snapshot.Save(ctx, w.r, sn)
	w.must(err)
	w.snapshots = append(w.snapshots, sn)
}

// BenchmarkIndex makes an index, adds snapshots, and searches it with nothing in
// memory. -paths 1000000 -snapshots 100 is what docs/performance.md reports.
func BenchmarkIndex(b *testing.B) {
	w := newWorld(b, b.TempDir())
	folders := *benchPaths / perFolder
	changes, known := make([]int, folders), make([]*snapshot.Node, folders)
	w.benchBackup(changes, known, func(int) bool { return true })
	w.must(w.r.LoadIndex(b.Context(), nil))
	took := func(name string, fn func()) {
		begun := time.Now()
		fn()
		b.Logf("%-32s %8.1f ms", name, float64(time.Since(begun).Microseconds())/1000)
	}
	update := func() {
		ix := w.open()
		w.must(ix.Update(b.Context(), w.snapshots))
		w.must(ix.Close())
	}
	took("first snapshot", update)
	b.Logf("%d paths, %.1f bytes a path", *benchPaths, w.indexSize()/float64(*benchPaths))
	for s := 1; s < *benchSnapshots; s++ {
		dirty := make(map[int]bool)
		for range max(1, folders/200) {
			i := rand.IntN(folders)
			dirty[i] = true
			changes[i]++
		}
		w.benchBackup(changes, known, func(i int) bool { return dirty[i] })
		if s == 1 {
			took("one more snapshot", update)
		}
	}
	took("all other snapshots", update)
	b.Logf("%d snapshots, %.1f bytes a path", *benchSnapshots, w.indexSize()/float64(*benchPaths))
	for _, text := range []string{"dahl", "DAHL_017", "schädel_李", "study 000123/knie", "no such name", "x"} {
		n := 0
		took(fmt.Sprintf("first page, %q", text), func() {
			ix := w.open()
			w.must(ix.Search(b.Context(), w.snapshots, text, func(*search.Result) bool { n++; return n < 100 }))
			w.must(ix.Close())
		})
		n = 0
		took(fmt.Sprintf("all, %q", text), func() {
			ix := w.open()
			w.must(ix.Search(b.Context(), w.snapshots, text, func(*search.Result) bool { n++; return true }))
			w.must(ix.Close())
		})
		b.Logf("%d found", n)
	}
	took("history", func() {
		ix := w.open()
		w.must(ix.History(b.Context(), w.snapshots, "/srv/series 0000/study 000007", func(*search.Result) bool { return true }))
		w.must(ix.Close())
	})
}

// indexSize returns the bytes of the index.
func (w *world) indexSize() (n float64) {
	list, err := os.ReadDir(w.r.CacheDir("search"))
	w.must(err)
	for _, e := range list {
		info, err := os.Stat(filepath.Join(w.r.CacheDir("search"), e.Name()))
		w.must(err)
		n += float64(info.Size())
	}
	return n
}
