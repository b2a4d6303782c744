package s3

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
)

var _ kassett.Retainer = (*Storage)(nil)

// lockMargin is how much longer than its span a new file is retained, so that
// what is said of it is true though the server's clock is known to some seconds
// only.
const lockMargin = time.Minute

// minSlack is the least slack that is chosen when none is given.
const minSlack = 24 * time.Hour

// maxRetention bounds the options: a slip of the finger in compliance mode
// cannot be taken back by anyone.
const maxRetention = 100 * 366 * 24 * time.Hour

// bucketLock is what is known of a bucket's object lock.
type bucketLock struct {
	mu    sync.Mutex
	asked bool
	on    bool
}

// setRetention sets one of the options about object lock.
func (o *Options) setRetention(name, value string) (err error) {
	switch name {
	case "object-lock":
		o.Retention.Mode = kassett.RetentionMode(value)
		if m := o.Retention.Mode; m != kassett.Compliance && m != kassett.Governance {
			err = errors.New("it is neither compliance nor governance")
		}
	case "retain":
		o.Retention.Period, err = parseSpan(value)
	case "retain-slack":
		o.Retention.Slack, err = parseSpan(value)
	}
	return err
}

// finishRetention fills in what was not given, and refuses half of it.
func (o *Options) finishRetention() error {
	r := &o.Retention
	bad := func(why, hint string) error {
		return &kassett.Error{Op: "read options of object lock", Kind: kassett.Invalid, Err: errors.New(why), Hint: hint}
	}
	switch {
	case r.Mode == "" && r.Period == 0 && r.Slack == 0:
		return nil
	case r.Mode == "":
		return bad("-o s3.retain is given without a mode", "add -o s3.object-lock=compliance, or governance")
	case r.Period == 0:
		return bad("-o s3.object-lock is given without a time", "add -o s3.retain=90d: how long after a snapshot all it needs cannot be deleted")
	case r.Slack == 0:
		r.Slack = max(r.Period/3, minSlack)
	}
	return nil
}

// parseSpan reads a duration: a whole number with s, m, h, d or y (365 days).
func parseSpan(text string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'y': 365 * 24 * time.Hour}
	if text == "" || units[text[len(text)-1]] == 0 {
		return 0, errors.New("it is no time: write it as 90d, 12h or 1y")
	}
	unit := units[text[len(text)-1]]
	n, err := strconv.ParseInt(text[:len(text)-1], 10, 32)
	if err != nil || n <= 0 || n > int64(maxRetention/unit) {
		return 0, errors.New("it is no time from 1s to 100y")
	}
	return time.Duration(n) * unit, nil
}

// Retention implements [kassett.Retainer].
func (s *Storage) Retention() kassett.Retention { return s.o.Retention }

// Clock implements [kassett.Retainer]. The server tells its time with each
// answer, whatever the answer is.
func (s *Storage) Clock(ctx context.Context) (time.Time, error) {
	_, err := s.core.BucketExists(ctx, s.o.Bucket)
	if err != nil && minio.ToErrorResponse(err).StatusCode == 0 {
		return time.Time{}, s.fault("ask for the time", s.place(), err)
	}
	ahead, known := s.clock.offset()
	if !known {
		return time.Time{}, &kassett.Error{
			Op: "ask for the time", What: s.place(), Kind: kassett.Invalid, Err: errors.New("the server does not tell its time"),
			Hint: "a proxy may take the header Date out of answers: reach the server without it",
		}
	}
	return time.Now().Add(ahead), nil
}

// retains reports whether files of that name are retained.
func retains(n kassett.StoredName) bool {
	if n.Beside != "" {
		return strings.HasPrefix(n.Beside, "records/")
	}
	return n.Kind != kassett.LockFile
}

// lock makes a new object be retained.
func (s *Storage) lock(ctx context.Context, n kassett.StoredName, o *minio.PutObjectOptions) error {
	if !s.o.Retention.On() || !retains(n) {
		return nil
	}
	until, err := s.lockUntil(ctx)
	if err != nil {
		return err
	}
	o.Mode, o.RetainUntilDate = s.lockMode(), until
	return nil
}

// lockMode returns how S3 calls the mode.
func (s *Storage) lockMode() minio.RetentionMode {
	return minio.RetentionMode(strings.ToUpper(string(s.o.Retention.Mode)))
}

