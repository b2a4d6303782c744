package mount

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kassett"
	"kassett/snapshot"
)

var day = time.Date(2026, 3, 29, 1, 59, 59, 0, time.UTC)

func snap(n byte, host string, tags ...string) *snapshot.Snapshot {
	return &snapshot.Snapshot{
		ID: kassett.Hash([]byte{n}), Time: day.Add(time.Duration(n) * time.Hour), Hostname: host, Username: "root", Tags: tags,
	}
}

// paths lists a folder and all below it: snapshots by their number, links by
// their target.
func paths(d *top, list []*snapshot.Snapshot) (all []string) {
	for _, n := range d.nodes {
		e := d.names[n.Name]
		switch {
		case e.folder != nil:
			all = append(all, n.Name+"/")
			for _, p := range paths(e.folder, list) {
				all = append(all, n.Name+"/"+p)
			}
		case e.link != "":
			all = append(all, n.Name+" -> "+e.link)
		default:
			all = append(all, fmt.Sprintf("%s = %d", n.Name, slices.Index(list, e.snap)))
		}
	}
	return all
}

// TestTemplates has the places of snapshots as restic's mount has them.
func TestTemplates(t *testing.T) {
	t.Parallel()
	one, two, three := snap(1, "his", "night", "db"), snap(2, "pacs"), snap(3, "../his/x", "..", "a/b", "")
	same := *one
	same.ID = two.ID
	for _, c := range []struct {
		name string
		t    Templates
		list []*snapshot.Snapshot
		want []string
	}{
		{"none", Templates{}, nil, []string{"hosts/", "ids/", "snapshots/", "tags/"}},
		{
			"usual",
			Templates{},
			[]*snapshot.Snapshot{one, two},
			[]string{
				"hosts/", "hosts/his/", "hosts/his/2026-03-29T02:59:59Z = 0", "hosts/his/latest -> 2026-03-29T02:59:59Z",
				"hosts/pacs/", "hosts/pacs/2026-03-29T03:59:59Z = 1", "hosts/pacs/latest -> 2026-03-29T03:59:59Z",
				"ids/", "ids/4bf5122f = 0", "ids/dbc1b4c9 = 1",
				"snapshots/", "snapshots/2026-03-29T02:59:59Z = 0", "snapshots/2026-03-29T03:59:59Z = 1", "snapshots/latest -> 2026-03-29T03:59:59Z",
				"tags/", "tags/db/", "tags/db/2026-03-29T02:59:59Z = 0", "tags/db/latest -> 2026-03-29T02:59:59Z",
				"tags/night/", "tags/night/2026-03-29T02:59:59Z = 0", "tags/night/latest -> 2026-03-29T02:59:59Z",
			},
		},
		{
			"names that would lead elsewhere",
			Templates{Paths: []string{"h/%h/%i", "t/%t"}},
			[]*snapshot.Snapshot{three},
			[]string{"h/", "h/.._his_x/", "h/.._his_x/084fed08 = 0", "t/", "t/_ = 0", "t/__ = 0", "t/a_b = 0"},
		},
		{
			"folders of time",
			Templates{Paths: []string{"%u/%T"}, Time: "2006/01/02"},
			[]*snapshot.Snapshot{one},
			[]string{"root/", "root/2026/", "root/2026/03/", "root/2026/03/29 = 0", "root/latest -> 2026/03/29"},
		},
		{
			"the same second",
			Templates{Paths: []string{"%T"}, Time: "15:04"},
			[]*snapshot.Snapshot{one, &same},
			[]string{"02:59 = 0", "02:59-1 = 1", "latest -> 02:59-1"},
		},
		{
			"a folder where a snapshot is",
			Templates{Paths: []string{"%h", "%h/%i"}},
			[]*snapshot.Snapshot{one},
			[]string{"his = 0", "his-1/", "his-1/4bf5122f = 0"},
		},
		{"a percent sign, and an end", Templates{Paths: []string{"100%%/%I%"}}, []*snapshot.Snapshot{one}, []string{"100%/", "100%/" + one.ID.String() + " = 0"}},
		{"nothing to tell apart", Templates{Paths: []string{"../.", "%x/"}}, []*snapshot.Snapshot{one}, []string{"x = 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := paths(newTop(c.t.fill(), c.list), c.list); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// TestAllNamesAreSafe: whatever snapshots and templates say, every name above the
// snapshots is one path component, and every snapshot is there.
func TestAllNamesAreSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.OneOf(rapid.SampledFrom([]string{"", ".", "..", "/", "a/../..", "\x00", "latest", "x"}), rapid.String())
		var list []*snapshot.Snapshot
		for i := range rapid.IntRange(1, 5).Draw(t, "snapshots") {
			s := snap(byte(i), word.Draw(t, "host"), rapid.SliceOfN(word, 0, 3).Draw(t, "tags")...)
			s.Username = word.Draw(t, "user")
			list = append(list, s)
		}
		template := rapid.StringMatching(`[a./%ihutTI]{0,12}`).Draw(t, "template")
		root := newTop(Templates{Paths: []string{template, "ids/%I"}, Time: rapid.SampledFrom([]string{"15", "2006/01", "../x"}).Draw(t, "time")}, list)
		var walk func(d *top)
		walk = func(d *top) {
			for i, n := range d.nodes {
				if !n.Safe() || i > 0 && d.nodes[i-1].Name >= n.Name {
					t.Fatalf("%q after %q", n.Name, d.nodes[max(0, i-1)].Name)
				}
				if sub := d.names[n.Name].folder; sub != nil {
					walk(sub)
				}
			}
		}
		walk(root)
		for _, s := range list {
			ids := root.names["ids"].folder
			if ids == nil || ids.names[s.ID.String()].snap != s {
				t.Skip("the template has the name ids for itself")
			}
		}
	})
}
