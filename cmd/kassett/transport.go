package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
)

// tlsFlags say whom to trust across a network, and who we are there.
type tlsFlags struct {
	roots    []string
	client   string
	insecure bool
}

func (t *tlsFlags) register(f *pflag.FlagSet) {
	f.StringSliceVar(&t.roots, "cacert", nil, "trust the root certificates in `file` instead of the system's (repeatable; default: $KASSETT_CACERT)")
	f.StringVar(&t.client, "tls-client-cert", "", "show servers the certificate in `file`, which also holds its private key (default: $KASSETT_TLS_CLIENT_CERT)")
	f.BoolVar(&t.insecure, "insecure-tls", false, "accept any certificate of a server: whoever is in between can read and change what is sent")
}

// stuckAfter is how long a connection may move nothing before it is given up.
const stuckAfter = 5 * time.Minute

// transport returns what carries requests to storages over HTTP. It keeps
// connections open between requests; whoever made it closes the idle ones. It
// speaks HTTP/1.1 only: many connections carry packs faster than one with many
// streams.
func (a *app) transport() (*http.Transport, error) {
	trust, err := a.tlsConfig()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &watchedConn{Conn: c}, nil
		},
		TLSClientConfig:     trust,
		TLSHandshakeTimeout: 30 * time.Second,
		MaxIdleConns:        256,
		MaxIdleConnsPerHost: 256, // of one host, as a rule
		IdleConnTimeout:     90 * time.Second,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      64 << 10,
		DisableCompression:  true, // what is kept is sealed
	}, nil
}

// tlsConfig returns what the flags, or else the environment, say of trust.
func (a *app) tlsConfig() (*tls.Config, error) {
	t := a.flags.tls
	if text := a.getenv(envPrefix + "CACERT"); t.roots == nil && text != "" {
		t.roots = strings.Split(text, ",")
	}
	if t.client == "" {
		t.client = a.getenv(envPrefix + "TLS_CLIENT_CERT")
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: t.insecure} //nolint:gosec // asked for by a flag that says what it means
	if t.roots != nil {
		c.RootCAs = x509.NewCertPool()
	}
	for _, name := range t.roots {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read root certificates: %w", err)
		}
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, invalid("read root certificates from", name, "name a file in PEM form, which begins with -----BEGIN CERTIFICATE-----",
				errors.New("no certificate is in it"))
		}
	}
	if t.client != "" {
		pair, err := readCertificate(t.client)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// readCertificate reads a certificate and its key from one file.
func readCertificate(name string) (tls.Certificate, error) {
	rest, err := os.ReadFile(name)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read client certificate: %w", err)
	}
	var certs, key bytes.Buffer
	for block, rest := pem.Decode(rest); block != nil; block, rest = pem.Decode(rest) {
		to := &certs
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			to = &key
		}
		_ = pem.Encode(to, block) // to memory
	}
	pair, err := tls.X509KeyPair(certs.Bytes(), key.Bytes())
	if err != nil {
		return tls.Certificate{}, invalid("read client certificate from", name, "name one file in PEM form that holds the certificate and its private key", err)
	}
	return pair, nil
}

// watchedConn gives a connection up on which nothing has moved for
// [stuckAfter], in either direction.
type watchedConn struct {
	net.Conn
	set atomic.Int64 // when the deadline was last moved, in Unix seconds
}

func (c *watchedConn) moved() error {
	now := time.Now()
	if last := c.set.Load(); now.Unix() <= last || !c.set.CompareAndSwap(last, now.Unix()) {
		return nil // the deadline is at most a second too early
	}
	return c.SetDeadline(now.Add(stuckAfter))
}

// Read implements [net.Conn].
func (c *watchedConn) Read(p []byte) (int, error) {
	if err := c.moved(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if n > 0 && err == nil {
		err = c.moved()
	}
	return n, err
}

// Write implements [net.Conn].
func (c *watchedConn) Write(p []byte) (int, error) {
	if err := c.moved(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	if n > 0 && err == nil {
		err = c.moved()
	}
	return n, err
}
