package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
)

// checksumHeader names the SHA-256 that a store keeps with an object, in base64.
const checksumHeader = "x-amz-checksum-sha256"

// tokenName is the user metadata by which a put knows its own object again,
// when it comes to a name that is taken after its first answer was lost.
const tokenName = "Kassett-Put"

// Put implements [kassett.Storage].
func (s *Storage) Put(ctx context.Context, h kassett.Handle, body kassett.Body) error {
	return s.fault("write file", h.String(), s.put(ctx, kassett.StoredName{Handle: h}, body))
}

// PutBeside implements [kassett.Beside].
func (s *Storage) PutBeside(ctx context.Context, name string, body kassett.Body) error {
	if !kassett.ValidBeside(name) {
		return badName("write file", name)
	}
	return s.fault("write file", name, s.put(ctx, kassett.StoredName{Beside: name}, body))
}

func (s *Storage) put(ctx context.Context, n kassett.StoredName, body kassett.Body) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.o.NoConditions || body.Size > s.single {
		// Not every server knows If-None-Match at the end of an upload in parts.
		if _, err := s.stat(ctx, n); err == nil {
			return errExists
		} else if !isNotFound(err) {
			return err
		}
	}
	from, err := openSource(ctx, body)
	if err != nil {
		return err
	}
	if body.Size > s.single {
		err = s.putParts(ctx, n, from)
	} else {
		err = s.putWhole(ctx, n, from)
	}
	if closed := from.close(); err == nil {
		err = closed
	}
	return err
}

// conflict is the code of a put that met another one of the same name.
const conflict = "ConditionalRequestConflict"

var errExists = minio.ErrorResponse{Code: minio.PreconditionFailed, Message: "an object of this name is there"}

// putOptions are the headers of a new object. No put goes in parts or with a
// hash of minio-go's own.
func (s *Storage) putOptions(n kassett.StoredName, body kassett.Body) minio.PutObjectOptions {
	o := minio.PutObjectOptions{
		DisableMultipart: true, DisableContentSha256: true,
		UserMetadata: map[string]string{},
	}
	if n.Kind == kassett.PackFile && !body.Hot {
		o.StorageClass = s.o.StorageClass
	}
	return o
}

// ifFree makes a put fail when the name is taken.
func (s *Storage) ifFree(o *minio.PutObjectOptions) {
	if !s.o.NoConditions {
		o.SetMatchETagExcept("*")
	}
}

// putWhole stores a body in one request.
func (s *Storage) putWhole(ctx context.Context, n kassett.StoredName, from *source) error {
	body, key := from.body, s.key(n)
	over := s.putOptions(n, body)
	if err := s.lock(ctx, n, &over); err != nil {
		return err
	}
	over.UserMetadata[checksumHeader] = base64.StdEncoding.EncodeToString(body.Sum[:])
	token := rand.Text()
	over.UserMetadata[tokenName] = token
	o := over
	s.ifFree(&o)
	for try := 0; ; try++ {
		_, err := s.core.PutObject(ctx, s.o.Bucket, key, from.reader(), body.Size, "", body.Sum.String(), o)
		if failed := from.failure(); failed != nil {
			return failed // why the request broke
		}
		code := minio.ToErrorResponse(err).Code
		if err != nil && code == "" || code == minio.PreconditionFailed && from.attempts() > 1 {
			// An attempt was not answered; perhaps only its answer was lost.
			switch there, mine := s.stored(ctx, n, token); {
			case mine:
				return nil
			case there:
				return errExists
			}
		}
		if code == minio.PreconditionFailed && try == 0 && from.memory != nil && s.marked(ctx, n) {
			o = over
			continue
		}
		// Of two puts at the same moment Amazon's refuses one for a while,
		// without saying which has won. And bytes that are right here were
		// changed on the way.
		again := code == conflict || codes[code].kind == kassett.Corrupt
		if !again || try == 3 || !from.intact() {
			return err
		}
		if err := pause(ctx, time.Second<<try/4); err != nil {
			return err
		}
	}
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stored reports whether an object of a name is surely there, and whether the
// put with this token has stored it.
func (s *Storage) stored(ctx context.Context, n kassett.StoredName, token string) (there, mine bool) {
	in, err := s.stat(ctx, n)
	return err == nil, err == nil && in.UserMetadata[tokenName] == token
}

// A part has at least partSize bytes, and there are at most mostParts.
const (
	partSize  = 64 << 20
	mostParts = 9_000 // S3 takes 10,000
)

// putParts stores a body that is too large for one request. Each part is checked
// by the server against its own SHA-256, and the whole by us before it becomes
// an object. Such files are not ours: restic's and our packs are far smaller.
func (s *Storage) putParts(ctx context.Context, n kassett.StoredName, from *source) (err error) {
	key := s.key(n)
	o := s.putOptions(n, from.body)
	if err := s.lock(ctx, n, &o); err != nil {
		return err
	}
	upload, err := s.core.NewMultipartUpload(ctx, s.o.Bucket, key, o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // also when ctx has ended: parts that lie about cost money
			aside, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, s.core.AbortMultipartUpload(aside, s.o.Bucket, key, upload))
		}
	}()
	buf := make([]byte, max(min(partSize, s.single), from.body.Size/mostParts+1))
	r := from.reader()
	var parts []minio.CompletePart
	for {
		got, err := io.ReadFull(r, buf)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		p, err := s.core.PutObjectPart(ctx, s.o.Bucket, key, upload, len(parts)+1, bytes.NewReader(buf[:got]), int64(got),
			minio.PutObjectPartOptions{Sha256Hex: kassett.Hash(buf[:got]).String(), DisableContentSha256: true})
		if err != nil {
			return err
		}
		parts = append(parts, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
	}
	var end minio.PutObjectOptions
	s.ifFree(&end)
	_, err = s.core.CompleteMultipartUpload(ctx, s.o.Bucket, key, upload, parts, end)
	return err
}
