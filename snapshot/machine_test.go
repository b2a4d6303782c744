package snapshot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// machine is two repositories, the second a copy of the first, that live through
// backups, tagging, rewriting, forgetting, prunes and power cuts in any order.
type machine struct {
	stores [2]*storagetest.Memory
	source *treeSource
	clock  int64
	// content is that of each snapshot, by its time and path.
	content map[int64]map[string][]byte
	// promised are the times of the snapshots that must be there.
	promised [2]map[int64]bool
}

// secret is the file that a rewrite takes out.
const secret = "d/secret"

func newMachine(t *rapid.T) *machine {
	m := &machine{source: newTreeSource(), content: map[int64]map[string][]byte{}}
	m.source.add(secret, []byte("a name"))
	for i := range m.stores {
		m.stores[i] = storagetest.NewMemory()
		m.promised[i] = map[int64]bool{}
		r, err := repo.Init(context.Background(), m.stores[i], []byte(password), repo.InitOptions{
			Polynomial: 0x3DA3358B4DC173, Scrypt: repo.Scrypt{N: 16, R: 1, P: 1},
		})
		if err == nil {
			err = r.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// open runs work on a storage.
func open(st kassett.Storage, work func(context.Context, *repo.Repository) error) error {
	ctx := context.Background()
	r, err := repo.Open(ctx, st, []byte(password), repo.Options{Connections: 2})
	if err != nil {
		return err
	}
	err = r.LoadIndex(ctx, nil)
	if err == nil {
		err = work(ctx, r)
	}
	return errors.Join(err, r.Close())
}

// run does work on a repository; sometimes the power is cut in it. It reports
// whether the work was done.
func (m *machine) run(t *rapid.T, i int, work func(context.Context, *repo.Repository) error) bool {
	cut := rapid.SampledFrom([]int{0, 0, 1, 2, 3, 4, 6, 9}).Draw(t, "power cut at")
	c := storagetest.NewCrashing(m.stores[i], cut)
	err := open(c, work)
	if err != nil && !c.Crashed() {
		t.Fatal(err)
	}
	survivors := maps.Collect(c.Survivors())
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(survivors))).Draw(t, "what survives")
	m.stores[i] = survivors[name]
	return err == nil
}

// change changes the source and saves it.
func (m *machine) backup(t *rapid.T) {
	path := fmt.Sprintf("d/%d/file", rapid.IntRange(0, 3).Draw(t, "file"))
	m.source.add(path, pseudoRandom(rapid.SampledFrom([]int{0, 10, 5000, 700_000}).Draw(t, "size"), uint64(rapid.IntRange(0, 5).Draw(t, "bytes"))))
	m.clock++
	for range m.clock {
		m.source.touch(path)
	}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, int(m.clock))
	m.content[at.Unix()] = maps.Clone(m.source.content)
	if m.run(t, 0, func(ctx context.Context, r *repo.Repository) error {
		_, err := snapshot.Backup(ctx, r, m.source, snapshot.BackupOptions{Time: at, Host: "h", Paths: []string{"/"}})
		return err
	}) {
		m.promised[0][at.Unix()] = true
	}
}

func (m *machine) forget(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "repository")
	m.run(t, i, func(ctx context.Context, r *repo.Repository) error {
		if len(m.promised[i]) == 0 {
			return nil
		}
		plan, err := snapshot.PlanForget(ctx, r, snapshot.ForgetOptions{
			Policy: snapshot.Policy{Last: rapid.IntRange(1, 3).Draw(t, "keep")}, Group: snapshot.GroupBy{Host: true},
		})
		if err != nil {
			return err
		}
		for _, s := range plan.Removals() {
			delete(m.promised[i], s.Time.Unix())
		}
		_, err = plan.Remove(ctx, r, nil)
		return err
	})
}

// all runs work on all snapshots of a repository.
func (m *machine) all(t *rapid.T, work func(context.Context, *repo.Repository, []*snapshot.Snapshot) error) {
	m.run(t, rapid.IntRange(0, 1).Draw(t, "repository"), func(ctx context.Context, r *repo.Repository) error {
		list, err := snapshot.List(ctx, r, snapshot.Filter{})
		if err != nil {
			return err
		}
		return work(ctx, r, list)
	})
}

