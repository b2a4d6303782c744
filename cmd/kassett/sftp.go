package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/storage/sftp"
)

// openSFTP opens or creates a repository on an SFTP server.
func (a *app) openSFTP(ctx context.Context, address string, w whether) (kassett.Storage, error) {
	p, err := sftp.ParsePlace(address)
	if err != nil {
		return nil, err
	}
	o := sftp.Options{Warn: func(err error) { a.warn("", err) }}
	if o.Connections, err = a.connections("sftp", sftp.DefaultConnections); err != nil {
		return nil, err
	}
	if o.Dial, err = a.sftpDial(p); err != nil {
		return nil, err
	}
	if w == mayCreate {
		return sftp.Create(ctx, p.Path, o)
	}
	return sftp.Open(ctx, p.Path, o)
}

// connections returns the option KIND.connections, or usual when it is not set.
func (a *app) connections(kind string, usual int) (int, error) {
	text, set := a.flags.options[kind+".connections"]
	if !set {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 1000 {
		return 0, invalid("read option", kind+".connections="+terminal.Safe(text), "give a number from 1 to 1000", nil)
	}
	return n, nil
}

// sftpDial returns the way to the server: the user's own ssh program, which
// knows the user's configuration, agent, jump hosts and known hosts, or our own
// client where there is no such program or -o sftp.client=native asks for it.
func (a *app) sftpDial(p sftp.Place) (sftp.DialFunc, error) {
	options := a.flags.options
	client := options["sftp.client"]
	switch client {
	case "", "ssh", "native":
	default:
		return nil, invalid("read option", "sftp.client="+terminal.Safe(client), "give ssh or native", nil)
	}
	if line := options["sftp.command"]; line != "" {
		if client != "" || options["sftp.args"] != "" {
			return nil, invalid("read options", "sftp.command", "give either sftp.command, or sftp.args and sftp.client", errors.New("they exclude each other"))
		}
		words, err := splitWords(line)
		if err != nil || len(words) == 0 {
			return nil, invalid("read option", "sftp.command", "write it as a program with arguments; quote words that hold spaces", err)
		}
		return a.program(func(int) []string { return words }), nil
	}
	if client == "native" || client == "" && !installed("ssh") {
		return a.nativeSSH(p).Dial, nil
	}
	extra, err := splitWords(options["sftp.args"])
	if err != nil {
		return nil, invalid("read option", "sftp.args", "quote words that hold spaces", err)
	}
	return a.program(func(others int) []string {
		// The first value of an option counts: the user's own come first.
		words := append([]string{"ssh"}, extra...)
		words = append(words, "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3")
		if others > 0 {
			words = append(words, "-o", "BatchMode=yes") // nobody is asked twice
		}
		if p.Port != 0 {
			words = append(words, "-p", strconv.Itoa(p.Port))
		}
		if p.User != "" {
			words = append(words, "-l", p.User)
		}
		return append(words, "-s", p.Host, "sftp")
	}), nil
}

func installed(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// nativeSSH returns our own client with the user's usual files.
func (a *app) nativeSSH(p sftp.Place) sftp.Native {
	n := sftp.Native{Place: p, Agent: a.getenv("SSH_AUTH_SOCK")}
	home, err := os.UserHomeDir()
	if err == nil {
		n.KnownHosts = []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			n.Keys = append(n.Keys, filepath.Join(home, ".ssh", name))
		}
	}
	if f := a.flags.options["sftp.known-hosts"]; f != "" {
		n.KnownHosts = []string{f}
	}
	if f := a.flags.options["sftp.key"]; f != "" {
		n.Keys = []string{f}
	}
	return n
}

// program returns a way to the server through a program that words names.
func (a *app) program(words func(others int) []string) sftp.DialFunc {
	return func(ctx context.Context, others int) (io.ReadWriteCloser, error) {
		w := words(others)
		cmd := exec.Command(w[0], w[1:]...) //nolint:noctx // it ends with the session, which outlives the call
		s := &programSession{cmd: cmd}
		if a.flags.verbose > 0 {
			s.said.tell = func(line string) { a.ui.Line(terminal.Safe(filepath.Base(w[0]) + ": " + line)) }
		}
		cmd.Stderr = &s.said
		cmd.WaitDelay = 2 * time.Second // a shared master may keep the error output open
		var err error
		if s.in, err = cmd.StdinPipe(); err != nil {
			return nil, err
		}
		if s.out, err = cmd.StdoutPipe(); err != nil {
			return nil, err
		}
		widen(s.in)
		widen(s.out)
		s.backToFront = separate(cmd, others == 0 && a.stdinTerminal)
		if err := cmd.Start(); err != nil {
			s.backToFront()
			return nil, invalid("run", terminal.Safe(w[0]), "install OpenSSH's client, or name another program with -o sftp.command", err)
		}
		return s, nil
	}
}

// programSession is a session through a program's standard input and output.
type programSession struct {
	cmd         *exec.Cmd
	in          io.WriteCloser
	out         io.Reader
	said        lastWords
	backToFront func() // gives the terminal back to us; may be called again
	once        sync.Once
	reason      error
}

func (s *programSession) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	s.backToFront() // the server talks: the login is done
	return n, err
}

func (s *programSession) Write(p []byte) (int, error) { return s.in.Write(p) }

// Close implements [io.Closer]: it ends the program, and returns why it had
// ended before.
func (s *programSession) Close() error {
	s.once.Do(func() {
		_ = s.in.Close() // it may be gone
		late := time.AfterFunc(time.Second, func() { _ = s.cmd.Process.Kill() })
		err := s.cmd.Wait()
		late.Stop()
		s.backToFront()
		if err != nil {
			s.reason = s.explain(err)
		}
	})
	return s.reason
}

// deniedWords are how OpenSSH says that trying again does not help.
var deniedWords = []string{"Permission denied", "Host key verification failed", "HOST IDENTIFICATION HAS CHANGED", "Too many authentication failures"}

// explain turns the end of the program into an error with its last words.
func (s *programSession) explain(err error) error {
	text := strings.TrimSpace(s.said.String())
	e := &kassett.Error{
		Op: "reach SFTP server with", What: filepath.Base(s.cmd.Path), Kind: kassett.Offline, Err: err,
		Hint: "check that the server is up and the network between: ssh HOST must log in without a question",
	}
	if text != "" {
		e.Err = fmt.Errorf("%s (%w)", terminal.Safe(strings.Join(strings.Fields(text), " ")), err)
	}
	if slices.ContainsFunc(deniedWords, func(w string) bool { return strings.Contains(text, w) }) {
		e.Kind = kassett.Denied
		e.Hint = "log in once by hand with the same user and host: ssh USER@HOST; it says what is missing, a key or the trust in the host"
	}
	return e
}

// lastWords keeps the end of what a program says.
type lastWords struct {
	mu   sync.Mutex
	b    bytes.Buffer
	tell func(line string) // each line as it comes; may be nil
}

const maxLastWords = 4 << 10

// Write implements [io.Writer].
func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(p)
	if over := l.b.Len() - maxLastWords; over > 0 {
		l.b.Next(over)
	}
	if l.tell != nil {
		for line := range strings.Lines(string(p)) {
			l.tell(strings.TrimRight(line, "\r\n"))
		}
	}
	return len(p), nil
}

// String returns what is kept.
func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
