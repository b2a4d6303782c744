package repo_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// putLock writes a lock as another program would.
func putLock(t testing.TB, r *repo.Repository, fields map[string]any) kassett.ID {
	t.Helper()
	all := map[string]any{"time": time.Now(), "exclusive": false, "hostname": "elsewhere", "username": "root", "pid": 1}
	maps.Copy(all, fields)
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	id, err := r.SaveUnpacked(t.Context(), kassett.LockFile, b)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustUnlock(t testing.TB, l *repo.Lock) {
	t.Helper()
	if err := l.Unlock(); err != nil {
		t.Errorf("unlock: %v", err)
	}
}

func hostname(t testing.TB) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestLockModes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		first  repo.LockMode
		second repo.LockMode
		agree  bool
	}{
		{"two shared", repo.Shared, repo.Shared, true},
		{"exclusive after shared", repo.Shared, repo.Exclusive, false},
		{"shared after exclusive", repo.Exclusive, repo.Shared, false},
		{"two exclusive", repo.Exclusive, repo.Exclusive, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			r, st := memoryRepo(t, repo.InitOptions{})
			one, _, err := r.Lock(t.Context(), c.first, repo.LockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			two, _, err := openMemory(t, st, password, repo.Options{}).Lock(t.Context(), c.second, repo.LockOptions{})
			if c.agree && err == nil {
				mustUnlock(t, two)
			} else if c.agree {
				t.Errorf("%s: %v", c.name, err)
			} else {
				wantKind(t, err, kassett.Locked, hostname(t), "--retry-lock")
			}
			if n := len(st.Handles(kassett.LockFile)); n != 1 {
				t.Errorf("%s: %d lock files, want 1", c.name, n)
			}
			mustUnlock(t, one)
			mustUnlock(t, one)
			if n := len(st.Handles(kassett.LockFile)); n != 0 {
				t.Errorf("%s: %d lock files are left", c.name, n)
			}
		})
	}
}

// Two that lock at the very same moment: whatever the order of their calls, they
// never both hold the repository.
func TestLockRace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			r, _ := memoryRepo(t, repo.InitOptions{})
			var holders atomic.Int32
			done := make(chan struct{})
			for range 2 {
				go func() {
					defer func() { done <- struct{}{} }()
					l, _, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
					if err != nil {
						wantKind(t, err, kassett.Locked)
						return
					}
					if holders.Add(1) > 1 {
						t.Error("two hold the repository")
					}
					time.Sleep(time.Minute)
					holders.Add(-1)
					mustUnlock(t, l)
				}()
			}
			<-done
			<-done
		}
	})
}

func TestLockRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var warned []error
		_, st := memoryRepo(t, repo.InitOptions{})
		r := openMemory(t, st, password, repo.Options{Warn: func(err error) { warned = append(warned, err) }})
		first, _, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, _, err = r.Lock(t.Context(), repo.Shared, repo.LockOptions{Retry: 3 * time.Minute})
		wantKind(t, err, kassett.Locked)
		if d := time.Since(start); d < 3*time.Minute || d > 4*time.Minute {
			t.Errorf("gave up after %v, want 3 minutes", d)
		}
		if len(warned) != 1 {
			t.Errorf("told %v, want once who is waited for", warned)
		}
		go func() {
			time.Sleep(2 * time.Minute)
			mustUnlock(t, first)
		}()
		second, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{Retry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		mustUnlock(t, second)

		third, _, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err = r.Lock(ctx, repo.Shared, repo.LockOptions{Retry: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting was cancelled: %v", err)
		}
		mustUnlock(t, third)
	})
}

// A lock is written anew every five minutes, new before old.
func TestLockRefresh(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, mem := memoryRepo(t, repo.InitOptions{})
		st := storagetest.NewTracing(mem)
		r := openMemory(t, st, password, repo.Options{})
		l, held, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		st.Reset()
		time.Sleep(52 * time.Minute)
		if held.Err() != nil {
			t.Errorf("lost: %v", context.Cause(held))
		}
		var order []string
		for _, c := range st.Calls(storagetest.Put, storagetest.Delete) {
			order = append(order, c.Op.String())
		}
		if got, want := strings.Join(order, " "), strings.TrimSpace(strings.Repeat("put delete ", 10)); got != want {
			t.Errorf("in 52 minutes: %s\nwant           %s", got, want)
		}
		locks, err := r.Locks(t.Context())
		if err != nil || len(locks) != 1 || time.Since(locks[0].Time) > 5*time.Minute || locks[0].Stale {
			t.Errorf("locks: %+v, %v", locks, err)
		}
		mustUnlock(t, l)
		if held.Err() == nil || len(mem.Handles(kassett.LockFile)) != 0 {
			t.Error("given back, and still there")
		}
	})
}

