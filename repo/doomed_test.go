package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// markAll forgets nothing and marks what nobody needs.
func markAll(t testing.TB, st kassett.Storage) *crowdPrune {
	t.Helper()
	p := &crowdPrune{place: swappable(st)}
	p.r = storyOpen(t, p.place, few)
	if err := p.mark(t.Context(), repo.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	return p
}

// doomedLists returns the names of the doomed lists.
func doomedLists(t testing.TB, m *storagetest.Memory) (names []string) {
	t.Helper()
	for info, err := range m.ListBeside(t.Context(), "doomed") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// garbage makes a repository with one snapshot, and one that was forgotten.
func garbage(t testing.TB) *storagetest.Memory {
	t.Helper()
	r, m := storyRepo(t, few)
	gone := mustBackUp(t, r, manyFiles(1, 24)...)
	mustBackUp(t, r, manyFiles(100, 8)...)
	mustForget(t, r, gone)
	return m
}

// lockedAs opens a repository, locks it and loads its index.
func lockedAs(t testing.TB, st kassett.Storage, mode repo.LockMode, o repo.Options) (*repo.Repository, *repo.Lock, context.Context) {
	t.Helper()
	r := openMemory(t, st, password, o)
	l, ctx, err := r.Lock(t.Context(), mode, repo.LockOptions{})
	if err == nil {
		err = r.LoadIndex(ctx, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r, l, ctx
}

// What each of two does beside the other.
func TestMarkAndSweep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		mode    repo.LockMode
		after   bool // the writer begins after the mark
		goesOn  bool // the sweep
		forgets bool // forgetting goes on
		known   bool // a doomed blob is
	}{
		{name: "a careful writer that began before the mark", mode: repo.Adding, forgets: true, known: true},
		{name: "a careful writer that began afterwards", mode: repo.Adding, after: true, goesOn: true, forgets: true},
		{name: "a stock restic that began before the mark", mode: repo.Shared, known: true},
		{name: "a stock restic that began afterwards", mode: repo.Shared, after: true, known: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			m := garbage(t)
			begin := func() (*repo.Repository, *repo.Lock, context.Context) { return lockedAs(t, m, c.mode, few) }
			var w *repo.Repository
			var l *repo.Lock
			var ctx context.Context
			if !c.after {
				w, l, ctx = begin()
			}
			p := markAll(t, m)
			if c.after {
				w, l, ctx = begin()
			}
			packs := len(m.Handles(kassett.PackFile))
			old := manyFiles(1, 24)
			if known := w.Has(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(old[0])}); known != c.known {
				t.Errorf("%s: a doomed blob is known: %v", c.name, known)
			}
			forgetting, _, err := openMemory(t, m, password, few).Lock(t.Context(), repo.Forgetting, repo.LockOptions{})
			if (err == nil) != c.forgets {
				t.Errorf("%s: forgetting: %v", c.name, err)
			}
			if err == nil {
				mustUnlock(t, forgetting)
			}
			stats, err := p.sweep(ctx)
			if c.goesOn != (err == nil) || c.goesOn != (stats.Packs > 0) || stats.Spared > 0 {
				t.Errorf("%s: sweep: %+v, %v", c.name, stats, err)
			}
			if !c.goesOn {
				wantKind(t, err, kassett.Locked, hostname(t))
			}
			if left := len(m.Handles(kassett.PackFile)); (left < packs) != c.goesOn {
				t.Errorf("%s: %d packs were there and %d are", c.name, packs, left)
			}
			// Whatever it took for known is there for its snapshot.
			if _, err := backUp(ctx, w, old...); err != nil {
				t.Fatal(err)
			}
			mustUnlock(t, l)
			if stats, err = p.sweep(t.Context()); err != nil || !c.goesOn && stats.Spared == 0 {
				t.Errorf("%s: sweep afterwards: %+v, %v", c.name, stats, err)
			}
			if err := soundOn(m, nil); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if lists := doomedLists(t, m); len(lists) > 0 {
				t.Errorf("%s: lists are left: %v", c.name, lists)
			}
		})
	}
}

