package repo_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/storage/local"
	"kassett/storage/storagetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replica makes a second place of src, with a password of its own, on st.
func replica(t testing.TB, src *repo.Repository, st kassett.Storage) *repo.Repository {
	t.Helper()
	r, err := repo.InitReplica(context.Background(), st, []byte(password), src, repo.InitOptions{Options: few})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, r)
	return r
}

// copyAll copies all snapshots of src, under their own IDs, to replicas of it.
func copyAll(ctx context.Context, src *repo.Repository, o repo.CopyOptions, targets ...*repo.CopyTarget) error {
	used, err := readAll(ctx, src)
	if err != nil {
		return err
	}
	if _, err := repo.CopyBlobs(ctx, src, used, targets, o); err != nil {
		return err
	}
	for info, err := range src.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return err
		}
		for _, t := range targets {
			if t.Err == nil {
				t.Err = t.Repo.CopySnapshot(ctx, src, info.ID, o.Verify)
			}
		}
	}
	return nil
}

// Both places hold the same packs and snapshots, byte for byte, and stock restic
// says the same of both.
func TestReplica(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, first := newRepo(t, repo.InitOptions{Options: few})
	for i := range uint64(3) {
		mustBackUp(t, src, manyFiles(i, 30)...)
	}
	second := filepath.Join(t.TempDir(), "second")
	st, err := local.Create(second)
	if err != nil {
		t.Fatal(err)
	}
	dst := replica(t, src, st)
	if _, err := repo.InitReplica(ctx, st, []byte(password), src, repo.InitOptions{}); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("a replica where one is: %v", err)
	}
	to := &repo.CopyTarget{Repo: dst}
	if err := copyAll(ctx, src, repo.CopyOptions{Verify: true}, to); err != nil || to.Err != nil {
		t.Fatal(err, to.Err)
	}
	if to.Stats.Packs == 0 || to.Stats.Found != 0 {
		t.Errorf("%+v, want whole packs", to.Stats)
	}
	for _, folder := range []string{"data", "snapshots"} {
		files := 0
		must(t, filepath.WalkDir(filepath.Join(first, folder), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			files++
			rel, _ := filepath.Rel(first, path)
			a, err := os.ReadFile(path)
			b, err2 := os.ReadFile(filepath.Join(second, rel))
			if !bytes.Equal(a, b) {
				t.Errorf("%s is not the same", rel)
			}
			return errors.Join(err, err2)
		}))
		if files == 0 {
			t.Errorf("no %s", folder)
		}
	}
	for _, dir := range []string{first, second} {
		restic(t, dir, "check", "--read-data")
	}
	wantSameList(t, first, second, 3)
	wantSound(t, reopen(t, second, repo.Options{}))

	// What stock restic backs up into the one place comes to the other.
	restic(t, second, "backup", first)
	back := &repo.CopyTarget{Repo: reopen(t, first, few)}
	must(t, dst.LoadIndex(ctx, nil))
	must(t, errors.Join(copyNewest(ctx, dst, back), back.Err))
	restic(t, first, "check", "--read-data")
	wantSameList(t, first, second, 4)
}

// wantSameList compares the IDs of the snapshots that stock restic lists.
func wantSameList(t *testing.T, first, second string, n int) {
	t.Helper()
	a, b := strings.Fields(restic(t, first, "list", "snapshots")), strings.Fields(restic(t, second, "list", "snapshots"))
	slices.Sort(a)
	slices.Sort(b)
	if len(a) != n || !slices.Equal(a, b) {
		t.Errorf("restic lists %q and %q, want the same %d", a, b, n)
	}
}

