package rest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kassett"
)

// Records is what a server can tell, without a password, from the signed
// records beside a repository (docs/formats/records.md).
type Records interface {
	// Vet looks at a record before it is stored. It is an
	// [kassett.Invalid] error when it is none that fits the repository.
	// lifts says that it lets go of something.
	Vet(ctx context.Context, beside kassett.Beside, name string, file []byte) (lifts bool, err error)
	// MayForget returns a [kassett.Held] error when a record keeps, or may
	// keep, a snapshot.
	MayForget(ctx context.Context, st kassett.Storage, in kassett.Info, now time.Time) error
}

func isRecord(t target) bool {
	return t.what == besideOne && strings.HasPrefix(t.beside, recordFolder+"/")
}

// putRecord stores a record. Whoever may append may ask for more to be kept;
// to let go of what is kept needs the right to remove.
func (q *request) putRecord(s *served) error {
	sum, ok := parseDigest(q.Header.Get(headerDigest))
	if !ok {
		return q.denied(kassett.Invalid, errors.New("a file beside a repository needs a Content-Digest"))
	}
	b, sum, err := q.readSmall(sum, true)
	if err != nil {
		return err
	}
	lifts, err := q.h.c.Records.Vet(q.Context(), s.beside, q.target.beside, b)
	switch {
	case kassett.KindOf(err) == kassett.Invalid:
		return q.denied(kassett.Invalid, err)
	case err != nil:
		return err
	case lifts && !q.client.Rights.allow(Full):
		return q.missing(Full)
	}
	if err := q.storeBeside(s, kassett.BytesBody(b, sum)); err != nil {
		return err
	}
	q.h.c.Log.Info("record", "client", q.client.Name, "remote", q.RemoteAddr, "path", q.target.String(), "lifts", lifts)
	return nil
}

// mayForget returns why a snapshot must not be removed, or nil.
func (q *request) mayForget(s *served, in kassett.Info) error {
	now := q.h.c.Now()
	if floor := q.client.Floor; floor > 0 {
		switch {
		case in.Received.IsZero():
			return q.denied(kassett.Held, errors.New("this client may remove only what has been here for a while, and it is not known how long that snapshot has"))
		case now.Sub(in.Received) < floor:
			return q.denied(kassett.Held, fmt.Errorf("it came in %s: this client may remove it from %s on",
				in.Received.UTC().Format(time.DateTime), in.Received.Add(floor).UTC().Format(time.DateTime)))
		}
	}
	err := q.h.c.Records.MayForget(q.Context(), s.st, in, now)
	if kassett.KindOf(err) == kassett.Held {
		return q.denied(kassett.Held, err)
	}
	return err
}
