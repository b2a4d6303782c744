package repo

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"kassett"
)

// scanBuffer is how much of a pack is read at once, in bytes, so that a small
// blob costs no call.
const scanBuffer = 256 << 10

// packScanner reads blobs of packs as they are stored, for those that move or
// judge sealed bytes. [Repository.LoadBlobs] is for those that want content. A
// scanner keeps its buffers and is for one goroutine at a time.
type packScanner struct {
	r      *Repository
	in     *bufio.Reader
	sealed []byte
}

func (r *Repository) newPackScanner() *packScanner {
	return &packScanner{r: r, in: bufio.NewReaderSize(nil, scanBuffer)}
}

// blobFunc takes one blob that was read from a pack, with its bytes as stored,
// which are valid until it returns, or with the reason why it could not be read.
type blobFunc func(b Blob, sealed []byte, err error) error

// scan calls fn with each of blobs, which are in one pack, in order of their
// offsets; it sorts them. What cannot be read is tried a second time by itself.
// scan ends early when fn fails, with its error, or when ctx ends.
func (s *packScanner) scan(ctx context.Context, pack storedPack, blobs []Blob, fn blobFunc) error {
	slices.SortFunc(blobs, func(a, b Blob) int { return cmp.Compare(a.Offset, b.Offset) })
	for alone := false; len(blobs) > 0; {
		n := 1
		if !alone {
			n = spanLength(blobs)
		}
		done, fault, err := s.run(ctx, pack, blobs[:n], fn)
		if err != nil {
			return err
		}
		blobs = blobs[done:]
		switch {
		case fault == nil:
			alone = false
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !alone:
			alone = true
		default:
			if err := fn(blobs[0], nil, fault); err != nil {
				return err
			}
			blobs, alone = blobs[1:], false
		}
	}
	return nil
}

// run reads blobs with one Get. It returns how many it has given to fn, what
// kept it from reading the next one, and fn's error.
func (s *packScanner) run(ctx context.Context, pack storedPack, blobs []Blob, fn blobFunc) (done int, fault, err error) {
	last := blobs[len(blobs)-1]
	at, end := int64(blobs[0].Offset), int64(last.Offset)+int64(last.Length)
	cut := fmt.Errorf("pack %s has only %d bytes: %w", pack.id, pack.size, io.ErrUnexpectedEOF)
	if at >= pack.size {
		return 0, cut, nil
	}
	rc, err := s.r.storage.Get(ctx, kassett.Handle{Kind: kassett.PackFile, ID: pack.id}, at, min(end, pack.size)-at)
	if err != nil {
		return 0, err, nil
	}
	defer func() {
		if closeErr := rc.Close(); done < len(blobs) {
			fault = errors.Join(fault, closeErr)
		}
	}()
	s.in.Reset(rc)
	for _, b := range blobs {
		if int64(b.Offset)+int64(b.Length) > pack.size {
			return done, cut, nil
		}
		if _, err := s.in.Discard(int(int64(b.Offset) - at)); err != nil {
			return done, err, nil
		}
		if cap(s.sealed) > keepBuffers && b.Length <= keepBuffers {
			s.sealed = nil
		}
		if s.sealed, err = readSealed(s.in, s.sealed, int64(b.Length)); err != nil {
			return done, err, nil
		}
		at = int64(b.Offset) + int64(b.Length)
		if err := fn(b, s.sealed, nil); err != nil {
			return done, nil, err
		}
		done++
	}
	return done, nil, nil
}