// copyNewest copies everything the index knows, and all snapshots.
func copyNewest(ctx context.Context, src *repo.Repository, to *repo.CopyTarget) error {
	all := src.NewBlobSet()
	for l := range src.Blobs() {
		all.Add(l.BlobHandle)
	}
	if _, err := repo.CopyBlobs(ctx, src, all, []*repo.CopyTarget{to}, repo.CopyOptions{}); err != nil {
		return err
	}
	for info, err := range src.List(ctx, kassett.SnapshotFile) {
		if err == nil {
			err = to.Repo.CopySnapshot(ctx, src, info.ID, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// A copy that is cut at any write is finished by the next one, which sends no
// pack again that is there.
func TestReplicaResumes(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 60)...)
	packs := len(m.Handles(kassett.PackFile))
	start := storagetest.NewMemory()
	replica(t, src, start)
	for n := 1; ; n++ {
		cut := storagetest.NewCrashing(start.Clone(), n)
		dst := storyOpen(t, cut, few)
		must(t, dst.LoadIndex(ctx, nil))
		_ = copyAll(ctx, src, repo.CopyOptions{Verify: true}, &repo.CopyTarget{Repo: dst})
		if !cut.Crashed() {
			if n < packs {
				t.Errorf("only %d writes for %d packs", n, packs)
			}
			return
		}
		for name, left := range cut.Survivors() {
			there := len(left.Handles(kassett.PackFile))
			tracing := storagetest.NewTracing(left)
			again := storyOpen(t, tracing, few)
			must(t, again.LoadIndex(ctx, nil))
			to := &repo.CopyTarget{Repo: again}
			must(t, errors.Join(copyAll(ctx, src, repo.CopyOptions{Verify: true}, to), to.Err))
			sent := 0
			for _, c := range tracing.Calls(storagetest.Put) {
				if c.Handle.Kind == kassett.PackFile {
					sent++
				}
			}
			if sent != packs-there {
				t.Errorf("cut at %d, %s: %d packs sent, %d of %d were there", n, name, sent, there, packs)
			}
			wantSound(t, again)
		}
	}
}

// Whatever is damaged in the source is not copied as good: what has another place
// comes from there, the rest is named, and all that is good arrives.
func TestReplicaOfDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	harm := map[string]func(b []byte) []byte{
		"a blob":     func(b []byte) []byte { b[100] ^= 1; return b },
		"the header": func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)/2] },
		"longer":     func(b []byte) []byte { return append(b, 0) },
	}
	for name, change := range harm {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, m := storyRepo(t, few)
			mustBackUp(t, src, manyFiles(1, 50)...)
			used, err := readAll(ctx, src)
			must(t, err)
			h := dataPack(t, src)
			m.Damage(h, change)
			dm := storagetest.NewMemory()
			dst := replica(t, src, dm)
			to := &repo.CopyTarget{Repo: dst}
			had, err := repo.CopyBlobs(ctx, src, used, []*repo.CopyTarget{to}, repo.CopyOptions{Verify: true})
			lost := name == "a blob" || name == "cut"
			if lost != (kassett.KindOf(err) == kassett.Corrupt) || !lost && err != nil || to.Err != nil {
				t.Fatalf("copy: %v, %v", err, to.Err)
			}
			if lost && !strings.Contains(err.Error(), h.ID.String()) {
				t.Errorf("the pack is not named: %v", err)
			}
			if src.Covers(had, used) == lost {
				t.Error("what could be had is not told")
			}
			for _, h := range dm.Handles(kassett.PackFile) {
				if kassett.Hash(dm.Bytes(h)) != h.ID {
					t.Errorf("%s is damaged in the copy", h)
				}
			}
			wantSoundBlobs(t, dst)

			// With a second place of the same blobs all can be had.
			second := storyOpen(t, m, few)
			mustBackUp(t, second, manyFiles(1, 50)...)
			must(t, src.LoadIndex(ctx, nil))
			to = &repo.CopyTarget{Repo: dst}
			if err := copyAll(ctx, src, repo.CopyOptions{Verify: true}, to); err != nil || to.Err != nil {
				t.Fatal(err, to.Err)
			}
			wantSound(t, dst)
		})
	}
}

