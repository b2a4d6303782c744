package parity_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"kassett"
	"kassett/repo/parity"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noise returns n bytes that depend on seed only.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func put(t rapid.TB, st kassett.Storage, k kassett.FileKind, b []byte) kassett.Handle {
	t.Helper()
	h := kassett.Handle{Kind: k}
	if k != kassett.ConfigFile {
		h.ID = kassett.Hash(b)
	}
	if err := st.Put(context.Background(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatal(err)
	}
	return h
}

// fill stores packs and what else a repository has.
func fill(t rapid.TB, st kassett.Storage, packs, size int) []kassett.Handle {
	t.Helper()
	var all []kassett.Handle
	for i := range packs {
		all = append(all, put(t, st, kassett.PackFile, noise(uint64(i), size-i%7)))
	}
	for i, k := range []kassett.FileKind{kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile, kassett.ConfigFile} {
		all = append(all, put(t, st, k, noise(uint64(1000+i), 300+i)))
	}
	return all
}

// allNeeded is the index of a repository from which nothing was pruned.
func allNeeded(_ context.Context, packs []kassett.ID) (map[kassett.ID]bool, error) {
	m := make(map[kassett.ID]bool)
	for _, id := range packs {
		m[id] = true
	}
	return m, nil
}

func keeper(t rapid.TB, st kassett.Storage, o parity.Options) *parity.Keeper {
	t.Helper()
	if o.Overhead == 0 {
		o.Overhead = parity.DefaultOverhead
	}
	k, err := parity.New(st, o)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func update(t rapid.TB, k *parity.Keeper) parity.UpdateStats {
	t.Helper()
	st, err := k.Update(context.Background())
	if err != nil {
		t.Fatalf("update: %v", err)
	}
	return st
}

// contents returns every file with its bytes.
func contents(m *storagetest.Memory) map[kassett.Handle]string {
	all := make(map[kassett.Handle]string)
	for k := kassett.PackFile; k <= kassett.ConfigFile; k++ {
		for _, h := range m.Handles(k) {
			all[h] = string(m.Bytes(h))
		}
	}
	return all
}

// TestDamageIsRepaired damages any files of a set in any way, up to what its
// parity mends, and beyond.
func TestDamageIsRepaired(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := storagetest.NewMemory()
		const size = 16 << 10 // so that a slice has 1 KiB
		packs := rapid.IntRange(1, 24).Draw(t, "packs")
		files := fill(t, m, packs, size)[:packs]
		k := keeper(t, m, parity.Options{Overhead: 4_00, Needed: allNeeded}) // one set
		update(t, k)
		whole := contents(m)

		hit := make(map[[2]int]bool)
		for range rapid.IntRange(1, 20).Draw(t, "places") {
			hit[[2]int{rapid.IntRange(0, packs-1).Draw(t, "file"), rapid.IntRange(0, 15).Draw(t, "slice")}] = true
		}
		for at := range hit {
			n := rapid.IntRange(1, 500).Draw(t, "bytes")
			m.Damage(files[at[0]], func(b []byte) []byte {
				for i := range n {
					b[at[1]<<10+i] ^= byte(1 + i)
				}
				return b
			})
		}
		if len(hit) == 1 && rapid.Bool().Draw(t, "lost") { // a whole file is as much as can be mended
			for at := range hit {
				if err := m.Delete(context.Background(), files[at[0]]); err != nil {
					t.Fatal(err)
				}
			}
		}
		broken := contents(m)
		st, err := k.Repair(context.Background(), parity.RepairOptions{}, func(parity.Outcome) {})
		if len(hit) > 16 {
			if kassett.KindOf(err) != kassett.Corrupt || st.Repaired > 0 {
				t.Fatalf("%d places: %+v, %v", len(hit), st, err)
			}
			mustBe(t, m, broken)
			return
		}
		if err != nil || st.Repaired == 0 {
			t.Fatalf("%d places: %+v, %v", len(hit), st, err)
		}
		mustBe(t, m, whole)
	})
}

func mustBe(t rapid.TB, m *storagetest.Memory, want map[kassett.Handle]string) {
	t.Helper()
	have := contents(m)
	for h, b := range want {
		if have[h] != b {
			t.Fatalf("%s is not as it was (%d bytes, want %d)", h, len(have[h]), len(b))
		}
	}
	if len(have) != len(want) {
		t.Fatalf("%d files, want %d", len(have), len(want))
	}
}

