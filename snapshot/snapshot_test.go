package snapshot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/snapshot"
	"kassett/storage/storagetest"
)

// memoryRepo makes a repository that rests in memory.
func memoryRepo(t testing.TB) (*repo.Repository, *storagetest.Memory) {
	t.Helper()
	st := storagetest.NewMemory()
	r, err := repo.Init(t.Context(), st, []byte(password), repo.InitOptions{
		Polynomial: 0x3DA3358B4DC173, Scrypt: repo.Scrypt{N: 16, R: 1, P: 1},
	})
	must(t, err)
	closeAfter(t, r)
	loadIndex(t, r)
	return r, st
}

const goldenSnapshot = `{"time":"2026-03-29T01:59:59.123456789+01:00","parent":"fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9",` +
	`"tree":"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","paths":["/srv/a\u0026b"],"hostname":"ward7","username":"nurse","uid":1000,"gid":100,` +
	`"excludes":["*.tmp"],"tags":["a","kassett:cut=page=32KiB"],"original":"fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9","program_version":"kassett 1.0",` +
	`"summary":{"backup_start":"2026-03-29T01:59:59.123456789+01:00","backup_end":"2026-03-29T01:59:59.123456789+01:00","files_new":1,"files_changed":2,"files_unmodified":3,` +
	`"dirs_new":4,"dirs_changed":5,"dirs_unmodified":6,"data_blobs":7,"tree_blobs":8,"data_added":9,"data_added_packed":10,"total_files_processed":6,"total_bytes_processed":11}}`

