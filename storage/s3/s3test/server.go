// Package s3test starts a real S3 server for tests: versitygw on folders of the
// test, with versions and object lock, on a port of 127.0.0.1 that is free.
// tools/s3server.sh builds it; make deps does so.
package s3test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Version is the one that tools/s3server/go.mod pins.
const Version = "v1.8.0"

// Region is the region of every server that [Start] starts.
const Region = "eu-north-1"

// startLimit is how long a server may take to answer, on a busy machine.
const startLimit = 2 * time.Minute

// A Key is an access key and its secret.
type Key struct{ Access, Secret string }

// Server is a running S3 server.
type Server struct {
	URL    string // as http://127.0.0.1:40001
	Host   string // as 127.0.0.1:40001
	Root   Key    // may do everything
	Folder string // holds data/BUCKET/OBJECT: every object is a file
	binary string
	said   output
}

// Start starts a server, and stops it when the test ends. More arguments of
// versitygw may be given, such as --cert and --key. When the server is not built
// the test fails, or is skipped with SHORT=1.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{binary: filepath.Join(cache, "kassett-tools", "versitygw-"+Version), Folder: t.TempDir()}
	if _, err := os.Stat(s.binary); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1, and the S3 server is not built")
		}
		t.Fatalf("the S3 server is not built; make deps builds it, SHORT=1 leaves its tests out: %v", err)
	}
	s.Root = Key{"root" + word(), word() + word()}
	for _, name := range []string{"data", "versions", "iam"} {
		if err := os.Mkdir(filepath.Join(s.Folder, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	words := append([]string{
		"--port", "127.0.0.1:0", "--region", Region, "--keep-alive", "--quiet", "--iam-dir", filepath.Join(s.Folder, "iam"), "--iam-cache-disable",
	}, args...)
	words = append(words, "posix", "--versioning-dir", filepath.Join(s.Folder, "versions"), filepath.Join(s.Folder, "data"))
	cmd := exec.CommandContext(t.Context(), s.binary, words...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ROOT_ACCESS_KEY=" + s.Root.Access, "ROOT_SECRET_KEY=" + s.Root.Secret}
	cmd.Stdout, cmd.Stderr = &s.said, &s.said
	cmd.SysProcAttr = endWithParent()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // it is killed at the end; before that, what it said tells more
	}()
	t.Cleanup(func() { <-ended }) // the test's context kills it
	for begun := time.Now(); ; {
		if s.Host, err = listensAt(cmd.Process.Pid); err == nil {
			s.URL = "http://" + s.Host
			return s
		}
		select {
		case <-ended:
			t.Fatalf("the S3 server ended: %v\n%s", cmd.ProcessState, &s.said)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Since(begun) > startLimit {
			t.Fatalf("the S3 server does not answer: %v\n%s", err, &s.said)
		}
	}
}

// word returns letters that no other server has.
func word() string { return strings.ToLower(rand.Text()) }

// Client returns a client with a key of the server.
func (s *Server) Client(t testing.TB, k Key) *minio.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(tr.CloseIdleConnections)
	c, err := minio.New(s.Host, &minio.Options{
		Creds: credentials.NewStaticV4(k.Access, k.Secret, ""), Region: Region, Transport: tr,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Bucket makes an empty bucket and returns its name. One that locks has object
// lock, and with it versions.
func (s *Server) Bucket(t testing.TB, locks bool) string {
	t.Helper()
	name := "b-" + word()
	if err := s.Client(t, s.Root).MakeBucket(t.Context(), name, minio.MakeBucketOptions{Region: Region, ObjectLocking: locks}); err != nil {
		t.Fatalf("make bucket: %v\n%s", err, &s.said)
	}
	return name
}

// User makes a user who may do nothing until the policy of a bucket says so.
func (s *Server) User(t testing.TB) Key {
	t.Helper()
	k := Key{"user" + word(), word() + word()}
	s.admin(t, "create-user", "--access", k.Access, "--secret", k.Secret, "--role", "user")
	return k
}

// admin runs versitygw's own tool for administrators.
func (s *Server) admin(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.binary, append([]string{"admin"}, args...)...)
	cmd.Env = []string{
		"ADMIN_ACCESS_KEY=" + s.Root.Access, "ADMIN_SECRET_KEY=" + s.Root.Secret, "ADMIN_REGION=" + Region, "ADMIN_ENDPOINT_URL=" + s.URL,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("versitygw admin %s: %v\n%s", args[0], err, out)
	}
}

// listensAt returns the address of 127.0.0.1 at which a process listens, as
// Linux tells it (proc(5)).
func listensAt(pid int) (string, error) {
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	if err != nil {
		return "", err
	}
	const local, state, inode = 1, 3, 9 // columns
	listening := map[string]uint16{}    // port by socket
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) <= inode || f[state] != "0A" {
			continue
		}
		var port uint16
		if _, err := fmt.Sscanf(f[local], "0100007F:%X", &port); err == nil {
			listening["socket:["+f[inode]+"]"] = port
		}
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, name := range files {
		socket, _ := os.Readlink(name)
		if port, ok := listening[socket]; ok {
			return fmt.Sprintf("127.0.0.1:%d", port), nil
		}
	}
	return "", errors.Join(err, errors.New("it does not listen yet"))
}

// output keeps what the server says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements [io.Writer].
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String returns it.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
