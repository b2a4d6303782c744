//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// serveS3 is versitygw, as the tests start it; its plain client is curl, which
// signs but does not hash what it sends, four files at once.
func serveS3(ctx context.Context, at setting) (*served, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	found, _ := filepath.Glob(filepath.Join(cache, "kassett-tools", "versitygw-v*")) // the pattern is right
	curl, err := exec.LookPath("curl")
	if len(found) == 0 || err != nil {
		return nil, errors.New("versitygw or curl is missing: `make deps` installs both")
	}
	data := filepath.Join(at.dir, "data")
	if err := os.MkdirAll(filepath.Join(data, "plain"), 0o700); err != nil {
		return nil, err
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	const key, secret, region = "bench", "bench-secret", "eu-north-1"
	server := exec.CommandContext(ctx, found[len(found)-1], "--port", address, "--region", region, "--keep-alive", "--quiet", "posix", data)
	server.Env = []string{"ROOT_ACCESS_KEY=" + key, "ROOT_SECRET_KEY=" + secret}
	stop, err := daemon(ctx, server, func() bool { return listens(ctx, address) })
	if err != nil {
		return nil, err
	}
	client := func(line func(file string) string) *exec.Cmd {
		var config strings.Builder
		for _, f := range at.files {
			fmt.Fprintf(&config, "%s\nurl=http://%s/plain/%s\n", line(f), address, f)
		}
		cmd := exec.CommandContext(ctx, curl, "-sSf", "--parallel", "--parallel-max", "4", "--user", key+":"+secret,
			"--aws-sigv4", "aws:amz:"+region+":s3", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-K", "-")
		cmd.Stdin = strings.NewReader(config.String())
		return cmd
	}
	return &served{
		repo: "s3:http://" + address + "/bucket",
		env:  []string{"AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_DEFAULT_REGION=" + region},
		put: func(from string) *exec.Cmd {
			return client(func(f string) string { return "upload-file=" + filepath.Join(from, f) })
		},
		get: func(to string) *exec.Cmd {
			return client(func(f string) string { return "output=" + filepath.Join(to, f) })
		},
		stop: stop,
	}, nil
}

// freeAddress returns an address of 127.0.0.1 at which nobody listens.
func freeAddress(ctx context.Context) (string, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// listens reports whether somebody does.
func listens(ctx context.Context, address string) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = c.Close() // nothing was sent
	}
	return err == nil
}
