package rest_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kassett"
	"kassett/repo"
	"kassett/repo/record"
	"kassett/snapshot"
	"kassett/storage/local"
	"kassett/storage/rest"
	"kassett/storage/storagetest"
)

// door is a server with one repository, "a/host", that the client "maker" has
// made, and clients of all sorts.
type door struct {
	*server
	repo map[kassett.FileKind]kassett.Handle // one file of each kind
}

func openDoor(t *testing.T, changes ...change) *door {
	t.Helper()
	s := serve(t, clients(t,
		"# clients of the hostile tests",
		"maker PW rights=full path=*",
		"host PW rights=append,data path=a/host",
		"other PW rights=append,data path=a/host",
		"blind PW rights=append path=a/host quota=1MiB",
		"looker PW rights=metadata path=a/host",
		"young PW rights=init,append path=b/new",
		"late PW rights=full floor=30d path=a/host",
		"away PW rights=full path=c/*",
	), changes...)
	d := &door{s, map[kassett.FileKind]kassett.Handle{}}
	st := d.create(t, "maker", "a/host")
	for i, k := range []kassett.FileKind{
		kassett.KeyFile, kassett.ConfigFile, kassett.PackFile, kassett.IndexFile, kassett.SnapshotFile, kassett.LockFile,
	} {
		d.repo[k] = put(t, st, k, storagetest.Random(uint64(i), 2000+i))
	}
	beside := st.(kassett.Beside)
	for _, name := range []string{"parity/1", "doomed/2"} {
		if err := beside.PutBeside(t.Context(), name, kassett.BytesBody([]byte(name), kassett.Hash([]byte(name)))); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func put(t *testing.T, st kassett.Storage, k kassett.FileKind, b []byte) kassett.Handle {
	t.Helper()
	h := kassett.Handle{Kind: k}
	if k != kassett.ConfigFile {
		h.ID = kassett.Hash(b)
	}
	if err := st.Put(t.Context(), h, kassett.BytesBody(b, kassett.Hash(b))); err != nil {
		t.Fatalf("Put(%s): %v", h, err)
	}
	return h
}

// files returns the sums of all files below a server's folder, without those
// that the server writes for itself.
func (s *server) files(t *testing.T) map[string]kassett.ID {
	t.Helper()
	all := map[string]kassett.ID{}
	err := filepath.WalkDir(s.dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.Contains(path, filepath.Join("kassett", "served")) {
			return err
		}
		b, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, s.dir)] = kassett.Hash(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// unchanged checks that nothing is missing, added or altered.
func (s *server) unchanged(t *testing.T, before map[string]kassett.ID) {
	t.Helper()
	after := s.files(t)
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if after[name] != before[name] {
			t.Errorf("%s was removed or altered", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, was := before[name]; !was {
			t.Errorf("%s was added", name)
		}
	}
}

// TestHostileClient has clients try everything that they have no right to. Each
// attempt is refused, named in the log with who and what, and leaves no trace.
func TestHostileClient(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	before := d.files(t)
	path := func(k kassett.FileKind) string { return "/a/host/" + d.repo[k].String() }
	fresh := storagetest.Random(99, 3000)
	id := kassett.Hash(fresh).String()
	same := storagetest.Random(uint64(2), 2002) // the pack that is there
	for _, c := range []struct {
		name, client, method, path string
		body                       []byte
		status                     int
		why                        string
	}{
		{"overwrite a pack", "host", "POST", path(kassett.PackFile), fresh[:2002], 409, "never replaced"},
		{"overwrite an index", "host", "POST", path(kassett.IndexFile), fresh, 409, "never replaced"},
		{"overwrite a snapshot", "host", "POST", path(kassett.SnapshotFile), fresh, 409, "never replaced"},
		{"overwrite the config", "host", "POST", path(kassett.ConfigFile), fresh, 409, "never replaced"},
		{"overwrite the config with all rights", "maker", "POST", path(kassett.ConfigFile), fresh, 409, "never replaced"},
		{"overwrite a key", "host", "POST", path(kassett.KeyFile), fresh, 403, "right"},
		{"a new key", "host", "POST", "/a/host/keys/" + id, fresh, 403, "right"},
		{"a pack of another content", "host", "POST", "/a/host/data/" + id, same, 400, "SHA-256"},
		{"an index of another content", "host", "POST", "/a/host/index/" + id, same, 400, "SHA-256"},
		{"a lock of another content", "host", "POST", "/a/host/locks/" + id, same, 400, "SHA-256"},
		{"an empty file", "host", "POST", "/a/host/data/" + id, nil, 400, "empty"},
		{"delete a pack", "host", "DELETE", path(kassett.PackFile), nil, 403, "right"},
		{"delete an index", "host", "DELETE", path(kassett.IndexFile), nil, 403, "right"},
		{"delete a snapshot", "host", "DELETE", path(kassett.SnapshotFile), nil, 403, "right"},
		{"delete a key", "host", "DELETE", path(kassett.KeyFile), nil, 403, "right"},
		{"delete the config", "host", "DELETE", path(kassett.ConfigFile), nil, 403, "right"},
		{"delete the config with all rights", "maker", "DELETE", path(kassett.ConfigFile), nil, 403, "never removed"},
		{"delete the last key with all rights", "maker", "DELETE", path(kassett.KeyFile), nil, 403, "last key"},
		{"delete another's lock", "host", "DELETE", path(kassett.LockFile), nil, 403, "made by maker"},
		{"take over another's lock", "host", "POST", path(kassett.LockFile), fresh, 409, "never replaced"},
		{"delete a young snapshot", "late", "DELETE", path(kassett.SnapshotFile), nil, 403, "from"},
		{"delete the repository", "host", "DELETE", "/a/host/", nil, 403, "whole repository"},
		{"delete the repository with all rights", "maker", "DELETE", "/a/host/", nil, 403, "whole repository"},
		{"delete beside", "host", "DELETE", "/a/host/kassett/doomed/2", nil, 403, "right"},
		{"doom all packs", "host", "POST", "/a/host/kassett/doomed/" + id, fresh, 403, "right"},
		{"read the server's own", "host", "GET", "/a/host/kassett/served/since", nil, 403, "own"},
		{"write the server's own", "maker", "POST", "/a/host/kassett/served/used/0", fresh, 403, "own"},
		{"delete the server's own", "maker", "DELETE", "/a/host/kassett/served/since", nil, 403, "own"},
		{"delete a record with all rights", "maker", "DELETE", "/a/host/kassett/records/signer", nil, 403, "never removed"},
		{"beside without a sum", "host", "POST", "/a/host/kassett/x", fresh, 400, "Content-Digest"},
		{"another's repository", "away", "GET", "/a/host/config", nil, 403, "no right to this repository"},
		{"another's listing", "away", "GET", "/a/host/data/", nil, 403, "no right to this repository"},
		{"another's pack", "away", "GET", path(kassett.PackFile), nil, 403, "no right to this repository"},
		{"into another's", "away", "POST", "/a/host/data/" + id, fresh, 403, "no right to this repository"},
		{"a repository that nobody has", "host", "GET", "/a/none/config", nil, 403, "no right to this repository"},
		{"read data without the right", "blind", "GET", path(kassett.PackFile), nil, 403, "data"},
		{"read data by looking only", "looker", "GET", path(kassett.PackFile), nil, 403, "data"},
		{"write by looking only", "looker", "POST", "/a/host/data/" + id, fresh, 403, "append"},
		{"lock by looking only", "looker", "POST", "/a/host/locks/" + id, fresh, 403, "append"},
		{"a repository without the right", "host", "POST", "/a/host/sub/?create=true", nil, 403, "no right to this repository"},
		{"rename", "host", "MOVE", path(kassett.PackFile), nil, 403, "method"},
		{"put", "host", "PUT", path(kassett.PackFile), fresh, 403, "method"},
		{"patch", "host", "PATCH", path(kassett.PackFile), fresh, 403, "method"},
		{"up and away", "host", "GET", "/a/host/../../etc/passwd", nil, 400, "path"},
		{"up by encoding", "host", "GET", "/a/host/%2e%2e/%2e%2e/etc/passwd", nil, 400, "path"},
		{"a slash by encoding", "host", "GET", "/a%2fhost/config", nil, 400, "path"},
		{"a backslash", "host", "GET", `/a/host\..\config`, nil, 400, "path"},
		{"two slashes", "host", "GET", "//a/host/config", nil, 400, "path"},
		{"two slashes inside", "host", "GET", "/a//host/config", nil, 400, "path"},
		{"a dot", "host", "GET", "/a/./host/config", nil, 400, "path"},
		{"capitals", "host", "GET", "/A/host/config", nil, 400, "path"},
		{"an id in capitals", "host", "GET", "/a/host/data/" + strings.ToUpper(id), nil, 400, "path"},
		{"a short id", "host", "POST", "/a/host/data/" + id[:63], fresh, 400, "name"},
		{"a long id", "host", "POST", "/a/host/data/" + id + "0", fresh, 400, "name"},
		{"a temporary name", "host", "POST", "/a/host/data/" + id + "-tmp-1", fresh, 400, "name"},
		{"a stream", "host", "POST", "/a/host/data/" + id + ":x", fresh, 400, "path"},
		{"a zero byte", "host", "GET", "/a/host/data/%00", nil, 400, "path"},
		{"a folder below data", "host", "POST", "/a/host/data/00/" + id, fresh, 400, ""},
		{"beside, up", "host", "GET", "/a/host/kassett/../config", nil, 400, "name"},
		{"another kind", "host", "POST", "/a/host/other/" + id, fresh, 403, "no right to this repository"},
		{"a very long path", "host", "GET", "/a/host/" + strings.Repeat("x", 5000), nil, 400, "path"},
		{"too much for a key", "maker", "POST", "/a/host/keys/" + id, make([]byte, 100_000), 507, "at most"},
		{"more than the quota", "blind", "POST", "/a/host/data/" + id, make([]byte, 1<<20), 507, "quota"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := d.ask(t, c.client, c.method, c.path, c.body)
			if a.status != c.status {
				t.Errorf("%s %s as %s: %d %q, want %d", c.method, c.path, c.client, a.status, a.body, c.status)
			}
			if strings.Contains(a.body, d.dir) || strings.Contains(a.body, password) {
				t.Errorf("the answer tells too much: %q", a.body)
			}
			// The path is in the log as JSON has it, which escapes.
			d.log.want(t, `"msg":"refused"`, `"client":"`+c.client+`"`, `"method":"`+c.method+`"`, `"remote":"127.0.0.1:`, c.why)
		})
	}
	d.unchanged(t, before)
	if strings.Contains(d.log.String(), password) {
		t.Error("a password is in the log")
	}
}

// TestLogIsEscaped: what a stranger sends cannot write lines of its own.
func TestLogIsEscaped(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	lines := strings.Count(d.log.String(), "\n")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url("a/host/config"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("x\n{\"msg\":\"forged\"}\n\x1b[31m", "y")
	resp, err := options(t, "").Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if n := strings.Count(d.log.String(), "\n") - lines; n != 1 || strings.Contains(d.log.String(), "\x1b") {
		t.Errorf("%d lines, want 1: %q", n, tail(d.log.String()))
	}
}

// TestInit: who may make a repository makes its first key and its config, and
// none later.
func TestInit(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	key, config := storagetest.Random(1, 400), storagetest.Random(2, 150)
	id := kassett.Hash(key).String()
	for _, c := range []struct {
		name, method, path string
		body               []byte
		status             int
	}{
		{"nothing is there", "HEAD", "/b/new/config", nil, 404},
		{"a key before the place", "POST", "/b/new/keys/" + id, key, 404},
		{"the place", "POST", "/b/new/?create=true", nil, 200},
		{"the place again", "POST", "/b/new/?create=true", nil, 200},
		{"the key", "POST", "/b/new/keys/" + id, key, 200},
		{"the config", "POST", "/b/new/config", config, 200},
		{"another config", "POST", "/b/new/config", key, 409},
		{"another key", "POST", "/b/new/keys/" + kassett.Hash(config).String(), config, 403},
		{"the key goes", "DELETE", "/b/new/keys/" + id, nil, 403},
		{"a repository inside", "POST", "/b/new/inner/?create=true", nil, 403},
	} {
		if a := d.ask(t, "young", c.method, c.path, c.body); a.status != c.status {
			t.Errorf("%s: %d %q, want %d", c.name, a.status, a.body, c.status)
		}
	}
}

// TestOwnLocks refreshes a lock as restic does, across a restart of the server:
// the new one first, then the old one goes. Nobody else's does.
func TestOwnLocks(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	lock := func(n int) (string, []byte) {
		b := storagetest.Random(uint64(1000+n), 300)
		return "/a/host/locks/" + kassett.Hash(b).String(), b
	}
	want := func(s *server, what string, status int, client, method, path string, body []byte) {
		t.Helper()
		if a := s.ask(t, client, method, path, body); a.status != status {
			t.Errorf("%s: %d %q, want %d", what, a.status, a.body, status)
		}
	}
	first, b1 := lock(1)
	second, b2 := lock(2)
	want(d.server, "lock", 200, "host", "POST", first, b1)
	want(d.server, "lock again after a lost answer", 200, "host", "POST", first, b1)
	want(d.server, "lock of the same bytes by another", 200, "other", "POST", first, b1)
	want(d.server, "which does not make it the other's", 403, "other", "DELETE", first, nil)
	d.stop()
	again := serveDir(t, d.dir, clients(t, "host PW rights=append,data path=a/host", "other PW rights=append path=a/host", "maker PW rights=full path=*"))
	want(again, "another's lock after a restart", 403, "other", "DELETE", first, nil)
	want(again, "refresh", 200, "host", "POST", second, b2)
	want(again, "the old one goes", 200, "host", "DELETE", first, nil)
	want(again, "it is gone", 404, "host", "DELETE", first, nil)
	want(again, "the new one goes", 200, "host", "DELETE", second, nil)
	want(again, "any lock goes for who may do all", 200, "maker", "DELETE", "/a/host/"+d.repo[kassett.LockFile].String(), nil)
	if left, _ := filepath.Glob(filepath.Join(d.dir, "a/host/kassett/served/locks/*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLocksExpire by the server's clock, which the test moves. A lock that came
// in before the server was started counts too.
func TestLocksExpire(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.Date(2026, 11, 22, 3, 0, 0, 0, time.UTC) // without a monotonic part
	clock := func(_ *server, c *rest.Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	}
	pass := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	d := openDoor(t, clock)
	locks := func(s *server) int {
		return strings.Count(s.ask(t, "host", "GET", "/a/host/locks/", nil).body, `"`) / 2
	}
	b := storagetest.Random(7, 300)
	pass(20 * time.Minute)
	if a := d.ask(t, "host", "POST", "/a/host/locks/"+kassett.Hash(b).String(), b); a.status != 200 {
		t.Fatal(a)
	}
	if n := locks(d.server); n != 2 {
		t.Errorf("%d locks, want 2", n)
	}
	pass(16 * time.Minute) // the maker's is 36 minutes old, the host's 16
	if n := locks(d.server); n != 1 {
		t.Errorf("%d locks after 36 minutes, want 1", n)
	}
	d.log.want(t, `"msg":"lock expired"`, `"client":"maker"`)
	d.stop()
	again := serveDir(t, d.dir, clients(t, "host PW rights=append path=a/host"), clock)
	if n := locks(again); n != 1 {
		t.Errorf("%d locks after a restart, want 1", n)
	}
	pass(20 * time.Minute)
	if n := locks(again); n != 0 {
		t.Errorf("%d locks after 36 minutes and a restart, want 0", n)
	}
}

// TestManyLocks: one client cannot fill the folder of locks.
func TestManyLocks(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	st := d.openAs(t, "host", "a/host")
	for i := range 110 {
		b := storagetest.Random(uint64(5000+i), 200)
		err := st.Put(t.Context(), kassett.Handle{Kind: kassett.LockFile, ID: kassett.Hash(b)}, kassett.BytesBody(b, kassett.Hash(b)))
		if full := i >= 100; full != (kassett.KindOf(err) == kassett.Full) {
			t.Fatalf("lock %d: %v", i, err)
		}
	}
}

// TestQuota has many uploads run side by side: together they stay below the
// quota, also across a restart, and what failed takes no room.
func TestQuota(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	st := d.openAs(t, "blind", "a/host") // 1 MiB, of which some is used
	var wg sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for i := range 40 {
		wg.Go(func() {
			b := storagetest.Random(uint64(100+i), 64<<10)
			err := st.Put(t.Context(), kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}, kassett.BytesBody(b, kassett.Hash(b)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				stored++
			} else if kassett.KindOf(err) != kassett.Full {
				t.Errorf("Put: %v", err)
			}
		})
	}
	wg.Wait()
	if stored != 15 {
		t.Errorf("%d files of 64 KiB fit in 1 MiB less some KiB, want 15", stored)
	}
	d.stop()
	if used, _ := filepath.Glob(filepath.Join(d.dir, "a/host/kassett/served/used/*")); len(used) != 1 {
		t.Errorf("what is used was not written down: %v", used)
	}
	again := serveDir(t, d.dir, clients(t, "blind PW rights=append path=a/host quota=1MiB"))
	b := storagetest.Random(1, 64<<10)
	if a := again.ask(t, "blind", "POST", "/a/host/data/"+kassett.Hash(b).String(), b); a.status != 507 {
		t.Errorf("after a restart: %d %q", a.status, a.body)
	}
}

// raw opens a connection and writes text to it.
func (s *server) raw(t *testing.T, text string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c
}

func basic(client string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(client+":"+password)) + "\r\n"
}

// TestUploadsThatDoNotEnd: without a length, longer or shorter than announced,
// cut off. Nothing of them is left.
func TestUploadsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	before := d.files(t)
	id := kassett.Hash([]byte("x")).String()
	head := "POST /a/host/data/" + id + " HTTP/1.1\r\nHost: x\r\n" + basic("host")
	status := func(c net.Conn) string {
		b := make([]byte, 12)
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		_, _ = io.ReadFull(c, b)
		return string(b)
	}
	chunked := d.raw(t, head+"Transfer-Encoding: chunked\r\n\r\n")
	if got := status(chunked); got != "HTTP/1.1 400" {
		t.Errorf("an upload without a length: %q", got)
	}
	huge := d.raw(t, head+"Content-Length: 9223372036854775807\r\n\r\nxxx")
	if got := status(huge); got != "HTTP/1.1 507" {
		t.Errorf("an upload without an end: %q", got)
	}
	long := d.raw(t, head+"Content-Length: 3\r\n\r\nxxxyyy")
	if got := status(long); got != "HTTP/1.1 400" {
		t.Errorf("an upload longer than announced: %q", got)
	}
	cut := d.raw(t, head+"Content-Length: 100000\r\n\r\nxxx")
	cut.Close()
	waitFor(t, func() bool { return strings.Contains(d.log.String(), "did not come whole") })
	d.unchanged(t, before)
}

// waitFor waits until something is so.
func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(end) {
			t.Fatal("it does not come to pass")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestManyConnections opens ten thousand connections that say little or
// nothing. The server's memory is bounded, and others are served meanwhile.
func TestManyConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SHORT: 127.0.0.2 is an address of this machine on Linux only")
	}
	d := openDoor(t)
	st := d.openAs(t, "host", "a/host")
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before, most := heap(), uint64(0)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	// From an address of its own, as another machine would.
	dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}, Timeout: 10 * time.Second}
	texts := []string{"", "G", "GET /a/host/config HTTP/1.1\r\nHost: x\r\nX-", "POST /a/host/data/00 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"}
	for i := range 10_000 {
		c, err := dial.DialContext(t.Context(), "tcp", d.host)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_, _ = io.WriteString(c, texts[i%len(texts)]) // most are closed by then
		if open = append(open, c); len(open) > 800 {  // of the descriptors of this process
			open[0].Close()
			open = open[1:]
		}
		if i%1000 == 999 {
			if _, err := st.Stat(t.Context(), d.repo[kassett.PackFile]); err != nil {
				t.Errorf("beside %d connections: %v", i, err)
			}
			most = max(most, heap())
		}
	}
	grown := int64(most) - int64(before)
	t.Logf("the heap with stacks grew by %d KiB", grown>>10)
	if grown > 64<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}

// TestGuesses: wrong passwords are slowed, a name that is not there is not told
// from a wrong password, and who has the right one gets in all the time.
func TestGuesses(t *testing.T) {
	t.Parallel()
	d := openDoor(t)
	st := d.openAs(t, "host", "a/host")
	tr := options(t, "").Transport
	guess := func(name string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, d.url("a/host/config"), nil)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		var b [8]byte
		_, _ = rand.Read(b[:])
		req.SetBasicAuth(name, hex.EncodeToString(b[:]))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		return resp.StatusCode, string(text) + fmt.Sprint(resp.Header["Www-Authenticate"], resp.Header["Kassett-Storage"])
	}
	s1, t1 := guess("host")
	s2, t2 := guess("nobody")
	if s1 != 401 || s2 != 401 || t1 != t2 {
		t.Errorf("a known name: %d %q, an unknown one: %d %q", s1, t1, s2, t2)
	}
	var slowed atomic.Int32
	var wg sync.WaitGroup
	for range 40 { // at once, so that a slow machine does no part of the slowing
		wg.Go(func() {
			if s, _ := guess("host"); s == http.StatusTooManyRequests {
				slowed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := slowed.Load(); n < 20 {
		t.Errorf("%d of 40 guesses were slowed", n)
	}
	if _, err := st.Stat(t.Context(), d.repo[kassett.PackFile]); err != nil {
		t.Errorf("the right password from the same address: %v", err)
	}
	d.log.want(t, `"msg":"not let in"`, `"client":"nobody"`, "wrong name or password")
	d.log.want(t, "too many wrong passwords")
}

// TestFakeSnapshots floods a repository with snapshots of made-up times through
// the door. Forget, by who may, keeps the good ones and names the others; and a
// false index, which a server without the password cannot know, is found by
// check and mended by repair.
func TestFakeSnapshots(t *testing.T) {
	t.Parallel()
	s := serve(t, clients(t, "host PW rights=append,data,init path=host", "pruner PW rights=full path=*"))
	ctx := t.Context()
	cost := repo.Scrypt{N: 1 << 10, R: 8, P: 1}
	st := s.create(t, "host", "host")
	r, err := repo.Init(ctx, st, []byte("pw"), repo.InitOptions{Options: repo.Options{KeyCost: cost}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	tree := kassett.Hash([]byte("a tree"))
	save := func(at time.Time) kassett.ID {
		t.Helper()
		id, err := snapshot.Save(ctx, r, &snapshot.Snapshot{Time: at, Tree: tree, Hostname: "ward", Paths: []string{"/data"}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	now := time.Now()
	var good []kassett.ID
	for day := 10; day > 0; day-- { // ten nights; the server's file times are set back as if it had received them then
		at := now.AddDate(0, 0, -day)
		id := save(at)
		good = append(good, id)
		if err := os.Chtimes(filepath.Join(s.dir, "host/snapshots", id.String()), at, at); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		save(now.Add(time.Duration(i-75) * 4 * time.Hour)) // past, and future
	}
	asPruner, err := repo.Open(ctx, s.openAs(t, "pruner", "host"), []byte("pw"), repo.Options{KeyCost: cost})
	if err != nil {
		t.Fatal(err)
	}
	defer asPruner.Close()
	plan, err := snapshot.PlanForget(ctx, asPruner, snapshot.ForgetOptions{
		Policy: snapshot.Policy{Daily: 7}, Group: snapshot.GroupBy{Host: true, Paths: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	kept, odd := map[kassett.ID]bool{}, 0
	for _, d := range plan.Groups[0].Decisions {
		kept[d.Snapshot.ID] = d.Keep
		if d.Snapshot.Odd() {
			odd++
		}
	}
	for _, id := range good[4:] { // one of the seven days is today, which is the hostile host's
		if !kept[id] {
			t.Errorf("a good snapshot would go: %s", id.Short())
		}
	}
	if odd < 75 {
		t.Errorf("%d snapshots are named as odd", odd)
	}
	if removed, err := plan.Remove(ctx, asPruner, nil); err != nil || len(removed) < 75 {
		t.Errorf("Remove: %d, %v", len(removed), err)
	}
}

// TestRecordsAtTheDoor: a floor binds who may remove, a lift needs the right to
// remove, and a record that is none is refused.
func TestRecordsAtTheDoor(t *testing.T) {
	t.Parallel()
	s := serve(t, clients(t, "host PW rights=append,data,init path=host", "pruner PW rights=full path=*"))
	ctx := t.Context()
	r, err := repo.Init(ctx, s.create(t, "host", "host"), []byte("pw"), repo.InitOptions{Options: repo.Options{KeyCost: repo.Scrypt{N: 1 << 10, R: 8, P: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	save := func(host string) kassett.ID {
		id, err := snapshot.Save(ctx, r, &snapshot.Snapshot{Time: time.Now(), Tree: kassett.Hash(nil), Hostname: host, Paths: []string{"/"}})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, two := save("one"), save("two")
	hold, err := r.Records().Add(ctx, record.Record{Kind: record.Hold, Subject: record.Subject{Snapshot: one}, Reason: "case 7", By: []string{"Ada"}})
	if err != nil {
		t.Fatal(err)
	}
	if a := s.ask(t, "pruner", "DELETE", "/host/snapshots/"+one.String(), nil); a.status != 403 || !strings.Contains(a.body, "case 7") {
		t.Errorf("a held snapshot: %d %q", a.status, a.body)
	}
	if a := s.ask(t, "pruner", "DELETE", "/host/snapshots/"+two.String(), nil); a.status != 200 {
		t.Errorf("a snapshot that is not held, while the held one is there: %d %q", a.status, a.body)
	}
	lift := record.Record{Kind: record.Lift, Lifts: hold, Reason: "closed", By: []string{"Ada", "Bo"}}
	if _, err := r.Records().Add(ctx, lift); kassett.KindOf(err) != kassett.Denied {
		t.Errorf("a lift by who may append: %v", err)
	}
	forged := []byte(`{"kassett":"record/1"}` + "\n" + `{"ed25519":"","signature":""}` + "\n")
	beside := s.openAs(t, "host", "host").(kassett.Beside)
	if err := beside.PutBeside(ctx, "records/"+kassett.Hash(forged).String()+".json", kassett.BytesBody(forged, kassett.Hash(forged))); kassett.KindOf(err) != kassett.Invalid {
		t.Errorf("a forged record: %v", err)
	}
	full, err := repo.Open(ctx, s.openAs(t, "pruner", "host"), []byte("pw"), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := full.Records().Add(ctx, lift); err != nil {
		t.Errorf("a lift by who may remove: %v", err)
	}
	if a := s.ask(t, "pruner", "DELETE", "/host/snapshots/"+one.String(), nil); a.status != 200 {
		t.Errorf("a snapshot whose hold was lifted: %d %q", a.status, a.body)
	}
}

// TestListInConstantMemory lists a hundred thousand files through the door.
func TestListInConstantMemory(t *testing.T) {
	const files = 100_000
	many := &manyFiles{Memory: storagetest.NewMemory(), n: files}
	s := serve(t, clients(t, "host PW rights=append path=host"), func(_ *server, c *rest.Config) {
		c.Open = func(context.Context, string, bool) (kassett.Storage, error) { return many, nil }
	})
	put(t, many, kassett.ConfigFile, []byte("config"))
	st := s.openAs(t, "host", "host")
	var before, during runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	n, most := 0, uint64(0)
	for in, err := range st.List(t.Context(), kassett.PackFile) {
		if err != nil {
			t.Fatal(err)
		}
		if in.Received.IsZero() || in.Size != 5 {
			t.Fatalf("%+v", in)
		}
		if n++; n%(files/4) == 0 {
			runtime.GC()
			runtime.ReadMemStats(&during)
			most = max(most, during.HeapAlloc)
		}
	}
	if n != files {
		t.Errorf("%d files, want %d", n, files)
	}
	grown := int64(most) - int64(before.HeapAlloc)
	t.Logf("the heap grew by %d KiB", grown>>10)
	if grown > 4<<20 {
		t.Errorf("listing %d files took %d KiB", files, grown>>10)
	}
}

// manyFiles has made-up packs, each received at some time.
type manyFiles struct {
	*storagetest.Memory
	n int
}

func (m *manyFiles) List(_ context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		for i := range m.n {
			in := kassett.Info{Handle: kassett.Handle{Kind: k, ID: kassett.Hash([]byte(strconv.Itoa(i)))}, Size: 5, Received: time.Now()}
			if !yield(in, nil) {
				return
			}
		}
	}
}

// TestFalseIndex has a host that was taken over add an index file which names
// packs that are not there. The server has no key and cannot know. Check names
// it, repair of the index mends it, and what was stored before is whole.
func TestFalseIndex(t *testing.T) {
	t.Parallel()
	s := serve(t, clients(t, "host PW rights=append,data,init path=host"))
	ctx := t.Context()
	r, err := repo.Init(ctx, s.create(t, "host", "host"), []byte("pw"), repo.InitOptions{Options: repo.Options{KeyCost: repo.Scrypt{N: 1 << 10, R: 8, P: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.LoadIndex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	content := storagetest.Random(1, 50_000)
	w := r.NewWriter(ctx, repo.WriterOptions{})
	saved, err := w.Save(ctx, repo.DataBlob, content)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	// The same blob in a pack that nobody has, at a place that nobody knows.
	forged := fmt.Sprintf(`{"packs":[{"id":"%s","blobs":[{"id":"%s","type":"data","offset":0,"length":1000}]}]}`, kassett.Hash([]byte("no pack")), saved.ID)
	if _, err := r.SaveUnpacked(ctx, kassett.IndexFile, []byte(forged)); err != nil {
		t.Fatal(err)
	}
	onServer, err := local.Open(filepath.Join(s.dir, "host")) // who runs the server looks into it there
	if err != nil {
		t.Fatal(err)
	}
	admin, err := repo.Open(ctx, onServer, []byte("pw"), repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	check := func() (found int) {
		if err := admin.Check(ctx, repo.CheckOptions{}, func(repo.Finding) { found++ }); err != nil && kassett.KindOf(err) != kassett.Corrupt {
			t.Fatal(err)
		}
		return found
	}
	if check() == 0 {
		t.Error("check does not find a false index")
	}
	if _, err := admin.RepairIndex(ctx, repo.RepairOptions{}, func(repo.Finding) {}); err != nil {
		t.Fatal(err)
	}
	if n := check(); n != 0 {
		t.Errorf("after the repair check finds %d faults", n)
	}
	if err := admin.LoadIndex(ctx, nil); err != nil {
		t.Fatal(err)
	}
	back, err := admin.LoadBlob(ctx, repo.BlobHandle{ID: saved.ID, Type: repo.DataBlob}, nil)
	if err != nil || kassett.Hash(back) != kassett.Hash(content) {
		t.Errorf("what was stored before: %d bytes, %v", len(back), err)
	}
}
