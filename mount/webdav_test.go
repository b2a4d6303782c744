package mount_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"kassett"
	"kassett/mount"
	"kassett/repo"
)

// oddNames are names that a URL or XML could trip over.
var oddNames = []string{
	"plain.txt", "with space", "100%25", "a%2Fb", "å ü 病歴", "non\xff\xfeutf8", "q?x=1#y", "<&>\"'", "new\nline", "+plus", "..x", "semi;colon", `back\slash`,
}

// dav serves a view and returns where the latest snapshot is.
func dav(t *testing.T, r *repo.Repository, w *told) string {
	t.Helper()
	s := httptest.NewServer(mount.Guard(view(t, r, w, mount.Options{}).Handler(), nil))
	t.Cleanup(s.Close)
	return s.URL + "/snapshots/latest/"
}

// curl runs the program and returns what it prints.
func curl(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("curl is not installed, and SHORT=1 asks for less")
		}
		t.Fatal("curl is not installed; make deps installs it")
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"-sS", "--noproxy", "*", "--path-as-is", "--max-time", "60"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("curl %.300q: %v: %s", args, err, &stderr)
	}
	return string(out)
}

// multistatus is an answer to PROPFIND.
type multistatus struct {
	Responses []struct {
		Href  string `xml:"DAV: href"`
		Props []struct {
			Status string `xml:"DAV: status"`
			Prop   struct {
				Length     string    `xml:"DAV: getcontentlength"`
				ETag       string    `xml:"DAV: getetag"`
				Modified   string    `xml:"DAV: getlastmodified"`
				Collection *struct{} `xml:"DAV: resourcetype>collection"`
				Any        []struct {
					XMLName xml.Name
				} `xml:",any"`
			} `xml:"DAV: prop"`
		} `xml:"DAV: propstat"`
	} `xml:"DAV: response"`
}

func propfind(t *testing.T, at, depth, body string) multistatus {
	t.Helper()
	args := []string{"-X", "PROPFIND", "-H", "Depth: " + depth, "-f", at}
	if body != "" {
		args = append(args, "--data-binary", body, "-H", "Content-Type: application/xml")
	}
	var m multistatus
	out := curl(t, args...)
	if err := xml.Unmarshal([]byte(out), &m); err != nil {
		t.Fatalf("%v in\n%s", err, out)
	}
	return m
}

// TestDAVNames: files of any name are listed, and found under the name that the
// listing gives.
func TestDAVNames(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	var nodes []blob
	for _, name := range slices.Sorted(slices.Values(oddNames)) {
		nodes = append(nodes, blob{node: entry(name, kassett.File), data: [][]byte{[]byte("content of " + name)}})
	}
	handmade(t, r, nodes...)
	var w told
	at := dav(t, r, &w)
	base, err := url.Parse(at)
	must(t, err)
	m := propfind(t, at, "1", "")
	if len(m.Responses) != len(oddNames)+1 {
		t.Fatalf("%d answers, want %d", len(m.Responses), len(oddNames)+1)
	}
	seen := map[string]bool{}
	for i, res := range m.Responses {
		p := res.Props[0].Prop
		if i == 0 {
			if res.Href != "/snapshots/latest/" || p.Collection == nil {
				t.Errorf("the folder itself is %q", res.Href)
			}
			continue
		}
		to, err := base.Parse(res.Href)
		must(t, err)
		name := strings.TrimPrefix(to.Path, "/snapshots/latest/")
		seen[name] = true
		want := "content of " + name
		if p.Length != fmt.Sprint(len(want)) || p.ETag == "" || p.Modified != day.Format(http.TimeFormat) || p.Collection != nil {
			t.Errorf("%q: %+v", name, p)
		}
		if got := curl(t, "-f", base.Scheme+"://"+base.Host+res.Href); got != want {
			t.Errorf("%q is %q, want %q", res.Href, got, want)
		}
	}
	for _, name := range oddNames {
		if !seen[name] {
			t.Errorf("%q is not listed", name)
		}
	}
	page := curl(t, "-f", at)
	if strings.Contains(page, "<&>") || !strings.Contains(page, `href="./%3C%26%3E%22%27"`) {
		t.Errorf("the page for browsers is\n%s", page)
	}
	w.quiet(t)
}

