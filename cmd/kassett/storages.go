package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"kassett"
	"kassett/storage/local"
)

// whether says whether a storage must be there already.
type whether bool

const (
	mustExist whether = false
	mayCreate whether = true
)

// storageKinds are the words before the colon of a repository's place, as
// restic spells them, for those kinds that restic has.
var storageKinds = []string{"local", "s3", "sftp", "rest", "b2", "azure", "gs", "swift", "rclone"}

// splitPlace splits a repository's place into the kind of its storage and the
// address in that kind. What names no kind is a folder.
func splitPlace(where string) (kind, address string) {
	if kind, address, ok := strings.Cut(where, ":"); ok && slices.Contains(storageKinds, kind) {
		return kind, address
	}
	return "local", where
}

// openStorage opens the storage at a repository's place. The caller closes it
// with closeStorage.
func (a *app) openStorage(ctx context.Context, where string, w whether) (kassett.Storage, error) {
	kind, _ := splitPlace(where)
	return a.wrapped(ctx, kind, where, func() (kassett.Storage, error) { return a.openKind(ctx, where, w) })
}

// openKind opens a storage as it is.
func (a *app) openKind(ctx context.Context, where string, w whether) (kassett.Storage, error) {
	kind, address := splitPlace(where)
	switch kind {
	case "local":
		return openLocal(address, w)
	case "s3":
		return a.openS3(ctx, address, w)
	case "sftp":
		return a.openSFTP(ctx, address, w)
	case "rest":
		return a.openREST(ctx, address, w)
	default:
		return nil, invalid("open repository", withoutSecret(where), "use a folder; a folder with that name is written local:"+where,
			fmt.Errorf("this version has no storage of the kind %s", kind))
	}
}

func openLocal(path string, w whether) (kassett.Storage, error) {
	if w == mayCreate {
		return local.Create(path)
	}
	return local.Open(path)
}

// closeStorage gives back what a storage holds: connections, a cache.
func closeStorage(st kassett.Storage) error {
	if c, ok := kassett.As[io.Closer](st); ok {
		return c.Close()
	}
	return nil
}

// withoutSecret returns a repository's place as it may be shown: a password in
// it is left out.
func withoutSecret(where string) string {
	kind, address := splitPlace(where)
	if kind == "local" {
		return where
	}
	u, err := url.Parse(address)
	if err != nil && kind == "rest" && strings.Contains(address, "@") {
		return kind + ":..." // no URL, but it may hold a password
	}
	if err != nil || u.User == nil {
		return where
	}
	if _, has := u.User.Password(); !has {
		return where
	}
	u.User = url.UserPassword(u.User.Username(), "***")
	return kind + ":" + strings.Replace(u.String(), "%2A%2A%2A", "***", 1)
}
