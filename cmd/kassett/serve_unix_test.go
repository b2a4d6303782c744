//go:build unix

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servedHouse is a folder with a storage server and its clients.
type servedHouse struct {
	t    *testing.T
	dir  string
	url  string // https://127.0.0.1:port/
	port string
}

const clientPassword = "a long enough password"

// certificates writes an authority and what it signs, as PEM files.
func (h *servedHouse) certificates() {
	h.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	write := func(name string, c *x509.Certificate) {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), key)
		if err != nil {
			h.t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			h.t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
		if err := os.WriteFile(filepath.Join(h.dir, name), text, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
	leaf := func(n int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(n), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		}
	}
	write("ca.pem", ca)
	write("server.pem", leaf(2, "server"))
	write("card.pem", leaf(3, "card"))
}

// command is a program in the house, as a client of the server.
func (h *servedHouse) command(ctx context.Context, client, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = h.dir
	cmd.Env = append(
		os.Environ(), "HOME="+h.dir, "KASSETT_PASSWORD=x", "RESTIC_PASSWORD=x", "KASSETT_CACERT="+filepath.Join(h.dir, "ca.pem"),
		"KASSETT_REPOSITORY=rest:"+h.url+"ward3", "KASSETT_REST_USERNAME="+client, "KASSETT_REST_PASSWORD="+clientPassword,
		"RESTIC_REPOSITORY=rest:"+strings.Replace(h.url, "https://", "https://"+client+":"+strings.ReplaceAll(clientPassword, " ", "%20")+"@", 1)+"ward3",
		"KASSETT_CACHE_DIR="+filepath.Join(h.dir, "cache"), "RESTIC_CACHE_DIR="+filepath.Join(h.dir, "restic"),
	)
	return cmd
}

// run runs a program and checks its exit code and what it says.
func (h *servedHouse) run(code int, says, client, program string, args ...string) {
	h.t.Helper()
	cmd := h.command(h.t.Context(), client, program, args...)
	cmd.Stdin = strings.NewReader(clientPassword + "\n")
	out, err := cmd.CombinedOutput()
	exit, failed := errors.AsType[*exec.ExitError](err)
	if err != nil && !failed || failed && exit.ExitCode() != code || !failed && code != 0 || !strings.Contains(string(out), says) {
		h.t.Errorf("%s %v as %s: %v, want code %d and %q: %s", program, args, client, err, code, says, out)
	}
}

// log returns the server's log.
func (h *servedHouse) log() string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(b)
}

// until waits until the log holds a line with all of the words.
func (h *servedHouse) until(words ...string) {
	h.t.Helper()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		for line := range strings.Lines(h.log()) {
			found := true
			for _, w := range words {
				found = found && strings.Contains(line, w)
			}
			if found {
				return
			}
		}
		if time.Now().After(end) {
			h.t.Fatalf("the log never says %q: %s", words, h.log())
		}
	}
}

// refused runs a program until the server's log names the refusal. Stock restic
// tries for a minute what is refused, so it is stopped then.
func (h *servedHouse) refused(words []string, client, program string, args ...string) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	cmd := h.command(ctx, client, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it removes its lock
	ended := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	h.until(append(words, `"msg":"refused"`, `"client":"`+client+`"`)...)
	cancel()
	if err := <-ended; err == nil {
		h.t.Errorf("%s %v succeeds", program, args)
	}
}

