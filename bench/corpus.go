//go:build linux

package main

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
)

// corpusKind is a kind of data as hospitals have it. What it generates depends
// on the scale and on fixed seeds only; modification times are those of the
// moment.
type corpusKind struct {
	about    string
	generate func(dir string, scale float64) error
	change   func(dir string, seed uint64) error // one percent
}

var corpora = map[string]corpusKind{
	"docs": {"documents of patients: HL7, XML and text, 1 to 60 KiB, 5 % of them twice", generateDocs, changeDocs},
	"pacs": {"medical images: DICOM, half of them compressed, half 12-bit samples", generateImages, changeImages},
	"db":   {"a database's folder: 8 KiB pages in segments of 1 GiB, made without a database", generateDatabase, changeDatabase},
}

// corpus is one of them in its folder.
type corpus struct {
	name  string
	kind  corpusKind
	dir   string
	scale float64
}

func corpusAt(parent, name string, kind corpusKind, scale float64) *corpus {
	return &corpus{name: name, kind: kind, dir: filepath.Join(parent, name), scale: scale}
}

func (c *corpus) generate() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	return c.kind.generate(c.dir, c.scale)
}

func (c *corpus) change(seed uint64) error { return c.kind.change(c.dir, seed) }

func (c *corpus) measure() (total, error) { return folderSize(c.dir) }

// seeded returns the generator of the i-th part of something.
func seeded(seed uint64, i int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(i)*0x9e3779b97f4a7c15+1))
}

// scaled returns n times scale, at least low.
func scaled(n int, scale float64, low int) int {
	return max(low, int(math.Round(float64(n)*scale)))
}

// each calls fn for 0 to n-1 on all processors, and returns all errors.
func each(n int, fn func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, runtime.NumCPU())
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[w] = fn(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// writeFile writes a file and makes its folder.
func writeFile(path string, b []byte) error {
	err := os.WriteFile(path, b, 0o644)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
	}
	return err
}
