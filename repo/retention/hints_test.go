package retention

import (
	"context"
	"encoding/hex"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage/storagetest"
)

func hintList(n int) []hint {
	all := make([]hint, n)
	for i := range all {
		all[i] = hint{hintKey{hintKind(1 + i%3), kassett.Hash([]byte{byte(i), byte(i >> 8)})}, int64(1_800_000_000 + i)}
	}
	slices.SortFunc(all, func(a, b hint) int { return a.compare(b.hintKey) })
	return all
}

func TestHintsRoundTrip(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 1000} {
		all := hintList(n)
		back, err := decodeHints(encodeHints(all))
		if err != nil || !slices.Equal(back, all) {
			t.Errorf("%d hints come back as %d, %v", n, len(back), err)
		}
	}
}

// The layout that docs/formats/retention-hints.md describes.
func TestHintsGolden(t *testing.T) {
	t.Parallel()
	const file = "01" + "1111111111111111111111111111111111111111111111111111111111111111" + "80ed746b00000000" +
		"ff" + "2222222222222222222222222222222222222222222222222222222222222222" + "003f766b00000000"
	all := []hint{
		{hintKey{hintKind(kassett.PackFile), [32]byte(slices.Repeat([]byte{0x11}, 32))}, 0x6b74ed80},
		{hintKey{treeHint, [32]byte(slices.Repeat([]byte{0x22}, 32))}, 0x6b763f00},
	}
	if got := hex.EncodeToString(encodeHints(all)); got != file {
		t.Errorf("encodeHints = %s, want %s", got, file)
	}
}

// disk is the file of hints that two keepers share.
type disk struct {
	mu sync.Mutex
	b  []byte
}

func (d *disk) keeper(st kassett.Retainer, warn func(error)) *Keeper {
	return New(Options{
		Storage: st, Workers: 4, Warn: warn, Pass: func(context.Context) error { return nil },
		Load: func() ([]byte, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.b == nil {
				return nil, fs.ErrNotExist
			}
			return d.b, nil
		},
		Save: func(b []byte) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.b = b
			return nil
		},
	})
}

// Two programs with one cache lose nothing, what has ended is dropped, and what
// is no file of hints is not believed, and replaced.
func TestHintsSave(t *testing.T) {
	t.Parallel()
	st := storagetest.NewLocked(kassett.Retention{Mode: kassett.Compliance, Period: time.Hour, Slack: time.Hour}, time.Now)
	at := func(i byte) hintKey { return hintKey{hintKind(kassett.PackFile), kassett.Hash([]byte{i})} }
	var d disk
	warned := 0
	warn := func(error) { warned++ }
	a, b := d.keeper(st, warn), d.keeper(st, warn)
	a.note(at(1), 100)
	a.note(at(2), 300)
	b.note(at(2), 200)
	b.note(at(3), 400)
	for _, k := range []*Keeper{a, b} {
		k.save(time.Unix(150, 0))
	}
	c := d.keeper(st, warn)
	c.readHints()
	for i, want := range []int64{0, 0, 300, 400} {
		if got := c.hint(at(byte(i))); got != want {
			t.Errorf("hint %d is %d, want %d", i, got, want)
		}
	}
	d.b = []byte("rot")
	e := d.keeper(st, warn)
	e.readHints()
	if warned != 1 || e.hint(at(3)) != 0 {
		t.Errorf("%d warnings of a file that is none, and a hint of %d", warned, e.hint(at(3)))
	}
	c.save(time.Unix(150, 0))
	e = d.keeper(st, warn)
	if e.readHints(); e.hint(at(3)) != 400 {
		t.Error("the file was not replaced")
	}
}

// When one hint turns out to be wrong, none is believed.
func TestSpotCheck(t *testing.T) {
	t.Parallel()
	st := storagetest.NewLocked(kassett.Retention{Mode: kassett.Governance, Period: time.Hour, Slack: time.Hour}, time.Now)
	b := []byte("a pack")
	n := kassett.StoredName{Handle: kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}}
	if err := st.Put(t.Context(), n.Handle, kassett.BytesBody(b, n.ID)); err != nil {
		t.Fatal(err)
	}
	var d disk
	warned := 0
	k := d.keeper(st, func(error) { warned++ })
	lie := time.Now().Add(50 * time.Hour)
	k.note(fileHint(n), lie.Unix())
	k.note(hintKey{treeHint, n.ID}, lie.Unix())
	k.save(time.Now())
	k = d.keeper(st, func(error) { warned++ })
	e, err := k.Begin(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, enough := e.Trees([]kassett.ID{n.ID}); enough || warned != 1 {
		t.Errorf("after a wrong hint (%d warnings) another one is believed", warned)
	}
}

func FuzzDecodeHints(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeHints(hintList(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if all, err := decodeHints(b); err == nil && string(encodeHints(all)) != string(b) {
			t.Errorf("%d hints come back otherwise", len(all))
		}
	})
}