// lockUntil returns until when a file that is stored now is retained. A bucket
// without object lock is refused.
func (s *Storage) lockUntil(ctx context.Context) (time.Time, error) {
	on, err := s.bucketLocks(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if !on {
		return time.Time{}, &kassett.Error{
			Op: "retain files", What: s.place(), Kind: kassett.Invalid, Err: errors.New("this bucket has no object lock"),
			Hint: "make a bucket with object lock (it can hardly be added later), or leave -o s3.object-lock out",
		}
	}
	now, err := s.lastClock(ctx)
	return now.Add(s.o.Retention.Span() + lockMargin).UTC().Truncate(time.Second), err
}

// lastClock is Clock by the last answer of the server, if there was any.
func (s *Storage) lastClock(ctx context.Context) (time.Time, error) {
	if ahead, known := s.clock.offset(); known {
		return time.Now().Add(ahead), nil
	}
	return s.Clock(ctx)
}

// bucketLocks reports whether the bucket has object lock; it is asked once. Who
// may not ask is taken at the word of the options.
func (s *Storage) bucketLocks(ctx context.Context) (bool, error) {
	s.locks.mu.Lock()
	defer s.locks.mu.Unlock()
	if s.locks.asked {
		return s.locks.on, nil
	}
	state, _, _, _, err := s.core.GetObjectLockConfig(ctx, s.o.Bucket)
	switch resp := minio.ToErrorResponse(err); {
	case err == nil:
		s.locks.on = state == "Enabled"
	case resp.Code == "ObjectLockConfigurationNotFoundError" || resp.Code == "NotImplemented" || resp.Code == minio.MethodNotAllowed:
		s.locks.on = false
	case resp.Code == minio.AccessDenied:
		s.locks.on = s.o.Retention.On()
	default:
		return false, s.fault("ask for the object lock of", s.place(), err)
	}
	s.locks.asked = true
	return s.locks.on, nil
}

// Headers by which a server says that an object is retained.
const (
	lockModeHeader  = "X-Amz-Object-Lock-Mode"
	lockUntilHeader = "X-Amz-Object-Lock-Retain-Until-Date"
)

// retention is how a version is retained; the zero one is not.
type retention struct {
	Mode  minio.RetentionMode `xml:"Mode"`
	Until time.Time           `xml:"RetainUntilDate"`
}

// retentionOf returns how a version is retained; the current one has no ID.
func (s *Storage) retentionOf(ctx context.Context, key, version string) (retention, error) {
	in, err := s.core.StatObject(ctx, s.o.Bucket, key, minio.StatObjectOptions{VersionID: version})
	if err != nil {
		return retention{}, err
	}
	return s.retentionIn(ctx, key, in)
}

// retentionIn returns how a version is retained, of which the head is known.
// Not every server says it there, and none to a key without the right to know.
func (s *Storage) retentionIn(ctx context.Context, key string, in minio.ObjectInfo) (retention, error) {
	until, err := time.Parse(time.RFC3339, in.Metadata.Get(lockUntilHeader))
	if mode := in.Metadata.Get(lockModeHeader); err == nil && mode != "" {
		return retention{minio.RetentionMode(mode), until.UTC()}, nil
	}
	return s.askRetention(ctx, key, in.VersionID)
}

// maxAnswer bounds an answer about retention, in bytes.
const maxAnswer = 64 << 10

// askRetention asks for the retention of a version. minio-go does so too, but
// takes only one of the two names that servers give the root of their answer.
func (s *Storage) askRetention(ctx context.Context, key, version string) (r retention, err error) {
	query := url.Values{"retention": {""}}
	if version != "" {
		query.Set("versionId", version)
	}
	u, err := s.core.Presign(ctx, http.MethodGet, s.o.Bucket, key, time.Minute, query)
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return r, err
	}
	resp, err := s.clock.RoundTrip(req)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	answer := xml.NewDecoder(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode == http.StatusOK {
		err = answer.Decode(&r)
		r.Until = r.Until.UTC()
		return r, err
	}
	refused := minio.ErrorResponse{StatusCode: resp.StatusCode}
	if err := answer.Decode(&refused); err != nil && resp.StatusCode != http.StatusNotFound {
		return r, fmt.Errorf("the server answers %s", resp.Status)
	}
	switch refused.Code {
	case "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest":
		return r, nil // the last: the bucket has no object lock
	}
	return r, refused
}

// RetainedUntil implements [kassett.Retainer].
func (s *Storage) RetainedUntil(ctx context.Context, n kassett.StoredName) (time.Time, error) {
	r, err := s.retentionOf(ctx, s.key(n), "")
	if err != nil {
		return time.Time{}, s.fault("find the retention of", n.String(), err)
	}
	return r.Until, nil
}

// Retain implements [kassett.Retainer].
func (s *Storage) Retain(ctx context.Context, n kassett.StoredName, least, until time.Time) (time.Time, error) {
	const op = "retain file"
	key := s.key(n)
	in, err := s.core.StatObject(ctx, s.o.Bucket, key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return time.Time{}, s.fault(op, n.String(), err)
	}
	// Else the lock of what somebody has put over the file would be
	// extended, and the file's own would end.
	if err := s.genuine(ctx, n, in); err != nil {
		return time.Time{}, s.fault(op, n.String(), err)
	}
	have, err := s.retentionIn(ctx, key, in)
	if err != nil {
		return time.Time{}, s.fault(op, n.String(), err)
	}
	if !have.Until.Before(least) {
		return have.Until, nil
	}
	mode := cmp.Or(have.Mode, s.lockMode())
	until = until.UTC().Truncate(time.Second)
	if until.Before(least) {
		until = until.Add(time.Second)
	}
	err = s.core.PutObjectRetention(ctx, s.o.Bucket, key, minio.PutObjectRetentionOptions{
		Mode: &mode, RetainUntilDate: &until, VersionID: in.VersionID,
	})
	if err != nil {
		err = s.fault(op, n.String(), err)
		if kassett.KindOf(err) == kassett.Denied {
			err = &kassett.Error{
				Op: op, What: n.String(), Kind: kassett.Denied, Err: err,
				Hint: "give this key the right s3:PutObjectRetention: it can only lengthen what is locked",
			}
		}
		return time.Time{}, err
	}
	return until, nil
}

// genuine reports whether the current version of a file that is named by its
// hash is that file: by the checksum that the server keeps, or by reading it
// when it has none and others were put under the same name.
func (s *Storage) genuine(ctx context.Context, n kassett.StoredName, in minio.ObjectInfo) error {
	replaced := &kassett.Error{
		Op: "retain file", What: n.String(), Kind: kassett.Corrupt, Err: errors.New("something else was put in its place"),
		Hint: "run `kassett repair versions`",
	}
	if n.ID.IsZero() {
		return nil
	}
	if in.ChecksumSHA256 != "" {
		if in.ChecksumSHA256 != base64.StdEncoding.EncodeToString(n.ID[:]) {
			return replaced
		}
		return nil
	}
	versions := 0
	for v := range s.versionsOf(ctx, s.key(n)) {
		if v.Err != nil {
			return v.Err
		}
		versions++
	}
	if versions == 1 {
		return nil
	}
	switch sum, err := s.sum(ctx, n); {
	case err != nil:
		return err
	case sum != n.ID:
		return replaced
	}
	return nil
}

// marked reports whether there is no file of that name, but a mark over older
// versions. Unlike Amazon's, versitygw takes such a name for one in use.
func (s *Storage) marked(ctx context.Context, n kassett.StoredName) bool {
	if _, err := s.stat(ctx, n); !isNotFound(err) {
		return false
	}
	for v := range s.versionsOf(ctx, s.key(n)) {
		return v.Err == nil
	}
	return false
}

// deleteLocked deletes a file of a bucket with object lock for good, if the
// lock of none of its versions forbids it. A plain delete there only puts a mark
// over what still takes room.
func (s *Storage) deleteLocked(ctx context.Context, n kassett.StoredName) error {
	key := s.key(n)
	var all []minio.ObjectInfo
	there := -1
	for v := range s.versionsOf(ctx, key) {
		if v.Err != nil && !retains(n) && ctx.Err() == nil { // it may not be for this key to know
			return s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{})
		}
		if v.Err != nil {
			return v.Err
		}
		if v.IsLatest && !v.IsDeleteMarker {
			there = len(all)
		}
		if all = append(all, v); len(all) > mostVersions {
			return fmt.Errorf("it has more than %d versions", mostVersions)
		}
	}
	if there < 0 {
		return minio.ErrorResponse{Code: minio.NoSuchKey, StatusCode: 404}
	}
	if retains(n) {
		if err := s.mayDelete(ctx, n, all); err != nil {
			return err
		}
	}
	last := len(all) - 1
	all[there], all[last] = all[last], all[there] // what Get reads
	for _, v := range all {
		err := s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{VersionID: v.VersionID})
		switch {
		case err == nil:
		case !retains(n) && ctx.Err() == nil:
			// The bucket retains every object for a while, or this key may
			// not delete versions. A lock must get out of the way all the same.
			return s.core.RemoveObject(ctx, s.o.Bucket, key, minio.RemoveObjectOptions{})
		default:
			return err
		}
	}
	return nil
}

// mostVersions bounds how many versions of one object are deleted with it. A
// hostile writer can make any number.
const mostVersions = 1000

// mayDelete returns a [kassett.Held] error when a version is retained.
func (s *Storage) mayDelete(ctx context.Context, n kassett.StoredName, versions []minio.ObjectInfo) error {
	now, err := s.lastClock(ctx)
	if err != nil {
		return err
	}
	held := &kassett.HeldError{Mode: s.o.Retention.Mode}
	for _, v := range versions {
		if v.IsDeleteMarker {
			continue
		}
		r, err := s.retentionOf(ctx, s.key(n), v.VersionID)
		if err != nil {
			return err
		}
		if r.Until.After(now) && r.Until.After(held.Until) {
			held.Until, held.Mode = r.Until, kassett.RetentionMode(strings.ToLower(r.Mode.String()))
		}
	}
	if held.Until.IsZero() {
		return nil
	}
	return &kassett.Error{
		Op: "delete file", What: n.String(), Kind: kassett.Held, Err: held,
		Hint: "wait until then: nobody is to remove it sooner",
	}
}
