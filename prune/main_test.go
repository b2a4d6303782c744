package prune_test

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) {
	// The first use of signals, by locks, starts a goroutine of the runtime that
	// never ends; it must not be started within a synctest bubble.
	c := make(chan os.Signal, 1)
	signal.Notify(c, os.Interrupt)
	signal.Stop(c)
	goleak.VerifyTestMain(m)
}

const password = "correct horse"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func closeAfter(t testing.TB, r *repo.Repository) {
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// memoryRepo makes a repository that rests in memory.
func memoryRepo(t testing.TB) (*repo.Repository, *storagetest.Memory) {
	t.Helper()
	st := storagetest.NewMemory()
	r, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{Scrypt: repo.Scrypt{N: 16, R: 1, P: 1}})
	must(t, err)
	closeAfter(t, r)
	must(t, r.LoadIndex(t.Context(), nil))
	return r, st
}

// files is a source of files in memory, by path, all as old as each other.
type files map[string][]byte

func (f files) Freeze(context.Context) error { return nil }
func (f files) Thaw(context.Context) error   { return nil }

func (f files) List(_ context.Context, dir string) (list []kassett.Entry, err error) {
	at := time.Date(2026, 3, 29, 1, 59, 59, 0, time.UTC)
	for p, b := range f {
		rest, below := strings.CutPrefix(p, dir)
		if rest = strings.TrimPrefix(rest, "/"); !below {
			continue
		}
		e := kassett.Entry{Type: kassett.File, Mode: 0o644, Size: uint64(len(b)), Links: 1}
		name, _, isDir := strings.Cut(rest, "/")
		if isDir {
			e = kassett.Entry{Type: kassett.Dir, Mode: fs.ModeDir | 0o755}
		}
		e.Name, e.ModTime, e.AccessTime, e.ChangeTime = name, at, at, at
		if !slices.ContainsFunc(list, func(o kassett.Entry) bool { return o.Name == name }) {
			list = append(list, e)
		}
	}
	return list, nil
}

func (f files) Fill(context.Context, string, *kassett.Entry) error { return nil }

func (f files) Open(_ context.Context, p string, _ *kassett.Entry) (kassett.Content, error) {
	return content{bytes.NewReader(f[path.Clean(p)])}, nil
}

type content struct{ *bytes.Reader }

func (content) Close() error           { return nil }
func (content) Changed() (bool, error) { return false, nil }
