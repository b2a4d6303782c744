package repo_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// machine is two repositories, the second a copy of the first, that live
// through backups, forgetting, prunes, copies, repairs and power cuts in any
// order.
type machine struct {
	stores [2]*storagetest.Memory
	// promised are the snapshots that must load.
	promised [2][]kassett.Handle
	// touched is the repository of the present step.
	touched int
}

func newMachine(t *rapid.T) *machine {
	m := &machine{stores: [2]*storagetest.Memory{storagetest.NewMemory(), storagetest.NewMemory()}}
	o := repo.InitOptions{Options: few}
	first, err := repo.Init(context.Background(), m.stores[0], []byte(password), o)
	if err != nil {
		t.Fatal(err)
	}
	var second *repo.Repository
	if rapid.Bool().Draw(t, "the second is a replica") {
		second, err = repo.InitReplica(context.Background(), m.stores[1], []byte(password), first, o)
	} else {
		second, err = repo.Init(context.Background(), m.stores[1], []byte(password), o)
	}
	if err = errors.Join(err, first.Close()); err == nil {
		err = second.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// run does work on the touched repository; sometimes the power is cut in it.
func (m *machine) run(t *rapid.T, work func(context.Context, *repo.Repository) error) {
	ctx, i := context.Background(), m.touched
	cut := rapid.SampledFrom([]int{0, 0, 1, 2, 3, 4, 6, 9, 13, 20}).Draw(t, "power cut at")
	c := storagetest.NewCrashing(m.stores[i], cut)
	err := withRepo(ctx, c, func(r *repo.Repository) error { return work(ctx, r) })
	if err != nil && !c.Crashed() {
		t.Fatal(err)
	}
	n := 0
	for range c.Survivors() {
		n++
	}
	which := rapid.IntRange(0, n-1).Draw(t, "what survives")
	for name, st := range c.Survivors() {
		if which == 0 {
			t.Log(name)
			m.stores[i] = st
			break
		}
		which--
	}
	if err == nil {
		m.promised[i] = m.stores[i].Handles(kassett.SnapshotFile)
	}
}

func (m *machine) backUp(t *rapid.T) {
	seed, n := rapid.Uint64Range(1, 40).Draw(t, "seed"), rapid.IntRange(1, 20).Draw(t, "files")
	m.run(t, func(ctx context.Context, r *repo.Repository) error {
		_, err := backUp(ctx, r, manyFiles(seed, n)...)
		return err
	})
}

// backUpBlind stores everything again, as a writer does that began before
// others had finished.
func (m *machine) backUpBlind(t *rapid.T) {
	seed, i := rapid.Uint64Range(1, 40).Draw(t, "seed"), m.touched
	ctx := context.Background()
	r, err := repo.Open(ctx, m.stores[i], []byte(password), few)
	if err == nil {
		_, err = backUp(ctx, r, manyFiles(seed, 8)...)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	m.promised[i] = m.stores[i].Handles(kassett.SnapshotFile)
}

func (m *machine) forget(t *rapid.T) {
	i := m.touched
	if len(m.promised[i]) == 0 {
		return
	}
	h := rapid.SampledFrom(m.promised[i]).Draw(t, "snapshot")
	m.promised[i] = slices.DeleteFunc(m.promised[i], func(o kassett.Handle) bool { return o == h })
	m.run(t, func(ctx context.Context, r *repo.Repository) error { return r.Delete(ctx, h.Kind, h.ID) })
}

func (m *machine) prune(t *rapid.T) {
	limit, err := repo.ParseUnused(rapid.SampledFrom([]string{"0", "5%", "40%", "unlimited"}).Draw(t, "max unused"))
	if err != nil {
		t.Fatal(err)
	}
	o := repo.PruneOptions{
		MaxUnused:     limit,
		MaxRepackSize: rapid.SampledFrom([]int64{0, 0, -1, 50 << 10}).Draw(t, "max repack size"),
		RepackSmall:   rapid.SampledFrom([]int64{0, 1, 10 << 10}).Draw(t, "repack small"),
	}
	m.run(t, func(ctx context.Context, r *repo.Repository) error {
		_, err := prune(ctx, r, o)
		return err
	})
}

func (m *machine) copy(t *rapid.T) {
	from := 1 - m.touched
	m.run(t, func(ctx context.Context, dst *repo.Repository) error {
		return withRepo(ctx, m.stores[from], func(src *repo.Repository) error {
			used, err := readAll(ctx, src)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := copyTo(ctx, src, dst, used); err != nil {
				return err
			}
			return copySnapshots(ctx, src, dst)
		})
	})
}

func (m *machine) loseIndex(t *rapid.T) {
	i := m.touched
	for _, h := range m.stores[i].Handles(kassett.IndexFile) {
		if rapid.Bool().Draw(t, "lost") {
			if err := m.stores[i].Delete(context.Background(), h); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.repair(t, repo.RepairOptions{})
}

func (m *machine) repair(t *rapid.T, o repo.RepairOptions) {
	err := withDamaged(context.Background(), m.stores[m.touched], func(r *repo.Repository) error {
		_, err := r.RepairIndex(context.Background(), o, ignore)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever happens in whatever order: every snapshot that is listed loads, no
// promised one is missing, and a check that reads everything finds no damage.
func TestMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		for range rapid.IntRange(1, 15).Draw(t, "steps") {
			act := rapid.SampledFrom([]string{"back up", "back up blind", "forget", "prune", "copy", "lose index", "repair index"}).Draw(t, "act")
			m.touched = rapid.IntRange(0, 1).Draw(t, "repository")
			switch act {
			case "back up":
				m.backUp(t)
			case "back up blind":
				m.backUpBlind(t)
			case "forget":
				m.forget(t)
			case "prune":
				m.prune(t)
			case "copy":
				m.copy(t)
			case "lose index":
				m.loseIndex(t)
			case "repair index":
				m.repair(t, repo.RepairOptions{ReadAllPacks: true})
			}
			if err := soundOn(m.stores[m.touched], m.promised[m.touched]); err != nil {
				t.Fatalf("repository %d: %v", m.touched, err)
			}
		}
	})
}

// By turns with stock restic: both back up, forget and prune in one repository,
// and after each turn both find it sound.
func TestByTurnsWithRestic(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	_, dir := newRepo(t, repo.InitOptions{Options: repo.Options{PackSize: 64 << 10}})
	cache, folder := t.TempDir(), t.TempDir()
	zero, err := repo.ParseUnused("0")
	if err != nil {
		t.Fatal(err)
	}
	for turn := range uint64(3) {
		for i, b := range manyFiles(turn*20, 30) {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(i)), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		restic(t, dir, "backup", "--tag", "theirs", folder)
		ours := reopen(t, dir, repo.Options{CacheDir: cache})
		mustBackUp(t, ours, manyFiles(turn*20+10, 30)...)
		wantSoundBlobs(t, ours)
		restic(t, dir, "forget", "--prune", "--max-unused", "0", "--tag", "theirs", "--keep-last", "1")
		wantSoundBlobs(t, ours)
		used := ours.NewBlobSet()
		for l := range ours.Blobs() {
			used.Add(l.BlobHandle) // of which restic has left none but the needed
		}
		if _, err := ours.Prune(ctx, used, repo.PruneOptions{MaxUnused: zero, RepackSmall: 10 << 10}); err != nil {
			t.Fatal(err)
		}
		wantSoundBlobs(t, ours)
		restic(t, dir, "check", "--read-data")
	}
}

// wantSoundBlobs brings the blob table up to date and checks.
func wantSoundBlobs(t testing.TB, r *repo.Repository) {
	t.Helper()
	if err := r.LoadIndex(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if found, err := check(context.Background(), r); err != nil {
		t.Fatalf("%v: %v", err, found)
	}
}
