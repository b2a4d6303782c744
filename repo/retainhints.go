package repo

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"slices"

	"kassett"
	"kassett/repo/seal"
)

// The file of retention hints: docs/formats/retention-hints.md.
const (
	hintMagic  = "kassett retain1\n"
	hintSalt   = 32
	hintHeader = len(hintMagic) + hintSalt + 8
	hintWidth  = 1 + 32 + 8
	hintInfo   = "kassett retention hints"
)

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
// so the file carries a tag under the master key. The owner guards it.
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

// read takes in a file of hints, beside what is known.
func (h *hints) read(path string, key *seal.Key) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	all, err := decodeHints(b, key)
	if err != nil {
		return err
	}
	h.base = mergeHints(h.base, all, 0)
	return nil
}

// save writes all that is known into a file, together with what others have
// written into it meanwhile, and without what has ended by now.
func (h *hints) save(path string, key *seal.Key, now int64) error {
	// A file that is damaged by now is replaced.
	_ = h.read(path, key)
	fresh := make([]hint, 0, len(h.fresh))
	for k, until := range h.fresh {
		fresh = append(fresh, hint{k, until})
	}
	slices.SortFunc(fresh, func(a, b hint) int { return a.compare(b.hintKey) })
	h.base, h.fresh = mergeHints(h.base, fresh, now), nil
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "retained-*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(encodeHints(h.base, key))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
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

// encodeHints returns the bytes of a file: magic ‖ salt ‖ count ‖ hints ‖ tag.
func encodeHints(all []hint, key *seal.Key) []byte {
	b := make([]byte, hintHeader, hintHeader+len(all)*hintWidth+sha256.Size)
	salt := b[copy(b, hintMagic):][:hintSalt]
	_, _ = rand.Read(salt) // never fails: it ends the program instead
	binary.LittleEndian.PutUint64(b[hintHeader-8:], uint64(len(all)))
	for _, h := range all {
		b = append(append(b, byte(h.kind)), h.id[:]...)
		b = binary.LittleEndian.AppendUint64(b, uint64(h.until)) //nolint:gosec // the bits stay
	}
	return hintTag(b, salt, key).Sum(b)
}

// hintTag returns the HMAC of a file up to its tag.
func hintTag(b, salt []byte, key *seal.Key) hash.Hash {
	mac := hmac.New(sha256.New, key.Subkey(hintInfo, salt))
	_, _ = mac.Write(b) // a hash takes everything
	return mac
}

// decodeHints reads a file.
func decodeHints(b []byte, key *seal.Key) ([]hint, error) {
	bad := func(why string) ([]hint, error) {
		return nil, &kassett.Error{Op: "read retention hints", Kind: kassett.Corrupt, Err: errors.New(why)}
	}
	if len(b) < hintHeader+sha256.Size || string(b[:len(hintMagic)]) != hintMagic {
		return bad("it is no such file")
	}
	body, tag := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(hintTag(body, body[len(hintMagic):][:hintSalt], key).Sum(nil), tag) {
		return bad("its tag does not fit")
	}
	n := binary.LittleEndian.Uint64(body[hintHeader-8:])
	body = body[hintHeader:]
	if uint64(len(body)) != n*hintWidth || len(body)%hintWidth != 0 {
		return bad(fmt.Sprintf("it has %d bytes for %d hints", len(body), n))
	}
	all := make([]hint, n)
	for i := range all {
		h := body[i*hintWidth:][:hintWidth]
		all[i].kind = hintKind(h[0])
		copy(all[i].id[:], h[1:])
		all[i].until = int64(binary.LittleEndian.Uint64(h[33:])) //nolint:gosec // the bits stay
		if i > 0 && all[i-1].compare(all[i].hintKey) >= 0 {
			return bad("its hints are in no order")
		}
	}
	return all, nil
}

// hintFile names the file for one place of a repository: copies elsewhere have
// the same ID, and are retained in their own way.
func hintFile(cacheDir, repository string, place kassett.ID) string {
	if cacheDir == "" {
		return ""
	}
	return filepath.Join(cacheDir, repository, "retained-"+place.Short())
}
