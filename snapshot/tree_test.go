package snapshot_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"kassett"
	"kassett/snapshot"
)

// refTree and refNode are the reference: what encoding/json makes of restic's
// fields in restic's order.
type refTree struct {
	Nodes []*refNode `json:"nodes"`
}

type refNode struct {
	Name          string                     `json:"name"`
	Type          string                     `json:"type"`
	Mode          fs.FileMode                `json:"mode,omitempty"`
	ModTime       time.Time                  `json:"mtime"`
	AccessTime    time.Time                  `json:"atime"`
	ChangeTime    time.Time                  `json:"ctime"`
	UID           uint32                     `json:"uid"`
	GID           uint32                     `json:"gid"`
	User          string                     `json:"user,omitempty"`
	Group         string                     `json:"group,omitempty"`
	Inode         uint64                     `json:"inode,omitempty"`
	DeviceID      uint64                     `json:"device_id,omitempty"`
	Size          uint64                     `json:"size,omitempty"`
	Links         uint64                     `json:"links,omitempty"`
	LinkTarget    string                     `json:"linktarget,omitempty"`
	LinkTargetRaw []byte                     `json:"linktarget_raw,omitempty"`
	Xattrs        []refXattr                 `json:"extended_attributes,omitempty"`
	Generic       map[string]json.RawMessage `json:"generic_attributes,omitempty"`
	Device        uint64                     `json:"device,omitempty"`
	Content       []kassett.ID               `json:"content"`
	Subtree       *kassett.ID                `json:"subtree,omitempty"`
	Error         string                     `json:"error,omitempty"`
}

type refXattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// reference turns a node into what encoding/json is to write.
func reference(n *snapshot.Node) *refNode {
	quoted := strconv.Quote(n.Name)
	year := func(t time.Time) time.Time {
		if t.Year() < 0 {
			return t.AddDate(-t.Year(), 0, 0)
		}
		return t.AddDate(min(0, 9999-t.Year()), 0, 0)
	}
	r := &refNode{
		Name: quoted[1 : len(quoted)-1], Type: string(n.Type), Mode: n.Mode,
		ModTime: year(n.ModTime), AccessTime: year(n.AccessTime), ChangeTime: year(n.ChangeTime),
		UID: n.UID, GID: n.GID, User: n.User, Group: n.Group,
		Inode: n.Inode, DeviceID: n.DeviceID, Size: n.Size, Links: n.Links, LinkTarget: n.LinkTarget,
		Generic: n.Generic, Device: n.Device, Content: n.Content, Error: n.Error,
	}
	if !utf8.ValidString(n.LinkTarget) {
		r.LinkTargetRaw = []byte(n.LinkTarget)
	}
	for _, x := range n.Xattrs {
		r.Xattrs = append(r.Xattrs, refXattr(x))
	}
	if !n.Subtree.IsZero() {
		r.Subtree = &n.Subtree
	}
	return r
}

// node is the way back.
func (r *refNode) node() (*snapshot.Node, error) {
	name, err := strconv.Unquote(`"` + r.Name + `"`)
	if err != nil {
		return nil, err
	}
	n := &snapshot.Node{Content: r.Content, Error: r.Error, Entry: kassett.Entry{
		Name: name, Type: kassett.EntryType(r.Type), Mode: r.Mode,
		ModTime: r.ModTime, AccessTime: r.AccessTime, ChangeTime: r.ChangeTime,
		UID: r.UID, GID: r.GID, User: r.User, Group: r.Group,
		Inode: r.Inode, DeviceID: r.DeviceID, Size: r.Size, Links: r.Links, LinkTarget: r.LinkTarget,
		Generic: r.Generic, Device: r.Device,
	}}
	if r.LinkTargetRaw != nil {
		n.LinkTarget = string(r.LinkTargetRaw)
	}
	for _, x := range r.Xattrs {
		n.Xattrs = append(n.Xattrs, kassett.Xattr(x))
	}
	if r.Subtree != nil {
		n.Subtree = *r.Subtree
	}
	return n, nil
}