// TestDAVProperties: what is asked for comes, and what there is not is said to be
// missing.
func TestDAVProperties(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r, blob{node: entry("dir", kassett.Dir), under: []blob{{node: entry("in", kassett.File)}}},
		blob{node: entry("f.txt", kassett.File), data: [][]byte{[]byte("12345")}})
	var w told
	at := dav(t, r, &w)
	m := propfind(t, at+"f.txt", "0", `<propfind xmlns="DAV:"><prop><getcontentlength/><quota/><x xmlns="urn:other"/><y xmlns=""/></prop></propfind>`)
	if len(m.Responses) != 1 || len(m.Responses[0].Props) != 2 {
		t.Fatalf("%+v", m)
	}
	ok, missing := m.Responses[0].Props[0], m.Responses[0].Props[1]
	if ok.Prop.Length != "5" || ok.Prop.ETag != "" || !strings.Contains(ok.Status, "200") || !strings.Contains(missing.Status, "404") || len(missing.Prop.Any) != 3 {
		t.Errorf("%+v", m)
	}
	m = propfind(t, at, "0", `<propfind xmlns="DAV:"><propname/></propfind>`)
	if len(m.Responses) != 1 || m.Responses[0].Props[0].Prop.Modified != "" {
		t.Errorf("only names were asked for: %+v", m)
	}
	m = propfind(t, at+"dir", "1", "")
	if len(m.Responses) != 2 || m.Responses[0].Href != "/snapshots/latest/dir/" || m.Responses[1].Href != "/snapshots/latest/dir/in" {
		t.Errorf("%+v", m)
	}
	for _, c := range []struct {
		name, depth, body, at, want string
	}{
		{"everything below", "infinity", "", at, "403"},
		{"no depth, which is everything", "", "", at, "403"},
		{"not XML", "0", "<propfind", at, "400"},
		{"another question", "0", "<lockinfo xmlns='DAV:'/>", at, "400"},
		{"an endless question", "0", strings.Repeat("<a>", 25_000), at, "400"},
		{"what is not there", "0", "", at + "nothing", "404"},
		{"out of the view", "0", "", at + "../../../../etc", "404"},
		{"out of the view, in disguise", "0", "", at + "%2e%2e/%2e%2e%2fetc", "404"},
		{"below a file", "0", "", at + "f.txt/x", "404"},
	} {
		args := []string{"-o", "/dev/null", "-w", "%{http_code}", "-X", "PROPFIND", c.at}
		if c.depth != "" {
			args = append(args, "-H", "Depth: "+c.depth)
		}
		if c.body != "" {
			args = append(args, "--data-binary", c.body)
		}
		if got := curl(t, args...); got != c.want {
			t.Errorf("%s: status %s, want %s", c.name, got, c.want)
		}
	}
	w.quiet(t)
}

// TestDAVRanges: parts of a file come as HTTP has them, and a client that has the
// file already gets nothing.
func TestDAVRanges(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	var pages [][]byte
	for i := range 32 {
		pages = append(pages, noise(uint64(i), 64<<10))
	}
	all := bytes.Join(pages, nil)
	handmade(t, r, blob{node: entry("db", kassett.File), data: pages}, blob{node: entry("empty", kassett.File)})
	var w told
	at := dav(t, r, &w)
	for _, c := range []struct {
		ask      string
		from, to int
	}{
		{"0-0", 0, 1},
		{"100-200000", 100, 200_001},
		{"1000000-", 1_000_000, len(all)},
		{"-5", len(all) - 5, len(all)},
		{"2097151-9999999", 2097151, len(all)},
	} {
		got := curl(t, "-f", "-H", "Range: bytes="+c.ask, at+"db")
		if got != string(all[c.from:c.to]) {
			t.Errorf("%s: %d bytes, want %d", c.ask, len(got), c.to-c.from)
		}
	}
	if got := curl(t, "-f", at+"db"); got != string(all) {
		t.Errorf("all: %d bytes", len(got))
	}
	if got := curl(t, "-f", at+"empty"); got != "" {
		t.Errorf("an empty file has %d bytes", len(got))
	}
	if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", "-H", "Range: bytes=9999999-", at+"db"); got != "416" {
		t.Errorf("past the end: status %s", got)
	}
	head := curl(t, "-I", at+"db")
	var tag string
	for line := range strings.Lines(head) {
		if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "etag") {
			tag = strings.TrimSpace(value)
		}
	}
	if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", "-H", "If-None-Match: "+tag, at+"db"); tag == "" || got != "304" {
		t.Errorf("with its tag %s: status %s", tag, got)
	}
	w.quiet(t)
}

// TestDAVRefusesWriting: every method that would change something is refused, and
// what the server says of itself promises none.
func TestDAVRefusesWriting(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r, blob{node: entry("f", kassett.File), data: [][]byte{[]byte("old")}})
	var w told
	at := dav(t, r, &w)
	for _, method := range []string{"PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPPATCH", "LOCK", "UNLOCK", "PATCH"} {
		if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-d", "new", at+"f"); got != "403" {
			t.Errorf("%s: status %s, want 403", method, got)
		}
	}
	for _, method := range []string{"POST", "BREW", "TRACE"} {
		if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", "-X", method, at+"f"); got != "405" {
			t.Errorf("%s: status %s, want 405", method, got)
		}
	}
	head := curl(t, "-i", "-X", "OPTIONS", at)
	if !strings.Contains(head, "Dav: 1\r\n") && !strings.Contains(head, "DAV: 1\r\n") || strings.Contains(head, "PUT") {
		t.Errorf("it says of itself:\n%s", head)
	}
	if got := curl(t, "-f", at+"f"); got != "old" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestDAVSymlinks: a link to something in the snapshot is that; one that leads out
