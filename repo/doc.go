// Package repo is a repository in restic's format, version 2, on a
// [kassett.Storage]: keys and locks, packs and the index that finds blobs in
// them, and the work that keeps them whole: check, prune, repair, copy.
// Version 1 is read, and migrated.
//
// A blob is a piece of content or one folder's tree; its ID is the SHA-256 of
// its plaintext. Blobs are sealed one by one and rest in packs. Index files say
// which blob is where in which pack. Snapshots, index files and locks are
// single sealed files, called unpacked. What trees and snapshots mean is the
// affair of package snapshot; here they are bytes.
//
// The format is described in docs/formats/repository.md and, by its authors,
// in restic's design document.
//
// It may import the root package and blobtable.
package repo
