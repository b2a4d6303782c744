package repo_test

import (
	"encoding/json"
	"maps"
	"os"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
)

// A holder that is killed stands in nobody's way, even while its parent has not
// yet asked how it ended.
func TestLockOfKilledHolder(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{})
	for _, reaped := range []bool{false, true} {
		cmd := startHolder(t, dir)
		_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
		wantKind(t, err, kassett.Locked, "exclusively")
		if n, err := r.RemoveLocks(t.Context(), false); n != 0 || err != nil {
			t.Errorf("removed %d living locks, %v", n, err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if reaped {
			_ = cmd.Wait()
		} else {
			time.Sleep(200 * time.Millisecond)
		}
		locks, err := r.Locks(t.Context())
		if err != nil || len(locks) != 1 || !locks[0].Dead || !locks[0].Stale {
			t.Errorf("reaped %v: locks are %+v, %v", reaped, locks, err)
		}
		var cleared []repo.LockInfo
		l, _, err := r.Lock(t.Context(), repo.Exclusive, repo.LockOptions{Cleared: func(i repo.LockInfo) { cleared = append(cleared, i) }})
		if err != nil {
			t.Fatalf("reaped %v: %v", reaped, err)
		}
		mustUnlock(t, l)
		if len(cleared) != 1 || cleared[0].PID != cmd.Process.Pid || !cleared[0].Exclusive {
			t.Errorf("reaped %v: told of %+v", reaped, cleared)
		}
		if !reaped {
			_ = cmd.Wait()
		}
	}
}

// thisHolder returns what a lock of this process says of its holder.
func thisHolder(t testing.TB, r *repo.Repository) map[string]any {
	t.Helper()
	l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer mustUnlock(t, l)
	locks, err := r.Locks(t.Context())
	if err != nil || len(locks) != 1 {
		t.Fatalf("locks: %v, %v", locks, err)
	}
	b, err := r.LoadUnpacked(t.Context(), kassett.LockFile, locks[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	var f struct{ Holder map[string]any }
	if err := json.Unmarshal(b, &f); err != nil || f.Holder["boot"] == "" || f.Holder["started"] == 0 {
		t.Fatalf("lock is %s, %v", b, err)
	}
	return f.Holder
}

// Only what is proved is removed on the way.
func TestLockProof(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t, repo.InitOptions{})
	me, gone, parent := thisHolder(t, r), deadPID(t), os.Getppid()
	for _, c := range []struct {
		name   string
		host   string
		pid    int
		age    time.Duration
		change map[string]any // of the holder
		dead   bool
	}{
		{"gone", "", gone, time.Minute, nil, true},
		{"gone, by a clock an hour ahead", "", gone, -time.Hour, nil, true},
		{"ourselves", "", os.Getpid(), time.Hour, nil, false},
		{"number given to another process", "", parent, time.Minute, map[string]any{"started": 1}, true},
		{"our own number, of an earlier life", "", os.Getpid(), time.Minute, map[string]any{"started": 1}, true},
		{"other host", "elsewhere", gone, time.Minute, nil, false},
		{"other process namespace", "", gone, time.Minute, map[string]any{"namespace": "pid:[4026532999] time:[4026531834]"}, false},
		{"no number", "", 0, time.Minute, nil, false},
		{"before this boot", "", parent, 1000 * time.Hour, map[string]any{"boot": "another"}, true},
		{"other boot, but later than ours", "", gone, -time.Hour, map[string]any{"boot": "another"}, false},
		{"other boot of another machine", "", gone, 1000 * time.Hour, map[string]any{"boot": "another", "machine": "another"}, false},
		{"other boot of no machine", "", gone, 1000 * time.Hour, map[string]any{"boot": "another", "machine": ""}, false},
		{"other boot, in a container", "", gone, 1000 * time.Hour, map[string]any{"boot": "another", "namespace": "pid:[4026532999] time:[4026531834]"}, false},
	} {
		holder := maps.Clone(me)
		maps.Copy(holder, c.change)
		host := c.host
		if host == "" {
			host = hostname(t)
		}
		putLock(t, r, map[string]any{
			"hostname": host, "pid": c.pid, "time": time.Now().Add(-c.age), "exclusive": true, "holder": holder,
		})
		told := 0
		l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{Cleared: func(repo.LockInfo) { told++ }})
		switch {
		case c.dead && (err != nil || told != 1):
			t.Errorf("%s: told %d times, %v", c.name, told, err)
		case !c.dead && (kassett.KindOf(err) != kassett.Locked || told != 0):
			t.Errorf("%s: told %d times, %v", c.name, told, err)
		}
		if err == nil {
			mustUnlock(t, l)
		}
		if _, err := r.RemoveLocks(t.Context(), true); err != nil {
			t.Fatal(err)
		}
	}
}

// A dead lock that cannot be removed is in the way like any other.
func TestLockDeadButThere(t *testing.T) {
	t.Parallel()
	mine, mem := memoryRepo(t, repo.InitOptions{})
	putLock(t, mine, map[string]any{"hostname": hostname(t), "pid": deadPID(t), "exclusive": true, "holder": thisHolder(t, mine)})
	r := openMemory(t, readOnlyLocks(mem), password, repo.Options{})
	_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	wantKind(t, err, kassett.Locked, "process is gone")
}
