// Package kassett is the vocabulary of the product: its nouns, its seams and
// its one error type.
//
// Below the engine everything rests on a [Storage]: a few immutable files in a
// directory, a bucket or another machine. Above it everything is read from a
// [Source] and given back to a [Target]. The packages that implement a seam
// know this package and nothing of each other; the ones that use a seam get
// the implementation handed over by cmd/kassett.
//
// This package knows only the standard library, starts nothing and opens
// nothing. Every other package may import it.
package kassett

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// ID is a SHA-256: of the bytes of a stored file, or of the plaintext of a blob.
// The zero ID names nothing.
type ID [32]byte

// Hash returns the ID of b.
func Hash(b []byte) ID { return sha256.Sum256(b) }

// ParseID reads the 64 lower-case hexadecimal digits of an ID. Anything else,
// upper case included, is an error: it is not how the format names files.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("parse id %.80q: want %d hex digits, have %d bytes", s, 2*len(id), len(s))
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("parse id %q: %q is not a lower-case hex digit", s, c)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("parse id %q: %w", s, err)
	}
	return id, nil
}

// String returns the 64 lower-case hexadecimal digits of id.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first eight digits, for people.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs by their bytes.
func (id ID) Compare(o ID) int { return bytes.Compare(id[:], o[:]) }

// MarshalText writes id as [ID.String] does.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads what [ParseID] reads.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
