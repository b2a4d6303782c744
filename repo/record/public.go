package record

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kassett"
)

// readers is how many records a server without the password reads side by side.
const readers = 4

// publicVerifier returns what records/signer verifies records with: the public
// half of what docs/formats/records.md says under "The key". A repository
// without the file has no records.
func publicVerifier(ctx context.Context, beside kassett.Beside) (verifier, error) {
	b, err := kassett.ReadBeside(ctx, beside, signerName, maxSize)
	if err != nil {
		return verifier{}, fmt.Errorf("read %s: %w", signerName, err)
	}
	return parseSigner(b)
}

func parseSigner(b []byte) (verifier, error) {
	var have signed
	if err := decodeStrict(b, &have); err != nil {
		return verifier{}, bad(signerName, err)
	}
	v := verifier{have.Repository, have.Signer}
	if have.Format != "signer/1" || len(have.Signer) != len(kassett.ID{}) || have.Repository == "" {
		return verifier{}, bad(signerName, errors.New("it is no public key"))
	}
	return v, nil
}

// Vet looks at a file that is to be stored below records/, as a server
// without the password can: it must be a public key, or a record that this key
// verifies. It returns the record's kind, "" of the key. What it does not let
// pass is an [kassett.Invalid] error.
func Vet(ctx context.Context, beside kassett.Beside, name string, file []byte) (Kind, error) {
	bad := func(err error) (Kind, error) {
		return "", &kassett.Error{Op: "look at", What: name, Kind: kassett.Invalid, Err: err}
	}
	if name == signerName {
		if _, err := parseSigner(file); err != nil {
			return bad(err)
		}
		return "", nil
	}
	if name != fileName(kassett.Hash(file)) {
		return bad(errors.New("its name is not that of a record"))
	}
	v, err := publicVerifier(ctx, beside)
	if kassett.KindOf(err) == kassett.NotFound {
		return bad(errors.New("the public key, " + signerName + ", has to be there first"))
	} else if err != nil {
		return "", err
	}
	p, err := v.decode(file)
	if err != nil {
		return bad(err)
	}
	return p.Kind, nil
}

// MayForget says, without the password, whether a record keeps a snapshot: nil,
// or a [kassett.Held] error. Which host, paths and tags a snapshot has is
// sealed, and so is what it was rewritten from. Therefore a floor or hold
// of a source keeps every snapshot that it may be about, and one of a single
// snapshot keeps that one and, when that one is not there any more, all of which
// one may be what it was rewritten to. A record that cannot be verified keeps
// everything.
func MayForget(ctx context.Context, st kassett.Storage, in kassett.Info, now time.Time) error {
	beside, ok := kassett.As[kassett.Beside](st)
	if !ok {
		return nil
	}
	held := func(why error, hint string) error {
		return &kassett.Error{Op: "remove snapshot", What: in.ID.Short(), Kind: kassett.Held, Err: why, Hint: hint}
	}
	v, err := publicVerifier(ctx, beside)
	if err != nil && kassett.KindOf(err) != kassett.NotFound {
		return held(err, kassett.HintOf(err))
	}
	book, err := readBook(ctx, beside, v, readers)
	if err != nil {
		return err
	}
	if err := book.trouble(); err != nil {
		return held(err, kassett.HintOf(err))
	}
	var why []string
	for _, rec := range book.standing() {
		w, err := keepsBlindly(ctx, st, &rec, in, now)
		if err != nil {
			return err
		}
		if w != "" {
			why = append(why, fmt.Sprintf("%s of record %s (%s)", w, rec.ID.Short(), rec.Reason))
		}
	}
	if len(why) == 0 {
		return nil
	}
	return held(errors.New(strings.Join(why, "; ")),
		"a lift of the record, in the names of two persons; or run forget on the server itself, where the password tells which snapshots the record is about")
}

// keepsBlindly says why a record keeps a snapshot of which only ID and time are
// known, or "".
func keepsBlindly(ctx context.Context, st kassett.Storage, rec *Record, in kassett.Info, now time.Time) (string, error) {
	until := rec.Until
	switch {
	case rec.Kind == Hold && until.IsZero():
		until = now.AddDate(1, 0, 0) // longer than it takes to ask again
	case rec.Kind == Hold:
	case rec.Kind == Floor && rec.Keep != (kassett.Age{}) && in.Received.IsZero():
		until = now.AddDate(1, 0, 0) // nobody knows how old it is
	case rec.Kind == Floor && rec.Keep != (kassett.Age{}):
		if t := rec.Keep.After(in.Received); t.After(until) {
			until = t
		}
	case rec.Kind == Floor:
	default:
		return "", nil
	}
	if !now.Before(until) {
		return "", nil
	}
	switch sub := rec.Subject; {
	case sub.All, sub.Snapshot == in.ID:
		return "the " + string(rec.Kind), nil
	case !sub.Snapshot.IsZero():
		_, err := st.Stat(ctx, kassett.Handle{Kind: kassett.SnapshotFile, ID: sub.Snapshot})
		if err == nil {
			return "", nil // the one it names is there, and stays
		} else if kassett.KindOf(err) != kassett.NotFound {
			return "", err
		}
		return "it may be what snapshot " + sub.Snapshot.Short() + " was rewritten to: the " + string(rec.Kind), nil
	}
	return "it may be of this source: the " + string(rec.Kind), nil
}
