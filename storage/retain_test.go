package storage_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/storage"
	"kassett/storage/storagetest"
)

// flaky is a storage whose retention can be asked for every third time only.
type flaky struct {
	*storagetest.Locked
	asked atomic.Int64
}

func (f *flaky) fail() error {
	if f.asked.Add(1)%3 != 0 {
		return away
	}
	return nil
}

func (f *flaky) Clock(ctx context.Context) (time.Time, error) {
	if err := f.fail(); err != nil {
		return time.Time{}, err
	}
	return f.Locked.Clock(ctx)
}

func (f *flaky) RetainedUntil(ctx context.Context, n kassett.StoredName) (time.Time, error) {
	if err := f.fail(); err != nil {
		return time.Time{}, err
	}
	return f.Locked.RetainedUntil(ctx, n)
}

func (f *flaky) Retain(ctx context.Context, n kassett.StoredName, least, until time.Time) (time.Time, error) {
	if err := f.fail(); err != nil {
		return time.Time{}, err
	}
	return f.Locked.Retain(ctx, n, least, until)
}

// A lock is extended though the storage is away for a while.
func TestRetryRetains(t *testing.T) {
	t.Parallel()
	inner := &flaky{Locked: storagetest.NewLocked(kassett.Retention{Mode: kassett.Compliance, Period: time.Hour, Slack: time.Hour}, time.Now)}
	st := storage.Retry(inner, storage.Quick(time.Minute))
	k, ok := kassett.As[kassett.Retainer](st)
	if !ok || k.Retention() != inner.Retention() {
		t.Fatal("the wrapper hides retention")
	}
	b := []byte("a pack")
	n := kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}}
	if err := st.Put(t.Context(), n.Handle, kassett.BytesBody(b, n.ID)); err != nil {
		t.Fatal(err)
	}
	now, err := k.Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := now.Add(5 * time.Hour)
	if got, err := k.Retain(t.Context(), n, want, want); err != nil || !got.Equal(want) {
		t.Errorf("Retain = %v, %v; want %v", got, err, want)
	}
	if got, err := k.RetainedUntil(t.Context(), n); err != nil || !got.Equal(want) {
		t.Errorf("RetainedUntil = %v, %v; want %v", got, err, want)
	}
	_, err = k.RetainedUntil(t.Context(), kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile}})
	if kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("RetainedUntil of nothing = %v", err)
	}
	plain := storage.Retry(storagetest.NewMemory(), storage.Quick(time.Minute))
	if _, ok := kassett.As[kassett.Retainer](plain); ok {
		t.Error("a storage that retains nothing seems to")
	}
}
