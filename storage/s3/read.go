package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
	"kassett/storage"
)

// Get implements [kassett.Storage].
func (s *Storage) Get(ctx context.Context, h kassett.Handle, off, n int64) (io.ReadCloser, error) {
	const op = "read file"
	if off < 0 {
		return nil, &kassett.Error{Op: op, What: h.String(), Kind: kassett.Invalid, Err: fmt.Errorf("offset %d", off)}
	}
	r, err := s.get(ctx, kassett.StoredName{Handle: h}, off, n)
	if err != nil {
		return nil, s.fault(op, h.String(), err)
	}
	return r, nil
}

// GetBeside implements [kassett.Beside].
func (s *Storage) GetBeside(ctx context.Context, name string) (io.ReadCloser, error) {
	const op = "read file"
	if !kassett.ValidBeside(name) {
		return nil, badName(op, name)
	}
	r, err := s.get(ctx, kassett.StoredName{Beside: name}, 0, -1)
	if err != nil {
		return nil, s.fault(op, name, err)
	}
	return r, nil
}

func (s *Storage) get(ctx context.Context, name kassett.StoredName, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n == 0 { // HTTP has no empty range
		_, err := s.stat(ctx, name)
		return http.NoBody, err
	}
	var o minio.GetObjectOptions
	if n > 0 {
		_ = o.SetRange(off, off+n-1) // fails for ranges that are none
	} else if off > 0 {
		_ = o.SetRange(off, 0)
	}
	body, in, header, err := s.core.GetObject(ctx, s.o.Bucket, s.key(name), o)
	st := &stream{s: s, body: body, alive: ctx.Err, what: name.String(), left: in.Size, end: io.EOF}
	switch {
	case minio.ToErrorResponse(err).Code == minio.InvalidRange: // it ends before off
		st.body, st.left = http.NoBody, 0
		if n > 0 {
			st.end = io.ErrUnexpectedEOF
		}
		return st, nil
	case err != nil:
		return nil, err
	case in.Size < 0:
		return nil, errors.Join(errors.New("the server does not say how long its answer is"), body.Close())
	case off > 0 && !strings.HasPrefix(header.Get("Content-Range"), fmt.Sprintf("bytes %d-", off)), n > 0 && in.Size > n:
		return nil, errors.Join(&kassett.Error{
			Op: "read a part of a file", Kind: kassett.Invalid, Err: errors.New("the server sends another part than was asked for"),
			Hint: "a server or a proxy on the way does not know ranges: it cannot be used",
		}, body.Close())
	case n > 0 && in.Size < n:
		st.end = io.ErrUnexpectedEOF
	}
	return st, nil
}

