//go:build unix

package repo_test

import (
	"syscall"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
)

func TestResticsExclusiveLockStopsUs(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{})
	cmd := resticCommand(t, dir, password, "check")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	info := waitForLock(t, r)
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if !info.Exclusive {
		t.Fatalf("their lock is %+v", info)
	}
	_, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{})
	wantKind(t, err, kassett.Locked, "exclusively")
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	l, _, err := r.Lock(t.Context(), repo.Shared, repo.LockOptions{Retry: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
