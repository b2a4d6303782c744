package repo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
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

// keySize is the length of the secret of one sealKey: 32 bytes for AES-256,
// 16 for the AES-128 that makes one-time MAC keys (k), 16 for Poly1305 (r).
const keySize = 32 + 16 + 16

var errSealed = errors.New("the seal does not fit: wrong key or changed bytes")

// sealKey seals and opens. It is safe for many goroutines.
type sealKey struct {
	secret  [keySize]byte // encrypt ‖ k ‖ r
	encrypt cipher.Block  // AES-256
	mac     cipher.Block  // AES-128 under k
}

// newSealKey makes a key of 64 bytes: encrypt ‖ k ‖ r. A part that is all zero
// is refused: it is what a lost or cut key looks like.
func newSealKey(secret []byte) (*sealKey, error) {
	k := &sealKey{}
	if copy(k.secret[:], secret) != keySize || len(secret) != keySize {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(secret), keySize)
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

// randomSealKey makes a new master key.
func randomSealKey() (*sealKey, error) {
	var secret [keySize]byte
	_, _ = rand.Read(secret[:]) // never fails: it ends the program instead
	return newSealKey(secret[:])
}

// masterKeyJSON is how a key file holds the master key, sealed.
type masterKeyJSON struct {
	MAC struct {
		K []byte `json:"k"`
		R []byte `json:"r"`
	} `json:"mac"`
	Encrypt []byte `json:"encrypt"`
}

func (k *sealKey) marshal() ([]byte, error) {
	var m masterKeyJSON
	m.Encrypt, m.MAC.K, m.MAC.R = k.secret[:32], k.secret[32:48], k.secret[48:]
	return json.Marshal(&m)
}

func unmarshalSealKey(b []byte) (*sealKey, error) {
	var m masterKeyJSON
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	if len(m.Encrypt) != 32 || len(m.MAC.K) != 16 || len(m.MAC.R) != 16 {
		return nil, fmt.Errorf("parts of %d, %d and %d bytes, want 32, 16 and 16",
			len(m.Encrypt), len(m.MAC.K), len(m.MAC.R))
	}
	return newSealKey(slices.Concat(m.Encrypt, m.MAC.K, m.MAC.R))
}

// seal appends plain, sealed, to dst and returns the longer slice: [Overhead]
// bytes more than plain. The memory of plain and of what is appended must not
// overlap.
func (k *sealKey) seal(dst, plain []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, len(plain)+Overhead)[:start+len(plain)+Overhead]
	iv := dst[start : start+ivSize]
	for first := true; first || allZero(iv); first = false {
		_, _ = rand.Read(iv) // never fails: it ends the program instead
	}
	text := dst[start+ivSize : start+ivSize+len(plain)]
	cipher.NewCTR(k.encrypt, iv).XORKeyStream(text, plain)

	var tag [macSize]byte
	once := k.onceKey(iv)
	poly1305.Sum(&tag, text, &once)
	copy(dst[start+ivSize+len(plain):], tag[:])
	return dst
}

// open appends the plaintext of sealed to dst and returns the longer slice. The
// seal is checked, in constant time, before anything is decrypted; one that
// does not fit is a [kassett.Corrupt] error. To open in place, let dst be
// sealed[16:16]; otherwise the two must not overlap.
func (k *sealKey) open(dst, sealed []byte) ([]byte, error) {
	if len(sealed) < Overhead {
		return dst, &kassett.Error{
			Op: "open sealed bytes", Kind: kassett.Corrupt,
			Err: fmt.Errorf("%d bytes are too few, want at least %d", len(sealed), Overhead),
		}
	}
	iv := sealed[:ivSize]
	text := sealed[ivSize : len(sealed)-macSize]
	tag := [macSize]byte(sealed[len(sealed)-macSize:])
	once := k.onceKey(iv)
	if allZero(iv) || !poly1305.Verify(&tag, text, &once) {
		return dst, &kassett.Error{Op: "open sealed bytes", Kind: kassett.Corrupt, Err: errSealed}
	}
	start := len(dst)
	dst = slices.Grow(dst, len(text))[:start+len(text)]
	cipher.NewCTR(k.encrypt, iv).XORKeyStream(dst[start:], text)
	return dst, nil
}

// onceKey is the Poly1305 key of one message: r ‖ AES-128_k(IV). Poly1305
// itself clamps r.
func (k *sealKey) onceKey(iv []byte) (once [32]byte) {
	copy(once[:16], k.secret[48:])
	k.mac.Encrypt(once[16:], iv)
	return once
}

// subkey derives a secret of 32 bytes for another purpose from the master key,
// by HKDF-SHA256 (RFC 5869). Different infos and salts give unrelated secrets.
func (k *sealKey) subkey(info string, salt []byte) []byte {
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
