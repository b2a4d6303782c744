package repo_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// crowd is a repository in which several writers, forgets and prunes are at work
// at once, each step of one between any steps of the others.
type crowd struct {
	memory   *storagetest.Memory // what place is
	place    *swapped
	writers  []*crowdWriter
	prunes   []*crowdPrune
	tidy     repo.PruneOptions
	promised []kassett.Handle // snapshots that must be there
	// What happened, so that a test that tests nothing is found out.
	swept, spared, waited, doomedSeen int
}

// swapped is a storage in whose place another one may come under those who work
// on it.
type swapped struct {
	now atomic.Pointer[kassett.Storage]
}

func swappable(st kassett.Storage) *swapped {
	s := &swapped{}
	s.set(st)
	return s
}

func (s *swapped) set(st kassett.Storage)  { s.now.Store(&st) }
func (s *swapped) Unwrap() kassett.Storage { return *s.now.Load() }

func (s *swapped) Put(ctx context.Context, h kassett.Handle, b kassett.Body) error {
	return s.Unwrap().Put(ctx, h, b)
}

func (s *swapped) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	return s.Unwrap().Get(ctx, h, off, n)
}

func (s *swapped) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	return s.Unwrap().Stat(ctx, h)
}

func (s *swapped) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return s.Unwrap().List(ctx, k)
}

func (s *swapped) Delete(ctx context.Context, h kassett.Handle) error {
	return s.Unwrap().Delete(ctx, h)
}

// crowdWriter backs up some files, slowly.
type crowdWriter struct {
	careful bool
	dead    atomic.Bool
	r       *repo.Repository
	lock    *repo.Lock
	ctx     context.Context //nolint:containedctx // of the lock
	w       *repo.Writer
	nodes   []storyNode
}

// crowdPrune is between its mark and its sweep.
type crowdPrune struct {
	place *swapped
	r     *repo.Repository
	m     *repo.Marking
}

func openCrowd(t *rapid.T, st kassett.Storage) *repo.Repository {
	r, err := repo.Open(context.Background(), st, []byte(password), few)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *crowd) begin(t *rapid.T) {
	if len(c.writers) == 3 {
		return
	}
	ctx := context.Background()
	w := &crowdWriter{careful: rapid.IntRange(0, 3).Draw(t, "careful") > 0}
	w.r = openCrowd(t, storagetest.NewFailing(c.place, func(call storagetest.Call) *storagetest.Fault {
		if w.dead.Load() && (call.IsBeside || call.Handle.Kind != kassett.LockFile) {
			return &storagetest.Fault{Err: errors.New("killed")}
		}
		return nil
	}))
	mode := repo.Shared // as stock restic's: it knows of no list
	if w.careful {
		mode = repo.Adding
	}
	var err error
	if w.lock, w.ctx, err = w.r.Lock(ctx, mode, repo.LockOptions{}); err != nil {
		t.Fatal(err) // nobody holds an exclusive lock between steps
	}
	if err := w.r.LoadIndex(w.ctx, nil); err != nil {
		t.Fatal(err)
	}
	w.w = w.r.NewWriter(w.ctx, repo.WriterOptions{})
	c.writers = append(c.writers, w)
}

// pick returns one of the writers, or nil.
func (c *crowd) pick(t *rapid.T) *crowdWriter {
	if len(c.writers) == 0 {
		return nil
	}
	return c.writers[rapid.IntRange(0, len(c.writers)-1).Draw(t, "writer")]
}

func (c *crowd) save(t *rapid.T) {
	w := c.pick(t)
	if w == nil {
		return
	}
	seed, n := rapid.Uint64Range(0, 4).Draw(t, "seed"), rapid.IntRange(1, 12).Draw(t, "files")
	for _, b := range manyFiles(100*seed, n) {
		h := repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(b)}
		if _, indexed := w.r.Find(h); indexed && !w.r.Has(h) {
			c.doomedSeen++
		}
		saved, err := w.w.Save(w.ctx, repo.DataBlob, b)
		if err != nil {
			t.Fatal(err)
		}
		w.nodes = append(w.nodes, storyNode{
			Name: fmt.Sprintf("f%06d", len(w.nodes)), Type: "file", ModTime: storyTime, AccTime: storyTime, ChgTime: storyTime,
			Size: len(b), Content: []kassett.ID{saved.ID},
		})
	}
	if rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
		if err := w.w.Flush(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *crowd) finish(t *rapid.T) {
	if w := c.pick(t); w != nil {
		c.end(t, w)
	}
}