// Packs of which little is wanted are taken apart.
func TestReplicaLeavesGarbage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 40)...)
	all, err := readAll(ctx, src)
	must(t, err)
	want, i := src.NewBlobSet(), 0
	for l := range src.Blobs() {
		if i++; i%3 == 0 && all.Has(l.BlobHandle) {
			want.Add(l.BlobHandle)
		}
	}
	dm := storagetest.NewMemory()
	to := &repo.CopyTarget{Repo: replica(t, src, dm)}
	dry := *to
	if _, err := repo.CopyBlobs(ctx, src, want, []*repo.CopyTarget{&dry}, repo.CopyOptions{DryRun: true}); err != nil || dry.Stats.Blobs != uint64(want.Len()) {
		t.Errorf("dry run: %+v, %v", dry.Stats, err)
	}
	if n := len(dm.Handles(kassett.PackFile)) + len(dm.Handles(kassett.IndexFile)); n != 0 {
		t.Errorf("a dry run wrote %d files", n)
	}
	_, err = repo.CopyBlobs(ctx, src, want, []*repo.CopyTarget{to}, repo.CopyOptions{})
	must(t, errors.Join(err, to.Err))
	if to.Stats != dry.Stats {
		t.Errorf("%+v were copied, %+v were foreseen", to.Stats, dry.Stats)
	}
	size := func(m *storagetest.Memory) (n int) {
		for _, h := range m.Handles(kassett.PackFile) {
			n += len(m.Bytes(h))
		}
		return n
	}
	if a, b := size(dm), size(m); a*10 > b*6 {
		t.Errorf("%d bytes were stored of %d, a third is wanted", a, b)
	}
	wantSoundBlobs(t, to.Repo)
}

// A pack whose name is taken at the target, by other bytes or by an entry of the
// index that says less, is taken apart too.
func TestReplicaWithTakenNames(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, prepare := range map[string]func(t *testing.T, src, dst *repo.Repository, m, dm *storagetest.Memory){
		"other bytes": func(t *testing.T, src, _ *repo.Repository, m, dm *storagetest.Memory) {
			h := dataPack(t, src)
			b := m.Bytes(h)
			must(t, dm.Put(ctx, h, kassett.BytesBody(b, h.ID)))
			dm.Damage(h, func(b []byte) []byte { b[5] ^= 1; return b })
		},
		"less in the index": func(t *testing.T, src, dst *repo.Repository, m, dm *storagetest.Memory) {
			h := dataPack(t, src)
			must(t, dm.Put(ctx, h, kassett.BytesBody(m.Bytes(h), h.ID)))
			blobs, err := src.PackHeader(ctx, h.ID, -1)
			must(t, err)
			indexOf(t, dst, h.ID, blobs[:1])
			must(t, dst.LoadIndex(ctx, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, m := storyRepo(t, few)
			mustBackUp(t, src, manyFiles(1, 50)...)
			dm := storagetest.NewMemory()
			dst := replica(t, src, dm)
			prepare(t, src, dst, m, dm)
			to := &repo.CopyTarget{Repo: dst}
			must(t, errors.Join(copyAll(ctx, src, repo.CopyOptions{Verify: true}, to), to.Err))
			if _, err := readAll(ctx, dst); err != nil {
				t.Error(err)
			}
		})
	}
}

// One target that fails does not stop the others.
func TestCopyToSeveral(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 60)...)
	tracing := storagetest.NewTracing(m)
	src = storyOpen(t, tracing, few)
	must(t, src.LoadIndex(ctx, nil))
	faulty := func(rule func(storagetest.Call) *storagetest.Fault) *repo.CopyTarget {
		start := storagetest.NewMemory()
		replica(t, src, start)
		return &repo.CopyTarget{Repo: storyOpen(t, storagetest.NewFailing(start, rule), few)}
	}
	stuck := make(chan struct{})
	good := &repo.CopyTarget{Repo: replica(t, src, storagetest.NewMemory())}
	own, _ := storyRepo(t, few)
	other := &repo.CopyTarget{Repo: own}
	full := faulty(storagetest.DiskFull(5))
	away := faulty(storagetest.FailKind(storagetest.Put, kassett.PackFile, &kassett.Error{Op: "put", Kind: kassett.Offline}))
	lying := &repo.CopyTarget{Repo: replica(t, src, storagetest.NewMemory())}
	lying.Repo = storyOpen(t, lyingStorage{lying.Repo.Storage()}, few)
	slow := faulty(func(c storagetest.Call) *storagetest.Fault {
		if c.Op == storagetest.Put && c.Handle.Kind == kassett.PackFile {
			<-stuck
		}
		return nil
	})
	gone := &repo.CopyTarget{Err: errors.New("it was never reached")}
	targets := []*repo.CopyTarget{gone, full, good, away, lying, slow, other}
	time.AfterFunc(2*time.Second, func() { close(stuck) })
	used, err := readAll(ctx, src)
	must(t, err)
	tracing.Reset()
	_, err = repo.CopyBlobs(ctx, src, used, targets, repo.CopyOptions{Verify: true, Patience: time.Second})
	must(t, err)
	for _, c := range []struct {
		name string
		t    *repo.CopyTarget
		want kassett.Kind
	}{{"full", full, kassett.Full}, {"away", away, kassett.Offline}, {"lying", lying, kassett.Corrupt}, {"slow", slow, kassett.Offline}} {
		if kassett.KindOf(c.t.Err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, c.t.Err, c.want)
		}
	}
	for _, to := range []*repo.CopyTarget{good, other} {
		if to.Err != nil || to.Stats.Blobs != uint64(used.Len()) {
			t.Errorf("%+v, %v", to.Stats, to.Err)
		}
		must(t, copySnapshots(ctx, src, to.Repo))
		wantSound(t, to.Repo)
	}
	reads := map[kassett.Handle]int{}
	for _, c := range tracing.Calls(storagetest.Get) {
		if reads[c.Handle]++; c.Handle.Kind == kassett.PackFile && reads[c.Handle] > 1 {
			t.Errorf("%s was read %d times", c.Handle, reads[c.Handle])
		}
	}
}

