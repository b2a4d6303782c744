package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
)

// Run checks that storages keep the promises of [kassett.Storage], and those
// of [kassett.Beside] when they implement it. open returns an empty storage of
// its own for each subtest; the subtests run side by side.
func Run(t *testing.T, open func(t *testing.T) kassett.Storage) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, s kassett.Storage)
	}{
		{"every kind is kept apart", testKinds},
		{"ranges", testRanges},
		{"what is not there", testNotFound},
		{"nothing is overwritten", testExists},
		{"bodies that are not what they say", testWrongBody},
		{"list", testList},
		{"delete", testDelete},
		{"cancel", testCancel},
		{"large", testLarge},
		{"side by side", testConcurrent},
		{"beside", testBeside},
		{"beside names", testBesideNames},
		{"in pieces", testStager},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

var allKinds = []kassett.FileKind{
	kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.KeyFile, kassett.LockFile, kassett.ConfigFile,
}

// Random returns n bytes that depend on seed only.
func Random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

func handleOf(k kassett.FileKind, b []byte) kassett.Handle {
	if k == kassett.ConfigFile {
		return kassett.Handle{Kind: k}
	}
	return kassett.Handle{Kind: k, ID: kassett.Hash(b)}
}

// streamed is a body whose bytes come in odd pieces, as from a network.
func streamed(b []byte, size int64, sum kassett.ID) kassett.Body {
	return kassett.Body{Size: size, Sum: sum, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(&pieces{rest: b}), nil
	}}
}

type pieces struct {
	rest []byte
	turn int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		return 0, io.EOF
	}
	p.turn++
	n := copy(b[:min(len(b), 1+p.turn*7919%65536)], p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func mustPut(t *testing.T, s kassett.Storage, k kassett.FileKind, b []byte) kassett.Handle {
	t.Helper()
	h := handleOf(k, b)
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatalf("Put(%s): %v", h, err)
	}
	return h
}