func TestSnapshotGolden(t *testing.T) {
	t.Parallel()
	var s snapshot.Snapshot
	must(t, json.Unmarshal([]byte(goldenSnapshot), &s))
	b, err := json.Marshal(&s)
	must(t, err)
	if string(b) != goldenSnapshot {
		t.Errorf("\n got %s\nwant %s", b, goldenSnapshot)
	}
	// What an old restic wrote: no summary, no version, no user.
	old := `{"time":"2015-01-01T00:00:00Z","tree":"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae","paths":["/"],"future":{"x":1}}`
	s = snapshot.Snapshot{}
	must(t, json.Unmarshal([]byte(old), &s))
	if s.Summary != nil || s.Parent != nil || s.Tree.IsZero() || !s.Complete() {
		t.Errorf("%+v", s)
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add([]byte(goldenSnapshot))
	f.Add([]byte(`{"time":"x"}`))
	f.Add([]byte(`{"tree":null,"tags":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s, again snapshot.Snapshot
		if json.Unmarshal(b, &s) != nil {
			return
		}
		_, _ = s.Level()
		s.UserTags()
		out, err := json.Marshal(&s)
		if err != nil {
			return // a time that cannot be written
		}
		if err := json.Unmarshal(out, &again); err != nil {
			t.Fatalf("%s is not read again: %v", out, err)
		}
	})
}

// someSnapshots stores snapshots that differ in what filters look at.
func someSnapshots(t testing.TB, r *repo.Repository) []*snapshot.Snapshot {
	t.Helper()
	var list []*snapshot.Snapshot
	for i, s := range []snapshot.Snapshot{
		{Hostname: "a", Paths: []string{"/x"}},
		{Hostname: "a", Paths: []string{"/x", "/y"}, Tags: []string{"daily"}},
		{Hostname: "b", Paths: []string{"/y"}, Tags: []string{"daily", "db"}},
		{Hostname: "b", Paths: []string{"/x"}, Tags: []string{"weekly"}},
	} {
		s.Time = day.Add(time.Duration(i) * time.Hour)
		s.Tree = kassett.Hash([]byte{byte(i)})
		_, err := snapshot.Save(t.Context(), r, &s)
		must(t, err)
		list = append(list, &s)
	}
	return list
}

func TestFilters(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	all := someSnapshots(t, r)
	lists := func(s ...string) (l []snapshot.TagList) {
		for _, t := range s {
			l = append(l, snapshot.ParseTagList(t))
		}
		return l
	}
	for name, c := range map[string]struct {
		f    snapshot.Filter
		want string
	}{
		"all":              {snapshot.Filter{}, "0123"},
		"host":             {snapshot.Filter{Hosts: []string{"a"}}, "01"},
		"hosts":            {snapshot.Filter{Hosts: []string{"a", "b"}}, "0123"},
		"tag":              {snapshot.Filter{Tags: lists("daily")}, "12"},
		"tags, all":        {snapshot.Filter{Tags: lists("daily, db")}, "2"},
		"tags, any":        {snapshot.Filter{Tags: lists("weekly", "db")}, "23"},
		"no tag":           {snapshot.Filter{Tags: lists("")}, "0"},
		"no tag, or one":   {snapshot.Filter{Tags: lists("", "weekly")}, "03"},
		"path":             {snapshot.Filter{Paths: []string{"/x"}}, "013"},
		"paths, all":       {snapshot.Filter{Paths: []string{"/y", "/x"}}, "1"},
		"time":             {snapshot.Filter{Until: day.Add(time.Hour)}, "01"},
		"host, tag, path":  {snapshot.Filter{Hosts: []string{"b"}, Tags: lists("daily"), Paths: []string{"/y"}}, "2"},
		"nothing has this": {snapshot.Filter{Hosts: []string{"c"}}, ""},
	} {
		list, err := snapshot.List(t.Context(), r, c.f)
		must(t, err)
		got := ""
		for _, s := range list {
			got += fmt.Sprint(slices.IndexFunc(all, func(o *snapshot.Snapshot) bool { return o.ID == s.ID }))
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	all := someSnapshots(t, r)
	hostA := snapshot.Filter{Hosts: []string{"a"}}
	for _, c := range []struct {
		spec string
		f    snapshot.Filter
		want int
		sub  string
		kind kassett.Kind
	}{
		{spec: "latest", want: 3},
		{spec: "latest", f: hostA, want: 1},
		{spec: "latest:srv/x:y", want: 3, sub: "srv/x:y"},
		{spec: all[0].ID.String(), want: 0},
		{spec: all[0].ID.String()[:12] + ":/etc", want: 0, sub: "/etc"},
		{spec: all[2].ID.String()[:12], f: hostA, want: 2},
		{spec: "latest", f: snapshot.Filter{Hosts: []string{"nowhere"}}, want: -1, kind: kassett.NotFound},
		{spec: strings.Repeat("0", 64), want: -1, kind: kassett.NotFound},
		{spec: "", want: -1, kind: kassett.Invalid},
		{spec: "../x", want: -1, kind: kassett.Invalid},
	} {
		s, sub, err := snapshot.Find(t.Context(), r, c.f, c.spec)
		if c.want < 0 {
			if s != nil || kassett.KindOf(err) != c.kind {
				t.Errorf("%q: %v, error %v", c.spec, s, err)
			}
		} else if err != nil || s.ID != all[c.want].ID || sub != c.sub {
			t.Errorf("%q: %v with folder %q, error %v", c.spec, s, sub, err)
		}
	}
	ids := []string{all[3].ID.String(), "latest", all[1].ID.String()[:12]}
	list, err := snapshot.FindAll(t.Context(), r, snapshot.Filter{}, ids)
	if err != nil || len(list) != 2 || list[0].ID != all[3].ID || list[1].ID != all[1].ID {
		t.Errorf("several: %v, error %v", list, err)
	}
	if _, err := snapshot.FindAll(t.Context(), r, snapshot.Filter{}, []string{"latest:/x"}); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("a folder was taken, error %v", err)
	}
}

// TestDamagedSnapshotsHideNoOthers: what cannot be read is named, and all the
// others are there.
func TestDamagedSnapshotsHideNoOthers(t *testing.T) {
	t.Parallel()
	r, st := memoryRepo(t)
	all := someSnapshots(t, r)
	st.Damage(kassett.Handle{Kind: kassett.SnapshotFile, ID: all[3].ID}, func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
	foreign, err := r.SaveUnpacked(t.Context(), kassett.SnapshotFile, []byte(`["not a snapshot"]`))
	must(t, err)
	list, err := snapshot.List(t.Context(), r, snapshot.Filter{})
	if len(list) != 3 || kassett.KindOf(err) != kassett.Corrupt {
		t.Fatalf("%d snapshots, error %v", len(list), err)
	}
	for _, id := range []kassett.ID{all[3].ID, foreign} {
		if !strings.Contains(err.Error(), id.Short()) {
			t.Errorf("the error does not name %s: %v", id.Short(), err)
		}
	}
	s, _, err := snapshot.Find(t.Context(), r, snapshot.Filter{}, "latest")
	if s == nil || s.ID != all[2].ID || kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("latest is %v, error %v", s, err)
	}
	// A backup goes on from what can be read, and says so.
	src := newTreeSource()
	src.add("file", []byte("x"))
	var n named
	sn := backUp(t, r, src, n.options(snapshot.BackupOptions{Host: "b", Paths: []string{"/y"}}))
	if sn.Parent == nil || *sn.Parent != all[2].ID || len(n.notices) < 1 || !strings.Contains(n.notices[0], foreign.Short()) {
		t.Errorf("parent %v, notices %q", sn.Parent, n.notices)
	}
}

func TestGroupsAndLevelsAsText(t *testing.T) {
	t.Parallel()
	if g, err := snapshot.ParseGroupBy("host, paths"); err != nil || g != (snapshot.GroupBy{Host: true, Paths: true}) {
		t.Errorf("%+v, error %v", g, err)
	}
	if g, err := snapshot.ParseGroupBy(""); err != nil || g != (snapshot.GroupBy{}) {
		t.Errorf("%+v, error %v", g, err)
	}
	if _, err := snapshot.ParseGroupBy("host,moon"); kassett.KindOf(err) != kassett.Invalid || kassett.HintOf(err) == "" {
		t.Errorf("error %v", err)
	}
	for _, l := range []snapshot.Level{snapshot.Full, snapshot.Differential, snapshot.Incremental} {
		if got, err := snapshot.ParseLevel(l.String()); err != nil || got != l {
			t.Errorf("%s is read as %s, error %v", l, got, err)
		}
	}
	if _, err := snapshot.ParseLevel("weekly"); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("error %v", err)
	}
}

func TestParentIsOfTheSameGroup(t *testing.T) {
	t.Parallel()
	r, _ := memoryRepo(t)
	all := someSnapshots(t, r)
	now := day.Add(100 * time.Hour)
	for name, c := range map[string]struct {
		g    snapshot.GroupBy
		like snapshot.Snapshot
		want int
	}{
		"host and paths":  {snapshot.GroupBy{Host: true, Paths: true}, snapshot.Snapshot{Hostname: "a", Paths: []string{"/x"}}, 1},
		"paths":           {snapshot.GroupBy{Paths: true}, snapshot.Snapshot{Hostname: "c", Paths: []string{"/x"}}, 3},
		"tags":            {snapshot.GroupBy{Tags: true}, snapshot.Snapshot{Tags: []string{"db", "daily", "kassett:level=full"}}, 2},
		"no tags":         {snapshot.GroupBy{Tags: true}, snapshot.Snapshot{}, 0},
		"before":          {snapshot.GroupBy{Host: true}, snapshot.Snapshot{Hostname: "b", Time: day.Add(150 * time.Minute)}, 2},
		"nothing like it": {snapshot.GroupBy{Host: true}, snapshot.Snapshot{Hostname: "c"}, -1},
	} {
		if c.like.Time.IsZero() {
			c.like.Time = now
		}
		s, err := snapshot.FindParent(t.Context(), r, c.g, &c.like, snapshot.Incremental)
		if err != nil || (s == nil) != (c.want < 0) || s != nil && s.ID != all[c.want].ID {
			t.Errorf("%s: %v, error %v", name, s, err)
		}
	}
}

// TestStorageFailureEndsTheBackup: what the storage refuses is an error, not
// something to be named and passed over.
func TestStorageFailureEndsTheBackup(t *testing.T) {
	t.Parallel()
	src := newTreeSource()
	for i := range 30 {
		src.add(fmt.Sprintf("%d/file", i), testBytes(uint64(i), 1<<20))
	}
	r, st := memoryRepo(t)
	broken := &fullStorage{Storage: st}
	r2, err := repo.Open(t.Context(), broken, []byte(password), repo.Options{})
	must(t, err)
	closeAfter(t, r2)
	loadIndex(t, r2)
	broken.left = 1
	sn, err := snapshot.Backup(t.Context(), r2, src, snapshot.BackupOptions{Warn: func(p string, err error) { t.Errorf("%s: %v", p, err) }})
	if sn != nil || kassett.KindOf(err) != kassett.Full || !errors.Is(err, errGone) {
		t.Errorf("%v, error %v", sn, err)
	}
	if src.frozen.Load() != 0 {
		t.Error("the source is still frozen")
	}
	loadIndex(t, r)
	if list, err := snapshot.List(t.Context(), r, snapshot.Filter{}); len(list) != 0 || err != nil {
		t.Errorf("%v, error %v", list, err)
	}
}

// fullStorage has room for so many packs.
type fullStorage struct {
	kassett.Storage
	left int64
}

func (s *fullStorage) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	if h.Kind == kassett.PackFile && atomic.AddInt64(&s.left, -1) < 0 {
		return &kassett.Error{Op: "store", What: h.String(), Kind: kassett.Full, Err: errGone}
	}
	return s.Storage.Put(ctx, h, body)
}
