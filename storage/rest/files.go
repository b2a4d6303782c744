package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"kassett"
)

// Get implements [kassett.Storage].
func (s *Storage) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	const op = "read file"
	what := path(h)
	switch {
	case off < 0:
		return nil, &kassett.Error{Op: op, What: what, Kind: kassett.Invalid, Err: fmt.Errorf("offset %d", off)}
	case n == 0:
		if _, err := s.Stat(ctx, h); err != nil {
			return nil, err
		}
		return http.NoBody, nil
	}
	return s.get(ctx, what, off, n)
}

// get reads n bytes of a file from off; n < 0 reads to the end.
func (s *Storage) get(ctx context.Context, what string, off, n int64) (io.ReadCloser, error) {
	const op = "read file"
	header := http.Header{}
	switch {
	case n > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	resp, err := s.send(ctx, http.MethodGet, what, header)
	if err != nil {
		return nil, s.fault(op, what, err)
	}
	r := &stream{s: s, what: what, alive: ctx.Err, body: resp.Body, left: n}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != off {
			drain(resp)
			return nil, &kassett.Error{Op: op, What: what, Err: fmt.Errorf("asked for bytes from %d, the server gives %.80q", off, resp.Header.Get("Content-Range"))}
		}
		return r, nil
	case http.StatusOK: // all of it: the server knows no ranges, or was asked for none
		if skipped, err := io.CopyN(io.Discard, resp.Body, off); err != nil && (!errors.Is(err, io.EOF) || n > 0) {
			_ = resp.Body.Close()
			if errors.Is(err, io.EOF) {
				return nil, tooShort(what, off+n, skipped)
			}
			return nil, s.fault(op, what, err)
		}
		return r, nil
	case http.StatusRequestedRangeNotSatisfiable:
		drain(resp)
		if n > 0 {
			return nil, tooShort(what, off+n, -1)
		}
		return http.NoBody, nil
	}
	defer drain(resp)
	return nil, s.refused(op, what, resp)
}

func tooShort(what string, want, size int64) error {
	err := fmt.Errorf("wanted %d bytes: %w", want, io.ErrUnexpectedEOF)
	if size >= 0 {
		err = fmt.Errorf("wanted %d bytes, it has %d: %w", want, size, io.ErrUnexpectedEOF)
	}
	return &kassett.Error{Op: "read file", What: what, Err: err}
}

// stream reads the body of an answer.
type stream struct {
	s     *Storage
	what  string
	alive func() error // of the context of the Get
	body  io.ReadCloser
	left  int64 // bytes; less than 0: to the end
}

// Read implements [io.Reader].
func (r *stream) Read(p []byte) (int, error) {
	if err := r.alive(); err != nil {
		return 0, r.s.fault("read file", r.what, err)
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if r.left > 0 && int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.body.Read(p)
	if r.left > 0 {
		r.left -= int64(n)
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF) && r.left > 0: // the server sent all it promised, and that was less
		return n, io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return n, io.EOF
	case errors.Is(err, io.ErrUnexpectedEOF): // the connection broke, the file may be whole
		err = errors.New("the connection was cut")
	}
	return n, r.s.fault("read file", r.what, err)
}

// Close implements [io.Closer]. What is left unread costs the connection,
// unless it is next to nothing.
func (r *stream) Close() error {
	if r.left == 0 {
		_, _ = io.CopyN(io.Discard, r.body, 1) // sees the end, which frees the connection
	}
	return r.body.Close()
}

// Stat implements [kassett.Storage].
func (s *Storage) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	const op = "find file"
	resp, err := s.send(ctx, http.MethodHead, path(h), nil)
	if err != nil {
		return kassett.Info{}, s.fault(op, path(h), err)
	}
	defer drain(resp)
	switch {
	case resp.StatusCode != http.StatusOK:
		return kassett.Info{}, s.refused(op, path(h), resp)
	case resp.ContentLength < 0:
		return kassett.Info{}, &kassett.Error{Op: op, What: path(h), Err: errors.New("the server tells no size")}
	}
	return kassett.Info{Handle: h, Size: resp.ContentLength, Received: received(resp.Header.Get(headerReceived))}, nil
}

// List implements [kassett.Storage]. The answer is read as it comes, in
// constant memory. From a server of version 1 it costs a request for each file.
func (s *Storage) List(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Info, error] {
	return func(yield func(kassett.Info, error) bool) {
		if k == kassett.ConfigFile {
			if in, err := s.Stat(ctx, kassett.Handle{Kind: k}); err == nil {
				yield(in, nil)
			} else if kassett.KindOf(err) != kassett.NotFound {
				yield(kassett.Info{}, err)
			}
			return
		}
		for e, err := range s.list(ctx, k.String()+"/") {
			if err != nil {
				yield(kassett.Info{}, err)
				return
			}
			id, err := kassett.ParseID(e.Name)
			if err != nil {
				continue
			}
			in := kassett.Info{Handle: kassett.Handle{Kind: k, ID: id}, Size: e.Size, Received: received(e.Received)}
			if e.Size < 0 {
				in, err = s.Stat(ctx, in.Handle)
				if kassett.KindOf(err) == kassett.NotFound {
					continue // it went meanwhile
				}
			}
			if !yield(in, err) || err != nil {
				return
			}
		}
	}
}

