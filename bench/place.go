//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// place is where a restore goes.
type place struct {
	dir   string
	kind  string // for the report
	image string // of a loop file system; "" for a plain folder
}

// freshPlace makes an empty folder: on an ext4 of its own where that can be
// done, since files made soon after a mass delete on the same ext4 cost several
// times more, and that would fall on whichever tool comes next. In memory when
// there is room for twice the size, else in the work folder.
func freshPlace(ctx context.Context, dir string, size total) (*place, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &place{dir: dir, kind: "a plain folder"}
	mkfs, notFound := exec.LookPath("mkfs.ext4")
	if notFound != nil || os.Geteuid() != 0 {
		return p, nil //nolint:nilerr // a plain folder will do
	}
	need := size.bytes*5/4 + size.files*4096 + 256<<20
	p.image, p.kind = dir+".img", "a fresh ext4 on a loop file"
	var shm syscall.Statfs_t
	if syscall.Statfs("/dev/shm", &shm) == nil && int64(shm.Bavail)*shm.Bsize > 2*need {
		p.image, p.kind = filepath.Join("/dev/shm", fmt.Sprintf("kassett-bench-%d.img", os.Getpid())), "a fresh ext4 on a loop file in memory"
	}
	err := os.WriteFile(p.image, nil, 0o600)
	if err == nil {
		err = os.Truncate(p.image, need)
	}
	for _, args := range [][]string{
		{mkfs, "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", p.image},
		{"mount", "-o", "loop", p.image, dir},
	} {
		if err == nil {
			err = exec.CommandContext(ctx, args[0], args[1:]...).Run()
		}
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, "lost+found"))
	}
	if err == nil {
		return p, nil
	}
	// Containers may be root and yet mount nothing.
	_ = p.remove()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &place{dir: dir, kind: "a plain folder"}, nil
}

// remove takes the place away. It may be called again.
func (p *place) remove() error {
	if p.image != "" {
		_ = syscall.Unmount(p.dir, 0)
		if err := os.Remove(p.image); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return os.RemoveAll(p.dir)
}
