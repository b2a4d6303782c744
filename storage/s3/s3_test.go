package s3_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"go.uber.org/goleak"

	"kassett"
	"kassett/storage/s3"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are for a bucket of a running server.
func options(t *testing.T, server *s3test.Server, bucket string) s3.Options {
	t.Helper()
	o, err := s3.ParsePlace(server.URL + "/" + bucket + "/some/folder")
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{MaxIdleConnsPerHost: 32}
	o.Transport, o.Region = tr, s3test.Region
	o.Credentials = s3.Credentials{AccessKey: server.Root.Access, SecretKey: server.Root.Secret}
	t.Cleanup(tr.CloseIdleConnections)
	return o
}

func open(t *testing.T, o s3.Options) *s3.Storage {
	t.Helper()
	s, err := s3.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorage(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	storagetest.Run(t, func(t *testing.T) kassett.Storage { return open(t, options(t, server, server.Bucket(t, false))) })
}

// TestWithoutConditions holds a storage to the same promises on a server that
// does not know conditional puts, but for puts side by side.
func TestWithoutConditions(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(t, server, server.Bucket(t, false))
	o.NoConditions, o.Prefix = true, ""
	s := open(t, o)
	for i, want := range []kassett.Kind{kassett.Other, kassett.Exists} {
		h, b := body([]byte("once"))
		if err := s.Put(t.Context(), h, b); kassett.KindOf(err) != want || (err == nil) != (i == 0) {
			t.Errorf("Put number %d: %v", i+1, err)
		}
	}
}

// TestLargeFiles stores in parts what is too large for one request, and leaves
// nothing of what is wrong or was stopped.
func TestLargeFiles(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s := open(t, options(t, server, server.Bucket(t, false)))
	s.SetSingle(5 << 20) // the smallest part that S3 takes
	b := storagetest.Random(1, 12<<20+345)
	sum := kassett.Hash(b)
	streamed := func(b []byte, sum kassett.ID) kassett.Body {
		return kassett.Body{Size: 12<<20 + 345, Sum: sum, Open: func() (io.ReadCloser, error) {
			return io.NopCloser(io.LimitReader(bytes.NewReader(b), 1<<40)), nil
		}}
	}
	h := kassett.Handle{Kind: kassett.PackFile, ID: sum}
	flipped := bytes.Clone(b)
	flipped[11<<20] ^= 1
	for name, wrong := range map[string]kassett.Body{"flipped": streamed(flipped, sum), "short": streamed(b[:12<<20], sum), "long": streamed(append(bytes.Clone(b), 1), sum)} {
		if err := s.Put(t.Context(), h, wrong); kassett.KindOf(err) != kassett.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.Stat(t.Context(), h); kassett.KindOf(err) != kassett.NotFound {
		t.Errorf("a wrong body is there: %v", err)
	}
	if n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("wrong bodies left %d uploads, %v", n, err)
	}
	if err := s.Put(t.Context(), h, streamed(b, sum)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), h, streamed(b, sum)); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("second Put: %v", err)
	}
	r, err := s.Get(t.Context(), h, 5<<20-10, 5<<20+20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, b[5<<20-10:10<<20+10]) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// TestSweep ends the uploads of others that were cut, when they are old.
func TestSweep(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(t, server, server.Bucket(t, false))
	s := open(t, o)
	core := minio.Core{Client: server.Client(t, server.Root)}
	h, _ := body([]byte("x"))
	for _, key := range []string{o.Prefix + "/data/" + h.ID.String()[:2] + "/" + h.ID.String(), o.Prefix + "/letter", "elsewhere"} {
		if _, err := core.NewMultipartUpload(t.Context(), o.Bucket, key, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		before time.Time
		want   int
	}{{time.Now().Add(-time.Hour), 0}, {time.Now().Add(time.Hour), 1}, {time.Now().Add(time.Hour), 0}} {
		if n, err := s.Sweep(t.Context(), c.before); n != c.want || err != nil {
			t.Errorf("Sweep removed %d, %v; want %d", n, err, c.want)
		}
	}
}

// TestCreate makes a bucket, and refuses what holds something already.
func TestCreate(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(t, server, "not-there-yet")
	put := func(k kassett.FileKind) {
		t.Helper()
		h := kassett.Handle{Kind: k}
		if k != kassett.ConfigFile {
			h.ID = kassett.Hash(nil)
		}
		if err := open(t, o).Put(t.Context(), h, kassett.BytesBody(nil, kassett.Hash(nil))); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := s3.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	put(kassett.KeyFile)
	if _, err := s3.Create(t.Context(), o); kassett.KindOf(err) != kassett.Exists || !strings.Contains(kassett.HintOf(err), "config") {
		t.Errorf("Create over keys: %v (%s)", err, kassett.HintOf(err))
	}
	put(kassett.ConfigFile)
	if _, err := s3.Create(t.Context(), o); kassett.KindOf(err) != kassett.Exists {
		t.Errorf("Create over a repository: %v", err)
	}

	// Errors that a first user meets, from the real server.
	_, err := open(t, options(t, server, "nowhere")).Get(t.Context(), kassett.Handle{Kind: kassett.ConfigFile}, 0, -1)
	if kassett.KindOf(err) != kassett.NotFound || !strings.Contains(kassett.HintOf(err), "name of the bucket") {
		t.Errorf("Get from no bucket: %v (%s)", err, kassett.HintOf(err))
	}
	other := o
	other.Region = "us-west-2"
	_, err = open(t, other).Get(t.Context(), kassett.Handle{Kind: kassett.ConfigFile}, 0, -1)
	if kassett.KindOf(err) != kassett.Invalid || !strings.Contains(kassett.HintOf(err), "s3.region") {
		t.Errorf("Get with another region: %v (%s)", err, kassett.HintOf(err))
	}
	other = o
	other.Credentials.SecretKey += "x"
	if _, err = s3.Create(t.Context(), other); kassett.KindOf(err) != kassett.Denied || !strings.Contains(kassett.HintOf(err), "AWS_SECRET_ACCESS_KEY") {
		t.Errorf("Create with a wrong key: %v (%s)", err, kassett.HintOf(err))
	}
	other = o
	other.Plain = false
	if _, err = s3.Create(t.Context(), other); kassett.KindOf(err) != kassett.Invalid || !strings.Contains(kassett.HintOf(err), "http://") {
		t.Errorf("Create over HTTPS: %v (%s)", err, kassett.HintOf(err))
	}
}
