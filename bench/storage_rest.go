//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// serveREST is our own server; its plain client is curl, four files at once,
// under the names that the server asks for.
func serveREST(ctx context.Context, at setting) (*served, error) {
	const name, password = "bench", "a password for the bench"
	curl, err := exec.LookPath("curl")
	if err != nil {
		return nil, errors.New("curl is missing: `make deps` installs it")
	}
	data, clients := filepath.Join(at.dir, "data"), filepath.Join(at.dir, "clients")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	add := exec.CommandContext(ctx, at.kassett, "serve", "client", "add", name, "--clients", clients, "--rights", "full", "--path", "*")
	add.Stdin = strings.NewReader(password)
	if out, err := add.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("add client: %w\n%s", err, out)
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	stop, err := daemon(ctx, exec.CommandContext(ctx, at.kassett, "serve", "storage", "--data", data, "--clients", clients, "--listen", address),
		func() bool { return listens(ctx, address) })
	if err != nil {
		return nil, err
	}
	plain := "http://" + address + "/plain/"
	for _, step := range [][]string{{"-X", "POST", plain + "?create=true"}, {"--data-binary", "a config", plain + "config"}} {
		post := exec.CommandContext(ctx, curl, append([]string{"-sSf", "--user", name + ":" + password}, step...)...)
		if out, err := post.CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("make a place for curl: %w\n%s", err, out), stop())
		}
	}
	var source string // the folder that was put: the names are sums of its files
	client := func(line func(file string) string) *exec.Cmd {
		var config strings.Builder
		for _, f := range at.files {
			b, err := os.ReadFile(filepath.Join(source, f))
			if err != nil {
				continue // curl says so
			}
			fmt.Fprintf(&config, "%s\nurl=%sdata/%x\n", line(f), plain, sha256.Sum256(b))
		}
		cmd := exec.CommandContext(ctx, curl, "-sSf", "--no-progress-meter", "--parallel", "--parallel-max", "4", "--user", name+":"+password, "-K", "-")
		cmd.Stdin = strings.NewReader(config.String())
		return cmd
	}
	return &served{
		repo: "rest:http://" + address + "/repo/",
		env:  []string{"KASSETT_REST_USERNAME=" + name, "KASSETT_REST_PASSWORD=" + password},
		put: func(from string) *exec.Cmd {
			source = from
			return client(func(f string) string { return "request=POST\nupload-file=" + filepath.Join(from, f) })
		},
		get: func(to string) *exec.Cmd {
			return client(func(f string) string { return "output=" + filepath.Join(to, f) })
		},
		stop: stop,
	}, nil
}
