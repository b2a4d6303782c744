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

// serveSFTP is Debian's sshd with keys of its own, as the user who measures;
// its plain client is OpenSSH's sftp, and Kassett goes through the program ssh.
func serveSFTP(ctx context.Context, at setting) (*served, error) {
	const sshd = "/usr/sbin/sshd"
	if _, err := os.Stat(sshd); err != nil {
		return nil, errors.New("sshd is missing: `make deps` installs it")
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			return nil, err
		}
	}
	in := func(name string) string { return filepath.Join(at.dir, name) }
	if err := os.Mkdir(in("plain"), 0o700); err != nil {
		return nil, err
	}
	for _, name := range []string{"host", "key"} {
		if out, err := exec.CommandContext(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", in(name)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("make key: %w\n%s", err, out)
		}
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hostKey, err := os.ReadFile(in("host.pub"))
	if err != nil {
		return nil, err
	}
	for name, lines := range map[string][]string{
		"sshd_config": {
			"ListenAddress " + address, "HostKey " + in("host"), "AuthorizedKeysFile " + in("key.pub"), "UsePAM no", "StrictModes no",
			"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes", "UseDNS no", "PidFile none", "Subsystem sftp internal-sftp",
		},
		"ssh_config": {
			"IdentityFile " + in("key"), "IdentitiesOnly yes", "UserKnownHostsFile " + in("known_hosts"), "LogLevel ERROR", "Port " + port,
		},
		"known_hosts": {"[" + host + "]:" + port + " " + string(hostKey)},
	} {
		if err := os.WriteFile(in(name), []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			return nil, err
		}
	}
	stop, err := daemon(ctx, exec.CommandContext(ctx, sshd, "-D", "-e", "-f", in("sshd_config")), func() bool { return listens(ctx, address) })
	if err != nil {
		return nil, err
	}
	client := func(line func(file string) string) *exec.Cmd {
		var batch strings.Builder
		for _, f := range at.files {
			batch.WriteString(line(f) + "\n")
		}
		cmd := exec.CommandContext(ctx, "sftp", "-q", "-F", in("ssh_config"), "-b", "-", host)
		cmd.Stdin = strings.NewReader(batch.String())
		return cmd
	}
	return &served{
		repo: "sftp:" + host + ":" + in("repo"),
		args: []string{"-o", "sftp.args=-F " + in("ssh_config")},
		put: func(from string) *exec.Cmd {
			return client(func(f string) string { return "put " + filepath.Join(from, f) + " " + in("plain") })
		},
		get: func(to string) *exec.Cmd {
			return client(func(f string) string { return "get " + filepath.Join(in("plain"), f) + " " + to })
		},
		stop: stop,
	}, nil
}
