package rest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"kassett"
)

// Config says what a [Handler] serves.
type Config struct {
	// Open opens the storage of a repository, or makes one; its errors are
	// those of the storages. It must have [kassett.Beside]. To know when a
	// file came in, its [kassett.Info] must tell. It is called once for each
	// repository, and what it returns is closed by [Handler.Close] if it is
	// an [io.Closer].
	Open    func(ctx context.Context, repository string, create bool) (kassett.Storage, error)
	Clients *Clients
	Records Records
	Log     *slog.Logger
	// MaxFile is the largest file taken in, in bytes; 0 means 4 GiB.
	MaxFile int64
	// LockLife is how long a lock stands after it came in; 0 means 35
	// minutes. Its holder writes it anew every 5, and stops when it could
	// not for 22; others take it for dead after 30, by their clocks.
	LockLife time.Duration
	// Now is the server's clock; nil means [time.Now].
	Now func() time.Time
}

// Handler serves repositories by restic's REST protocol to clients who may add
// and not take away. It is safe for many goroutines.
type Handler struct {
	c     Config
	login *login

	mu    sync.Mutex
	repos map[string]*served // by path
	doing map[string]chan struct{}
	muted map[string]time.Time // addresses whose refusals are not all logged
}

const (
	defaultMaxFile  = 4 << 30
	defaultLockLife = 35 * time.Minute
	transfersAtOnce = 64 // of one client; each takes a buffer
	transferWait    = time.Minute
)

// NewHandler returns a handler. [Handler.Close] ends it.
func NewHandler(c Config) *Handler {
	c.MaxFile = cmp.Or(c.MaxFile, defaultMaxFile)
	c.LockLife = cmp.Or(c.LockLife, defaultLockLife)
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Handler{
		c: c, login: newLogin(c.Clients), repos: map[string]*served{},
		doing: map[string]chan struct{}{}, muted: map[string]time.Time{},
	}
}

// SetClients takes over a changed clients file. Requests under way go on.
func (h *Handler) SetClients(c *Clients) { h.login.set(c) }

// Close writes down what is to be known at the next start. No request may be
// under way.
func (h *Handler) Close(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var bad []error
	for _, s := range h.repos {
		bad = append(bad, s.close(ctx))
	}
	clear(h.repos)
	return errors.Join(bad...)
}

// request is one request of a client who was let in.
type request struct {
	*http.Request
	w      http.ResponseWriter
	h      *Handler
	client *Client
	target target
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		// Whatever becomes of the request, what it brings has to come.
		setReadDeadline(w, time.Now().Add(stall))
	}
	client, name, fault := h.login.who(r.Context(), r)
	if fault != "" {
		h.turnAway(w, r, name, fault)
		return
	}
	q := &request{Request: r, w: w, h: h, client: client}
	w.Header().Set(headerOurs, "1")
	w.Header().Set("Cache-Control", "no-store")
	if err := q.serve(); err != nil {
		q.refuse(err)
	}
}

