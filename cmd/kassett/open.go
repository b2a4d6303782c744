package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"kassett"
	"kassett/repo"
)

// need is the lock a command must hold, as in restic.
type need uint8

const (
	unlocked     need = iota // looks at files that never change
	reading                  // shared; --no-lock leaves it out
	adding                   // shared, of a writer that asks for every blob; prune and forget go on beside it
	writing                  // shared
	forgetting               // exclusive for seconds, beside those that are adding
	exclusive                // nobody else may be at work
	tending                  // shared; the work keeps parity itself
	tendingAlone             // exclusive; the work keeps parity itself
)

// unless is the lock of a command that changes nothing in a dry run: then
// --no-lock may leave it out.
func (n need) unless(dryRun bool) need {
	if dryRun {
		return reading
	}
	return n
}

// within opens the repository the flags name, takes the lock, runs work and
// gives everything back. The context handed to work ends when the lock is
// lost.
func (a *app) within(ctx context.Context, n need, work func(ctx context.Context, r *repo.Repository) error) error {
	return a.withinPlace(ctx, a.flags.where, n, work)
}

func (a *app) withinPlace(ctx context.Context, p place, n need, work func(ctx context.Context, r *repo.Repository) error) (err error) {
	r, err := a.open(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(), closeStorage(r.Storage())) }()
	return a.locked(ctx, r, n, work)
}

// locked runs work while the lock is held.
func (a *app) locked(ctx context.Context, r *repo.Repository, n need, work func(ctx context.Context, r *repo.Repository) error) error {
	if a.flags.noLock {
		switch n {
		case unlocked, reading:
			n = unlocked
		default:
			return needsLock()
		}
	}
	if n == unlocked {
		return work(ctx, r)
	}
	mode := repo.Shared
	switch n {
	case adding:
		mode = repo.Adding
	case forgetting:
		mode = repo.Forgetting
	case exclusive, tendingAlone:
		mode = repo.Exclusive
	}
	err := r.Hold(ctx, mode, a.lockOptions(), func(ctx context.Context, _ *repo.Lock) error {
		err := work(ctx, r)
		if err == nil && (n == adding || n == writing || n == exclusive) {
			err = a.keepParity(ctx, r)
		}
		return err
	})
	if err == nil && n == forgetting {
		err = a.keepParityAfter(ctx, r)
	}
	return err
}

// needsLock is the error of a command that does not go without a lock.
func needsLock() error {
	return invalid("lock repository", "", "leave --no-lock out; another run may prune what this one relies on",
		errors.New("--no-lock is for commands that read, and for dry runs"))
}

// lockOptions say how locks are taken.
func (a *app) lockOptions() repo.LockOptions {
	return repo.LockOptions{Retry: a.flags.retryLock, NoLock: a.flags.noLock}
}

// keepParityAfter is keepParity for a command whose own lock had to be short.
func (a *app) keepParityAfter(ctx context.Context, r *repo.Repository) error {
	if o, said, err := r.Parity(ctx); err == nil && (!said || o == 0) {
		return nil
	}
	return a.locked(ctx, r, tending, a.keepParity)
}

// open opens the repository at p.
func (a *app) open(ctx context.Context, p place) (*repo.Repository, error) {
	o, err := a.repoOptions(p)
	if err != nil {
		return nil, err
	}
	where, err := a.location(p)
	if err != nil {
		return nil, err
	}
	pw, err := a.password(ctx, p)
	if err != nil {
		return nil, err
	}
	st, err := a.openStorage(ctx, where, mustExist)
	if err != nil {
		return nil, err
	}
	o.Connections = a.farConnections(where, st)
	r, err := repo.Open(ctx, st, pw, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", withoutSecret(where), err), closeStorage(st))
	}
	return r, nil
}

// repoOptions returns how the flags and the environment want a repository used.
func (a *app) repoOptions(p place) (o repo.Options, err error) {
	g := &a.flags
	o = repo.Options{KeyHint: p.keyHint, KeyCost: a.scrypt, Warn: func(err error) { a.warn("", err) }}
	if o.KeyHint == "" {
		o.KeyHint = a.getenv(envPrefix + p.prefix + "KEY_HINT")
	}
	word := g.compression
	if word == "" {
		word = a.getenv(envPrefix + "COMPRESSION")
	}
	switch o.Compression = repo.Compression(word); o.Compression {
	case "", repo.CompressAuto, repo.CompressOff, repo.CompressFastest, repo.CompressBetter, repo.CompressMax:
	default:
		return o, invalid("read compression", strconv.Quote(word), "use auto, off, fastest, better or max", nil)
	}
	mib := uint64(g.packSize)
	if text := a.getenv(envPrefix + "PACK_SIZE"); mib == 0 && text != "" {
		if mib, err = strconv.ParseUint(text, 10, 32); err != nil {
			return o, invalid("read KASSETT_PACK_SIZE", strconv.Quote(text), "give a number of MiB, from 4 to 128", err)
		}
	}
	if mib != 0 && (mib < 4 || mib > 128) {
		return o, invalid("read pack size", fmt.Sprintf("%d MiB", mib), "give a number of MiB, from 4 to 128", nil)
	}
	o.PackSize = int(mib) << 20
	if o.CacheDir = a.cache(); o.CacheDir != "" {
		tagCache(o.CacheDir)
	}
	return o, nil
}

// cacheTag is the content of a file CACHEDIR.TAG, by which backups with
// --exclude-caches know a cache (https://bford.info/cachedir/).
const cacheTag = "Signature: 8a477f597d28d172789f06886806bc55\n" +
	"# This folder holds caches of Kassett. It may be removed at any time.\n"

// tagCache marks the folder of the cache as one. Where that fails, opening the
// cache will tell.
func tagCache(dir string) {
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "CACHEDIR.TAG"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(cacheTag)
	_ = f.Close()
}

// cache returns the folder of the cache, "" for none.
func (a *app) cache() string {
	if a.flags.noCache {
		return ""
	}
	if a.flags.cacheDir != "" {
		return a.flags.cacheDir
	}
	if dir := a.getenv(envPrefix + "CACHE_DIR"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil { // a service without a home works without a cache
		return ""
	}
	return filepath.Join(dir, "kassett")
}

// loadIndex brings the table of blobs up to date, with progress.
func (a *app) loadIndex(ctx context.Context, r *repo.Repository) error {
	p := new(kassett.Progress)
	p.Enter("read index")
	stop := a.watch(p)
	defer stop()
	return r.LoadIndex(ctx, p)
}