func get(ctx context.Context, s kassett.Storage, h kassett.Handle, off, n int64) ([]byte, error) {
	r, err := s.Get(ctx, h, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func wantBytes(t *testing.T, s kassett.Storage, h kassett.Handle, want []byte) {
	t.Helper()
	got, err := get(t.Context(), s, h, 0, -1)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get(%s) = %d bytes, %v; want the %d bytes stored", h, len(got), err, len(want))
	}
	in, err := s.Stat(t.Context(), h)
	in.Received = time.Time{} // where a storage knows it, it is the storage's own
	if err != nil || in != (kassett.Info{Handle: h, Size: int64(len(want))}) {
		t.Errorf("Stat(%s) = %+v, %v; want %d bytes", h, in, err, len(want))
	}
}

func wantKind(t *testing.T, what string, err error, k kassett.Kind) {
	t.Helper()
	if err == nil || kassett.KindOf(err) != k {
		t.Errorf("%s = %v (kind %q); want kind %q", what, err, kassett.KindOf(err), k)
	}
}

// wantAbsent checks that no call shows h.
func wantAbsent(t *testing.T, s kassett.Storage, h kassett.Handle) {
	t.Helper()
	_, err := s.Stat(t.Context(), h)
	wantKind(t, "Stat of "+h.String(), err, kassett.NotFound)
	_, err = get(t.Context(), s, h, 0, -1)
	wantKind(t, "Get of "+h.String(), err, kassett.NotFound)
	if _, ok := listed(t, s, h.Kind)[h]; ok {
		t.Errorf("List shows %s", h)
	}
}

func listed(t *testing.T, s kassett.Storage, k kassett.FileKind) map[kassett.Handle]int64 {
	t.Helper()
	all := map[kassett.Handle]int64{}
	for in, err := range s.List(t.Context(), k) {
		if err != nil {
			t.Fatalf("List(%s): %v", k, err)
		}
		if _, twice := all[in.Handle]; twice {
			t.Errorf("List(%s) gives %s twice", k, in.Handle)
		}
		all[in.Handle] = in.Size
	}
	return all
}

func testKinds(t *testing.T, s kassett.Storage) {
	for i, k := range allKinds {
		b := Random(uint64(i), 100+i)
		h := handleOf(k, b)
		wantAbsent(t, s, h)
		mustPut(t, s, k, b)
		wantBytes(t, s, h, b)
		for j, other := range allKinds {
			if j > i && other != kassett.ConfigFile {
				wantAbsent(t, s, kassett.Handle{Kind: other, ID: h.ID})
			}
		}
	}
	for i, k := range allKinds {
		b := Random(uint64(i), 100+i)
		if all := listed(t, s, k); len(all) != 1 || all[handleOf(k, b)] != int64(len(b)) {
			t.Errorf("List(%s) = %v", k, all)
		}
	}
	// The storage keeps the bytes, not the memory they came in.
	b := Random(99, 1000)
	want := bytes.Clone(b)
	h := mustPut(t, s, kassett.IndexFile, b)
	clear(b)
	wantBytes(t, s, h, want)
}

func testRanges(t *testing.T, s kassett.Storage) {
	const size = 70_000
	b := Random(1, size)
	h := mustPut(t, s, kassett.PackFile, b)
	for _, c := range []struct {
		off, n int64
		end    error
	}{
		{0, -1, nil},
		{0, 0, nil},
		{0, 1, nil},
		{0, size, nil},
		{1, 17, nil},
		{size - 4, 4, nil},
		{size - 4, -1, nil},
		{size, 0, nil},
		{size, -1, nil},
		{4096, 60_000, nil},
		{0, size + 1, io.ErrUnexpectedEOF},
		{size - 4, 5, io.ErrUnexpectedEOF},
		{size, 1, io.ErrUnexpectedEOF},
		{size + 10, 1, io.ErrUnexpectedEOF},
	} {
		got, err := get(t.Context(), s, h, c.off, c.n)
		want := b[min(c.off, size):]
		if c.n >= 0 {
			want = want[:min(c.n, int64(len(want)))]
		}
		if c.end != nil && err != nil && len(got) == 0 {
			got = want // a range that cannot be given whole may be refused at once
		}
		if !errors.Is(err, c.end) || c.end != nil && err == nil || !bytes.Equal(got, want) {
			t.Errorf("Get(off %d, n %d) = %d bytes, %v; want %d bytes, %v", c.off, c.n, len(got), err, len(want), c.end)
		}
	}
	_, err := get(t.Context(), s, h, -1, 1)
	wantKind(t, "Get from a negative offset", err, kassett.Invalid)

	// A stream may be left in the middle.
	r, err := s.Get(t.Context(), h, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("Close in the middle: %v", err)
	}
}

func testNotFound(t *testing.T, s kassett.Storage) {
	for _, k := range allKinds {
		h := handleOf(k, []byte("nothing"))
		wantAbsent(t, s, h)
		wantKind(t, "Delete of "+h.String(), s.Delete(t.Context(), h), kassett.NotFound)
	}
}

func testExists(t *testing.T, s kassett.Storage) {
	for _, k := range allKinds {
		b := Random(2, 5000)
		h := mustPut(t, s, k, b)
		for _, other := range [][]byte{b, b[:10], Random(3, 9000)} {
			err := s.Put(t.Context(), h, kassett.BytesBody(other, kassett.Hash(other)))
			wantKind(t, "second Put of "+h.String(), err, kassett.Exists)
		}
		wantBytes(t, s, h, b)
	}
}

func testWrongBody(t *testing.T, s kassett.Storage) {
	b := Random(4, 300_000)
	sum, n := kassett.Hash(b), int64(len(b))
	flipped := bytes.Clone(b)
	flipped[n/2] ^= 1
	broken := errors.New("cannot be read")
	for _, c := range []struct {
		name string
		body kassett.Body
		kind kassett.Kind
		err  error
	}{
		{"a flipped bit", streamed(flipped, n, sum), kassett.Corrupt, nil},
		{"a short stream", streamed(b[:n-1], n, sum), kassett.Corrupt, nil},
		{"an empty stream", streamed(nil, n, sum), kassett.Corrupt, nil},
		{"a long stream", streamed(append(bytes.Clone(b), 1), n, sum), kassett.Corrupt, nil},
		{"memory too short", sized(kassett.BytesBody(b[:n-1], sum), n), kassett.Corrupt, nil},
		{"memory too long", sized(kassett.BytesBody(b, sum), n-1), kassett.Corrupt, nil},
		{"an error on open", kassett.Body{Size: n, Sum: sum, Open: func() (io.ReadCloser, error) { return nil, broken }}, 0, broken},
		{"an error in the middle", kassett.Body{Size: n, Sum: sum, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(b[:n/2]), failingReader{broken})), nil
		}}, 0, broken},
	} {
		for _, k := range allKinds {
			h := handleOf(k, b)
			err := s.Put(t.Context(), h, c.body)
			if c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("Put of %s = %v; want %v", c.name, err, c.err)
			} else if c.err == nil {
				wantKind(t, "Put of "+c.name, err, c.kind)
			}
			wantAbsent(t, s, h)
		}
	}
	// None of it is in the way of the right one.
	if err := s.Put(t.Context(), handleOf(kassett.PackFile, b), streamed(b, n, sum)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, s, handleOf(kassett.PackFile, b), b)
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func sized(b kassett.Body, n int64) kassett.Body {
	b.Size = n
	return b
}

