package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"kassett/repo"
)

// envPrefix begins the name of every environment variable that is ours.
const envPrefix = "KASSETT_"

// foreignSecrets are variables of others that open storages.
var foreignSecrets = []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}

// taken reports whether a variable is kept from child processes.
func taken(name string) bool {
	name = strings.ToUpper(name)
	return strings.HasPrefix(name, envPrefix) || slices.Contains(foreignSecrets, name)
}

// env is all that a run of the program touches of the world around it, apart
// from files named by the user.
type env struct {
	args   []string // without the program's own name
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string

	stdinTerminal  bool       // a person can be asked
	stdoutTerminal bool       // binary data would do harm there
	stderrTerminal bool       // a line can be redrawn
	width          func() int // of stderr, in columns; 0 when it is unknown
	// readPassword reads a line from the terminal without showing it, until
	// ctx ends.
	readPassword func(ctx context.Context) ([]byte, error)

	scrypt repo.Scrypt // cost of new keys; zero means calibrated to this machine
}

// systemEnv returns the process's own env. It takes everything that begins
// with KASSETT_ and the keys of storages out of the process environment, so that
// no child process inherits a password, where one is kept, or which repository
// is used.
func systemEnv() env {
	own := takeEnv()
	return env{
		args:   os.Args[1:],
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		getenv: func(name string) string {
			if taken(name) {
				return own[name]
			}
			return os.Getenv(name)
		},
		stdinTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		stdoutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		stderrTerminal: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("TERM") != "dumb",
		width: func() int {
			w, _, err := term.GetSize(int(os.Stderr.Fd()))
			if err != nil {
				return 0
			}
			return w
		},
		readPassword: readTerminal,
	}
}

// readTerminal reads a line from the terminal with the echo off. A read that
// waits cannot be broken off, so a goroutine waits for it, at the longest until
// the process ends; when ctx ends the echo is turned on again.
func readTerminal(ctx context.Context) ([]byte, error) {
	fd := int(os.Stdin.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type line struct {
		text []byte
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := term.ReadPassword(fd)
		got <- line{text, err}
	}()
	select {
	case l := <-got:
		return l.text, l.err
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	}
}

// takeEnv moves what is taken from the process environment into a map.
func takeEnv() map[string]string {
	own := make(map[string]string)
	for _, pair := range os.Environ() {
		name, value, _ := strings.Cut(pair, "=")
		if taken(name) {
			own[name] = value
			_ = os.Unsetenv(name) // fails only for names that cannot be set
		}
	}
	return own
}