// TestRepairOfEachKind damages and removes one file of each kind.
func TestRepairOfEachKind(t *testing.T) {
	t.Parallel()
	damage := map[string]func([]byte) []byte{
		"bit":    func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":    func(b []byte) []byte { return b[:len(b)/3] },
		"longer": func(b []byte) []byte { return append(b, "more"...) },
		"empty":  func(b []byte) []byte { return b[:0] },
		"zeros":  func(b []byte) []byte { clear(b); return b },
	}
	for name, change := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := storagetest.NewMemory()
			files := fill(t, m, 3, 9000)
			k := keeper(t, m, parity.Options{Needed: allNeeded})
			update(t, k)
			whole := contents(m)
			for _, h := range files[2:] { // the first two packs stay
				m.Damage(h, change)
			}
			var told []string
			st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(o parity.Outcome) { told = append(told, o.What) })
			if err != nil || st.Repaired != 5 || len(told) != 5 {
				t.Fatalf("%+v, %v, %q", st, err, told)
			}
			mustBe(t, m, whole)
		})
	}
}

// TestWhatIsGone tells what is lost from what was removed.
func TestWhatIsGone(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	files := fill(t, m, 3, 9000)
	needed := false
	k := keeper(t, m, parity.Options{Needed: func(ctx context.Context, packs []kassett.ID) (map[kassett.ID]bool, error) {
		if needed {
			return allNeeded(ctx, packs)
		}
		return nil, nil
	}})
	update(t, k)
	whole := contents(m)
	for _, h := range files[2:] {
		if err := m.Delete(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	repair := func(o parity.RepairOptions, want int) {
		t.Helper()
		if st, err := k.Repair(t.Context(), o, func(parity.Outcome) {}); err != nil || st.Repaired != want {
			t.Fatalf("%+v: %+v, %v; want %d repaired", o, st, err, want)
		}
	}
	repair(parity.RepairOptions{Door: true}, 1) // the config is always needed
	needed = true
	repair(parity.RepairOptions{}, 1) // the pack
	repair(parity.RepairOptions{Gone: true, DryRun: true}, 0)
	repair(parity.RepairOptions{Gone: true}, 3)
	mustBe(t, m, whole)
}

// TestUpdateGrows adds packs again and again: sets fill up, and there is never
// more than one that is not full.
func TestUpdateGrows(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	k := keeper(t, m, parity.Options{Overhead: 10_00}) // 10 packs a set
	for i := range 37 {
		put(t, m, kassett.PackFile, noise(uint64(i), 64<<10))
		st := update(t, k)
		if st.Made != 1 || st.Protects != i+1 || st.Files > 10 {
			t.Fatalf("pack %d: %+v", i, st)
		}
	}
	if st := update(t, k); st.Made+st.Removed != 0 {
		t.Errorf("nothing new: %+v", st)
	}
	st, err := k.Status(t.Context())
	if err != nil || st.Sets != 4 || st.BareFiles != 0 || st.Files != 37 {
		t.Errorf("%+v, %v", st, err)
	}
	if most := st.Bytes*13/100 + 64<<10; st.ParityBytes > most {
		t.Errorf("%d bytes of parity for %d", st.ParityBytes, st.Bytes)
	}
}

// TestUpdateAfterPrune removes files: what is left is protected as before, and a
// key that was removed cannot be made again.
func TestUpdateAfterPrune(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	files := fill(t, m, 10, 16<<10)
	other := put(t, m, kassett.KeyFile, noise(77, 400))
	k := keeper(t, m, parity.Options{Overhead: 10_00, Needed: func(context.Context, []kassett.ID) (map[kassett.ID]bool, error) {
		return map[kassett.ID]bool{files[7].ID: true}, nil
	}})
	update(t, k)
	for _, h := range append([]kassett.Handle{other}, files[:4]...) {
		if err := m.Delete(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if st := update(t, k); st.Made != 2 || st.Removed != 2 {
		t.Fatalf("%+v", st)
	}
	if st, err := k.Repair(t.Context(), parity.RepairOptions{Gone: true}, func(parity.Outcome) {}); err != nil || st.Damaged != 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	whole := contents(m)
	m.Damage(files[7], func([]byte) []byte { return nil })
	if st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil || st.Repaired != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	mustBe(t, m, whole)
}

// TestUpdateOfDamage protects nothing that is damaged, and keeps what repairs it.
func TestUpdateOfDamage(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	files := fill(t, m, 5, 16<<10)
	var warned []string
	k := keeper(t, m, parity.Options{Warn: func(what string, _ error) { warned = append(warned, what) }})
	update(t, k)
	whole := contents(m)
	m.Damage(files[0], func(b []byte) []byte { b[5] ^= 1; return b })
	fresh := put(t, m, kassett.PackFile, noise(500, 16<<10))
	whole[fresh] = string(m.Bytes(fresh))
	if st := update(t, k); st.Damaged != 1 || st.Removed != 0 || len(warned) != 1 || !strings.Contains(warned[0], files[0].String()) {
		t.Fatalf("%+v, %q", st, warned)
	}
	if st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil || st.Repaired != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	mustBe(t, m, whole)
	if st := update(t, k); st.Damaged != 0 || st.Protects != len(whole) {
		t.Fatalf("%+v", st)
	}
	if st, err := k.Status(t.Context()); err != nil || st.Sets != 4 {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestDamagedParity damages the parity files: they are found, made anew, and
// what is left of them still repairs.
func TestDamagedParity(t *testing.T) {
	t.Parallel()
	names := func(m *storagetest.Memory) (all []string) {
		for info, err := range m.ListBeside(t.Context(), "parity") {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, info.Name)
		}
		slices.Sort(all)
		return all
	}
	for name, change := range map[string]func([]byte) []byte{
		"begin":  func(b []byte) []byte { clear(b[:4000]); return b },
		"middle": func(b []byte) []byte { clear(b[len(b)/2:][:3000]); return b },
		"end":    func(b []byte) []byte { return b[:len(b)-5000] },
		"insert": func(b []byte) []byte { return slices.Insert(b, len(b)/3, 'P', 'A', 'R') },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := storagetest.NewMemory()
			for i := range 5 {
				put(t, m, kassett.PackFile, noise(uint64(i), 16<<10))
			}
			k := keeper(t, m, parity.Options{Warn: func(string, error) {}})
			update(t, k)
			before := names(m)
			whole := m.Clone()
			m.DamageBeside(before[0], change)
			bad := 0
			if err := k.Verify(t.Context(), func(string, error) { bad++ }); err != nil || bad != 1 {
				t.Fatalf("verify: %d bad, %v", bad, err)
			}
			// It repairs as far as it is whole.
			h := m.Handles(kassett.PackFile)[0]
			m.Damage(h, func(b []byte) []byte { b[0] ^= 1; b[9000] ^= 1; return b })
			if st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil || st.Repaired != 1 {
				t.Fatalf("%+v, %v", st, err)
			}
			if st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil || st.ParityLost != 1 {
				t.Fatalf("%+v, %v", st, err)
			}
			update(t, k)
			if err := k.Verify(t.Context(), func(n string, err error) { t.Error(n, err) }); err != nil {
				t.Fatal(err)
			}
			mustBe(t, m, contents(whole))
			if after := names(m); !slices.Equal(before, after) {
				t.Errorf("%q, want %q", after, before)
			}
		})
	}
}

// TestUnreadableParity replaces a parity file by nonsense.
func TestUnreadableParity(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	fill(t, m, 3, 5000)
	warned := 0
	k := keeper(t, m, parity.Options{Warn: func(string, error) { warned++ }})
	update(t, k)
	for _, name := range []string{"parity/zz.par2", "parity/00000000000000000000000000000000.par2"} {
		b := noise(3, 100)
		if err := m.PutBeside(t.Context(), name, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
			t.Fatal(err)
		}
	}
	if st := update(t, k); warned != 2 || st.Removed != 2 || st.Made != 0 {
		t.Fatalf("%+v, %d warnings", st, warned)
	}
	if n, err := k.Clear(t.Context()); err != nil || n != 4 {
		t.Errorf("clear: %d, %v", n, err)
	}
}

// TestSideBySide lets several writers update at once.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	fill(t, m, 2, 5000)
	update(t, keeper(t, m, parity.Options{}))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			put(t, m, kassett.PackFile, noise(uint64(100+i), 6000))
			if _, err := keeper(t, m, parity.Options{}).Update(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	k := keeper(t, m, parity.Options{Needed: allNeeded})
	update(t, k)
	st, err := k.Status(t.Context())
	if err != nil || st.Sets != 4 || st.BareFiles != 0 {
		t.Errorf("%+v, %v", st, err)
	}
	whole := contents(m)
	m.Damage(m.Handles(kassett.PackFile)[3], func([]byte) []byte { return nil })
	if _, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil {
		t.Fatal(err)
	}
	mustBe(t, m, whole)
}

// TestNoRemoval is for storage that lets nobody remove: sets are only added.
func TestNoRemoval(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	st := storagetest.NewFailing(m, func(c storagetest.Call) *storagetest.Fault {
		if c.Op == storagetest.Delete {
			return &storagetest.Fault{Err: &kassett.Error{Kind: kassett.Denied}}
		}
		return nil
	})
	k := keeper(t, st, parity.Options{})
	for i := range 3 {
		put(t, st, kassett.PackFile, noise(uint64(i), 16<<10))
		if got := update(t, k); got.Protects != i+1 || got.Removed != 0 {
			t.Fatalf("%+v", got)
		}
	}
	whole := contents(m)
	m.Damage(m.Handles(kassett.PackFile)[1], func(b []byte) []byte { b[1] ^= 1; return b })
	broken := contents(m)
	if _, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("repair without the right to remove: %v", err)
	}
	mustBe(t, m, broken)
	// Someone who may remove goes on where this was broken off.
	if got, err := keeper(t, m, parity.Options{}).Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil || got.Repaired != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	mustBe(t, m, whole)
}

// TestRepairBrokenOff breaks a repair off at every change, and lets it go on.
func TestRepairBrokenOff(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	for i := range 4 {
		put(t, m, kassett.PackFile, noise(uint64(i), 16<<10))
	}
	o := parity.Options{Needed: allNeeded}
	update(t, keeper(t, m, o))
	whole := contents(m)
	packs := m.Handles(kassett.PackFile)
	// Two files with all the damage that can be mended: after one of them is
	// removed, the parity alone cannot mend the other.
	for _, h := range packs[:2] {
		m.Damage(h, func(b []byte) []byte { clear(b[:8<<10]); return b })
	}
	for n := 1; ; n++ {
		c := storagetest.NewCrashing(m, n)
		_, err := keeper(t, c, o).Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {})
		if !c.Crashed() {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		for how, left := range c.Survivors() {
			if _, err := keeper(t, left, o).Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {}); err != nil {
				t.Fatalf("crash at change %d, %s: %v", n, how, err)
			}
			mustBe(t, left, whole)
		}
	}
}

// badPlaces is a disk that cannot read some places.
type badPlaces struct {
	*storagetest.Memory
	h    kassett.Handle
	from int64
	to   int64
}

func (b *badPlaces) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	rc, err := b.Memory.Get(ctx, h, off, n)
	if err != nil || h != b.h {
		return rc, err
	}
	all, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	if b.to > off && b.from < off+int64(len(all)) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(all[:max(0, b.from-off)]), errorReader{})), rc.Close()
	}
	return io.NopCloser(bytes.NewReader(all)), rc.Close()
}