// Generators of what a node may hold.
var (
	// anyText has what is hard to write: quotes, controls, HTML, line
	// separators, and bytes that are not UTF-8.
	anyText = rapid.OneOf(
		rapid.String(),
		rapid.SampledFrom([]string{"plain.txt", `a"b\c`, "<&>", "\u2028\u2029", "\xff\xfe", "\x00\x1f\x7f\b\f\n\r\t", "\ufffd", "Łódź", "\U0001F9EA", `\u0041`}),
		rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 12), func(b []byte) string { return string(b) }),
	)
	anyTime = rapid.Custom(func(t *rapid.T) time.Time {
		sec := rapid.OneOf(rapid.Int64Range(-1<<32, 1<<33), rapid.Int64Range(-1<<40, 1<<40)).Draw(t, "seconds")
		nsec := rapid.SampledFrom([]int64{0, 1, 500_000_000, 123_456_000, 999_999_999}).Draw(t, "nanos")
		zone := rapid.SampledFrom([]int{0, 3600, -3600, 5*3600 + 2700, -12 * 3600, 1172}).Draw(t, "zone")
		if zone == 0 {
			return time.Unix(sec, nsec).UTC()
		}
		return time.Unix(sec, nsec).In(time.FixedZone("", zone))
	})
	anyID = rapid.Custom(func(t *rapid.T) (id kassett.ID) {
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		return id
	})
	anyRaw   = rapid.SampledFrom([]string{`1`, `null`, `"a<b"`, `{"LowDateTime":3, "HighDateTime":[1,2,{}]}`, `"AQAEgBQ="`, "[ ]", `"\u2028 \" }"`})
	anyXattr = rapid.Custom(func(t *rapid.T) kassett.Xattr {
		x := kassett.Xattr{Name: anyText.Draw(t, "name")}
		if rapid.Bool().Draw(t, "value") {
			x.Value = rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")
			x.Value = append([]byte{}, x.Value...)
		}
		return x
	})
	anyNode = rapid.Custom(func(t *rapid.T) *snapshot.Node {
		n := &snapshot.Node{Entry: kassett.Entry{
			Name: anyText.Draw(t, "name"),
			Type: kassett.EntryType(rapid.SampledFrom([]string{"file", "dir", "symlink", "dev", "chardev", "fifo", "socket", "", "x<y"}).Draw(t, "type")),
			Mode: fs.FileMode(rapid.Uint32().Draw(t, "mode")),
			UID:  rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
			User: anyText.Draw(t, "user"), Group: anyText.Draw(t, "group"),
			Inode: rapid.Uint64().Draw(t, "inode"), DeviceID: rapid.Uint64().Draw(t, "device id"),
			Size: rapid.Uint64().Draw(t, "size"), Links: rapid.Uint64().Draw(t, "links"), Device: rapid.Uint64().Draw(t, "device"),
			ModTime: anyTime.Draw(t, "mtime"), ChangeTime: anyTime.Draw(t, "ctime"),
			LinkTarget: anyText.Draw(t, "target"),
			Xattrs:     rapid.SliceOfN(anyXattr, 0, 3).Draw(t, "xattrs"),
		}}
		n.AccessTime = n.ModTime
		if rapid.Bool().Draw(t, "atime") {
			n.AccessTime = anyTime.Draw(t, "atime")
		}
		if len(n.Xattrs) == 0 {
			n.Xattrs = nil
		}
		for k, v := range rapid.MapOfN(anyText, anyRaw, 0, 3).Draw(t, "generic") {
			if n.Generic == nil {
				n.Generic = map[string]json.RawMessage{}
			}
			n.Generic[k] = json.RawMessage(v)
		}
		if rapid.Bool().Draw(t, "content") {
			n.Content = append([]kassett.ID{}, rapid.SliceOfN(anyID, 0, 4).Draw(t, "ids")...)
		}
		if rapid.Bool().Draw(t, "subtree") {
			n.Subtree = anyID.Draw(t, "subtree id")
		}
		n.Error = anyText.Draw(t, "error")
		return n
	})
)

