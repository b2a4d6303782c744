package snapshot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// lockedPlace is a repository on storage that retains files, on a clock that
// the test moves.
type lockedPlace struct {
	t      *testing.T
	st     *storagetest.Locked
	cache  string
	mu     sync.Mutex
	now    time.Time
	warned []error
}

const oneDay = 24 * time.Hour

var month = kassett.Retention{Mode: kassett.Compliance, Period: 30 * oneDay, Slack: 10 * oneDay}

func newLockedPlace(t *testing.T) *lockedPlace {
	t.Helper()
	p := &lockedPlace{t: t, cache: t.TempDir(), now: day}
	p.st = storagetest.NewLocked(month, p.clock)
	r, err := repo.Init(t.Context(), p.st, []byte(password), repo.InitOptions{
		Polynomial: 0x3DA3358B4DC173, Scrypt: repo.Scrypt{N: 16, R: 1, P: 1},
	})
	must(t, err)
	must(t, r.Close())
	return p
}

func (p *lockedPlace) clock() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

func (p *lockedPlace) wait(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = p.now.Add(d)
}

// with runs work on the repository as one process would.
func (p *lockedPlace) with(work func(r *repo.Repository)) {
	p.t.Helper()
	r, err := repo.Open(p.t.Context(), p.st, []byte(password), repo.Options{
		CacheDir: p.cache, PackSize: 48 << 10, Warn: func(err error) { p.warned = append(p.warned, err) },
	})
	must(p.t, err)
	loadIndex(p.t, r)
	work(r)
	must(p.t, r.Close())
}

// backUp makes a backup, with a clock of its own that is wrong, and checks what
// is promised of its snapshot.
func (p *lockedPlace) backUp(src kassett.Source, o snapshot.BackupOptions) (sn *snapshot.Snapshot) {
	p.t.Helper()
	p.with(func(r *repo.Repository) {
		var err error
		o.Host, o.Paths = "ward", []string{"/data"}
		sn, err = snapshot.Backup(p.t.Context(), r, src, o)
		must(p.t, err)
		p.promised(r, sn)
	})
	return sn
}

// promised checks that all a snapshot needs is retained for the period.
func (p *lockedPlace) promised(r *repo.Repository, sn *snapshot.Snapshot) {
	p.t.Helper()
	least := p.clock().Add(month.Period)
	retained := func(n kassett.StoredName) bool {
		until, err := p.st.RetainedUntil(p.t.Context(), n)
		must(p.t, err)
		return !until.Before(least)
	}
	used, err := snapshot.Used(p.t.Context(), r, []kassett.ID{sn.Tree}, nil)
	must(p.t, err)
	indexed := map[kassett.ID]bool{} // packs in index files that are retained
	for _, h := range p.st.Handles(kassett.IndexFile) {
		if retained(kassett.StoredName{Handle: h}) {
			plain, err := r.LoadUnpacked(p.t.Context(), kassett.IndexFile, h.ID)
			must(p.t, err)
			var index struct{ Packs []struct{ ID kassett.ID } }
			must(p.t, json.Unmarshal(plain, &index))
			for _, pack := range index.Packs {
				indexed[pack.ID] = true
			}
		}
	}
	safe := r.NewBlobSet()
	for l := range r.Blobs() {
		if indexed[l.Pack] && used.Has(l.BlobHandle) && retained(kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: l.Pack}}) {
			safe.Add(l.BlobHandle)
		}
	}
	if safe.Len() != used.Len() {
		p.t.Errorf("%s: of %d blobs %d are retained until %s", p.clock(), used.Len(), safe.Len(), least)
	}
	files := []kassett.Handle{{Kind: kassett.SnapshotFile, ID: sn.ID}, {Kind: kassett.ConfigFile}}
	files = append(files, p.st.Handles(kassett.KeyFile)...)
	for _, h := range files {
		if !retained(kassett.StoredName{Handle: h}) {
			p.t.Errorf("%s: %s is not retained until %s", p.clock(), h, least)
		}
	}
}

func wards() *treeSource {
	src := newTreeSource()
	for i := range 60 {
		src.add(fmt.Sprintf("ward%d/file%d", i%6, i), storagetest.Random(uint64(i), 8000))
	}
	return src
}

// Whatever happens between backups, all that a snapshot needs is retained.
func TestRetainPromise(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 5))
			p, src := newLockedPlace(t), wards()
			for night := range 50 {
				p.wait(time.Duration(1+random.IntN(60)) * time.Hour)
				o := snapshot.BackupOptions{Time: p.clock().Add(time.Duration(random.IntN(2000)-1000) * time.Hour)}
				for range random.IntN(4) {
					path := fmt.Sprintf("ward%d/file%d", random.IntN(6), random.IntN(80))
					// Content that comes back is what rests in old packs.
					src.add(path, storagetest.Random(uint64(random.IntN(120)), 8000))
					src.touch(path)
				}
				switch random.IntN(8) {
				case 0:
					must(t, os.RemoveAll(p.cache))
				case 1:
					o.SkipUnchanged = true
				case 2:
					damageHints(t, p.cache)
				}
				sn := p.backUp(src, o)
				if night%9 == 8 {
					p.with(func(r *repo.Repository) {
						_, err := snapshot.Save(t.Context(), r, &snapshot.Snapshot{Time: o.Time, Tree: sn.Tree, Paths: sn.Paths})
						must(t, err)
						p.promised(r, sn)
					})
				}
			}
		})
	}
}

