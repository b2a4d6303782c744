package rest

import (
	"errors"
	"strings"

	"kassett"
	"kassett/storage"
)

// target is what the path of a request names.
type target struct {
	repository string // slash-separated, as [kassett.ValidBeside] wants it
	what       targetKind
	handle     kassett.Handle // of a file; only its Kind of a listing
	beside     string         // name or folder beside the repository
}

type targetKind uint8

const (
	wholeRepository targetKind = iota
	listing
	oneFile
	besideListing
	besideOne
)

var (
	errPathEncoded = errors.New("a path holds only a-z, 0-9, . _ - and slashes, written plainly")
	errPathRoot    = errors.New("the path names no repository")
	errPathTwice   = errors.New("a repository cannot have the name of one of its own folders")
	errPathName    = errors.New("not the name of a file of a repository")
	errPathLong    = errors.New("the path is too long")
)

// maxPath bounds a path, in bytes.
const maxPath = 1024

// folderKinds are the kinds of file by their folder.
var folderKinds = func() map[string]kassett.FileKind {
	m := map[string]kassett.FileKind{}
	for _, k := range storage.Folders() {
		m[k.String()] = k
	}
	return m
}()

// ValidRepository reports whether name can be the path of a repository: parts of
// [a-z0-9._-], divided by slashes, none of which begins or ends with a dot or
// is the name of a folder or file that every repository has.
func ValidRepository(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if reserved(part) {
			return false
		}
	}
	return len(name) <= maxPath/2 && kassett.ValidBeside(name)
}

func reserved(part string) bool {
	_, isFolder := folderKinds[part]
	return isFolder || part == kassett.ConfigFile.String() || part == storage.BesideFolder
}

// parsePath reads the path of a request as it stands on the wire. There is one
// way to write each name: what is encoded, doubled, relative, or in capitals is
// an error, so nothing has to be cleaned.
func parsePath(escaped string) (target, error) {
	if len(escaped) > maxPath {
		return target{}, errPathLong
	}
	for i := range len(escaped) {
		c := escaped[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' && c != '/' {
			return target{}, errPathEncoded
		}
	}
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	n := 0
	for n < len(parts) && parts[n] != "" && !reserved(parts[n]) {
		n++
	}
	t := target{repository: strings.Join(parts[:n], "/")}
	rest := parts[n:]
	switch {
	case n == 0:
		return target{}, errPathRoot
	case !ValidRepository(t.repository):
		return target{}, errPathEncoded
	case len(rest) == 0 || len(rest) == 1 && rest[0] == "":
		return t, nil
	case rest[0] == "":
		return target{}, errPathEncoded
	case rest[0] == kassett.ConfigFile.String():
		if len(rest) > 1 {
			return target{}, errPathTwice
		}
		t.what, t.handle.Kind = oneFile, kassett.ConfigFile
		return t, nil
	case rest[0] == storage.BesideFolder:
		return parseBeside(t, strings.Join(rest[1:], "/"))
	}
	t.handle.Kind = folderKinds[rest[0]]
	switch {
	case len(rest) == 1 || len(rest) == 2 && rest[1] == "":
		t.what = listing
		return t, nil
	case len(rest) > 2:
		return target{}, errPathTwice
	}
	id, err := kassett.ParseID(rest[1])
	if err != nil {
		return target{}, errPathName
	}
	t.what, t.handle.ID = oneFile, id
	return t, nil
}

func parseBeside(t target, name string) (target, error) {
	t.what, t.beside = besideOne, name
	folder, isFolder := strings.CutSuffix(name, "/")
	if isFolder || name == "" {
		t.what, t.beside = besideListing, folder
	}
	if t.beside != "" && !kassett.ValidBeside(t.beside) {
		return target{}, errPathName
	}
	return t, nil
}

// String returns the path of what t names.
func (t target) String() string {
	switch t.what {
	case listing:
		return "/" + t.repository + "/" + t.handle.Kind.String() + "/"
	case oneFile:
		return "/" + t.repository + "/" + t.handle.String()
	case besideListing:
		folder := t.beside
		if folder != "" {
			folder += "/"
		}
		return "/" + t.repository + "/" + besidePath + folder
	case besideOne:
		return "/" + t.repository + "/" + besidePath + t.beside
	}
	return "/" + t.repository + "/"
}