// TestEncodeIsEncodingJSON proves the encoder by hand equal to the reference,
// and the decoder its inverse.
func TestEncodeIsEncodingJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(anyNode, 0, 4).Draw(t, "nodes")
		slices.SortFunc(list, func(a, b *snapshot.Node) int { return strings.Compare(a.Name, b.Name) })
		list = slices.CompactFunc(list, func(a, b *snapshot.Node) bool { return a.Name == b.Name })
		if len(list) > 0 && list[0].Name == "" {
			list = list[1:] // no tree may be written with it
		}
		tree := snapshot.Tree{Nodes: list}
		got, err := tree.Encode()
		if err != nil {
			t.Fatal(err)
		}
		ref := refTree{Nodes: []*refNode{}}
		for _, n := range list {
			ref.Nodes = append(ref.Nodes, reference(n))
		}
		want, err := json.Marshal(ref)
		if err != nil {
			t.Fatal(err)
		}
		if want = append(want, '\n'); !bytes.Equal(got, want) {
			t.Fatalf("\n got %s\nwant %s", got, want)
		}
		same(t, got)
		back, err := snapshot.DecodeTree(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := back.Encode()
		if err != nil {
			t.Fatal(err)
		}
		// Strings of JSON lose what is not UTF-8, but only once.
		if once, _ := snapshot.DecodeTree(again); once == nil || len(once.Nodes) != len(back.Nodes) {
			t.Fatalf("%s is not read again", again)
		}
		for i, n := range back.Nodes {
			if n.Name != list[i].Name || n.LinkTarget != list[i].LinkTarget && list[i].LinkTarget != "" {
				t.Fatalf("node %q → %q came back as %q → %q", list[i].Name, list[i].LinkTarget, n.Name, n.LinkTarget)
			}
		}
	})
}

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// same fails unless DecodeTree and encoding/json agree about b.
func same(t fataler, b []byte) {
	t.Helper()
	got, gotErr := snapshot.DecodeTree(b)
	var ref refTree
	wantErr := json.Unmarshal(b, &ref)
	var want []*snapshot.Node
	for _, r := range ref.Nodes {
		if r == nil {
			r = &refNode{}
		}
		n, err := r.node()
		if wantErr == nil && err != nil {
			wantErr = err
		}
		want = append(want, n)
	}
	if gotErr != nil && errors.Is(gotErr, snapshot.ErrOrder) {
		gotErr = nil
	}
	if (gotErr == nil) != (wantErr == nil) {
		t.Fatalf("%q:\n got error %v\nwant error %v", b, gotErr, wantErr)
	}
	if gotErr != nil {
		return
	}
	if len(got.Nodes) != len(want) {
		t.Fatalf("%q: %d nodes, want %d", b, len(got.Nodes), len(want))
	}
	for i, n := range got.Nodes {
		if d := cmp.Diff(want[i], n); d != "" {
			t.Fatalf("%q: node %d (-encoding/json +ours)\n%s", b, i, d)
		}
		g, err1 := n.AppendJSON(nil)
		w, err2 := want[i].AppendJSON(nil)
		if !bytes.Equal(g, w) || (err1 == nil) != (err2 == nil) {
			t.Fatalf("%q: encoded again\n got %s\nwant %s", b, g, w)
		}
	}
}

const goldenTree = `{"nodes":[{"name":"caf\\xe9 \u0026 \\\"b\\\"","type":"file","mode":420,"mtime":"2026-03-29T01:59:59.123456789+01:00","atime":"2026-03-29T01:59:59.123456789+01:00","ctime":"1969-12-31T23:59:59Z","uid":1000,"gid":0,"user":"nurse","inode":7,"device_id":64,"size":3,"links":2,"extended_attributes":[{"name":"user.a","value":"AGI="},{"name":"user.b","value":null},{"name":"user.c","value":""}],"content":["2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"]},` +
	`{"name":"dir","type":"dir","mode":2147484141,"mtime":"0001-01-01T00:00:00Z","atime":"0001-01-01T00:00:00Z","ctime":"0001-01-01T00:00:00Z","uid":0,"gid":0,"content":null,"subtree":"fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"},` +
	`{"name":"empty","type":"file","mtime":"0001-01-01T00:00:00Z","atime":"0001-01-01T00:00:00Z","ctime":"0001-01-01T00:00:00Z","uid":0,"gid":0,"content":[]},` +
	`{"name":"link","type":"symlink","mode":134218239,"mtime":"9999-12-31T00:00:00Z","atime":"9999-12-31T00:00:00Z","ctime":"0000-01-01T00:00:00Z","uid":0,"gid":0,"linktarget":"\ufffd","linktarget_raw":"/w==","generic_attributes":{"windows.creation_time":"AAA=","z":{"a":1}},"content":null}]}` + "\n"

