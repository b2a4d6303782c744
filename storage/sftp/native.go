package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"kassett"
)

// Native is an SSH client of our own, for machines without the program ssh. It
// reads no configuration of OpenSSH, and asks nobody for anything: keys come
// from an agent or from files without a passphrase, and a host key that is not
// known is refused.
type Native struct {
	Place      Place
	KnownHosts []string      // files of known host keys; those that are not there are passed over
	Keys       []string      // files of private keys; likewise
	Agent      string        // socket of an SSH agent; "" for none
	KeepAlive  time.Duration // between signs of life that are asked for; 0 means 15 s
}

// missed is how many signs of life in a row may stay out.
const missed = 3

// Dial is a [DialFunc].
func (n Native) Dial(ctx context.Context, _ int) (_ io.ReadWriteCloser, err error) {
	addr := net.JoinHostPort(n.Place.Host, strconv.Itoa(n.port()))
	known, algorithms, err := n.hostKeys(addr)
	if err != nil {
		return nil, err
	}
	name := n.Place.User
	if name == "" {
		u, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("find the name to log in with: %w", err)
		}
		name = u.Username
	}
	signers, closeAgent := n.signers(ctx)
	defer closeAgent()
	d := net.Dialer{Timeout: 30 * time.Second}
	line, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, offline(err)
	}
	ended := context.AfterFunc(ctx, func() { _ = line.Close() })
	defer ended()
	_ = line.SetDeadline(time.Now().Add(handshake)) // a line that cannot have one is seen below
	sc, channels, requests, err := ssh.NewClientConn(line, addr, &ssh.ClientConfig{
		User: name, HostKeyCallback: known, HostKeyAlgorithms: algorithms,
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return signers, nil })},
	})
	if err != nil {
		_ = line.Close()
		return nil, n.refused(addr, name, len(signers), err)
	}
	_ = line.SetDeadline(time.Time{})
	return n.begin(ssh.NewClient(sc, channels, requests))
}

func (n Native) port() int {
	if n.Place.Port == 0 {
		return 22
	}
	return n.Place.Port
}

// begin asks for the subsystem.
func (n Native) begin(client *ssh.Client) (io.ReadWriteCloser, error) {
	fail := func(err error) (io.ReadWriteCloser, error) {
		_ = client.Close()
		return nil, &kassett.Error{
			Op: "begin SFTP with", What: n.Place.Host, Kind: kassett.Denied, Err: err,
			Hint: "the login works; the server must offer the subsystem sftp (Subsystem sftp internal-sftp in its sshd_config)",
		}
	}
	session, err := client.NewSession()
	if err != nil {
		return fail(err)
	}
	s := &nativeSession{client: client, every: n.KeepAlive, ended: make(chan struct{})}
	if s.every <= 0 {
		s.every = 15 * time.Second
	}
	if s.in, err = session.StdinPipe(); err != nil {
		return fail(err)
	}
	if s.out, err = session.StdoutPipe(); err != nil {
		return fail(err)
	}
	if err := session.RequestSubsystem("sftp"); err != nil {
		return fail(err)
	}
	s.all.Go(s.keepAlive)
	return s, nil
}

// nativeSession is a session over our own client.
type nativeSession struct {
	client *ssh.Client
	in     io.Writer
	out    io.Reader
	every  time.Duration
	ended  chan struct{}
	once   sync.Once
	all    sync.WaitGroup
}

func (s *nativeSession) Read(p []byte) (int, error)  { return s.out.Read(p) }
func (s *nativeSession) Write(p []byte) (int, error) { return s.in.Write(p) }

// Close implements [io.Closer].
func (s *nativeSession) Close() error {
	s.once.Do(func() {
		close(s.ended)
		_ = s.client.Close() // it may have ended by itself
	})
	s.all.Wait()
	return nil
}

