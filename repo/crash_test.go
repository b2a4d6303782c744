package repo_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// act is work on a repository that may be cut off anywhere.
type act struct {
	name string
	// start makes what is there before.
	start func(t *testing.T) *storagetest.Memory
	// work is one run, from opening the repository on.
	work func(ctx context.Context, st kassett.Storage) error
	// damaged says that what is there before is not sound, so that nothing
	// can be asked of it until the work is done.
	damaged bool
}

// few keeps packs small, so that there are several, and few operations at once.
var few = repo.Options{PackSize: 24 << 10, Connections: 2, KeyCost: quick}

// withRepo opens the repository on st, loads its index and calls fn.
func withRepo(ctx context.Context, st kassett.Storage, fn func(*repo.Repository) error) error {
	r, err := repo.Open(ctx, st, []byte(password), few)
	if err != nil {
		return err
	}
	if err = r.LoadIndex(ctx, nil); err == nil {
		err = fn(r)
	}
	return errors.Join(err, r.Close())
}

// withDamaged is withRepo for repairs, which need no index.
func withDamaged(ctx context.Context, st kassett.Storage, fn func(*repo.Repository) error) error {
	r, err := repo.Open(ctx, st, []byte(password), few)
	if err != nil {
		return err
	}
	return errors.Join(fn(r), r.Close())
}

// twoSnapshots makes a repository with two snapshots that share half of their
// files, and one more that was forgotten.
func twoSnapshots(t *testing.T) *storagetest.Memory {
	t.Helper()
	r, m := storyRepo(t, few)
	gone := mustBackUp(t, r, manyFiles(1, 24)...)
	mustBackUp(t, r, append(manyFiles(1, 4), manyFiles(100, 8)...)...)
	mustBackUp(t, r, append(manyFiles(5, 4), manyFiles(104, 8)...)...)
	mustForget(t, r, gone)
	return m
}

func ignore(repo.Finding) {}

func acts(t *testing.T) []act {
	t.Helper()
	source := twoSnapshots(t)
	none, err := repo.ParseUnused("0%")
	if err != nil {
		t.Fatal(err)
	}
	return []act{
		{
			name: "backup", start: twoSnapshots,
			work: func(ctx context.Context, st kassett.Storage) error {
				return withRepo(ctx, st, func(r *repo.Repository) error {
					_, err := backUp(ctx, r, append(manyFiles(100, 4), manyFiles(200, 14)...)...)
					return err
				})
			},
		},
		{
			name: "prune", start: twoSnapshots,
			work: func(ctx context.Context, st kassett.Storage) error {
				return withRepo(ctx, st, func(r *repo.Repository) error {
					_, err := prune(ctx, r, repo.PruneOptions{MaxUnused: none})
					return err
				})
			},
		},
		{
			name: "copy", start: func(t *testing.T) *storagetest.Memory {
				r, m := storyRepo(t, few)
				mustBackUp(t, r, manyFiles(100, 4)...)
				return m
			},
			work: func(ctx context.Context, st kassett.Storage) error {
				return withRepo(ctx, source.Clone(), func(src *repo.Repository) error {
					used, err := readAll(ctx, src)
					if err != nil {
						return err
					}
					return withRepo(ctx, st, func(dst *repo.Repository) error {
						if _, err := copyTo(ctx, src, dst, used); err != nil {
							return err
						}
						return copySnapshots(ctx, src, dst)
					})
				})
			},
		},
		{
			name: "repair index", damaged: true, start: func(t *testing.T) *storagetest.Memory {
				m := twoSnapshots(t)
				files := m.Handles(kassett.IndexFile)
				remove(t, m, files[0])
				m.Damage(files[1], func(b []byte) []byte { return b[:len(b)/2] })
				return m
			},
			work: func(ctx context.Context, st kassett.Storage) error {
				return withDamaged(ctx, st, func(r *repo.Repository) error {
					_, err := r.RepairIndex(ctx, repo.RepairOptions{}, ignore)
					return err
				})
			},
		},
		{
			name: "repair packs", damaged: true, start: func(t *testing.T) *storagetest.Memory {
				m := twoSnapshots(t)
				for _, h := range m.Handles(kassett.PackFile)[:2] {
					m.Damage(h, func(b []byte) []byte { return b[:len(b)-20] }) // half a header: every blob is there
				}
				return m
			},
			work: func(ctx context.Context, st kassett.Storage) error {
				return withDamaged(ctx, st, func(r *repo.Repository) error { return repairAll(ctx, r) })
			},
		},
	}
}

// repairAll does for every damaged pack what an operator does whom check has
// told so.
func repairAll(ctx context.Context, r *repo.Repository) error {
	var ids []kassett.ID
	for info, err := range r.List(ctx, kassett.PackFile) {
		if err != nil {
			return err
		}
		if _, err := r.PackHeader(ctx, info.ID, info.Size); err != nil {
			if kassett.KindOf(err) != kassett.Corrupt {
				return err
			}
			ids = append(ids, info.ID)
		}
	}
	_, err := r.RepairPacks(ctx, ids, repo.RepairOptions{}, ignore)
	return err
}

