package search

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"kassett"
)

// saltSize is the length of what makes the key of each file its own.
const saltSize = 32

// maxPiece bounds one piece before it is sealed, in bytes.
const maxPiece = 1 << 30

// KeyFunc derives the key of one file, 32 bytes, from its salt.
type keyFunc func(salt []byte) []byte

// sealer seals and opens the pieces of one file with AES-256-GCM. The nonce is
// the number of the piece, so that none can stand in the place of another.
type sealer struct{ aead cipher.AEAD }

// newSalt returns a random salt.
func newSalt() []byte {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails: it ends the program instead
	return salt
}

func newSealer(key keyFunc, salt []byte) (*sealer, error) {
	block, err := aes.NewCipher(key(salt))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	return &sealer{aead}, err
}

func (s *sealer) nonce(piece uint64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, s.aead.NonceSize()-8), piece)
}

// seal compresses and seals a piece.
func (s *sealer) seal(dst, plain []byte, piece uint64) []byte {
	return s.aead.Seal(dst, s.nonce(piece), codec().enc.EncodeAll(plain, nil), nil)
}

// open appends the plaintext of a piece to dst.
func (s *sealer) open(dst, sealed []byte, piece uint64) ([]byte, error) {
	frame, err := s.aead.Open(nil, s.nonce(piece), sealed, nil)
	if err != nil {
		return dst, damaged(errors.New("the seal does not fit"))
	}
	plain, err := codec().dec.DecodeAll(frame, dst)
	if err != nil {
		return dst, damaged(err)
	}
	return plain, nil
}

// damaged is that a file of the index is not what was written: it is made anew.
func damaged(err error) error {
	return &kassett.Error{
		Op: opRead, Kind: kassett.Corrupt, Err: err,
		Hint: "it is made anew by the next search",
	}
}

func damagedf(format string, args ...any) error { return damaged(fmt.Errorf(format, args...)) }

// opRead is what an error of the index itself says was tried.
const opRead = "read search index"

// codecs compress and decompress, for many goroutines.
type codecs struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// codec makes the codecs when they are needed first: they take memory.
var codec = sync.OnceValue(func() codecs {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // only for options that make no sense
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxPiece), zstd.WithDecoderConcurrency(0))
	if err != nil {
		panic(err)
	}
	return codecs{enc, dec}
})