func (m *machine) tag(t *rapid.T) {
	tag := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "tag")
	m.all(t, func(ctx context.Context, r *repo.Repository, list []*snapshot.Snapshot) error {
		return snapshot.Tag(ctx, r, list, snapshot.TagChange{Add: []string{tag}}, nil)
	})
}

func (m *machine) rewrite(t *rapid.T) {
	forget := rapid.Bool().Draw(t, "forget")
	m.all(t, func(ctx context.Context, r *repo.Repository, list []*snapshot.Snapshot) error {
		return snapshot.Rewrite(ctx, r, list, snapshot.RewriteOptions{Forget: forget, Select: func(path string, _ *snapshot.Node) (bool, bool) {
			return path != "/"+secret, true
		}})
	})
}

func (m *machine) prune(t *rapid.T) {
	m.all(t, func(ctx context.Context, r *repo.Repository, list []*snapshot.Snapshot) error {
		var trees []kassett.ID
		for _, s := range list {
			trees = append(trees, s.Tree)
		}
		used, err := snapshot.Used(ctx, r, trees, nil)
		if err != nil {
			return err
		}
		_, err = r.Prune(ctx, used, repo.PruneOptions{})
		return err
	})
}

func (m *machine) copy(t *rapid.T) {
	was := maps.Clone(m.promised[0])
	err := open(m.stores[0], func(ctx context.Context, src *repo.Repository) error {
		list, err := snapshot.List(ctx, src, snapshot.Filter{})
		if err != nil {
			return err
		}
		if m.run(t, 1, func(ctx context.Context, dst *repo.Repository) error {
			_, err := copyTo(ctx, src, dst, list, snapshot.CopyOptions{})
			return err
		}) {
			maps.Copy(m.promised[1], was)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check restores everything.
func (m *machine) check(t *rapid.T) {
	for i, st := range m.stores {
		err := open(st, func(ctx context.Context, r *repo.Repository) error {
			list, err := snapshot.List(ctx, r, snapshot.Filter{})
			if err != nil {
				return err
			}
			_, err = snapshot.Check(ctx, r, snapshot.CheckOptions{}, func(f repo.Finding) { t.Errorf("%s %s: %v", f.Kind, f.What, f.Err) })
			there := map[int64]bool{}
			for _, s := range list {
				there[s.Time.Unix()] = true
				err = errors.Join(err, wantContent(ctx, r, s, m.content[s.Time.Unix()]))
			}
			for at := range m.promised[i] {
				if !there[at] {
					t.Errorf("repository %d lost the snapshot of %s", i, time.Unix(at, 0).UTC())
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wantContent compares a snapshot with what was saved. The secret may be gone.
func wantContent(ctx context.Context, r *repo.Repository, s *snapshot.Snapshot, want map[string][]byte) error {
	want = maps.Clone(want)
	err := snapshot.Walk(ctx, r, s.Tree, func(path string, n *snapshot.Node) error {
		if n.Type != kassett.File {
			return nil
		}
		var b bytes.Buffer
		if err := snapshot.DumpFile(ctx, r, n, io.Writer(&b)); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "/")
		if w, ok := want[name]; !ok || !bytes.Equal(b.Bytes(), w) {
			return fmt.Errorf("snapshot %s: %s is not what was saved", s.ID.Short(), path)
		}
		delete(want, name)
		return nil
	})
	delete(want, secret)
	if err == nil && len(want) > 0 {
		err = fmt.Errorf("snapshot %s lacks %d files", s.ID.Short(), len(want))
	}
	return err
}

// TestEveryListedSnapshotRestores whatever happens in between.
func TestEveryListedSnapshotRestores(t *testing.T) {
	t.Parallel()
	checkSome(t, 15, func(rt *rapid.T) {
		m := newMachine(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"backup": m.backup, "again": m.backup, "forget": m.forget, "tag": m.tag,
			"rewrite": m.rewrite, "prune": m.prune, "copy": m.copy, "": m.check,
		})
	})
}