// A list that was made elsewhere, altered, cut or renamed is named, honoured by
// nobody, and removed by the next prune.
func TestFalseLists(t *testing.T) {
	t.Parallel()
	other := garbage(t)
	markAll(t, other)
	foreign := readBeside(t, other, doomedLists(t, other)[0])
	for name, spoil := range map[string]func(m *storagetest.Memory){
		"of another repository": func(m *storagetest.Memory) {
			id := kassett.Hash(foreign)
			if err := m.PutBeside(t.Context(), "doomed/"+id.String(), kassett.BytesBody(foreign, id)); err != nil {
				t.Fatal(err)
			}
		},
		"altered": func(m *storagetest.Memory) {
			markAll(t, m)
			m.DamageBeside(doomedLists(t, m)[0], func(b []byte) []byte { b[30] ^= 1; return b })
		},
		"cut": func(m *storagetest.Memory) {
			markAll(t, m)
			m.DamageBeside(doomedLists(t, m)[0], func(b []byte) []byte { return b[:len(b)/2] })
		},
		"an index file": func(m *storagetest.Memory) {
			b := m.Bytes(m.Handles(kassett.IndexFile)[0])
			id := kassett.Hash(b)
			if err := m.PutBeside(t.Context(), "doomed/"+id.String(), kassett.BytesBody(b, id)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := garbage(t)
			spoil(m)
			bad := doomedLists(t, m)[0]
			var warned []error
			o := few
			o.Warn = func(err error) { warned = append(warned, err) }
			w, l, _ := lockedAs(t, m, repo.Adding, o)
			if len(warned) != 1 || !strings.Contains(warned[0].Error(), bad) || kassett.KindOf(warned[0]) != kassett.Corrupt {
				t.Errorf("warned: %v", warned)
			}
			if !w.Has(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(manyFiles(1, 1)[0])}) {
				t.Error("the list is honoured")
			}
			mustUnlock(t, l)
			if _, err := markAll(t, m).sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			if lists := doomedLists(t, m); len(lists) > 0 {
				t.Errorf("lists are left: %v", lists)
			}
			if err := soundOn(m, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func readBeside(t testing.TB, m *storagetest.Memory, name string) []byte {
	t.Helper()
	rc, err := m.GetBeside(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		t.Fatal(err)
	}
	return b
}

// A list that was swept and is put back does no harm: writers store anew what it
// names.
func TestOldListComesBack(t *testing.T) {
	t.Parallel()
	m := garbage(t)
	p := markAll(t, m)
	name := doomedLists(t, m)[0]
	old := readBeside(t, m, name)
	w, l, ctx := lockedAs(t, m, repo.Shared, few) // spares what the list names
	if _, err := backUp(ctx, w, manyFiles(1, 24)...); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if stats, err := p.sweep(t.Context()); err != nil || stats.Spared == 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if err := m.PutBeside(t.Context(), name, kassett.BytesBody(old, kassett.Hash(old))); err != nil {
		t.Fatal(err)
	}
	w, l, ctx = lockedAs(t, m, repo.Adding, few)
	if _, err := backUp(ctx, w, manyFiles(1, 24)...); err != nil {
		t.Fatal(err)
	}
	mustUnlock(t, l)
	if stats, err := markAll(t, m).sweep(t.Context()); err != nil || stats.Lists == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	if lists := doomedLists(t, m); len(lists) > 0 {
		t.Errorf("lists are left: %v", lists)
	}
	if err := soundOn(m, nil); err != nil {
		t.Error(err)
	}
}

// A lock that is held for seconds is waited for, also by who would not wait.
func TestBriefLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m := memoryRepo(t, repo.InitOptions{})
		for _, c := range []struct {
			name string
			end  func(*repo.Lock)
		}{
			{"given back", func(l *repo.Lock) { mustUnlock(t, l) }},
			{"made a shared one", func(l *repo.Lock) { l.Share() }},
		} {
			held, _, err := r.Lock(t.Context(), repo.Forgetting, repo.LockOptions{})
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(8 * time.Second)
				c.end(held)
			}()
			start := time.Now()
			l, _, err := openMemory(t, m, password, repo.Options{}).Lock(t.Context(), repo.Adding, repo.LockOptions{})
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if d := time.Since(start); d < 8*time.Second || d > 11*time.Second {
				t.Errorf("%s: waited %v, want about 8 seconds", c.name, d)
			}
			mustUnlock(t, l)
			mustUnlock(t, held)
		}
		held, _, err := r.Lock(t.Context(), repo.Forgetting, repo.LockOptions{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_, _, err = openMemory(t, m, password, repo.Options{}).Lock(t.Context(), repo.Shared, repo.LockOptions{})
		wantKind(t, err, kassett.Locked)
		if d := time.Since(start); d < 2*time.Minute || d > 3*time.Minute {
			t.Errorf("gave up after %v, want two minutes", d)
		}
		mustUnlock(t, held)
		if n := len(m.Handles(kassett.LockFile)); n > 0 {
			t.Errorf("%d locks are left", n)
		}
	})
}

// What a lock promises stays when it is written anew.
func TestHonoursAreRefreshed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := garbage(t)
		p := markAll(t, m)
		_, l, _ := lockedAs(t, m, repo.Adding, few)
		before := m.Handles(kassett.LockFile)[0]
		time.Sleep(11 * time.Minute)
		if after := m.Handles(kassett.LockFile)[0]; after == before {
			t.Error("the lock was not written anew: this tests nothing")
		}
		if stats, err := p.sweep(t.Context()); err != nil || stats.Packs == 0 {
			t.Errorf("sweep: %+v, %v", stats, err)
		}
		mustUnlock(t, l)
	})
}

// Stock restic reads our locks as its own: a brief one keeps it out, that of a
// careful writer does not, and a doomed list is nothing to it.
func TestResticBesideMark(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, repo.InitOptions{Options: few})
	gone := mustBackUp(t, r, manyFiles(1, 24)...)
	mustBackUp(t, r, manyFiles(100, 8)...)
	mustForget(t, r, gone)
	p := &crowdPrune{place: swappable(r.Storage()), r: r}
	if err := p.mark(t.Context(), repo.PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	adding, _, err := r.Lock(t.Context(), repo.Adding, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	src := t.TempDir()
	restic(t, dir, "backup", src)
	restic(t, dir, "check", "--no-lock", "--read-data")
	brief, _, err := r.Lock(t.Context(), repo.Forgetting, repo.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, code := resticExit(t, dir, password, "backup", src); code == 0 || !strings.Contains(out, "locked") {
		t.Errorf("restic beside an exclusive lock: exit %d\n%s", code, out)
	}
	mustUnlock(t, brief)
	if _, err := p.sweep(t.Context()); err != nil {
		t.Error(err)
	}
	mustUnlock(t, adding)
	restic(t, dir, "check", "--read-data")
}

// Nothing of a list is written in the clear.
func TestListIsSealed(t *testing.T) {
	t.Parallel()
	m := garbage(t)
	markAll(t, m)
	b := readBeside(t, m, doomedLists(t, m)[0])
	for _, h := range m.Handles(kassett.PackFile) {
		if bytes.Contains(b, []byte(h.ID.String())) || bytes.Contains(b, h.ID[:]) {
			t.Error("a pack is named in the clear")
		}
	}
}
