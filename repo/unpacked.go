package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"kassett"
)

// zstdMark is the first byte of an unpacked file that is compressed. An
// uncompressed one is JSON and begins with '{' or '['.
const zstdMark = 2

// maxNote bounds the small sealed files beside a repository, in bytes.
const maxNote = 64 << 10

// unpackedLimit bounds the plaintext of an unpacked file, in bytes, by kind. An
// index file of 50 000 blobs, where restic starts a new one, has about 10 MB; a
// snapshot grows with the paths named on its command line.
func unpackedLimit(k kassett.FileKind) int64 {
	switch k {
	case kassett.IndexFile:
		return 1 << 30
	case kassett.SnapshotFile:
		return 64 << 20
	}
	return 1 << 20
}

// SaveUnpacked seals an index, snapshot or lock file and stores it. What was
// sealed is opened again and compared before it leaves.
func (r *Repository) SaveUnpacked(ctx context.Context, k kassett.FileKind, plain []byte) (kassett.ID, error) {
	sealed, err := r.sealUnpacked(k, plain)
	if err != nil {
		return kassett.ID{}, fmt.Errorf("seal %s: %w", k, err)
	}
	h := kassett.Handle{Kind: k, ID: kassett.Hash(sealed)}
	return h.ID, r.put(ctx, h, kassett.BytesBody(sealed, h.ID))
}

// sealUnpacked returns the bytes to store.
func (r *Repository) sealUnpacked(k kassett.FileKind, plain []byte) ([]byte, error) {
	if int64(len(plain)) > unpackedLimit(k) {
		return nil, &kassett.Error{
			Op: "seal", What: k.String(), Kind: kassett.Invalid,
			Err: fmt.Errorf("%d bytes, at most %d could be read again", len(plain), unpackedLimit(k)),
		}
	}
	if len(plain) == 0 || plain[0] != '{' && plain[0] != '[' {
		return nil, &kassett.Error{Op: "seal", What: k.String(), Kind: kassett.Invalid, Err: errors.New("it is not JSON")}
	}
	body := plain
	if r.Config().Version >= 2 {
		if err := r.codec.start(r.options.Compression); err != nil {
			return nil, err
		}
		body = r.codec.compressUnpacked([]byte{zstdMark}, plain)
	}
	sealed := r.key.Seal(make([]byte, 0, len(body)+Overhead), body)
	back, err := r.openUnpacked(k, sealed)
	if err != nil || !bytes.Equal(back, plain) {
		return nil, &kassett.Error{
			Op: "verify what was sealed", Kind: kassett.Corrupt, Err: errors.Join(err, errNotSame),
			Hint: "this machine's memory or processor makes errors; test it before it backs up again",
		}
	}
	return sealed, nil
}

var errNotSame = errors.New("it does not open to the same bytes")

// LoadUnpacked returns the plaintext of an index, snapshot or lock file. Bytes
// that do not match the file's name or seal are a [kassett.Corrupt] error.
func (r *Repository) LoadUnpacked(ctx context.Context, k kassett.FileKind, id kassett.ID) ([]byte, error) {
	_, plain, err := r.loadUnpacked(ctx, kassett.Handle{Kind: k, ID: id})
	return plain, err
}

// loadUnpacked returns a file as it is stored, and its plaintext.
func (r *Repository) loadUnpacked(ctx context.Context, h kassett.Handle) (sealed, plain []byte, err error) {
	// A second look tells a fault of the way from a fault of the file.
	for second := false; ; second = true {
		if sealed, err = readWhole(ctx, r.storage, h, unpackedLimit(h.Kind)+Overhead+1); err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", h, err)
		}
		sum := kassett.Hash(sealed)
		if sum == h.ID {
			break
		}
		if second {
			return nil, nil, damagedFile(h, fmt.Errorf("its %d bytes have the hash %s", len(sealed), sum))
		}
	}
	if plain, err = r.openUnpacked(h.Kind, sealed); err != nil {
		return nil, nil, damagedFile(h, err)
	}
	return sealed, plain, nil
}

func damagedFile(h kassett.Handle, err error) error {
	return &kassett.Error{
		Op: "read", What: h.String(), Kind: kassett.Corrupt, Err: err,
		Hint: "run `kassett check`; put the file back from a copy of the repository or, if it was never yours, remove it as check says",
	}
}

// openUnpacked returns the plaintext of stored bytes.
func (r *Repository) openUnpacked(k kassett.FileKind, sealed []byte) ([]byte, error) {
	body, err := r.key.Open(nil, sealed)
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, errors.New("it is empty")
	}
	switch body[0] {
	case '{', '[':
		return body, nil
	case zstdMark:
		return r.unzip(k, body[1:])
	}
	return nil, fmt.Errorf("it begins with byte %#02x, which is neither JSON nor a known compression", body[0])
}

// unzip decompresses a file of kind k. A length that the frame itself announces
// is checked before memory for it is taken.
func (r *Repository) unzip(k kassett.FileKind, frame []byte) ([]byte, error) {
	if err := r.codec.start(r.options.Compression); err != nil {
		return nil, err
	}
	limit := unpackedLimit(k)
	var head zstd.Header
	if err := head.Decode(frame); err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	plain, size := []byte(nil), head.FrameContentSize
	if size <= uint64(limit) {
		var err error
		if plain, err = r.codec.decompress(nil, frame, -1); err != nil {
			return nil, err
		}
		size = uint64(len(plain))
	}
	if size > uint64(limit) {
		return nil, fmt.Errorf("decompress: it grows to more than %d bytes, no %s file is that long", limit, k)
	}
	return plain, nil
}

// Resolve returns the ID of the one file whose name begins with prefix, in
// lower-case hexadecimal digits. None is a [kassett.NotFound] error, several
// are [kassett.Invalid].
func (r *Repository) Resolve(ctx context.Context, k kassett.FileKind, prefix string) (kassett.ID, error) {
	what := k.String() + "/" + prefix
	if prefix == "" || strings.Trim(prefix, "0123456789abcdef") != "" {
		return kassett.ID{}, &kassett.Error{
			Op: "find", What: fmt.Sprintf("%.80q", what), Kind: kassett.Invalid,
			Err: errors.New("an ID has hexadecimal digits only"),
		}
	}
	if id, err := kassett.ParseID(prefix); err == nil {
		if _, err := r.storage.Stat(ctx, kassett.Handle{Kind: k, ID: id}); err != nil {
			return kassett.ID{}, fmt.Errorf("find %s: %w", what, err)
		}
		return id, nil
	}
	var found []kassett.ID
	for info, err := range r.List(ctx, k) {
		if err != nil {
			return kassett.ID{}, err
		}
		if strings.HasPrefix(info.ID.String(), prefix) {
			found = append(found, info.ID)
		}
	}
	switch len(found) {
	case 0:
		return kassett.ID{}, &kassett.Error{
			Op: "find", What: what, Kind: kassett.NotFound, Hint: fmt.Sprintf("check the ID; kassett list %s shows what is there", k),
		}
	case 1:
		return found[0], nil
	}
	return kassett.ID{}, &kassett.Error{
		Op: "find", What: what, Kind: kassett.Invalid,
		Err:  fmt.Errorf("%d begin like this: %s and %s among them", len(found), found[0], found[1]),
		Hint: "give more digits",
	}
}
