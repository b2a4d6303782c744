package parity_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"kassett"
	"kassett/repo/parity"
	"kassett/storage/local"
)

// par2 runs the stock program in a repository's folder.
func par2(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	bin, err := exec.LookPath("par2")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1: par2 is not installed")
		}
		t.Fatal("par2 is not installed; make deps installs it, SHORT=1 leaves its tests out")
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// folderOf returns a folder with packs and more in it.
func folderOf(t *testing.T, packs, size int) (dir string, st kassett.Storage, files []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	st, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range fill(t, st, packs, size) {
		name := h.String()
		if h.Kind == kassett.PackFile {
			name = "data/" + h.ID.String()[:2] + "/" + h.ID.String()
		}
		files = append(files, filepath.Join(dir, filepath.FromSlash(name)))
	}
	return dir, st, files
}

func change(t *testing.T, name string, how func([]byte) []byte) (was []byte) {
	t.Helper()
	was, err := os.ReadFile(name)
	if err == nil {
		err = os.Chmod(name, 0o600)
	}
	if err == nil {
		err = os.WriteFile(name, how(bytes.Clone(was)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return was
}

// TestStockPar2Repairs lets the stock program judge our sets, and repair by them.
func TestStockPar2Repairs(t *testing.T) {
	t.Parallel()
	dir, st, files := folderOf(t, 6, 100_000)
	update(t, keeper(t, st, parity.Options{}))
	sets, err := filepath.Glob(filepath.Join(dir, "kassett", "parity", "*.par2"))
	if err != nil || len(sets) != 4 {
		t.Fatal(sets, err)
	}
	for _, s := range sets {
		if out, err := par2(t, dir, "verify", "-B", dir, s); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	was := make([][]byte, len(files))
	for i, how := range []func([]byte) []byte{
		0: func(b []byte) []byte { b[50000] ^= 1; b[99000] ^= 1; return b },
		1: func(b []byte) []byte { return b[:70000] },
		2: func(b []byte) []byte { return b },
		3: func(b []byte) []byte { clear(b[6000:9000]); return b },
		4: func(b []byte) []byte { return b },
		5: func(b []byte) []byte { return b },
		6: func(b []byte) []byte { b[2] ^= 1; return b }, // index
		7: func([]byte) []byte { return []byte("x") },    // snapshot
		8: func([]byte) []byte { return nil },            // key
	} {
		was[i] = change(t, files[i], how)
	}
	for _, s := range sets {
		if out, err := par2(t, dir, "repair", "-B", dir, s); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	for i, w := range was {
		if w == nil {
			continue
		}
		if b, err := os.ReadFile(files[i]); err != nil || !bytes.Equal(b, w) {
			t.Errorf("%s is not as it was: %v", files[i], err)
		}
	}
}

// TestStockPar2IsRead repairs by a set that the stock program has made.
func TestStockPar2IsRead(t *testing.T) {
	t.Parallel()
	dir, st, files := folderOf(t, 5, 30_000)
	folder := filepath.Join(dir, "kassett", "parity")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := par2(t, dir, append([]string{"create", "-B", dir, "-s3000", "-c7", "-n1", filepath.Join(folder, "x.par2")}, files[:5]...)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made, err := filepath.Glob(filepath.Join(folder, "x.vol*.par2"))
	if err != nil || len(made) != 1 {
		t.Fatal(made, err)
	}
	b, err := os.ReadFile(made[0])
	if err != nil {
		t.Fatal(err)
	}
	// Each packet tells the ID of its set.
	if err := os.Rename(made[0], filepath.Join(folder, hex.EncodeToString(b[32:48])+".par2")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(folder, "x.par2")); err != nil {
		t.Fatal(err)
	}
	was := change(t, files[3], func(b []byte) []byte { clear(b[100:18100]); return b }) // 7 slices
	got, err := keeper(t, st, parity.Options{}).Repair(t.Context(), parity.RepairOptions{}, func(o parity.Outcome) {
		if o.Err != nil {
			t.Error(o)
		}
	})
	if err != nil || got.Repaired != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if b, err := os.ReadFile(files[3]); err != nil || !bytes.Equal(b, was) {
		t.Errorf("it is not as it was: %v", err)
	}
}

// TestGolden compares a small set with the bytes that were stored once: what
// exists must stay readable, and be made again under the same name.
func TestGolden(t *testing.T) {
	t.Parallel()
	_, st, _ := folderOf(t, 2, 3000)
	update(t, keeper(t, st, parity.Options{}))
	beside, _ := kassett.As[kassett.Beside](st)
	have := make(map[string]string)
	for info, err := range beside.ListBeside(t.Context(), "parity") {
		if err != nil {
			t.Fatal(err)
		}
		rc, err := beside.GetBeside(t.Context(), info.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			t.Fatal(err)
		}
		have[info.Name] = kassett.Hash(b).String()
	}
	want := map[string]string{
		"parity/3332d3ca59f57fc7c9f6f847829b8fdf.par2": "ef4bf81bf62bf859c7580f400b0dd10dd9c3e11cfe86b34fa529a3a3c7385a05",
		"parity/9eaddc87cbf54d53a2460032d90305f0.par2": "2c9b1b45893f555d2a893e7e5b17d4eb8a96c533567c9c76543fbcdf827cf3fd",
		"parity/dc79d8219af468870f708a88cfeffcd2.par2": "de9b63752f05bf480e96934f5193c4d4cbc3be024ff5e0dcb9dc2a903c22a0e6",
		"parity/ecf764ea0e06ce8f27f913973792a985.par2": "a0e2e2d45034e7079b299a93edf6334084e6b58152803763b41e7bc4a4460f50",
	}
	for name, sum := range want {
		if have[name] != sum {
			t.Errorf("%s: %s, want %s", name, have[name], sum)
		}
	}
	if len(have) != len(want) {
		t.Errorf("%q", have)
	}
}
