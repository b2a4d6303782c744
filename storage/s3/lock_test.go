package s3_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
	"kassett/storage/s3"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

// key is the name of an object of a repository in the folder of options.
func key(n kassett.StoredName) string {
	name := n.String()
	if n.Kind == kassett.PackFile {
		name = "data/" + n.ID.String()[:2] + "/" + n.ID.String()
	}
	return "some/folder/" + name
}

// hostile returns what a raw client with the keys of the bucket does.
func hostile(c *minio.Client, bucket string) storagetest.Hostile {
	return func(t *testing.T, n kassett.StoredName, b []byte) {
		t.Helper()
		var err error
		if b == nil {
			err = c.RemoveObject(t.Context(), bucket, key(n), minio.RemoveObjectOptions{})
		} else {
			_, err = c.PutObject(t.Context(), bucket, key(n), bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func locked(t *testing.T, server *s3test.Server, mode kassett.RetentionMode) (*s3.Storage, string) {
	t.Helper()
	bucket := server.Bucket(t, true)
	o := options(t, server, bucket)
	o.Retention = kassett.Retention{Mode: mode, Period: time.Hour, Slack: time.Hour}
	return open(t, o), bucket
}

func TestLocked(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	for _, mode := range []kassett.RetentionMode{kassett.Compliance, kassett.Governance} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			storagetest.RunLocked(t, func(t *testing.T) (storagetest.LockedStorage, storagetest.Hostile) {
				s, bucket := locked(t, server, mode)
				return s, hostile(server.Client(t, server.Root), bucket)
			})
		})
	}
}

// The promise is the server's, not ours: a raw client with the same key cannot
// delete a version before its time, nor shorten its retention.
func TestLockBindsTheKey(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	s, bucket := locked(t, server, kassett.Compliance)
	c := server.Client(t, server.Root)
	b := storagetest.Random(1, 1000)
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	if err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID)); err != nil {
		t.Fatal(err)
	}
	n := kassett.StoredName{Handle: h}
	in, err := c.StatObject(t.Context(), bucket, key(n), minio.StatObjectOptions{})
	if err != nil || in.VersionID == "" {
		t.Fatalf("StatObject = %+v, %v", in, err)
	}
	for _, o := range []minio.RemoveObjectOptions{{VersionID: in.VersionID}, {VersionID: in.VersionID, GovernanceBypass: true}} {
		if err := c.RemoveObject(t.Context(), bucket, key(n), o); err == nil {
			t.Errorf("the server has deleted a retained version (%+v)", o)
		}
	}
	mode, soon := minio.Compliance, time.Now().Add(time.Minute)
	for _, bypass := range []bool{false, true} {
		err := c.PutObjectRetention(t.Context(), bucket, key(n), minio.PutObjectRetentionOptions{
			Mode: &mode, RetainUntilDate: &soon, VersionID: in.VersionID, GovernanceBypass: bypass,
		})
		if err == nil {
			t.Errorf("the server has shortened a retention (bypass %v)", bypass)
		}
	}
	if until, err := s.RetainedUntil(t.Context(), n); err != nil || until.Before(time.Now().Add(90*time.Minute)) {
		t.Errorf("RetainedUntil = %v, %v", until, err)
	}
}

func TestNoObjectLock(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	o := options(t, server, server.Bucket(t, false))
	o.Retention = kassett.Retention{Mode: kassett.Governance, Period: time.Hour, Slack: time.Hour}
	s := open(t, o)
	b := []byte("some content")
	h := kassett.Handle{Kind: kassett.PackFile, ID: kassett.Hash(b)}
	err := s.Put(t.Context(), h, kassett.BytesBody(b, h.ID))
	if kassett.KindOf(err) != kassett.Invalid || !strings.Contains(err.Error(), "this bucket has no object lock") {
		t.Errorf("Put = %v; want a refusal that says why", err)
	}
	if kassett.HintOf(err) == "" {
		t.Error("no hint")
	}
}

func TestRetentionOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		given []string
		want  kassett.Retention
		bad   bool
	}{
		{"none", nil, kassett.Retention{}, false},
		{"a third of slack", []string{"object-lock=compliance", "retain=90d"}, kassett.Retention{Mode: kassett.Compliance, Period: 90 * 24 * time.Hour, Slack: 30 * 24 * time.Hour}, false},
		{"a day of slack at least", []string{"object-lock=governance", "retain=1d"}, kassett.Retention{Mode: kassett.Governance, Period: 24 * time.Hour, Slack: 24 * time.Hour}, false},
		{"all given", []string{"object-lock=governance", "retain=1y", "retain-slack=12h"}, kassett.Retention{Mode: kassett.Governance, Period: 365 * 24 * time.Hour, Slack: 12 * time.Hour}, false},
		{"no time", []string{"object-lock=compliance"}, kassett.Retention{}, true},
		{"no mode", []string{"retain=90d"}, kassett.Retention{}, true},
		{"another mode", []string{"object-lock=on", "retain=90d"}, kassett.Retention{}, true},
		{"no unit", []string{"object-lock=compliance", "retain=90"}, kassett.Retention{}, true},
		{"negative", []string{"object-lock=compliance", "retain=-1d"}, kassett.Retention{}, true},
		{"a slip of the finger", []string{"object-lock=compliance", "retain=900y"}, kassett.Retention{}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, err := s3.ParsePlace("s3.example.org/bucket")
			for _, g := range c.given {
				name, value, _ := strings.Cut(g, "=")
				if err == nil {
					err = o.Set(name, value)
				}
			}
			o.Credentials.Anonymous = true
			var s *s3.Storage
			if err == nil {
				s, err = s3.Open(o)
			}
			switch {
			case c.bad && kassett.KindOf(err) != kassett.Invalid:
				t.Errorf("Open = %v; want it refused", err)
			case !c.bad && err != nil:
				t.Error(err)
			case !c.bad && s.Retention() != c.want:
				t.Errorf("Retention = %+v, want %+v", s.Retention(), c.want)
			}
		})
	}
}