func TestTreeGolden(t *testing.T) {
	t.Parallel()
	tree, err := snapshot.DecodeTree([]byte(goldenTree))
	if err != nil {
		t.Fatal(err)
	}
	b, err := tree.Encode()
	if err != nil || string(b) != goldenTree {
		t.Fatalf("error %v\n got %s\nwant %s", err, b, goldenTree)
	}
	n := tree.Find("caf\xe9 & \"b\"")
	if n == nil || n.User != "nurse" || len(n.Content) != 1 || n.Xattrs[1].Value != nil || n.Xattrs[2].Value == nil {
		t.Errorf("decoded %+v", n)
	}
	if l := tree.Find("link"); l == nil || l.LinkTarget != "\xff" {
		t.Errorf("decoded %+v", l)
	}
	if tree.Find("dis") != nil || tree.Find("zz") != nil {
		t.Error("found what is not there")
	}
}

// oddTrees are trees that no writer of today makes and that must be read, or
// refused, as encoding/json does.
var oddTrees = []string{
	`{"nodes":[]}`, `{"nodes":null}`, `{}`, `null`, ``, `[]`, `{"nodes":[]}x`, "{\"nodes\":[]}\n\n", `{"nodes":[`,
	`{"nodes":[null]}`, `{"nodes":[{}]}`, `{"nodes":[{},{}]}`, `{"future":1,"nodes":[{"name":"a"}],"more":[2]}`,
	`{"nodes":[{"name":"a","future":{"x":[1,"]}"]},"type":"file"}]}`,
	`{"nodes":[{"type":"file","name":"a","content":[],"uid":4294967295}]}`,
	`{"nodes":[{"name":"a","uid":4294967296}]}`, `{"nodes":[{"name":"a","uid":-1}]}`, `{"nodes":[{"name":"a","uid":01}]}`, `{"nodes":[{"name":"a","uid":1.0}]}`,
	`{"nodes":[{"name":"a","size":18446744073709551615}]}`, `{"nodes":[{"name":"a","size":18446744073709551616}]}`, `{"nodes":[{"name":"a","size":99999999999999999999}]}`,
	`{"nodes":[{"name":"a","NAME":"b"}]}`, `{"nodes":[{"name":"a","name":"b"}]}`, `{"nodes":[{"Name":"a","User":"b"}]}`,
	`{"nodes":[{"name":"\\q"}]}`, `{"nodes":[{"name":"a\"b"}]}`, `{"nodes":[{"name":"\u0061\\x41"}]}`, "{\"nodes\":[{\"name\":\"\xff\"}]}", "{\"nodes\":[{\"name\":\"a\nb\"}]}",
	`{"nodes":[{"name":"b"},{"name":"a"}]}`, `{"nodes":[{"name":"a"},{"name":"a"}]}`,
	`{"nodes":[{"name":"a","content":["00"]}]}`, `{"nodes":[{"name":"a","content":[null]}]}`, `{"nodes":[{"name":"a","content":[1]}]}`,
	`{"nodes":[{"name":"a","subtree":null}]}`, `{"nodes":[{"name":"a","subtree":"FCDE2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9"}]}`,
	`{"nodes":[{"name":"a","mtime":"2026-02-29T00:00:00Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-29T23:59:60Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-29T23:59:59.1234567891+23:59"}]}`,
	`{"nodes":[{"name":"a","mtime":"2024-02-29T24:00:00Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-29T20:00:00,5Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-29T20:00:00.5-00:00"}]}`,
	`{"nodes":[{"name":"a","mtime":"2024-2-29T20:00:00Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-29T20:00:00+24:00"}]}`, `{"nodes":[{"name":"a","mtime":"2024-02-30T20:00:00Z"}]}`, `{"nodes":[{"name":"a","mtime":"2024-01-29T20:00:00.Z"}]}`,
	`{"nodes":[{"name":"a","linktarget_raw":"/w==","linktarget":"x"}]}`, `{"nodes":[{"name":"a","linktarget":"x","linktarget_raw":""}]}`, `{"nodes":[{"name":"a","linktarget":"x","linktarget_raw":null}]}`,
	`{"nodes":[{"name":"a","extended_attributes":[{"value":"AA==","name":"x"}]}]}`, `{"nodes":[{"name":"a","extended_attributes":[{"name":"x","value":"A"}]}]}`, `{"nodes":[{"name":"a","extended_attributes":[]}]}`,
	`{"nodes":[{"name":"a","generic_attributes":{"k": 1 ,"l":{"a": [ ]}}}]}`, `{"nodes":[{"name":"a","generic_attributes":{"k":1,"k":2}}]}`, `{"nodes":[{"name":"a","generic_attributes":{}}]}`, `{"nodes":[{"name":"a","generic_attributes":{"k":}}]}`,
	` { "nodes" : [ { "name" : "a" } ] } `, `{"nodes":[{"name":"a",}]}`, `{"nodes":[{"name":"a"},]}`, `{"nodes":[{"name":"a"}{"name":"b"}]}`,
	`{"nodes":[{"name":"a","mode":true}]}`, `{"nodes":[{"name":"a","user":null}]}`, `{"nodes":[{"name":"a","error":"e\u003c"}]}`, `{"nodes":[{"name":"a","x":"\ud800"}]}`,
	`{"nodes":[{"name":"../../etc/passwd"},{"name":"a\\x00b"}]}`,
}

