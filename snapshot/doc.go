// Package snapshot gives the blobs of a repository their meaning: trees that
// describe folders, and snapshots that name the tree of a source at one time.
// It writes a source in ([Backup]), reads a snapshot out, and finds, compares,
// changes and forgets snapshots.
//
// A [Node] describes one entry of a folder, a [Tree] is a folder's nodes in
// order of their names, and a [Snapshot] is what a backup left: the root tree,
// when, where and by whom it was made. Trees and snapshots are written as
// restic writes them, byte for byte; docs/formats/tree.md and
// docs/formats/snapshot.md say how. What comes from a repository is foreign:
// it is checked and bounded here, but names are kept as they are, and whoever
// makes files of them asks [Node.Safe] first.
//
// It may import the root package and package repo only.
package snapshot
