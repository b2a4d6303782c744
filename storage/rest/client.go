// Package rest keeps a repository on another machine, across HTTP, by restic's
// REST protocol, and is the other machine too.
//
// The client, [Open], works with every server of the protocol: restic's own
// rest-server, and ours. The protocol, versions 1 and 2, is described in
// restic's documentation (doc/REST_backend.rst).
//
// The server, [Handler], is the door through which a machine that backs up may
// add and not take away: no file is replaced, none is removed but the locks the
// same client made, every file is hashed on its way in. Any program that speaks
// the protocol is served. What our own client and server say to each other
// beyond it is additions that others pass over:
//
//   - every answer to a client that is let in has a header Kassett-Storage: 1;
//   - the files beside a repository are below kassett/, and a listing of a
//     folder there, whose path ends in a slash, is as that of a kind of file;
//   - entries of listings have a field "received", and answers to HEAD a header
//     Kassett-Received: when the server took the file in, RFC 3339, UTC;
//   - an upload may have a header Content-Digest (RFC 9530) with its SHA-256;
//   - a refusal has a header Kassett-Kind, a word of [kassett.Kind], and the
//     reason in a header Kassett-Why and as text, with the next step on the
//     second line.
package rest

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"kassett"
	"kassett/storage"
)

// What is said in HTTP headers.
const (
	typeV1         = "application/vnd.x.restic.rest.v1"
	typeV2         = "application/vnd.x.restic.rest.v2"
	headerOurs     = "Kassett-Storage"
	headerKind     = "Kassett-Kind"
	headerWhy      = "Kassett-Why"
	headerReceived = "Kassett-Received"
	headerDigest   = "Content-Digest"
)

// Options say how a server is reached.
type Options struct {
	// Username and Password are sent with every request. When empty, those
	// of the URL are.
	Username, Password string
	// Transport carries the requests; it must keep at least Connections of
	// them open to one host. Nil is [http.DefaultTransport].
	Transport http.RoundTripper
	// Connections is how many calls pay side by side; 0 means 5, as restic has it.
	Connections int
}

// Storage is a repository behind a server of the protocol. It implements
// [kassett.Storage] and [kassett.Parallel]. Errors of the network and of an
// overloaded server are [kassett.Offline].
type Storage struct {
	base        string // URL of the repository, without user, ends in a slash
	where       string // for people
	user, pass  string
	client      *http.Client
	connections int
}

// ServedStorage is a repository behind a server of ours, which also keeps files
// beside it, and knows when it received what: it implements [kassett.Beside].
type ServedStorage struct{ *Storage }

var (
	_ kassett.Storage  = (*Storage)(nil)
	_ kassett.Parallel = (*Storage)(nil)
	_ kassett.Beside   = (*ServedStorage)(nil)
)

// Open opens the repository at a URL, such as
// https://user:password@host:8000/path/. It is a [kassett.NotFound] error when
// none is there. The result is a [*ServedStorage] when the server is ours, else
// a [*Storage].
func Open(ctx context.Context, address string, o Options) (kassett.Storage, error) {
	s, err := newStorage(address, o)
	if err != nil {
		return nil, err
	}
	const op = "open repository"
	resp, err := s.send(ctx, http.MethodHead, kassett.ConfigFile.String(), nil)
	if err != nil {
		return nil, s.fault(op, s.where, err)
	}
	defer drain(resp)
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, &kassett.Error{
			Op: op, What: s.where, Kind: kassett.NotFound, Err: errors.New("the server has none there"),
			Hint: "check the path at the end of the URL; init makes a new repository",
		}
	case resp.StatusCode != http.StatusOK:
		return nil, s.refused(op, s.where, resp)
	}
	return s.kindOf(resp), nil
}

// Create makes a place for a repository at a URL. It does not write a config
// file. A place that has one is an [kassett.Exists] error.
func Create(ctx context.Context, address string, o Options) (kassett.Storage, error) {
	s, err := newStorage(address, o)
	if err != nil {
		return nil, err
	}
	const op = "create repository"
	resp, err := s.send(ctx, http.MethodHead, kassett.ConfigFile.String(), nil)
	if err != nil {
		return nil, s.fault(op, s.where, err)
	}
	drain(resp)
	switch resp.StatusCode {
	case http.StatusNotFound:
	case http.StatusOK:
		return nil, &kassett.Error{
			Op: op, What: s.where, Kind: kassett.Exists, Err: errors.New("a repository is there"),
			Hint: "use it as it is, or give another path",
		}
	default:
		return nil, s.refused(op, s.where, resp)
	}
	resp, err = s.send(ctx, http.MethodPost, "?create=true", nil)
	if err != nil {
		return nil, s.fault(op, s.where, err)
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusOK {
		return nil, s.refused(op, s.where, resp)
	}
	return s.kindOf(resp), nil
}

func newStorage(address string, o Options) (*Storage, error) {
	u, err := url.Parse(address)
	if err == nil && (u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "") {
		err = errors.New("not the URL of a repository")
	}
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // without the URL, which may hold a password
		}
		return nil, &kassett.Error{
			Op: "open repository", What: "rest:", Kind: kassett.Invalid, Err: err,
			Hint: "write it as rest:https://host:8000/path/; user and password go into KASSETT_REST_USERNAME and KASSETT_REST_PASSWORD",
		}
	}
	s := &Storage{user: o.Username, pass: o.Password, connections: cmp.Or(max(0, o.Connections), 5)}
	if s.user == "" && u.User != nil {
		s.user = u.User.Username()
		s.pass, _ = u.User.Password()
	}
	u.User = nil
	s.base = strings.TrimSuffix(u.String(), "/") + "/"
	s.where = "rest:" + s.base
	s.client = &http.Client{
		Transport: o.Transport,
		// A server of the protocol sends nobody elsewhere, and a password
		// is for one server only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s, nil
}