func TestOddTreesAreReadAsEncodingJSONDoes(t *testing.T) {
	t.Parallel()
	for _, s := range oddTrees {
		same(t, []byte(s))
	}
}

func FuzzDecodeTree(f *testing.F) {
	f.Add([]byte(goldenTree))
	for _, s := range oddTrees {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) { same(t, b) })
}

func TestTreeOrder(t *testing.T) {
	t.Parallel()
	for _, s := range []string{`{"nodes":[{"name":"b"},{"name":"a"}]}`, `{"nodes":[{"name":"a"},{"name":"a"}]}`} {
		tree, err := snapshot.DecodeTree([]byte(s))
		if !errors.Is(err, snapshot.ErrOrder) || tree == nil || len(tree.Nodes) != 2 {
			t.Errorf("%s: %v, error %v", s, tree, err)
		}
		if _, err := tree.Encode(); !errors.Is(err, snapshot.ErrOrder) {
			t.Errorf("%s: encoded again, error %v", s, err)
		}
	}
	nameless := snapshot.Tree{Nodes: []*snapshot.Node{{}}}
	if _, err := nameless.Encode(); !errors.Is(err, snapshot.ErrOrder) {
		t.Errorf("a node without a name was encoded, error %v", err)
	}
}

func TestSafeNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "...": true, "a b": true, "\xff": true, `a\b`: true, "C:": true,
		"": false, ".": false, "..": false, "/": false, "a/b": false, "../x": false, "a\x00": false,
	} {
		if n := (&snapshot.Node{Entry: kassett.Entry{Name: name}}); n.Safe() != want {
			t.Errorf("Safe(%q) = %v", name, !want)
		}
	}
}

// benchTree is a folder as a document archive has many of.
func benchTree(n int) *snapshot.Tree {
	tree := &snapshot.Tree{}
	for i := range n {
		id := kassett.Hash([]byte{byte(i), byte(i >> 8)})
		at := day.Add(time.Duration(i) * 1234567891)
		tree.Nodes = append(tree.Nodes, &snapshot.Node{Content: []kassett.ID{id}, Entry: kassett.Entry{
			Name: fmt.Sprintf("document-%06d.pdf", i), Type: kassett.File, Mode: 0o644,
			ModTime: at, AccessTime: at, ChangeTime: at.Add(time.Hour), UID: 1000, GID: 1000, User: "archive", Group: "archive",
			Inode: uint64(1e7 + i), Size: uint64(i * 17), Links: 1,
		}})
	}
	return tree
}

func BenchmarkTree(b *testing.B) {
	tree := benchTree(1000)
	data, err := tree.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		var tb snapshot.TreeBuilder
		for b.Loop() {
			for _, n := range tree.Nodes {
				if err := tb.Add(n); err != nil {
					b.Fatal(err)
				}
			}
			tb.Finish()
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := snapshot.DecodeTree(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			var ref refTree
			if err := json.Unmarshal(data, &ref); err != nil {
				b.Fatal(err)
			}
		}
	})
}
