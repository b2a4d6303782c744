// Package sftptest starts a real SFTP server for tests: Debian's sshd with keys
// of its own, as the user who runs the test, on a port of 127.0.0.1 that is
// free.
package sftptest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Server is a running sshd. It has no daemon: each connection is handed to an
// sshd of its own, as inetd does.
type Server struct {
	Host       string // 127.0.0.1
	Port       int
	Key        string // file of a private key that may log in
	KnownHosts string // file that holds the server's host key
	Config     string // file of options for the programs ssh and sftp

	config  string // of sshd
	hostKey ssh.PublicKey
	in      net.Listener
	all     sync.WaitGroup
	said    output
}

// Start starts a server with more lines for its sshd_config, and stops it when
// the test ends. When sshd is not installed the test fails, or is skipped with
// SHORT=1.
func Start(t testing.TB, lines ...string) *Server {
	t.Helper()
	sshd := "/usr/sbin/sshd" // it must be started by its whole path
	if _, err := os.Stat(sshd); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1, and sshd is not installed")
		}
		t.Fatalf("sshd is not installed; make deps installs it, SHORT=1 leaves its tests out: %v", err)
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { //nolint:gosec // sshd wants it so
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s := &Server{
		Host: "127.0.0.1", Key: filepath.Join(dir, "key"), KnownHosts: filepath.Join(dir, "known_hosts"),
		Config: filepath.Join(dir, "ssh_config"), config: filepath.Join(dir, "sshd_config"),
	}
	public := newKey(t, s.Key)
	hostKey := newKey(t, filepath.Join(dir, "host"))
	write(t, filepath.Join(dir, "authorized_keys"), string(ssh.MarshalAuthorizedKey(public)))
	write(t, s.config, strings.Join(append(lines,
		"HostKey "+filepath.Join(dir, "host"), "AuthorizedKeysFile "+filepath.Join(dir, "authorized_keys"),
		"UsePAM no", "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes",
		"UseDNS no", "PidFile none", "PrintMotd no", "Subsystem sftp internal-sftp", "LogLevel ERROR",
	), "\n")+"\n")
	var err error
	if s.in, err = new(net.ListenConfig).Listen(t.Context(), "tcp", s.Host+":0"); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(s.in.Addr().String())
	s.Port, _ = strconv.Atoi(port)
	s.hostKey = hostKey
	s.Know(t, s.Addr())
	write(t, s.Config, fmt.Sprintf("IdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\nLogLevel ERROR\n", s.Key, s.KnownHosts))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context())) // t's own ends before the clean-up
	s.all.Go(func() { s.accept(ctx, sshd) })
	t.Cleanup(func() {
		_ = s.in.Close()
		stop()
		s.all.Wait()
		if t.Failed() && s.said.String() != "" {
			t.Logf("sshd said:\n%s", s.said.String())
		}
	})
	return s
}

// Know adds the server's host key to KnownHosts for another address, such as
// that of a proxy before it.
func (s *Server) Know(t testing.TB, addr string) {
	t.Helper()
	f, err := os.OpenFile(s.KnownHosts, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintln(f, knownhosts.Line([]string{addr}, s.hostKey))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Addr returns the host and port of the server.
func (s *Server) Addr() string { return s.in.Addr().String() }

func (s *Server) accept(ctx context.Context, sshd string) {
	for {
		c, err := s.in.Accept()
		if err != nil {
			return
		}
		s.all.Go(func() { s.serve(ctx, sshd, c) })
	}
}

// serve lets one sshd answer one connection.
func (s *Server) serve(ctx context.Context, sshd string, c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		_ = c.Close()
		return
	}
	f, err := tcp.File()
	_ = c.Close() // f is another descriptor of it
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }() // sshd has its own
	cmd := exec.CommandContext(ctx, sshd, "-i", "-e", "-f", s.config)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, &s.said
	cmd.SysProcAttr = endWithParent()
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		fmt.Fprintf(&s.said, "sshd ended: %v\n", err)
	}
}

// newKey writes a private key and returns the public one.
func newKey(t testing.TB, name string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	write(t, name, string(pem.EncodeToMemory(block)))
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
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
