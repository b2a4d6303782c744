package s3test_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett/storage/s3/s3test"
)

// TestServer holds the server to what the tests of others rely on: a locked
// version stays, and a user may do what a bucket's policy says, no more.
func TestServer(t *testing.T) {
	t.Parallel()
	s := s3test.Start(t)
	ctx := t.Context()
	bucket, root := s.Bucket(t, true), s.Client(t, s.Root)
	put, err := root.PutObject(ctx, bucket, "a/b", bytes.NewReader([]byte("x")), 1, minio.PutObjectOptions{
		Mode: minio.Compliance, RetainUntilDate: time.Now().Add(time.Hour), SendContentMd5: true,
	})
	if err != nil || put.VersionID == "" {
		t.Fatalf("put of a locked object: %+v, %v", put, err)
	}
	err = root.RemoveObject(ctx, bucket, "a/b", minio.RemoveObjectOptions{VersionID: put.VersionID, GovernanceBypass: true})
	if code := minio.ToErrorResponse(err).Code; code != "AccessDenied" {
		t.Errorf("removal of a locked version: %v", err)
	}
	user := s.Client(t, s.User(t))
	if _, err := user.StatObject(ctx, bucket, "a/b", minio.StatObjectOptions{}); minio.ToErrorResponse(err).Code != "AccessDenied" {
		t.Errorf("a stranger reads: %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.Folder, "data", bucket, "a", "b")); err != nil {
		t.Error(err)
	}
}

// TestVersion compares the version the tests look for with the one that is
// built.
func TestVersion(t *testing.T) {
	t.Parallel()
	mod, err := os.ReadFile(filepath.Join("..", "..", "..", "tools", "s3server", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`versitygw (v\S+)`).FindSubmatch(mod)
	if want == nil || string(want[1]) != s3test.Version {
		t.Errorf("s3test looks for %s, tools/s3server/go.mod says %s", s3test.Version, want)
	}
}