// serve starts the server and returns it.
func (h *servedHouse) serve() *started {
	h.t.Helper()
	s := begin(h.t, h.dir, exec.CommandContext(h.t.Context(), "kassett", "serve", "storage", "--json",
		"--data", filepath.Join(h.dir, "data"), "--clients", filepath.Join(h.dir, "clients"), "--log", filepath.Join(h.dir, "log"),
		"--listen", "127.0.0.1:"+h.port, "--tls-cert", filepath.Join(h.dir, "server.pem"), "--tls-key", filepath.Join(h.dir, "server.pem"),
		"--client-ca", filepath.Join(h.dir, "ca.pem")))
	h.until(`"msg":"serving"`)
	var line struct{ At string }
	first, _, _ := strings.Cut(h.log(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		h.t.Fatal(err)
	}
	h.url = line.At
	return s
}

// TestServeStorage is a clinic's server with the clients it would have: one that
// makes the repository, a host with kassett and one with stock restic, one with
// a certificate, and the one that prunes.
func TestServeStorage(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("restic"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT: restic is not installed")
		}
		t.Fatal("restic is not installed; make deps installs it")
	}
	h := &servedHouse{t: t, dir: t.TempDir(), port: "0"}
	h.certificates()
	for _, dir := range []string{"data", "source"} {
		if err := os.Mkdir(filepath.Join(h.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(h.dir, "new"), []byte("another password"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(h.dir, "source", fmt.Sprint(i)), []byte(strings.Repeat(fmt.Sprint(i), 100_000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add := func(args ...string) {
		h.run(0, "added", "", "kassett", append([]string{"serve", "client", "add", "--clients", "clients"}, args...)...)
	}
	add("maker", "--rights", "init,append", "--path", "ward3")
	add("host", "--path", "ward3", "--quota", "1GiB")
	add("pruner", "--rights", "full", "--path", "*")
	add("card", "--no-password", "--path", "ward3")
	h.run(5, "already", "", "kassett", "serve", "client", "add", "host", "--clients", "clients")
	h.run(0, "certificate", "", "kassett", "serve", "client", "list", "--clients", "clients")
	server := h.serve()

	h.run(7, "no right to this repository", "host", "kassett", "--retry-storage", "0", "-r", "rest:"+h.url+"other", "init")
	h.run(0, "made repository", "maker", "kassett", "init")
	h.run(0, "saved", "host", "kassett", "backup", "source")
	h.run(0, "saved", "host", "restic", "--cacert", "ca.pem", "backup", "source")
	h.run(0, "", "host", "restic", "--cacert", "ca.pem", "snapshots")
	h.run(0, "", "host", "restic", "--cacert", "ca.pem", "check", "--read-data")
	h.run(0, "saved", "card", "kassett", "--tls-client-cert", "card.pem", "-r", "rest:"+h.url+"ward3", "backup", "source")
	if left, _ := filepath.Glob(filepath.Join(h.dir, "data", "ward3", "locks", "*")); len(left) > 0 {
		t.Errorf("locks are left: %v", left)
	}
	h.run(0, "", "host", "kassett", "restore", "latest", "--target", "back")

	// What a stolen password of the host is good for.
	h.run(7, "right", "host", "kassett", "forget", "latest")
	h.run(7, "right", "host", "kassett", "key", "add", "--new-password-file", "new")
	h.refused([]string{"DELETE", "/ward3/snapshots/"}, "host", "restic", "--cacert", "ca.pem", "forget", "latest")
	h.refused([]string{"POST", "/ward3/keys/"}, "host", "restic", "--cacert", "ca.pem", "key", "add", "--new-password-file", "new")
	h.run(7, "401", "nobody", "kassett", "snapshots")

	// Another's lock stays, whoever unlocks.
	lock := exec.CommandContext(t.Context(), "kassett", "backup", "--stdin")
	lock.Env = h.command(t.Context(), "host", "kassett").Env
	held := &started{cmd: lock}
	var err error
	if held.stdin, err = lock.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	lock.Stdout, lock.Stderr = &held.out, &held.out
	if err := lock.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(h.dir, "data", "ward3", "locks", "*"))
	h.refused([]string{"DELETE", "/ward3/locks/", "made by host"}, "maker", "restic", "--cacert", "ca.pem", "unlock", "--remove-all")
	fmt.Fprintln(held.stdin, "content")
	held.ends(t, 0)

	// A client that is taken out of the file is out within seconds; the server
	// need not be started again.
	text, err := os.ReadFile(filepath.Join(h.dir, "clients"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "card ") {
			kept = append(kept, line)
		}
	}
	if err := os.WriteFile(filepath.Join(h.dir, "clients"), []byte(strings.Join(kept, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	h.until("clients file taken over", `"clients":3`)
	h.run(7, "401", "card", "kassett", "--tls-client-cert", "card.pem", "snapshots")

	// The host that prunes, after a restart of the server.
	if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	server.ends(t, 0)
	_, h.port, _ = strings.Cut(strings.TrimSuffix(strings.TrimPrefix(h.url, "https://"), "/"), ":")
	server = h.serve()
	h.run(0, "removed", "pruner", "kassett", "forget", "--keep-last", "1", "--prune")
	h.run(0, "no errors were found", "pruner", "restic", "--cacert", "ca.pem", "check")
	if err := server.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	server.ends(t, 0)
	if strings.Contains(h.log(), clientPassword) || strings.Contains(h.log(), "a%20long") {
		t.Error("a password is in the log")
	}
}

// TestServeRefuses starts that would be a mistake.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	h := &servedHouse{t: t, dir: t.TempDir()}
	for name, text := range map[string]string{"empty": "", "wrong": "host password=secret\n"} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve := []string{"serve", "storage", "--clients", "empty", "--data", "."}
	h.run(2, "--data FOLDER", "", "kassett", "serve", "storage")
	h.run(10, "mounted", "", "kassett", "serve", "storage", "--clients", "empty", "--data", "none")
	h.run(10, "kassett serve client add", "", "kassett", "serve", "storage", "--clients", "none", "--data", ".")
	h.run(2, "line 1", "", "kassett", "serve", "storage", "--clients", "wrong", "--data", ".")
	h.run(7, "plain text", "", "kassett", append(serve, "--listen", ":0")...)
	h.run(7, "plain text", "", "kassett", append(serve, "--listen", "0.0.0.0:0")...)
	h.run(2, "--tls-key", "", "kassett", append(serve, "--tls-cert", "x")...)
	h.run(2, "address and a port", "", "kassett", append(serve, "--listen", "x")...)
	h.run(2, "12 to 72", "", "sh", "-c", "echo short | kassett serve client add a --clients new")
	h.run(2, "no right", "", "kassett", "serve", "client", "add", "a", "--clients", "new", "--rights", "all")
	if _, err := os.Stat(filepath.Join(h.dir, "new")); err == nil {
		t.Error("a client that was refused is written")
	}
}