// end lets a writer save its snapshot and go.
func (c *crowd) end(t *rapid.T, w *crowdWriter) {
	b, err := json.Marshal(storyTree{Nodes: append([]storyNode{}, w.nodes...)})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := w.w.Save(w.ctx, repo.TreeBlob, append(b, '\n'))
	if err == nil {
		err = w.w.Flush(w.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if b, err = json.Marshal(storySnapshot{Time: storyTime, Tree: tree.ID, Paths: []string{"/story"}}); err != nil {
		t.Fatal(err)
	}
	id, err := w.r.SaveUnpacked(w.ctx, kassett.SnapshotFile, b)
	if err = errors.Join(err, w.lock.Unlock(), w.r.Close()); err != nil {
		t.Fatal(err)
	}
	c.promised = append(c.promised, kassett.Handle{Kind: kassett.SnapshotFile, ID: id})
	c.leave(w)
}

func (c *crowd) leave(w *crowdWriter) {
	c.writers = slices.DeleteFunc(c.writers, func(o *crowdWriter) bool { return o == w })
}

// kill ends a writer in the middle, and its lock as an operator does.
func (c *crowd) kill(t *rapid.T) {
	w := c.pick(t)
	if w == nil {
		return
	}
	if rapid.Bool().Draw(t, "gently") {
		w.w.Abort()
	} else {
		w.dead.Store(true)
		w.w.Abort()
	}
	if err := errors.Join(w.lock.Unlock(), w.r.Close()); err != nil {
		t.Fatal(err)
	}
	c.leave(w)
}

func (c *crowd) forget(t *rapid.T) {
	if len(c.promised) == 0 {
		return
	}
	h := rapid.SampledFrom(c.promised).Draw(t, "snapshot")
	r := openCrowd(t, c.place)
	defer r.Close()
	err := r.Hold(context.Background(), repo.Forgetting, repo.LockOptions{}, func(ctx context.Context, _ *repo.Lock) error {
		c.promised = slices.DeleteFunc(c.promised, func(o kassett.Handle) bool { return o == h })
		return r.Delete(ctx, h.Kind, h.ID)
	})
	if others := slices.ContainsFunc(c.writers, func(w *crowdWriter) bool { return !w.careful }); others != (kassett.KindOf(err) == kassett.Locked) {
		t.Fatalf("forgetting beside %d writers: %v", len(c.writers), err)
	}
}

// cutting runs a step of a prune, with the writers standing still. The power may
// be cut in it; it reports whether it was.
func (c *crowd) cutting(t *rapid.T, p *crowdPrune, work func(context.Context) error) (cut bool) {
	synctest.Wait() // nobody writes
	at := rapid.SampledFrom([]int{0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 8, 11, 15, 25}).Draw(t, "power cut at")
	crashing := storagetest.NewCrashing(c.memory, at)
	before := c.memory.Handles(kassett.LockFile)
	p.place.set(crashing)
	err := work(context.Background())
	synctest.Wait()
	p.place.set(c.place)
	n := 0
	for range crashing.Survivors() {
		n++
	}
	which := rapid.IntRange(0, n-1).Draw(t, "what survives")
	for _, m := range crashing.Survivors() {
		if which == 0 {
			c.memory = m
			c.place.set(m)
			break
		}
		which--
	}
	if !crashing.Crashed() && err != nil && kassett.KindOf(err) != kassett.Locked {
		t.Fatal(err)
	}
	if kassett.KindOf(err) == kassett.Locked {
		c.waited++
	}
	for _, h := range c.memory.Handles(kassett.LockFile) { // as an operator does after a crash
		if !slices.Contains(before, h) {
			if err := c.memory.Delete(context.Background(), h); err != nil {
				t.Fatal(err)
			}
		}
	}
	return crashing.Crashed()
}

func (c *crowd) mark(t *rapid.T) {
	if len(c.prunes) == 2 {
		return
	}
	o := c.tidy
	if rapid.Bool().Draw(t, "leave some") {
		o = repo.PruneOptions{}
	}
	p := &crowdPrune{place: swappable(c.place)}
	p.r = openCrowd(t, p.place)
	if c.cutting(t, p, func(ctx context.Context) error { return p.mark(ctx, o) }) {
		_ = p.r.Close()
		return
	}
	c.prunes = append(c.prunes, p)
}

func (p *crowdPrune) mark(ctx context.Context, o repo.PruneOptions) error {
	return p.r.Hold(ctx, repo.Shared, repo.LockOptions{}, func(ctx context.Context, _ *repo.Lock) error {
		used, err := lookUsed(ctx, p.r)
		if err == nil {
			p.m, err = p.r.Mark(ctx, used, o)
		}
		return err
	})
}

// sweep is one attempt of a prune to sweep what is marked.
func (c *crowd) sweep(t *rapid.T) {
	if len(c.prunes) == 0 {
		return
	}
	p := c.prunes[rapid.IntRange(0, len(c.prunes)-1).Draw(t, "prune")]
	stats, waits := repo.SweepStats{}, true
	cut := c.cutting(t, p, func(ctx context.Context) (err error) {
		stats, err = p.sweep(ctx)
		waits = kassett.KindOf(err) == kassett.Locked
		return err
	})
	c.swept += stats.Packs
	c.spared += stats.Spared
	if cut || !waits {
		c.prunes = slices.DeleteFunc(c.prunes, func(o *crowdPrune) bool { return o == p })
		_ = p.r.Close()
	}
}

func (p *crowdPrune) sweep(ctx context.Context) (stats repo.SweepStats, err error) {
	lists, err := p.r.DoomedLists(ctx)
	if err != nil || len(lists) == 0 {
		return stats, err
	}
	err = p.r.Hold(ctx, repo.Sweeping, repo.LockOptions{Lists: lists}, func(ctx context.Context, l *repo.Lock) error {
		used, err := lookUsed(ctx, p.r)
		if err == nil {
			stats, err = p.m.Sweep(ctx, l, used)
		}
		return err
	})
	return stats, err
}

// pruneAlone is a prune as stock restic does it: only when nobody is there.
func (c *crowd) pruneAlone(t *rapid.T) {
	p := &crowdPrune{place: swappable(c.place)}
	p.r = openCrowd(t, p.place)
	defer p.r.Close()
	c.cutting(t, p, func(ctx context.Context) error {
		return p.r.Hold(ctx, repo.Exclusive, repo.LockOptions{}, func(ctx context.Context, _ *repo.Lock) error {
			used, err := lookUsed(ctx, p.r)
			if err == nil {
				_, err = p.r.Prune(ctx, used, c.tidy)
			}
			return err
		})
	})
}

// lookUsed lists the snapshots, loads the index, and then finds what they need.
func lookUsed(ctx context.Context, r *repo.Repository) (*repo.BlobSet, error) {
	var ids []kassett.ID
	for info, err := range r.List(ctx, kassett.SnapshotFile) {
		if err != nil {
			return nil, err
		}
		ids = append(ids, info.ID)
	}
	if err := r.LoadIndex(ctx, nil); err != nil {
		return nil, err
	}
	used := r.NewBlobSet()
	for _, id := range ids {
		if err := readSnapshot(ctx, r, id, used); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
	}
	return used, nil
}

// passTime lets locks be written anew.
func (c *crowd) passTime(*rapid.T) { time.Sleep(6 * time.Minute) }

// sound fails the test unless all that is promised is there and loads.
func (c *crowd) sound(t *rapid.T) {
	synctest.Wait()
	if err := soundOn(c.memory, c.promised); err != nil {
		t.Fatal(err)
	}
}

// rest lets everybody end, and prunes. Nothing may be left that nobody needs.
func (c *crowd) rest(t *rapid.T) {
	for len(c.writers) > 0 {
		c.end(t, c.writers[0])
	}
	for _, p := range c.prunes {
		_ = p.r.Close()
	}
	p := &crowdPrune{place: c.place}
	p.r = openCrowd(t, c.place)
	defer p.r.Close()
	ctx := context.Background()
	err := p.mark(ctx, c.tidy)
	if err == nil {
		_, err = p.sweep(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	c.sound(t)
	used, err := lookUsed(ctx, p.r)
	if err != nil {
		t.Fatal(err)
	}
	o := c.tidy
	o.DryRun = true
	stats, err := p.r.Prune(ctx, used, o)
	if err != nil || stats.Packs.RemoveTotal > 0 || stats.Bytes.RemainingUnused > 0 {
		t.Fatalf("after everybody has ended and a prune there is still something to remove: %+v, %v", stats, err)
	}
	lists, err := p.r.DoomedLists(ctx)
	if err != nil || len(lists) > 0 || len(c.memory.Handles(kassett.LockFile)) > 0 {
		t.Fatalf("left over: lists %v, locks %v, %v", lists, c.memory.Handles(kassett.LockFile), err)
	}
}

// inBubble hides the deadline of a test, which has none in a synctest bubble.
type inBubble struct{ rapid.TB }

// crowdRuns is how often it is tried, unless -rapid.checks asks for more than is
// usual.
const crowdRuns = 40

// Writers that honour doomed lists and writers that know of none, forgetting,
// prunes that mark and sweep, prunes that want to be alone, power cuts: in any
// order, every listed snapshot loads after each step, and in the end what nobody
// needs is gone.
func TestCrowd(t *testing.T) {
	t.Parallel()
	none, err := repo.ParseUnused("0%")
	if err != nil {
		t.Fatal(err)
	}
	var all crowd
	r, start := storyRepo(t, few)
	for seed := range uint64(4) {
		mustBackUp(t, r, manyFiles(100*seed, 12)...)
	}
	asked := flag.Lookup("rapid.checks")
	runs, failed := 0, false
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(inBubble{t}, func(t *rapid.T) {
			if runs++; runs > crowdRuns && !failed && asked.Value.String() == asked.DefValue {
				return
			}
			c := &crowd{memory: start.Clone(), place: &swapped{}, tidy: repo.PruneOptions{MaxUnused: none}}
			c.promised = c.memory.Handles(kassett.SnapshotFile)
			c.place.set(c.memory)
			passed := false
			defer func() { failed = failed || !passed }() // then it is made smaller
			c.live(t)
			c.rest(t)
			passed = true
			all.swept += c.swept
			all.spared += c.spared
			all.waited += c.waited
			all.doomedSeen += c.doomedSeen
		})
	})
	t.Logf("%d packs swept, %d spared, %d times waited, %d doomed blobs stored anew", all.swept, all.spared, all.waited, all.doomedSeen)
	if !t.Failed() && all.swept == 0 {
		t.Error("nothing was swept: the test proves little")
	}
}

// live does this and that.
func (c *crowd) live(t *rapid.T) {
	acts := map[string]func(*rapid.T){
		"begin": c.begin, "save": c.save, "finish": c.finish, "kill": c.kill, "forget": c.forget,
		"mark": c.mark, "sweep": c.sweep, "prune alone": c.pruneAlone, "pass time": c.passTime,
	}
	for range rapid.IntRange(10, 50).Draw(t, "steps") {
		act := rapid.SampledFrom([]string{
			"begin", "begin", "save", "save", "save", "finish", "finish", "kill", "forget", "forget", "forget",
			"mark", "mark", "sweep", "sweep", "sweep", "prune alone", "pass time",
		}).Draw(t, "act")
		acts[act](t)
		c.sound(t)
	}
}
