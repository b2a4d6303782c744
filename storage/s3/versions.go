package s3

import (
	"context"
	"errors"
	"io"
	"iter"

	"github.com/minio/minio-go/v7"

	"kassett"
)

var _ kassett.Versioned = (*Storage)(nil)

// versionsOf yields all versions of one object, the youngest first. An error is
// in the last one.
func (s *Storage) versionsOf(ctx context.Context, key string) iter.Seq[minio.ObjectInfo] {
	return func(yield func(minio.ObjectInfo) bool) {
		for v := range s.core.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{
			Prefix: key, WithVersions: true, Recursive: true,
		}) {
			if v.Err == nil && v.Key != key {
				continue
			}
			if !yield(v) || v.Err != nil {
				return
			}
		}
	}
}

// Versions implements [kassett.Versioned].
func (s *Storage) Versions(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Version, error] {
	return func(yield func(kassett.Version, error) bool) {
		const op = "list versions of"
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for v := range s.core.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{
			Prefix: s.folder(k), WithVersions: true, Recursive: true,
		}) {
			if v.Err != nil {
				yield(kassett.Version{}, s.fault(op, k.String(), v.Err))
				return
			}
			n, ok := s.name(v.Key)
			if !ok || n.Kind != k {
				continue
			}
			if !yield(kassett.Version{
				StoredName: n, ID: v.VersionID, Size: v.Size, Written: v.LastModified,
				Latest: v.IsLatest, Deleted: v.IsDeleteMarker,
			}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(kassett.Version{}, s.fault(op, k.String(), err))
		}
	}
}

// ReadVersion implements [kassett.Versioned].
func (s *Storage) ReadVersion(ctx context.Context, v kassett.Version) (io.ReadCloser, error) {
	const op = "read version of"
	body, in, _, err := s.core.GetObject(ctx, s.o.Bucket, s.key(v.StoredName), minio.GetObjectOptions{VersionID: v.ID})
	if err != nil {
		return nil, s.fault(op, v.String(), err)
	}
	if in.Size < 0 {
		return nil, errors.Join(errors.New("the server does not say how long its answer is"), body.Close())
	}
	return &stream{s: s, body: body, alive: ctx.Err, what: v.String(), left: in.Size, end: io.EOF}, nil
}

// Restore implements [kassett.Versioned]. Marks are taken away where only they
// are in the way, since a copy takes room; whoever may not do that copies.
func (s *Storage) Restore(ctx context.Context, v kassett.Version) error {
	const op = "restore version of"
	key := s.key(v.StoredName)
	var marks []string
	onlyMarks, found := true, false
	for above := range s.versionsOf(ctx, key) {
		switch {
		case above.Err != nil:
			return s.fault(op, v.String(), above.Err)
		case above.VersionID == v.ID:
			found = true
		case above.IsDeleteMarker:
			marks = append(marks, above.VersionID)
		default:
			onlyMarks = false
		}
		if found || !onlyMarks {
			break
		}
	}
	if found && onlyMarks {
		if len(marks) == 0 {
			return nil
		}
		if s.removeMarks(ctx, key, marks) {
			return nil
		}
	}
	return s.fault(op, v.String(), s.copyOver(ctx, v, key))
}

// removeMarks reports whether all marks could be removed.
func (s *Storage) removeMarks(ctx context.Context, key string, marks []string) bool {
	for _, id := range marks {
		if err := s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{VersionID: id}); err != nil {
			return false
		}
	}
	return true
}

// copyOver copies a version on top of the others, at the server.
func (s *Storage) copyOver(ctx context.Context, v kassett.Version, key string) error {
	to := minio.CopyDestOptions{Bucket: s.o.Bucket, Object: key}
	switch {
	case !retains(v.StoredName):
	case s.o.Retention.On():
		until, err := s.lockUntil(ctx)
		if err != nil {
			return err
		}
		to.Mode, to.RetainUntilDate = s.lockMode(), until
	default: // as long as it was
		until, mode, err := s.retention(ctx, key, v.ID)
		if err != nil {
			return err
		}
		if now, err := s.Clock(ctx); err == nil && until.After(now) {
			to.Mode, to.RetainUntilDate = mode, until
		}
	}
	_, err := s.core.Client.CopyObject(ctx, to, minio.CopySrcOptions{Bucket: s.o.Bucket, Object: key, VersionID: v.ID})
	return err
}

// Hide implements [kassett.Versioned].
func (s *Storage) Hide(ctx context.Context, n kassett.StoredName) error {
	err := s.core.RemoveObject(ctx, s.o.Bucket, s.key(n), minio.RemoveObjectOptions{})
	return s.fault("hide file", n.String(), err)
}
