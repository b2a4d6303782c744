package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"kassett"
	"kassett/cmd/kassett/terminal"
	"kassett/mount"
)

// davFlags are the flags of mount --webdav.
type davFlags struct{ address, passwordFile, cert, key string }

// Limits of the WebDAV server. A large file may take its reader hours.
const (
	davClients = 256 // connections at a time
	davHeader  = 64 << 10
	davIdle    = 2 * time.Minute
	davSlow    = 20 * time.Second // for the head of a request
	davEnd     = 5 * time.Second  // for requests to end when the server does
)

// serveDAV serves the repository over WebDAV until it is stopped.
func (a *app) serveDAV(ctx context.Context, x mountFlags) error {
	password, err := a.davPassword(ctx, x.dav)
	if err != nil {
		return err
	}
	config, err := x.dav.tls()
	if err != nil {
		return err
	}
	l, err := x.dav.listen(ctx, len(password) > 0, config != nil)
	if err != nil {
		return err
	}
	scheme := "http"
	if config != nil {
		l, scheme = tls.NewListener(l, config), "https"
	}
	defer func() { _ = l.Close() }() // closed by the server already, as a rule
	return a.show(ctx, x, func(ctx context.Context, v *mount.View) error {
		s := &http.Server{
			Handler: mount.Guard(v.Handler(), password), MaxHeaderBytes: davHeader,
			ReadHeaderTimeout: davSlow, IdleTimeout: davIdle,
			BaseContext: func(net.Listener) context.Context { return ctx },
			ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // broken connections, mostly
		}
		at := scheme + "://" + l.Addr().String() + "/"
		lines := []string{"the repository can be read at " + at + " over WebDAV", "Ctrl-C here ends it"}
		if len(password) == 0 {
			lines = append(lines, "every user of this machine can read it there; --webdav-password-file asks for a password")
		}
		if err := a.serving("serving", at, lines...); err != nil {
			return err
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		select {
		case err := <-ended:
			return fmt.Errorf("serve %s: %w", at, err)
		case <-ctx.Done():
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), davEnd)
		defer cancel()
		if err := s.Shutdown(late); err != nil {
			_ = s.Close() // what is left was told to end
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", at, err)
		}
		return nil
	})
}

// davPassword returns the password of the server, nil for none.
func (a *app) davPassword(ctx context.Context, d davFlags) ([]byte, error) {
	if d.passwordFile != "" {
		return passwordFrom(ctx, d.passwordFile, "", "--webdav-password-file", "")
	}
	return []byte(a.getenv(envPrefix + "WEBDAV_PASSWORD")), nil
}

// tls returns the server's certificate, nil for none.
func (d davFlags) tls() (*tls.Config, error) {
	if d.cert == "" && d.key == "" {
		return nil, nil //nolint:nilnil // none is asked for
	}
	c, err := tls.LoadX509KeyPair(d.cert, d.key)
	if err != nil {
		return nil, invalid("read certificate", terminal.Safe(d.cert), "give both --tls-cert and --tls-key, as PEM files", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}, nil
}

// listen opens the server's address. Patients' data do not go on a network
// without a password, and neither without encryption.
func (d davFlags) listen(ctx context.Context, password, encrypted bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(d.address)
	if err != nil {
		return nil, invalid("serve WebDAV at", terminal.Safe(d.address), "give an address and a port, as 127.0.0.1:8080", err)
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if !password || !encrypted {
		if ip == nil || !ip.IsLoopback() {
			return nil, &kassett.Error{
				Op: "serve WebDAV at", What: terminal.Safe(d.address), Kind: kassett.Denied,
				Err:  errors.New("other machines could read all that was backed up"),
				Hint: "use 127.0.0.1, or give --webdav-password-file, --tls-cert and --tls-key",
			}
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, &kassett.Error{
			Op: "serve WebDAV at", What: terminal.Safe(d.address), Kind: kassett.Denied, Err: err,
			Hint: "use another port; another program may use this one",
		}
	}
	return netutil.LimitListener(l, davClients), nil
}
