package snapshot_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
)

func TestDumpTarIsWhatTarRestores(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	r, _ := newRepo(t)
	sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}})
	var out bytes.Buffer
	must(t, snapshot.Dump(t.Context(), r, sn.Tree, src, &out, snapshot.DumpOptions{}))
	to := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "tar", "-x", "--xattrs", "--xattrs-include=*", "-C", to)
	cmd.Stdin = &out
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, b)
	}
	wantSame(t, filepath.Join(to, src), src)
}

func TestDumpZip(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	r, _ := newRepo(t)
	sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}})
	var out bytes.Buffer
	var lacking []string
	err := snapshot.Dump(t.Context(), r, sn.Tree, src, &out, snapshot.DumpOptions{
		Format: snapshot.Zip, Warn: func(path string, _ error) { lacking = append(lacking, path) },
	})
	if want := []string{src + "/a/fifo"}; !slices.Equal(lacking, want) || kassett.KindOf(err) != kassett.Incomplete {
		t.Errorf("the archive lacks %q (%v), want %q", lacking, err, want)
	}
	z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	must(t, err)
	f, err := z.Open(strings.TrimPrefix(src, "/") + "/a/b/sparse")
	must(t, err)
	got, err := io.ReadAll(f)
	must(t, err)
	want, err := os.ReadFile(filepath.Join(src, "a/b/sparse"))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the content of a/b/sparse differs")
	}
}

func TestDumpFile(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	r, _ := newRepo(t)
	sn := backUp(t, r, fileSource(t, src), snapshot.BackupOptions{Paths: []string{src}})
	for _, name := range []string{"a/b/sparse", "a/one", "a/none"} {
		var out bytes.Buffer
		must(t, snapshot.Dump(t.Context(), r, sn.Tree, path.Join(src, name), &out, snapshot.DumpOptions{}))
		want, err := os.ReadFile(filepath.Join(src, name))
		must(t, err)
		if !bytes.Equal(out.Bytes(), want) {
			t.Errorf("the content of %s differs", name)
		}
	}
	err := snapshot.Dump(t.Context(), r, sn.Tree, path.Join(src, "a/fifo"), io.Discard, snapshot.DumpOptions{})
	if kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("dump of a fifo: %v", err)
	}
	err = snapshot.Dump(t.Context(), r, sn.Tree, src, failingWriter{}, snapshot.DumpOptions{})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("dump to a broken pipe: %v", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestArchivesAsRestics compares the names and sizes of a tar archive.
func TestArchivesAsRestics(t *testing.T) {
	t.Parallel()
	src := sampleTree(t)
	must(t, os.Remove(filepath.Join(src, "a/fifo"))) // Debian's restic leaves it out
	_, dir := newRepo(t)
	restic(t, dir, "backup", src)
	r, sn := youngest(t, dir)
	names := func(b []byte) map[string]int64 {
		m := map[string]int64{}
		for tr := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				return m
			}
			must(t, err)
			if !slices.Contains([]string{"large", "second name", "z third name"}, path.Base(h.Name)) { // which we link
				m[strings.Trim(h.Name, "/")] = h.Size
			}
		}
	}
	var out bytes.Buffer
	must(t, snapshot.Dump(t.Context(), r, sn.Tree, src, &out, snapshot.DumpOptions{}))
	want := names([]byte(restic(t, dir, "dump", "latest", src)))
	got := names(out.Bytes())
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// twoSnapshots saves a folder, changes it, and saves it again.
func twoSnapshots(t *testing.T) (r *repo.Repository, dir, src string) {
	t.Helper()
	src = sampleTree(t)
	_, dir = newRepo(t)
	restic(t, dir, "backup", "--host", "h", src)
	must(t, os.WriteFile(filepath.Join(src, "a/one"), []byte("other"), 0o640))
	must(t, os.WriteFile(filepath.Join(src, "a/new"), pseudoRandom(2<<20, 9), 0o640))
	must(t, os.Rename(filepath.Join(src, "a/copy of one"), filepath.Join(src, "empty/moved")))
	must(t, os.Remove(filepath.Join(src, "a/link")))
	must(t, os.Mkdir(filepath.Join(src, "a/link"), 0o700))
	must(t, os.Chmod(filepath.Join(src, "a/none"), 0o400))
	restic(t, dir, "backup", "--host", "h", src)
	return reopen(t, dir), dir, src
}

