package files_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kassett"
	"kassett/source/files"
)

// BenchmarkMake restores small files, and writes the same ones plainly and
// unsafely for comparison.
func BenchmarkMake(b *testing.B) {
	const text = "a document of the usual kind, a few hundred bytes long"
	b.Run("Target", func(b *testing.B) {
		tg := newTarget(b, tempDir(b), files.TargetOptions{})
		for i := 0; b.Loop(); i++ {
			if err := restoreFile(b.Context(), tg, fmt.Sprintf("f%07d", i), text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("WriteFile", func(b *testing.B) {
		dir := tempDir(b)
		for i := 0; b.Loop(); i++ {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%07d", i)), []byte(text), 0o644); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkList lists a folder of 10,000 files, and asks for the rest of one.
func BenchmarkList(b *testing.B) {
	dir := tempDir(b)
	const n = 10_000
	for i := range n {
		write(b, filepath.Join(dir, fmt.Sprintf("f%07d", i)), "")
	}
	s := newSource(b, files.Options{Paths: []string{dir}})
	at := snapshotPath(dir)
	b.Run("List", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list, err := s.List(b.Context(), at)
			if len(list) != n || err != nil {
				b.Fatal(len(list), err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/file")
	})
	b.Run("Fill", func(b *testing.B) {
		b.ReportAllocs()
		e := kassett.Entry{Name: "f0000001", Type: kassett.File}
		for b.Loop() {
			if err := s.Fill(b.Context(), at+"/f0000001", &e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadDirInfo", func(b *testing.B) {
		for b.Loop() {
			list, err := os.ReadDir(dir)
			if err != nil {
				b.Fatal(err)
			}
			for _, d := range list {
				if _, err := d.Info(); err != nil {
					b.Fatal(err)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/file")
	})
}

// BenchmarkMatch matches one path with fifty patterns.
func BenchmarkMatch(b *testing.B) {
	list := make([]string, 0, 50)
	for i := range 10 {
		list = append(list, fmt.Sprintf("*.t%d", i), fmt.Sprintf("/var/lib/x%d", i), fmt.Sprintf("node%d", i),
			fmt.Sprintf("/home/*/.cache%d/**/x", i), fmt.Sprintf("a%d?[bc]", i))
	}
	p, err := files.NewPatterns(list, false)
	must(b, err)
	path := files.NewPath("/home/ann/" + strings.Repeat("folder/", 6) + "document.pdf")
	b.ReportAllocs()
	for b.Loop() {
		if p.Match(path) {
			b.Fatal("matched")
		}
	}
}