func testList(t *testing.T, s kassett.Storage) {
	for _, k := range allKinds {
		if all := listed(t, s, k); len(all) != 0 {
			t.Errorf("List(%s) of an empty storage = %v", k, all)
		}
	}
	want := map[kassett.Handle]int64{}
	for i := range 300 { // more than the folders of restic's layout
		b := Random(uint64(1000+i), 1+i)
		want[mustPut(t, s, kassett.PackFile, b)] = int64(len(b))
	}
	all := listed(t, s, kassett.PackFile)
	for h, n := range want {
		if all[h] != n {
			t.Errorf("List gives %s with %d bytes, want %d", h, all[h], n)
		}
	}
	if len(all) != len(want) {
		t.Errorf("List gives %d files, want %d", len(all), len(want))
	}
	seen := 0
	for _, err := range s.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Errorf("List: %v", err)
		}
		if seen++; seen == 3 {
			break
		}
	}
	if seen != 3 {
		t.Errorf("a listing that is left gave %d files, want 3", seen)
	}
}

func testDelete(t *testing.T, s kassett.Storage) {
	for i, k := range allKinds {
		a, b := Random(uint64(10+i), 500), Random(uint64(20+i), 600)
		h := mustPut(t, s, k, a)
		err := s.Delete(t.Context(), h)
		if kassett.KindOf(err) == kassett.Held && (k == kassett.ConfigFile || k == kassett.KeyFile) {
			wantBytes(t, s, h, a) // a server may guard what a repository is lost without
			continue
		}
		if err != nil {
			t.Fatalf("Delete(%s): %v", h, err)
		}
		wantAbsent(t, s, h)
		wantKind(t, "second Delete", s.Delete(t.Context(), h), kassett.NotFound)
		if k == kassett.ConfigFile {
			mustPut(t, s, k, b)
			continue
		}
		keep := mustPut(t, s, k, b)
		mustPut(t, s, k, a) // the name is free again
		if err := s.Delete(t.Context(), h); err != nil {
			t.Errorf("Delete(%s): %v", h, err)
		}
		wantBytes(t, s, keep, b)
	}
}

func testCancel(t *testing.T, s kassett.Storage) {
	b := Random(5, 4<<20)
	h := handleOf(kassett.PackFile, b)
	ctx, cancel := context.WithCancel(t.Context())

	// In the middle of the body.
	body := streamed(b, int64(len(b)), h.ID)
	open := body.Open
	body.Open = func() (io.ReadCloser, error) {
		r, err := open()
		return &hookReader{ReadCloser: r, after: len(b) / 2, hook: cancel}, err
	}
	wantKind(t, "Put cancelled in the middle", s.Put(ctx, h, body), kassett.Interrupted)
	wantAbsent(t, s, h)

	// Before anything.
	wantKind(t, "Put with an ended context", s.Put(ctx, h, kassett.BytesBody(b, h.ID)), kassett.Interrupted)
	wantAbsent(t, s, h)
	mustPut(t, s, kassett.PackFile, b)
	_, err := get(ctx, s, h, 0, -1)
	wantKind(t, "Get with an ended context", err, kassett.Interrupted)
	_, err = s.Stat(ctx, h)
	wantKind(t, "Stat with an ended context", err, kassett.Interrupted)
	wantKind(t, "Delete with an ended context", s.Delete(ctx, h), kassett.Interrupted)
	err = nil
	for _, e := range s.List(ctx, kassett.PackFile) {
		err = e
	}
	wantKind(t, "List with an ended context", err, kassett.Interrupted)
	wantBytes(t, s, h, b)

	// In the middle of a stream.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	r, err := s.Get(ctx, h, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // broken by then
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.ReadAll(r)
	wantKind(t, "Read after the context ended", err, kassett.Interrupted)
}