// damageHints flips a bit in the hints, as a bad disk or a forger would.
func damageHints(t *testing.T, cache string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*", "local", "*", "retained"))
	must(t, err)
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		b[len(b)/2] ^= 0x40
		must(t, os.WriteFile(f, b, 0o600))
	}
}

// An unchanged night costs no more than a look; only once in half of the slack
// locks are extended.
func TestRetainCost(t *testing.T) {
	t.Parallel()
	p, src := newLockedPlace(t), wards()
	p.backUp(src, snapshot.BackupOptions{})
	packs := len(p.st.Handles(kassett.PackFile))
	p.st.Asked()
	extended := 0
	for night := range 20 {
		p.wait(oneDay)
		p.with(func(r *repo.Repository) {
			_, err := snapshot.Backup(t.Context(), r, src, snapshot.BackupOptions{Host: "ward", Paths: []string{"/data"}})
			must(t, err)
		})
		asked := p.st.Asked()
		if asked["extended"] == 0 && asked["Retain"]+asked["RetainedUntil"]+asked["Clock"] > 8 {
			t.Errorf("night %d: nothing was extended, and the storage was asked %v", night, asked)
		}
		if asked["extended"] > 0 {
			extended++
		}
	}
	if extended == 0 || extended > 4 {
		t.Errorf("locks were extended in %d of 20 nights, with a slack of 10 days and %d packs", extended, packs)
	}
}

// A pack that somebody has deleted or replaced is named, and the backup is saved
// all the same.
func TestRetainNamesWhatIsGone(t *testing.T) {
	t.Parallel()
	p, src := newLockedPlace(t), wards()
	p.backUp(src, snapshot.BackupOptions{})
	victim := kassett.StoredName{Handle: p.st.Handles(kassett.PackFile)[0]}
	p.st.Overwrite(victim, []byte("pay up"))
	p.wait(11 * oneDay)
	p.with(func(r *repo.Repository) {
		var named []error
		sn, err := snapshot.Backup(t.Context(), r, src, snapshot.BackupOptions{
			Host: "ward", Paths: []string{"/data"}, Warn: func(_ string, err error) { named = append(named, err) },
		})
		if kassett.KindOf(err) != kassett.Incomplete || sn == nil || len(named) == 0 {
			t.Errorf("Backup = %v, %v; named %v", sn, err, named)
		}
	})
}

// Storage that refuses to extend ends the backup before its snapshot.
func TestRetainRefused(t *testing.T) {
	t.Parallel()
	p, src := newLockedPlace(t), wards()
	p.backUp(src, snapshot.BackupOptions{})
	before := len(p.st.Handles(kassett.SnapshotFile))
	p.wait(11 * oneDay)
	refusing := refusingStorage{p.st}
	r, err := repo.Open(t.Context(), refusing, []byte(password), repo.Options{})
	must(t, err)
	defer func() { must(t, r.Close()) }()
	loadIndex(t, r)
	if _, err := snapshot.Backup(t.Context(), r, src, snapshot.BackupOptions{}); !errors.Is(err, storagetest.ErrInjected) {
		t.Errorf("Backup = %v; want the refusal", err)
	}
	if n := len(p.st.Handles(kassett.SnapshotFile)); n != before {
		t.Errorf("a snapshot was written before what it needs was retained")
	}
}

type refusingStorage struct{ *storagetest.Locked }

func (refusingStorage) Retain(context.Context, kassett.StoredName, time.Time, time.Time) (time.Time, error) {
	return time.Time{}, storagetest.ErrInjected
}

// What is copied to storage that retains files is promised there too.
func TestRetainCopies(t *testing.T) {
	t.Parallel()
	from, _ := newRepo(t)
	src := wards()
	first := backUp(t, from, src, snapshot.BackupOptions{Host: "ward"})
	src.add("ward1/file1", storagetest.Random(900, 8000))
	src.touch("ward1/file1")
	second := backUp(t, from, src, snapshot.BackupOptions{Host: "ward"})
	p := newLockedPlace(t)
	for _, sn := range []*snapshot.Snapshot{first, second} {
		p.with(func(r *repo.Repository) {
			var copied *snapshot.Snapshot
			_, err := copyTo(t.Context(), from, r, []*snapshot.Snapshot{sn}, snapshot.CopyOptions{
				Done: func(_ int, _, to *snapshot.Snapshot, _ bool) { copied = to },
			})
			must(t, err)
			p.promised(r, copied)
		})
		p.wait(11 * oneDay)
	}
}
