package prune_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kassett"
	"kassett/prune"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// again opens a repository in memory as another process would.
func again(t testing.TB, st kassett.Storage) *repo.Repository {
	t.Helper()
	r, err := repo.Open(t.Context(), st, []byte(password), repo.Options{Connections: 2})
	must(t, err)
	closeAfter(t, r)
	return r
}

// opened runs work on the repository of a storage.
func opened(st kassett.Storage, work func(context.Context, *repo.Repository) error) error {
	ctx := context.Background()
	r, err := repo.Open(ctx, st, []byte(password), repo.Options{Connections: 2})
	if err != nil {
		return err
	}
	if err = r.LoadIndex(ctx, nil); err == nil {
		err = work(ctx, r)
	}
	return errors.Join(err, r.Close())
}

// backUpAs backs up under a lock of the given mode, with a parent or nil.
func backUpAs(t testing.TB, r *repo.Repository, mode repo.LockMode, src kassett.Source, parent *snapshot.Snapshot) (sn *snapshot.Snapshot) {
	t.Helper()
	must(t, r.Hold(t.Context(), mode, repo.LockOptions{}, func(ctx context.Context, _ *repo.Lock) error {
		err := r.LoadIndex(ctx, nil)
		if err == nil {
			sn, err = snapshot.Backup(ctx, r, src, snapshot.BackupOptions{Host: "h", Paths: []string{"/"}, Parent: parent})
		}
		return err
	}))
	return sn
}

func forgetAs(t testing.TB, r *repo.Repository, sn *snapshot.Snapshot) {
	t.Helper()
	must(t, r.Hold(t.Context(), repo.Forgetting, repo.LockOptions{}, func(ctx context.Context, _ *repo.Lock) error {
		return r.Delete(ctx, kassett.SnapshotFile, sn.ID)
	}))
}

// tidy is a prune that leaves nothing.
func tidy(t testing.TB) prune.Options {
	t.Helper()
	none, err := repo.ParseUnused("0")
	must(t, err)
	return prune.Options{PruneOptions: repo.PruneOptions{MaxUnused: none}}
}

// wantOneWhole fails the test unless there is one snapshot and all is whole.
func wantOneWhole(t testing.TB, st kassett.Storage) {
	t.Helper()
	must(t, opened(st, func(ctx context.Context, r *repo.Repository) error {
		tell := func(f repo.Finding) { t.Logf("%s %s: %v", f.Kind, f.What, f.Err) }
		list, err := snapshot.List(ctx, r, snapshot.Filter{})
		if err == nil && len(list) != 1 {
			t.Errorf("%d snapshots, want 1", len(list))
		}
		_, treesErr := snapshot.Check(ctx, r, snapshot.CheckOptions{}, tell)
		return errors.Join(err, treesErr, r.Check(ctx, repo.CheckOptions{ReadData: repo.Subset{All: true}}, tell))
	}))
}

// pruneSource is a source of some folders and files.
func pruneSource() files {
	src := files{}
	for _, ward := range []string{"a", "b", "b/c"} {
		for _, file := range []string{"1", "2"} {
			src["d/"+ward+"/"+file] = storagetest.Random(uint64(len(ward))+uint64(file[0]), 5000)
		}
	}
	return src
}

// hooked is a source in which something happens when a folder is listed.
type hooked struct {
	kassett.Source
	dir  string
	hook func()
	once sync.Once
}

func (h *hooked) List(ctx context.Context, dir string) ([]kassett.Entry, error) {
	if dir == h.dir {
		h.once.Do(h.hook)
	}
	return h.Source.List(ctx, dir)
}

// A stock restic relies on what is doomed, our backup compares with its
// snapshot, and that is forgotten and swept before ours is saved. Nothing in the
// source has changed, so that every tree and every file could be taken over.
func TestParentIsSwept(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"", "d", "d/b/c", "before"} {
		t.Run("when listing "+when, func(t *testing.T) {
			t.Parallel()
			r, m := memoryRepo(t)
			src := pruneSource()
			forgetAs(t, r, backUpAs(t, r, repo.Shared, src, nil))
			o := tidy(t)
			o.MarkOnly = true
			marked, err := prune.Run(t.Context(), again(t, m), o)
			if err != nil || marked.Left != 1 {
				t.Fatalf("%+v, %v", marked, err)
			}
			theirs := backUpAs(t, again(t, m), repo.Shared, src, nil)
			if theirs.Summary.DataBlobs != 0 {
				t.Fatalf("restic stored %d blobs: this tests nothing", theirs.Summary.DataBlobs)
			}
			sweep := func() {
				forgetAs(t, again(t, m), theirs)
				if done, err := prune.Run(t.Context(), again(t, m), tidy(t)); err != nil && kassett.KindOf(err) != kassett.Locked || done.Swept.Packs == 0 {
					t.Errorf("prune beside our backup: %+v, %v", done, err)
				}
			}
			ours := again(t, m)
			var from kassett.Source = &hooked{Source: src, dir: when, hook: sweep}
			if when == "before" {
				from = &hooked{Source: src, dir: "", hook: func() {}}
				sweep()
			}
			if sn := backUpAs(t, ours, repo.Adding, from, theirs); sn.Summary.DataBlobs != 4 || sn.Summary.TreeBlobs != 5 {
				t.Errorf("stored %+v, want all of it anew", sn.Summary)
			}
			wantOneWhole(t, m)
		})
	}
}

