package rest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"kassett"
)

// maxSmall bounds the files that are looked at before they are stored, in
// bytes: keys, locks, the config, records.
const maxSmall = 64 << 10

// put stores a file that a client sends.
func (q *request) put(s *served) error {
	t := q.target
	if need, err := q.putRight(s); err != nil {
		return err
	} else if !q.client.Rights.allow(need) {
		return q.missing(need)
	}
	small := t.what == oneFile && (t.handle.Kind == kassett.KeyFile || t.handle.Kind == kassett.LockFile || t.handle.Kind == kassett.ConfigFile)
	most := q.h.c.MaxFile
	if small || isRecord(t) {
		most = maxSmall
	}
	switch n := q.ContentLength; {
	case n < 0:
		return q.denied(kassett.Invalid, errors.New("the request does not say how long the file is"))
	case n == 0 && t.what == oneFile:
		return q.denied(kassett.Invalid, errors.New("the file is empty"))
	case n > most:
		return q.denied(kassett.Full, fmt.Errorf("the file has %d bytes, at most %d are taken", n, most))
	}
	end, err := q.transfer()
	if err != nil {
		return err
	}
	defer end()
	if there, err := q.there(s); err != nil {
		return err
	} else if there {
		return q.again(s)
	}
	switch {
	case isRecord(t):
		err = q.putRecord(s)
	case t.what == besideOne:
		err = q.putBeside(s)
	case small:
		err = q.putSmall(s)
	default:
		err = q.store(s, q.streamed(t.handle.ID))
	}
	if err == nil {
		q.w.WriteHeader(http.StatusOK)
	}
	return err
}

// putRight returns the right to store what the request names.
func (q *request) putRight(s *served) (Rights, error) {
	t := q.target
	switch {
	case t.what == besideOne && serverOnly(t.beside):
		return 0, q.denied(kassett.Denied, errServerOnly)
	case t.what == besideOne && strings.HasPrefix(t.beside, doomedFolder+"/"):
		return Full, nil // what is to go, only who may remove may say (docs/formats/doomed.md)
	case t.what == besideOne:
		return Append, nil
	case t.handle.Kind == kassett.KeyFile || t.handle.Kind == kassett.ConfigFile:
		// While a repository is being made; later only who may do all.
		_, err := s.st.Stat(q.Context(), kassett.Handle{Kind: kassett.ConfigFile})
		switch {
		case kassett.KindOf(err) == kassett.NotFound:
			return Init, nil
		case err != nil:
			return 0, err
		case t.handle.Kind == kassett.ConfigFile:
			return 0, q.denied(kassett.Exists, errors.New("a repository's config is never replaced"))
		}
		return Full, nil
	case t.handle.Kind == kassett.LockFile && q.client.Rights.allow(Data):
		return Data, nil // a restore locks too
	}
	return Append, nil
}

// there reports whether the file that the request names is there.
func (q *request) there(s *served) (bool, error) {
	if q.target.what == besideOne {
		return false, nil // PutBeside tells
	}
	_, err := s.st.Stat(q.Context(), q.target.handle)
	if kassett.KindOf(err) == kassett.NotFound {
		return false, nil
	}
	return err == nil, err
}

// again answers who sends a file that is there. A client that does not know
// whether its first attempt came through, as restic after a broken connection,
// is told that it did: if what it sends is that file. Ours asks for Exists.
func (q *request) again(s *served) error {
	exists := q.denied(kassett.Exists, errors.New("the file is there, and never replaced"))
	t := q.target
	if _, ours := parseDigest(q.Header.Get(headerDigest)); ours || t.handle.Kind == kassett.ConfigFile {
		return exists
	}
	in, err := s.st.Stat(q.Context(), t.handle)
	if err != nil {
		return err
	}
	if in.Size != q.ContentLength {
		return exists
	}
	sum, err := hashOf(q.uploaded())
	if err != nil {
		return q.lost(err)
	}
	if sum != t.handle.ID {
		return q.denied(kassett.Exists, errors.New("the file is there, with other content, and never replaced"))
	}
	q.w.WriteHeader(http.StatusOK)
	return nil
}

// streamed is the body of the request as a storage takes it, which checks its
// size and sum.
func (q *request) streamed(sum kassett.ID) kassett.Body {
	opened := false
	return kassett.Body{Size: q.ContentLength, Sum: sum, Open: func() (io.ReadCloser, error) {
		if opened {
			return nil, errors.New("what a client sends can be read once only")
		}
		opened = true
		return io.NopCloser(q.uploaded()), nil
	}}
}

// readSmall reads a file that was sent into memory, and checks it.
func (q *request) readSmall(sum kassett.ID, known bool) ([]byte, kassett.ID, error) {
	b := make([]byte, q.ContentLength)
	if _, err := io.ReadFull(q.uploaded(), b); err != nil {
		return nil, sum, q.lost(err)
	}
	got := kassett.Hash(b)
	if known && got != sum {
		return nil, got, q.denied(kassett.Corrupt, fmt.Errorf("the SHA-256 of what was sent is %s", got))
	}
	return b, got, nil
}

// store puts a file into the storage, within the client's quota.
func (q *request) store(s *served, body kassett.Body) error {
	return q.within(s, body, func(ctx context.Context) error { return s.st.Put(ctx, q.target.handle, body) })
}