// hookReader calls hook once, after some bytes.
type hookReader struct {
	io.ReadCloser
	after int
	hook  func()
}

func (r *hookReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if r.after -= n; r.after <= 0 && r.hook != nil {
		r.hook()
		r.hook = nil
	}
	return n, err
}

func testLarge(t *testing.T, s kassett.Storage) {
	b := Random(6, 40<<20+12345)
	sum := kassett.Hash(b)
	h := kassett.Handle{Kind: kassett.PackFile, ID: sum}
	if err := s.Put(t.Context(), h, streamed(b, int64(len(b)), sum)); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, s, h, b)
	off := int64(33<<20 + 1)
	got, err := get(t.Context(), s, h, off, 5000)
	if err != nil || !bytes.Equal(got, b[off:off+5000]) {
		t.Errorf("Get of a range far in = %d bytes, %v", len(got), err)
	}
}

func testConcurrent(t *testing.T, s kassett.Storage) {
	const workers, each = 8, 12
	common := Random(7, 200_000)
	var wg sync.WaitGroup
	won := make(chan kassett.Handle, workers*each)
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				b := Random(uint64(w*each+i), 1000*(1+i))
				h := handleOf(kassett.PackFile, b)
				if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
					t.Errorf("Put: %v", err)
				}
				wantBytes(t, s, h, b)

				// All want the same name: one gets it.
				same := append([]byte{byte(i)}, common...)
				h = handleOf(kassett.IndexFile, same)
				err := s.Put(t.Context(), h, streamed(same, int64(len(same)), h.ID))
				if err == nil {
					won <- h
				} else if kassett.KindOf(err) != kassett.Exists {
					t.Errorf("Put of the same name: %v", err)
				}
				for in, err := range s.List(t.Context(), kassett.IndexFile) {
					if err != nil {
						t.Errorf("List meanwhile: %v", err)
					} else if in.Size != int64(len(same)) {
						t.Errorf("List meanwhile shows %s with %d bytes", in.Handle, in.Size)
					}
				}
			}
		})
	}
	wg.Wait()
	close(won)
	winners := map[kassett.Handle]int{}
	for h := range won {
		winners[h]++
	}
	for i := range each {
		same := append([]byte{byte(i)}, common...)
		h := handleOf(kassett.IndexFile, same)
		if winners[h] != 1 {
			t.Errorf("%d of %d puts of the same name returned nil, want 1", winners[h], workers)
		}
		wantBytes(t, s, h, same)
	}
	if n := len(listed(t, s, kassett.PackFile)); n != workers*each {
		t.Errorf("List gives %d packs, want %d", n, workers*each)
	}
}

