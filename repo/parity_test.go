package repo_test

import (
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/repo/parity"
	"kassett/storage/storagetest"
)

// TestParitySetting says how much parity there is to be, and lets it stand
// against what others plant.
func TestParitySetting(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	warned := 0
	r, err := repo.Init(t.Context(), m, []byte(password), repo.InitOptions{
		Options: repo.Options{Warn: func(error) { warned++ }}, Scrypt: repo.Scrypt{N: 1 << 10, R: 1, P: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	want := func(o parity.Overhead, said bool) {
		t.Helper()
		if have, is, err := r.Parity(t.Context()); err != nil || have != o || is != said {
			t.Fatalf("%v, %v, %v; want %v, %v", have, is, err, o, said)
		}
	}
	want(0, false)
	for _, o := range []parity.Overhead{500, 1000, 0, 750} {
		if err := r.SetParity(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		want(o, true)
	}
	// Without the key nobody changes it, by a new file or by an old one.
	plant := func(name string, b []byte) {
		t.Helper()
		if err := m.PutBeside(t.Context(), name, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
			t.Fatal(err)
		}
	}
	plant("parity/overhead-00000009", []byte("nonsense"))
	var first []byte
	m.DamageBeside("parity/overhead-00000001", func(b []byte) []byte { first = append(first, b...); return b })
	plant("parity/overhead-00000008", first)
	plant("parity/overhead-x", nil)
	want(750, true)
	if warned != 2 {
		t.Errorf("%d warnings", warned)
	}
	if err := r.SetParity(t.Context(), 200); err != nil {
		t.Fatal(err)
	}
	want(200, true)
}

// TestParityOfRepository prunes, loses and damages packs of a real repository.
func TestParityOfRepository(t *testing.T) {
	t.Parallel()
	m := storagetest.NewMemory()
	r, err := repo.Init(t.Context(), m, []byte(password), repo.InitOptions{
		Options: repo.Options{PackSize: 4 << 20}, Scrypt: repo.Scrypt{N: 1 << 10, R: 1, P: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if err := r.LoadIndex(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	w := r.NewWriter(t.Context(), repo.WriterOptions{})
	for i := range 40 {
		b := make([]byte, 400<<10)
		for j := range b {
			b[j] = byte(j*j>>7) ^ byte(i*j)
		}
		if _, err := w.Save(t.Context(), repo.DataBlob, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	k, err := r.ParityKeeper(parity.Options{Overhead: parity.DefaultOverhead})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	packs := m.Handles(kassett.PackFile)
	was := string(m.Bytes(packs[0]))
	if err := m.Delete(t.Context(), packs[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := check(t.Context(), r); kassett.KindOf(err) != kassett.Corrupt {
		t.Fatalf("check with a lost pack: %v", err)
	}
	st, err := k.Repair(t.Context(), parity.RepairOptions{}, func(parity.Outcome) {})
	if err != nil || st.Repaired != 1 || string(m.Bytes(packs[0])) != was {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := check(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}
