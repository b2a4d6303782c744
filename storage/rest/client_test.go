package rest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"kassett"
	"kassett/storage/rest"
	"kassett/storage/storagetest"
)

// foreign is a server of the protocol that is not ours: it knows version 1 only,
// has no ranges, and hashes nothing.
type foreign struct {
	mu    sync.Mutex // held while a request is served, and by tests that look
	files map[string][]byte
	got   map[string]int // bytes that came of each upload
	list  string         // what every listing answers, when not ""
	code  int            // what every request answers, when not 0
}

func (f *foreign) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	user, pass, _ := r.BasicAuth()
	if user != "me" || pass != "pä:ss" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if f.code != 0 {
		http.Error(w, "no\x1b[31m", f.code)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/repo/")
	b, there := f.files[name]
	switch {
	case strings.HasSuffix(name, "/") && r.Method == http.MethodGet:
		if f.list != "" {
			_, _ = io.WriteString(w, f.list)
			return
		}
		var names []string
		for n := range f.files {
			if id, ok := strings.CutPrefix(n, name); ok {
				names = append(names, fmt.Sprintf("%q", id))
			}
		}
		if names == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "["+strings.Join(names, ",")+"]")
	case r.Method == http.MethodPost && there:
		w.WriteHeader(http.StatusForbidden)
	case r.Method == http.MethodPost:
		b, err := io.ReadAll(r.Body)
		f.got[name] = len(b)
		if err != nil {
			return
		}
		f.files[name] = b
	case !there:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = w.Write(b)
	}
}

// with does something that requests must not come in between.
func (f *foreign) with(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func openForeign(t *testing.T) (*foreign, kassett.Storage) {
	t.Helper()
	f := &foreign{files: map[string][]byte{"config": []byte("c")}, got: map[string]int{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	st, err := rest.Open(t.Context(), strings.Replace(s.URL, "http://", "http://me:p%C3%A4%3Ass@", 1)+"/repo", rest.Options{Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	return f, st
}

func read(t *testing.T, st kassett.Storage, h kassett.Handle, off, n int64) ([]byte, error) {
	t.Helper()
	r, err := st.Get(t.Context(), h, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// TestForeignServer: what others serve can be used, without what only ours has.
func TestForeignServer(t *testing.T) {
	t.Parallel()
	f, st := openForeign(t)
	if _, ok := kassett.As[kassett.Beside](st); ok {
		t.Error("a foreign server keeps files beside a repository")
	}
	b := storagetest.Random(1, 100_000)
	h := put(t, st, kassett.PackFile, b)
	for _, part := range [][2]int64{{0, -1}, {5, 10}, {99_990, 10}, {50_000, -1}} {
		want := b[part[0]:]
		if part[1] >= 0 {
			want = want[:part[1]]
		}
		if got, err := read(t, st, h, part[0], part[1]); err != nil || string(got) != string(want) {
			t.Errorf("Get(%v) = %d bytes, %v", part, len(got), err)
		}
	}
	if _, err := read(t, st, h, 99_990, 11); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a range over the end: %v", err)
	}
	for in, err := range st.List(t.Context(), kassett.PackFile) {
		if err != nil || in.Handle != h || in.Size != 100_000 || !in.Received.IsZero() {
			t.Errorf("List: %+v, %v", in, err)
		}
	}
	for in, err := range st.List(t.Context(), kassett.IndexFile) {
		t.Errorf("List of no folder: %v, %v", in, err)
	}
	if err := st.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("second Put: %v", err)
	}
	// It hashes nothing, so it must never get the last byte of a wrong file.
	wrong := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash([]byte("other"))}
	err := st.Put(t.Context(), wrong, kassett.Body{Size: 100_000, Sum: wrong.ID, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(b))), nil
	}})
	if kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("Put of a wrong file: %v", err)
	}
	f.with(func() {
		if f.files[wrong.String()] != nil {
			t.Errorf("%d bytes of a wrong file were taken", f.got[wrong.String()])
		}
		delete(f.files, "config")
	})
	err = nil
	for _, e := range st.List(t.Context(), kassett.IndexFile) {
		err = e
	}
	if kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("a repository that is gone looks empty: %v", err)
	}
}