func testBeside(t *testing.T, s kassett.Storage) {
	b, ok := kassett.As[kassett.Beside](s)
	if !ok {
		return // an optional ability
	}
	ctx := t.Context()
	names := []string{"a", "lists/0001.json", "lists/deep/er.x", "lists-old/1", "parity/00/x_y-z.9"}
	content := func(name string) []byte { return []byte(strings.Repeat(name, 100)) }
	for _, name := range names {
		c := content(name)
		if _, err := b.GetBeside(ctx, name); true {
			wantKind(t, "GetBeside of nothing", err, kassett.NotFound)
		}
		wantKind(t, "DeleteBeside of nothing", b.DeleteBeside(ctx, name), kassett.NotFound)
		wrong := streamed(c, int64(len(c)), kassett.Hash([]byte("other")))
		wantKind(t, "PutBeside of a wrong sum", b.PutBeside(ctx, name, wrong), kassett.Corrupt)
		if err := b.PutBeside(ctx, name, kassett.BytesBody(c, kassett.Hash(c))); err != nil {
			t.Fatalf("PutBeside(%s): %v", name, err)
		}
		wantKind(t, "second PutBeside", b.PutBeside(ctx, name, kassett.BytesBody(c, kassett.Hash(c))), kassett.Exists)
		r, err := b.GetBeside(ctx, name)
		if err != nil {
			t.Fatalf("GetBeside(%s): %v", name, err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, c) {
			t.Errorf("GetBeside(%s) = %d bytes, %v", name, len(got), err)
		}
	}
	for folder, want := range map[string]int{"": 5, "lists": 2, "lists/": 2, "lists/deep": 1, "parity": 1, "lis": 0, "none": 0} {
		n := 0
		for in, err := range b.ListBeside(ctx, folder) {
			if err != nil || in.Size != int64(len(content(in.Name))) {
				t.Errorf("ListBeside(%q) gives %+v, %v", folder, in, err)
			}
			n++
		}
		if n != want {
			t.Errorf("ListBeside(%q) gives %d files, want %d", folder, n, want)
		}
	}
	for _, k := range allKinds { // restic sees nothing of it
		if all := listed(t, s, k); len(all) != 0 {
			t.Errorf("List(%s) = %v", k, all)
		}
	}
	if err := b.DeleteBeside(ctx, names[1]); err != nil {
		t.Error(err)
	}
	_, err := b.GetBeside(ctx, names[1])
	wantKind(t, "GetBeside after DeleteBeside", err, kassett.NotFound)
}

func testStager(t *testing.T, s kassett.Storage) {
	st, ok := kassett.As[kassett.Stager](s)
	if !ok {
		return // an optional ability
	}
	b := Random(30, 300_000)
	h := handleOf(kassett.PackFile, b)
	stage := func() kassett.Staged {
		f, err := st.Stage(t.Context(), kassett.PackFile)
		if err != nil {
			t.Fatalf("Stage: %v", err)
		}
		for rest := b; len(rest) > 0; {
			n, err := f.Write(rest[:min(len(rest), 70_000)])
			if err != nil {
				t.Fatalf("Write: %v", err)
			}
			rest = rest[n:]
		}
		return f
	}
	f := stage()
	wantAbsent(t, s, h)
	if err := f.Abort(); err != nil {
		t.Errorf("Abort: %v", err)
	}
	wantAbsent(t, s, h)
	if err := stage().Commit(t.Context(), h); err != nil {
		t.Fatalf("Commit: %v", err)
	}
	wantBytes(t, s, h, b)
	f = stage()
	wantKind(t, "Commit of a name that is taken", f.Commit(t.Context(), h), kassett.Exists)
	if err := f.Abort(); err != nil {
		t.Errorf("Abort after a Commit that failed: %v", err)
	}
	wantBytes(t, s, h, b)
	if n := len(listed(t, s, kassett.PackFile)); n != 1 {
		t.Errorf("List gives %d files, want 1", n)
	}
}

func testBesideNames(t *testing.T, s kassett.Storage) {
	b, ok := kassett.As[kassett.Beside](s)
	if !ok {
		return // an optional ability
	}
	for _, name := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", ".a", "a.", "A", "a b", "a\\b", "ä", "a\x00b", "c:", "a-tmp-1",
	} {
		ctx := t.Context()
		wantKind(t, fmt.Sprintf("PutBeside(%q)", name), b.PutBeside(ctx, name, kassett.BytesBody(nil, kassett.Hash(nil))), kassett.Invalid)
		_, err := b.GetBeside(ctx, name)
		wantKind(t, fmt.Sprintf("GetBeside(%q)", name), err, kassett.Invalid)
		wantKind(t, fmt.Sprintf("DeleteBeside(%q)", name), b.DeleteBeside(ctx, name), kassett.Invalid)
	}
}