// within takes room for body, and gives it back when put fails. What is the
// client's fault becomes a refusal.
func (q *request) within(s *served, body kassett.Body, put func(ctx context.Context) error) error {
	ctx := q.Context()
	if err := s.reserve(ctx, body.Size, q.client.Quota, q.h.c.Now()); err != nil {
		if kassett.KindOf(err) == kassett.Other {
			err = q.denied(kassett.Full, err)
		}
		return err
	}
	err := put(ctx)
	if err == nil {
		return nil
	}
	s.release(body.Size)
	if lost, ok := errors.AsType[*connectionError](err); ok {
		return q.lost(lost)
	}
	switch kind := kassett.KindOf(err); {
	case kind == kassett.Corrupt && isWrong(err):
		return q.denied(kassett.Corrupt, errors.New("what was sent has not the SHA-256 of its name"))
	case kind == kassett.Exists:
		return q.denied(kassett.Exists, errors.New("the file is there, and never replaced"))
	}
	return err
}

// lost is the refusal of a file that did not come whole.
func (q *request) lost(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return q.denied(kassett.Offline, errors.New("the file came too slowly"))
	}
	return q.denied(kassett.Interrupted, fmt.Errorf("the file did not come whole: %w", err))
}

// isWrong reports whether a storage found a body to be wrong, and not its own
// medium.
func isWrong(err error) bool {
	e, ok := errors.AsType[*kassett.Error](err)
	for ok && e.Kind == kassett.Corrupt {
		if strings.HasPrefix(e.Op, "check what is to be stored") {
			return true
		}
		e, ok = errors.AsType[*kassett.Error](e.Err)
	}
	return false
}

// putSmall stores a key, a lock or the config.
func (q *request) putSmall(s *served) error {
	h := q.target.handle
	sum, known := h.ID, true
	if h.Kind == kassett.ConfigFile {
		sum, known = parseDigest(q.Header.Get(headerDigest))
	}
	b, sum, err := q.readSmall(sum, known)
	if err != nil {
		return err
	}
	body := kassett.BytesBody(b, sum)
	if h.Kind == kassett.LockFile {
		return q.putLock(s, body)
	}
	s.small.Lock()
	defer s.small.Unlock()
	// While this one came in, another may have finished the repository.
	if need, err := q.putRight(s); err != nil {
		return err
	} else if !q.client.Rights.allow(need) {
		return q.missing(need)
	}
	return q.store(s, body)
}

// putBeside stores a file beside the repository.
func (q *request) putBeside(s *served) error {
	sum, ok := parseDigest(q.Header.Get(headerDigest))
	if !ok {
		return q.denied(kassett.Invalid, errors.New("a file beside a repository needs a Content-Digest"))
	}
	return q.storeBeside(s, q.streamed(sum))
}

func (q *request) storeBeside(s *served, body kassett.Body) error {
	return q.within(s, body, func(ctx context.Context) error { return s.beside.PutBeside(ctx, q.target.beside, body) })
}

// remove removes a file: a lock if it is the client's own, other files for who
// may do all, and some for nobody.
func (q *request) remove(s *served) error {
	t, ctx := q.target, q.Context()
	if t.what == besideOne {
		switch {
		case serverOnly(t.beside):
			return q.denied(kassett.Denied, errServerOnly)
		case strings.HasPrefix(t.beside, recordFolder+"/"):
			return q.denied(kassett.Held, errors.New("records are lifted, never removed"))
		case !q.client.Rights.allow(Full):
			return q.missing(Full)
		}
		return q.removed(s.beside.DeleteBeside(ctx, t.beside))
	}
	switch {
	case t.handle.Kind == kassett.LockFile:
		return q.removeLock(s)
	case !q.client.Rights.allow(Full):
		return q.missing(Full)
	}
	in, err := s.st.Stat(ctx, t.handle)
	if err != nil {
		return err
	}
	switch t.handle.Kind {
	case kassett.ConfigFile:
		return q.denied(kassett.Held, errors.New("a repository's config is never removed"))
	case kassett.KeyFile:
		s.small.Lock()
		defer s.small.Unlock()
		if err := q.otherKey(s); err != nil {
			return err
		}
	case kassett.SnapshotFile:
		if err := q.mayForget(s, in); err != nil {
			return err
		}
	}
	if err := s.st.Delete(ctx, t.handle); err != nil {
		return err
	}
	s.release(in.Size)
	return q.removed(nil)
}

// removed answers a removal, and logs it: it happens rarely.
func (q *request) removed(err error) error {
	if err != nil {
		return err
	}
	q.h.c.Log.Info("removed", "client", q.client.Name, "remote", q.RemoteAddr, "path", q.target.String())
	q.w.WriteHeader(http.StatusOK)
	return nil
}

// otherKey returns an error when the key that is to go is the last one.
func (q *request) otherKey(s *served) error {
	for in, err := range s.st.List(q.Context(), kassett.KeyFile) {
		if err != nil {
			return err
		}
		if in.ID != q.target.handle.ID {
			return nil
		}
	}
	return q.denied(kassett.Held, errors.New("it is the last key: without it nobody can read the repository"))
}

// hashOf returns the SHA-256 of what r holds.
func hashOf(r io.Reader) (kassett.ID, error) {
	h := sha256.New()
	buf, _ := pieces.Get().(*[256 << 10]byte)
	defer pieces.Put(buf)
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, r, buf[:]); err != nil {
		return kassett.ID{}, err
	}
	return kassett.ID(h.Sum(nil)), nil
}
