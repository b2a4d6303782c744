package repo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

// memoryRepo makes a repository in memory.
func memoryRepo(t testing.TB, o repo.InitOptions) (*repo.Repository, *storagetest.Memory) {
	t.Helper()
	st := storagetest.NewMemory()
	o.Scrypt = quick
	r, err := repo.Init(context.Background(), st, []byte(password), o)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, r)
	return r, st
}

func openMemory(t testing.TB, st kassett.Storage, pass string, o repo.Options) *repo.Repository {
	t.Helper()
	o.KeyCost = quick
	r, err := repo.Open(context.Background(), st, []byte(pass), o)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, r)
	return r
}

func closeAfter(t testing.TB, r *repo.Repository) {
	t.Helper()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// putRaw stores bytes under their own hash, as a stranger could.
func putRaw(t testing.TB, st kassett.Storage, k kassett.FileKind, b []byte) kassett.ID {
	t.Helper()
	h := kassett.Handle{Kind: k, ID: kassett.Hash(b)}
	if err := st.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	return h.ID
}

// wantKind fails unless err is of a kind, and tells something about what.
func wantKind(t testing.TB, err error, kind kassett.Kind, words ...string) {
	t.Helper()
	if err == nil || kassett.KindOf(err) != kind {
		t.Errorf("error is %v (%v), want the kind %v", err, kassett.KindOf(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) && !strings.Contains(kassett.HintOf(err), w) {
			t.Errorf("error %q (hint %q) does not speak of %q", err, kassett.HintOf(err), w)
		}
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	t.Parallel()
	for _, k := range []kassett.FileKind{kassett.ConfigFile, kassett.KeyFile, kassett.SnapshotFile} {
		st := storagetest.NewMemory()
		h := kassett.Handle{Kind: k, ID: kassett.Hash([]byte("x"))}
		if k == kassett.ConfigFile {
			h.ID = kassett.ID{}
		}
		if err := st.Put(t.Context(), h, kassett.BytesBody([]byte("x"), kassett.Hash([]byte("x")))); err != nil {
			t.Fatal(err)
		}
		_, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{Scrypt: quick})
		wantKind(t, err, kassett.Exists, k.String())
	}
	_, err := repo.Init(t.Context(), storagetest.NewMemory(), nil, repo.InitOptions{Scrypt: quick})
	wantKind(t, err, kassett.Invalid, "empty")
	_, err = repo.Init(t.Context(), storagetest.NewMemory(), []byte("x"), repo.InitOptions{Version: 3})
	wantKind(t, err, kassett.Invalid, "version 3")
}

// An init that fails leaves a place where the next one works, or a repository
// that opens.
func TestInitFailing(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 5; n++ {
		for _, after := range []bool{false, true} {
			mem := storagetest.NewMemory()
			st := storagetest.NewFailing(mem, storagetest.FailNth(n, after))
			_, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{Scrypt: quick})
			if _, openErr := repo.Open(t.Context(), mem, []byte(password), repo.Options{}); openErr == nil {
				continue
			}
			if err == nil {
				t.Fatalf("call %d failed, and nobody says so", n)
			}
			_, err = repo.Init(t.Context(), mem, []byte(password), repo.InitOptions{Scrypt: quick})
			if err != nil && !after {
				t.Errorf("call %d failed, then: %v", n, err)
			}
		}
	}
	// Cut off by power after the key: nothing is lost, and that is said.
	crash := storagetest.NewCrashing(storagetest.NewMemory(), 2)
	_, _ = repo.Init(t.Context(), crash, []byte(password), repo.InitOptions{Scrypt: quick})
	for how, left := range crash.Survivors() {
		if _, err := repo.Open(t.Context(), left, []byte(password), repo.Options{}); kassett.KindOf(err) == kassett.Corrupt {
			wantKind(t, err, kassett.Corrupt, "init` was cut short")
		} else if err != nil && kassett.KindOf(err) != kassett.NotFound {
			t.Errorf("%s: %v", how, err)
		}
	}
}

func TestOpenWhereNothingIs(t *testing.T) {
	t.Parallel()
	_, err := repo.Open(t.Context(), storagetest.NewMemory(), []byte(password), repo.Options{})
	wantKind(t, err, kassett.NotFound, "kassett init")

	_, st := memoryRepo(t, repo.InitOptions{})
	noConfig, noKeys := st.Clone(), st.Clone()
	if err := noConfig.Delete(t.Context(), kassett.Handle{Kind: kassett.ConfigFile}); err != nil {
		t.Fatal(err)
	}
	_, err = repo.Open(t.Context(), noConfig, []byte(password), repo.Options{})
	wantKind(t, err, kassett.Corrupt, "config is gone")
	for _, h := range noKeys.Handles(kassett.KeyFile) {
		if err := noKeys.Delete(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	_, err = repo.Open(t.Context(), noKeys, []byte(password), repo.Options{})
	wantKind(t, err, kassett.Corrupt, "no keys")
	_, err = repo.Open(t.Context(), st, []byte("wrong"), repo.Options{})
	wantKind(t, err, kassett.WrongPassword, "check the password")
}

// Every changed, missing or added byte of the config or of the only key is
// found.
func TestOpenDamaged(t *testing.T) {
	t.Parallel()
	_, st := memoryRepo(t, repo.InitOptions{})
	key := st.Handles(kassett.KeyFile)[0]
	for _, h := range []kassett.Handle{key, {Kind: kassett.ConfigFile}} {
		for i := range st.Bytes(h) {
			for name, change := range map[string]func(b []byte) []byte{
				"flip": func(b []byte) []byte { b[i] ^= 1; return b },
				"cut":  func(b []byte) []byte { return b[:i] },
				"drop": func(b []byte) []byte { return append(b[:i], b[i+1:]...) },
			} {
				bad := st.Clone()
				bad.Damage(h, change)
				if _, err := repo.Open(t.Context(), bad, []byte(password), repo.Options{}); kassett.KindOf(err) != kassett.Corrupt {
					t.Fatalf("%s: %s byte %d: %v", h, name, i, err)
				}
			}
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{Host: "pacs1", User: "backup"})
	first := r.KeyID()
	second, err := r.AddKey(t.Context(), []byte("second"), "astrid", "ward3")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := r.Keys(t.Context())
	if err != nil || len(keys) != 2 {
		t.Fatalf("keys: %v, %v", keys, err)
	}
	if k := keys[0]; k.ID != first || !k.Current || k.Host != "pacs1" || k.User != "backup" || k.Scrypt != quick {
		t.Errorf("first key is %+v", k)
	}
	if k := keys[1]; k.ID != second || k.Current || k.Host != "ward3" || k.User != "astrid" {
		t.Errorf("second key is %+v", k)
	}
	if got := openMemory(t, st, "second", repo.Options{}); got.KeyID() != second || got.Config() != r.Config() {
		t.Errorf("opened by %s with %+v", got.KeyID(), got.Config())
	}
	wantKind(t, r.RemoveKey(t.Context(), first), kassett.Invalid, "open by this key")
	if err := r.RemoveKey(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	_, err = repo.Open(t.Context(), st, []byte("second"), repo.Options{})
	wantKind(t, err, kassett.WrongPassword)
	_, err = r.AddKey(t.Context(), nil, "", "")
	wantKind(t, err, kassett.Invalid, "empty")
}

func TestRemoveLastKeyThoughAnotherOpened(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	second, err := r.AddKey(t.Context(), []byte("second"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	// Someone else removes the key by which r is open.
	if err := openMemory(t, st, "second", repo.Options{}).RemoveKey(t.Context(), r.KeyID()); err != nil {
		t.Fatal(err)
	}
	wantKind(t, r.RemoveKey(t.Context(), second), kassett.Invalid, "last key")
}

func TestChangePassword(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	old := r.KeyID()
	id, err := r.ChangePassword(t.Context(), []byte("new"))
	if err != nil || r.KeyID() != id || id == old {
		t.Fatalf("new key %s, in use %s: %v", id, r.KeyID(), err)
	}
	_, err = repo.Open(t.Context(), st, []byte(password), repo.Options{})
	wantKind(t, err, kassett.WrongPassword)
	openMemory(t, st, "new", repo.Options{})
}

// Whatever call fails while a password is changed, one of the two opens.
func TestChangePasswordFailing(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 8; n++ {
		for _, after := range []bool{false, true} {
			_, st := memoryRepo(t, repo.InitOptions{})
			armed, calls := false, 0
			failing := storagetest.NewFailing(st, func(storagetest.Call) *storagetest.Fault {
				if armed {
					calls++
				}
				if armed && calls == n {
					return &storagetest.Fault{Err: storagetest.ErrInjected, After: after}
				}
				return nil
			})
			r := openMemory(t, failing, password, repo.Options{})
			armed = true
			_, err := r.ChangePassword(t.Context(), []byte("new"))
			_, oldErr := repo.Open(t.Context(), st, []byte(password), repo.Options{})
			_, newErr := repo.Open(t.Context(), st, []byte("new"), repo.Options{})
			if oldErr != nil && newErr != nil || err == nil && newErr != nil {
				t.Fatalf("call %d (after: %v) failed: %v; then old password: %v, new: %v", n, after, err, oldErr, newErr)
			}
		}
	}
}

// hostileKey is a key file whose fields are changed.
func hostileKey(t testing.TB, st *storagetest.Memory, change map[string]any) []byte {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(st.Bytes(st.Handles(kassett.KeyFile)[0]), &fields); err != nil {
		t.Fatal(err)
	}
	maps.Copy(fields, change)
	b, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Damaged and hostile keys are named, cost nothing, and stop nobody.
func TestHostileKeys(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]map[string]any{
		"10 GiB of memory":   {"N": 1 << 24, "r": 8, "p": 1},
		"hours of work":      {"N": 1 << 15, "r": 8, "p": 1 << 20},
		"all in p":           {"N": 2, "r": 1, "p": 1 << 30},
		"overflowing":        {"N": int64(1) << 62, "r": int64(1) << 62, "p": 4},
		"N no power of two":  {"N": 48},
		"N negative":         {"N": -2},
		"N zero":             {"N": 0},
		"p zero":             {"p": 0},
		"short salt":         {"salt": []byte("short")},
		"long salt":          {"salt": make([]byte, 65)},
		"other derivation":   {"kdf": "argon2id"},
		"no sealed key":      {"data": nil},
		"sealed key of 31 B": {"data": make([]byte, 31)},
		"number as text":     {"N": "16"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, st := memoryRepo(t, repo.InitOptions{})
			id := putRaw(t, st, kassett.KeyFile, hostileKey(t, st, change))
			var warned []error
			r := openMemory(t, st, password, repo.Options{KeyHint: id.String()[:8], Warn: func(err error) { warned = append(warned, err) }})
			if len(warned) != 1 {
				t.Fatalf("warned of %v", warned)
			}
			wantKind(t, warned[0], kassett.Corrupt, id.String())
			if keys, err := r.Keys(t.Context()); len(keys) != 1 || kassett.KindOf(err) != kassett.Corrupt {
				t.Errorf("keys: %v, %v", keys, err)
			}
			_, err := repo.Open(t.Context(), st, []byte("wrong"), repo.Options{})
			wantKind(t, err, kassett.WrongPassword, id.String())
		})
	}
}

func TestManyKeys(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var warned []error
	_, st := memoryRepo(t, repo.InitOptions{})
	r := openMemory(t, st, password, repo.Options{Warn: func(err error) {
		mu.Lock()
		defer mu.Unlock()
		warned = append(warned, err)
	}})
	for i := range 30 {
		if _, err := r.AddKey(t.Context(), fmt.Appendf(nil, "password %d", i), "", "elsewhere"); err != nil {
			t.Fatal(err)
		}
		if want := max(0, i+2-repo.ManyKeys); len(warned) != want {
			t.Fatalf("with %d keys: %d warnings, want %d", i+2, len(warned), want)
		}
	}
	tried := 0
	for i := range 30 {
		pass := fmt.Appendf(nil, "password %d", i)
		got, err := repo.Open(t.Context(), st, pass, repo.Options{})
		if err != nil {
			wantKind(t, err, kassett.WrongPassword, "--key-hint")
			continue
		}
		tried++
		if again, err := repo.Open(t.Context(), st, pass, repo.Options{KeyHint: got.KeyID().String()}); err != nil || again.KeyID() != got.KeyID() {
			t.Errorf("with hint: %v", err)
		}
	}
	// The first key is of this host, and therefore always tried.
	if tried != 19 {
		t.Errorf("%d keys of 30 open without a hint, want 19", tried)
	}
	wantKind(t, errors.Join(warned...), kassett.Invalid, "keys now")
}

func TestResolve(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{})
	var ids []kassett.ID
	for i := range 40 {
		ids = append(ids, putRaw(t, st, kassett.SnapshotFile, fmt.Append(nil, i)))
	}
	for _, id := range ids {
		for _, n := range []int{12, 64} {
			if got, err := r.Resolve(t.Context(), kassett.SnapshotFile, id.String()[:n]); err != nil || got != id {
				t.Errorf("resolve %d digits: %s, %v", n, got, err)
			}
		}
	}
	absent := kassett.Hash([]byte("absent"))
	for _, c := range []struct {
		prefix string
		kind   kassett.Kind
	}{
		{"", kassett.Invalid},
		{"ABCDEF", kassett.Invalid},
		{"../../etc", kassett.Invalid},
		{absent.String(), kassett.NotFound},
		{absent.String()[:16], kassett.NotFound},
		{absent.String() + "00", kassett.NotFound},
	} {
		_, err := r.Resolve(t.Context(), kassett.SnapshotFile, c.prefix)
		wantKind(t, err, c.kind)
	}
	ambiguous := 0
	for _, d := range "0123456789abcdef" {
		if _, err := r.Resolve(t.Context(), kassett.SnapshotFile, string(d)); kassett.KindOf(err) == kassett.Invalid {
			ambiguous++
		}
	}
	if ambiguous == 0 {
		t.Error("no digit of 16 is ambiguous among 40 IDs")
	}
}

func TestKeyFileIsRestics(t *testing.T) {
	t.Parallel()
	_, st := memoryRepo(t, repo.InitOptions{Host: "h", User: "u"})
	b := st.Bytes(st.Handles(kassett.KeyFile)[0])
	at := 0
	for _, field := range []string{`{"created":"`, `,"username":"u"`, `,"hostname":"h"`, `,"kdf":"scrypt"`, `,"N":16`, `,"r":1`, `,"p":1`, `,"salt":"`, `,"data":"`} {
		i := bytes.Index(b[at:], []byte(field))
		if i < 0 || at == 0 && i != 0 {
			t.Fatalf("no %s in its place in %s", field, b)
		}
		at += i + len(field)
	}
}
