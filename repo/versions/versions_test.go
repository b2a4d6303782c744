package versions_test

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/repo/record"
	"kassett/repo/versions"
	"kassett/storage/storagetest"
)

const password = "correct horse"

func unlock(password string) versions.Unlock {
	return func(ctx context.Context, keys [][]byte) (func([]byte) error, error) {
		return repo.Unlock(ctx, []byte(password), keys)
	}
}

// closeAfter closes a repository at the end of a test.
func closeAfter(t *testing.T, r *repo.Repository) {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// attacked is a repository on storage that keeps versions, at a time that the
// test sets.
type attacked struct {
	t    *testing.T
	st   *storagetest.Locked
	mu   sync.Mutex
	now  time.Time
	good map[kassett.StoredName][]byte // all that was there before the attack
}

func newAttacked(t *testing.T) *attacked {
	t.Helper()
	a := &attacked{t: t, now: time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC), good: map[kassett.StoredName][]byte{}}
	a.st = storagetest.NewLocked(kassett.Retention{Mode: kassett.Compliance, Period: 1000 * time.Hour, Slack: time.Hour}, func() time.Time {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.now
	})
	r, err := repo.Init(t.Context(), a.st, []byte(password), repo.InitOptions{Scrypt: repo.Scrypt{N: 16, R: 1, P: 1}})
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, r)
	for i := range 3 {
		w := r.NewWriter(t.Context(), repo.WriterOptions{})
		if _, err := w.Save(t.Context(), repo.DataBlob, storagetest.Random(uint64(i), 5000)); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.SaveUnpacked(t.Context(), kassett.SnapshotFile, []byte(`{"time":"2026-11-01T02:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Records().Add(t.Context(), record.Record{
		Kind: record.Hold, Subject: record.Subject{All: true}, Reason: "a lawsuit", By: []string{"A. Berg"},
	}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []kassett.FileKind{kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile, kassett.ConfigFile, 0} {
		for v, err := range a.st.Versions(t.Context(), k) {
			if err != nil {
				t.Fatal(err)
			}
			a.good[v.StoredName] = a.latest(v.StoredName)
		}
	}
	a.wait(24 * time.Hour)
	return a
}

func (a *attacked) wait(d time.Duration) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(d)
	return a.now
}

// latest returns what Get reads, nil when it is not there.
func (a *attacked) latest(n kassett.StoredName) []byte {
	a.t.Helper()
	for v, err := range a.st.Versions(a.t.Context(), n.Kind) {
		if err != nil {
			a.t.Fatal(err)
		}
		if v.StoredName == n && v.Latest && !v.Deleted {
			return a.read(v)
		}
	}
	return nil
}

func (a *attacked) read(v kassett.Version) []byte {
	a.t.Helper()
	r, err := a.st.ReadVersion(a.t.Context(), v)
	if err != nil {
		a.t.Fatal(err)
	}
	b := make([]byte, v.Size)
	for n := 0; n < len(b); {
		m, err := r.Read(b[n:])
		if n += m; err != nil && n < len(b) {
			a.t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		a.t.Fatal(err)
	}
	return b
}

func (a *attacked) repair(o versions.Options) (versions.Stats, map[kassett.StoredName]versions.Fate) {
	a.t.Helper()
	told := map[kassett.StoredName]versions.Fate{}
	o.Unlock = unlock(password)
	o.Tell = func(f versions.Finding) { told[f.StoredName] = f.Fate }
	stats, err := versions.Repair(a.t.Context(), a.st, o)
	if err != nil {
		a.t.Fatal(err)
	}
	return stats, told
}

// wantAll checks that everything is as it was, and that it opens.
func (a *attacked) wantAll() {
	a.t.Helper()
	for n, want := range a.good {
		if got := a.latest(n); string(got) != string(want) {
			a.t.Errorf("%s has %d bytes, want the %d it had", n, len(got), len(want))
		}
	}
	r, err := repo.Open(a.t.Context(), a.st, []byte(password), repo.Options{})
	if err != nil {
		a.t.Fatal(err)
	}
	closeAfter(a.t, r)
	if err := r.LoadIndex(a.t.Context(), nil); err != nil {
		a.t.Error(err)
	}
	if all, err := r.Records().Standing(a.t.Context()); err != nil || len(all) != 1 {
		a.t.Errorf("Records = %v, %v", all, err)
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(a *attacked, n kassett.StoredName){
		"deleted":              func(a *attacked, n kassett.StoredName) { a.st.Overwrite(n, nil) },
		"deleted twice":        func(a *attacked, n kassett.StoredName) { a.st.Overwrite(n, nil); a.st.Overwrite(n, nil) },
		"overwritten":          func(a *attacked, n kassett.StoredName) { a.st.Overwrite(n, []byte("pay up")) },
		"overwritten, deleted": func(a *attacked, n kassett.StoredName) { a.st.Overwrite(n, []byte("pay up")); a.st.Overwrite(n, nil) },
		"deleted, put again by another": func(a *attacked, n kassett.StoredName) {
			a.st.Overwrite(n, nil)
			a.st.Overwrite(n, a.good[n])
			a.st.Overwrite(n, []byte("pay up"))
		},
		"emptied": func(a *attacked, n kassett.StoredName) { a.st.Overwrite(n, []byte{}) },
	} {
		for _, moment := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				a := newAttacked(t)
				o := versions.Options{}
				if moment {
					o.Before = a.wait(time.Minute)
				}
				first := a.wait(time.Minute)
				for n := range a.good {
					attack(a, n)
				}
				dry := o
				dry.DryRun = true
				planned, _ := a.repair(dry)
				stats, _ := a.repair(o)
				if stats.Deleted+stats.Replaced != len(a.good) || stats.Lost != 0 || !stats.First.Equal(first) {
					t.Errorf("Repair = %+v; %d files were attacked at %v", stats, len(a.good), first)
				}
				if planned.Deleted != stats.Deleted || planned.Replaced != stats.Replaced {
					t.Errorf("a dry run says %+v, then it was %+v", planned, stats)
				}
				a.wantAll()
				again, told := a.repair(o)
				if again.Untouched != len(a.good) || len(told) != 0 {
					t.Errorf("a second time it is %+v, %v", again, told)
				}
			})
		}
	}
}

// What came after the moment is named, and hidden when that is asked for; what
// had been deleted before it stays deleted.
func TestRepairMoment(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	var snapshotFile, pack kassett.StoredName
	for n := range a.good {
		switch n.Kind {
		case kassett.SnapshotFile:
			snapshotFile = n
		case kassett.PackFile:
			pack = n
		}
	}
	a.st.Overwrite(snapshotFile, nil) // as stock restic forgets
	before := a.wait(time.Hour)
	a.wait(time.Hour)
	a.st.Overwrite(pack, nil)
	bad := storagetest.Random(5, 300)
	foreign := kassett.StoredName{Handle: kassett.Handle{Kind: kassett.IndexFile, ID: kassett.Hash(bad)}}
	a.st.Overwrite(foreign, bad)
	key := kassett.StoredName{Handle: kassett.Handle{Kind: kassett.KeyFile, ID: kassett.Hash(bad)}}
	a.st.Overwrite(key, bad)

	stats, told := a.repair(versions.Options{Before: before})
	want := map[kassett.StoredName]versions.Fate{pack: versions.Deleted, foreign: versions.New, key: versions.New}
	if !maps.Equal(told, want) || stats.Hidden != 0 || stats.New != 2 {
		t.Errorf("Repair tells %v, %+v; want %v", told, stats, want)
	}
	if a.latest(foreign) == nil {
		t.Error("what came later was hidden without being asked for")
	}
	stats, _ = a.repair(versions.Options{Before: before, HideNew: true})
	if stats.Hidden != 2 || a.latest(foreign) != nil || a.latest(key) != nil || a.latest(snapshotFile) != nil {
		t.Errorf("Repair = %+v", stats)
	}
	delete(a.good, snapshotFile)
	a.wantAll()

	if _, err := versions.Repair(t.Context(), a.st, versions.Options{Unlock: unlock(password), HideNew: true}); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("hiding what is new, without a moment: %v", err)
	}
}

func TestRepairLost(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	var pack kassett.StoredName
	for n := range a.good {
		if n.Kind == kassett.PackFile {
			pack = n
		}
	}
	// Storage that did not keep the version: only what was put over it is left.
	a.wait(2000 * time.Hour)
	if err := a.st.Delete(t.Context(), pack.Handle); err != nil {
		t.Fatal(err)
	}
	a.st.Overwrite(pack, []byte("pay"))
	a.st.Overwrite(pack, []byte("pay up"))
	stats, told := a.repair(versions.Options{})
	if stats.Lost != 1 || told[pack] != versions.Lost {
		t.Errorf("Repair = %+v, %v", stats, told)
	}
}

func TestRepairRefusals(t *testing.T) {
	t.Parallel()
	a := newAttacked(t)
	for n := range a.good {
		a.st.Overwrite(n, nil)
	}
	if _, err := versions.Repair(t.Context(), a.st, versions.Options{Unlock: unlock("wrong")}); kassett.KindOf(err) != kassett.WrongPassword {
		t.Errorf("with a wrong password: %v", err)
	}
	if _, err := versions.Repair(t.Context(), storagetest.NewMemory(), versions.Options{Unlock: unlock(password)}); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("on storage without versions: %v", err)
	}
	empty := storagetest.NewLocked(kassett.Retention{}, time.Now)
	if _, err := versions.Repair(t.Context(), empty, versions.Options{Unlock: unlock(password)}); err == nil || !strings.Contains(err.Error(), "key") {
		t.Errorf("on an empty storage: %v", err)
	}
	a.repair(versions.Options{})
	a.wantAll()
}