// kindOf returns s with the abilities that the server has.
func (s *Storage) kindOf(resp *http.Response) kassett.Storage {
	if resp.Header.Get(headerOurs) != "" {
		return &ServedStorage{s}
	}
	return s
}

// Connections implements [kassett.Parallel].
func (s *Storage) Connections() int { return s.connections }

// Close closes connections that are not in use.
func (s *Storage) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// send sends a request without a body and returns the answer. Its error never
// holds a password.
func (s *Storage) send(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, nil)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	return s.do(req)
}

func (s *Storage) do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Accept", typeV2)
	if s.user != "" || s.pass != "" {
		req.SetBasicAuth(s.user, s.pass)
	}
	resp, err := s.client.Do(req)
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	return resp, err
}

// drain reads what is left of a small answer, so that the connection can be
// used again, and closes it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // the end, or it is given up
	_ = resp.Body.Close()
}

// fault is the error of a request that got no answer, or not all of it.
func (s *Storage) fault(op, what string, err error) error {
	kind := kassett.KindOf(err)
	if kind == kassett.Other {
		kind = kassett.Offline
	}
	e := &kassett.Error{Op: op, What: what, Kind: kind, Err: err}
	if _, bad := errors.AsType[*tls.CertificateVerificationError](err); bad {
		e.Kind, e.Hint = kassett.Denied, "the server's certificate is not trusted: give the certificate of its authority with --cacert, and check that the name in the place is the one in the certificate"
	} else if kind == kassett.Offline {
		e.Hint = "check that the server runs, that this machine reaches " + s.base + " and trusts its certificate (--cacert)"
	}
	return e
}

// refused is the error of an answer that says no.
func (s *Storage) refused(op, what string, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 2<<10)) // what there is
	words, hint, _ := strings.Cut(strings.ToValidUTF8(string(text), "?"), "\n")
	e := &kassett.Error{Op: op, What: what, Hint: oneLine(hint)}
	if resp.Header.Get(headerOurs) == "" {
		words, e.Hint = "", ""
	} else if words == "" {
		words = resp.Header.Get(headerWhy)
	}
	e.Err = fmt.Errorf("the server answers %d %s", resp.StatusCode, cmp.Or(oneLine(words), http.StatusText(resp.StatusCode)))
	e.Kind = kindOfStatus(resp)
	switch {
	case e.Hint != "":
	case resp.StatusCode == http.StatusUnauthorized:
		e.Hint = "check KASSETT_REST_USERNAME and KASSETT_REST_PASSWORD, and that the server knows this client"
	case e.Kind == kassett.Denied:
		e.Hint = "the server does not give this client the right to do that: ask who runs it"
	case e.Kind == kassett.Offline:
		e.Hint = "wait and try again; the log of the server says more"
	}
	return e
}

// kindOfStatus returns the kind that an answer stands for: what our server
// says, else what the status means.
func kindOfStatus(resp *http.Response) kassett.Kind {
	if word := resp.Header.Get(headerKind); word != "" {
		for k := kassett.Other; k <= kassett.Interrupted; k++ {
			if k.String() == word {
				return k
			}
		}
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return kassett.Denied
	case http.StatusNotFound, http.StatusGone:
		return kassett.NotFound
	case http.StatusConflict, http.StatusPreconditionFailed:
		return kassett.Exists
	case http.StatusBadRequest, http.StatusLengthRequired:
		return kassett.Invalid
	case http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage:
		return kassett.Full
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return kassett.Offline
	}
	return kassett.Other
}

// oneLine makes a text of a stranger one short line without control characters.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	return strings.TrimSpace(text[:min(len(text), 500)])
}

// path returns where a file is below the URL of the repository. The protocol
// has no folders below data/.
func path(h kassett.Handle) string { return h.String() }

// besidePath is where the files beside a repository are, below its URL.
const besidePath = storage.BesideFolder + "/"