// entry is one file in a listing of version 2.
type entry struct {
	Name     string `json:"name"`
	Size     int64  `json:"size"`               // bytes; -1 when the server did not say
	Received string `json:"received,omitempty"` // RFC 3339
}

// UnmarshalJSON also reads an entry of version 1, which is a name alone.
func (e *entry) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		e.Size = -1
		return json.Unmarshal(b, &e.Name)
	}
	type plain entry // without this method
	return json.Unmarshal(b, (*plain)(e))
}

// list yields what a folder holds.
func (s *Storage) list(ctx context.Context, folder string) iter.Seq2[entry, error] {
	const op = "list files"
	return func(yield func(entry, error) bool) {
		resp, err := s.send(ctx, http.MethodGet, folder, nil)
		if err != nil {
			yield(entry{}, s.fault(op, folder, err))
			return
		}
		defer drain(resp)
		switch resp.StatusCode {
		case http.StatusOK:
		case http.StatusNotFound:
			// Some servers make folders with the first file in them. But a
			// repository that is gone must not look empty.
			if _, err := s.Stat(ctx, kassett.Handle{Kind: kassett.ConfigFile}); err != nil {
				yield(entry{}, fmt.Errorf("list files %s: %w", folder, err))
			}
			return
		default:
			yield(entry{}, s.refused(op, folder, resp))
			return
		}
		err = decodeList(ctx, resp.Body, yield)
		switch {
		case errors.Is(err, errLeft):
		case ctx.Err() != nil:
			yield(entry{}, s.fault(op, folder, ctx.Err()))
		case err != nil:
			yield(entry{}, s.fault(op, folder, fmt.Errorf("the listing breaks off: %w", err)))
		}
	}
}

var errLeft = errors.New("the reader of the listing has gone")

// maxEntry bounds what one entry of a listing may take, in bytes.
const maxEntry = 64 << 10

// decodeList reads a listing entry by entry.
func decodeList(ctx context.Context, r io.Reader, yield func(entry, error) bool) error {
	bounded := &io.LimitedReader{R: r, N: maxEntry}
	dec := json.NewDecoder(bounded)
	if t, err := dec.Token(); err != nil {
		return err
	} else if t == nil { // "null", as servers written in Go say of no files
		return nil
	} else if t != json.Delim('[') {
		return errors.New("it is no list")
	}
	for dec.More() {
		bounded.N = maxEntry
		var e entry
		if err := dec.Decode(&e); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !yield(e, nil) {
			return errLeft
		}
		bounded.N = maxEntry
	}
	_, err := dec.Token()
	return err
}

// Delete implements [kassett.Storage].
func (s *Storage) Delete(ctx context.Context, h kassett.Handle) error { return s.remove(ctx, path(h)) }

func (s *Storage) remove(ctx context.Context, what string) error {
	const op = "delete file"
	resp, err := s.send(ctx, http.MethodDelete, what, nil)
	if err != nil {
		return s.fault(op, what, err)
	}
	defer drain(resp)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return s.refused(op, what, resp)
	}
	return nil
}

// PutBeside implements [kassett.Beside].
func (s *ServedStorage) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	if err := checkBeside("write file", name); err != nil {
		return err
	}
	return s.put(ctx, besidePath+name, body)
}

// GetBeside implements [kassett.Beside].
func (s *ServedStorage) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkBeside("read file", name); err != nil {
		return nil, err
	}
	return s.get(ctx, besidePath+name, 0, -1)
}

// ListBeside implements [kassett.Beside].
func (s *ServedStorage) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	return func(yield func(kassett.BesideInfo, error) bool) {
		if folder = strings.TrimSuffix(folder, "/"); folder != "" {
			if err := checkBeside("list files", folder); err != nil {
				yield(kassett.BesideInfo{}, err)
				return
			}
			folder += "/"
		}
		for e, err := range s.list(ctx, besidePath+folder) {
			if err == nil && !kassett.ValidBeside(e.Name) {
				continue
			}
			if !yield(kassett.BesideInfo{Name: e.Name, Size: e.Size}, err) || err != nil {
				return
			}
		}
	}
}

// DeleteBeside implements [kassett.Beside].
func (s *ServedStorage) DeleteBeside(ctx context.Context, name string) error {
	if err := checkBeside("delete file", name); err != nil {
		return err
	}
	return s.remove(ctx, besidePath+name)
}

func checkBeside(op, name string) error {
	if kassett.ValidBeside(name) {
		return nil
	}
	return &kassett.Error{
		Op: op, What: strconv.Quote(name[:min(len(name), 80)]), Kind: kassett.Invalid,
		Err: errors.New("not a name for a file beside a repository"),
	}
}

// received reads a time that a server tells; what is none is zero.
func received(text string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return t
}
