// Package seal encrypts and authenticates as restic's repository format does:
// AES-256 in counter mode, and Poly1305-AES over the ciphertext. Keys of other
// purposes are derived from the same secret.
//
// It may import the root package.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/poly1305" //nolint:staticcheck // the format's MAC is Poly1305-AES; there is no other

	"kassett"
)

// Lengths of the sealed form, in bytes:
//
//	┌────────┬──────────────────────────┬─────────┐
//	│ IV 16  │ AES-256-CTR ciphertext n │ MAC 16  │
//	└────────┴──────────────────────────┴─────────┘
const (
	ivSize  = aes.BlockSize
	macSize = poly1305.TagSize
)

// Overhead is what sealing adds, in bytes: the IV in front, the MAC behind.
const Overhead = ivSize + macSize

// KeySize is the length of the secret of one Key: 32 bytes for AES-256,
// 16 for the AES-128 that makes one-time MAC keys (k), 16 for Poly1305 (r).
const KeySize = 32 + 16 + 16

// ErrSeal is the error, or within it, when a seal does not fit.
var ErrSeal = errors.New("the seal does not fit: wrong key or changed bytes")

// Key seals and opens. It is safe for many goroutines.
type Key struct {
	secret  [KeySize]byte // encrypt ‖ k ‖ r
	encrypt cipher.Block  // AES-256
	mac     cipher.Block  // AES-128 under k
}

// NewKey makes a key of 64 bytes: encrypt ‖ k ‖ r. A part that is all zero
// is refused: it is what a lost or cut key looks like.
func NewKey(secret []byte) (*Key, error) {
	k := &Key{}
	if copy(k.secret[:], secret) != KeySize || len(secret) != KeySize {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(secret), KeySize)
	}
	if slices.ContainsFunc([][]byte{secret[:32], secret[32:48], secret[48:]}, allZero) {
		return nil, errors.New("a part of the key is all zero")
	}
	var err error
	if k.encrypt, err = aes.NewCipher(k.secret[:32]); err != nil {
		return nil, err
	}
	k.mac, err = aes.NewCipher(k.secret[32:48])
	return k, err
}

// RandomKey makes a new master key.
func RandomKey() (*Key, error) {
	var secret [KeySize]byte
	_, _ = rand.Read(secret[:]) // never fails: it ends the program instead
	return NewKey(secret[:])
}

// masterKeyJSON is how a key file holds the master key, sealed.
type masterKeyJSON struct {
	MAC struct {
		K []byte `json:"k"`
		R []byte `json:"r"`
	} `json:"mac"`
	Encrypt []byte `json:"encrypt"`
}

// Secret returns the secret that the key was made of, which must not be changed.
func (k *Key) Secret() []byte { return k.secret[:] }

// Equal reports, in constant time, whether both are the same key.
func (k *Key) Equal(o *Key) bool { return subtle.ConstantTimeCompare(k.secret[:], o.secret[:]) == 1 }

// Marshal returns the secret as the JSON in a key file, where it is sealed.
func (k *Key) Marshal() ([]byte, error) {
	var m masterKeyJSON
	m.Encrypt, m.MAC.K, m.MAC.R = k.secret[:32], k.secret[32:48], k.secret[48:]
	return json.Marshal(&m)
}

// UnmarshalKey reads what [Key.Marshal] wrote.
func UnmarshalKey(b []byte) (*Key, error) {
	var m masterKeyJSON
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m.Encrypt) != 32 || len(m.MAC.K) != 16 || len(m.MAC.R) != 16 {
		return nil, fmt.Errorf("parts of %d, %d and %d bytes, want 32, 16 and 16",
			len(m.Encrypt), len(m.MAC.K), len(m.MAC.R))
	}
	return NewKey(slices.Concat(m.Encrypt, m.MAC.K, m.MAC.R))
}

// Seal appends plain, sealed, to dst and returns the longer slice: [Overhead]
// bytes more than plain. The memory of plain and of what is appended must not
// overlap.
func (k *Key) Seal(dst, plain []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, len(plain)+Overhead)[:start+len(plain)+Overhead]
	k.SealTo(Pieces{dst[start:]}, plain)
	return dst
}

// SealTo fills room, which has [Overhead] bytes more than plain, with plain
// sealed.
func (k *Key) SealTo(room Pieces, plain []byte) {
	iv := room.front(ivSize)
	for first := true; first || allZero(iv); first = false {
		_, _ = rand.Read(iv) // never fails: it ends the program instead
	}
	once := k.onceKey(iv)
	mac := poly1305.New(&once)
	stream := cipher.NewCTR(k.encrypt, iv)
	end := ivSize + len(plain)
	room.each(0, ivSize, fillFrom(iv))
	room.each(ivSize, end, func(text []byte) {
		stream.XORKeyStream(text, plain[:len(text)])
		plain = plain[len(text):]
		_, _ = mac.Write(text) // never fails
	})
	var tag [macSize]byte
	room.each(end, end+macSize, fillFrom(mac.Sum(tag[:0])))
}

