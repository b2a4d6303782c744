// Package s3 keeps a repository in a bucket of an S3-compatible object store, in
// restic's layout, so that restic reads and writes the same bucket:
//
//	PREFIX/config
//	PREFIX/data/00/ … data/ff/<64 hex digits>
//	PREFIX/index/  keys/  locks/  snapshots/<64 hex digits>
//	PREFIX/kassett/…                 files beside the repository
//
// Every put names the SHA-256 of its content twice, as what is signed
// (x-amz-content-sha256) and as a checksum that the store keeps
// (x-amz-checksum-sha256), and carries If-None-Match: the server itself refuses
// a body that is another, and an overwrite. The protocol is that of
// https://docs.aws.amazon.com/AmazonS3/latest/API/; minio-go speaks it.
package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"kassett"
	"kassett/storage"
)

// Storage is a repository in a bucket. It implements [kassett.Storage],
// [kassett.Parallel], [kassett.Beside], [kassett.Sweeper] and [kassett.Thawer],
// and is safe for many goroutines. Close gives its connections back.
type Storage struct {
	core minio.Core
	o    Options
	top  string // what the name of every object begins with: "" or "PREFIX/"
	// single is the largest body, in bytes, that is put in one request.
	single int64
	clock  *clock
	locks  bucketLock
	poll   time.Duration // between two looks at what is being thawed
	idle   func()        // closes connections that are not in use
}

var (
	_ kassett.Storage  = (*Storage)(nil)
	_ kassett.Beside   = (*Storage)(nil)
	_ kassett.Sweeper  = (*Storage)(nil)
	_ kassett.Parallel = (*Storage)(nil)
	_ kassett.Thawer   = (*Storage)(nil)
)

// maxSingle is the largest body that S3 takes in one request, in bytes.
const maxSingle = 5 << 30

// Open returns the repository that o names. It sends no request but what its
// credentials need: whether a bucket and a repository are there is seen by the
// first call.
func Open(o Options) (*Storage, error) {
	if err := o.finishRetention(); err != nil {
		return nil, err
	}
	rt := o.Transport
	if rt == nil {
		rt = http.DefaultTransport
	}
	s := &Storage{o: o, single: maxSingle, clock: newClock(rt), poll: thawPoll, idle: func() {}}
	if c, ok := rt.(interface{ CloseIdleConnections() }); ok {
		s.idle = c.CloseIdleConnections
	}
	if o.Prefix != "" {
		s.top = o.Prefix + "/"
	}
	creds, err := o.Credentials.provider(rt)
	if err != nil {
		return nil, err
	}
	s.core.Client, err = minio.New(o.Host, &minio.Options{
		Creds: creds, Secure: !o.Plain, Region: o.Region, BucketLookup: o.BucketLookup,
		MaxRetries: o.Retries, Transport: s.clock,
	})
	if err != nil {
		return nil, &kassett.Error{
			Op: "open", What: s.place(), Kind: kassett.Invalid, Err: err,
			Hint: "check the host: it is written without a path, as s3.example.org or 10.0.0.5:9000",
		}
	}
	return s, nil
}

// Create returns a place for a new repository in the bucket, and makes the
// bucket where there is none. It stores nothing: until a config is stored,
// Create may be called again. A place that holds a repository, or some of one,
// is a [kassett.Exists] error.
func Create(ctx context.Context, o Options) (*Storage, error) {
	s, err := Open(o)
	if err != nil {
		return nil, err
	}
	if err := s.makePlace(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Storage) makePlace(ctx context.Context) error {
	const op = "create repository"
	found, err := s.core.BucketExists(ctx, s.o.Bucket)
	switch {
	case err == nil && !found:
		err = s.core.MakeBucket(ctx, s.o.Bucket, minio.MakeBucketOptions{Region: s.o.Region, ObjectLocking: s.o.Retention.On()})
		return s.fault(op, s.place(), err)
	case err != nil && minio.ToErrorResponse(err).Code != minio.AccessDenied: // who may not ask may still store
		return s.fault(op, s.place(), err)
	}
	if _, err := s.Stat(ctx, kassett.Handle{Kind: kassett.ConfigFile}); err == nil {
		return &kassett.Error{
			Op: op, What: s.place(), Kind: kassett.Exists, Err: errors.New("a repository is there"),
			Hint: "use it as it is, or give another bucket or folder",
		}
	} else if kassett.KindOf(err) != kassett.NotFound {
		return err
	}
	for _, k := range []kassett.FileKind{kassett.KeyFile, kassett.SnapshotFile} {
		for _, err := range s.List(ctx, k) {
			if err != nil {
				return err
			}
			return &kassett.Error{
				Op: op, What: s.place(), Kind: kassett.Exists,
				Err:  fmt.Errorf("it holds %s of a repository whose config is gone", k),
				Hint: "bring the config back: from an earlier version of it, or from a copy of this repository; or give another folder",
			}
		}
	}
	return nil
}

// place returns where the repository is, as a user writes it.
func (s *Storage) place() string {
	scheme := "https://"
	if s.o.Plain {
		scheme = "http://"
	}
	return strings.TrimSuffix("s3:"+scheme+s.o.Host+"/"+s.o.Bucket+"/"+s.o.Prefix, "/")
}

// Close closes the connections that are not in use.
func (s *Storage) Close() error {
	s.idle()
	return nil
}

// Connections implements [kassett.Parallel].
func (s *Storage) Connections() int { return s.o.Connections }

// key returns the name of the object of a file.
func (s *Storage) key(n kassett.StoredName) string {
	if n.Beside != "" {
		return s.folder(0) + n.Beside
	}
	return s.top + storage.Path(n.Handle)
}

// name is the inverse of key. Names that are not ours are not ok.
func (s *Storage) name(key string) (n kassett.StoredName, ok bool) {
	rest, ok := strings.CutPrefix(key, s.top)
	if !ok {
		return n, false
	}
	if beside, ok := strings.CutPrefix(rest, storage.BesideFolder+"/"); ok {
		return kassett.StoredName{Beside: beside}, kassett.ValidBeside(beside)
	}
	if n.Kind = kassett.ConfigFile; rest == n.Kind.String() {
		return n, true
	}
	top, _, _ := strings.Cut(rest, "/")
	dir, base := path.Split(rest)
	for _, k := range storage.Folders() {
		if k.String() != top {
			continue
		}
		n.Handle, ok = storage.ParseName(k, path.Base(dir), base)
		return n, ok && storage.Path(n.Handle) == rest
	}
	return n, false
}

// folder returns what the names of all files of a kind begin with; of files
// beside the repository for kind 0.
func (s *Storage) folder(k kassett.FileKind) string {
	switch k {
	case 0:
		return s.top + storage.BesideFolder + "/"
	case kassett.ConfigFile:
		return s.top + k.String()
	}
	return s.top + k.String() + "/"
}