// lockStorage is memory whose calls on locks fail while broken is set.
func lockStorage(mem *storagetest.Memory, broken *atomic.Bool) kassett.Storage {
	return storagetest.NewFailing(mem, func(c storagetest.Call) *storagetest.Fault {
		if broken.Load() && !c.IsBeside && c.Handle.Kind == kassett.LockFile {
			return &storagetest.Fault{Err: &kassett.Error{Op: "reach", Kind: kassett.Offline}}
		}
		return nil
	})
}

// readOnlyLocks is a storage that refuses to delete locks.
func readOnlyLocks(mem *storagetest.Memory) kassett.Storage {
	return storagetest.NewFailing(mem, storagetest.FailKind(storagetest.Delete, kassett.LockFile, &kassett.Error{Op: "delete", Kind: kassett.Denied}))
}

func TestLockStorageAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away time.Duration
		lost bool
	}{
		"for ten minutes":    {10 * time.Minute, false},
		"for half an hour":   {30 * time.Minute, true},
		"for twenty minutes": {20 * time.Minute, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var broken atomic.Bool
			_, mem := memoryRepo(t, repo.InitOptions{})
			r := openMemory(t, lockStorage(mem, &broken), password, repo.Options{})
			l, held, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			broken.Store(true)
			start := time.Now()
			stop := context.AfterFunc(held, func() {
				if d := time.Since(start); d > 23*time.Minute || d < 22*time.Minute {
					t.Errorf("%s: lost after %v, want 22.5 minutes", name, d)
				}
			})
			time.Sleep(c.away)
			synctest.Wait()
			stop()
			if lost := held.Err() != nil; lost != c.lost {
				t.Errorf("%s: lost is %v: %v", name, lost, context.Cause(held))
			}
			broken.Store(false)
			if c.lost {
				wantKind(t, context.Cause(held), kassett.Locked)
				_, err := r.SaveUnpacked(held, kassett.SnapshotFile, []byte("{}"))
				wantKind(t, err, kassett.Locked)
				wantKind(t, l.Unlock(), kassett.Locked)
			} else {
				mustUnlock(t, l)
			}
			if n := len(mem.Handles(kassett.LockFile)); n != 0 {
				t.Errorf("%s: %d lock files are left", name, n)
			}
		})
	}
}

// Someone runs `unlock --remove-all` while we work.
func TestLockRemovedByOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, _ := memoryRepo(t, repo.InitOptions{})
		l, held, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.RemoveLocks(t.Context(), true); n != 1 || err != nil {
			t.Fatalf("removed %d, %v", n, err)
		}
		time.Sleep(6 * time.Minute)
		wantKind(t, context.Cause(held), kassett.Locked, "removed our lock")
		wantKind(t, l.Unlock(), kassett.Locked)

		// And just before it is given back.
		l, _, err = r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.RemoveLocks(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		wantKind(t, l.Unlock(), kassett.Locked, "removed our lock")
	})
}

func TestUnlockAfterCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, st := memoryRepo(t, repo.InitOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		l, held, err := r.Lock(ctx, repo.Exclusive, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if !errors.Is(context.Cause(held), context.Canceled) {
			t.Errorf("cause is %v", context.Cause(held))
		}
		if len(st.Handles(kassett.LockFile)) != 1 {
			t.Error("the lock went before it was given back")
		}
		mustUnlock(t, l)
		if len(st.Handles(kassett.LockFile)) != 0 {
			t.Error("the lock is still there")
		}
		// Cancelled while it waits for others to show.
		ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, _, err := r.Lock(ctx, repo.Exclusive, repo.LockOptions{}); err == nil || len(st.Handles(kassett.LockFile)) != 0 {
			t.Errorf("lock in a cancelled context: %v, %d files left", err, len(st.Handles(kassett.LockFile)))
		}
	})
}

// Whatever call fails, and whether or not it was done, no lock file stays once
// the storage answers again.
func TestLockFailing(t *testing.T) {
	t.Parallel()
	for n := 1; n < 12; n++ {
		for _, after := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				_, mem := memoryRepo(t, repo.InitOptions{})
				armed, calls := false, 0
				st := storagetest.NewFailing(mem, func(storagetest.Call) *storagetest.Fault {
					if armed {
						calls++
					}
					if armed && calls == n {
						return &storagetest.Fault{Err: storagetest.ErrInjected, After: after}
					}
					return nil
				})
				r := openMemory(t, st, password, repo.Options{})
				armed = true
				l, held, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{})
				if err == nil {
					time.Sleep(12 * time.Minute)
					if held.Err() != nil {
						t.Errorf("call %d failed (after: %v): lost: %v", n, after, context.Cause(held))
					}
					_ = l.Unlock()
				}
				left := len(mem.Handles(kassett.LockFile))
				if left > 0 && calls != n { // only the very last call may leave it
					t.Errorf("call %d of %d failed (after: %v): %d lock files are left", n, calls, after, left)
				}
			})
		}
	}
}