func TestDiffAsRestics(t *testing.T) {
	t.Parallel()
	r, dir, _ := twoSnapshots(t)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	got := map[string]string{}
	stats, err := snapshot.Diff(t.Context(), r, list[0].Tree, list[1].Tree, snapshot.DiffOptions{Metadata: true}, func(c snapshot.Change) error {
		got[c.Path] = c.Modifier
		return nil
	})
	must(t, err)
	want := map[string]string{}
	var theirs snapshot.DiffStats
	for line := range strings.Lines(restic(t, dir, "diff", "--metadata", "--json", list[0].ID.String(), list[1].ID.String())) {
		var c struct {
			snapshot.DiffStats
			Kind     string `json:"message_type"`
			Path     string `json:"path"`
			Modifier string `json:"modifier"`
		}
		must(t, json.Unmarshal([]byte(line), &c))
		if c.Kind == "change" {
			want[c.Path] = c.Modifier
		} else {
			theirs = c.DiffStats
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if stats != theirs {
		t.Errorf("counts\n got %+v\nwant %+v", stats, theirs)
	}
}

func TestStatsAsRestics(t *testing.T) {
	t.Parallel()
	r, dir, _ := twoSnapshots(t)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	for _, mode := range []snapshot.StatsMode{snapshot.RestoreSize, snapshot.FilesByContents, snapshot.BlobsPerFile, snapshot.RawData} {
		got, err := snapshot.CountStats(t.Context(), r, list, mode, nil)
		must(t, err)
		var want snapshot.Stats
		must(t, json.Unmarshal([]byte(restic(t, dir, "stats", "--json", "--mode", string(mode))), &want))
		// Debian's version tells neither how many snapshots it counted nor
		// what compression saves.
		got.SnapshotsCount, want.SnapshotsCount = 0, 0
		if want.TotalUncompressedSize == 0 {
			got.TotalUncompressedSize, got.CompressionRatio, got.CompressionProgress, got.CompressionSpaceSaving = 0, 0, 0, 0
		}
		if got != want {
			t.Errorf("%s:\n got %+v\nwant %+v", mode, got, want)
		}
	}
}

func TestFindObjects(t *testing.T) {
	t.Parallel()
	r, dir, src := twoSnapshots(t)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	n, err := snapshot.Locate(t.Context(), r, list[0].Tree, path.Join(src, "a/b/large"))
	must(t, err)
	var hits []string
	must(t, snapshot.FindObjects(t.Context(), r, list, snapshot.BlobObject, []string{n.Content[0].Short()}, func(h snapshot.Hit) error {
		hits = append(hits, h.Snapshot.ID.Short()+" "+h.Path+" "+h.Parent.Short())
		return nil
	}))
	if len(hits) != 6 {
		t.Errorf("a blob of a file with three names in two snapshots is found in %d places: %q", len(hits), hits)
	}
	theirs := restic(t, dir, "find", "--blob", n.Content[0].String(), "--snapshot", list[0].ID.String())
	for _, h := range hits {
		f := strings.SplitN(h, " ", 2)
		if f[0] == list[0].ID.Short() {
			p := f[1][:strings.LastIndex(f[1], " ")]
			if !strings.Contains(theirs, p+"\n") || !strings.Contains(theirs, f[1][len(p)+1:]) {
				t.Errorf("restic does not find %q:\n%s", f[1], theirs)
			}
		}
	}
	err = snapshot.FindObjects(t.Context(), r, list, snapshot.TreeObject, []string{strings.Repeat("0", 64)}, func(snapshot.Hit) error { return nil })
	if kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("an unknown tree: %v", err)
	}
}

func TestFindNodesByTime(t *testing.T) {
	t.Parallel()
	r, _, src := twoSnapshots(t)
	_, tree := latest(t, r, src)
	var got []string
	o := snapshot.FindOptions{Oldest: time.Unix(1e9, 0), Newest: time.Unix(1e9+1, 6)}
	must(t, snapshot.FindNodes(t.Context(), r, tree, o, func(path string, _ *snapshot.Node) error {
		got = append(got, path)
		return nil
	}))
	if !slices.Equal(got, []string{"/a/b"}) {
		t.Errorf("found %q", got)
	}
}

func TestDumpNamesWhatIsDamaged(t *testing.T) {
	t.Parallel()
	r, dir, list := damagedRepo(t)
	entries := func(tree kassett.ID) (names, lacking []string, err error) {
		var out bytes.Buffer
		err = snapshot.Dump(t.Context(), r, tree, "/", &out, snapshot.DumpOptions{
			Warn: func(path string, _ error) { lacking = append(lacking, path) },
		})
		for tr := tar.NewReader(&out); ; {
			h, nextErr := tr.Next()
			if nextErr != nil {
				return names, lacking, err
			}
			b, _ := io.ReadAll(tr)
			if int64(len(b)) == h.Size {
				names = append(names, h.Name)
			}
		}
	}
	names, lacking, err := entries(list[1].Tree)
	if kassett.KindOf(err) != kassett.Corrupt || !slices.Equal(lacking, []string{"/d/g", "/e"}) ||
		!slices.Equal(names, []string{"d/", "d/f", "d/long", "e/", "z"}) {
		t.Errorf("has %q, lacks %q: %v", names, lacking, err)
	}

	// The second blob of a file is damaged: the archive ends there.
	n, err := snapshot.Locate(t.Context(), r, list[0].Tree, "d/f")
	must(t, err)
	loc, _ := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: n.Content[1]})
	pack := filepath.Join(dir, "data", loc.Pack.String()[:2], loc.Pack.String())
	b, err := os.ReadFile(pack)
	must(t, err)
	b[loc.Offset+17] ^= 1
	must(t, os.Chmod(pack, 0o600))
	must(t, os.WriteFile(pack, b, 0o600))
	names, _, err = entries(list[0].Tree)
	if kassett.KindOf(err) != kassett.Corrupt || slices.Contains(names, "d/f") {
		t.Errorf("has %q: %v", names, err)
	}
	var out bytes.Buffer
	if err := snapshot.DumpFile(t.Context(), r, n, &out); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("dump of a damaged file: %v", err)
	}
}