func copySnapshots(ctx context.Context, src, dst *repo.Repository) error {
	for info, err := range src.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return err
		}
		plain, err := src.LoadUnpacked(ctx, kassett.SnapshotFile, info.ID)
		if err != nil {
			return err
		}
		if _, err := dst.SaveUnpacked(ctx, kassett.SnapshotFile, plain); err != nil {
			return err
		}
	}
	return nil
}

// soundOn returns why the repository on st is not sound: a snapshot that was
// there before is not listed, one that is listed does not load, or a check finds
// damage.
func soundOn(st kassett.Storage, before []kassett.Handle) error {
	ctx := context.Background()
	return withRepo(ctx, st, func(r *repo.Repository) error {
		for _, h := range before {
			if _, err := st.Stat(ctx, h); err != nil {
				return fmt.Errorf("snapshot %s: %w", h.ID, err)
			}
		}
		if _, err := readAll(ctx, r); err != nil {
			return err
		}
		if found, err := check(ctx, r); err != nil {
			return fmt.Errorf("%w: %v", err, found)
		}
		return nil
	})
}

// The power is cut at every change of every act. Whatever survives is sound, and
// the next run completes.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	for _, a := range acts(t) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			start := a.start(t)
			before := start.Handles(kassett.SnapshotFile)
			for n := 1; ; n++ {
				c := storagetest.NewCrashing(start, n)
				err := a.work(ctx, c)
				if !c.Crashed() {
					if err != nil {
						t.Fatalf("without a crash: %v", err)
					}
					if n < 4 {
						t.Fatalf("only %d changes: this tests nothing", n-1)
					}
					return
				}
				for name, m := range c.Survivors() {
					if err := afterwards(ctx, a, m, before); err != nil {
						t.Fatalf("%s: %v\n%v", name, err, c.Log())
					}
				}
			}
		})
	}
}

// afterwards looks at what is there after an act was cut off, does it again, and
// looks again.
func afterwards(ctx context.Context, a act, st kassett.Storage, before []kassett.Handle) error {
	if !a.damaged {
		if err := soundOn(st, before); err != nil {
			return fmt.Errorf("afterwards: %w", err)
		}
	}
	if err := a.work(ctx, st); err != nil {
		return fmt.Errorf("the next run: %w", err)
	}
	if err := soundOn(st, before); err != nil {
		return fmt.Errorf("after the next run: %w", err)
	}
	return nil
}

// Every call of every act fails, before or after it had its effect.
func TestFailAnywhere(t *testing.T) {
	t.Parallel()
	for _, a := range acts(t) {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, answer lost %v", a.name, after), func(t *testing.T) {
				t.Parallel()
				ctx := context.Background()
				start := a.start(t)
				before := start.Handles(kassett.SnapshotFile)
				for n, last := 1, int64(1); int64(n) <= last; n++ {
					m := start.Clone()
					var calls atomic.Int64
					fail := storagetest.FailNth(n, after)
					err := a.work(ctx, storagetest.NewFailing(m, func(c storagetest.Call) *storagetest.Fault {
						calls.Store(max(calls.Load(), int64(c.N)))
						return fail(c)
					}))
					last = max(last, calls.Load())
					if err == nil {
						err = soundOn(m, before)
					} else {
						err = afterwards(ctx, a, m, before)
					}
					if err != nil {
						t.Fatalf("call %d of %d fails: %v", n, last, err)
					}
				}
			})
		}
	}
}

// The disk is full from every put on: the error says so, and nothing is lost.
func TestDiskFullAnywhere(t *testing.T) {
	t.Parallel()
	for _, a := range acts(t) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			start := a.start(t)
			before := start.Handles(kassett.SnapshotFile)
			for n := 1; ; n++ {
				m := start.Clone()
				err := a.work(ctx, storagetest.NewFailing(m, storagetest.DiskFull(n)))
				if err == nil {
					break
				}
				if kassett.KindOf(err) != kassett.Full {
					t.Fatalf("put %d: %v, want an error of kind full", n, err)
				}
				if err := afterwards(ctx, a, m, before); err != nil {
					t.Fatalf("put %d: %v", n, err)
				}
			}
		})
	}
}

// Storage that cannot be written is read, and whatever wants to write says so.
func TestReadOnlyStorage(t *testing.T) {
	t.Parallel()
	for _, a := range acts(t) {
		start := a.start(t)
		frozen := storagetest.NewFailing(start, storagetest.ReadOnly())
		if !a.damaged {
			if err := soundOn(frozen, nil); err != nil {
				t.Errorf("read before %s: %v", a.name, err)
			}
		}
		if err := a.work(context.Background(), frozen); kassett.KindOf(err) != kassett.Denied {
			t.Errorf("%s: %v, want an error of kind denied", a.name, err)
		}
	}
}

// A repository whose making was cut off is whole, or can be told from one.
func TestCrashInInit(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for n := 1; ; n++ {
		c := storagetest.NewCrashing(storagetest.NewMemory(), n)
		r, err := repo.Init(ctx, c, []byte(password), repo.InitOptions{Options: few})
		if !c.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			closeLater(t, r)
			return
		}
		for name, m := range c.Survivors() {
			err := withRepo(ctx, m, func(*repo.Repository) error { return nil })
			if err != nil && kassett.HintOf(err) == "" {
				t.Errorf("%s: %v, without a hint", name, err)
			}
			if k := kassett.KindOf(err); err != nil && k != kassett.NotFound && k != kassett.Corrupt {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
