package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kassett/cmd/kassett/clinic"
	"kassett/storage/s3/s3test"
	"kassett/storage/storagetest"
)

// elsewhere is the same server with a repository of another bucket, which need
// not be there.
func (b *bucket) elsewhere(name string) *bucket {
	c := *b
	c.name = name
	c.place = strings.Replace(b.place, "/"+b.name+"/", "/"+name+"/", 1)
	c.env = slices.Concat(b.env, []string{"KASSETT_REPOSITORY=" + c.place, "RESTIC_REPOSITORY=" + c.place})
	c.lock = nil
	return &c
}

// with returns the same with other variables.
func (b *bucket) with(env ...string) *bucket {
	c := *b
	c.env = slices.Concat(b.env, env)
	return &c
}

// wantSame compares two folders.
func wantSame(t *testing.T, a, b string) {
	t.Helper()
	x, err := clinic.Read(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := clinic.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := x.Compare(y); len(x) == 0 || len(diff) > 0 {
		t.Errorf("%s and %s are not the same: %v", a, b, diff)
	}
}

// someFiles makes a folder of files, one of them of several packs.
func someFiles(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ward")
	for name, size := range map[string]int{"letter.txt": 3_000, "empty": 0, "deep/image.dcm": 40 << 20, "deep/日誌.txt": 70_000} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, storagetest.Random(uint64(size), size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestS3AndRestic lets us and stock restic work in one bucket of a real server,
// whoever began.
func TestS3AndRestic(t *testing.T) {
	t.Parallel()
	server := newBucket(t)
	for _, begins := range []string{"kassett", "restic"} {
		t.Run(begins+" begins", func(t *testing.T) {
			t.Parallel()
			b := server.elsewhere("begun-by-" + begins)
			b.t = t
			src, back := someFiles(t), t.TempDir()
			b.restic("version")
			b.run(begins, "init")
			b.run(begins, "backup", src)
			b.run("kassett", "check", "--read-data")
			b.restic("check", "--read-data")
			b.restic("restore", "latest", "--target", filepath.Join(back, "r"))
			wantSame(t, src, filepath.Join(back, "r", src))
			b.run("kassett", "restore", "latest", "--target", filepath.Join(back, "k"))
			wantSame(t, src, filepath.Join(back, "k", src))

			if err := os.Remove(filepath.Join(src, "deep", "image.dcm")); err != nil {
				t.Fatal(err)
			}
			b.restic("backup", src)
			b.run("kassett", "backup", src)
			b.run("kassett", "forget", "--keep-last", "1", "--prune")
			b.restic("check", "--read-data")
			b.restic("forget", "--keep-last", "1", "--prune")
			b.run("kassett", "check", "--read-data")
			b.run("kassett", "restore", "latest", "--target", filepath.Join(back, "last"))
			wantSame(t, src, filepath.Join(back, "last", src))
		})
	}
}

// TestS3Mistakes makes those of a first day, and wants the next step named.
func TestS3Mistakes(t *testing.T) {
	t.Parallel()
	server := newBucket(t)
	b := server.elsewhere("first-day")
	b.run("kassett", "init")
	wrong := []string{"--retry-storage", "0"}
	for name, c := range map[string]struct {
		b    *bucket
		args []string
		want string
	}{
		"again":          {b, []string{"init"}, "exists already"},
		"no bucket":      {b.elsewhere("no-such-bucket"), []string{"snapshots"}, "check the name of the bucket"},
		"no key":         {b.with("AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_CONFIG_FILE=/nowhere", "AWS_SHARED_CREDENTIALS_FILE=/nowhere"), []string{"snapshots"}, "set AWS_ACCESS_KEY_ID"},
		"wrong key":      {b.with("AWS_SECRET_ACCESS_KEY=x"), []string{"snapshots"}, "check AWS_ACCESS_KEY_ID"},
		"wrong region":   {b, []string{"snapshots", "-o", "s3.region=us-west-2"}, "s3.region"},
		"no such option": {b, []string{"snapshots", "-o", "s3.colour=red"}, "read option s3.colour"},
		"no bucket name": {b, []string{"snapshots", "-r", "s3:https://host"}, "the bucket is missing"},
	} {
		out, err := c.b.try("kassett", append(c.args, wrong...)...)
		if err == nil || !strings.Contains(out, c.want) || !strings.Contains(out, "kassett: next: ") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	// A child process does not see the keys: with them the password were another.
	b.with("KASSETT_PASSWORD=", `KASSETT_PASSWORD_COMMAND=sh -c "echo correct horse$AWS_SECRET_ACCESS_KEY$AWS_ACCESS_KEY_ID"`).run("kassett", "snapshots")
}

// TestS3OverTLS trusts a server by its certificate, and no other.
func TestS3OverTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	server := s3test.Start(t, "--cert", cert, "--key", key)
	home := t.TempDir()
	b := &bucket{t: t, env: append(os.Environ(), "HOME="+home, "KASSETT_CACHE_DIR="+home, "KASSETT_PASSWORD=correct horse",
		"KASSETT_REPOSITORY=s3:https://"+server.Host+"/over-tls", "KASSETT_RETRY_STORAGE=0", "AWS_DEFAULT_REGION="+s3test.Region,
		"AWS_ACCESS_KEY_ID="+server.Root.Access, "AWS_SECRET_ACCESS_KEY="+server.Root.Secret)}
	out, err := b.try("kassett", "init")
	if err == nil || !strings.Contains(out, "--cacert") {
		t.Errorf("init without trust: %v\n%s", err, out)
	}
	b.run("kassett", "init", "--cacert", cert)
	b.with("KASSETT_CACERT="+cert).run("kassett", "backup", someFiles(t))
	b.run("kassett", "check", "--read-data", "--insecure-tls")
	if out, err := b.try("kassett", "snapshots", "--cacert", key); err == nil || !strings.Contains(out, "no certificate is in it") {
		t.Errorf("a key for a certificate: %v\n%s", err, out)
	}
}

// certificate makes a certificate for 127.0.0.1 and its key, in files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}