// sum reads an object and returns its SHA-256.
func (s *Storage) sum(ctx context.Context, n kassett.StoredName) (id kassett.ID, err error) {
	r, err := s.get(ctx, n, 0, -1)
	if err != nil {
		return id, err
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	h.Sum(id[:0])
	return id, errors.Join(err, r.Close())
}

// stream reads an answer of known length.
type stream struct {
	s     *Storage
	body  io.ReadCloser
	alive func() error // of the context of the Get
	what  string
	left  int64 // bytes that are to come
	end   error // what comes after them
}

// Read implements [io.Reader].
func (r *stream) Read(p []byte) (int, error) {
	const op = "read file"
	if err := r.alive(); err != nil {
		return 0, r.s.fault(op, r.what, err)
	}
	if r.left == 0 {
		return 0, r.end
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	switch {
	case r.left == 0:
		return n, r.end
	case err == nil:
		return n, nil
	}
	if stopped := r.alive(); stopped != nil {
		err = stopped
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	return n, r.s.fault(op, r.what, err)
}

// Close implements [io.Closer]. Only of an answer that was read to its end the
// connection is used again.
func (r *stream) Close() error { return r.body.Close() }

// Stat implements [kassett.Storage].
func (s *Storage) Stat(ctx context.Context, h kassett.Handle) (kassett.Info, error) {
	in, err := s.stat(ctx, kassett.StoredName{Handle: h})
	if err != nil {
		return kassett.Info{}, s.fault("find file", h.String(), err)
	}
	return kassett.Info{Handle: h, Size: in.Size, Received: in.LastModified}, nil
}

// stat asks for an object's head. An answer without a body names no reason, so
// a refusal is asked for again with one.
func (s *Storage) stat(ctx context.Context, n kassett.StoredName) (minio.ObjectInfo, error) {
	if err := ctx.Err(); err != nil {
		return minio.ObjectInfo{}, err
	}
	in, err := s.core.StatObject(ctx, s.o.Bucket, s.key(n), minio.StatObjectOptions{})
	if err == nil || isNotFound(err) || minio.ToErrorResponse(err).StatusCode == 0 {
		return in, err
	}
	var o minio.GetObjectOptions
	_ = o.SetRange(0, 0) // fails for ranges that are none
	body, _, _, why := s.core.GetObject(ctx, s.o.Bucket, s.key(n), o)
	if why == nil {
		return in, errors.Join(err, body.Close())
	}
	return in, why
}

// List implements [kassett.Storage]: page by page, so that memory does not grow
// with the number of files. A lock of no bytes is passed over, as restic does.
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
		for o, err := range s.objects(ctx, s.folder(k)) {
			if err != nil {
				yield(kassett.Info{}, s.fault("list files", k.String(), err))
				return
			}
			n, ok := s.name(o.Key)
			if !ok || n.Kind != k || k == kassett.LockFile && o.Size == 0 {
				continue
			}
			if !yield(kassett.Info{Handle: n.Handle, Size: o.Size, Received: o.LastModified}, nil) {
				return
			}
		}
	}
}

// ListBeside implements [kassett.Beside].
func (s *Storage) ListBeside(ctx context.Context, folder string) iter.Seq2[kassett.BesideInfo, error] {
	return func(yield func(kassett.BesideInfo, error) bool) {
		below := s.folder(0)
		if folder = strings.TrimSuffix(folder, "/"); folder != "" {
			below += folder + "/"
		}
		for o, err := range s.objects(ctx, below) {
			if err != nil {
				yield(kassett.BesideInfo{}, s.fault("list files", storage.BesideFolder, err))
				return
			}
			if n, ok := s.name(o.Key); ok && n.Beside != "" && !yield(kassett.BesideInfo{Name: n.Beside, Size: o.Size}, nil) {
				return
			}
		}
	}
}

// objects yields every object whose name begins with a prefix.
func (s *Storage) objects(ctx context.Context, prefix string) iter.Seq2[minio.ObjectInfo, error] {
	return func(yield func(minio.ObjectInfo, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(minio.ObjectInfo{}, err)
			return
		}
		for o := range s.core.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, UseV1: s.o.OldLists}) {
			if !yield(o, o.Err) || o.Err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil { // or it would look like the end
			yield(minio.ObjectInfo{}, err)
		}
	}
}

// Delete implements [kassett.Storage].
func (s *Storage) Delete(ctx context.Context, h kassett.Handle) error {
	return s.fault("delete file", h.String(), s.remove(ctx, kassett.StoredName{Handle: h}))
}

// DeleteBeside implements [kassett.Beside].
func (s *Storage) DeleteBeside(ctx context.Context, name string) error {
	const op = "delete file"
	if !kassett.ValidBeside(name) {
		return badName(op, name)
	}
	return s.fault(op, name, s.remove(ctx, kassett.StoredName{Beside: name}))
}

// remove asks first whether the object is there: S3 answers the same to a
// removal of nothing.
func (s *Storage) remove(ctx context.Context, n kassett.StoredName) error {
	if _, err := s.stat(ctx, n); err != nil {
		return err
	}
	locked, err := s.bucketLocks(ctx)
	if err != nil {
		return err
	}
	if locked {
		return s.deleteLocked(ctx, n)
	}
	return s.core.RemoveObject(ctx, s.o.Bucket, s.key(n), minio.RemoveObjectOptions{})
}

// Sweep implements [kassett.Sweeper]: it ends uploads in parts that were begun
// before the given time.
func (s *Storage) Sweep(ctx context.Context, before time.Time) (removed int, err error) {
	const op = "remove leftovers"
	ctx, stop := context.WithCancel(ctx)
	defer stop() // ends the listing
	for u := range s.core.ListIncompleteUploads(ctx, s.o.Bucket, s.top, true) {
		if u.Err != nil {
			return removed, s.fault(op, s.place(), u.Err)
		}
		if _, ours := s.name(u.Key); !ours || !u.Initiated.Before(before) {
			continue
		}
		if err := s.core.AbortMultipartUpload(ctx, s.o.Bucket, u.Key, u.UploadID); err != nil && minio.ToErrorResponse(err).Code != minio.NoSuchUpload {
			return removed, s.fault(op, u.Key, err)
		}
		removed++
	}
	return removed, s.fault(op, s.place(), ctx.Err())
}
