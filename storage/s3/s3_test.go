package s3_test

import (
	"net/http"
	"testing"

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
