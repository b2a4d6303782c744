package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"kassett"
)

// A pack is blobs, each sealed by itself, end to end from offset 0, and a
// sealed header behind them (restic's design document, "Pack Format"):
//
//	┌───────┬─────┬───────┬───────────────────────┬────────────────────┐
//	│ blob₁ │  …  │ blobₙ │ sealed header (n ≥ 1) │ its length, LE32   │
//	└───────┴─────┴───────┴───────────────────────┴────────────────────┘
//
// The header has one entry a blob; the offset follows from the order:
//
//	raw:   type 0 data, 1 tree ‖ sealed length LE32 ‖ id 32
//	zstd:  type 2 data, 3 tree ‖ sealed length LE32 ‖ plain length LE32 ‖ id 32
const (
	entryRaw     = 1 + 4 + 32
	entryZstd    = 1 + 4 + 4 + 32
	packFooter   = 4
	packOverhead = packFooter + Overhead // what a pack has beside blobs and entries

	// maxHeader bounds the sealed header, in bytes, as restic does.
	maxHeader = 16 << 20
	// headerGuess is how much of a pack's tail is read in the hope that it
	// has the whole header: enough for 800 blobs.
	headerGuess = 32 << 10
	// zstdBit of an entry's type says that the blob is compressed.
	zstdBit = 2
)

// entrySize returns the bytes that b takes in a pack's header.
func entrySize(b Blob) int {
	if b.Plain != 0 {
		return entryZstd
	}
	return entryRaw
}

// appendHeader appends the plaintext of the header of a pack of these blobs.
func appendHeader(dst []byte, blobs []Blob) []byte {
	for _, b := range blobs {
		if b.Plain != 0 {
			dst = append(dst, byte(b.Type)|zstdBit)
			dst = binary.LittleEndian.AppendUint32(dst, b.Length)
			dst = binary.LittleEndian.AppendUint32(dst, b.Plain)
		} else {
			dst = append(dst, byte(b.Type))
			dst = binary.LittleEndian.AppendUint32(dst, b.Length)
		}
		dst = append(dst, b.ID[:]...)
	}
	return dst
}

// decodeHeader reads the plaintext of a pack's header. body is the number of
// bytes in front of the sealed header: the blobs must fill it exactly.
func decodeHeader(plain []byte, body int64) ([]Blob, error) {
	blobs := make([]Blob, 0, len(plain)/entryRaw)
	var offset int64
	for len(plain) > 0 {
		kind := plain[0]
		if kind > byte(TreeBlob)|zstdBit {
			return nil, fmt.Errorf("entry %d has the unknown type %d", len(blobs), kind)
		}
		size := entryRaw
		if kind&zstdBit != 0 {
			size = entryZstd
		}
		if len(plain) < size {
			return nil, fmt.Errorf("entry %d is cut off", len(blobs))
		}
		b := Blob{
			BlobHandle: BlobHandle{Type: BlobType(kind &^ zstdBit), ID: kassett.ID(plain[size-32 : size])},
			Offset:     uint32(offset),
			Length:     binary.LittleEndian.Uint32(plain[1:]),
		}
		if kind&zstdBit != 0 {
			b.Plain = binary.LittleEndian.Uint32(plain[5:])
			if b.Plain == 0 {
				return nil, fmt.Errorf("entry %d is compressed and has length 0", len(blobs))
			}
		}
		if err := checkBlob(b); err != nil {
			return nil, fmt.Errorf("entry %d: %w", len(blobs), err)
		}
		offset += int64(b.Length)
		if offset > body {
			return nil, fmt.Errorf("entry %d ends at %d, after the %d bytes that the pack has", len(blobs), offset, body)
		}
		blobs = append(blobs, b)
		plain = plain[size:]
	}
	if offset != body {
		return nil, fmt.Errorf("blobs of %d bytes in a pack that has %d", offset, body)
	}
	if len(blobs) == 0 {
		return nil, errors.New("a pack without blobs")
	}
	return blobs, nil
}

// PackHeader reads from a pack itself what it holds, by offset. size is the
// pack's stored length in bytes, or negative when it is not known. A header
// that cannot be right is a [kassett.Corrupt] error.
func (r *Repository) PackHeader(ctx context.Context, pack kassett.ID, size int64) ([]Blob, error) {
	h := kassett.Handle{Kind: kassett.PackFile, ID: pack}
	if size < 0 {
		info, err := r.storage.Stat(ctx, h)
		if err != nil {
			return nil, fmt.Errorf("read header of pack %s: %w", pack, err)
		}
		size = info.Size
	}
	corrupt := func(err error) error {
		return &kassett.Error{
			Op: "read header of pack", What: pack.String(), Kind: kassett.Corrupt, Err: err,
			Hint: "run `kassett repair packs " + pack.String() + "`, or put the file back from a copy of the repository",
		}
	}
	const least = packOverhead + entryRaw + Overhead
	if size < least {
		return nil, corrupt(fmt.Errorf("%d bytes are too few for a pack, want at least %d", size, least))
	}
	failed := func(err error) error {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return corrupt(fmt.Errorf("it is shorter than the %d bytes it should have", size))
		}
		return fmt.Errorf("read header of pack %s: %w", pack, err)
	}
	tail, err := r.readRange(ctx, h, max(0, size-headerGuess), min(size, headerGuess))
	if err != nil {
		return nil, failed(err)
	}
	length := int64(binary.LittleEndian.Uint32(tail[len(tail)-packFooter:]))
	switch {
	case length < Overhead+entryRaw || length > maxHeader || length > size-packFooter-Overhead:
		return nil, corrupt(fmt.Errorf("the header cannot have %d bytes in a pack of %d", length, size))
	case length > int64(len(tail))-packFooter:
		if tail, err = r.readRange(ctx, h, size-packFooter-length, length+packFooter); err != nil {
			return nil, failed(err)
		}
	}
	sealed := tail[int64(len(tail))-packFooter-length : len(tail)-packFooter]
	plain, err := r.key.Open(nil, sealed)
	if err != nil {
		return nil, corrupt(err)
	}
	blobs, err := decodeHeader(plain, size-packFooter-length)
	if err != nil {
		return nil, corrupt(err)
	}
	return blobs, nil
}

// readRange reads n bytes of a stored file, n being bounded by the caller.
func (r *Repository) readRange(ctx context.Context, h kassett.Handle, off, n int64) (b []byte, err error) {
	rc, err := r.storage.Get(ctx, h, off, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	b = make([]byte, n)
	_, err = io.ReadFull(rc, b)
	return b, err
}