// of it, nowhere or in a circle is not there.
func TestDAVSymlinks(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	link := func(name, to string) blob {
		n := entry(name, kassett.Symlink)
		n.LinkTarget = to
		return blob{node: n}
	}
	handmade(t, r,
		link("absolute", "/dir/file"), link("circle", "circle"),
		blob{node: entry("dir", kassett.Dir), under: []blob{
			{node: entry("file", kassett.File), data: [][]byte{[]byte("found")}},
			link("here", "file"), link("up", "../dir/./file"),
		}},
		blob{node: entry("fifo", kassett.Fifo)}, link("folder", "dir"), link("nowhere", "dir/nothing"), link("out", "../../ids"),
		link("out2", "dir/../../.."), link("through", "folder/../dir/here"),
	)
	var w told
	at := dav(t, r, &w)
	for _, name := range []string{"absolute", "dir/here", "dir/up", "folder/file", "through"} {
		if got := curl(t, "-f", at+name); got != "found" {
			t.Errorf("%s is %q", name, got)
		}
	}
	var names []string
	for _, res := range propfind(t, at, "1", "").Responses[1:] {
		names = append(names, strings.TrimPrefix(res.Href, "/snapshots/latest/"))
	}
	if want := []string{"absolute", "dir/", "folder/", "through"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
	for _, name := range []string{"circle", "nowhere", "out", "out2", "fifo"} {
		if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", at+name); got != "404" {
			t.Errorf("%s: status %s, want 404", name, got)
		}
	}
	w.quiet(t)
}

// TestDAVDamage: a file that is damaged where it begins is an error, and later one
// breaks the transfer off: no client takes it for whole.
func TestDAVDamage(t *testing.T) {
	t.Parallel()
	r, dir := newRepo(t, nil)
	pages := [][]byte{noise(1, 1<<20), noise(2, 1<<20), noise(3, 1<<20)}
	handmade(t, r, blob{node: entry("first", kassett.File), data: pages[2:]}, blob{node: entry("last", kassett.File), data: pages})
	loc, ok := r.Find(repo.BlobHandle{Type: repo.DataBlob, ID: kassett.Hash(pages[2])})
	if !ok {
		t.Fatal("no blob")
	}
	flip(t, dir+"/data/"+loc.Pack.String()[:2]+"/"+loc.Pack.String(), int64(loc.Offset)+50)
	var w told
	at := dav(t, r, &w)
	if got := curl(t, "-o", "/dev/null", "-w", "%{http_code}", at+"first"); got != "500" {
		t.Errorf("damaged at its beginning: status %s, want 500", got)
	}
	cmd := exec.CommandContext(t.Context(), "curl", "-sS", "--noproxy", "*", at+"last")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 18 || !bytes.HasPrefix(bytes.Join(pages, nil), out) || len(out) < 1<<20 {
		t.Errorf("damaged later: %v, after %d bytes; want curl's code for a part of a file", err, len(out))
	}
	if warned, _, _ := w.look(); len(warned) != 2 {
		t.Errorf("warned of %q, want both files", warned)
	}
}

// TestGuard: with a password nobody comes in without it; without one, only who
// names this machine by its own name for itself.
func TestGuard(t *testing.T) {
	t.Parallel()
	r, _ := newRepo(t, nil)
	handmade(t, r)
	var w told
	v := view(t, r, &w, mount.Options{})
	open := httptest.NewServer(mount.Guard(v.Handler(), nil))
	t.Cleanup(open.Close)
	closed := httptest.NewServer(mount.Guard(v.Handler(), []byte("sesame")))
	t.Cleanup(closed.Close)
	status := func(args ...string) string { return curl(t, append(args, "-o", "/dev/null", "-w", "%{http_code}")...) }
	for _, c := range []struct{ name, got, want string }{
		{"by address", status(open.URL), "200"},
		{"by name", status("-H", "Host: LOCALHOST:8080", open.URL), "200"},
		{"by address of version 6", status("-H", "Host: [::1]", open.URL), "200"},
		{"by the name of a web page", status("-H", "Host: evil.example:8080", open.URL), "403"},
		{"by another address", status("-H", "Host: 10.0.0.1", open.URL), "403"},
		{"without the password", status(closed.URL), "401"},
		{"with another password", status("-u", "kassett:open", closed.URL), "401"},
		{"with the password", status("-u", "kassett:sesame", closed.URL), "200"},
		{"with the password and any name", status("-u", ":sesame", "-H", "Host: backup.example", closed.URL), "200"},
	} {
		if c.got != c.want {
			t.Errorf("%s: status %s, want %s", c.name, c.got, c.want)
		}
	}
	if head := curl(t, "-I", open.URL); !strings.Contains(head, "sandbox") || !strings.Contains(head, "nosniff") {
		t.Errorf("a page from the backup may run:\n%s", head)
	}
}
