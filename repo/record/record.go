// Package record keeps signed statements beside a repository about what may be
// forgotten: floors, holds, lifts and retirements. Whoever can open the
// repository can sign them; a server without the password verifies them with
// their public key, and refuses what they forbid as far as it can tell.
//
// The format is described in docs/formats/records.md.
//
// It may import the root package.
package record

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"kassett"
)

// Kind says what a [Record] does.
type Kind string

// The kinds of record.
const (
	// Floor: nothing of its subject is forgotten before it has the
	// age Keep, nor before Until.
	Floor Kind = "floor"
	// Hold: its subject is not forgotten until Until; for ever when
	// that is zero.
	Hold Kind = "hold"
	// Lift: the record named by Lifts no longer counts.
	Lift Kind = "lift"
	// Retire: its source is signed off; its last good snapshot may
	// go when nothing else holds it.
	Retire Kind = "retire"
)

// Subject says which snapshots a record is about. Either Snapshot is given, or
// All, or at least one of Host, Paths and Tags.
type Subject struct {
	// Snapshot is one snapshot, and whatever it is rewritten to: it matches
	// a snapshot's ID and its original.
	Snapshot kassett.ID `json:"snapshot,omitzero"`
	// All is the whole repository.
	All bool `json:"all,omitempty"`
	// Host, Paths and Tags describe a source: a snapshot matches when it has
	// the host, if given, exactly the set of paths, if given, and all of the
	// tags.
	Host  string   `json:"host,omitempty"`
	Paths []string `json:"paths,omitempty"`
	Tags  []string `json:"tags,omitempty"`
}

// source reports whether s describes a source.
func (s Subject) source() bool { return s.Host != "" || len(s.Paths) > 0 || len(s.Tags) > 0 }

// given returns in how many of the three ways s says what it is about.
func (s Subject) given() (n int) {
	for _, is := range []bool{!s.Snapshot.IsZero(), s.All, s.source()} {
		if is {
			n++
		}
	}
	return n
}

// Record is a signed statement beside a repository about what may be forgotten.
// It is never changed; another record lifts it.
type Record struct {
	ID      kassett.ID  `json:"-"` // SHA-256 of the stored file
	Kind    Kind        `json:"kind"`
	Created time.Time   `json:"created"` // by the clock of its maker
	Subject Subject     `json:"subject,omitzero"`
	Keep    kassett.Age `json:"keep,omitzero"`  // of a floor
	Until   time.Time   `json:"until,omitzero"` // of a floor or hold
	Lifts   kassett.ID  `json:"lifts,omitzero"` // of a lift: the record's ID
	Reason  string      `json:"reason"`
	By      []string    `json:"by"` // names of persons; a lift needs two
}

// format is the first thing in a record. It also keeps the signature from
// being taken for one of something else.
const format = "record/1"

// Bounds of a stored record.
const (
	maxSize  = 64 << 10 // bytes
	maxNames = 16       // persons
)

// payload is what is signed. A record file is two lines:
//
//	┌──────────────────────────────────────────────────────────┐
//	│ {"kassett":"record/1","repository":…,"kind":…,…,"nonce":…}⏎ │  signed, with its line end
//	│ {"ed25519":"public key","signature":"…"}⏎                  │
//	└──────────────────────────────────────────────────────────┘
type payload struct {
	Format     string `json:"kassett"`
	Repository string `json:"repository"` // the ID of its config
	Record
	// After names the records that were there and that no other named, so
	// that the removal of a record shows in those that came after it.
	After []kassett.ID `json:"after,omitempty"`
	Nonce string       `json:"nonce"` // two equal statements are two records
}

// seal is the second line of a record file.
type seal struct {
	Signer    []byte `json:"ed25519"` // public key
	Signature []byte `json:"signature"`
}

// check reports what is wrong with a record by itself.
func (rec *Record) check() error {
	if rec.Created.IsZero() {
		return errors.New("it has no time")
	}
	if strings.TrimSpace(rec.Reason) == "" {
		return errors.New("it gives no reason")
	}
	names := make(map[string]bool)
	for _, name := range rec.By {
		if name = strings.ToLower(strings.Join(strings.Fields(name), " ")); name == "" {
			return errors.New("a name is empty")
		}
		names[name] = true
	}
	if len(names) == 0 || len(rec.By) > maxNames {
		return fmt.Errorf("it has the names of %d persons, want 1 to %d", len(rec.By), maxNames)
	}
	if min(rec.Keep.Years, rec.Keep.Months, rec.Keep.Days, rec.Keep.Hours) < 0 {
		return errors.New("an age is negative")
	}
	for _, s := range append(append([]string{rec.Reason, rec.Subject.Host}, rec.Subject.Paths...), append(rec.By, rec.Subject.Tags...)...) {
		if !utf8.ValidString(s) {
			return fmt.Errorf("%.40q is not UTF-8", s)
		}
	}
	return rec.checkKind(len(names))
}

