// Package storagetest holds the suite that every [kassett.Storage] passes, and
// storages for the tests of what is built on one:
//
//   - [Memory] keeps files in memory, and lets a test damage them;
//   - [Failing] fails the calls a test picks, before or after their effect;
//   - [Crashing] cuts the power at the n-th change, and shows every state that
//     may be found afterwards;
//   - [Tracing] remembers every call.
//
// All of these also implement [kassett.Beside] and [kassett.Sweeper].
// For storages of a network there is [Proxy]: it stands before the real server
// and cuts, slows, stops and spoils what passes.
package storagetest
