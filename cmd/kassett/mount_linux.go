package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// detach takes a mount away that is still in use.
func detach(ctx context.Context, at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, name := range []string{"fusermount3", "fusermount"} { // what users mounted
		out, failed := exec.CommandContext(ctx, name, "-u", "-z", at).CombinedOutput()
		if failed == nil {
			return nil
		}
		err = errors.Join(err, fmt.Errorf("%s: %w: %s", name, failed, oneLine(string(out))))
	}
	return fmt.Errorf("take the mount away: %w", err)
}