func (b *badPlaces) Delete(ctx context.Context, h kassett.Handle) error {
	if h == b.h {
		b.to = 0 // what is written anew is somewhere else
	}
	return b.Memory.Delete(ctx, h)
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, fmt.Errorf("input/output error") }

// TestUnreadablePlaces repairs a file that its disk cannot read everywhere.
func TestUnreadablePlaces(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	for i := range 4 {
		put(t, m, kassett.PackFile, noise(uint64(i), 64<<10))
	}
	update(t, keeper(t, m, parity.Options{}))
	whole := contents(m)
	disk := &badPlaces{Memory: m, h: m.Handles(kassett.PackFile)[2], from: 20000, to: 29000}
	aside := ""
	st, err := keeper(t, disk, parity.Options{}).Repair(t.Context(), parity.RepairOptions{}, func(o parity.Outcome) { aside = o.Aside })
	if err != nil || st.Repaired != 1 || aside == "" {
		t.Fatalf("%+v, %v, %q", st, err, aside)
	}
	mustBe(t, m, whole)
}

func TestOverhead(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]parity.Overhead{"5%": 500, "5": 500, "0.5%": 50, "0": 0, "off": 0, "100%": 10000, "0.1%": 10} {
		if o, err := parity.ParseOverhead(in); err != nil || o != want {
			t.Errorf("%q: %v, %v", in, o, err)
		}
	}
	for _, in := range []string{"", "x", "101%", "-1", "0.01%", "NaN", "5%%", "1e400"} {
		if o, err := parity.ParseOverhead(in); kassett.KindOf(err) != kassett.Invalid {
			t.Errorf("%q: %v, %v", in, o, err)
		}
	}
	if s := parity.Overhead(50).String(); s != "0.5%" {
		t.Error(s)
	}
}
