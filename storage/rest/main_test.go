package rest_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"kassett"
	"kassett/repo/record"
	"kassett/storage/local"
	"kassett/storage/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// password is what every client of these tests has.
const password = "correct horse battery"

// hash is the password's, as cheap as a clients file may have it.
var hash = sync.OnceValue(func() string {
	b, err := bcrypt.GenerateFromPassword([]byte(password), 10)
	if err != nil {
		panic(err)
	}
	return string(b)
})

// clients reads lines of a clients file, with PW for the password's hash.
func clients(t *testing.T, lines ...string) *rest.Clients {
	t.Helper()
	text := strings.ReplaceAll(strings.Join(lines, "\n"), "PW", "password="+hash())
	c, err := rest.ReadClients(strings.NewReader(text), "clients")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// records judges records as cmd/kassett has it done.
type records struct{}

func (records) Vet(ctx context.Context, beside kassett.Beside, name string, file []byte) (bool, error) {
	kind, err := record.Vet(ctx, beside, name, file)
	return kind == record.Lift || kind == record.Retire, err
}

func (records) MayForget(ctx context.Context, st kassett.Storage, in kassett.Info, now time.Time) error {
	return record.MayForget(ctx, st, in, now)
}

// logged is a log that tests look into.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// want checks that a line of the log holds all of the words.
func (l *logged) want(t *testing.T, words ...string) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return
		}
	}
	t.Errorf("the log has no line with %q:\n%s", words, tail(l.String()))
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

// server is a server under test.
type server struct {
	dir     string
	host    string // host:port
	handler *rest.Handler
	log     *logged
	stop    func()
}

// change alters how a server is made.
type change func(*server, *rest.Config)

// serve starts a server of repositories below a folder.
func serve(t *testing.T, c *rest.Clients, changes ...change) *server {
	t.Helper()
	return serveDir(t, filepath.Join(t.TempDir(), "data"), c, changes...)
}

func serveDir(t *testing.T, dir string, c *rest.Clients, changes ...change) *server {
	t.Helper()
	s := &server{dir: dir, log: &logged{}}
	config := rest.Config{
		Open:    s.open,
		Clients: c,
		Records: records{},
		Log:     slog.New(slog.NewJSONHandler(s.log, nil)),
	}
	for _, change := range changes {
		change(s, &config)
	}
	s.handler = rest.NewHandler(config)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.host = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rest.Serve(ctx, l, s.handler, rest.ServeOptions{Log: config.Log}) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := s.handler.Close(context.Background()); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *server) open(ctx context.Context, path string, create bool) (kassett.Storage, error) {
	open := local.Open
	if create {
		open = local.Create
	}
	st, err := open(filepath.Join(s.dir, filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	return st, st.MarkServed(ctx)
}

func (s *server) url(path string) string { return "http://" + s.host + "/" + path }

// options are those of a client.
func options(t *testing.T, client string) rest.Options {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return rest.Options{Username: client, Password: password, Transport: tr}
}

// create makes the place of a repository.
func (s *server) create(t *testing.T, client, path string) kassett.Storage {
	t.Helper()
	st, err := rest.Create(t.Context(), s.url(path), options(t, client))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// openAs opens a repository as a client.
func (s *server) openAs(t *testing.T, client, path string) kassett.Storage {
	t.Helper()
	st, err := rest.Open(t.Context(), s.url(path), options(t, client))
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// answer is what a server answered.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request as a client, with the path as it stands.
func (s *server) ask(t *testing.T, client, method, path string, body []byte) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.host, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Opaque = "//" + s.host + path // nothing is cleaned or encoded
	req.ContentLength = int64(len(body))
	if len(body) == 0 {
		req.Body = http.NoBody
	}
	req.SetBasicAuth(client, password)
	tr := &http.Transport{DisableKeepAlives: true}
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}
