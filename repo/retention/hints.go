// Package retention knows until when the files of a repository are retained by a
// storage with object lock, without asking for each: what it was told it keeps
// as hints. It extends retention, and says what may not be deleted yet.
package retention

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"kassett"
)

// hintWidth is the length of a hint in the file, in bytes:
// docs/formats/retention-hints.md.
const hintWidth = 1 + 32 + 8

// hintKind says what a hint is about: a [kassett.FileKind], or one of these.
type hintKind uint8

const (
	besideHint hintKind = 254 // a file beside the repository, by the SHA-256 of its name
	treeHint   hintKind = 255 // every pack that a tree and all below it need
)

// hintKey names what is retained.
type hintKey struct {
	kind hintKind
	id   kassett.ID
}

func (k hintKey) compare(o hintKey) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), k.id.Compare(o.id))
}

// fileHint returns the key of a file.
func fileHint(n kassett.StoredName) hintKey {
	if n.Beside != "" {
		return hintKey{besideHint, kassett.Hash([]byte(n.Beside))}
	}
	return hintKey{hintKind(n.Kind), n.ID}
}

// hint says until when something is retained at least, in Unix seconds.
type hint struct {
	hintKey
	until int64
}

// hints are what is known of retention without asking the storage. A hint that
// is missing costs a question. One that says too much would lose the guarantee,
// so whoever keeps the file seals it. The owner guards it.
type hints struct {
	base  []hint // sorted; never changed
	fresh map[hintKey]int64
}

// get returns until when k is retained at least; 0 when that is not known.
func (h *hints) get(k hintKey) int64 {
	until := h.fresh[k]
	if i, ok := slices.BinarySearchFunc(h.base, k, func(a hint, k hintKey) int { return a.compare(k) }); ok {
		until = max(until, h.base[i].until)
	}
	return until
}

// note remembers until when k is retained at least.
func (h *hints) note(k hintKey, until int64) {
	if h.fresh == nil {
		h.fresh = make(map[hintKey]int64)
	}
	h.fresh[k] = max(until, h.fresh[k])
}

// forget drops everything.
func (h *hints) forget() { *h = hints{} }

// take takes in a file of hints, beside what is known.
func (h *hints) take(b []byte) error {
	all, err := decodeHints(b)
	if err != nil {
		return err
	}
	h.base = mergeHints(h.base, all, 0)
	return nil
}

// file returns all that is known, without what has ended by now.
func (h *hints) file(now int64) []byte {
	fresh := make([]hint, 0, len(h.fresh))
	for k, until := range h.fresh {
		fresh = append(fresh, hint{k, until})
	}
	slices.SortFunc(fresh, func(a, b hint) int { return a.compare(b.hintKey) })
	h.base, h.fresh = mergeHints(h.base, fresh, now), nil
	return encodeHints(h.base)
}

// mergeHints merges two sorted lists, and leaves out what ends before now.
func mergeHints(a, b []hint, now int64) []hint {
	all := make([]hint, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		var next hint
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].compare(b[0].hintKey) < 0:
			next, a = a[0], a[1:]
		case len(a) == 0 || a[0].compare(b[0].hintKey) > 0:
			next, b = b[0], b[1:]
		default:
			next = hint{a[0].hintKey, max(a[0].until, b[0].until)}
			a, b = a[1:], b[1:]
		}
		if next.until >= now {
			all = append(all, next)
		}
	}
	return all
}

// encodeHints returns the bytes of a file: one hint after the other.
func encodeHints(all []hint) []byte {
	b := make([]byte, 0, len(all)*hintWidth)
	for _, h := range all {
		b = append(append(b, byte(h.kind)), h.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(h.until)) //nolint:gosec // the bits stay
	}
	return b
}

// decodeHints reads a file.
func decodeHints(b []byte) ([]hint, error) {
	bad := func(why string) ([]hint, error) {
		return nil, &kassett.Error{Op: "read retention hints", Kind: kassett.Corrupt, Err: errors.New(why)}
	}
	if len(b)%hintWidth != 0 {
		return bad(fmt.Sprintf("%d bytes are no whole number of hints", len(b)))
	}
	all := make([]hint, len(b)/hintWidth)
	for i := range all {
		h := b[i*hintWidth:][:hintWidth]
		all[i].kind = hintKind(h[0])
		copy(all[i].id[:], h[1:])
		all[i].until = int64(binary.LittleEndian.Uint64(h[33:])) //nolint:gosec // the bits stay
		if i > 0 && all[i-1].compare(all[i].hintKey) >= 0 {
			return bad("its hints are in no order")
		}
	}
	return all, nil
}