func TestLockUnreadable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, st := memoryRepo(t, repo.InitOptions{})
		id := putRaw(t, st, kassett.LockFile, []byte("not sealed at all, but long enough to be"))
		start := time.Now()
		_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		wantKind(t, err, kassett.Corrupt, id.String(), "--remove-all")
		if d := time.Since(start); d != 35*time.Second {
			t.Errorf("gave up after %v, want 5+10+20 s", d)
		}
		// It may be written better meanwhile, or go.
		go func() {
			time.Sleep(12 * time.Second)
			if err := st.Delete(t.Context(), kassett.Handle{Kind: kassett.LockFile, ID: id}); err != nil {
				t.Error(err)
			}
		}()
		l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mustUnlock(t, l)

		putRaw(t, st, kassett.LockFile, nil)
		if l, _, err = r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{}); err != nil {
			t.Fatalf("beside an empty lock file: %v", err)
		}
		mustUnlock(t, l)

		putRaw(t, st, kassett.LockFile, []byte("again something unreadable, of some length"))
		if n, err := r.RemoveLocks(t.Context(), false); n != 0 || err != nil {
			t.Errorf("removed %d as stale, %v", n, err)
		}
		if _, err := r.Locks(t.Context()); kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("locks: %v", err)
		}
		if _, err := r.RemoveLocks(t.Context(), true); err != nil || len(st.Handles(kassett.LockFile)) > 1 {
			t.Errorf("all removed: %v", err)
		}
	})
}

func TestNoLock(t *testing.T) {
	t.Parallel()
	_, mem := memoryRepo(t, repo.InitOptions{})
	r := openMemory(t, storagetest.NewFailing(mem, storagetest.ReadOnly()), password, repo.Options{})
	_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	wantKind(t, err, kassett.Denied, "--no-lock")
	if strings.Contains(err.Error(), "remove") {
		t.Errorf("%v, though nothing was written", err)
	}
	l, held, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{NoLock: true})
	if err != nil || held.Err() != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if held.Err() == nil {
		t.Error("the context goes on")
	}
}

// deadPID returns the number of a process that has just ended.
func deadPID(t testing.TB) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestLockStale(t *testing.T) {
	t.Parallel()
	host, dead, alive := hostname(t), deadPID(t), os.Getppid()
	r, _ := memoryRepo(t, repo.InitOptions{})
	want := make(map[kassett.ID]string)
	for _, c := range []struct {
		name  string
		host  string
		pid   int
		age   time.Duration
		stale bool
	}{
		{"elsewhere, fresh", "elsewhere", dead, time.Minute, false},
		{"elsewhere, 29 minutes", "elsewhere", dead, 29 * time.Minute, false},
		{"elsewhere, 31 minutes", "elsewhere", alive, 31 * time.Minute, true},
		{"elsewhere, from the future", "elsewhere", alive, -time.Hour, false},
		{"here, dead", host, dead, time.Minute, true},
		{"here, dead, from the future", host, dead, -time.Hour, true},
		{"here, alive", host, alive, time.Minute, false},
		{"here, alive, clock an hour wrong", host, alive, time.Hour, false},
		{"here, alive, clock an hour wrong the other way", host, alive, -time.Hour, false},
		{"here, our own number, fresh", host, os.Getpid(), time.Minute, false},
		{"here, our own number, old", host, os.Getpid(), 31 * time.Minute, true},
		{"here, no number", host, 0, time.Minute, true},
		{"here, a group's number", host, -1, time.Minute, true},
	} {
		id := putLock(t, r, map[string]any{"hostname": c.host, "pid": c.pid, "time": time.Now().Add(-c.age)})
		if c.stale {
			want[id] = c.name
		}
	}
	locks, err := r.Locks(t.Context())
	if err != nil || len(locks) != 13 {
		t.Fatalf("%d locks: %v", len(locks), err)
	}
	for _, l := range locks {
		if _, stale := want[l.ID]; stale != l.Stale {
			t.Errorf("stale is %v for %+v", l.Stale, l)
		}
	}
	if n, err := r.RemoveLocks(t.Context(), false); n != len(want) || err != nil {
		t.Errorf("removed %d stale locks, %v; want %d", n, err, len(want))
	}
	if n, err := r.RemoveLocks(t.Context(), true); n != len(locks)-len(want) || err != nil {
		t.Errorf("removed %d other locks, %v", n, err)
	}
}

func TestLockedSaysWho(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t, repo.InitOptions{})
	id := putLock(t, r, map[string]any{"hostname": hostname(t), "username": "astrid", "pid": deadPID(t), "exclusive": true})
	_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	wantKind(t, err, kassett.Locked, "exclusively", "astrid", id.Short(), "run `kassett unlock`")
}
