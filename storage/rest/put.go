package rest

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"kassett"
	"kassett/storage"
)

// askFirst is the size in bytes from which a server is asked whether it wants a
// file before the file is sent.
const askFirst = 1 << 20

// Put implements [kassett.Storage]. A body is checked as it is sent, and its
// last byte is held back until it is known to be right.
func (s *Storage) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return s.put(ctx, path(h), body)
}

func (s *Storage) put(ctx context.Context, what string, body kassett.Body) error {
	const op = "write file"
	if err := ctx.Err(); err != nil {
		return s.fault(op, what, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+what, nil)
	if err != nil {
		return s.fault(op, what, err)
	}
	sent := &sending{open: func() (io.ReadCloser, error) { return storage.OpenBody(ctx, body) }}
	defer sent.stop()
	if body.Size == 0 { // the client then reads nothing, and so checks nothing
		if err := sent.readAll(); err != nil {
			return fmt.Errorf("%s %s: %w", op, what, err)
		}
		req.Body = http.NoBody
	} else if req.Body, err = sent.body(); err != nil {
		return fmt.Errorf("%s %s: %w", op, what, err)
	} else {
		req.GetBody, req.ContentLength = sent.body, body.Size
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(headerDigest, digest(body.Sum))
	if body.Size >= askFirst {
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := s.do(req)
	if err == nil {
		defer drain(resp)
	}
	sent.stop()
	switch {
	case sent.wrong != nil:
		return fmt.Errorf("%s %s: %w", op, what, sent.wrong)
	case err != nil:
		return s.fault(op, what, err)
	case resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated:
		return nil
	case resp.StatusCode == http.StatusForbidden && resp.Header.Get(headerOurs) == "" && s.there(ctx, what):
		return &kassett.Error{Op: op, What: what, Kind: kassett.Exists} // as restic's server says it
	}
	return s.refused(op, what, resp)
}

// there reports whether a file is there.
func (s *Storage) there(ctx context.Context, what string) bool {
	resp, err := s.send(ctx, http.MethodHead, what, nil)
	if err != nil {
		return false
	}
	drain(resp)
	return resp.StatusCode == http.StatusOK
}

// sending hands a body out to the HTTP client, which reads it in goroutines of
// its own, also after it has given an answer, until stop is called.
type sending struct {
	open func() (io.ReadCloser, error)

	mu      sync.Mutex
	stopped bool
	all     []io.Closer
	wrong   error // of the body, as opposed to the network; to be read after stop
}

// body opens the body once more.
func (s *sending) body() (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errStopped
	}
	r, err := s.open()
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, r)
	return &heldBack{sending: s, r: r}, nil
}

var errStopped = errors.New("the request has ended")

// readAll checks a body that is not sent.
func (s *sending) readAll() error {
	r, err := s.body()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// stop waits for a reading under way, and ends all that may come.
func (s *sending) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for _, c := range s.all {
		_ = c.Close() // it was only read
	}
	s.all = nil
}

// heldBack passes a body on, but its last byte only when the body has ended
// well: a server that does not know the sum cannot take a wrong file for whole.
type heldBack struct {
	*sending
	r    io.Reader
	last [1]byte
	held bool
	end  error
}

// Read implements [io.Reader].
func (h *heldBack) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return 0, errStopped
	}
	if h.end != nil || len(p) == 0 {
		return 0, h.end
	}
	if len(p) == 1 {
		return h.readOne(p)
	}
	from := 0
	if h.held {
		from, p[0] = 1, h.last[0]
	}
	n, err := h.r.Read(p[from:])
	n += from
	switch {
	case err == io.EOF:
		h.held, h.end = false, err
		return n, err
	case err != nil:
		h.wrong, h.end = err, err
		return 0, err
	case n > 0:
		n--
		h.last[0], h.held = p[n], true
	}
	return n, nil
}

// readOne is Read into a single byte.
func (h *heldBack) readOne(p []byte) (int, error) {
	var next [1]byte
	for {
		n, err := h.r.Read(next[:])
		if err != nil && err != io.EOF {
			h.wrong, h.end = err, err
			return 0, err
		}
		had := h.held
		p[0] = h.last[0]
		if n > 0 {
			h.last, h.held = next, true
			if had {
				return 1, nil
			}
		}
		if err == io.EOF {
			if h.held {
				p[0], h.held = h.last[0], false
				h.end = err
				return 1, err
			}
			h.end = err
			return 0, err
		}
	}
}

// Close implements [io.Closer]; the body is closed by stop.
func (h *heldBack) Close() error { return nil }

// digest returns the value of a Content-Digest header.
func digest(sum kassett.ID) string {
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

// parseDigest reads the SHA-256 in a Content-Digest header, if one is there.
func parseDigest(value string) (sum kassett.ID, ok bool) {
	for field := range strings.SplitSeq(value, ",") {
		text, is := strings.CutPrefix(strings.TrimSpace(field), "sha-256=:")
		if !is {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, ":"))
		if err == nil && len(b) == len(sum) {
			return kassett.ID(b), true
		}
	}
	return kassett.ID{}, false
}
