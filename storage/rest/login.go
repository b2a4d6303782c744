package rest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// login knows who a request comes from. Hashing a password is made to be dear,
// so one that was right is remembered, as a sum under a key that this process
// has made up, until the clients file changes.
type login struct {
	key   [32]byte
	turns chan struct{} // bounds how many hashes are computed at once

	mu      sync.Mutex
	clients *Clients
	dummy   []byte // a hash that no password has, as dear as the others
	known   map[[32]byte]*Client
	busy    map[[32]byte]chan struct{} // closed when the check has ended
	wrong   map[string]*rate.Limiter   // by address
	crowd   *rate.Limiter              // of all addresses that there is no room for
}

// How guesses are slowed: an address has some wrong passwords in a row free,
// and from then on one in a while.
const (
	freeGuesses   = 10
	guessEvery    = 10 * time.Second
	maxAddresses  = 4096
	maxKnown      = 4096
	hashesAtOnce  = 2
	maxCredential = 256 // bytes of name and password
)

func newLogin(c *Clients) *login {
	l := &login{turns: make(chan struct{}, hashesAtOnce), busy: map[[32]byte]chan struct{}{}}
	_, _ = rand.Read(l.key[:]) // never fails: it ends the program instead
	l.set(c)
	return l
}

// set takes over another clients file.
func (l *login) set(c *Clients) {
	var nobody [16]byte
	_, _ = rand.Read(nobody[:]) // never fails
	dummy, err := bcrypt.GenerateFromPassword(nobody[:], c.cost)
	if err != nil { // the cost was checked
		dummy = nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients, l.dummy = c, dummy
	l.known, l.wrong = map[[32]byte]*Client{}, map[string]*rate.Limiter{}
	l.crowd = newGuesses()
}

func newGuesses() *rate.Limiter { return rate.NewLimiter(rate.Every(guessEvery), freeGuesses) }

// Why somebody is not let in. Only the log tells them apart.
type loginFault string

const (
	noCredentials loginFault = "no name and password"
	wrongLogin    loginFault = "wrong name or password"
	wrongCert     loginFault = "no certificate in the client's name"
	tooManyWrong  loginFault = "too many wrong passwords from this address"
)

// who returns the client that a request comes from, or why it is none. name is
// what the request says, for the log.
func (l *login) who(ctx context.Context, r *http.Request) (c *Client, name string, fault loginFault) {
	cert := certName(r.TLS)
	name, password, ok := r.BasicAuth()
	if !ok && cert == "" {
		return nil, "", noCredentials
	}
	if !ok {
		name = cert
	}
	if len(name)+len(password) > maxCredential {
		return nil, name[:min(len(name), 80)], wrongLogin
	}
	mac := hmac.New(sha256.New, l.key[:])
	for _, part := range []string{name, password, cert} {
		sum := sha256.Sum256([]byte(part))
		mac.Write(sum[:])
	}
	return l.check(ctx, asked{sum: [32]byte(mac.Sum(nil)), name: name, password: password, cert: cert, from: remoteHost(r)})
}

// asked is what somebody says who wants to be let in.
type asked struct {
	sum                        [32]byte // of all of it but the address
	name, password, cert, from string
}

func (l *login) check(ctx context.Context, a asked) (_ *Client, name string, fault loginFault) {
	var clients *Clients
	var c *Client
	var hash []byte
	done := make(chan struct{})
	for clients == nil {
		l.mu.Lock()
		// The key of the sum is secret, so the time of a look-up tells nothing.
		known, busy := l.known[a.sum], l.busy[a.sum]
		switch {
		case known != nil:
			l.mu.Unlock()
			return known, a.name, ""
		case busy != nil: // the same is being checked: one of many connections of a client
			l.mu.Unlock()
			select {
			case <-busy:
			case <-ctx.Done():
				return nil, a.name, wrongLogin
			}
			continue
		case !l.guesses(a.from).Allow():
			l.mu.Unlock()
			return nil, a.name, tooManyWrong
		}
		l.busy[a.sum] = done
		clients, c, hash = l.clients, l.clients.byName[a.name], l.dummy
		l.mu.Unlock()
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if fault == "" && l.clients == clients {
			if len(l.known) >= maxKnown {
				clear(l.known)
			}
			l.known[a.sum] = c
			delete(l.wrong, a.from) // many clients may share an address
		}
		delete(l.busy, a.sum)
		close(done)
	}()
	select {
	case l.turns <- struct{}{}:
	case <-ctx.Done():
		return nil, a.name, wrongLogin
	}
	if c != nil && c.Hash != "" {
		hash = []byte(c.Hash)
	}
	err := bcrypt.CompareHashAndPassword(hash, []byte(a.password))
	<-l.turns
	switch {
	case c == nil, c.Hash != "" && err != nil:
		return nil, a.name, wrongLogin
	case c.Cert && a.cert != c.Name:
		return nil, a.name, wrongCert
	}
	return c, a.name, ""
}

// guesses returns what counts the wrong passwords of an address. When too many
// addresses are at it, those who come new share one. The caller holds mu.
func (l *login) guesses(address string) *rate.Limiter {
	if g := l.wrong[address]; g != nil {
		return g
	}
	if len(l.wrong) >= maxAddresses {
		for a, g := range l.wrong {
			if g.Tokens() >= freeGuesses { // long ago
				delete(l.wrong, a)
			}
		}
	}
	if len(l.wrong) >= maxAddresses {
		return l.crowd
	}
	g := newGuesses()
	l.wrong[address] = g
	return g
}

// certName returns the common name of a certificate that was verified, or "".
func certName(s *tls.ConnectionState) string {
	if s == nil || len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		return ""
	}
	return s.VerifiedChains[0][0].Subject.CommonName
}

// remoteHost returns the address of a request's sender without its port.
func remoteHost(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}
