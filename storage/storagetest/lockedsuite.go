package storagetest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"kassett"
)

// LockedStorage is what [RunLocked] needs.
type LockedStorage interface {
	kassett.Storage
	kassett.Beside
	kassett.Retainer
	kassett.Versioned
}

// Hostile does what whoever holds the key of a bucket can: it puts b over a
// file, or a mark when b is nil.
type Hostile func(t *testing.T, n kassett.StoredName, b []byte)

// RunLocked checks that storages keep the promises of [kassett.Retainer] and
// [kassett.Versioned]. open returns an empty storage that retains new files for
// an hour and an hour of slack, and a hostile hand on it.
func RunLocked(t *testing.T, open func(t *testing.T) (LockedStorage, Hostile)) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, s LockedStorage, h Hostile)
	}{
		{"new files are retained", testRetained},
		{"extend and never shorten", testExtend},
		{"delete is held", testHeld},
		{"what is to be deleted can be", testNotRetained},
		{"restore what was hidden", testRestoreHidden},
		{"restore what was overwritten", testRestoreOver},
		{"hide", testHide},
		{"a foreign content is not retained", testForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, h := open(t)
			c.test(t, s, h)
		})
	}
}

// retainedKinds are the kinds that are retained by themselves.
var retainedKinds = []kassett.FileKind{
	kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile, kassett.ConfigFile,
}

// putNamed stores a file of every kind that is retained, and a record.
func putNamed(t *testing.T, s LockedStorage) map[kassett.StoredName][]byte {
	t.Helper()
	all := map[kassett.StoredName][]byte{}
	for i, k := range retainedKinds {
		b := Random(uint64(i), 3000+i)
		all[kassett.StoredName{Handle: mustPut(t, s, k, b)}] = b
	}
	b := Random(50, 500)
	name := "records/" + kassett.Hash(b).String() + ".json"
	if err := s.PutBeside(t.Context(), name, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatal(err)
	}
	all[kassett.StoredName{Beside: name}] = b
	return all
}