// turnAway answers somebody who is not let in. All get the same answer.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, name string, fault loginFault) {
	if fault != noCredentials && !h.mute(remoteHost(r), fault) {
		h.c.Log.Warn("not let in", "client", name, "remote", r.RemoteAddr, "method", r.Method, "path", r.URL.EscapedPath(), "why", string(fault))
	}
	w.Header().Set("Connection", "close")
	if fault == tooManyWrong {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "too many wrong passwords", http.StatusTooManyRequests)
		return
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="kassett", charset="UTF-8"`)
	http.Error(w, "name and password of a client, please", http.StatusUnauthorized)
}

// mute reports whether a refusal is one of many and need not be logged.
func (h *Handler) mute(address string, fault loginFault) bool {
	if fault != tooManyWrong {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.c.Now()
	if now.Sub(h.muted[address]) < time.Minute {
		return true
	}
	if len(h.muted) >= maxAddresses {
		clear(h.muted)
	}
	h.muted[address] = now
	return false
}

// serve answers a request, or returns why not, before anything was answered.
func (q *request) serve() (err error) {
	if q.target, err = parsePath(q.URL.EscapedPath()); err != nil {
		return q.denied(kassett.Invalid, err)
	}
	if !q.client.reaches(q.target.repository) {
		return q.denied(kassett.Denied, errors.New("this client has no right to this repository"))
	}
	read := q.Method == http.MethodGet || q.Method == http.MethodHead
	switch t := q.target; {
	case t.what == wholeRepository && q.Method == http.MethodPost && q.URL.Query().Get("create") == "true":
		return q.create()
	case t.what == wholeRepository:
		return q.denied(kassett.Denied, fmt.Errorf("%s of a whole repository", q.Method))
	case (t.what == listing || t.what == besideListing) && read:
		return q.withRepository(Metadata, q.list)
	case (t.what == oneFile || t.what == besideOne) && read:
		return q.withRepository(q.readRight(), q.get)
	case (t.what == oneFile || t.what == besideOne) && q.Method == http.MethodPost:
		return q.withRepository(0, q.put)
	case (t.what == oneFile || t.what == besideOne) && q.Method == http.MethodDelete:
		return q.withRepository(0, q.remove)
	}
	return q.denied(kassett.Denied, fmt.Errorf("the method %.20q", q.Method))
}

// readRight is the right to read what the request names.
func (q *request) readRight() Rights {
	if q.target.what == oneFile && q.target.handle.Kind == kassett.PackFile {
		return Data
	}
	return Metadata
}

// withRepository hands the repository that the request names to work, if the
// client has the right.
func (q *request) withRepository(need Rights, work func(*served) error) error {
	if !q.client.Rights.allow(need) {
		return q.missing(need)
	}
	s, err := q.h.repository(q.Context(), q.target.repository, false)
	if err != nil {
		return err
	}
	return work(s)
}

// missing is the refusal of what would need a right.
func (q *request) missing(need Rights) error {
	return q.denied(kassett.Denied, fmt.Errorf("this client has not the right %q", need))
}

// denied is a refusal, which is logged.
func (q *request) denied(k kassett.Kind, why error) error {
	return &refusalError{kind: k, why: why}
}

// refusalError is an error that is the client's doing, as opposed to faults of the
// storage and of the network.
type refusalError struct {
	kind kassett.Kind
	why  error
}

// Error implements error.
func (r *refusalError) Error() string { return r.why.Error() }

// Unwrap shows the kind, and the hint of why.
func (r *refusalError) Unwrap() error { return &kassett.Error{Kind: r.kind, Err: r.why} }

// refuse answers with an error, and logs it.
func (q *request) refuse(err error) {
	kind := kassett.KindOf(err)
	_, refused := errors.AsType[*refusalError](err)
	attrs := []any{
		"client", q.client.Name, "remote", q.RemoteAddr, "method", q.Method, "path", q.URL.EscapedPath(),
		"kind", kind.String(), "why", err.Error(),
	}
	switch {
	case kind == kassett.Interrupted: // the client went away
		q.h.c.Log.Info("broke off", attrs...)
	case refused:
		q.h.c.Log.Warn("refused", attrs...)
	case kind != kassett.NotFound:
		q.h.c.Log.Error("failed", attrs...)
	}
	status := kind.Status()
	switch {
	case kind == kassett.Corrupt && refused:
		status = http.StatusBadRequest
	case kind == kassett.Interrupted:
		status = http.StatusServiceUnavailable
	}
	header := q.w.Header()
	header.Set(headerKind, kind.String())
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set("X-Content-Type-Options", "nosniff")
	words := oneLine(err.Error())
	switch { // the paths of the server's own folders are for its log
	case !refused && kind == kassett.NotFound:
		words = kind.String()
	case !refused:
		words = "the server's storage failed: " + kind.String()
	}
	header.Set(headerWhy, words) // an answer to HEAD has no body
	if !q.takeRest() {
		header.Set("Connection", "close") // nothing more is read
	}
	q.w.WriteHeader(status)
	_, _ = io.WriteString(q.w, words+"\n"+strings.ReplaceAll(kassett.HintOf(err), "\n", " ")) // or it does not get there
}

// takeRest reads what a client sends of a file that is refused, within limits:
// many clients look at the answer only when they have sent all. It reports
// whether nothing is left.
func (q *request) takeRest() bool {
	const most = 32 << 20
	if q.ContentLength == 0 {
		return true
	}
	if q.ContentLength < 0 || q.ContentLength > most || q.Header.Get("Expect") != "" {
		return false
	}
	_, err := io.Copy(io.Discard, &body{r: q.Body, q: q, until: time.Now().Add(transferWait)})
	return err == nil
}

// repository returns a repository that is open, or opens it.
func (h *Handler) repository(ctx context.Context, path string, create bool) (*served, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.repos[path]; s != nil {
		return s, nil
	}
	st, err := h.c.Open(ctx, path, create)
	if err != nil {
		return nil, err
	}
	s, err := newServed(ctx, path, st)
	if err != nil {
		return nil, errors.Join(err, closeStorage(st))
	}
	h.repos[path] = s
	return s, nil
}

func closeStorage(st kassett.Storage) error {
	if c, ok := kassett.As[io.Closer](st); ok {
		return c.Close()
	}
	return nil
}

// create makes the place of a repository. One that is there is fine, as the
// protocol has it.
func (q *request) create() error {
	ctx, path := q.Context(), q.target.repository
	if _, err := q.h.repository(ctx, path, false); err == nil {
		return nil
	} else if kassett.KindOf(err) != kassett.NotFound {
		return err
	}
	if !q.client.Rights.allow(Init) {
		return q.missing(Init)
	}
	if _, err := q.h.repository(ctx, path, true); err != nil {
		return err
	}
	q.h.c.Log.Info("made a place for a repository", "client", q.client.Name, "remote", q.RemoteAddr, "path", path)
	return nil
}

// transfer waits until the client may move one more file, and returns what ends
// it.
func (q *request) transfer() (end func(), err error) {
	q.h.mu.Lock()
	turns := q.h.doing[q.client.Name]
	if turns == nil {
		turns = make(chan struct{}, transfersAtOnce)
		q.h.doing[q.client.Name] = turns
	}
	q.h.mu.Unlock()
	wait := time.NewTimer(transferWait)
	defer wait.Stop()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-q.Context().Done():
		return nil, q.Context().Err()
	case <-wait.C:
		return nil, q.denied(kassett.Offline, fmt.Errorf("this client moves %d files already", transfersAtOnce))
	}
}
