package snapshot_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/repo/record"
	"kassett/snapshot"
)

// listed is how restic lists a snapshot.
type listed struct {
	ID, Original, Tree, Hostname string
	Time                         time.Time
	Paths, Tags                  []string
}

func resticList(t *testing.T, dir string) (l []listed) {
	t.Helper()
	must(t, json.Unmarshal([]byte(restic(t, dir, "snapshots", "--json")), &l))
	return l
}

func TestTag(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		have   []string
		change snapshot.TagChange
		want   []string
		kind   kassett.Kind
	}{
		{name: "add", have: []string{"a"}, change: snapshot.TagChange{Add: []string{"b", "a", "b"}}, want: []string{"a", "b"}},
		{name: "remove", have: []string{"a", "b"}, change: snapshot.TagChange{Remove: []string{"a", "c"}}, want: []string{"b"}},
		{name: "both", have: []string{"a"}, change: snapshot.TagChange{Add: []string{"b"}, Remove: []string{"a"}}, want: []string{"b"}},
		{name: "set", have: []string{"a"}, change: snapshot.TagChange{Set: []string{"x", "y"}}, want: []string{"x", "y"}},
		{name: "set none", have: []string{"a"}, change: snapshot.TagChange{Set: []string{""}}, want: nil},
		{
			name: "our own stay", have: []string{"a", snapshot.TagIncomplete}, change: snapshot.TagChange{Set: []string{"b"}},
			want: []string{snapshot.TagIncomplete, "b"},
		},
		{
			name: "our own are ours", have: []string{snapshot.TagIncomplete}, kind: kassett.Invalid,
			change: snapshot.TagChange{Remove: []string{snapshot.TagIncomplete}}, want: []string{snapshot.TagIncomplete},
		},
		{name: "nothing", kind: kassett.Invalid},
		{name: "set and add", change: snapshot.TagChange{Set: []string{"a"}, Add: []string{"b"}}, kind: kassett.Invalid},
	}
	r, dir := newRepo(t)
	tree := treeOf(t, r)
	for i, tt := range tests {
		s := &snapshot.Snapshot{Time: time.Unix(int64(i), 0), Tree: tree, Hostname: fmt.Sprint("h", i), Paths: []string{"/p"}, Tags: tt.have}
		first, err := snapshot.Save(t.Context(), r, s)
		must(t, err)
		var done []snapshot.Replaced
		err = snapshot.Tag(t.Context(), r, []*snapshot.Snapshot{s}, tt.change, func(x snapshot.Replaced) { done = append(done, x) })
		if got := kassett.KindOf(err); (err != nil) != (tt.kind != kassett.Other) || got != tt.kind {
			t.Errorf("%s: %v", tt.name, err)
		}
		var now listed
		for _, l := range resticList(t, dir) {
			if l.Hostname == s.Hostname {
				now = l
			}
		}
		if !slices.Equal(now.Tags, tt.want) {
			t.Errorf("%s: tags %q, want %q", tt.name, now.Tags, tt.want)
		}
		if len(done) > 0 && (now.Original != first.String() || now.ID != done[0].New.String()) {
			t.Errorf("%s: restic lists %+v", tt.name, now)
		}
	}
	restic(t, dir, "check")
}

