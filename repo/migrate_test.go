package repo_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/storagetest"
)

func TestMigrate(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t, repo.InitOptions{Version: 1})
	old := r.Config()
	v1, err := r.SaveUnpacked(t.Context(), kassett.SnapshotFile, []byte(`{"of":1}`))
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, r.Migrate(t.Context(), "s3_layout"), kassett.Invalid, "no such")
	if m := r.Migrations(); len(m) != 1 || m[0] != repo.UpgradeV2 {
		t.Errorf("migrations are %v", m)
	}
	if err := r.Migrate(t.Context(), repo.UpgradeV2); err != nil {
		t.Fatal(err)
	}
	want := old
	want.Version = 2
	if again := openMemory(t, st, password, repo.Options{}); r.Config() != want || again.Config() != want {
		t.Errorf("config is %+v, stored %+v; want %+v", r.Config(), again.Config(), want)
	}
	if len(r.Migrations()) != 0 {
		t.Error("there is something left to migrate")
	}
	wantKind(t, r.Migrate(t.Context(), repo.UpgradeV2), kassett.Invalid, "already")
	v2, err := r.SaveUnpacked(t.Context(), kassett.SnapshotFile, []byte(`{"of":2}`))
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[kassett.ID]string{v1: `{"of":1}`, v2: `{"of":2}`} {
		if b, err := r.LoadUnpacked(t.Context(), kassett.SnapshotFile, id); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", id.Short(), b, err)
		}
	}
	for info, err := range st.ListBeside(t.Context(), "") {
		t.Errorf("left beside: %s, %v", info.Name, err)
	}
}

// Whatever call fails, from n on or only the n-th, the repository opens
// afterwards, or its config is where the error says.
func TestMigrateFailing(t *testing.T) {
	t.Parallel()
	for n := 1; n < 10; n++ {
		for _, c := range []struct{ forever, after, beside bool }{
			{false, false, true}, {false, true, true}, {true, false, true}, {true, true, true}, {true, false, false},
		} {
			_, mem := memoryRepo(t, repo.InitOptions{Version: 1})
			config := bytes.Clone(mem.Bytes(kassett.Handle{Kind: kassett.ConfigFile}))
			armed, calls := false, 0
			var st kassett.Storage = storagetest.NewFailing(mem, func(call storagetest.Call) *storagetest.Fault {
				if armed {
					calls++
				}
				if armed && (calls == n || c.forever && calls > n) {
					return &storagetest.Fault{Err: storagetest.ErrInjected, After: c.after && call.Op.Changes()}
				}
				return nil
			})
			if !c.beside {
				st = deaf{st}
			}
			r := openMemory(t, st, password, repo.Options{})
			armed = true
			err := r.Migrate(t.Context(), repo.UpgradeV2)
			again, openErr := repo.Open(t.Context(), mem, []byte(password), repo.Options{})
			copied := findCopy(t, mem, kassett.HintOf(err))
			switch {
			case openErr == nil && err == nil && again.Config().Version == 2:
			case openErr == nil && err != nil:
			case openErr != nil && err != nil:
				if !bytes.Equal(copied, config) {
					t.Errorf("call %d %+v: no config, and the copy has %d bytes: %v (%s)", n, c, len(copied), err, kassett.HintOf(err))
				}
			default:
				t.Errorf("call %d %+v: %v, then %v", n, c, err, openErr)
			}
		}
	}
}

// findCopy reads the copy of the config that a hint names.
func findCopy(t *testing.T, mem *storagetest.Memory, hint string) []byte {
	t.Helper()
	for word := range strings.FieldsSeq(hint) {
		if name, ok := strings.CutPrefix(word, "kassett/"); ok {
			return besideBytes(t, mem, name)
		}
		if filepath.IsAbs(word) {
			b, err := os.ReadFile(word)
			if err != nil {
				t.Error(err)
			}
			_ = os.Remove(word)
			return b
		}
	}
	return nil
}

// The power is cut at any write: the config or its copy is there.
func TestMigrateCrash(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 4; n++ {
		_, mem := memoryRepo(t, repo.InitOptions{Version: 1})
		config := bytes.Clone(mem.Bytes(kassett.Handle{Kind: kassett.ConfigFile}))
		st := storagetest.NewCrashing(mem, n)
		r := openMemory(t, st, password, repo.Options{})
		_ = r.Migrate(context.Background(), repo.UpgradeV2)
		for how, left := range st.Survivors() {
			if _, err := repo.Open(t.Context(), left, []byte(password), repo.Options{}); err == nil {
				continue
			} else if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(kassett.HintOf(err), "kassett/config-") {
				t.Errorf("cut at %d, %s: %v (%s)", n, how, err, kassett.HintOf(err))
			}
			for info, err := range left.ListBeside(t.Context(), "") {
				if err != nil || !bytes.Equal(besideBytes(t, left, info.Name), config) {
					t.Errorf("cut at %d, %s: %s is not the old config", n, how, info.Name)
				}
			}
		}
	}
}