func clockOf(t *testing.T, s LockedStorage) time.Time {
	t.Helper()
	now, err := s.Clock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func testRetained(t *testing.T, s LockedStorage, _ Hostile) {
	before := clockOf(t, s)
	for n := range putNamed(t, s) {
		until, err := s.RetainedUntil(t.Context(), n)
		if least := before.Add(s.Retention().Span()); err != nil || until.Before(least) || until.After(least.Add(10*time.Minute)) {
			t.Errorf("RetainedUntil(%s) = %v, %v; want a little after %v", n, until, err, least)
		}
	}
	_, err := s.RetainedUntil(t.Context(), kassett.StoredName{Handle: handleOf(kassett.PackFile, []byte("none"))})
	wantKind(t, "RetainedUntil of nothing", err, kassett.NotFound)
	_, err = s.Retain(t.Context(), kassett.StoredName{Handle: handleOf(kassett.PackFile, []byte("none"))}, before, before)
	wantKind(t, "Retain of nothing", err, kassett.NotFound)
}

func testExtend(t *testing.T, s LockedStorage, _ Hostile) {
	for n := range putNamed(t, s) {
		first, err := s.RetainedUntil(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ least, until, want time.Duration }{
			{-time.Hour, time.Hour, 0},          // long enough
			{-2 * time.Hour, -2 * time.Hour, 0}, // never shorter
			{time.Hour, 2 * time.Hour, 2 * time.Hour},
			{90 * time.Minute, 3 * time.Hour, 2 * time.Hour},
		} {
			got, err := s.Retain(t.Context(), n, first.Add(c.least), first.Add(c.until))
			want := first.Add(c.want)
			if err != nil || got.Sub(want).Abs() > 2*time.Second {
				t.Errorf("Retain(%s, %v, %v) = %v, %v; want %v", n, c.least, c.until, got.Sub(first), err, c.want)
			}
			now, err := s.RetainedUntil(t.Context(), n)
			if err != nil || !now.Equal(got) {
				t.Errorf("RetainedUntil(%s) = %v, %v; Retain said %v", n, now, err, got)
			}
		}
	}
}

func testHeld(t *testing.T, s LockedStorage, _ Hostile) {
	for n, b := range putNamed(t, s) {
		until, err := s.RetainedUntil(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		if n.Beside != "" {
			err = s.DeleteBeside(t.Context(), n.Beside)
		} else {
			err = s.Delete(t.Context(), n.Handle)
		}
		wantKind(t, "Delete of "+n.String(), err, kassett.Held)
		held, ok := errors.AsType[*kassett.HeldError](err)
		if !ok || !held.Until.Equal(until) {
			t.Errorf("Delete(%s) = %v; want a HeldError until %v", n, err, until)
		}
		if n.Beside == "" {
			wantBytes(t, s, n.Handle, b)
		}
	}
}

func testNotRetained(t *testing.T, s LockedStorage, _ Hostile) {
	b := Random(60, 300)
	h := mustPut(t, s, kassett.LockFile, b)
	for _, name := range []string{"doomed/1", "superseded/2", "parity/3"} {
		if err := s.PutBeside(t.Context(), name, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteBeside(t.Context(), name); err != nil {
			t.Errorf("DeleteBeside(%s) = %v", name, err)
		}
	}
	if err := s.Delete(t.Context(), h); err != nil {
		t.Errorf("Delete of a lock = %v", err)
	}
	wantAbsent(t, s, h)
	if all := versionsOf(t, s, kassett.StoredName{Handle: h}); len(all) != 0 {
		t.Errorf("a deleted lock has left %d versions", len(all))
	}
	mustPut(t, s, kassett.LockFile, b)
}

// versionsOf returns the versions of a file, the youngest first.
func versionsOf(t *testing.T, s LockedStorage, n kassett.StoredName) (all []kassett.Version) {
	t.Helper()
	for v, err := range s.Versions(t.Context(), n.Kind) {
		if err != nil {
			t.Fatal(err)
		}
		if v.StoredName == n {
			all = append(all, v)
		}
	}
	for i, v := range all {
		if v.Latest != (i == 0) || v.ID == "" || v.Written.IsZero() {
			t.Errorf("version %d of %s is %+v", i, n, v)
		}
		if i > 0 && v.Written.After(all[i-1].Written) {
			t.Errorf("version %d of %s is younger than the one before it", i, n)
		}
	}
	return all
}

func readVersion(ctx context.Context, s LockedStorage, v kassett.Version) ([]byte, error) {
	r, err := s.ReadVersion(ctx, v)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func wantVersion(t *testing.T, s LockedStorage, v kassett.Version, want []byte) {
	t.Helper()
	b, err := readVersion(t.Context(), s, v)
	if err != nil || string(b) != string(want) || v.Size != int64(len(want)) {
		t.Errorf("version %s of %s has %d bytes, %v; want %d", v.ID, v, len(b), err, len(want))
	}
}

func testRestoreHidden(t *testing.T, s LockedStorage, hostile Hostile) {
	for n, b := range putNamed(t, s) {
		hostile(t, n, nil)
		hostile(t, n, nil)
		if n.Beside == "" {
			wantAbsent(t, s, n.Handle)
		}
		all := versionsOf(t, s, n)
		if len(all) < 2 || !all[0].Deleted || all[len(all)-1].Deleted {
			t.Fatalf("%s has the versions %+v", n, all)
		}
		wantVersion(t, s, all[len(all)-1], b)
		if err := s.Restore(t.Context(), all[len(all)-1]); err != nil {
			t.Fatalf("Restore(%s) = %v", n, err)
		}
		wantRestored(t, s, n, b)
	}
}

func wantRestored(t *testing.T, s LockedStorage, n kassett.StoredName, b []byte) {
	t.Helper()
	all := versionsOf(t, s, n)
	if len(all) == 0 || all[0].Deleted {
		t.Fatalf("%s is not there: %+v", n, all)
	}
	wantVersion(t, s, all[0], b)
	if n.Beside == "" {
		wantBytes(t, s, n.Handle, b)
	}
	until, err := s.RetainedUntil(t.Context(), n)
	if err != nil || until.Before(clockOf(t, s).Add(s.Retention().Period)) {
		t.Errorf("%s is retained until %v, %v, after it was restored", n, until, err)
	}
}

func testRestoreOver(t *testing.T, s LockedStorage, hostile Hostile) {
	for n, b := range putNamed(t, s) {
		hostile(t, n, []byte("ransom"))
		hostile(t, n, nil)
		hostile(t, n, []byte("ransom again"))
		all := versionsOf(t, s, n)
		if len(all) != 4 {
			t.Fatalf("%s has %d versions, want 4", n, len(all))
		}
		wantVersion(t, s, all[0], []byte("ransom again"))
		wantVersion(t, s, all[3], b)
		if err := s.Restore(t.Context(), all[3]); err != nil {
			t.Fatalf("Restore(%s) = %v", n, err)
		}
		wantRestored(t, s, n, b)
	}
}

func testHide(t *testing.T, s LockedStorage, _ Hostile) {
	b := Random(70, 400)
	h := mustPut(t, s, kassett.IndexFile, b)
	if err := s.Hide(t.Context(), kassett.StoredName{Handle: h}); err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, s, h)
	if all := versionsOf(t, s, kassett.StoredName{Handle: h}); len(all) != 2 || !all[0].Deleted {
		t.Errorf("hidden, it has the versions %+v", all)
	}
	mustPut(t, s, kassett.IndexFile, b)
	wantBytes(t, s, h, b)
}

func testForeign(t *testing.T, s LockedStorage, hostile Hostile) {
	b := Random(80, 400)
	n := kassett.StoredName{Handle: mustPut(t, s, kassett.PackFile, b)}
	hostile(t, n, []byte("ransom"))
	now := clockOf(t, s)
	_, err := s.Retain(t.Context(), n, now.Add(24*time.Hour), now.Add(24*time.Hour))
	wantKind(t, "Retain of what was put over a pack", err, kassett.Corrupt)
}
