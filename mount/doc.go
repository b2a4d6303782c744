// Package mount shows a repository as a file system that cannot be written: all
// snapshots in folders by time, host and tag, and in each of them what was
// backed up, as it was.
//
// A [View] is that file system, whatever speaks to it. It is served by FUSE on
// Linux ([View.Mount]) and over WebDAV ([View.Handler]) to machines without
// FUSE.
//
// What comes from a repository is foreign. Names that are not one path
// component are left out; trees and blobs are read when they are asked for and
// kept in caches that are bounded by bytes; a blob is opened and hashed before
// a byte of it is given to anybody. Something damaged makes reading it an error
// and is named once to Options.Warn; all the rest stays readable.
//
// It may import the root package, repo and snapshot.
package mount
