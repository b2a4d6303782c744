package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

// bucket is a repository in a bucket with object lock of a real server, and the
// programs that use it.
type bucket struct {
	t      *testing.T
	server *s3test.Server
	name   string
	place  string // "s3:…"
	client *minio.Client
	env    []string
	lock   []string // options
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	server := s3test.Start(t)
	b := &bucket{
		t: t, server: server, name: server.Bucket(t, true), client: server.Client(t, server.Root),
		lock: []string{"-o", "s3.object-lock=compliance", "-o", "s3.retain=30d"},
	}
	b.place = "s3:" + server.URL + "/" + b.name + "/clinic"
	home := t.TempDir()
	b.env = append(os.Environ(), "HOME="+home, "TZ=UTC", "KASSETT_CACHE_DIR="+filepath.Join(home, "cache"),
		"KASSETT_REPOSITORY="+b.place, "KASSETT_PASSWORD=correct horse", "AWS_DEFAULT_REGION="+s3test.Region,
		"AWS_ACCESS_KEY_ID="+server.Root.Access, "AWS_SECRET_ACCESS_KEY="+server.Root.Secret,
		"RESTIC_REPOSITORY="+b.place, "RESTIC_PASSWORD=correct horse", "RESTIC_CACHE_DIR="+filepath.Join(home, "restic"))
	return b
}

// try runs a program; kassett is this test binary.
func (b *bucket) try(program string, args ...string) (string, error) {
	b.t.Helper()
	if program == "kassett" {
		args = slices.Concat(b.lock, args)
	}
	cmd := exec.CommandContext(b.t.Context(), program, args...)
	cmd.Env = b.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *bucket) run(program string, args ...string) string {
	b.t.Helper()
	out, err := b.try(program, args...)
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return out
}

// restic runs stock restic.
func (b *bucket) restic(args ...string) string {
	b.t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			b.t.Skip("restic is not installed, and SHORT=1 asks for less")
		}
		b.t.Fatal("restic is not installed; make deps installs it, SHORT=1 leaves it out")
	}
	return b.run("restic", args...)
}

// objects returns the versions of all objects of the repository.
func (b *bucket) objects() (all []minio.ObjectInfo) {
	b.t.Helper()
	for o := range b.client.ListObjectsIter(b.t.Context(), b.name, minio.ListObjectsOptions{
		Prefix: "clinic/", Recursive: true, WithVersions: true,
	}) {
		if o.Err != nil {
			b.t.Fatal(o.Err)
		}
		all = append(all, o)
	}
	return all
}

