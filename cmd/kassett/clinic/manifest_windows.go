package clinic

import "io/fs"

// systemFacts returns the owner of a file, its number of names and how many
// bytes of the disk it takes. Windows tells none of them here: every file is
// looked at as if it had a second name.
func systemFacts(info fs.FileInfo) (owner string, links uint64, allocated int64) {
	return "", 2, info.Size()
}
