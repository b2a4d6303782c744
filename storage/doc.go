// Package storage adds behaviour to any [kassett.Storage] by wrapping it, and
// holds what the storages below it share: restic's layout of names, and the
// reading of a body that is checked on the way.
//
//   - [Retry] repeats calls while the storage cannot be reached;
//   - [Limit] holds uploads and downloads to a rate;
//   - [Bound] lets only so many calls run side by side;
//   - [Cache] keeps near what is read often.
//
// All pass the abilities of what they wrap on, as [kassett.As] finds them, and
// treat the files of [kassett.Beside] as they treat the others. They are meant
// to be put round a storage in the order of the list turned over: the limit
// innermost, so that a repeated transfer counts as often as it happens; then
// the bound, so that a call that waits for the storage to come back takes
// nobody's place; then the retries; the cache outermost.
package storage