func (b *bucket) hostilePut(key string, content []byte) {
	b.t.Helper()
	_, err := b.client.PutObject(b.t.Context(), b.name, key, bytes.NewReader(content), int64(len(content)), minio.PutObjectOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bucket) hostileMark(key string) {
	b.t.Helper()
	if err := b.client.RemoveObject(b.t.Context(), b.name, key, minio.RemoveObjectOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// attack does what a stolen key of the bucket can: it tries to delete versions
// and to shorten their retention, which the server refuses; it puts marks and
// other content over every object, and adds an index file, a key and a pack.
func (b *bucket) attack() {
	b.t.Helper()
	mode, soon := minio.Compliance, time.Now().Add(time.Minute)
	for i, o := range b.objects() {
		if o.IsDeleteMarker || strings.HasPrefix(o.Key, "clinic/locks/") {
			continue
		}
		if err := b.client.RemoveObject(b.t.Context(), b.name, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID, GovernanceBypass: true}); err == nil {
			b.t.Errorf("the server has deleted a version of %s before its time", o.Key)
		}
		if err := b.client.PutObjectRetention(b.t.Context(), b.name, o.Key, minio.PutObjectRetentionOptions{
			Mode: &mode, RetainUntilDate: &soon, VersionID: o.VersionID, GovernanceBypass: true,
		}); err == nil {
			b.t.Errorf("the server has shortened the retention of %s", o.Key)
		}
		switch i % 3 {
		case 0:
			b.hostileMark(o.Key)
		case 1:
			b.hostilePut(o.Key, []byte("pay up"))
		case 2:
			b.hostilePut(o.Key, storagetest.Random(uint64(i), int(o.Size)))
			b.hostileMark(o.Key)
			b.hostileMark(o.Key)
		}
	}
	for i, folder := range []string{"index/", "keys/", "snapshots/", "data/"} {
		c := storagetest.Random(uint64(900+i), 300)
		name := kassett.Hash(c).String()
		if folder == "data/" {
			name = name[:2] + "/" + name
		}
		b.hostilePut("clinic/"+folder+name, c)
	}
}

// store writes a file of a source.
func store(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// handbookPolicy returns the rights that the handbook's page on storages gives
// the key of a machine that backs up.
func handbookPolicy(t *testing.T, bucket, user string) string {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "handbook", "storages.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "policy.json:")
	_, rest, _ = strings.Cut(rest, "```json\n")
	policy, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("the page has no policy.json")
	}
	return strings.NewReplacer("BUCKET", bucket, "FOLDER", "clinic", "arn:aws:iam::ACCOUNT:user/ward3", user).Replace(policy)
}

// A machine with the rights that the handbook gives it backs up, extends locks,
// and cleans up its own locks; its key destroys nothing.
func TestHandbookRights(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	b.run("kassett", "init")
	user := b.server.User(t)
	if err := b.client.SetBucketPolicy(t.Context(), b.name, handbookPolicy(t, b.name, user.Access)); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "AWS_ACCESS_KEY_ID="+user.Access, "AWS_SECRET_ACCESS_KEY="+user.Secret)
	data := filepath.Join(t.TempDir(), "data")
	store(t, filepath.Join(data, "journal"), storagetest.Random(1, 300_000))
	b.run("kassett", "backup", data)
	// A longer promise: every lock has to be extended.
	b.lock = []string{"-o", "s3.object-lock=compliance", "-o", "s3.retain=90d"}
	b.run("kassett", "backup", data)
	for _, o := range b.objects() {
		if strings.HasPrefix(o.Key, "clinic/snapshots/") || strings.HasPrefix(o.Key, "clinic/locks/") || o.IsDeleteMarker {
			continue
		}
		in, err := b.client.StatObject(t.Context(), b.name, o.Key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		until, err := time.Parse(time.RFC3339, in.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if err != nil || time.Until(until) < 90*24*time.Hour {
			t.Errorf("%s is locked until %v, %v; want 90 days and more", o.Key, until, err)
		}
	}
	for o := range b.client.ListObjectsIter(t.Context(), b.name, minio.ListObjectsOptions{Prefix: "clinic/locks/", Recursive: true}) {
		t.Errorf("a lock is left: %s, %v", o.Key, o.Err)
	}
	thief := b.server.Client(t, user)
	for _, o := range b.objects() {
		if strings.HasPrefix(o.Key, "clinic/locks/") {
			continue
		}
		if err := thief.RemoveObject(t.Context(), b.name, o.Key, minio.RemoveObjectOptions{VersionID: o.VersionID}); err == nil {
			t.Errorf("the key has deleted a version of %s", o.Key)
		}
		if err := thief.RemoveObject(t.Context(), b.name, o.Key, minio.RemoveObjectOptions{}); err == nil {
			t.Errorf("the key has hidden %s", o.Key)
		}
	}
	b.restic("check", "--read-data")
}

// What is locked is not removed, and not an error: forget and prune say until
// when it stays, and stock restic finds the repository sound.
func TestPruneOfLocked(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	data := filepath.Join(t.TempDir(), "data")
	b.run("kassett", "init")
	for i := range 4 {
		store(t, filepath.Join(data, "journal"), storagetest.Random(uint64(i), 300_000))
		b.run("kassett", "backup", data)
	}
	before := len(b.objects())
	out := b.run("kassett", "forget", "--keep-last", "2", "--prune")
	if !strings.Contains(out, "0 snapshots removed") || !strings.Contains(out, "2 snapshots stay at the latest until") {
		t.Errorf("forget says:\n%s", out)
	}
	if n := len(b.objects()); n != before {
		t.Errorf("the bucket has %d versions, %d before", n, before)
	}
	b.restic("check", "--read-data")

	// Stock restic only puts a mark over what it forgets. What nobody needs then
	// is taken out of the index, and stays in the bucket.
	b.restic("forget", "latest")
	for range 2 {
		out = b.run("kassett", "prune")
		if !strings.Contains(out, "of these packs stay, the last until") {
			t.Errorf("prune says:\n%s", out)
		}
		b.restic("check", "--read-data")
		b.run("kassett", "check", "--read-data")
	}
	id := strings.Fields(b.run("kassett", "list", "snapshots"))[0]
	if out, err := b.try("kassett", "tag", "--add", "quarter", id); err == nil || !strings.Contains(out, "object lock keeps it until") {
		t.Errorf("tag of a locked snapshot: %v\n%s", err, out)
	}
	b.restic("check")
}

func TestRepairVersions(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	data := filepath.Join(t.TempDir(), "data")
	for i := range 40 {
		store(t, filepath.Join(data, fmt.Sprintf("ward%d/file%d", i%4, i)), storagetest.Random(uint64(i), 60_000))
	}
	b.run("kassett", "init")
	b.run("kassett", "backup", data)
	store(t, filepath.Join(data, "ward1/new"), storagetest.Random(77, 90_000))
	b.run("kassett", "backup", data)
	b.run("kassett", "hold", "add", "--all", "--reason", "a lawsuit", "--by", "A. Berg")
	before := time.Now().UTC()
	time.Sleep(20 * time.Millisecond) // the moment lies between

	b.attack()
	if out, err := b.try("kassett", "snapshots"); err == nil {
		t.Fatalf("the attack left the repository as it was:\n%s", out)
	}

	moment := before.Add(10 * time.Millisecond).Format(time.RFC3339Nano)
	dry := b.run("kassett", "repair", "versions", "--before", moment, "--dry-run")
	if _, err := b.try("kassett", "snapshots"); err == nil || !strings.Contains(dry, "can be brought back") {
		t.Fatalf("a dry run has changed the repository, or says nothing:\n%s", dry)
	}
	out := b.run("kassett", "repair", "versions", "--before", moment, "--hide-new")
	for _, want := range []string{"config was ", "hidden: 4", " 0 lost"} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
	b.run("kassett", "check", "--read-data")
	b.restic("check", "--read-data")
	if n := strings.Count(b.restic("snapshots", "--json"), `"short_id"`); n != 2 {
		t.Errorf("restic lists %d snapshots, want 2", n)
	}
	if out := b.run("kassett", "hold", "list"); !strings.Contains(out, "a lawsuit") {
		t.Errorf("the hold is gone:\n%s", out)
	}
	target := t.TempDir()
	b.run("kassett", "restore", "latest", "--target", target)
	got, err := os.ReadFile(filepath.Join(target, data, "ward1/new"))
	if err != nil || !bytes.Equal(got, storagetest.Random(77, 90_000)) {
		t.Errorf("what was restored is %d bytes, %v", len(got), err)
	}
	again := b.run("kassett", "repair", "versions", "--before", moment)
	if !strings.Contains(again, "0 deleted, 0 replaced") {
		t.Errorf("a second repair finds work:\n%s", again)
	}
}
