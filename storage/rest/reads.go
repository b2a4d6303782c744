package rest

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"kassett"
)

// Times by which a transfer must get on.
const (
	stall      = time.Minute     // without a byte
	writeStall = 2 * time.Minute // for a buffer to be taken
	leastSpeed = 1 << 10         // bytes a second, on the whole
	firstGrace = 2 * time.Minute // before the speed counts
)

// list answers with what a folder holds, as it is read, in constant memory.
func (q *request) list(s *served) error {
	v2 := strings.Contains(q.Header.Get("Accept"), typeV2)
	out := &listWriter{q: q, v2: v2}
	if q.target.what == besideListing {
		out.v2 = true
		return out.end(q.listBeside(s, out))
	}
	if q.target.handle.Kind == kassett.LockFile {
		if err := q.expire(s); err != nil {
			return err
		}
	}
	for in, err := range s.st.List(q.Context(), q.target.handle.Kind) {
		if err == nil {
			err = out.add(entry{Name: in.ID.String(), Size: in.Size, Received: formatTime(in.Received)})
		}
		if err != nil {
			return out.end(err)
		}
	}
	return out.end(nil)
}

func (q *request) listBeside(s *served, out *listWriter) error {
	for in, err := range s.beside.ListBeside(q.Context(), q.target.beside) {
		if err == nil && !serverOnly(in.Name) {
			err = out.add(entry{Name: in.Name, Size: in.Size})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// listWriter writes a JSON array entry by entry. The answer begins with the
// first entry, so that an error before it can still be told.
type listWriter struct {
	q   *request
	v2  bool
	w   *bufio.Writer
	n   int
	buf []byte
}

// begin writes the head of the answer.
func (l *listWriter) begin() {
	kind := typeV1
	if l.v2 {
		kind = typeV2
	}
	l.q.w.Header().Set("Content-Type", kind)
	l.w = bufio.NewWriterSize(deadlineWriter{l.q}, 64<<10)
	_ = l.w.WriteByte('[') // into the buffer
}

func (l *listWriter) add(e entry) (err error) {
	if l.w == nil {
		l.begin()
	}
	l.buf = l.buf[:0]
	if l.n++; l.n > 1 {
		l.buf = append(l.buf, ',')
	}
	var b []byte
	if l.v2 {
		b, err = json.Marshal((*plainEntry)(&e))
	} else {
		b, err = json.Marshal(e.Name)
	}
	if err != nil {
		return err
	}
	_, err = l.w.Write(append(l.buf, b...))
	return err
}

// plainEntry is an entry without its methods.
type plainEntry entry

// end ends the listing, or leaves it open so that the reader sees that it is
// not whole.
func (l *listWriter) end(err error) error {
	if l.w == nil {
		if err != nil {
			return err
		}
		l.begin()
	}
	if err == nil {
		_ = l.w.WriteByte(']') // Flush tells
		err = l.w.Flush()
	}
	if err != nil && l.q.Context().Err() == nil {
		l.q.h.c.Log.Error("listing broke off", "client", l.q.client.Name, "remote", l.q.RemoteAddr, "path", l.q.URL.EscapedPath(), "why", err.Error())
	}
	l.q.endWrites()
	return nil
}

// deadlineWriter writes to the client, who has to take it in time.
type deadlineWriter struct{ q *request }

// Write implements [io.Writer].
func (d deadlineWriter) Write(p []byte) (int, error) {
	// Where the connection knows no deadlines, as in a test, there are none.
	_ = http.NewResponseController(d.q.w).SetWriteDeadline(time.Now().Add(writeStall))
	return d.q.w.Write(p)
}

// endWrites takes the deadline of the last write away from the connection.
func (q *request) endWrites() {
	_ = http.NewResponseController(q.w).SetWriteDeadline(time.Time{}) // see Write
}

// pieces are what files are copied through.
var pieces = sync.Pool{New: func() any { return new([256 << 10]byte) }}

// get answers with a file, or a part of it.
func (q *request) get(s *served) error {
	t, ctx := q.target, q.Context()
	if t.what == besideOne {
		return q.getBeside(s)
	}
	in, err := s.st.Stat(ctx, t.handle)
	if err != nil {
		return err
	}
	header := q.w.Header()
	header.Set("Accept-Ranges", "bytes")
	header.Set("Content-Type", "application/octet-stream")
	if !in.Received.IsZero() {
		header.Set(headerReceived, formatTime(in.Received))
	}
	off, n, part := parseRange(q.Header.Get("Range"), in.Size)
	if n < 0 {
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", in.Size))
		q.w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return nil
	}
	header.Set("Content-Length", strconv.FormatInt(n, 10))
	if q.Method == http.MethodHead {
		return nil
	}
	end, err := q.transfer()
	if err != nil {
		return err
	}
	defer end()
	r, err := s.st.Get(ctx, t.handle, off, n)
	if err != nil {
		header.Del("Content-Length")
		return err
	}
	if part {
		header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off+n-1, in.Size))
		q.w.WriteHeader(http.StatusPartialContent)
	}
	q.send(r)
	return nil
}

// getBeside answers with a file beside the repository, whole.
func (q *request) getBeside(s *served) error {
	if serverOnly(q.target.beside) {
		return q.denied(kassett.Denied, errServerOnly)
	}
	end, err := q.transfer()
	if err != nil {
		return err
	}
	defer end()
	r, err := s.beside.GetBeside(q.Context(), q.target.beside)
	if err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", "application/octet-stream")
	if q.Method == http.MethodHead {
		return r.Close()
	}
	q.send(r)
	return nil
}

// send copies r to the client and closes it. An answer that breaks off is seen
// by its length, or by the end that is missing.
func (q *request) send(r io.ReadCloser) {
	buf, _ := pieces.Get().(*[256 << 10]byte)
	defer pieces.Put(buf)
	_, err := io.CopyBuffer(deadlineWriter{q}, struct{ io.Reader }{r}, buf[:])
	err = errors.Join(err, r.Close())
	q.endWrites()
	if err == nil {
		return
	}
	if q.Context().Err() == nil {
		q.h.c.Log.Error("answer broke off", "client", q.client.Name, "remote", q.RemoteAddr, "path", q.URL.EscapedPath(), "why", err.Error())
	}
	// Without a length only a cut connection tells the client.
	panic(http.ErrAbortHandler)
}

// parseRange reads a Range header of one part, "bytes=0-99" or "bytes=100-".
// Anything else asks for the whole file (RFC 9110, 14.2). n is less than 0 when
// the part begins behind the end.
func parseRange(value string, size int64) (off, n int64, part bool) {
	from, to, ok := strings.Cut(strings.TrimPrefix(value, "bytes="), "-")
	if !ok || !strings.HasPrefix(value, "bytes=") {
		return 0, size, false
	}
	first, err1 := strconv.ParseUint(from, 10, 63)
	last, err2 := strconv.ParseUint(to, 10, 63)
	switch {
	case err1 != nil || err2 != nil && to != "" || to != "" && last < first:
		return 0, size, false
	case first >= uint64(max(0, size)): //nolint:gosec // not negative
		return 0, -1, false
	}
	off, n = int64(first), size-int64(first) //nolint:gosec // of 63 bits
	if to != "" && last-first < uint64(n) {  //nolint:gosec // more than 0
		n = int64(last-first) + 1 //nolint:gosec // of 63 bits
	}
	return off, n, true
}

// body is what a client sends, which has to get on.
type body struct {
	r     io.Reader
	q     *request
	until time.Time // when all of it has to be here
}

// uploaded returns the body of the request.
func (q *request) uploaded() *body {
	least := time.Duration(q.ContentLength/leastSpeed) * time.Second
	return &body{r: q.Body, q: q, until: time.Now().Add(firstGrace + least)}
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	now := time.Now()
	soon := now.Add(stall)
	if b.until.Before(soon) {
		soon = b.until
	}
	setReadDeadline(b.q.w, soon)
	n, err := b.r.Read(p)
	switch {
	case err == io.EOF:
		setReadDeadline(b.q.w, time.Time{}) // of the connection, which is watched while the file is stored
	case err != nil:
		err = &connectionError{cmp.Or(b.q.Context().Err(), err)}
	}
	return n, err
}

// setReadDeadline says until when a client may take to send something. Where
// the connection knows no deadlines, as in a test, there are none.
func setReadDeadline(w http.ResponseWriter, t time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(t)
}

// connectionError is an error of the client's connection, not of the storage.
type connectionError struct{ error }

func (c *connectionError) Unwrap() error { return c.error }
