//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// compareTrees returns an error that names the first difference between two
// trees: names, types, permissions, owners, modification times, link targets,
// sizes and bytes.
func compareTrees(want, got string) error {
	seen := 0
	err := filepath.WalkDir(want, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		rel, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		return compareEntry(path, filepath.Join(got, rel))
	})
	if err != nil {
		return err
	}
	extra := -seen
	err = filepath.WalkDir(got, func(string, fs.DirEntry, error) error { extra++; return nil })
	if err == nil && extra != 0 {
		err = fmt.Errorf("%d entries more than in the source", extra)
	}
	return err
}

func compareEntry(want, got string) error {
	a, err := os.Lstat(want)
	if err != nil {
		return err
	}
	b, err := os.Lstat(got)
	if err != nil {
		return err
	}
	if a.Mode() != b.Mode() {
		return fmt.Errorf("%s: mode %v, was %v", got, b.Mode(), a.Mode())
	}
	if !a.ModTime().Equal(b.ModTime()) {
		return fmt.Errorf("%s: time %v, was %v", got, b.ModTime(), a.ModTime())
	}
	x, okA := a.Sys().(*syscall.Stat_t)
	y, okB := b.Sys().(*syscall.Stat_t)
	if !okA || !okB {
		return fmt.Errorf("%s: no owner known", got)
	}
	if x.Uid != y.Uid || x.Gid != y.Gid {
		return fmt.Errorf("%s: owner %d:%d, was %d:%d", got, y.Uid, y.Gid, x.Uid, x.Gid)
	}
	switch {
	case a.Mode()&fs.ModeSymlink != 0:
		to, err := os.Readlink(want)
		if err != nil {
			return err
		}
		now, err := os.Readlink(got)
		if err == nil && now != to {
			err = fmt.Errorf("%s: links to %q, was %q", got, now, to)
		}
		return err
	case a.Mode().IsRegular():
		if a.Size() != b.Size() {
			return fmt.Errorf("%s: %d bytes, was %d", got, b.Size(), a.Size())
		}
		return compareBytes(want, got)
	}
	return nil
}

func compareBytes(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }() // only read
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); ; off += int64(len(x)) {
		n, err := io.ReadFull(a, x)
		m, err2 := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return fmt.Errorf("%s: other bytes from %d on", got, off)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil || err2 != nil {
			return fmt.Errorf("%s: %w", got, err)
		}
	}
}
