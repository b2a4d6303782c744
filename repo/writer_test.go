package repo_test

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"kassett"
	"kassett/repo"
	"kassett/storage/local"
)

const password = "correct horse"

// quick is a password cost that takes no time.
var quick = repo.Scrypt{N: 16, R: 1, P: 1}

// newRepo makes a repository in a folder that stock restic can open.
func newRepo(t testing.TB, o repo.InitOptions) (*repo.Repository, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	st, err := local.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.Scrypt = quick
	r, err := repo.Init(context.Background(), st, []byte(password), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, dir
}

// reopen opens the repository in dir as another process would.
func reopen(t testing.TB, dir string, o repo.Options) *repo.Repository {
	t.Helper()
	st, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(context.Background(), st, []byte(password), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.LoadIndex(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return r
}

// restic runs the real one on the repository in dir.
func restic(t testing.TB, dir string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and restic is not installed")
		}
		t.Fatal("restic is not installed; set SHORT=1 to skip")
	}
	cmd := exec.CommandContext(t.Context(), "restic", append([]string{"-r", dir, "--no-cache"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD="+password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("restic %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// contents makes blobs of all sorts: empty, short, long, random, compressible.
func contents(seed uint64, n int) [][]byte {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	rng := rand.New(src)
	all := [][]byte{{}}
	for i := range n {
		b := make([]byte, 1+rng.IntN(1<<(4+rng.IntN(16))))
		if i%2 == 0 {
			_, _ = src.Read(b)
		} else {
			copy(b, strings.Repeat(string(rune('a'+i%26))+" patient record ", len(b)/16+1))
			b[0] = byte(i)
		}
		all = append(all, b)
	}
	return all
}

func saveAll(t testing.TB, r *repo.Repository, typ repo.BlobType, all [][]byte) {
	t.Helper()
	w := r.NewWriter(context.Background(), repo.WriterOptions{})
	for _, b := range all {
		if _, err := w.Save(context.Background(), typ, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func mustLoad(t testing.TB, r *repo.Repository, typ repo.BlobType, all [][]byte) {
	t.Helper()
	for _, b := range all {
		h := repo.BlobHandle{Type: typ, ID: kassett.Hash(b)}
		got, err := r.LoadBlob(context.Background(), h, nil)
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("load %v: %d bytes, want %d; %v", h, len(got), len(b), err)
		}
	}
}

func TestResticReadsOurs(t *testing.T) {
	t.Parallel()
	for _, c := range []repo.Compression{"", repo.CompressOff, repo.CompressFastest, repo.CompressBetter, repo.CompressMax} {
		t.Run("compression "+string(c), func(t *testing.T) {
			t.Parallel()
			r, dir := newRepo(t, repo.InitOptions{Options: repo.Options{Compression: c, PackSize: 1 << 20}})
			data, trees := contents(1, 60), [][]byte{[]byte(`{"nodes":[]}` + "\n")}
			saveAll(t, r, repo.DataBlob, data)
			saveAll(t, r, repo.TreeBlob, trees)
			mustLoad(t, r, repo.DataBlob, data)
			again := reopen(t, dir, repo.Options{})
			mustLoad(t, again, repo.DataBlob, data)
			mustLoad(t, again, repo.TreeBlob, trees)
			listed := restic(t, dir, "list", "blobs")
			for _, b := range data {
				if !strings.Contains(listed, "data "+kassett.Hash(b).String()) {
					t.Errorf("restic does not list %s", kassett.Hash(b))
				}
			}
			restic(t, dir, "check", "--read-data")
		})
	}
}