func (rec *Record) checkKind(persons int) error {
	subject, keep, until, lifts := rec.Subject.given(), rec.Keep != kassett.Age{}, !rec.Until.IsZero(), !rec.Lifts.IsZero()
	if rec.Kind != Lift {
		if subject != 1 {
			return errors.New("its subject must be one of: a snapshot, a source, the whole repository")
		}
		if lifts {
			return fmt.Errorf("a %s lifts nothing", rec.Kind)
		}
	}
	switch rec.Kind {
	case Floor:
		if !keep && !until {
			return errors.New("a floor needs an age or a date")
		}
	case Hold:
		if keep {
			return errors.New("a hold has a date or none, but no age")
		}
	case Retire:
		if !rec.Subject.source() || keep || until {
			return errors.New("only a source is retired, and without age or date")
		}
	case Lift:
		if subject != 0 || keep || until || !lifts {
			return errors.New("a lift names a record and nothing else")
		}
		if persons < 2 {
			return errors.New("a lift needs the names of two persons")
		}
	default:
		return fmt.Errorf("%.20q is no kind of record", rec.Kind)
	}
	return nil
}

// verifier verifies the records of one repository.
type verifier struct {
	repository string
	public     ed25519.PublicKey
}

// signer signs and verifies the records of one repository.
type signer struct {
	verifier
	key ed25519.PrivateKey
}

// newSigner derives the signing key from a secret. Whoever has that can sign; who
// has not verifies with the public key in records/signer.
func newSigner(repository string, secret []byte) signer {
	key := ed25519.NewKeyFromSeed(secret)
	// A private key ends with the public one (RFC 8032).
	public := ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
	return signer{verifier{repository, public}, key}
}

// encode returns the bytes of a record file.
func (s signer) encode(rec Record, after []kassett.ID) ([]byte, error) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails: it ends the program instead
	p := payload{
		Format: format, Repository: s.repository, Record: rec,
		After: after, Nonce: fmt.Sprintf("%x", nonce),
	}
	line, err := json.Marshal(&p)
	if err != nil {
		return nil, err
	}
	return s.sign(append(line, '\n')), nil
}

// sign appends the second line to the first, which ends with its line end.
func (s signer) sign(line []byte) []byte {
	return seal{s.public, ed25519.Sign(s.key, line)}.append(line)
}

// append appends the second line of a record to the first.
func (s seal) append(line []byte) []byte {
	return fmt.Appendf(line, "{\"ed25519\":\"%s\",\"signature\":\"%s\"}\n",
		base64.StdEncoding.EncodeToString(s.Signer), base64.StdEncoding.EncodeToString(s.Signature))
}

// decode reads and verifies the bytes of a record file. An error that is not
// [kassett.Invalid] means that they are not what was signed here.
func (v verifier) decode(file []byte) (*payload, error) {
	if len(file) > maxSize {
		return nil, fmt.Errorf("it has more than %d bytes", maxSize)
	}
	end := bytes.IndexByte(file, '\n') + 1
	if end == 0 || end == len(file) || file[len(file)-1] != '\n' {
		return nil, errors.New("it is cut short")
	}
	var seal seal
	if err := decodeStrict(file[end:], &seal); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if !bytes.Equal(seal.Signer, v.public) {
		return nil, errors.New("it is signed with the key of another repository")
	}
	if !ed25519.Verify(v.public, file[:end], seal.Signature) {
		return nil, errors.New("its signature does not fit")
	}
	if !bytes.Equal(file, seal.append(file[:end:end])) {
		// Base64 and JSON can be written in several ways. One record must not
		// stand under two IDs, of which a lift ends only one.
		return nil, errors.New("its second line is not as it was written")
	}
	// From here on the file is what someone with the key wrote.
	var head struct {
		Format string `json:"kassett"`
	}
	if err := json.Unmarshal(file[:end], &head); err != nil {
		return nil, err
	}
	if head.Format != format {
		return nil, &kassett.Error{
			Kind: kassett.Invalid, Err: fmt.Errorf("its format is %.20q, only %s is known", head.Format, format),
			Hint: "use a newer Kassett",
		}
	}
	p := &payload{}
	if err := decodeStrict(file[:end], p); err != nil {
		return nil, err
	}
	if p.Repository != v.repository {
		return nil, fmt.Errorf("it is of the repository %.64q", p.Repository)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	p.ID = kassett.Hash(file)
	return p, nil
}

// decodeStrict reads one JSON value without unknown fields and nothing after it.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after it")
	}
	return nil
}