// keepAlive ends a session whose server gives no sign of life.
func (s *nativeSession) keepAlive() {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	answers := make(chan error, missed+1)
	defer func() { _ = s.client.Close() }()
	for waiting := 0; ; {
		select {
		case <-s.ended:
			return
		case err := <-answers:
			if err != nil {
				return
			}
			waiting = 0
		case <-tick.C:
			if waiting++; waiting > missed {
				return
			}
			if waiting == 1 {
				s.all.Go(func() {
					_, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil)
					answers <- err
				})
			}
		}
	}
}

// hostKeys returns what judges a server's key, and the algorithms of the keys
// that are known, so that the server shows one of these.
func (n Native) hostKeys(addr string) (ssh.HostKeyCallback, []string, error) {
	var files []string
	for _, f := range n.KnownHosts {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	known, err := knownhosts.New(files...)
	if err != nil {
		return nil, nil, fmt.Errorf("read known host keys: %w", err)
	}
	judge := func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known(host, remote, key)
		bad, unsure := errors.AsType[*knownhosts.KeyError](err)
		if !unsure {
			return err
		}
		e := &kassett.Error{Op: "trust server", What: addr, Kind: kassett.Denied}
		if len(bad.Want) > 0 {
			e.Err = fmt.Errorf("its host key %s is not the known one (%s:%d): somebody may stand between", ssh.FingerprintSHA256(key), bad.Want[0].Filename, bad.Want[0].Line)
			e.Hint = "ask who runs the server whether its key was changed; only then take the old one out: ssh-keygen -R " + n.Place.Host
			return e
		}
		e.Err = fmt.Errorf("its host key %s %s is not known", key.Type(), ssh.FingerprintSHA256(key))
		e.Hint = fmt.Sprintf("compare it with what ssh-keygen -lf /etc/ssh/ssh_host_*.pub says on the server, then: ssh-keyscan -p %d %s >> ~/.ssh/known_hosts", n.port(), n.Place.Host)
		return e
	}
	var algorithms []string
	probe := known(addr, &net.TCPAddr{}, noKey{})
	if e, ok := errors.AsType[*knownhosts.KeyError](probe); ok {
		for _, k := range e.Want {
			for _, a := range algorithmsOf(k.Key.Type()) {
				if !slices.Contains(algorithms, a) {
					algorithms = append(algorithms, a)
				}
			}
		}
	}
	return judge, algorithms, nil
}

// noKey is a key that is never the right one.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return nil }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// algorithmsOf returns the signature algorithms of a type of key.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// signers returns what can prove who we are: first the keys in files, then
// those of the agent. Call the function it returns when they are used.
func (n Native) signers(ctx context.Context) (signers []ssh.Signer, done func()) {
	for _, f := range n.Keys {
		pem, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if s, err := ssh.ParsePrivateKey(pem); err == nil {
			signers = append(signers, s)
		}
	}
	if n.Agent == "" {
		return signers, func() {}
	}
	line, err := new(net.Dialer).DialContext(ctx, "unix", n.Agent)
	if err != nil {
		return signers, func() {}
	}
	if more, err := agent.NewClient(line).Signers(); err == nil {
		signers = append(signers, more...)
	}
	return signers, func() { _ = line.Close() }
}

// refused says why a login did not come about.
func (n Native) refused(addr, name string, keys int, err error) error {
	if e, known := errors.AsType[*kassett.Error](err); known {
		return e
	}
	if !strings.Contains(err.Error(), "unable to authenticate") { // it has no type for this
		return offline(err)
	}
	e := &kassett.Error{Op: "log in at", What: name + "@" + addr, Kind: kassett.Denied, Err: err}
	e.Hint = "ssh-copy-id " + name + "@" + n.Place.Host + " brings a key there; a key with a passphrase needs an agent (ssh-add), or the program ssh"
	if keys == 0 {
		e.Err = errors.New("there is no key to log in with, neither in an agent nor in a file without a passphrase")
		e.Hint = "ssh-keygen makes a key, ssh-copy-id brings it to the server; -o sftp.key=FILE names one"
	}
	return e
}
