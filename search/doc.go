// Package search finds files by their names in all snapshots of a repository,
// and tells the history of one file.
//
// It keeps an index on this machine, sealed with a key of the repository, since
// file names tell of patients. The index is a cache: what is new in the
// repository is added before a search, only folders that changed are read for
// that, and an index that is lost, damaged or from elsewhere is made anew. See
// docs/formats/search.md.
package search
