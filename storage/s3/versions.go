package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
)

var _ kassett.Versioned = (*Storage)(nil)

// versionsOf yields all versions of one object. An error is in the last one.
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

// Versions implements [kassett.Versioned]. Of the packs, a 256th part is held in
// memory at a time: not every server lists the marks and the versions of one
// object after each other.
func (s *Storage) Versions(ctx context.Context, k kassett.FileKind) iter.Seq2[kassett.Version, error] {
	folders := []string{s.folder(k)}
	if k == kassett.PackFile {
		folders = folders[:0]
		for i := range 256 {
			folders = append(folders, fmt.Sprintf("%s%02x/", s.folder(k), i))
		}
	}
	return func(yield func(kassett.Version, error) bool) {
		for _, folder := range folders {
			all, err := s.versionsIn(ctx, folder, k)
			if err != nil {
				yield(kassett.Version{}, s.fault("list versions of", k.String(), err))
				return
			}
			for _, v := range all {
				if !yield(v, nil) {
					return
				}
			}
		}
	}
}

// versionsIn lists the versions of the files of a kind in one folder, in the
// order of [kassett.Versioned].
func (s *Storage) versionsIn(ctx context.Context, folder string, k kassett.FileKind) ([]kassett.Version, error) {
	var all []kassett.Version
	for v := range s.core.ListObjectsIter(ctx, s.o.Bucket, minio.ListObjectsOptions{
		Prefix: folder, WithVersions: true, Recursive: true,
	}) {
		if v.Err != nil {
			return nil, v.Err
		}
		if n, ok := s.name(v.Key); ok && n.Kind == k {
			all = append(all, kassett.Version{
				StoredName: n, ID: v.VersionID, Size: v.Size, Written: written(v),
				Latest: v.IsLatest, Deleted: v.IsDeleteMarker,
			})
		}
	}
	slices.SortStableFunc(all, func(a, b kassett.Version) int {
		if c := cmp.Or(a.Handle.ID.Compare(b.Handle.ID), cmp.Compare(a.Beside, b.Beside)); c != 0 {
			return c
		}
		if a.Latest != b.Latest {
			if a.Latest {
				return -1
			}
			return 1
		}
		return b.Written.Compare(a.Written)
	})
	return all, ctx.Err()
}

// ulid has the digits of a ULID, of which the first ten are the milliseconds
// since 1970 (https://github.com/ulid/spec).
const ulid = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// written returns when a version came into being. For versions that are not the
// latest, versitygw says when they ceased to be that; its version IDs are ULIDs,
// which tell the truth. Those of other servers have another length.
func written(v minio.ObjectInfo) time.Time {
	if len(v.VersionID) != 26 {
		return v.LastModified
	}
	var ms int64
	for _, c := range []byte(v.VersionID[:10]) {
		digit := strings.IndexByte(ulid, c)
		if digit < 0 {
			return v.LastModified
		}
		ms = ms<<5 | int64(digit)
	}
	return time.UnixMilli(ms).UTC()
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
			if found = true; above.IsLatest {
				return nil
			}
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
		r, err := s.retentionOf(ctx, key, v.ID)
		if err != nil {
			return err
		}
		if now, err := s.Clock(ctx); err == nil && r.Until.After(now) {
			to.Mode, to.RetainUntilDate = r.Mode, r.Until
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
