package s3_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
	"kassett/storage/s3"
)

// TestParsePlace reads places as restic writes them.
func TestParsePlace(t *testing.T) {
	t.Parallel()
	for place, want := range map[string]s3.Options{
		"s3.amazonaws.com/bucket":                 {Host: "s3.amazonaws.com", Bucket: "bucket"},
		"eu-central-1/bucket/a/b":                 {Host: "eu-central-1", Bucket: "bucket", Prefix: "a/b"},
		"//host:9000/bucket/a/":                   {Host: "host:9000", Bucket: "bucket", Prefix: "a"},
		"https://host/bucket":                     {Host: "host", Bucket: "bucket"},
		"https://host:8443/bucket//a//b/":         {Host: "host:8443", Bucket: "bucket", Prefix: "a/b"},
		"http://127.0.0.1:9000/bucket/with space": {Host: "127.0.0.1:9000", Bucket: "bucket", Prefix: "with space", Plain: true},
	} {
		got, err := s3.ParsePlace(place)
		if err != nil || got.Host != want.Host || got.Bucket != want.Bucket || got.Prefix != want.Prefix || got.Plain != want.Plain {
			t.Errorf("ParsePlace(%q) = %+v, %v", place, got, err)
		}
	}
	for _, place := range []string{
		"", "/", "//", "host", "host/", "https://host", "https://host/", "https:///bucket", "http://[::1/bucket", "https://host/bucket?x=1",
		"https://key:hunter2@host/bucket", "host/bucket/../../x", "https://host/bucket/..",
	} {
		o, err := s3.ParsePlace(place)
		if kassett.KindOf(err) != kassett.Invalid || kassett.HintOf(err) == "" || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("ParsePlace(%q) = %+v, %v", place, o, err)
		}
	}
}

func FuzzParsePlace(f *testing.F) {
	f.Add("https://host/bucket/a")
	f.Add("host/bucket/..")
	f.Fuzz(func(t *testing.T, place string) {
		o, err := s3.ParsePlace(place)
		if err == nil && (o.Host == "" || o.Bucket == "" || strings.HasPrefix(o.Prefix, "/") || strings.HasPrefix(o.Prefix, "..")) {
			t.Errorf("ParsePlace(%q) = %+v", place, o)
		}
	})
}

func TestOptions(t *testing.T) {
	t.Parallel()
	var o s3.Options
	for name, value := range map[string]string{
		"region": "eu-north-1", "bucket-lookup": "path", "storage-class": "GLACIER", "connections": "7", "retries": "2",
		"list-objects-v1": "true", "conditional-writes": "false", "unsafe-anonymous-auth": "true", "instance-role": "1",
		"enable-restore": "true", "restore-days": "3", "restore-timeout": "36h", "restore-tier": "Bulk",
	} {
		if err := o.Set(name, value); err != nil {
			t.Error(err)
		}
	}
	if o.Region != "eu-north-1" || o.BucketLookup != minio.BucketLookupPath || o.StorageClass != "GLACIER" || o.Connections != 7 || o.Retries != 2 ||
		!o.OldLists || !o.NoConditions || !o.Credentials.Anonymous || !o.Credentials.InstanceRole ||
		o.Thaw != (s3.Thaw{On: true, Days: 3, Timeout: 36 * time.Hour, Tier: "Bulk"}) {
		t.Errorf("%+v", o)
	}
	for _, bad := range [][2]string{
		{"colour", "red"},
		{"connections", "0"},
		{"connections", "many"},
		{"bucket-lookup", "x"},
		{"restore-tier", "x"},
		{"restore-timeout", "-1h"},
		{"restore-days", "0"},
		{"retries", "-1"},
		{"enable-restore", "perhaps"},
		{"", ""},
	} {
		if err := o.Set(bad[0], bad[1]); kassett.KindOf(err) != kassett.Invalid || kassett.HintOf(err) == "" {
			t.Errorf("Set(%q, %q) = %v", bad[0], bad[1], err)
		}
	}
}

// TestCredentials finds keys where they are said to be, and says what is
// missing.
func TestCredentials(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = a\naws_secret_access_key = b\n[half]\naws_access_key_id = a\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		credentials s3.Credentials
		ok          bool
	}{
		"a key":             {s3.Credentials{AccessKey: "a", SecretKey: "hunter2"}, true},
		"half a key":        {s3.Credentials{AccessKey: "a", File: file}, false},
		"the other half":    {s3.Credentials{SecretKey: "hunter2", File: file}, false},
		"a file":            {s3.Credentials{File: file, Profile: "default"}, true},
		"no such profile":   {s3.Credentials{File: file, Profile: "none"}, false},
		"half a profile":    {s3.Credentials{File: file, Profile: "half"}, false},
		"no such file":      {s3.Credentials{File: file + "x"}, false},
		"asked for nothing": {s3.Credentials{Anonymous: true}, true},
	} {
		s, err := s3.Open(s3.Options{Host: "127.0.0.1:1", Bucket: "bucket", Plain: true, Connections: 1, Retries: 1, Credentials: c.credentials})
		if c.ok && err != nil || !c.ok && (kassett.KindOf(err) != kassett.Denied || kassett.HintOf(err) == "" || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = s.Close()
		}
	}
}