// lyingStorage gives back other bytes than it took.
type lyingStorage struct{ kassett.Storage }

func (s lyingStorage) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	if err := s.Storage.Put(ctx, h, body); err != nil || h.Kind != kassett.PackFile {
		return err
	}
	m, _ := s.Storage.(*storagetest.Memory)
	m.Damage(h, func(b []byte) []byte { b[7] ^= 1; return b })
	return nil
}

// The place itself is told from a second one, however that was made.
func TestSamePlace(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	src, m := storyRepo(t, few)
	mustBackUp(t, src, manyFiles(1, 5)...)
	other, _ := storyRepo(t, few)
	if is, err := other.ReplicaOf(src); is || err != nil {
		t.Errorf("a repository of its own: %v, %v", is, err)
	}
	again := storyOpen(t, m, few)
	lock, _, err := src.Lock(ctx, repo.Shared, repo.LockOptions{})
	must(t, err)
	if same, err := again.SamePlace(ctx, src); !same || err != nil {
		t.Errorf("the same place: %v, %v", same, err)
	}
	twin := storyOpen(t, m.Clone(), few)
	must(t, lock.Unlock())
	if same, err := twin.SamePlace(ctx, src); same || err != nil {
		t.Errorf("a copy made by other means: %v, %v", same, err)
	}
	if is, err := twin.ReplicaOf(src); !is || err != nil {
		t.Errorf("a copy made by other means is a replica: %v, %v", is, err)
	}
}

// Two places share no table of blobs, though they have one ID and one cache.
func TestReplicasShareNoTable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	o := few
	o.CacheDir = t.TempDir()
	src, m := storyRepo(t, o)
	mustBackUp(t, src, manyFiles(1, 5)...)
	dst, err := repo.InitReplica(ctx, storagetest.NewMemory(), []byte(password), src, repo.InitOptions{Options: o})
	must(t, err)
	closeLater(t, dst)
	files := func() (list []string) {
		list, err := filepath.Glob(filepath.Join(o.CacheDir, "*", "blobs", "*", "*.run"))
		must(t, err)
		return list
	}
	must(t, src.LoadIndex(ctx, nil))
	before := files()
	must(t, dst.LoadIndex(ctx, nil))
	for l := range src.Blobs() {
		if dst.Has(l.BlobHandle) {
			t.Fatalf("the empty place knows %s", l.ID)
		}
	}
	mustBackUp(t, dst, manyFiles(2, 5)...)
	must(t, storyOpen(t, m, o).LoadIndex(ctx, nil))
	for _, f := range before {
		if !slices.Contains(files(), f) {
			t.Errorf("%s was removed for the other place", f)
		}
	}
}