// While someone is at work who may rely on what is marked, prune waits, says for
// whom, and holds no lock; meanwhile snapshots are forgotten and another prune
// comes through.
func TestPruneWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, m := memoryRepo(t)
		src := pruneSource()
		backUpAs(t, r, repo.Shared, src, nil)
		forgetAs(t, r, backUpAs(t, r, repo.Shared, changed(src, 50), nil))
		later := backUpAs(t, r, repo.Shared, changed(src, 60), nil)
		other, _, err := again(t, m).Lock(t.Context(), repo.Shared, repo.LockOptions{})
		must(t, err)

		done, err := prune.Run(t.Context(), again(t, m), tidy(t))
		if kassett.KindOf(err) != kassett.Locked || !strings.Contains(kassett.HintOf(err), "--retry-lock") || done == nil || done.Left != 1 {
			t.Fatalf("without waiting: %+v, %v", done, err)
		}
		o := tidy(t)
		o.Lock.Retry = time.Hour
		waited := 0
		o.Lock.Waiting = func(by repo.LockInfo) {
			waited++
			must(t, other.Unlock())
			forgetAs(t, again(t, m), later)
			if done, err := prune.Run(t.Context(), again(t, m), tidy(t)); err != nil || done.Left != 0 {
				t.Errorf("a prune while another waits: %+v, %v", done, err)
			}
		}
		done, err = prune.Run(t.Context(), again(t, m), o)
		if err != nil || done.Left != 0 || waited != 1 {
			t.Errorf("waiting: %+v, %d times, %v", done, waited, err)
		}
		if n := len(m.Handles(kassett.LockFile)); n > 0 {
			t.Errorf("%d locks are left", n)
		}
		wantOneWhole(t, m)
	})
}

// changed is a source in which there are more files.
func changed(src files, seed uint64) files {
	other := maps.Clone(src)
	for path := range src {
		other[path+"x"] = storagetest.Random(seed+uint64(path[len(path)-1]), 5000)
	}
	return other
}

// Storage without a place beside the repository is pruned as restic does it.
func TestPruneAlone(t *testing.T) {
	t.Parallel()
	r, m := memoryRepo(t)
	src := pruneSource()
	backUpAs(t, r, repo.Shared, src, nil)
	forgetAs(t, r, backUpAs(t, r, repo.Shared, changed(src, 50), nil))
	plain := struct{ kassett.Storage }{m}
	before := len(m.Handles(kassett.PackFile))
	var told []string
	o := tidy(t)
	o.Notice = func(msg string) { told = append(told, msg) }
	o.MarkOnly = true
	if _, err := prune.Run(t.Context(), again(t, plain), o); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("marking only: %v", err)
	}
	o.MarkOnly = false
	other, _, err := again(t, m).Lock(t.Context(), repo.Adding, repo.LockOptions{})
	must(t, err)
	if _, err := prune.Run(t.Context(), again(t, plain), o); kassett.KindOf(err) != kassett.Locked {
		t.Errorf("beside a writer: %v", err)
	}
	must(t, other.Unlock())
	if _, err = prune.Run(t.Context(), again(t, plain), o); err != nil {
		t.Fatal(err)
	}
	if len(told) == 0 || !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, "no place") }) {
		t.Errorf("told %q", told)
	}
	if after := len(m.Handles(kassett.PackFile)); after >= before {
		t.Errorf("%d packs before, %d after", before, after)
	}
	wantOneWhole(t, m)
}

// The power is cut at every change of a prune, and of the one that goes on.
func TestPruneCutAnywhere(t *testing.T) {
	t.Parallel()
	r, start := memoryRepo(t)
	src := pruneSource()
	backUpAs(t, r, repo.Shared, src, nil)
	forgetAs(t, r, backUpAs(t, r, repo.Shared, changed(src, 50), nil))
	run := func(st kassett.Storage) error {
		return opened(st, func(ctx context.Context, r *repo.Repository) error {
			_, err := prune.Run(ctx, r, tidy(t))
			return err
		})
	}
	synctest.Test(t, func(t *testing.T) {
		for n := 1; ; n++ {
			c := storagetest.NewCrashing(start, n)
			err := run(c)
			if !c.Crashed() {
				must(t, err)
				if n < 10 {
					t.Errorf("only %d changes: this tests little", n-1)
				}
				return
			}
			for name, m := range c.Survivors() {
				for _, h := range m.Handles(kassett.LockFile) { // as unlock does
					must(t, m.Delete(t.Context(), h))
				}
				wantOneWhole(t, m)
				if err := run(m); err != nil {
					t.Fatalf("%s: the next prune: %v\n%v", name, err, c.Log())
				}
				wantOneWhole(t, m)
			}
		}
	})
}