// Open appends the plaintext of sealed to dst and returns the longer slice. The
// seal is checked, in constant time, before anything is decrypted; one that
// does not fit is a [kassett.Corrupt] error. To open in place, let dst be
// sealed[16:16]; otherwise the two must not overlap.
func (k *Key) Open(dst, sealed []byte) ([]byte, error) { return k.OpenFrom(dst, Pieces{sealed}) }

// OpenFrom is open for sealed bytes in Pieces.
func (k *Key) OpenFrom(dst []byte, sealed Pieces) ([]byte, error) {
	stream, n, err := k.begin(sealed)
	if err != nil {
		return dst, err
	}
	at := len(dst)
	dst = slices.Grow(dst, n)[:at+n]
	sealed.each(ivSize, ivSize+n, func(text []byte) {
		stream.XORKeyStream(dst[at:], text)
		at += len(text)
	})
	return dst, nil
}

// Hash returns the SHA-256 of the plaintext of sealed. It checks the seal as
// open does, and takes no memory for the plaintext but scratch, which is used
// again and again.
func (k *Key) Hash(sealed Pieces, scratch []byte) (kassett.ID, error) {
	stream, n, err := k.begin(sealed)
	if err != nil {
		return kassett.ID{}, err
	}
	sum := sha256.New()
	sealed.each(ivSize, ivSize+n, func(text []byte) {
		for len(text) > 0 {
			plain := scratch[:min(len(scratch), len(text))]
			stream.XORKeyStream(plain, text[:len(plain)])
			sum.Write(plain)
			text = text[len(plain):]
		}
	})
	return kassett.ID(sum.Sum(nil)), nil
}

// begin checks a seal and returns what decrypts the text in it, and how long
// that is.
func (k *Key) begin(sealed Pieces) (stream cipher.Stream, n int, err error) {
	n = sealed.Len() - Overhead
	if n < 0 {
		return nil, 0, &kassett.Error{
			Op: "open sealed bytes", Kind: kassett.Corrupt,
			Err: fmt.Errorf("%d bytes are too few, want at least %d", n+Overhead, Overhead),
		}
	}
	var tag [macSize]byte
	iv := sealed.front(ivSize)
	if len(sealed[0]) < ivSize { // else it rests there, where others may be reading it
		sealed.each(0, ivSize, fillTo(iv))
	}
	sealed.each(ivSize+n, Overhead+n, fillTo(tag[:]))
	once := k.onceKey(iv)
	mac := poly1305.New(&once)
	sealed.each(ivSize, ivSize+n, func(text []byte) { _, _ = mac.Write(text) }) // never fails
	if allZero(iv) || !mac.Verify(tag[:]) {
		return nil, 0, &kassett.Error{Op: "open sealed bytes", Kind: kassett.Corrupt, Err: ErrSeal}
	}
	return cipher.NewCTR(k.encrypt, iv), n, nil
}

// Pieces are bytes that follow each other and rest in several places.
type Pieces [][]byte

// Len returns how many bytes there are.
func (p Pieces) Len() (n int) {
	for _, b := range p {
		n += len(b)
	}
	return n
}

// front returns the first n bytes where they rest when they rest in one place,
// else new memory for them.
func (p Pieces) front(n int) []byte {
	if len(p) > 0 && len(p[0]) >= n {
		return p[0][:n]
	}
	return make([]byte, n)
}

// Fill copies b, which has Len bytes, into the pieces.
func (p Pieces) Fill(b []byte) { p.each(0, len(b), fillFrom(b)) }

// each calls fn with what lies between two places, piece by piece.
func (p Pieces) each(from, to int, fn func([]byte)) {
	for _, b := range p {
		if low, high := max(from, 0), min(to, len(b)); low < high {
			fn(b[low:high])
		}
		from -= len(b)
		to -= len(b)
	}
}

// fillFrom returns a function that fills Pieces with b.
func fillFrom(b []byte) func([]byte) {
	return func(to []byte) { b = b[copy(to, b):] }
}

// fillTo returns a function that fills b with Pieces.
func fillTo(b []byte) func([]byte) {
	return func(from []byte) { b = b[copy(b, from):] }
}

// onceKey is the Poly1305 key of one message: r ‖ AES-128_k(IV). Poly1305
// itself clamps r.
func (k *Key) onceKey(iv []byte) (once [32]byte) {
	copy(once[:16], k.secret[48:])
	k.mac.Encrypt(once[16:], iv)
	return once
}

// Subkey derives a secret of 32 bytes for another purpose from the master key,
// by HKDF-SHA256 (RFC 5869). Different infos and salts give unrelated secrets.
func (k *Key) Subkey(info string, salt []byte) []byte {
	sub, err := hkdf.Key(sha256.New, k.secret[:], salt, info, 32)
	if err != nil {
		panic(err) // only for more than 255 times 32 bytes, or in FIPS mode for short secrets
	}
	return sub
}

func allZero(b []byte) bool {
	var or byte
	for _, c := range b {
		or |= c
	}
	return or == 0
}
