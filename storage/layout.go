package storage

import (
	"strings"

	"kassett"
)

// folders are the kinds of file that have a folder in restic's layout.
var folders = [...]kassett.FileKind{
	kassett.PackFile, kassett.IndexFile, kassett.KeyFile, kassett.LockFile, kassett.SnapshotFile,
}

// Folders returns the kinds of file that have a folder in restic's layout: all
// but the config.
func Folders() []kassett.FileKind { return folders[:] }

// BesideFolder is the folder of the files beside a repository.
const BesideFolder = "kassett"

// Path returns where a file rests in restic's default layout, slash-separated
// and relative to the repository: "config", "index/3fa9…", "data/3f/3fa9…".
func Path(h kassett.Handle) string {
	if h.Kind != kassett.PackFile {
		return h.String()
	}
	name := h.ID.String()
	return h.Kind.String() + "/" + name[:2] + "/" + name
}

// ParseName returns the file of a kind that a name in one of its folders
// stands for. folder is the last part of the folder's path, which for packs has
// to fit the name. Names that are not the format's are not ok.
func ParseName(k kassett.FileKind, folder, name string) (h kassett.Handle, ok bool) {
	id, err := kassett.ParseID(name)
	if err != nil || k == kassett.PackFile && folder != name[:2] {
		return kassett.Handle{}, false
	}
	return kassett.Handle{Kind: k, ID: id}, true
}

// Temporary marks in names: a file of ours that is being written is named
// <name>-tmp-<random>; restic over SFTP writes <name>-restic-temp-<random>.
const (
	TempMark       = "-tmp-"
	resticTempMark = "-restic-temp-"
)

// IsTemp reports whether name is that of a file of a repository being written.
func IsTemp(name string) bool {
	for _, mark := range []string{TempMark, resticTempMark} {
		if of, _, ok := strings.Cut(name, mark); ok {
			_, err := kassett.ParseID(of)
			return err == nil || of == kassett.ConfigFile.String()
		}
	}
	return false
}