// TestBadListings: what is no listing, or not all of one, is an error and no
// empty repository.
func TestBadListings(t *testing.T) {
	t.Parallel()
	f, st := openForeign(t)
	id := kassett.Hash(nil).String()
	long := strings.Repeat("x", 100_000)
	for _, list := range []string{
		"<html>", "{}", `{"name":"x"}`, "[", `["` + id + `"`, `["` + id + `",`, `[{"name":"` + id + `","size":1}`, `[1]`,
		`["` + long + `"]`, `[{"name":"` + id + `","size":1} {"name":"` + id + `","size":1}]`, `7`, `"x"`, " ",
	} {
		f.with(func() { f.list = list })
		var failed error
		for _, err := range st.List(t.Context(), kassett.PackFile) {
			failed = err
		}
		if failed == nil {
			t.Errorf("the listing %.40q was taken", list)
		}
	}
	for _, list := range []string{"[]", "null", `["stranger"]`, `[{"name":"x","size":5,"more":[1,{"a":2}]}]`} {
		f.with(func() { f.list = list })
		for in, err := range st.List(t.Context(), kassett.PackFile) {
			t.Errorf("%q gives %v, %v", list, in, err)
		}
	}
}

// TestAnswers gives errors their kinds, and hides what a stranger may want to
// write on a terminal.
func TestAnswers(t *testing.T) {
	t.Parallel()
	f, st := openForeign(t)
	h := kassett.Handle{Kind: kassett.PackFile}
	for code, kind := range map[int]kassett.Kind{
		400: kassett.Invalid, 401: kassett.Denied, 403: kassett.Denied, 404: kassett.NotFound, 405: kassett.Denied,
		409: kassett.Exists, 413: kassett.Full, 429: kassett.Offline, 500: kassett.Offline, 502: kassett.Offline,
		503: kassett.Offline, 504: kassett.Offline, 507: kassett.Full, 302: kassett.Other,
	} {
		f.with(func() { f.code = code })
		_, err := read(t, st, h, 0, -1)
		if kassett.KindOf(err) != kind {
			t.Errorf("%d: kind %q, want %q: %v", code, kassett.KindOf(err), kind, err)
		}
		if err == nil || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%d: %q", code, err)
		}
	}
}

// TestErrorsHoldNoPassword in any of the ways to fail to reach a server.
func TestErrorsHoldNoPassword(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"http://me:secret@127.0.0.1:1/repo", "http://me:secret@127.0.0.1:x/repo", "http://me:se%zzcret@127.0.0.1/", "ftp://me:secret@host/",
		"http://me:secret@/", "me:secret@host", "http://me:secret@127.0.0.1:1/a?b=secret", "",
	} {
		_, err := rest.Open(t.Context(), address, rest.Options{})
		if err == nil || strings.Contains(err.Error(), "cret") || kassett.HintOf(err) == "" {
			t.Errorf("%q: %v, hint %q", address, err, kassett.HintOf(err))
		}
	}
}

// TestBrokenConnections puts harm between client and server: calls fail with
// Offline and store nothing half, and succeed when repeated.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	s := serve(t, clients(t, "all PW rights=full path=*"))
	s.create(t, "all", "host")
	p, err := storagetest.NewProxy(s.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	st, err := rest.Create(t.Context(), "http://"+p.Addr()+"/host/", options(t, "all"))
	if err != nil {
		t.Fatal(err)
	}
	b := storagetest.Random(1, 3<<20)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for _, harm := range []storagetest.Harm{{CutUp: 1}, {CutUp: 100_000}, {CutUp: 3 << 20}, {CutDown: 1}, {Refuse: true}} {
		p.SetAll(harm)
		p.Cut()
		err := st.Put(ctx, h, kassett.BytesBody(b, h.ID))
		if kind := kassett.KindOf(err); kind != kassett.Offline && kind != kassett.Exists {
			t.Errorf("%+v: Put: %v (%s)", harm, err, kind)
		}
	}
	p.SetAll(storagetest.Harm{FlipUp: 500_000})
	p.Cut()
	flipped := append([]byte{1}, b...)
	hf := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(flipped)}
	if err := st.Put(ctx, hf, kassett.BytesBody(flipped, hf.ID)); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("a bit that flips on the way: %v", err)
	}
	p.SetAll(storagetest.Harm{})
	p.Cut()
	if err := st.Put(ctx, h, kassett.BytesBody(b, h.ID)); err != nil && kassett.KindOf(err) != kassett.Exists {
		t.Error(err)
	}
	if err := st.Put(ctx, hf, kassett.BytesBody(flipped, hf.ID)); err != nil {
		t.Error(err)
	}
	p.SetAll(storagetest.Harm{CutDown: 1 << 20})
	p.Cut()
	if _, err := read(t, st, h, 0, -1); kassett.KindOf(err) != kassett.Offline {
		t.Errorf("a download that is cut: %v", err)
	}
	p.SetAll(storagetest.Harm{})
	p.Cut()
	if got, err := read(t, st, h, 0, -1); err != nil || kassett.Hash(got) != h.ID {
		t.Errorf("Get: %d bytes, %v", len(got), err)
	}
}

