package mount_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kassett"
	"kassett/mount"
	"kassett/snapshot"
	"kassett/source/files"
)

// dbPage is a page of the database-like file, in bytes.
const dbPage = 8 << 10

// benchSize is how large that file is, in bytes.
func benchSize(b *testing.B) int64 {
	b.Helper()
	mib := 256
	if s := os.Getenv("KASSETT_BENCH_MIB"); s != "" {
		var err error
		mib, err = strconv.Atoi(s)
		must(b, err)
	}
	return int64(mib) << 20
}

// makeDB writes a file like a database's: pages of a header, of rows of words, and
// of bytes that do not shrink.
func makeDB(b *testing.B, path string, size int64) {
	b.Helper()
	f, err := os.Create(path)
	must(b, err)
	w := bufio.NewWriterSize(f, 1<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	fill := rand.NewChaCha8([32]byte{7})
	var words [3000][]byte
	for i := range words {
		words[i] = make([]byte, 3+rnd.IntN(7))
		for j := range words[i] {
			words[i][j] = 'a' + byte(rnd.IntN(26))
		}
	}
	page := make([]byte, dbPage)
	for at := int64(0); at < size; at += dbPage {
		binary.LittleEndian.PutUint64(page, uint64(at/dbPage))
		binary.LittleEndian.PutUint64(page[8:], rnd.Uint64())
		for i := 16; i < dbPage/2; i++ {
			i += copy(page[i:dbPage/2], words[rnd.IntN(len(words))])
		}
		_, _ = fill.Read(page[dbPage/2:])
		_, err := w.Write(page)
		must(b, err)
	}
	must(b, errors.Join(w.Flush(), f.Close()))
}

// BenchmarkDatabase reads a database-like file that was backed up, in both ways to
// cut it: restored, mounted in order, mounted at random. KASSETT_BENCH_MIB is its
// size. For docs/performance.md:
//
//	KASSETT_BENCH_MIB=1024 go test ./mount -run '^$' -bench Database -benchtime 1x
func BenchmarkDatabase(b *testing.B) {
	size := benchSize(b)
	src := b.TempDir()
	makeDB(b, filepath.Join(src, "db"), size)
	for _, cut := range []kassett.Cut{{}, {Kind: kassett.CutPage, Page: dbPage}} {
		r, _ := newRepo(b, nil)
		sn := backup(b, r, src, snapshot.BackupOptions{}, cut)
		b.Run("cut="+cut.String()+"/restore", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				back := filepath.Join(b.TempDir(), "back")
				target, err := files.NewTarget(back, files.TargetOptions{})
				must(b, err)
				b.StartTimer()
				_, err = snapshot.Restore(b.Context(), r, sn.Tree, target, snapshot.RestoreOptions{})
				must(b, errors.Join(err, target.Close()))
			}
		})
		var w told
		b.Run("cut="+cut.String()+"/in order", func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				b.StopTimer()
				at, _ := mounted(b, view(b, r, &w, mount.Options{}), mount.FUSEOptions{})
				f, err := os.Open(filepath.Join(at, "snapshots", "latest", src, "db"))
				must(b, err)
				b.StartTimer()
				n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 128<<10))
				must(b, errors.Join(err, f.Close()))
				if n != size {
					b.Fatalf("read %d bytes", n)
				}
			}
		})
		b.Run("cut="+cut.String()+"/at random", func(b *testing.B) {
			at, _ := mounted(b, view(b, r, &w, mount.Options{}), mount.FUSEOptions{})
			f, err := os.Open(filepath.Join(at, "snapshots", "latest", src, "db"))
			must(b, err)
			defer f.Close()
			must(b, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM))
			rnd := rand.New(rand.NewPCG(3, 4))
			var took []time.Duration
			buf := make([]byte, dbPage)
			for b.Loop() {
				for range 1000 {
					start := time.Now()
					_, err := f.ReadAt(buf, rnd.Int64N(size/dbPage)*dbPage)
					must(b, err)
					took = append(took, time.Since(start))
				}
			}
			slices.Sort(took)
			for _, p := range []int{50, 95, 99} {
				b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("ms-p%d", p))
			}
		})
		w.quiet(b)
	}
}

// BenchmarkFolder lists a folder of 10^5 files that nobody has looked into.
func BenchmarkFolder(b *testing.B) {
	r, _ := newRepo(b, nil)
	const many = 100_000
	nodes := make([]blob, 0, many)
	for i := range many {
		nodes = append(nodes, blob{node: entry(fmt.Sprintf("patient-%06d.dcm", i), kassett.File), data: [][]byte{[]byte("record")}})
	}
	handmade(b, r, nodes...)
	var w told
	for _, c := range []struct {
		name string
		list func(b *testing.B, dir string) int
	}{
		{"names", func(b *testing.B, dir string) int {
			b.Helper()
			f, err := os.Open(dir)
			must(b, err)
			names, err := f.Readdirnames(-1)
			must(b, errors.Join(err, f.Close()))
			return len(names)
		}},
		{"attributes", func(b *testing.B, dir string) int {
			b.Helper()
			f, err := os.Open(dir)
			must(b, err)
			infos, err := f.Readdir(-1)
			must(b, errors.Join(err, f.Close()))
			return len(infos)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				at, _ := mounted(b, view(b, r, &w, mount.Options{}), mount.FUSEOptions{})
				b.StartTimer()
				if n := c.list(b, filepath.Join(at, "snapshots", "latest")); n != many {
					b.Fatalf("%d names", n)
				}
			}
		})
	}
}