func TestRewriteTakesPathsOut(t *testing.T) {
	t.Parallel()
	r, dir, src := twoSnapshots(t)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	without := func(path string, _ *snapshot.Node) (bool, bool) {
		out := path == src+"/a/b/large" || path == src+"/empty"
		return !out, !out
	}
	var removed []string
	o := snapshot.RewriteOptions{Select: without, Forget: true, DryRun: true, Removed: func(p string) { removed = append(removed, p) }}
	must(t, snapshot.Rewrite(t.Context(), r, list, o))
	if len(resticList(t, dir)) != 2 || resticList(t, dir)[0].ID != list[0].ID.String() {
		t.Fatal("a dry run changed something")
	}
	o.DryRun = false
	must(t, snapshot.Rewrite(t.Context(), r, list, o))
	if !slices.Contains(removed, src+"/a/b/large") {
		t.Errorf("removed %q", removed)
	}
	for i, l := range resticList(t, dir) {
		if l.Original != list[i].ID.String() || len(l.Tags) != 0 || !l.Time.Equal(list[i].Time) {
			t.Errorf("restic lists %+v", l)
		}
	}
	restic(t, dir, "check", "--read-data")
	to := t.TempDir()
	restic(t, dir, "restore", "latest", "--target", to)
	must(t, os.RemoveAll(filepath.Join(src, "empty")))
	must(t, os.Remove(filepath.Join(src, "a/b/large")))
	got, want := facts(t, filepath.Join(to, src)), facts(t, src)
	for name, fact := range want {
		// Times of folders changed with what was taken out of them just now,
		// and names of the same file are fewer.
		if g := got[name]; g != fact && !strings.Contains(name, "second") && !strings.Contains(name, "third") && name != "a/b" && name != "a" {
			t.Errorf("%s: got %s, want %s", name, g, fact)
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("too much: %v", got)
	}
	list, err = snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	err = snapshot.Rewrite(t.Context(), r, list, snapshot.RewriteOptions{Select: func(string, *snapshot.Node) (bool, bool) { return false, false }})
	if kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("leaving nothing: %v", err)
	}
}

func TestRewriteUnderHold(t *testing.T) {
	t.Parallel()
	r, dir, _ := twoSnapshots(t)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	_, err = r.Records().Add(t.Context(), record.Record{
		Kind: record.Hold, Subject: record.Subject{Snapshot: list[0].ID}, Created: time.Now(), Reason: "court", By: []string{"Kari Nordmann"},
	})
	must(t, err)
	err = snapshot.Rewrite(t.Context(), r, list, snapshot.RewriteOptions{Host: "new", Forget: true})
	if kassett.KindOf(err) != kassett.Held || !strings.Contains(err.Error(), list[0].ID.Short()) {
		t.Errorf("rewriting a held snapshot: %v", err)
	}
	now := resticList(t, dir)
	if len(now) != 2 || now[0].ID != list[0].ID.String() || now[1].Hostname != "new" {
		t.Errorf("restic lists %+v", now)
	}
	// Beside the old one it is allowed.
	must(t, snapshot.Rewrite(t.Context(), r, list[:1], snapshot.RewriteOptions{Host: "new"}))
	if now = resticList(t, dir); len(now) != 3 {
		t.Errorf("restic lists %+v", now)
	}
	restic(t, dir, "check")
}

// damagedRepo holds two snapshots, of which the second lacks a data blob and a
// tree, as the index tells.
func damagedRepo(t *testing.T) (r *repo.Repository, dir string, list []*snapshot.Snapshot) {
	t.Helper()
	r, dir = newRepo(t)
	lost := kassett.Hash([]byte("lost"))
	a, b := store(t, r, repo.DataBlob, []byte("first half, ")), store(t, r, repo.DataBlob, []byte("second half"))
	whole := treeOf(t, r, dirNode("d", treeOf(t, r, fileNode("f", 23, a, b))))
	broken := treeOf(t, r,
		dirNode("d", treeOf(t, r, fileNode("f", 23, a, b), fileNode("g", 17, a, lost), fileNode("long", 99, a))),
		dirNode("e", lost), fileNode("z", 23, a, b))
	for i, tree := range []kassett.ID{whole, broken} {
		s := &snapshot.Snapshot{Time: time.Unix(int64(1e9+i), 0), Tree: tree, Hostname: "h", Paths: []string{"/"}}
		_, err := snapshot.Save(t.Context(), r, s)
		must(t, err)
		list = append(list, s)
	}
	return r, dir, list
}

func TestCheckNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	r, _, list := damagedRepo(t)
	var got []string
	used, err := snapshot.Check(t.Context(), r, snapshot.CheckOptions{}, func(f repo.Finding) {
		got = append(got, string(f.Kind)+" "+f.What)
	})
	if kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("got %v", err)
	}
	slices.Sort(got)
	at := "snapshot " + list[1].ID.Short()
	want := []string{
		"damage " + at + ` "/d/long"`,
		"missing " + at + ` "/d/g"`,
		"missing " + at + ` "/e"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if used == nil || used.Len() < 6 {
		t.Errorf("used %v", used)
	}
	if _, err := snapshot.Used(t.Context(), r, []kassett.ID{list[1].Tree}, nil); err == nil {
		t.Error("what a missing tree uses is not known, but no error says so")
	}
}

func TestCheckFindsNonsense(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t)
	empty := treeOf(t, r)
	blob := store(t, r, repo.DataBlob, []byte("x"))
	noList := fileNode("f", 0)
	noList.Content = nil
	withTree := fileNode("f", 0)
	withTree.Subtree = empty
	for name, tree := range map[string]kassett.ID{
		"order":          treeOf(t, r, fileNode("b", 0), fileNode("a", 0)),
		"twice":          treeOf(t, r, fileNode("a", 0), fileNode("a", 0)),
		"slash":          treeOf(t, r, fileNode("a/b", 0)),
		"no list":        treeOf(t, r, noList),
		"short content":  treeOf(t, r, fileNode("f", 2, blob)),
		"zero blob":      treeOf(t, r, fileNode("f", 1, kassett.ID{})),
		"zero tree":      treeOf(t, r, dirNode("d", kassett.ID{})),
		"unknown type":   treeOf(t, r, &snapshot.Node{Entry: kassett.Entry{Name: "x", Type: "irregular"}}),
		"file with tree": treeOf(t, r, withTree),
		"not JSON":       store(t, r, repo.TreeBlob, []byte("nodes")),
		"not a tree":     blob,
	} {
		s := &snapshot.Snapshot{Tree: tree}
		n := 0
		_, err := snapshot.Check(t.Context(), r, snapshot.CheckOptions{Snapshots: []*snapshot.Snapshot{s}}, func(repo.Finding) { n++ })
		if n == 0 || kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("%s: %d findings, %v", name, n, err)
		}
	}
}

func TestRepairSnapshots(t *testing.T) {
	t.Parallel()
	r, dir, list := damagedRepo(t)
	var lost []string
	o := snapshot.RepairOptions{Forget: true, Lost: func(path string, _ error) { lost = append(lost, path) }}
	must(t, snapshot.RepairSnapshots(t.Context(), r, list, o))
	slices.Sort(lost)
	if want := []string{"/d/g", "/d/long", "/e"}; !slices.Equal(lost, want) {
		t.Errorf("lost %q, want %q", lost, want)
	}
	now := resticList(t, dir)
	if len(now) != 2 || now[0].ID != list[0].ID.String() || now[1].Original != list[1].ID.String() || !slices.Equal(now[1].Tags, []string{"repaired"}) {
		t.Errorf("restic lists %+v", now)
	}
	restic(t, dir, "check", "--read-data")
	to := t.TempDir()
	restic(t, dir, "restore", "latest", "--target", to)
	for name, want := range map[string]string{
		"d/f": "first half, second half", "d/g.repaired": "first half, ", "d/long": "first half, ", "z": "first half, second half",
	} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if st, err := os.Stat(filepath.Join(to, "e.repaired")); err != nil || !st.IsDir() {
		t.Errorf("e.repaired: %v", err)
	}
	// Again there is nothing to do.
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	must(t, err)
	o.Done = func(x snapshot.Replaced) { t.Errorf("repaired again: %+v", x) }
	must(t, snapshot.RepairSnapshots(t.Context(), r, list, o))
}

func TestRecover(t *testing.T) {
	t.Parallel()
	r, dir, list := damagedRepo(t)
	for _, s := range list {
		must(t, r.Delete(t.Context(), kassett.SnapshotFile, s.ID))
	}
	s, err := snapshot.Recover(t.Context(), r, snapshot.RecoverOptions{Host: "h"})
	must(t, err)
	tree, err := snapshot.LoadTree(t.Context(), r, s.Tree)
	must(t, err)
	var got []string
	for _, n := range tree.Nodes {
		got = append(got, n.Name)
	}
	want := []string{list[0].Tree.Short(), list[1].Tree.Short()}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("recovered %q, want %q", got, want)
	}
	to := t.TempDir()
	restic(t, dir, "restore", "latest", "--target", to, "--include", "/"+list[0].Tree.Short())
	if b, err := os.ReadFile(filepath.Join(to, list[0].Tree.Short(), "d/f")); err != nil || string(b) != "first half, second half" {
		t.Errorf("%q, %v", b, err)
	}
	if s, err := snapshot.Recover(t.Context(), r, snapshot.RecoverOptions{}); s != nil || err != nil {
		t.Errorf("again: %v, %v", s, err)
	}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	src, _, folder := twoSnapshots(t)
	dst, dir := newRepo(t)
	list, err := snapshot.List(t.Context(), src, snapshot.Filter{})
	must(t, err)
	there := 0
	o := snapshot.CopyOptions{Done: func(_ int, _, _ *snapshot.Snapshot, was bool) {
		if was {
			there++
		}
	}}
	first, err := copyTo(t.Context(), src, dst, list[:1], o)
	must(t, err)
	second, err := copyTo(t.Context(), src, dst, list, o)
	must(t, err)
	third, err := copyTo(t.Context(), src, dst, list, o)
	must(t, err)
	if there != 3 || first.Blobs == 0 || second.Blobs == 0 || second.Blobs >= first.Blobs || third.Blobs != 0 {
		t.Errorf("copied %+v, %+v, %+v; %d were there", first, second, third, there)
	}
	restic(t, dir, "check", "--read-data")
	for i, l := range resticList(t, dir) {
		if l.Tree != list[i].Tree.String() || l.Original != list[i].ID.String() || !l.Time.Equal(list[i].Time) {
			t.Errorf("restic lists %+v", l)
		}
	}
	to := t.TempDir()
	restic(t, dir, "restore", "latest", "--target", to)
	wantSame(t, filepath.Join(to, folder), folder)
}

func TestCopyPassesOverTheDamaged(t *testing.T) {
	t.Parallel()
	src, _, list := damagedRepo(t)
	dst, dir := newRepo(t)
	_, err := copyTo(t.Context(), src, dst, list, snapshot.CopyOptions{})
	if err == nil || !strings.Contains(err.Error(), list[1].ID.Short()) {
		t.Errorf("got %v", err)
	}
	if now := resticList(t, dir); len(now) != 1 || now[0].Tree != list[0].Tree.String() {
		t.Errorf("restic lists %+v", now)
	}
	restic(t, dir, "check", "--read-data")
}

func TestWalk(t *testing.T) {
	t.Parallel()
	r, _, list := damagedRepo(t)
	var got []string
	err := snapshot.Walk(t.Context(), r, list[1].Tree, func(path string, n *snapshot.Node) error {
		got = append(got, path)
		if path == "/z" {
			return fs.SkipAll
		}
		return nil
	})
	if kassett.KindOf(err) != kassett.Corrupt || !strings.Contains(err.Error(), `"/e"`) {
		t.Errorf("an unreadable folder: %v", err)
	}
	if want := []string{"/d", "/d/f", "/d/g", "/d/long", "/e", "/z"}; !slices.Equal(got, want) {
		t.Errorf("walked %q", got)
	}
	if _, err := snapshot.Folder(t.Context(), r, list[1].Tree, "d/f"); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("a file is no folder: %v", err)
	}
	if _, err := snapshot.Locate(t.Context(), r, list[1].Tree, "/d/none"); kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("what is not there: %v", err)
	}
}