// TestClientsFile names all that is wrong, with its line, and shows no secrets.
func TestClientsFile(t *testing.T) {
	t.Parallel()
	good := "# comment\n\n host password=" + hash() + " rights=append,data path=a/b,c/* quota=5GiB floor=30d\ncert certificate=required rights=full path=*\n"
	c, err := rest.ReadClients(strings.NewReader(good), "clients")
	if err != nil {
		t.Fatal(err)
	}
	for _, cl := range c.All() {
		again, err := rest.ReadClients(strings.NewReader(cl.String()), "clients")
		if err != nil || again.All()[0].String() != cl.String() {
			t.Errorf("%s: %v", cl, err)
		}
	}
	if h := c.All()[0]; h.Quota != 5<<30 || h.Floor != 30*24*time.Hour {
		t.Errorf("%+v", h)
	}
	for line, why := range map[string]string{
		"Host PW rights=full path=a":                            "no name for a client",
		"a/b PW rights=full path=a":                             "no name for a client",
		"host rights=full path=a":                               "neither password",
		"host password=plainsecret rights=full path=a":          "never the password itself",
		"host PW path=a":                                        "rights= is missing",
		"host PW rights=full":                                   "path= is missing",
		"host PW rights=everything path=a":                      "no right",
		"host PW rights=full path=/a":                           "no path",
		"host PW rights=full path=a/../b":                       "no path",
		"host PW rights=full path=a/data":                       "no path",
		"host PW rights=full path=*/a":                          "no path",
		"host PW rights=full path=a quota=5GB":                  "no size",
		"host PW rights=full path=a quota=99999999999GiB":       "no size",
		"host PW rights=full path=a floor=1y":                   "no time",
		"host PW rights=full path=a floor=-1d":                  "no time",
		"host PW rights=full path=a rights=full":                "twice",
		"host PW rights=full path=a more=1":                     "no field",
		"host PW rights=full path=a plainsecret-of-some-length": "want field=value",
		"host PW rights=full path=a certificate=maybe":          "only be required",
	} {
		text := "ok PW rights=full path=a\n" + line + "\n"
		_, err := rest.ReadClients(strings.NewReader(strings.ReplaceAll(text, "PW", "password="+hash())), "clients")
		switch {
		case kassett.KindOf(err) != kassett.Invalid || !strings.Contains(err.Error(), "line 2: ") || !strings.Contains(err.Error(), why):
			t.Errorf("%s: %v, want %q", line, err, why)
		case strings.Contains(err.Error(), "plainsecret"), strings.Contains(err.Error(), hash()):
			t.Errorf("a secret is in the error: %v", err)
		}
	}
	if _, err := rest.ReadClients(strings.NewReader(good+good), "clients"); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a name twice: %v", err)
	}
}

// TestPasswords refuses what is easily guessed and what the hash would cut.
func TestPasswords(t *testing.T) {
	t.Parallel()
	for n, ok := range map[int]bool{0: false, 11: false, 12: true, 72: true, 73: false} {
		if _, err := rest.HashPassword([]byte(strings.Repeat("x", n))); (err == nil) != ok {
			t.Errorf("%d characters: %v", n, err)
		}
	}
}
