package s3_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/storage/s3"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

// front is a proxy before the real server that does harm to some requests.
type front struct {
	*httptest.Server
	real http.Handler
	mu   sync.Mutex
	harm func(http.ResponseWriter, *http.Request) (done bool)
}

func newFront(t *testing.T, server *s3test.Server) *front {
	t.Helper()
	to, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	f := &front{real: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    tr,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() { f.Close(); tr.CloseIdleConnections() })
	return f
}

// ServeHTTP implements [http.Handler].
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	harm := f.harm
	f.mu.Unlock()
	if harm == nil || !harm(w, r) {
		f.real.ServeHTTP(w, r)
	}
}

func (f *front) set(harm func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.harm = harm
}

// through returns a storage that reaches a bucket of the server by the proxy.
func (f *front) through(t *testing.T, server *s3test.Server, bucket string) *s3.Storage {
	t.Helper()
	return open(t, f.options(t, server, bucket))
}

func (f *front) options(t *testing.T, server *s3test.Server, bucket string) s3.Options {
	t.Helper()
	o := options(t, server, bucket)
	o.Host = strings.TrimPrefix(f.URL, "http://")
	return o
}

// answer is what S3 says when it refuses:
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html.
func answer(status int, code string, header ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>said by a test</Message></Error>`, code)
		}
		return true
	}
}

// cut ends the connection without an answer.
func cut(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }

// lost lets the server do its work, and loses the answer.
func (f *front) lost(_ http.ResponseWriter, r *http.Request) bool {
	f.real.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// first harms the first n requests of a method.
func first(n int64, method string, harm func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	var count atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) bool {
		return r.Method == method && count.Add(1) <= n && harm(w, r)
	}
}

func body(b []byte) (kassett.Handle, kassett.Body) {
	id := kassett.Hash(b)
	return kassett.Handle{Kind: kassett.PackFile, ID: id}, kassett.BytesBody(b, id)
}

// calls are all ways to reach a storage.
var calls = map[string]func(context.Context, *s3.Storage, kassett.Handle) error{
	"put": func(ctx context.Context, s *s3.Storage, _ kassett.Handle) error {
		h, b := body([]byte("another"))
		return s.Put(ctx, h, b)
	},
	"get": func(ctx context.Context, s *s3.Storage, h kassett.Handle) error {
		r, err := s.Get(ctx, h, 0, -1)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		return errors.Join(err, r.Close())
	},
	"stat": func(ctx context.Context, s *s3.Storage, h kassett.Handle) error {
		_, err := s.Stat(ctx, h)
		return err
	},
	"list": func(ctx context.Context, s *s3.Storage, _ kassett.Handle) error {
		for _, err := range s.List(ctx, kassett.PackFile) {
			if err != nil {
				return err
			}
		}
		return nil
	},
	"delete": func(ctx context.Context, s *s3.Storage, h kassett.Handle) error { return s.Delete(ctx, h) },
}

// TestRefusals holds every call to the kind and the next step of what a server
// may answer.
func TestRefusals(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	o := f.options(t, server, server.Bucket(t, false))
	o.Retries = 1
	s := open(t, o)
	h, b := body(storagetest.Random(1, 1000))
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Fatal(err)
	}
	wrongTime := time.Now().Add(-3 * time.Hour).UTC().Format(http.TimeFormat)
	for name, c := range map[string]struct {
		harm func(http.ResponseWriter, *http.Request) bool
		kind kassett.Kind
		hint string
	}{
		"out of order":      {answer(500, "InternalError"), kassett.Offline, "wait"},
		"bad gateway":       {answer(502, ""), kassett.Offline, "wait"},
		"slow down":         {answer(503, "SlowDown"), kassett.Offline, "wait"},
		"too many requests": {answer(429, "TooManyRequests"), kassett.Offline, "wait"},
		"cut":               {cut, kassett.Offline, "can be reached"},
		"expired":           {answer(400, "ExpiredToken"), kassett.Denied, "have expired"},
		"wrong key":         {answer(403, "InvalidAccessKeyId"), kassett.Denied, "AWS_ACCESS_KEY_ID"},
		"not allowed":       {answer(403, "AccessDenied"), kassett.Denied, "policy"},
		"clock":             {answer(403, "RequestTimeTooSkewed", "Date", wrongTime), kassett.Denied, "clock of this machine is wrong, the server's is 3h0m0s behind"},
		"clock, unsaid":     {answer(403, "AccessDenied", "Date", wrongTime), kassett.Denied, "clock of this machine is wrong"},
		"quota":             {answer(403, "QuotaExceeded"), kassett.Full, "quota"},
		"quota of MinIO":    {answer(400, "XMinioAdminBucketQuotaExceeded"), kassett.Full, "quota"},
		"disk full":         {answer(507, "InsufficientStorage"), kassett.Full, "free room"},
		"another region":    {answer(400, "AuthorizationHeaderMalformed", "x-amz-bucket-region", "eu-west-9"), kassett.Invalid, "s3.region=eu-west-9"},
		"cold":              {answer(403, "InvalidObjectState"), kassett.Denied, "s3.enable-restore=true"},
		"no bucket":         {answer(404, "NoSuchBucket"), kassett.NotFound, "name of the bucket"},
		"a page of a proxy": {func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "<html>go away", http.StatusTeapot)
			return true
		}, kassett.Other, ""},
		"unknown conditional": {answer(501, "NotImplemented"), kassett.Invalid, "conditional-writes"},
	} {
		f.set(c.harm)
		for call, do := range calls {
			err := do(t.Context(), s, h)
			if name == "no bucket" && (call == "stat" || call == "delete") {
				c.hint = "" // a head has no body that could say it
			}
			if err == nil || kassett.KindOf(err) != c.kind && c.kind != kassett.Other || !strings.Contains(kassett.HintOf(err), c.hint) {
				t.Errorf("%s, %s: %v (%s; %s), want %s, %q", name, call, err, kassett.KindOf(err), kassett.HintOf(err), c.kind, c.hint)
			}
		}
	}
	f.set(nil)
	if err := calls["get"](t.Context(), s, h); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestShortTrouble makes the first two requests of each call fail.
func TestShortTrouble(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	for name, harm := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"out of order": answer(500, "InternalError"), "slow down": answer(503, "SlowDown"), "cut": cut, "answer lost": f.lost,
	} {
		for call, do := range calls {
			method := map[string]string{"put": "PUT", "get": "GET", "stat": "HEAD", "list": "GET", "delete": "DELETE"}[call]
			s := f.through(t, server, server.Bucket(t, false))
			f.set(nil)
			h, b := body(storagetest.Random(1, 1000))
			if err := s.Put(t.Context(), h, b); err != nil {
				t.Fatal(err)
			}
			f.set(first(2, method, harm))
			if err := do(t.Context(), s, h); err != nil {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
}

// TestLostAnswers makes puts succeed whose answers are lost: in one call the
// storage knows its own file again, and does not take another's for it.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	bucket := server.Bucket(t, false)
	s := f.through(t, server, bucket)
	h, b := body(storagetest.Random(2, 300_000))
	f.set(first(1, http.MethodPut, f.lost))
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Errorf("Put whose answer was lost: %v", err)
	}
	if err := s.Put(t.Context(), h, b); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("Put of what is there: %v", err)
	}
	// The config has no ID: the answer of one that lost is lost too.
	config := kassett.Handle{Kind: kassett.ConfigFile}
	theirs, ours := []byte("theirs"), []byte("ours!!")
	if err := s.Put(t.Context(), config, kassett.BytesBody(theirs, kassett.Hash(theirs))); err != nil {
		t.Fatal(err)
	}
	f.set(first(1, http.MethodPut, f.lost))
	if err := s.Put(t.Context(), config, kassett.BytesBody(ours, kassett.Hash(ours))); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("Put of a config beside another's: %v", err)
	}
	// A stream cannot be sent again by the storage, but may have come.
	h, b = body(storagetest.Random(3, 300_000))
	open := b.Open
	b.Open = func() (io.ReadCloser, error) { r, err := open(); return io.NopCloser(io.LimitReader(r, 1<<40)), err }
	f.set(first(1, http.MethodPut, f.lost))
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Errorf("Put of a stream whose answer was lost: %v", err)
	}
	if err := s.Put(t.Context(), h, b); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("the same again: %v", err)
	}
}

// TestWrongBytesOnTheWay turns bits over between us and the server, which must
// refuse what comes, and changes the length of what the server sends.
func TestWrongBytesOnTheWay(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	s := f.through(t, server, server.Bucket(t, false))
	content := storagetest.Random(4, 100_000)
	h, b := body(content)
	flip := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		sent, _ := io.ReadAll(r.Body)
		sent[len(sent)/2] ^= 1
		r.Body = io.NopCloser(bytes.NewReader(sent))
		f.real.ServeHTTP(w, r)
		return true
	}
	f.set(flip)
	if err := s.Put(t.Context(), h, b); kassett.KindOf(err) != kassett.Corrupt {
		t.Errorf("Put with a bit turned over: %v", err)
	}
	if _, err := s.Stat(t.Context(), h); kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("it is there: %v", err)
	}
	f.set(first(2, http.MethodPut, flip)) // what is right here is sent again
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Fatal(err)
	}
	read := func(off, n int64) error {
		r, err := s.Get(t.Context(), h, off, n)
		if err != nil {
			return err
		}
		_, err = io.ReadAll(r)
		return errors.Join(err, r.Close())
	}
	withoutRange := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(content)
		return true
	}
	short := func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "100000")
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		_, _ = w.Write(content[:50_000])
		panic(http.ErrAbortHandler)
	}
	for name, c := range map[string]struct {
		harm   func(http.ResponseWriter, *http.Request) bool
		off, n int64
		kind   kassett.Kind
	}{
		"all instead of a part from the middle": {withoutRange, 10, 100, kassett.Invalid},
		"all instead of the rest":               {withoutRange, 10, -1, kassett.Invalid},
		"all instead of the beginning":          {withoutRange, 0, 100, kassett.Invalid},
		"cut in the middle":                     {short, 0, -1, kassett.Offline},
		"cut in the middle, with a length":      {short, 0, 100_000, kassett.Offline},
	} {
		f.set(c.harm)
		if err := read(c.off, c.n); kassett.KindOf(err) != c.kind || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want %s", name, err, c.kind)
		}
	}
}

// TestNoAnswer stops calls that wait for a server that says nothing.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	s := f.through(t, server, server.Bucket(t, false))
	h, b := body(storagetest.Random(5, 1000))
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Fatal(err)
	}
	for call, do := range calls {
		ctx, stop := context.WithCancel(t.Context())
		f.set(func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client go
			stop()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		})
		if err := do(ctx, s, h); kassett.KindOf(err) != kassett.Interrupted {
			t.Errorf("%s: %v", call, err)
		}
		stop()
	}
}

// TestListingLagsBehind hides objects from listings, as stores may that are not
// strict: what asks for a file by its name is right all the same.
func TestListingLagsBehind(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	s := f.through(t, server, server.Bucket(t, false))
	h, b := body(storagetest.Random(6, 1000))
	var old []byte
	var header http.Header
	f.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("list-type") == "" {
			return false
		}
		if old == nil {
			rec := httptest.NewRecorder()
			f.real.ServeHTTP(rec, r)
			old, header = rec.Body.Bytes(), rec.Header()
		}
		maps.Copy(w.Header(), header)
		_, _ = w.Write(old)
		return true
	})
	if err := calls["list"](t.Context(), s, h); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Fatal(err)
	}
	for in := range s.List(t.Context(), kassett.PackFile) {
		t.Errorf("the test hides nothing: %v", in)
	}
	if in, err := s.Stat(t.Context(), h); err != nil || in.Size != 1000 || time.Since(in.Received).Abs() > time.Hour {
		t.Errorf("Stat = %+v, %v", in, err)
	}
	if err := s.Put(t.Context(), h, b); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("second Put: %v", err)
	}
	if err := s.Delete(t.Context(), h); err != nil {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), h); kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("second Delete: %v", err)
	}
}

// TestConflict answers puts as Amazon's does when another put of the same name
// is under way.
func TestConflict(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	f := newFront(t, server)
	s := f.through(t, server, server.Bucket(t, false))
	h, b := body(storagetest.Random(7, 1000))
	f.set(first(2, http.MethodPut, answer(http.StatusConflict, "ConditionalRequestConflict")))
	if err := s.Put(t.Context(), h, b); err != nil {
		t.Error(err)
	}
	if err := calls["get"](t.Context(), s, h); err != nil {
		t.Error(err)
	}
}
