//go:build unix

package clinic

import (
	"fmt"
	"io/fs"
	"syscall"
)

// systemFacts returns the owner of a file, its number of names and how many
// bytes of the disk it takes.
func systemFacts(info fs.FileInfo) (owner string, links uint64, allocated int64) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", 1, info.Size()
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid), uint64(st.Nlink), int64(st.Blocks) * 512 //nolint:unconvert // the types differ between systems
}
